"""The state of a run between two steps: tensors as safetensors, all else as JSON, so nothing of it can run code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from contracts.errors import StoreError
from models.weights import read_safetensors, write_safetensors

_PREFIX = "checkpoint-"
_TENSORS, _STATE = "tensors.safetensors", "state.json"


class Checkpoint(NamedTuple):
    weights: dict[str, Tensor]
    optimizers: dict[str, dict[str, Any]]  # by name, as the state_dict of each gives it
    carried: dict[str, Tensor]  # what an objective carries from batch to batch
    state: dict[str, Any]  # plain JSON


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """It appears whole; older ones then go."""
    tensors = {f"weights.{name}": tensor for name, tensor in checkpoint.weights.items()}
    plain: dict[str, dict[str, Any]] = {}
    for which, optimizer in checkpoint.optimizers.items():
        plain[which], optimizer_tensors = _flatten(optimizer)
        tensors |= {f"optimizer.{which}.{name}": tensor for name, tensor in optimizer_tensors.items()}
    tensors |= {f"carried.{name}": tensor for name, tensor in checkpoint.carried.items()}
    incoming, final = folder / f".incoming-{step}", folder / f"{_PREFIX}{step:09}"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    write_safetensors({name: tensor.detach().cpu() for name, tensor in tensors.items()}, incoming / _TENSORS)
    (incoming / _STATE).write_text(json.dumps({**checkpoint.state, "optimizers": plain}), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)  # of the same step: saved at its end, then saved again when stopped there
    incoming.rename(final)
    for older in _checkpoints(folder):
        if older != final:
            shutil.rmtree(older)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The last one of a run; None where none was reached. Raises StoreError for one that cannot be read."""
    if not (found := _checkpoints(folder)):
        return None
    tensors = read_safetensors(found[-1] / _TENSORS)
    try:
        state = json.loads((found[-1] / _STATE).read_text(encoding="utf-8"))
        optimizers = {
            which: _unflatten(plain, _under(f"optimizer.{which}.", tensors))
            for which, plain in state.pop("optimizers").items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{found[-1]} cannot be gone on from: {error!r}") from None
    return Checkpoint(_under("weights.", tensors), optimizers, _under("carried.", tensors), state)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any] | None) -> None:
    """Raises StoreError for a state of other weights, and for none."""
    try:
        optimizer.load_state_dict(state or {})
    except (ValueError, KeyError) as error:
        raise StoreError(f"the checkpoint's optimizer does not fit this model: {error}") from None


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state as JSON and tensors, by `weight number.name`."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                plain[f"{number}.{name}"] = value
    return {"plain": plain, "groups": state["param_groups"]}, tensors


def _unflatten(flat: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**flat["plain"], **tensors}.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return {"state": state, "param_groups": flat["groups"]}
