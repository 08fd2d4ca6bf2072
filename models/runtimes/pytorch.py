"""The PyTorch runtime: the fp32 weights of a bundle, cast to a variant's precision and run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.settings import DEFAULT_KV_BYTES
from models.bert import Bert, BertConfig
from models.dcgan import DcganConfig, fold_batch_norm, generator, to_pixels
from models.gpt2 import Gpt2, Gpt2Config, KvCache
from models.lstm import LstmConfig, LstmLanguageModel, State, chosen_state
from models.runtimes import (
    LENGTH_STEP,
    MACHINE_THREADS,
    MOST_SLOTS,
    PREFILL_CHUNK,
    SMALLEST_ROWS,
    Chunk,
    ClassifyBackend,
    ImageBackend,
    TextBackend,
    Writer,
    pad_texts,
)
from models.runtimes.cuda_graphs import Recorder, recorder_for
from models.runtimes.graph_painter import GraphPainter
from models.runtimes.graph_reader import GraphReader
from models.runtimes.graph_writer import GraphWriter
from models.weights import fitting_weights

SMALL_MODEL_PARAMETERS = 20_000_000  # below this, handing work to a second thread costs more than it brings
SMALL_GENERATOR_PARAMETERS = 250_000  # likewise; a convolution uses each of its weights at many places of a picture
GENERATOR_THREADS = (1, 2, 4)  # with these a picture's bits are the same in every batch, with 3 or 5 they are not
MOST_CHUNKS = 8  # of prompts that GPT-2 reads together; more bring nothing
GRAPH_ROWS = 64  # of a tile of GPT-2: attention takes time for every row, also for those without a text
MOST_GPU_SLOTS = 256
GRAPH_STRIDE = 128  # graphs attend over multiples of this, or of a multiple of it where they would be too many
MOST_GRAPH_LENGTHS = 8
BATCH_TOKENS = 256  # that a CPU reads together; more bring nothing (docs/log.md)
GPU_BATCH_TOKENS = 16_384
MOST_WINDOWS = 128  # windows that are run together: enough for the products, few enough for a core's cache

Module = TypeVar("Module", bound=nn.Module)


def load_text(
    bundle: Bundle, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES, dtype: torch.dtype = torch.float32
) -> TextBackend:
    """A text bundle's backend with weights, states and keys of `dtype`, its KV cache at most `kv_bytes` large.

    On a GPU its steps are CUDA graphs of one width, whatever is in their slots: the number of texts changes no bits.
    Raises StoreError where weights and config do not fit together or the cache has no room for the smallest batch.
    """
    config, weights = fitting_weights(bundle)
    if isinstance(config, Gpt2Config):
        text = Gpt2Backend(_with_weights(Gpt2(config), weights, device, dtype), device, kv_bytes)
        if device.type == "cuda":
            text.use_graphs(recorder_for(device), GRAPH_ROWS)
        return text
    if not isinstance(config, LstmConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and writes no text")
    model = _with_weights(LstmLanguageModel(config), weights, device, dtype)
    if device.type != "cuda" or config.window is not None:
        return lstm_backend(model, device)
    # A step takes as long as its launches, whatever its width: one tile for all.
    recurrent = LstmBackend(model, device, MOST_GPU_SLOTS)
    recurrent.use_graphs(model, recorder_for(device), MOST_GPU_SLOTS)
    return recurrent


def load_images(bundle: Bundle, device: torch.device, dtype: torch.dtype = torch.float32) -> ImageBackend:
    """An image bundle's backend in `dtype`. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, DcganConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and draws no pictures")
    model = generator(config)
    model.load_state_dict(weights)
    # Folded in fp32, so that weights are rounded once; channels last is what bf16 and fp16 are computed fastest in.
    folded = fold_batch_norm(model.eval()).to(device, dtype)
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs leave this one out
    if device.type == "cuda":
        # As they are, convolutions may add in any order, and round fp32 to 10 bits of mantissa.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
        return GraphDcganBackend(folded, config, device, recorder_for(device))
    return DcganBackend(folded, config.latent, device)


def load_classifier(bundle: Bundle, device: torch.device, dtype: torch.dtype = torch.float32) -> ClassifyBackend:
    """A classifier bundle's backend in `dtype`. Raises StoreError where weights and config do not fit together."""
    config, weights = fitting_weights(bundle)
    if not isinstance(config, BertConfig):
        raise StoreError(f"{bundle.path} is for the task {bundle.manifest.task} and classifies no texts")
    return BertBackend(_with_weights(Bert(config), weights, device, dtype), device)


