"""Checkpoints of BERT and RoBERTa for sequence classification: their bundles give transformers' probabilities, and what
models/bert.py does not compute is refused by name."""

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from contracts.bundle import WEIGHTS
from contracts.errors import StoreError
from contracts.prompt_fields import PromptFields
from contracts.requests import ClassifyRequest, TokenisedText
from contracts.store import Store
from export.checkpoint import import_checkpoint
from export.huggingface_bert import import_classifier
from workers.local import LocalModel

TEXTS = ["", "The quick brown fox!", "A pilot in love with the sea. " * 3, "höher [SEP] <pad> x 日本"]


@pytest.fixture(scope="module", params=["bert", "roberta"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def saved(write_classifier, family, tmp_path_factory):
    folder = tmp_path_factory.mktemp(family)
    return folder, write_classifier(folder, family)


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(saved[0], tmp_path / "checkpoint")


def _change_config(checkpoint, changes):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= changes
    (checkpoint / "config.json").write_text(
        json.dumps({name: value for name, value in config.items() if value is not ...})
    )


def _rewrite(checkpoint, change):
    weights = change(load_file(checkpoint / "model.safetensors"))
    (checkpoint / "model.safetensors").unlink()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, checkpoint / "model.safetensors")


def _request(local, texts):
    tokenizer, most = local.bundle.encoder_tokenizer(), local.bundle.manifest.limits.context_tokens
    read = tuple(TokenisedText(windows=(tuple(tokenizer.cut(tokenizer.encode(text), most)),)) for text in texts)
    return ClassifyRequest(target=local.bundle.target(), texts=read, threshold=0.5)


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification", None])
@pytest.mark.parametrize("variant", ["pytorch:fp32", "onnx:fp32"])
def test_a_bundle_gives_the_probabilities_of_transformers_own_pipeline(saved, checkpoint, store, problem, variant):
    _change_config(checkpoint, {"problem_type": problem})
    local = LocalModel(import_checkpoint(checkpoint, store, "tags"), variant)
    found = local.labels(_request(local, TEXTS))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"),
        pad_token="<pad>" if saved[1].config.model_type == "roberta" else "[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )
    model = saved[1]
    context = local.bundle.manifest.limits.context_tokens
    read = tokenizer(TEXTS, truncation=True, max_length=context, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**read).logits
    expected = logits.sigmoid() if problem == "multi_label_classification" else logits.softmax(-1)
    assert expected.std() > 0.05
    for classification, row in zip(found.classifications, expected.tolist(), strict=True):
        scores = {score.label: score.score for score in classification.scores}
        assert [scores[name] for name in model.config.id2label.values()] == pytest.approx(row, abs=1e-5)


def test_the_manifest_tells_what_the_model_is(checkpoint, store, family):
    bundle = import_checkpoint(checkpoint, store, "tags")
    manifest, labels = bundle.manifest, bundle.labels()
    assert (manifest.family, manifest.task) == (family, "classify")
    assert manifest.tokenizer == {"bert": "wordpiece", "roberta": "roberta"}[family]
    assert manifest.limits.context_tokens == {"bert": 72, "roberta": 70}[family]
    assert labels.names == ("Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi")
    assert (labels.activation, labels.threshold) == ("sigmoid", 0.5)
    assert set(manifest.provenance["sha256"]) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_an_activation_can_be_given_for_a_checkpoint_that_does_not_say(checkpoint, store):
    _change_config(checkpoint, {"problem_type": None})
    assert import_classifier(checkpoint, store, "tags").labels().activation == "softmax"
    assert import_classifier(checkpoint, store, "tags", "sigmoid").labels().activation == "sigmoid"


def test_two_labels_without_names_are_what_transformers_leaves_out(write_classifier, family, tmp_path, store):
    write_classifier(tmp_path, family, id2label={0: "LABEL_0", 1: "LABEL_1"})
    _change_config(tmp_path, {"id2label": ..., "label2id": ...})
    assert import_checkpoint(tmp_path, store, "tags").labels().names == ("LABEL_0", "LABEL_1")


def _in_old_words(family):
    def change(weights):
        constants = {f"{family}.embeddings.position_ids": torch.arange(72)[None]}
        if family == "roberta":
            constants |= {f"roberta.pooler.dense.{kind}": torch.zeros(32) for kind in ("weight", "bias")}
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, old in names.items():
            weights = {name.replace(new, old): weight for name, weight in weights.items()}
        return weights | constants

    return change


def test_old_checkpoints_give_the_same_weights(saved, checkpoint, store, family):
    _rewrite(checkpoint, _in_old_words(family))
    bundles = [import_checkpoint(folder, store, "tags") for folder in (saved[0], checkpoint)]
    one, other = (load_file(bundle.path / WEIGHTS) for bundle in bundles)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_vocabularies_stand_in_for_the_tokenizer_file(checkpoint, store, family):
    whole = import_checkpoint(checkpoint, store, "tags").encoder_tokenizer()
    model = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    (checkpoint / "tokenizer.json").unlink()
    if family == "bert":
        (checkpoint / "vocab.txt").write_text("".join(f"{word}\n" for word in model["vocab"]))
    else:
        (checkpoint / "vocab.json").write_text(json.dumps(model["vocab"]))
        (checkpoint / "merges.txt").write_text("".join(" ".join(pair) + "\n" for pair in model["merges"]))
    parts = import_checkpoint(checkpoint, store, "tags").encoder_tokenizer()
    assert [parts.encode(text) for text in TEXTS] == [whole.encode(text) for text in TEXTS]


def test_a_cased_vocabulary_keeps_its_capitals(write_classifier, tmp_path, store):
    write_classifier(tmp_path, "bert")
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "model_max_length": 512}))
    tokenizer = import_checkpoint(tmp_path, store, "tags").encoder_tokenizer()
    assert tokenizer.encode("the fox") != tokenizer.encode("THE FOX")


