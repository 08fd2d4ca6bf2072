"""Which variant of a model is fastest on a kind of device: `STORE/<model>/tuned.json`, written by `kamishibai tune`.

{"2": {"AMD EPYC, 2 threads": {"variant": "onnx:fp32", "rates": {"onnx:fp32": 1200.5, ...}, "measured_at": ...}}}
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from contracts.bundle import DEFAULT_VARIANT
from contracts.errors import StoreError
from contracts.files import read_small, replace_file
from contracts.requests import describe
from contracts.store import Store, check_name

TUNED = "tuned.json"

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Choice(BaseModel):
    """The fastest variant of those within their bounds. Rates are units per second, a mean over batch sizes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: str
    rates: dict[str, Rate]  # by variant
    measured_at: int  # Unix seconds

    @property
    def gain(self) -> float | None:
        """How many times as fast as the default; None if either was not measured."""
        mine, default = self.rates.get(self.variant), self.rates.get(DEFAULT_VARIANT)
        return mine / default if mine and default else None


class _Choices(RootModel[dict[str, dict[str, Choice]]]):
    """By version, then by device class."""


def read_choice(store: Store, name: str, version: int, device_class: str) -> Choice | None:
    """None if nothing was measured there. Raises StoreError for a file that is damaged."""
    return _read(store, name).root.get(str(version), {}).get(device_class)


def write_choice(store: Store, name: str, version: int, device_class: str, choice: Choice) -> None:
    """Whole or not at all. Choices for versions that are gone are dropped."""
    known = set(map(str, store.versions(name)))
    choices = {each: by_device for each, by_device in _read(store, name).root.items() if each in known}
    choices.setdefault(str(version), {})[device_class] = choice
    replace_file(store.root / check_name(name) / TUNED, (_Choices(choices).model_dump_json(indent=2) + "\n").encode())


def _read(store: Store, name: str) -> _Choices:
    path = store.root / check_name(name) / TUNED
    try:
        return _Choices.model_validate_json(read_small(path))
    except FileNotFoundError:
        return _Choices({})
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise StoreError(f"{path} is damaged ({describe(error)}); remove it and run `kamishibai tune {name}`") from None
