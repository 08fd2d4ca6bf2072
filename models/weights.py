"""Weights and configs that files bring: held against each other before a model of that size takes any memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contracts.bundle import WEIGHTS, Bundle, Family
from contracts.errors import StoreError
from models.bert import Bert, BertConfig, RobertaConfig
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.lstm import LstmConfig, LstmLanguageModel

Config = LstmConfig | Gpt2Config | DcganConfig | BertConfig
Weights = dict[str, Tensor]  # by the names of the family's module
_CONFIGS: dict[Family, type[Config]] = {
    "lstm": LstmConfig,
    "gpt2": Gpt2Config,
    "dcgan": DcganConfig,
    "bert": BertConfig,
    "roberta": RobertaConfig,
}


def read_config(family: Family, values: dict[str, Any]) -> Config:
    """A manifest's or run's config. Raises StoreError for what is none of this family."""
    try:
        return _CONFIGS[family].from_manifest(values)
    except (TypeError, ValueError, KeyError) as error:
        raise StoreError(f"the config {values} does not fit the family {family!r}: {error}") from None


def family_of(config: Config) -> Family:
    """The family that a config is of."""
    return next(family for family, kind in _CONFIGS.items() if kind is type(config))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises StoreError for a file that is not safetensors."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: a type of numbers that PyTorch has not
        raise StoreError(f"{path} is not a safetensors file: {error}") from None


def write_safetensors(weights: Weights, path: Path) -> None:
    """Raises StoreError where they cannot be written: two names of one tensor, or a disk that is full."""
    try:
        save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    except (RuntimeError, SafetensorError) as error:
        raise StoreError(f"{path.name} cannot be written: {error}") from None


def fitting_weights(bundle: Bundle) -> tuple[Config, dict[str, Tensor]]:
    """A bundle's config and weights. Raises StoreError with everything in which they do not fit together."""
    config = read_config(bundle.manifest.family, bundle.manifest.config)
    weights = read_safetensors(bundle.path / WEIGHTS)
    if faults := weight_faults(config, weights):
        raise StoreError(f"{bundle.path / WEIGHTS} does not fit the manifest's config: " + "; ".join(faults))
    return config, weights


def weight_faults(config: Config, weights: dict[str, Tensor]) -> list[str]:
    """Everything in which weights and config do not fit together, sorted. Takes no memory for what a config claims.

    Raises StoreError for a config of which no model can be made.
    """
    if (layers := _layers(config)) > len(weights):  # even empty layers take memory
        return [f"the config has {layers} layers, the weights only {len(weights)} tensors"]
    expected = _empty_module(config).state_dict()
    faults = [f"the weights lack {name}" for name in expected.keys() - weights.keys()]
    faults += [f"the weights hold {name}, which its config has no place for" for name in weights.keys() - expected]
    for name in expected.keys() & weights.keys():
        have, need = weights[name], expected[name]
        if (have.shape, have.dtype) != (need.shape, need.dtype):
            faults.append(f"{name} is {have.dtype} {list(have.shape)} instead of {need.dtype} {list(need.shape)}")
        elif not torch.isfinite(have).all():
            faults.append(f"{name} holds values that are not finite")
    return sorted(faults)


def _layers(config: Config) -> int:
    if isinstance(config, DcganConfig):
        return len(config.feature_channels)
    return len(config.layers) if isinstance(config, LstmConfig) else config.layers


def _empty_module(config: Config) -> nn.Module:
    """The module of this config without memory for its weights: only names, shapes and dtypes."""
    try:
        with torch.device("meta"):
            if isinstance(config, DcganConfig):
                return generator(config)
            if isinstance(config, BertConfig):
                return Bert(config)
            return Gpt2(config) if isinstance(config, Gpt2Config) else LstmLanguageModel(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"{config} is not the config of a model: {error}") from None
