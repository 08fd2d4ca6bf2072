"""A few texts of a model in training, to see what it has learnt."""

from __future__ import annotations

from pathlib import Path

import torch

from contracts.tokenizers import Detokenizer, Tokenizer
from models.gpt2 import Gpt2, KvCache
from models.lstm import LstmLanguageModel
from models.runtimes import PREFILL_CHUNK, Chunk, TextBackend
from models.runtimes.pytorch import Gpt2Backend, lstm_backend
from models.sampling import BatchSampling, RowSampling, RowState, draw

SAMPLES = "samples"
SAMPLE_TOKENS = {"characters": 300, "words": 60, "bpe": 80}
TEMPERATURES = (0.5, 0.8, 1.0, 1.2)  # a text for each; backends keep four rows or more


def write_samples(
    module: Gpt2 | LstmLanguageModel, tokenizer: Tokenizer, prompt: str, folder: Path, epoch: int, seed: int
) -> str:
    """Also into samples/epoch-NNN.txt. The same weights write the same texts."""
    texts = draw_texts(module, tokenizer, prompt, seed=seed)
    lines = [f"[temperature {temperature}] {prompt}{text}" for temperature, text in texts.items()]
    path = folder / SAMPLES / f"epoch-{epoch:03}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return "\n".join(lines)


def draw_texts(
    module: Gpt2 | LstmLanguageModel, tokenizer: Tokenizer, prompt: str, tokens: int | None = None, seed: int = 0
) -> dict[float, str]:
    """By temperature, what a module in training goes on with behind the prompt."""
    tokens = tokens or SAMPLE_TOKENS[tokenizer.kind]
    encoded = tokenizer.encode(prompt)
    if isinstance(module, Gpt2):
        tokens = min(tokens, module.config.context_tokens - len(encoded))
    threads = torch.get_num_threads()
    module.eval()
    try:
        with torch.inference_mode():
            return _drawn(_backend(module), tokenizer, encoded, tokens, seed)
    finally:
        torch.set_num_threads(threads)  # backends set their own


def _backend(module: Gpt2 | LstmLanguageModel) -> TextBackend:
    device = next(module.parameters()).device
    if isinstance(module, Gpt2):
        slot_bytes = KvCache.bytes_per_slot(module.config, torch.float32)
        return Gpt2Backend(module, device, kv_bytes=len(TEMPERATURES) * slot_bytes)
    return lstm_backend(module, device)


def _drawn(backend: TextBackend, tokenizer: Tokenizer, prompt: list[int], tokens: int, seed: int) -> dict[float, str]:
    """All rows side by side."""
    rows = range(len(TEMPERATURES))
    for row in rows:
        backend.reset(row)
    *read, last = prompt
    for start in range(0, len(read), PREFILL_CHUNK):
        backend.prefill([Chunk(row, start, read[start : start + PREFILL_CHUNK]) for row in rows])
    states = [RowState(RowSampling(temperature=at, seed=seed, row=row), prompt) for row, at in enumerate(TEMPERATURES)]
    device = torch.device("cpu")
    sampling = BatchSampling(states, backend.vocabulary_size, device)
    written: list[list[int]] = [[] for _ in rows]
    fed = [last for _ in rows]
    for position in range(len(read), len(read) + tokens):
        logits = backend.decode(fed, [position for _ in rows], [True for _ in rows])
        fed = draw(logits.to(device), sampling).tolist()
        for row, token in enumerate(fed):
            written[row].append(token)
    return {at: _text(tokenizer, prompt, written[row]) for row, at in enumerate(TEMPERATURES)}


def _text(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> str:
    """Up to the end token; markers of fields by their names."""
    detokenizer = Detokenizer(tokenizer, prompt)
    if tokenizer.end_token in tokens:
        tokens = tokens[: tokens.index(tokenizer.end_token)]
    shown = [
        detokenizer.feed(token) if tokenizer.token_bytes(token) else tokenizer.marked_bytes(token).decode()
        for token in tokens
    ]
    return "".join(shown) + detokenizer.finish()
