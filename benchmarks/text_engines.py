"""Text engines, every variant beside its peers in one run: no HTTP, no Redis, CPU.

    OMP_WAIT_POLICY=passive python benchmarks/text_engines.py [--quick] [--cases gpt2,characters,words] [--rounds 3]
        [--write FILE]

Random weights of the real shapes (speed does not depend on their values), drawn anew for the peer; the same prompts'
lengths, numbers of new tokens and threads for all. GPT-2: top-k 50, top-p 0.95. LSTMs: temperature 1.
Everybody takes turns, each figure is the median over the rounds: tokens per second in all, prefill included. Floors are
measured on the spot. Peers that are not installed are named and left out. The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from record import record  # type: ignore[import-not-found] # it lies beside this script
from safetensors.torch import save_file
from torch import nn

from contracts.bundle import GRAPHS, WEIGHTS, WRITERS, Precision
from contracts.requests import Target, TextRequest
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes import Chunk, TextBackend
from models.runtimes.pytorch import Gpt2Backend, LstmBackend
from workers.engines.text import TextEngine

TARGET = Target(model="benchmark", version=1, variant="pytorch:fp32")
ONNX_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
KV_BYTES = 3 << 30

Run = Callable[[int], None]  # makes the case's number of new tokens for so many requests at once


@dataclass
class Case:
    name: str
    vocabulary_size: int
    prompt_tokens: int
    new_tokens: int
    sampling: dict[str, Any]
    runs: dict[str, Run] = field(default_factory=dict)
    invariant: dict[str, bool] = field(default_factory=dict)

    def engine(self, name: str, backend: TextBackend) -> None:
        """Adds one of our variants."""
        engine = TextEngine(backend, None, None)

        def run(rows: int) -> None:
            for row, prompt in enumerate(self.prompts(rows)):
                tokens, seed = tuple(prompt.tolist()), row
                request = TextRequest(
                    target=TARGET, seed=seed, prompt_tokens=tokens, max_tokens=self.new_tokens, **self.sampling
                )
                engine.add(str(row), request)
            while engine.busy:
                engine.collect(engine.launch())

        self.runs[name] = run
        self.invariant[name] = _is_invariant(backend, self.vocabulary_size)

    def prompts(self, rows: int) -> torch.Tensor:
        return torch.randint(0, self.vocabulary_size - 1, (rows, self.prompt_tokens))


def _is_invariant(backend: TextBackend, vocabulary_size: int) -> bool:
    """The same row, last in buckets of every size beside random neighbours, compared bit for bit."""
    text = torch.randint(0, vocabulary_size - 1, (40,)).tolist()
    seen = []
    rows = backend.smallest_rows
    while rows <= min(64, backend.slots):
        slot = rows - 1
        backend.reset(slot)
        backend.prefill([Chunk(slot, 0, text[:32])])
        backend.prefill([Chunk(slot, 32, text[32:39])])
        tokens = torch.randint(0, vocabulary_size - 1, (rows,)).tolist()
        tokens[slot] = text[39]
        seen.append(backend.decode(tokens, [7] * slot + [39], [True] * rows)[slot].clone())
        rows *= 2
    return all(torch.equal(logits, seen[0]) for logits in seen)


def gpt2(folder: Path, quick: bool) -> Case:
    width, layers, heads = (96, 2, 4) if quick else (768, 12, 12)
    config = Gpt2Config(50257, 1024, width, layers, heads)
    case = Case("GPT-2 tiny" if quick else "GPT-2 124M", 50257, 32, 8 if quick else 128, {"top_k": 50, "top_p": 0.95})
    model = Gpt2(config).eval().requires_grad_(False)
    case.engine("pytorch:fp32", Gpt2Backend(model, torch.device("cpu"), KV_BYTES))
    if _installed("onnx", "onnxruntime"):
        from export.onnx_gpt2 import write_onnx_gpt2
        from models.runtimes.onnx import OnnxGpt2Backend

        save_file(model.state_dict(), folder / WEIGHTS)
        for precision in ONNX_PRECISIONS:
            write_onnx_gpt2(folder, config, precision)
            backend = OnnxGpt2Backend(folder / GRAPHS[precision], config, KV_BYTES)
            case.engine(f"onnx:{precision}", backend)
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=width, n_layer=layers, n_head=heads)).eval()
    case.runs["transformers fp32"] = _transformers(case, peer)
    case.runs["transformers fp32, continuous batching"] = _continuous_batching(case, peer)
    if _installed("onnx", "onnxruntime"):
        from plain_onnx import Gpt2Step  # type: ignore[import-not-found] # it lies beside this script

        case.runs |= _plain_onnx(case, Gpt2Step(peer), folder)
    if _installed("ctranslate2"):
        for kind in ("float32", "int8"):
            case.runs[f"CTranslate2 {kind}"] = _ctranslate2(case, peer, folder / kind)
    return case


def _transformers(case: Case, model: Any) -> Run:
    @torch.inference_mode()
    def run(rows: int) -> None:
        prompts, new = case.prompts(rows), case.new_tokens
        model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=True,
            pad_token_id=50256,
            **case.sampling,
        )

    return run


def _continuous_batching(case: Case, model: Any) -> Run:
    """Its manager ends with each run, or it would go on using the processor; starting it takes about a second."""
    generation = transformers.GenerationConfig(
        max_new_tokens=case.new_tokens, do_sample=True, eos_token_id=-1, pad_token_id=50256, **case.sampling
    )
    room = transformers.generation.configuration_utils.ContinuousBatchingConfig(
        num_blocks=64, max_batch_tokens=1024, use_async_batching=False
    )

    def run(rows: int) -> None:
        prompts = case.prompts(rows).tolist()
        made = model.generate_batch(
            prompts, generation_config=generation, continuous_batching_config=room, warmup=False
        )
        if sum(len(each.generated_tokens) for each in made.values()) != rows * case.new_tokens:
            raise SystemExit("transformers' continuous batching did not make all tokens")

    return run


def _plain_onnx(case: Case, step: Any, folder: Path) -> dict[str, Run]:
    from plain_onnx import PlainLoop, plain_loops

    def run(loop: PlainLoop, rows: int) -> None:
        loop.write(case.prompts(rows), case.new_tokens, **case.sampling)

    loops = plain_loops(step, folder, torch.get_num_threads())
    return {f"onnxruntime loop {precision}": partial(run, loop) for precision, loop in loops.items()}


def _ctranslate2(case: Case, model: Any, folder: Path) -> Run:
    import ctranslate2
    from ctranslate2.converters.transformers import GPT2Loader

    spec = GPT2Loader().get_model_spec(model)
    spec.register_vocabulary([*map(str, range(50256)), "<|endoftext|>"])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "<|endoftext|>"  # noqa: S105
    spec.validate()
    spec.optimize(quantization=folder.name)
    folder.mkdir()
    spec.save(str(folder))
    threads = torch.get_num_threads()
    generator = ctranslate2.Generator(
        str(folder), device="cpu", inter_threads=1, intra_threads=threads, compute_type=folder.name
    )

    def run(rows: int) -> None:
        generator.generate_batch(
            [list(map(str, prompt)) for prompt in case.prompts(rows).tolist()],
            min_length=case.new_tokens,
            max_length=case.new_tokens,
            sampling_topk=case.sampling["top_k"],
            sampling_topp=case.sampling["top_p"],
            end_token=[],
            include_prompt_in_result=False,
        )

    return run


def lstm(name: str, config: LstmConfig, new_tokens: int, folder: Path) -> Case:
    case = Case(name, config.vocabulary_size, 8, new_tokens, {})
    model = LstmLanguageModel(config).eval().requires_grad_(False)
    case.engine("pytorch:fp32", LstmBackend(model, torch.device("cpu")))
    if _installed("onnx", "onnxruntime"):
        from export.onnx_lstm import write_onnx_lstm
        from models.runtimes.onnx import OnnxLstmBackend

        save_file(model.state_dict(), folder / WEIGHTS)
        for precision in ONNX_PRECISIONS:
            write_onnx_lstm(folder, config, precision)
            backend = OnnxLstmBackend(folder / GRAPHS[precision], config, writer_graph=folder / WRITERS[precision])
            case.engine(f"onnx:{precision}", backend)
    width = config.embedding or config.vocabulary_size
    peer = nn.LSTM(width, config.layers[0], len(config.layers), batch_first=True).eval()
    case.runs["eager nn.LSTM"] = _eager(case, model, peer)
    if _installed("onnx", "onnxruntime"):
        from plain_onnx import LstmStep

        case.runs |= _plain_onnx(case, LstmStep(peer, model.embedding, model.head), folder)
    return case


def _eager(case: Case, model: LstmLanguageModel, peer: nn.LSTM) -> Run:
    """The loop that people write: nn.LSTM, softmax, multinomial."""
    embed: Callable[[torch.Tensor], torch.Tensor] = model.embedding or (
        lambda tokens: nn.functional.one_hot(tokens, case.vocabulary_size).float()
    )

    @torch.inference_mode()
    def run(rows: int) -> None:
        hidden, state = peer(embed(case.prompts(rows)))
        for _ in range(case.new_tokens):
            drawn = torch.multinomial(model.head(hidden[:, -1]).softmax(-1), 1)
            hidden, state = peer(embed(drawn), state)

    return run


def _installed(*packages: str) -> bool:
    missing = [package for package in packages if find_spec(package) is None]
    for package in missing:
        print(f"{package} is not installed: left out")
    return not missing


def cases(chosen: list[str], folder: Path, quick: bool) -> Iterator[tuple[Case, list[int]]]:
    """Each case and the numbers of requests at once that it is measured with."""
    if "gpt2" in chosen:
        yield gpt2(folder, quick), [1, 8] if quick else [1, 8, 32]
    if "characters" in chosen:
        yield lstm("characters 2x128", LstmConfig(65, (128, 128)), 20 if quick else 400, folder), [4 if quick else 64]
    if "words" in chosen:
        words = LstmConfig(200, (32,) * 3, 10) if quick else LstmConfig(20_000, (512,) * 3, 100)
        yield lstm("words 100 -> 3x512 -> 20000", words, 8 if quick else 30, folder), [4 if quick else 64]


def measure(case: Case, rows: int, rounds: int) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in case.runs}
    for _ in range(rounds):
        for name, run in case.runs.items():
            torch.set_num_threads(THREADS)  # small models of ours set it to 1 for themselves
            started = time.perf_counter()
            run(rows)
            seconds[name].append(time.perf_counter() - started)
    return [
        {
            "case": case.name,
            "rows": rows,
            "engine": name,
            "tokens_per_second": round(rows * case.new_tokens / statistics.median(taken), 1),
            "best": round(rows * case.new_tokens / min(taken), 1),
            "invariant": case.invariant.get(name),
        }
        for name, taken in seconds.items()
    ]


def floors() -> dict[str, float]:
    """What this machine can read and multiply, best of ten."""
    memory, matrix = torch.zeros(64 << 20), torch.randn(2048, 2048)

    def best(work: Callable[[], object]) -> float:
        taken = []
        for _ in range(10):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
        return min(taken)

    read, multiply = best(memory.sum), best(lambda: matrix @ matrix)
    return {"read_gb_per_s": round(4 * memory.numel() / read / 1e9, 1), "fp32_gflops": round(2 * 2.048**3 / multiply)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, to see that it runs")
    parser.add_argument("--cases", default="gpt2,characters,words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    machine = {"threads": THREADS, **floors()}
    print(machine)
    print(f"{'case':30}{'rows':>5}  {'engine':22}{'tokens/s':>10}{'best':>10}  invariant")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case, sizes in cases(options.cases.split(","), Path(folder), options.quick):
            for rows in sizes:
                for result in measure(case, rows, 1 if options.quick else options.rounds):
                    known = {True: "yes", False: "NO", None: ""}[result["invariant"]]
                    speed = f"{result['tokens_per_second']:>10}{result['best']:>10}"
                    print(f"{case.name:30}{rows:>5}  {result['engine']:22}{speed}  {known}", flush=True)
                    results.append(result)
    record(options.write, ("torch", "onnxruntime", "transformers", "ctranslate2"), {**machine, "results": results})


THREADS = torch.get_num_threads()

if __name__ == "__main__":
    main()