CONFIG_REFUSALS = [
    ({"model_type": "distilbert"}, "model_type"),
    ({"problem_type": "regression"}, "problem_type"),
    ({"hidden_act": "silu"}, "hidden_act"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"is_decoder": True}, "is_decoder"),
    ({"num_attention_heads": 3}, "heads do not divide"),
    ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ({"hidden_size": "wide"}, "hidden_size"),
    ({"vocab_size": 7}, "tokens.weight is"),
    ({"id2label": {"0": "a", "1": "b", "3": "c", "2": "d", "5": "e"}}, "names the output '5'"),
    ({"id2label": {"0": "a", "1": "a"}}, "'a' stands twice"),
    ({"id2label": {}}, "id2label"),
    ({"id2label": {"0": "a"}}, r"head\.weight is"),
    ({"num_hidden_layers": 10**9}, "the config has 1000000000 layers"),
]


@pytest.mark.parametrize(("changes", "fault"), CONFIG_REFUSALS)
def test_what_our_model_does_not_compute_is_refused_by_name(checkpoint, store, changes, fault):
    _change_config(checkpoint, changes)
    with pytest.raises(StoreError, match=fault) as caught:
        import_checkpoint(checkpoint, store, "tags")
    assert len(str(caught.value).splitlines()) == 1
    assert store.names() == []


def _without(part):
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


def _with(part, weight):
    return lambda weights: {name: weight if part in name else old for name, old in weights.items()}


WEIGHT_REFUSALS = {
    "no classifier": (_without("classifier"), "lack head.weight"),
    "no query": (_without("layer.1.attention.self.query.weight"), r"blocks\.1\.attention\.qkv\.weight"),
    "no types": (_without("token_type"), "lack token types"),
    "types of another width": (_with("token_type", torch.ones(2, 5)), r"token_type_embeddings is \[2, 5\]"),
    "key of another width": (_with("layer.0.attention.self.key.weight", torch.ones(32, 5)), "other widths"),
    "masked language model": (
        lambda weights: weights | {"cls.predictions.bias": torch.ones(9)},
        "the weights hold cls.predictions.bias",
    ),
    "not finite": (_with("layer.0.output.dense.bias", torch.full((32,), torch.nan)), "not finite"),
    "integers": (_with("layer.0.output.dense.bias", torch.ones(32, dtype=torch.int64)), "is torch.int64"),
}


@pytest.mark.parametrize(("change", "fault"), WEIGHT_REFUSALS.values(), ids=WEIGHT_REFUSALS.keys())
def test_weights_that_do_not_fit_are_refused_by_name(checkpoint, store, change, fault):
    _rewrite(checkpoint, change)
    with pytest.raises(StoreError, match=fault):
        import_checkpoint(checkpoint, store, "tags")
    assert store.names() == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"garbage \xff"])
def test_damaged_files_are_refused_by_name(checkpoint, store, name, content):
    (checkpoint / name).write_bytes(content)
    with pytest.raises(StoreError, match="tokenizer in" if name == "tokenizer.json" else name):
        import_checkpoint(checkpoint, store, "tags")


def test_what_a_family_has_not_is_refused(checkpoint, saved_checkpoint, store):
    with pytest.raises(StoreError, match="leave --fields out"):
        import_checkpoint(checkpoint, store, "tags", PromptFields.from_format("genre<|a|>plot<|b|>"))
    with pytest.raises(StoreError, match="leave --activation out"):
        import_checkpoint(saved_checkpoint, store, "gpt2", activation="sigmoid")


def test_a_gpt2_is_known_by_its_config(saved_checkpoint, store):
    assert import_checkpoint(saved_checkpoint, store, "gpt2").manifest.family == "gpt2"


def test_half_precision_becomes_fp32(checkpoint, store):
    _rewrite(checkpoint, lambda weights: {name: weight.half() for name, weight in weights.items()})
    bundle = import_checkpoint(checkpoint, Store(store.root), "tags")
    assert {weight.dtype for weight in load_file(bundle.path / WEIGHTS).values()} == {torch.float32}
