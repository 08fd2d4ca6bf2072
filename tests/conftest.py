"""Fixtures for all tests: a real Redis, real workers, and a store of tiny real models with random weights."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError
from safetensors.torch import save_file

from contracts.announcements import read_announcements
from contracts.bundle import TOKENIZER, WEIGHTS
from contracts.connection import connect
from contracts.jobs import JobQueue, JobRecord
from contracts.prompt_fields import PromptFields
from contracts.store import Store
from contracts.tokenizers import BpeTokenizer, CharacterTokenizer
from export import parity
from export.checkpoint import import_checkpoint
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel
from workers.embedded_redis import EmbeddedRedis

Spoiled = Callable[[Any], st.SearchStrategy[bytes]]

torch.set_num_threads(1)  # tiny models: threads cost more than they bring

VARIANTS = [{"format": "pytorch", "precision": "fp32", "files": [WEIGHTS]}]


WAITING = frozenset({"chaos", "e2e", "soak", "workers"})  # folders of tests that start processes and wait for them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: several processes share the files out in this order, and the last should be short."""
    items.sort(key=lambda item: item.path.parent.name not in WAITING)


@pytest.fixture(scope="session", autouse=True)
def small_samples() -> Iterator[None]:
    """Exports measure their variants on few and short texts; the tests of that measure more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PROMPTS", 4)
        patch.setattr(parity, "GROUPS", (1, 3))
        patch.setattr(parity, "LONGEST_PROMPT", 12)
        patch.setattr(parity, "NEW_TOKENS", 4)
        patch.setattr(parity, "PICTURE_GROUPS", (1, 2))
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets; tests that need them are marked `data` and skip without."""
    folder = os.environ.get("KAMISHIBAI_TEST_DATA")
    if not folder:
        pytest.skip("KAMISHIBAI_TEST_DATA does not name a folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server, as `kamishibai up` starts it."""
    embedded = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    process = subprocess.Popen(embedded.command())
    for _ in range(100):
        try:
            connect(embedded.url).ping()
            break
        except RedisError:
            time.sleep(0.05)
    yield embedded.url
    process.terminate()
    process.wait(10)
    embedded.clean_up()


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    """A client of an empty Redis."""
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three models: `lstm` (characters), `gpt2` (BPE, context 256), `faces` (16x16)."""
    made = Store(tmp_path_factory.mktemp("store"))
    write_lstm(made)
    write_gpt2(made)
    write_faces(made)
    return made


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory, classifiers: Store) -> Store:
    """The tiny models under the names of the demo models, for the documentation's examples."""
    made = Store(tmp_path_factory.mktemp("demo"))
    write_lstm(made, "synopses-lstm")
    write_gpt2(made, "synopses-gpt2")
    write_faces(made, "faces")
    shutil.copytree(classifiers.root / "genres", made.root / "genres")
    return made


@pytest.fixture(scope="session")
def dump_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Four models: those of `store`, and `movies`, whose texts have named parts (BPE, context 64)."""
    made = Store(tmp_path_factory.mktemp("dumps"))
    write_lstm(made)
    write_gpt2(made)
    write_faces(made)
    write_movies(made)
    return made


@pytest.fixture(scope="session")
def encoder_tokenizer() -> Callable[[str], tokenizers.Tokenizer]:
    """The library's tokenizer as the checkpoints of a family, "bert" or "roberta", have it."""
    return _encoder_tokenizer


@pytest.fixture(scope="session")
def write_classifier() -> Callable[..., Any]:
    """`write_classifier(folder, family, **config)` leaves what `save_pretrained` writes of transformers' classifier
    with random weights, and its tokenizer; returns it."""
    return _write_classifier


@pytest.fixture(scope="session")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two classifiers with the labels GENRES and a context of 70 or 72 tokens: `genres` (BERT, any number of labels
    apply) and `mood` (RoBERTa, one does)."""
    made = Store(tmp_path_factory.mktemp("classifiers"))
    problems = {"multi_label_classification": ("genres", "bert"), "single_label_classification": ("mood", "roberta")}
    for problem, (name, family) in problems.items():
        folder = tmp_path_factory.mktemp(name)
        _write_classifier(folder, family, problem_type=problem)
        import_checkpoint(folder, made, name)
    return made


@pytest.fixture
def jobs(connection: Redis) -> JobQueue:
    return JobQueue(connection)


@pytest.fixture
def start_worker(redis_url: str, store: Store, connection: Redis) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start workers as `kamishibai worker` does; they are stopped at the test's end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        name: str = "worker", *options: str, environment: dict[str, str] | None = None, wait: bool = True
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "cli.main", "worker", "--device", "cpu", "--name", name]
        ours = {"KAMISHIBAI_STORE": str(store.root), "KAMISHIBAI_REDIS_URL": redis_url}
        process = subprocess.Popen(
            [*command, "--store", str(store.root), *options],
            env=os.environ | ours | (environment or {}),
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 60
        while wait and not any(a.ready and a.worker == name for a in read_announcements(connection)):
            assert time.monotonic() < deadline, "the worker did not become ready within 60 s"
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in started:
        try:
            process.wait(30)
        finally:
            process.kill()


@pytest.fixture
def faults() -> Callable[..., dict[str, str]]:
    """The environment of a worker whose engine fails on purpose: tests/faults/sitecustomize.py says how."""

    def environment(*faults: dict[str, object]) -> dict[str, str]:
        folder = str(Path(__file__).parent / "faults")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        return {"PYTHONPATH": path, "KAMISHIBAI_TEST_FAULTS": json.dumps(faults)}

    return environment


@pytest.fixture
def wait_ended(jobs: JobQueue) -> Callable[..., JobRecord]:
    def wait(job_id: str, seconds: float = 60) -> JobRecord:
        deadline = time.monotonic() + seconds
        while not (record := jobs.read(job_id)).ended:
            assert time.monotonic() < deadline, f"{job_id} is still {record.status} after {seconds} s"
            time.sleep(0.01)
        return record

    return wait


def write_lstm(store: Store, name: str = "lstm", max_tokens: int = 4096) -> None:
    characters = CharacterTokenizer("\n abcdefghijklmnopqrstuvwxyz.,ABCDEFGHIJKLMNOPQRSTUVWXYZäöü日本")
    config = LstmConfig(characters.vocabulary_size, layers=(24, 16))

    def fill(folder: Path) -> dict[str, object]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = LstmLanguageModel(config)
            model.head.weight.data *= 8  # peaked enough that seeds and prompts matter
        save_file(model.state_dict(), folder / WEIGHTS)
        characters.write(folder / TOKENIZER)
        return {
            "family": "lstm",
            "task": "text",
            "config": {"vocabulary_size": config.vocabulary_size, "layers": list(config.layers)},
            "limits": {"max_tokens": max_tokens},
            "tokenizer": "characters",
            "variants": VARIANTS,
            "example": {"prompt": "A story"},
        }

    store.write(name, fill)


def write_gpt2(store: Store, name: str = "gpt2") -> None:
    text = [
        "the quick brown fox jumps over the lazy dog and runs away from the old town " * 4,
        "höher, weiter — schöner!",
    ]
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        text, vocab_size=300, min_frequency=1, special_tokens=["<|endoftext|>"], show_progress=False
    )
    config = Gpt2Config(vocabulary_size=bpe.get_vocab_size(), context_tokens=256, width=32, layers=2, heads=2)

    def fill(folder: Path) -> dict[str, object]:
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model = Gpt2(config)
            for weight in model.parameters():
                weight.data *= 6
        save_file(model.state_dict(), folder / WEIGHTS)
        BpeTokenizer(bpe._tokenizer).write(folder / TOKENIZER)
        return {
            "family": "gpt2",
            "task": "text",
            "config": vars(config),
            "limits": {"context_tokens": config.context_tokens},
            "tokenizer": "bpe",
            "variants": VARIANTS,
            "example": {"prompt": "the quick"},
        }

    store.write(name, fill)


def write_movies(store: Store, name: str = "movies") -> None:
    format_ = PromptFields.from_format("genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>")
    text = [
        "a pilot in love with the sea, a detective who hunts a killer\n through the old town " * 4,
        "日本 — schöner!",
    ]
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(text, vocab_size=300, min_frequency=1, special_tokens=format_.markers, show_progress=False)
    config = Gpt2Config(vocabulary_size=bpe.get_vocab_size(), context_tokens=64, width=32, layers=2, heads=2)

    def fill(folder: Path) -> dict[str, object]:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = Gpt2(config)
            for weight in model.parameters():
                weight.data *= 6
            rows = model.tokens.weight.data
            for marker in format_.markers[1:]:  # almost as likely as a token that it likes
                rows[bpe.token_to_id(marker)] = 0.7 * rows[bpe.token_to_id("ow")]
        save_file(model.state_dict(), folder / WEIGHTS)
        BpeTokenizer(bpe._tokenizer).write(folder / TOKENIZER)
        return {
            "family": "gpt2",
            "task": "text",
            "config": vars(config),
            "limits": {"context_tokens": config.context_tokens},
            "tokenizer": "bpe",
            "prompt_fields": format_.model_dump(mode="json"),
            "variants": VARIANTS,
            "example": {"prompt": "a pilot"},
        }

    store.write(name, fill)


def write_faces(store: Store, name: str = "faces") -> None:
    config = DcganConfig(size=16, latent=8, width=8)

    def fill(folder: Path) -> dict[str, object]:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = generator(config)
        save_file(model.state_dict(), folder / WEIGHTS)
        return {
            "family": "dcgan",
            "task": "image",
            "config": vars(config),
            "limits": {"picture_pixels": [16, 16]},
            "variants": VARIANTS,
            "example": {},
        }

    store.write(name, fill)


GENRES = ["Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi"]
PLOTS = ["the quick brown fox jumps over the lazy dog", "Ein höher schöner Ort", "A pilot in love with the sea."]


def _write_classifier(folder: Path, family: str, **changes: Any) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    tokenizer = _encoder_tokenizer(family)
    tokenizer.save(str(folder / "tokenizer.json"))
    shape = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 72,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "initializer_range": 0.3,  # peaked enough that a wrong operation shows
        "problem_type": "multi_label_classification",
        "id2label": dict(enumerate(GENRES)),
        "pad_token_id": 1 if family == "roberta" else 0,
    }
    made: tuple[Any, Any] = {
        "bert": (transformers.BertConfig, transformers.BertForSequenceClassification),
        "roberta": (transformers.RobertaConfig, transformers.RobertaForSequenceClassification),
    }[family]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = made[1](made[0](**shape | changes)).eval()
        for name, weight in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):  # which begin as ones and zeros
                weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


def _encoder_tokenizer(family: str) -> tokenizers.Tokenizer:
    """As the checkpoints of a family have it, of the words and letters of PLOTS."""
    if family == "bert":
        words = dict.fromkeys(" ".join(PLOTS).lower().replace(".", " .").split())
        letters = string.ascii_lowercase + string.digits + ".,!?-'"
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = dict.fromkeys([*specials, *letters, *(f"##{letter}" for letter in letters), *words])
        wordpiece = tokenizers.BertWordPieceTokenizer({piece: token for token, piece in enumerate(pieces)})
        return _with_frame(wordpiece._tokenizer, "[CLS]", "[SEP]")
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(PLOTS, vocab_size=300, min_frequency=1, special_tokens=specials, show_progress=False)
    return _with_frame(bpe._tokenizer, "<s>", "</s>")


def _with_frame(tokenizer: tokenizers.Tokenizer, begin: str, end: str) -> tokenizers.Tokenizer:
    ids = [(token, tokenizer.token_to_id(token)) for token in (begin, end)]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B {end}", special_tokens=ids
    )
    return tokenizer


@pytest.fixture(scope="session")
def spoiled() -> Spoiled:
    """`spoiled(document)` draws the JSON text of a document in which something is wrong, or what is JSON no more."""
    return _spoiled


@pytest.fixture(scope="session")
def damaged() -> Callable[[bytes], st.SearchStrategy[bytes]]:
    """`damaged(content)` draws bytes that were cut off, flipped, doubled or put into others."""
    return _damaged


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


NUMBERS = [0, -1, 1.5, 2**31, 2**63, 2**64, 10**400, -(10**400), 1e308, float("nan"), float("inf"), float("-inf")]
TEXTS = ["", "0", "\ud800", "a\udfffb", "\0", "a\r\n\x1b[31mb\u2028", "../../etc/passwd", "日本" * 40, "x" * 5000]
JUNK = st.sampled_from([None, True, False, [], {}, [None], {"": ""}, _nested(60), _nested(600), *NUMBERS, *TEXTS])
LARGE = [b"[" * 10_000, b"[" * 600 + b"]" * 600, b'{"a":' * 10_000, b"9" * 5000, b"1e999", b"-Infinity", b'"\\ud800"']


@st.composite
def _spoiled(draw: st.DrawFn, document: Any) -> bytes:
    for _ in range(draw(st.integers(0, 3))):
        document = _spoil(draw, copy.deepcopy(document))
    return draw(_damaged(json.dumps(document).encode(), at_most=1))


def _spoil(draw: st.DrawFn, value: Any) -> Any:
    """Something is replaced, dropped, doubled or added, at any depth."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(JUNK)
    place = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    act = draw(st.sampled_from(["inside", "inside", "replace", "drop", "add"]))
    if act == "drop":
        del value[place]
    elif act == "add" and isinstance(value, list):
        value += [draw(JUNK)] + value[:1] * draw(st.sampled_from([0, 1, 3000]))
    elif act == "add" and isinstance(value, dict):
        value |= {draw(st.sampled_from(TEXTS)): draw(JUNK)}
    else:
        value[place] = _spoil(draw, value[place]) if act == "inside" else draw(JUNK)
    return value


@st.composite
def _damaged(draw: st.DrawFn, content: bytes, at_most: int = 3) -> bytes:
    for _ in range(draw(st.integers(0, at_most))):
        place = draw(st.integers(0, len(content)))
        act = draw(st.sampled_from(["cut", "flip", "double", "put"]))
        if act == "cut":
            content = content[:place]
        elif act == "flip" and place < len(content):
            content = content[:place] + bytes([content[place] ^ 1 << draw(st.integers(0, 7))]) + content[place + 1 :]
        elif act == "double":
            content = content[:place] + content[draw(st.integers(0, place)) :]
        else:
            content = content[:place] + draw(st.sampled_from(LARGE) | st.binary(max_size=9)) + content[place:]
    return content
