"""Classifiers, every variant beside a plain padded batch loop in `transformers`, in one run: no HTTP, no Redis, CPU.

    OMP_WAIT_POLICY=passive python benchmarks/labels.py [--quick] [--cases base,small] [--rounds 3] [--write FILE]

RoBERTa of random weights (speed does not depend on their values), drawn anew for the peer; the same texts and threads
for all, of 16, 64 and 256 tokens, and of lengths mixed as they come, from 16 to 256. Ours come as requests of 16 texts
each, which the engine batches as it likes; the peer reads 16 at a time, padded to the longest of them. Everybody takes
turns, each figure is the median over the rounds: texts per second. The last line is JSON.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from record import record  # type: ignore[import-not-found] # it lies beside this script

from contracts.bundle import GRAPHS, WEIGHTS
from contracts.requests import ClassifyRequest, Target, TokenisedText
from export.formats import Kind, Wishes, choose, write
from models.bert import Bert, BertConfig, RobertaConfig
from models.runtimes import ClassifyBackend
from models.runtimes.load import DTYPES
from models.runtimes.pytorch import BertBackend
from models.weights import write_safetensors
from workers.engines import Delta
from workers.engines.classify import ClassifyEngine

BATCH_TEXTS = 16  # of a request of ours, and of a batch of the peer
LENGTHS = (16, 64, 256)
TARGET = Target(model="benchmark", version=1, variant="pytorch:fp32")
PADDING = 1
LABELS = 24

Texts = list[list[int]]
Run = Callable[[Texts], object]


def of_ours(backend: ClassifyBackend) -> Callable[[Texts], dict[int, list[float]]]:
    """A run of our engine; the logits of each text."""
    engine = ClassifyEngine(backend)

    def run(texts: Texts) -> dict[int, list[float]]:
        for begin in range(0, len(texts), BATCH_TEXTS):
            windows = [TokenisedText(windows=(tuple(text),)) for text in texts[begin : begin + BATCH_TEXTS]]
            engine.add(str(begin), ClassifyRequest(target=TARGET, texts=tuple(windows)))
        logits: dict[int, list[float]] = {}
        while engine.busy:
            for event in engine.collect(engine.launch()).events:
                if isinstance(event, Delta) and event.logits:
                    logits[int(event.job_id) + event.choice] = list(event.logits)
        return logits

    return run


def of_transformers(model: Any) -> Run:
    @torch.inference_mode()
    def run(texts: Texts) -> None:
        for begin in range(0, len(texts), BATCH_TEXTS):
            batch = texts[begin : begin + BATCH_TEXTS]
            longest = max(map(len, batch))
            tokens = torch.tensor([text + [PADDING] * (longest - len(text)) for text in batch])
            model(tokens, attention_mask=(tokens != PADDING).long()).logits.sigmoid()

    return run


def runs(config: BertConfig, folder: Path) -> Iterator[tuple[str, Run]]:
    """Every variant that an export makes here of itself, and the peer."""
    model = Bert(config).eval().requires_grad_(False)
    write_safetensors(model.state_dict(), folder / WEIGHTS)
    for kind in choose(config, Wishes(), sum(weight.numel() for weight in model.parameters())):
        yield kind.name, of_ours(_backend(config, model.state_dict(), folder, kind))
    peer = transformers.RobertaConfig(
        vocab_size=config.vocabulary_size,
        max_position_embeddings=config.position_rows,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.inner,
        id2label={label: str(label) for label in range(config.labels)},
    )
    yield "transformers fp32", of_transformers(transformers.RobertaForSequenceClassification(peer).eval())


def _backend(config: BertConfig, weights: dict[str, torch.Tensor], folder: Path, kind: Kind) -> ClassifyBackend:
    if kind.format == "onnx":
        from models.runtimes.onnx import OnnxBertBackend

        write(folder, config, weights, kind)
        return OnnxBertBackend(folder / GRAPHS[kind.precision], config)
    model = Bert(config).to(DTYPES[kind.precision]).eval().requires_grad_(False)
    model.load_state_dict(weights)
    return BertBackend(model, torch.device("cpu"))


def workloads(count: int, vocabulary_size: int) -> dict[str, Texts]:
    """So many texts of each length, and of lengths from the shortest to the longest, as many short as long ones."""
    span = torch.linspace(0, 1, count)[torch.randperm(count, generator=torch.Generator().manual_seed(1))]
    shortest, longest = LENGTHS[0], LENGTHS[-1]
    lengths = {str(length): [length] * count for length in LENGTHS}
    lengths["mixed"] = [round(shortest * (longest / shortest) ** share) for share in span.tolist()]
    return {
        name: [torch.randint(PADDING + 1, vocabulary_size, (length,)).tolist() for length in each]
        for name, each in lengths.items()
    }


def invariant(run: Callable[[Texts], Any], texts: Texts) -> bool:
    """Whether the first texts get the same bits alone as among all."""
    together = run(texts)
    return all(run([text])[0] == together[place] for place, text in enumerate(texts[:4]))


def measure(case: str, every: dict[str, Run], texts: Texts, rounds: int) -> list[dict[str, Any]]:
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for _ in range(rounds):
        for name, run in every.items():
            torch.set_num_threads(THREADS)  # small models of ours set it to 1 for themselves
            started = time.perf_counter()
            run(texts)
            seconds[name].append(time.perf_counter() - started)
    return [
        {
            "case": case,
            "engine": name,
            "texts_per_second": round(len(texts) / statistics.median(taken), 1),
            "best": round(len(texts) / min(taken), 1),
            "invariant": invariant(every[name], texts) if "transformers" not in name else None,
        }
        for name, taken in seconds.items()
    ]


def cases(chosen: list[str], quick: bool) -> Iterator[tuple[str, BertConfig, int]]:
    """Name, model and number of texts. `small` is what trains from scratch on two cores."""
    if quick:
        yield "tiny", _config(500, width=32, layers=2, heads=2), 6
        return
    if "base" in chosen:
        yield "base 12x768", _config(50265, width=768, layers=12, heads=12), 32
    if "small" in chosen:
        yield "small 1x128", _config(8192, width=128, layers=1, heads=4), 256


def _config(vocabulary_size: int, *, width: int, layers: int, heads: int) -> RobertaConfig:
    return RobertaConfig(
        vocabulary_size, 512, width, layers, heads, inner=4 * width, labels=LABELS, padding_token=PADDING
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs")
    parser.add_argument("--cases", default="base,small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{'case':14}{'tokens':>7}  {'engine':20}{'texts/s':>10}{'best':>10}  invariant")
    results = []
    for case, config, count in cases(options.cases.split(","), options.quick):
        with tempfile.TemporaryDirectory() as folder:
            every = dict(runs(config, Path(folder)))
            for tokens, texts in workloads(count, config.vocabulary_size).items():
                for result in measure(case, every, texts, 1 if options.quick else options.rounds):
                    known = {True: "yes", False: "NO", None: ""}[result["invariant"]]
                    speed = f"{result['texts_per_second']:>10}{result['best']:>10}"
                    print(f"{case:14}{tokens:>7}  {result['engine']:20}{speed}  {known}", flush=True)
                    results.append({"tokens": tokens, **result})
    record(options.write, ("torch", "transformers", "onnxruntime"), {"threads": THREADS, "results": results})


THREADS = torch.get_num_threads()

if __name__ == "__main__":
    main()
