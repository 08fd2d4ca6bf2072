"""docs/bundles.md: its scripts run without this project, and its table is about all that can and cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contracts.tokenizers import CharacterTokenizer
from export.draft import Draft
from export.formats import FAMILIES, Wishes
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from models.runtimes.onnx import NOT_ON_CUDA

PAGE = (Path(__file__).parents[1] / "docs" / "bundles.md").read_text(encoding="utf-8")
SCRIPTS = dict(zip(("onnx", "torchscript"), re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL), strict=True))
ALONE = "\nassert not {'cli', 'contracts', 'export', 'models', 'training', 'workers'} & set(sys.modules)\n"
LETTERS = "abcdefgh "


def run(script, folder, *arguments):
    """Isolated: neither this folder nor the environment's paths are searched for modules."""
    command = [sys.executable, "-I", "-c", SCRIPTS[script] + ALONE, str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _weights():
    """The same ones each time: of two letters that are nearly as likely, runtimes may take either."""
    torch.manual_seed(1)


def publish(store, model, *formats):
    for weight in model.parameters():
        weight.data *= 3
    draft = Draft(model.config, model.state_dict(), CharacterTokenizer(LETTERS), "a bad egg", {})
    return draft.publish(store, "tiny", Wishes(frozenset(formats), frozenset({"fp32"})))


@pytest.fixture
def store(tmp_path):
    from contracts.store import Store

    return Store(tmp_path / "store")


def test_plain_onnx_runtime_writes_what_the_model_does(store):
    pytest.importorskip("onnxruntime")
    model = LstmLanguageModel(LstmConfig(len(LETTERS), (16, 8)))
    bundle = publish(store, model, "onnx")
    text = [LETTERS.index(letter) for letter in "a bad"]
    while len(text) < 200:
        text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
    assert run("onnx", bundle.path, "a bad") == "".join(LETTERS[token] for token in text)


def test_plain_pytorch_writes_what_the_model_does(store):
    model = Gpt2(Gpt2Config(len(LETTERS), context_tokens=64, width=32, layers=2, heads=2)).eval()
    bundle = publish(store, model, "torchscript")
    text = [3, 0, 5]
    while len(text) < 32:
        text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
    assert run("torchscript", bundle.path, "3", "0", "5") == str(text)


def test_the_scripts_are_short():
    assert all(len(script.splitlines()) <= 16 for script in SCRIPTS.values())


def test_every_variant_is_in_the_table_or_among_those_that_cannot_be():
    measured = {tuple(row) for row in re.findall(r"^\| (\w+) \| (\w+:\w+) \|", PAGE, re.MULTILINE)}
    lines = PAGE.split("| cannot be | because |")[1].split("<!-- end")[0].splitlines()
    refused = {line.strip("| ").split(" | ")[1]: line for line in lines if "(" in line}
    for family, formats in FAMILIES.items():
        for kind, writer in formats.writers.items():
            if isinstance(writer, str):
                named = re.search(rf"{kind.name} \(([\w, ]+)\)", refused[writer])
                assert named is not None
                assert family in named[1].split(", ")
            else:
                assert ("bert" if family == "roberta" else family, kind.name) in measured, "RoBERTa is the same module"


def test_every_variant_that_a_gpu_does_not_run_is_named_with_the_reason():
    lines = PAGE.split("| not on a GPU | because |")[1].split("<!-- end")[0].splitlines()
    named = {line.strip("| ").split(" | ")[1]: line for line in lines if "(" in line}
    assert set(named) == set(NOT_ON_CUDA.values())
    for (family, precision), reason in NOT_ON_CUDA.items():
        listed = re.search(rf"onnx:{precision} \(([\w, ]+)\)", named[reason])
        assert listed is not None
        assert family in listed[1].split(", ")
