"""A DCGAN generator that somebody saved as the state dict of a plain `nn.Sequential` becomes a bundle.

Keys are `0.weight`, `1.weight`, ...: transposed convolutions at 0, 3, 6, ..., each but the last followed by batch norm
and ReLU. Sizes are read off the weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from contracts.bundle import Bundle, sha256_of
from contracts.errors import StoreError
from contracts.store import Store
from export.draft import Draft
from export.formats import Wishes
from models.dcgan import DcganConfig
from models.pretrained.weights import read_checkpoint
from models.weights import read_safetensors

_CONVOLUTION = re.compile(r"(\d{1,3})\.weight")


def import_dcgan(file: Path, store: Store, name: str, wishes: Wishes | None = None) -> Bundle:
    """The next version of model `name`, from `file`: what `torch.save` wrote, or safetensors.

    Raises StoreError for damaged files and for what is no generator of models/dcgan.py.
    """
    weights = read_safetensors(file) if file.suffix == ".safetensors" else read_checkpoint(file)
    draft = Draft(
        config=_config(file, weights),
        weights=weights,
        tokenizer=None,
        example_prompt=None,
        provenance={"source": "pytorch", "sha256": {file.name: sha256_of(file)}},
    )
    return draft.publish(store, name, wishes)


def _config(file: Path, weights: dict[str, Tensor]) -> DcganConfig:
    found = ((_CONVOLUTION.fullmatch(name), weight) for name, weight in weights.items())
    convolutions = {int(match[1]): weight for match, weight in found if match and weight.dim() == 4}
    if sorted(convolutions) != list(range(0, 3 * len(convolutions), 3)) or len(convolutions) < 3:
        raise StoreError(
            f"{file} is no DCGAN generator: its convolutions stand at {sorted(convolutions) or 'no place'} instead of"
            " 0.weight, 3.weight, 6.weight, ...; save the state dict of the nn.Sequential itself"
        )
    first, last = convolutions[0], convolutions[3 * len(convolutions) - 3]
    try:
        return DcganConfig(
            size=4 << (len(convolutions) - 1), latent=first.shape[0], width=last.shape[0], channels=last.shape[1]
        )
    except ValueError as error:
        raise StoreError(f"{file} is no DCGAN generator: {error}") from None
