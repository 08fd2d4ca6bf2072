"""What docs/genres.md shows in Python runs as it stands, and the command trains, exports and classifies."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.store import Store
from export.run import export_run
from tests.examples import examples
from training.data.records import PlotRecord, write_records
from training.recipes import SCRATCH, GenresRecipe
from training.run_folder import Plan
from training.runs import resume, train

PAGE = (Path(__file__).parents[3] / "docs" / "genres.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    words = {"War": "soldiers fight a battle", "Romance": "lovers meet and marry"}
    records = [
        PlotRecord(title=f"T{n}", primary=f"T{n}", plot=f"{text} number {n}", genres=[genre], split=split)
        for split, count in (("train", 30), ("validation", 6))
        for n in range(count)
        for genre, text in words.items()
    ]
    write_records(tmp_path / "plots.jsonl", records)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs(folder):
    (example,) = [example for example in examples(PAGE) if example.language == "python"]
    exec(compile(example.code, "genres.md", "exec"), {})  # noqa: S102 - the page's own code
    bundle = export_run(folder / "runs" / "genres", Store(folder / "store"), "genres")
    assert set(bundle.labels().names) == {"War", "Romance"}


def test_a_plan_with_language_learns_it_first_and_is_done_when_gone_on_with(folder):
    recipe = GenresRecipe(
        model=SCRATCH, cycles=1, width=16, blocks=1, heads=2, vocabulary_size=300, language_epochs=1, fewest_plots=2
    )
    run = train(Plan.of("genres", recipe, folder / "plots.jsonl"), folder / "run", device="cpu", show_progress=False)
    files = {path: path.read_bytes() for path in run.rglob("weights.safetensors")}
    assert {path.parent.name for path in files} == {"run", "language"}
    assert (run / "language" / "loss.png").is_file()
    assert resume(run, device="cpu", show_progress=False) == run
    assert all(path.read_bytes() == content for path, content in files.items())
