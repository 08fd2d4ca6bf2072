"""Every format and precision of every family: parity, invariance, size and speed, as the table of docs/bundles.md.

    python benchmarks/bundles.py [--runs FOLDER] [--quick] [--write]

The demo's models are trained first, unless FOLDER holds their runs. Then all that `export/formats.py` knows is written,
measured as an export measures it, and timed beside pytorch:fp32: text as decode steps of 16 rows, pictures as batches
of 16, the fastest of several rounds that all variants take turns in. Run it on a quiet machine. The last line is JSON;
`--write` puts the table into the page. With `--quick` the models are hardly trained, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
import torch

from cli.models import PARITY_COLUMNS, parity_cells
from contracts.bundle import Bundle, Variant, variant_name
from contracts.labels import Labels
from contracts.store import Store
from contracts.tokenizers import WordPieceTokenizer
from export.draft import Draft
from export.formats import FAMILIES, FORMATS, REFERENCE, Wishes
from export.pt2 import load_pt2_classifier, load_pt2_images, load_pt2_text
from export.run import export_run
from models.bert import Bert, BertConfig
from models.runtimes.load import load_classifier, load_images, load_text
from models.runtimes.onnx import NOT_ON_CUDA
from training import demo

PAGE = Path(__file__).parents[1] / "docs" / "bundles.md"
BEGIN, END = "<!-- begin: python benchmarks/bundles.py --write -->", "<!-- end -->"
ROWS = 16
LENGTH = 32  # tokens of a text that is classified
CPU = torch.device("cpu")
CLASSIFIER = BertConfig(
    vocabulary_size=2000, context_tokens=128, width=128, layers=2, heads=4, inner=512, labels=28
)  # RoBERTa differs in how it counts positions alone

Round = Callable[[], None]


def train(folder: Path, quick: bool) -> None:
    if quick:
        demo.SYNOPSES, demo.HELD_OUT_SYNOPSES, demo.FACES = 60, 4, 64
        demo.LSTM = demo.LSTM.model_copy(update={"epochs": 1})
        demo.GPT2 = demo.GPT2.model_copy(update={"epochs": 1})
        demo.DCGAN = demo.DCGAN.model_copy(update={"epochs": 1})
        demo.GENRES = demo.GENRES.model_copy(update={"epochs": 1})
    demo.train_demo_runs(folder)


def classifier_bundle(store: Store, config: BertConfig, wishes: Wishes) -> Bundle:
    """Random weights: nothing of ours trains classifiers yet."""
    torch.manual_seed(1)
    words = ["[UNK]", "[CLS]", "[SEP]", *(f"word{number}" for number in range(config.vocabulary_size - 3))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab=numbers, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = tuple(f"genre {number}" for number in range(config.labels))
    draft = Draft(
        config,
        Bert(config).state_dict(),
        WordPieceTokenizer(tokenizer),
        "word1 word2 word3",
        provenance={},
        labels=Labels(names=names, activation="sigmoid", threshold=0.5),
        trained=False,
    )
    return draft.publish(store, "tags", wishes)


def round_of(bundle: Bundle, variant: Variant, quick: bool) -> Round:
    """What is timed."""
    whole = variant.format == "pt2"
    if bundle.manifest.task == "classify":
        classifier = (load_pt2_classifier if whole else load_classifier)(bundle, variant, CPU)
        texts = [[row + 5] * LENGTH for row in range(max(1, classifier.batch_tokens // LENGTH))]

        def classify() -> None:
            for begin in range(0, ROWS, len(texts)):
                classifier.classify(texts[: ROWS - begin])

        return classify
    if bundle.manifest.task == "image":
        painter = (load_pt2_images if whole else load_images)(bundle, variant, CPU)
        noise = torch.randn(ROWS, painter.latent)

        def draw() -> None:
            painter.draw(noise)

        return draw
    reader = (load_pt2_text if whole else load_text)(bundle, variant, CPU)
    steps = 2 if quick else 32

    def decode() -> None:
        for place in range(steps):
            reader.decode([1] * ROWS, [place] * ROWS, [True] * ROWS)

    return decode


def relative_speeds(bundle: Bundle, quick: bool) -> dict[str, float]:
    """How many times as fast as pytorch:fp32 each variant is."""
    rounds = {variant.name: round_of(bundle, variant, quick) for variant in bundle.manifest.variants}
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(2 if quick else 15):
        for name, run in rounds.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    fastest = {name: min(times) for name, times in seconds.items()}
    return {name: fastest[REFERENCE.name] / own for name, own in fastest.items()}


def rows_of(bundle: Bundle, quick: bool) -> list[list[str]]:
    """A line for each variant: what was measured."""
    speeds = relative_speeds(bundle, quick)
    rows = []
    for variant in bundle.manifest.variants:
        parity = variant.parity
        invariant = "" if parity is None else "yes" if parity.batch_invariant else "no"
        bounds = (
            "reference" if parity is None else "MISSED" if parity.faults else "kept" if parity.trained else "untrained"
        )
        size = sum(bundle.manifest.files[file].bytes for file in variant.files) / 1e6
        cells = [*parity_cells(parity), invariant, bounds, f"{size:.2f}", f"{speeds[variant.name]:.2f}"]
        rows.append([bundle.manifest.family, variant.name, *cells])
    return rows


def refusals() -> list[list[str]]:
    """A line for each reason: which variants of which families cannot be for it."""
    return by_reason(
        (writer, kind.name, family)
        for family, formats in FAMILIES.items()
        for kind, writer in formats.writers.items()
        if isinstance(writer, str)
    )


def refusals_on_gpus() -> list[list[str]]:
    """The same for those that run on CPUs alone."""
    return by_reason(
        (reason, variant_name("onnx", precision), family) for (family, precision), reason in NOT_ON_CUDA.items()
    )


def by_reason(refused: Iterable[tuple[str, str, str]]) -> list[list[str]]:
    """Reason, variant and family of each -> a line for each reason."""
    found: dict[str, dict[str, list[str]]] = {}
    for reason, variant, family in refused:
        found.setdefault(reason, {}).setdefault(variant, []).append(family)
    return [
        [", ".join(f"{variant} ({', '.join(families)})" for variant, families in variants.items()), reason]
        for reason, variants in found.items()
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder with the demo's runs")
    parser.add_argument("--quick", action="store_true", help="hardly trained models, to see that it runs")
    parser.add_argument("--write", action="store_true", help="put the table into docs/bundles.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or Path(folder) / "runs"
        if options.runs is None:
            train(runs, options.quick)
        wishes = Wishes(frozenset(FORMATS), force=True, show_progress=True)
        store = Store(Path(folder) / "store")
        bundles = [export_run(runs / name, store, name, wishes) for name in ("synopses-lstm", "synopses-gpt2", "faces")]
        bundles.append(classifier_bundle(store, CLASSIFIER, wishes))
        rows = [row for bundle in bundles for row in rows_of(bundle, options.quick)]
    head = ["family", "variant", *(name.lower() for name in PARITY_COLUMNS), "invariant", "bounds", "MB", "speed"]
    refused = table(["cannot be", "because"], refusals()), table(["not on a GPU", "because"], refusals_on_gpus())
    shown = "\n\n".join([table(head, rows), *refused])
    print(shown)
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}", encoding="utf-8")
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    print(json.dumps({**machine, "rows": rows}))


if __name__ == "__main__":
    main()