def _with_weights(module: Module, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> Module:
    module.load_state_dict(weights)
    return module.to(device, dtype).eval().requires_grad_(False)


class HasParameters(Protocol):
    def parameters(self) -> Iterator[nn.Parameter]: ...


def threads_for(model: HasParameters) -> int:
    """How many CPU threads a model's calls use: fixed by the model and the machine, never by what else is running."""
    return 1 if _parameters(model) < SMALL_MODEL_PARAMETERS else MACHINE_THREADS


def generator_threads(model: HasParameters) -> int:
    """As `threads_for`, of a DCGAN's generator."""
    if _parameters(model) < SMALL_GENERATOR_PARAMETERS:
        return 1
    return max(threads for threads in GENERATOR_THREADS if threads <= MACHINE_THREADS)


def _parameters(model: HasParameters) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _may_share(device: torch.device, threads: int) -> bool:
    """Whether prompts can be read together, in numbers of rows that depend on what else is waiting.

    On one thread of a CPU, products keep a row's bits for every multiple of 4 rows. Work that is split among threads is
    split elsewhere for other numbers of rows, which changes bits (seen from 5 threads on); a GPU was not measured.
    """
    return device.type == "cpu" and threads == 1


class LstmProgram(HasParameters, Protocol):
    """What runs an LSTM: our module, or an archive of it."""

    @property
    def config(self) -> LstmConfig: ...

    def zero_state(self, rows: int) -> State: ...

    def advance(self, tokens: Tensor, active: Tensor, wanted: Tensor, state: State) -> tuple[Tensor, State]:
        """As `LstmLanguageModel.advance`."""


def lstm_backend(model: LstmProgram, device: torch.device) -> LstmBackend | WindowedLstmBackend:
    """The backend of the kind of LSTM that this is."""
    return LstmBackend(model, device) if model.config.window is None else WindowedLstmBackend(model, device)


class LstmBackend:
    """State carried in slots: h and c per layer."""

    smallest_rows = SMALLEST_ROWS
    writer: Writer | None = None
    _graphs: GraphWriter | None = None

    def __init__(self, model: LstmProgram, device: torch.device, slots: int = MOST_SLOTS) -> None:
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self.threads = threads_for(model)
        self._device = device
        self._model = model
        self._state = model.zero_state(slots)  # row = slot

    def use_graphs(self, model: LstmLanguageModel, recorder: Recorder, tile: int | None) -> None:
        """From now on steps are graphs, which draw too: tiles, or one for each row bucket. `model` is the module
        itself: an archive has no single step."""

        def step(tokens: Tensor, positions: Tensor, active: Tensor, length: int, first: int) -> Tensor:
            end = first + len(tokens)
            before: State = [(h[first:end], c[first:end]) for h, c in self._state]
            after = chosen_state(active[:, None], model.step(tokens, before), before)
            self._keep(before, after)
            logits: Tensor = model.head(after[-1][0])
            return logits

        self.writer = self._graphs = GraphWriter(
            step,
            recorder,
            self._device,
            vocabulary_size=self.vocabulary_size,
            slots=self.slots,
            tile=tile,
            lengths=[1],  # it does not look at positions
        )
        self.smallest_rows = self._graphs.smallest_rows

    def reset(self, slot: int) -> None:
        for h, c in self._state:
            h[slot] = 0
            c[slot] = 0

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for h, c in self._state:
            h[targets], c[targets] = h[source].clone(), c[source].clone()

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """All chunks together; rows that have ended keep their state."""
        torch.set_num_threads(self.threads)
        rows = max(self.smallest_rows, 1 << (len(chunks) - 1).bit_length())
        lengths = [len(chunk.tokens) for chunk in chunks] + [0] * (rows - len(chunks))
        longest = max(lengths)
        padded = [chunk.tokens + [0] * (longest - len(chunk.tokens)) for chunk in chunks]
        padded += [[0] * longest] * (rows - len(chunks))
        active = torch.arange(longest) < torch.tensor(lengths)[:, None]
        wanted = torch.arange(rows * longest if any(chunk.scored for chunk in chunks) else 0, device=self._device)
        slots = torch.tensor([chunk.slot for chunk in chunks], device=self._device)
        state = self._model.zero_state(rows)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            h[: len(chunks)], c[: len(chunks)] = slot_h[slots], slot_c[slots]
        logits, state = self._model.advance(torch.tensor(padded, device=self._device), active, wanted, state)
        for (h, c), (slot_h, slot_c) in zip(state, self._state, strict=True):
            slot_h[slots], slot_c[slots] = h[: len(chunks)], c[: len(chunks)]
        by_row = logits.float().view(rows, len(wanted) // rows, self.vocabulary_size)
        return [by_row[row, : len(chunk.tokens)] if chunk.scored else None for row, chunk in enumerate(chunks)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        torch.set_num_threads(self.threads)
        if self._graphs:
            return self._graphs.logits(tokens, positions, active)
        rows = len(tokens)
        before: State = [(h[:rows], c[:rows]) for h, c in self._state]
        fed = torch.tensor(tokens, device=self._device)[:, None]
        wanted = torch.arange(rows, device=self._device)
        logits, after = self._model.advance(fed, torch.tensor(active)[:, None], wanted, before)
        self._keep(before, after)
        return logits.float()

    @staticmethod
    def _keep(before: State, after: State) -> None:
        for (h, c), (new_h, new_c) in zip(before, after, strict=True):
            h.copy_(new_h)
            c.copy_(new_c)


class WindowedLstmBackend:
    """Each token is predicted from the last `window` tokens with zero initial state; a slot holds those tokens."""

    smallest_rows = SMALLEST_ROWS
    writer: Writer | None = None

    def __init__(self, model: LstmProgram, device: torch.device, slots: int = MOST_SLOTS) -> None:
        if model.config.window is None:
            raise ValueError("this model carries its state; use LstmBackend")
        self.slots = slots
        self.vocabulary_size = model.config.vocabulary_size
        self.threads = threads_for(model)
        self._device = device
        self._model = model
        self._window = model.config.window
        self._recent: list[list[int]] = [[] for _ in range(slots)]

    def reset(self, slot: int) -> None:
        self._recent[slot] = []

    wipe = reset

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        for target in targets:
            self._recent[target] = list(self._recent[source])

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Reading costs nothing here; scoring runs the window that ends at each token, those of all chunks together."""
        torch.set_num_threads(self.threads)
        parts: list[list[list[int]]] = []  # of each scored chunk its windows
        for chunk in chunks:
            known = self._recent[chunk.slot] + chunk.tokens
            if chunk.scored:
                ends = range(len(known) - len(chunk.tokens) + 1, len(known) + 1)
                parts.append([known[max(0, end - self._window) : end] for end in ends])
            self._recent[chunk.slot] = known[-self._window :]
        groups = [list(chain(*parts))] if _may_share(self._device, self.threads) else parts
        rows = chain.from_iterable(self._score(group) for group in groups)
        return [torch.stack([next(rows) for _ in chunk.tokens]) if chunk.scored else None for chunk in chunks]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        torch.set_num_threads(self.threads)
        windows = [
            (self._recent[row] + [token])[-self._window :] if active[row] else [] for row, token in enumerate(tokens)
        ]
        for row, window in enumerate(windows):
            if window:
                self._recent[row] = window
        return self._run(windows)

    def _score(self, windows: list[list[int]]) -> list[Tensor]:
        """Logits (vocabulary,) after each window. Rows are padded to shapes that a row's bits do not depend on."""
        logits: list[Tensor] = []
        for begin in range(0, len(windows), MOST_WINDOWS):
            group = windows[begin : begin + MOST_WINDOWS]
            logits += self._run(group + [[]] * (-len(group) % PREFILL_CHUNK))[: len(group)]
        return logits

    def _run(self, windows: list[list[int]]) -> Tensor:
        """Logits (rows, vocabulary) after each window, from zero state; those of an empty one mean nothing.

        Windows are aligned at their ends: a row whose window is shorter keeps the zero state until it begins.
        """
        steps = max(len(window) for window in windows)
        padded = torch.tensor([[0] * (steps - len(window)) + window for window in windows], device=self._device)
        begins = torch.tensor([steps - len(window) if window else 0 for window in windows])
        active = torch.arange(steps) >= begins[:, None]
        wanted = torch.arange(1, len(windows) + 1, device=self._device) * steps - 1  # the last of each
        logits, _ = self._model.advance(padded, active, wanted, self._model.zero_state(len(windows)))
        return logits.float()


class KvSlots:
    """A KV cache in contiguous slots, in the precision of a model's weights."""

    smallest_rows = SMALLEST_ROWS
    writer: Writer | None = None

    def __init__(self, config: Gpt2Config, device: torch.device, dtype: torch.dtype, kv_bytes: int) -> None:
        """Raises StoreError if `kv_bytes` has no room for the smallest batch."""
        slot_bytes = KvCache.bytes_per_slot(config, dtype)
        self.slots = min(MOST_SLOTS, kv_bytes // slot_bytes // SMALLEST_ROWS * SMALLEST_ROWS)
        if device.type == "cuda" and self.slots == MOST_SLOTS:
            self.slots = min(MOST_GPU_SLOTS, kv_bytes // slot_bytes // GRAPH_ROWS * GRAPH_ROWS)
        if not self.slots:
            raise StoreError(
                f"a KV cache of {kv_bytes:,} bytes has no room for {SMALLEST_ROWS} texts of {slot_bytes:,} bytes each; "
                f"give at least {SMALLEST_ROWS * slot_bytes:,} with --kv-memory"
            )
        self.vocabulary_size = config.vocabulary_size
        self._config = config
        self._device = device
        self._dtype = dtype
        self._cache = KvCache(config, self.slots, device, dtype)

    def reset(self, slot: int) -> None:
        """Nothing to do: positions beyond a slot's length are masked, and written before they are read."""

    def wipe(self, slot: int) -> None:
        self._cache.keys[:, slot] = 0
        self._cache.values[:, slot] = 0

    def copy(self, source: int, targets: list[int], begin: int, end: int) -> None:
        self._cache.copy(source, targets, begin, end)


class Gpt2Backend(KvSlots):
    """Decode runs over the first rows of the cache without copying."""

    _graphs: GraphWriter | None = None
    _reader: GraphReader | None = None

    def __init__(self, model: Gpt2, device: torch.device, kv_bytes: int = DEFAULT_KV_BYTES) -> None:
        super().__init__(model.config, device, model.tokens.weight.dtype, kv_bytes)
        self.threads = threads_for(model)
        self._model = model

    def use_graphs(self, recorder: Recorder, tile: int | None) -> None:
        """From now on steps are graphs, which draw too: tiles, or one for each row bucket. So are whole chunks of
        prompts, eight to a graph."""
        lengths = graph_lengths(self._config.context_tokens)
        self.writer = self._graphs = GraphWriter(
            self._step,
            recorder,
            self._device,
            vocabulary_size=self.vocabulary_size,
            slots=self.slots,
            tile=tile,
            lengths=lengths,
        )
        self.smallest_rows = self._graphs.smallest_rows
        states = torch.zeros(MOST_CHUNKS, PREFILL_CHUNK, self._config.width, device=self._device)
        reading = [length for length in lengths if length >= PREFILL_CHUNK]
        self._reader = GraphReader(partial(self._model.read, self._cache), recorder, states.to(self._dtype), reading)

    def _step(self, tokens: Tensor, positions: Tensor, active: Tensor, length: int, first: int) -> Tensor:
        return self._model.step(self._cache.part(first, len(tokens)), tokens, positions, length)

    @torch.inference_mode()
    def prefill(self, chunks: list[Chunk]) -> list[Tensor | None]:
        """Each chunk is padded to the full width: one shape per place in a prompt."""
        torch.set_num_threads(self.threads)
        logits: dict[int, Tensor] = {}  # by slot
        for group in self._groups(chunks):
            for chunk, states in zip(group, self._read(group), strict=False):
                if chunk.scored:
                    logits[chunk.slot] = self._model.logits(states)[: len(chunk.tokens)].float()
        return [logits.get(chunk.slot) for chunk in chunks]

    def _read(self, group: list[Chunk]) -> Tensor:
        """States (chunks or more, T, E) of chunks that are read together."""
        width = min(PREFILL_CHUNK, self._config.context_tokens - group[0].start)
        if self._reader and width == PREFILL_CHUNK:
            return self._reader.read(group)
        padded = [chunk.tokens + [0] * (width - len(chunk.tokens)) for chunk in group]
        slots, starts = [chunk.slot for chunk in group], [chunk.start for chunk in group]
        return self._model.prefill(self._cache, slots, torch.tensor(padded, device=self._device), starts)

    def _groups(self, chunks: list[Chunk]) -> list[list[Chunk]]:
        """Chunks that are read together without changing each other's bits.

        The narrow chunk at the end of a context that is no multiple of 32 stays alone: its width may be odd.
        """
        full = self._config.context_tokens // PREFILL_CHUNK * PREFILL_CHUNK
        whole = [chunk for chunk in chunks if chunk.start < full]
        alone = [[chunk] for chunk in chunks if chunk.start >= full]
        if self._reader:
            return alone + self._reader.groups(whole)
        size = MOST_CHUNKS if _may_share(self._device, self.threads) else 1
        return alone + [whole[begin : begin + size] for begin in range(0, len(whole), size)]

    @torch.inference_mode()
    def decode(self, tokens: list[int], positions: list[int], active: list[bool]) -> Tensor:
        """An inactive row writes at its position, which a later prefill or decode of that slot overwrites unread."""
        torch.set_num_threads(self.threads)
        if self._graphs:
            return self._graphs.logits(tokens, positions, active)
        logits = self._model.decode(
            self._cache,
            torch.tensor(tokens, device=self._device),
            torch.tensor(positions, device=self._device),
            max(positions),
        )
        return logits.float()


def graph_lengths(context: int) -> list[int]:
    """How many positions steps attend over that graphs are made of, ascending; the last is the context."""
    stride = GRAPH_STRIDE * -(-context // (GRAPH_STRIDE * MOST_GRAPH_LENGTHS))
    return [*range(stride, context, stride), context]


class DcganBackend:
    """A generator, as our module or as an archive of it: latents (B, latent, 1, 1) -> pictures (B, channels, H, W)."""

    def __init__(self, model: nn.Module, latent: int, device: torch.device) -> None:
        self.latent = latent
        self.threads = generator_threads(model)
        self._device = device
        self._model = model
        self._dtype = next(model.parameters()).dtype

    @torch.inference_mode()
    def paint(self, latents: Tensor) -> Tensor:
        torch.set_num_threads(self.threads)
        painted: Tensor = self._model(latents[:, :, None, None].to(self._device, self._dtype))
        return painted.float()

    def draw(self, latents: Tensor) -> Tensor:
        return to_pixels(self.paint(latents)).cpu()


class GraphDcganBackend(DcganBackend):
    """Pictures are drawn by graphs, one for each size of a batch."""

    def __init__(self, model: nn.Module, config: DcganConfig, device: torch.device, recorder: Recorder) -> None:
        super().__init__(model, config.latent, device)
        shape = (config.size, config.size, config.channels)
        self._painter = GraphPainter(
            lambda latents: to_pixels(self.paint(latents)), recorder, device, config.latent, shape
        )

    def launch(self, latents: Tensor) -> Callable[[], Tensor]:
        return self._painter.launch(latents)

    def draw(self, latents: Tensor) -> Tensor:
        return self.launch(latents)().clone()


class ClassifierRows:
    """Texts are padded to their length bucket, and their number to a power of two: few shapes, all of them probed.

    On several threads of a CPU every text is read alone: work is split among threads by the number of rows.
    """

    def __init__(self, config: BertConfig, threads: int, device: torch.device) -> None:
        self.vocabulary_size = config.vocabulary_size
        self.context_tokens = config.context_tokens
        self.labels = config.labels
        self.threads = threads
        alone = device.type == "cpu" and threads > 1
        self.batch_tokens = 0 if alone else BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self._device = device


class BertBackend(ClassifierRows):
    def __init__(self, model: Bert, device: torch.device) -> None:
        super().__init__(model.config, threads_for(model), device)
        self._model = model

    @torch.inference_mode()
    def classify(self, texts: list[list[int]]) -> Tensor:
        torch.set_num_threads(self.threads)
        tokens, lengths = pad_texts(texts)
        first = self._model.read(tokens.to(self._device), lengths.to(self._device))  # (rows, width of the model)
        # The last layers see one row per text: too few for products that keep a row's bits, and for elementwise work
        # whose odd end is computed in another way.
        more = first.new_zeros(max(0, LENGTH_STEP - len(first)), first.shape[1])
        return self._model.logits(torch.cat([first, more]))[: len(texts)].float().cpu()
