"""What docs/training.md shows in Python runs as it stands; its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from contracts.store import Store
from tests.examples import examples
from training.demo_corpus import write_synopses
from training.recipes import CharLstmRecipe, Gpt2Recipe, WordLstmRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_python_example_trains_goes_on_and_exports(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.txt").write_text("\n".join(write_synopses(10)))
    (example,) = [example for example in examples(PAGE) if example.language == "python"]
    exec(compile(example.code, "training.md", "exec"), {})  # noqa: S102 - the page's own code
    assert Store(tmp_path / "store").open("corpus").manifest.family == "lstm"


def test_every_flag_on_the_page_is_a_field_of_a_recipe_or_an_option_of_the_command():
    fields = {name for kind in (CharLstmRecipe, WordLstmRecipe, Gpt2Recipe) for name in kind.model_fields}
    options = {"output", "resume", "recipe", "device", "find_learning_rate", "help", "no_titles", "logdir", "name"}
    launcher = {"multi_gpu", "num_processes"}
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z0-9_-]*[a-z0-9])", PAGE)}
    assert flags <= fields | options | launcher
    assert flags & fields
