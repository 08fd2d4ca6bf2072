"""`kamishibai export` and `kamishibai models show`: which variants, and what is said of them."""

import pytest
import torch
from safetensors.torch import save_file

from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.run import RUN, RunDescription
from contracts.store import Store
from contracts.tokenizers import CharacterTokenizer
from export import parity
from models.lstm import LstmConfig, LstmLanguageModel

LETTERS = "abcdefgh "


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    config = LstmConfig(len(LETTERS), (16,))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        save_file(LstmLanguageModel(config).state_dict(), folder / WEIGHTS)
    CharacterTokenizer(LETTERS).write(folder / TOKENIZER)
    description = RunDescription(
        family="lstm",
        task="text",
        config=vars(config),
        tokenizer="characters",
        hyperparameters={},
        metrics={"steps": 10},
        example_prompt="a bad egg",
    )
    (folder / RUN).write_text(description.model_dump_json())
    return folder


@pytest.fixture
def export(kamishibai, run, tmp_path):
    return lambda *options: kamishibai("export", run, "--name", "tiny", "--store", tmp_path / "store", *options)


def test_the_formats_and_precisions_asked_for_are_written(export, tmp_path):
    assert export("--formats", "torchscript", "--precisions", "fp32, fp16").status == 0
    assert Store(tmp_path / "store").open("tiny").variants() == ["pytorch:fp32", "torchscript:fp32", "torchscript:fp16"]


def test_a_candidate_is_not_the_latest_until_it_is_promoted(export, kamishibai, tmp_path):
    for _ in range(2):
        assert export("--formats", "pytorch", "--precisions", "fp32", "--candidate").status == 0
    assert Store(tmp_path / "store").latest("tiny") == 1
    assert kamishibai("models", "rollback", "tiny", "--to", 2, "--store", tmp_path / "store").status == 0
    assert Store(tmp_path / "store").latest("tiny") == 2


def test_a_pair_that_cannot_be_is_refused_with_the_reason_and_nothing_is_written(export, tmp_path):
    ended = export("--formats", "onnx,pt2", "--precisions", "bf16")
    assert ended.status == 1
    assert "pt2:bf16 cannot be: torch.export unrolls" in ended.err
    assert "onnx:bf16 cannot be: ONNX Runtime has no bf16" in ended.err
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(("option", "word"), [("--formats", "tensorrt"), ("--precisions", "fp8")])
def test_an_unknown_word_is_refused_with_the_known_ones(export, option, word):
    ended = export(option, f"onnx,{word}" if option == "--formats" else word)
    assert ended.status == 2
    assert f"'{word}' is not one of" in ended.err


def test_a_variant_that_misses_its_bound_is_left_out_with_a_word(export, kamishibai, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "bf16", 1e-15)
    ended = export("--formats", "pytorch")
    assert ended.status == 0
    assert "pytorch:bf16 was left out: its mean KL divergence is" in ended.err
    shown = kamishibai("models", "--store", tmp_path / "store", "show", "tiny")
    assert "pytorch:bf16 was left out: its mean KL" in shown.out


def test_a_forced_variant_is_shown_as_such(export, kamishibai, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "bf16", 1e-15)
    export("--formats", "pytorch", "--force")
    shown = kamishibai("models", "--store", tmp_path / "store", "show", "tiny")
    (line,) = [line for line in shown.out.splitlines() if line.startswith("pytorch:bf16  ")]
    assert line.endswith("missed")
    warning = "warning: pytorch:bf16 is here by force and is served with --variant pytorch:bf16 alone: its mean KL"
    assert shown.out.count(warning) == shown.out.count("warning") == 1


def test_who_runs_a_forced_variant_here_is_warned(export, kamishibai, tmp_path, monkeypatch):
    monkeypatch.setitem(parity.MOST_KL, "bf16", 1e-15)
    export("--formats", "pytorch", "--force")
    generate = ["generate", "tiny", "--prompt", "a", "--max-tokens", 3, "--seed", 1, "--store", tmp_path / "store"]
    assert "warning" not in kamishibai(*generate).err
    ended = kamishibai(*generate, "--variant", "pytorch:bf16")
    assert ended.status == 0
    assert "warning: pytorch:bf16 misses its bounds: its mean KL divergence is" in ended.err


HINT = "perplexity was not judged: export or import it again with --text FILE, a text that it was not trained on"


def test_perplexity_is_judged_by_a_text_that_is_given_and_shown_how_to_get_without(export, kamishibai, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a bad egg had a bad bed " * 20)
    for version, options in enumerate(([], ["--text", text]), 1):
        assert export("--formats", "pytorch", *options).status == 0
        shown = kamishibai("models", "--store", tmp_path / "store", "show", f"tiny@{version}").out.splitlines()
        column = shown[1].index("PERPLEXITY")
        (row,) = [line for line in shown if line.startswith("pytorch:bf16")]
        found = row[column:].split()[0]
        assert (found == "-", HINT in shown) == ((True, True) if version == 1 else (False, False))


@pytest.mark.parametrize(
    "command",
    [
        ["export", "."],
        ["import", "hf", "."],
        ["import", "tfjs", ".", "--corpus", "text.txt"],
        ["import", "word-lstm", "text.txt", "--vocabulary", "text.txt"],
    ],
    ids=" ".join,
)
def test_every_command_that_makes_a_model_of_texts_refuses_a_text_that_is_none(
    command, kamishibai, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_bytes("Händel".encode("latin-1"))
    ended = kamishibai(*command, "--name", "tiny", "--text", "text.txt", "--store", tmp_path / "store")
    assert ended.status == 1
    assert "text.txt is not UTF-8 text: " in ended.err


def test_a_models_variants_are_shown_with_what_was_measured(export, kamishibai, tmp_path):
    (tmp_path / "text.txt").write_text("a bad egg had a bad bed " * 20)
    export("--formats", "pytorch,torchscript", "--text", tmp_path / "text.txt")
    shown = kamishibai("models", "--store", tmp_path / "store", "show", "tiny")
    head, *rows = [line.split() for line in shown.out.splitlines()[1:]]
    assert (shown.status, shown.err) == (0, "")
    assert (head[0], head[-1]) == ("VARIANT", "BOUNDS")
    assert [row[0] for row in rows] == Store(tmp_path / "store").open("tiny").variants()
    assert rows[0][-1] == "reference"
    assert all(row[-2:] == ["yes", "kept"] for row in rows[1:])


def test_a_bundle_from_before_parity_was_measured_is_shown_as_such(kamishibai, store):
    shown = kamishibai("models", "--store", store.root, "show", "lstm")
    assert shown.status == 0
    assert "pytorch:fp32" in shown.out
