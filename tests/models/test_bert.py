"""BERT and RoBERTa compute what transformers computes, and a text's logits are its own."""

import random

import pytest
import torch

from contracts.errors import StoreError
from contracts.store import Store
from models.bert import Bert, BertConfig, RobertaConfig
from models.probe import probe_classify
from models.runtimes import LENGTH_STEP, length_bucket, most_texts, pytorch
from models.runtimes.pytorch import BertBackend, load_classifier
from models.weights import read_config, weight_faults

CPU = torch.device("cpu")
VOCABULARY = 97
CONTEXT = 70  # no multiple of the length step
CONFIG = BertConfig(VOCABULARY, CONTEXT, width=48, layers=2, heads=4, inner=80, labels=7)
ROBERTA = RobertaConfig(VOCABULARY, CONTEXT, width=48, layers=2, heads=4, inner=80, labels=7, padding_token=1)


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request):
    return request.param


def _oracle(write_classifier, family, folder, **changes):
    """transformers' model with random weights, and our backend of its checkpoint."""
    theirs = write_classifier(folder, family, **changes)
    from export.huggingface_bert import import_classifier

    bundle = import_classifier(folder, Store(folder / "store"), "tags")
    return theirs, load_classifier(bundle, CPU)


def _texts(count, seed=0, longest=CONTEXT, shortest=2):
    rng = random.Random(seed)
    return [rng.choices(range(VOCABULARY), k=rng.randint(shortest, longest)) for _ in range(count)]


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu"])
def test_logits_are_those_of_transformers(write_classifier, tmp_path, family, hidden_act):
    theirs, backend = _oracle(write_classifier, family, tmp_path, hidden_act=hidden_act)
    vocabulary, context = backend.vocabulary_size, backend.context_tokens
    rng = random.Random(5)
    # The padding token is among them: in the middle of a text RoBERTa gives it no place.
    texts = [rng.choices(range(vocabulary), k=length) for length in (2, 3, 31, 32, 33, context - 1, context)]
    longest = max(map(len, texts))
    padding = theirs.config.pad_token_id
    padded = torch.tensor([text + [padding] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    with torch.inference_mode():
        expected = theirs(padded, attention_mask=mask).logits
    assert expected.std() > 0.1
    for text, logits in zip(texts, expected, strict=True):
        torch.testing.assert_close(backend.classify([text])[0], logits, rtol=0, atol=1e-5)


def _backend(config, scale=4):
    with torch.random.fork_rng():
        torch.manual_seed(8)
        model = Bert(config)
    for weight in model.parameters():
        weight.data *= scale  # peaked enough that a wrong number shows
    return BertBackend(model.eval().requires_grad_(False), CPU)


@pytest.mark.parametrize("config", [CONFIG, ROBERTA], ids=["bert", "roberta"])
def test_logits_do_not_depend_on_the_number_place_and_length_of_neighbours(config):
    backend = _backend(config)
    for bucket in (32, 64, 96):
        longest = min(bucket, CONTEXT)
        texts = _texts(9, bucket, longest, bucket - LENGTH_STEP + 1)
        alone = [backend.classify([text])[0] for text in texts]
        rng = random.Random(bucket)
        for _ in range(12):
            chosen = rng.sample(range(9), rng.randint(1, most_texts(bucket, backend.batch_tokens)))
            together = backend.classify([texts[place] for place in chosen])
            assert all(torch.equal(row, alone[place]) for row, place in zip(together, chosen, strict=True))


def test_what_is_padded_behind_a_text_has_no_part_in_it():
    """The model itself, at widths that no backend would use."""
    model = _backend(ROBERTA)._model
    text = torch.tensor([[5, 1, 9, 30, 2]])
    short = model(text, torch.tensor([5]))
    padded = torch.cat([text, torch.randint(VOCABULARY, (1, 90))], dim=1)
    torch.testing.assert_close(model(padded, torch.tensor([5])), short, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, ROBERTA], ids=["bert", "roberta"])
def test_training_that_computes_the_last_block_of_first_tokens_alone_gets_what_is_served(config):
    backend = _backend(config)
    texts = _texts(6, 4, 32, 5)
    lengths = torch.tensor(list(map(len, texts)))
    padded = torch.tensor([text + [0] * (32 - len(text)) for text in texts])
    torch.testing.assert_close(backend._model(padded, lengths), backend.classify(texts), rtol=0, atol=1e-5)


def test_on_several_threads_every_text_is_read_alone(monkeypatch):
    monkeypatch.setattr(pytorch, "SMALL_MODEL_PARAMETERS", 0)
    monkeypatch.setattr(pytorch, "MACHINE_THREADS", 2)
    backend = _backend(CONFIG)
    assert (backend.threads, most_texts(32, backend.batch_tokens)) == (2, 1)


def test_the_probe_clears_them_and_tries_every_batch_size():
    probe = probe_classify(_backend(CONFIG))
    assert probe.batch_invariant
    assert {count for count, _ in probe.equal} == {1, 2, 4, 8}


def test_the_probe_finds_a_text_that_sees_its_neighbours():
    class Leaking(BertBackend):
        def classify(self, texts):
            logits = super().classify(texts)
            return logits + max(map(len, texts)) * 1e-6 * (len(texts) > 2)

    backend = Leaking(_backend(CONFIG)._model, CPU)
    assert sorted({count for (count, _), equal in probe_classify(backend).equal.items() if not equal}) == [4, 8]


@pytest.mark.parametrize(("tokens", "bucket"), [(1, 32), (32, 32), (33, 64), (512, 512), (513, 544)])
def test_a_texts_bucket_follows_from_its_own_length(tokens, bucket):
    assert length_bucket(tokens) == bucket


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 50}, "heads divide"),
        ({"labels": 0}, "labels is 0"),
        ({"labels": 5000}, "labels is 5000"),
        ({"layers": 10**12}, "layers is"),
        ({"hidden_activation": "swish"}, "hidden_activation is 'swish'"),
        ({"epsilon": 0}, "epsilon is 0"),
        ({"padding_token": 97}, "padding_token is 97"),
        ({"padding_token": True}, "padding_token is True"),
        ({"context_tokens": 1}, "two tokens"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_config_that_is_none_is_refused_by_name(changes, named):
    with pytest.raises(StoreError, match=named):
        read_config("roberta", vars(ROBERTA) | changes)


def test_a_config_that_claims_more_than_its_weights_takes_no_memory():
    weights = Bert(CONFIG).state_dict()
    huge = BertConfig(VOCABULARY, CONTEXT, width=1 << 20, layers=2, heads=4, inner=1 << 30, labels=7)
    assert any("blocks.0.up.weight is" in fault for fault in weight_faults(huge, weights))
    assert weight_faults(BertConfig(**{**vars(CONFIG), "layers": 10**6}), weights)[0].startswith(
        "the config has 1000000"
    )
