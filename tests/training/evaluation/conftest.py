"""A small set of dumps and training texts, and a sentence encoder with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch

from training.evaluation.dumps import Generated, read_dumps
from training.evaluation.training_texts import TrainingText, read_training_texts

TITLED = [
    'war<|endofgenre|>"Front" (1999) {Mud (#1.2)}<|endoftitle|>Two soldiers hide in the mud of the front.<|endoftext|>',
    'war<|endofgenre|>"Front" (1999) {Rain (#1.3)}<|endoftitle|>An old sergeant writes a letter home.<|endoftext|>',
    'comedy<|endofgenre|>"Milk"<|endoftitle|>A milkman falls in love with a baker in the village.<|endoftext|>',
    "comedy<|endofgenre|>Milk man without a plot",
]
RECORDS = [
    ("Front (1999)", ["War"], "Two soldiers hide in the mud of the front."),
    ("Bread (2001)", ["Comedy", "Romance"], "A baker in a small village falls in love with the milkman."),
    ("Sea (2003)", ["Drama"], "The pilot loves the sea more than the sky."),
]


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    """Three training records, one of two genres, and one to validate."""
    lines = [
        {"title": title, "plot": plot, "genres": genres, "primary": title, "split": "train"}
        for title, genres, plot in RECORDS
    ]
    lines.append(
        {"title": "V", "plot": "Only to validate.", "genres": ["Western"], "primary": "V", "split": "validation"}
    )
    path = tmp_path / "plots.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def dumps(tmp_path: Path) -> Path:
    """Two settings; the second has the lines of the first, but broken ones."""
    folder = tmp_path / "dumps" / "tiny"
    folder.mkdir(parents=True)
    (folder / "temp_0_7_topp_0_9.txt").write_text("\n".join(TITLED[:3]) + "\n")
    (folder / "temp_1_3_topp_0.txt").write_text("\n".join(TITLED[1:]) + "\n")
    return folder.parent


@pytest.fixture
def lines(dumps: Path) -> list[Generated]:
    return read_dumps([dumps])


@pytest.fixture
def training(plots: Path) -> list[TrainingText]:
    return read_training_texts(plots)


@pytest.fixture(scope="session")
def encoder_folder(
    tmp_path_factory: pytest.TempPathFactory, encoder_tokenizer: Callable[[str], tokenizers.Tokenizer]
) -> Path:
    """What sentence-transformers saves: a mean over vectors of words and letters, which are random."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = tmp_path_factory.mktemp("encoder") / "tiny-encoder"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        vectors = StaticEmbedding(encoder_tokenizer("bert"), embedding_dim=16)
    SentenceTransformer(modules=[vectors], device="cpu").save(str(folder))
    return folder
