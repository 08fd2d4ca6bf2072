"""What docs/pictures.md shows in Python runs as it stands; its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from contracts.store import Store
from tests.examples import examples
from training.demo_faces import draw_faces
from training.recipes import DcganRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "pictures.md").read_text(encoding="utf-8")


def test_the_python_example_trains_goes_on_exports_and_judges(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, faces in (("faces", draw_faces(32, 32)), ("drawn", draw_faces(12, 32, seed=1))):
        (tmp_path / name).mkdir()
        for place, face in enumerate(faces):
            Image.fromarray(face).save(tmp_path / name / f"{place}.png")
    (example,) = [example for example in examples(PAGE) if example.language == "python"]
    exec(compile(example.code, "pictures.md", "exec"), {})  # noqa: S102 - the page's own code
    assert Store(tmp_path / "store").open("faces").manifest.family == "dcgan"
    assert len(capsys.readouterr().out.splitlines()[-1].split()) == 3


def test_every_flag_on_the_page_is_a_field_of_the_recipe_or_an_option_of_a_command():
    options = {"output", "resume", "recipe", "help", "name", "count", "seed"}
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z0-9_-]*[a-z0-9])", PAGE)}
    assert flags <= set(DcganRecipe.model_fields) | options
    stabilisers = {"real_target", "spectral_norm", "ema_decay", "flips"}
    assert stabilisers <= flags
    assert not [name for name in stabilisers if DcganRecipe.model_fields[name].default not in (1.0, 0.0, False)]
