"""A word LSTM that somebody saved as a plain state dict, with its vocabulary, becomes a bundle.

The state dict is that of a module with one embedding, one `nn.LSTM` of any number of layers and one linear layer,
whatever they are called: what they are is read off the shapes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel
from torch import Tensor

from contracts.bundle import Bundle
from contracts.errors import StoreError
from contracts.store import Store
from contracts.tokenizers import WordTokenizer
from export.draft import Draft
from export.formats import Wishes
from models.lstm import LstmConfig
from models.pretrained.source import Source, read_json
from models.pretrained.weights import read_checkpoint
from models.weights import read_safetensors

_RECURRENT = re.compile(r"(?P<place>.*?)(?P<kind>(?:weight|bias)_(?:ih|hh))_l(?P<layer>\d{1,3})")


class _Vocabulary(RootModel[list[str] | dict[str, Annotated[int, Field(ge=0)]]]):
    """Words in the order of their ids, or the id of each."""

    def words(self) -> list[str]:
        if isinstance(self.root, list):
            return self.root
        by_id = {number: word for word, number in self.root.items()}
        if sorted(by_id) != list(range(len(self.root))):
            raise StoreError(f"the ids of the vocabulary's {len(self.root)} words are not 0 to {len(self.root) - 1}")
        return [by_id[number] for number in range(len(by_id))]


def import_word_lstm(
    file: Path,
    vocabulary: Path,
    store: Store,
    name: str,
    unknown_token: str | None = None,
    lowercase: bool = True,
    wishes: Wishes | None = None,
) -> Bundle:
    """The next version of model `name`, from `file` (what `torch.save` wrote, or safetensors) and the JSON file
    `vocabulary`. Words of a prompt that it does not know are read as `unknown_token`, or left out without one.

    Raises StoreError for damaged files and for what is no such model.
    """
    source = Source(file.parent)
    path = source.file(file.name)
    weights = _our_weights(path, read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path))
    listed = Source(vocabulary.parent)
    words = read_json(_Vocabulary, listed.file(vocabulary.name)).words()
    tokenizer = WordTokenizer.of_foreign(words, unknown_token=unknown_token, lowercase=lowercase)
    embedding = weights["embedding.weight"]
    layers = [weight.shape[1] for key, weight in weights.items() if key.endswith("weight_hh_l0")]
    draft = Draft(
        config=LstmConfig(embedding.shape[0], tuple(layers), embedding=embedding.shape[1]),
        weights=weights,
        tokenizer=tokenizer,
        example_prompt=tokenizer.some_word(),
        provenance={"source": "pytorch", "sha256": source.digests | listed.digests},
    )
    return draft.publish(store, name, wishes)


def _our_weights(path: Path, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of models/lstm.py. Raises StoreError that says what is missing or too much."""
    ours: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    places = set()
    for name, weight in theirs.items():
        if match := _RECURRENT.fullmatch(name):
            places.add(match["place"])
            ours[f"layers.{int(match['layer'])}.{match['kind']}_l0"] = weight.float()
        else:
            rest[name] = weight.float()
    heads = [name.removesuffix("bias") for name, weight in rest.items() if name.endswith("bias") and weight.dim() == 1]
    expected = {f"{head}{kind}" for head in heads for kind in ("weight", "bias")}
    embeddings = [name for name, weight in rest.items() if name not in expected and weight.dim() == 2]
    if len(places) != 1 or len(heads) != 1 or len(embeddings) != 1 or rest.keys() != expected | set(embeddings):
        raise StoreError(
            f"{path} is not the state dict of one embedding, one LSTM and one linear layer: it holds"
            f" {', '.join(sorted(theirs)[:20]) or 'nothing'}"
        )
    ours = {name: ours[name] for name in sorted(ours, key=lambda name: (int(name.split(".")[1]), name))}
    (head,), (embedding,) = heads, embeddings
    return {
        "embedding.weight": rest[embedding],
        **ours,
        "head.weight": rest[f"{head}weight"],
        "head.bias": rest[f"{head}bias"],
    }
