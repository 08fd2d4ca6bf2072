"""The models that a server offers, and which of them a benchmark asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator

from cli.api_answers import Answer, read
from cli.api_client import ApiClient
from cli.bench.results import ServedModel
from cli.bench.workload import Share
from contracts.bundle import Task
from contracts.errors import InvalidRequest
from contracts.store import split_name

_OURS = "kamishibai"  # what GET /v1/models of ours says of who owns a model


class _Model(Answer):
    id: str
    owned_by: str = ""
    version: int | None = None
    variant: str | None = None
    task: Task | None = None

    @model_validator(mode="before")
    @classmethod
    def _believe_only_ours(cls, model: Any) -> Any:
        """Others may mean something else by the names of our fields."""
        if isinstance(model, dict) and model.get("owned_by") != _OURS:
            return {"id": model.get("id")}
        return model


class _Models(Answer):
    data: list[_Model]


class Served:
    def __init__(self, client: ApiClient) -> None:
        """Raises what asking it raises."""
        self._models = {model.id: model for model in read(_Models, client.ask("GET", "/v1/models")).data}
        self._client = client

    @property
    def ours(self) -> bool:
        return any(model.owned_by == _OURS for model in self._models.values())

    def mix(self, wanted: Sequence[str], task: Task | None) -> tuple[Share, ...]:
        """Of `NAME` or `NAME=WEIGHT`; of none the only model that there is. `task` is for models whose server does not
        tell theirs. Raises InvalidRequest."""
        shares = [self._share(each, task) for each in wanted or [self._only()]]
        if len({share.model for share in shares}) < len(shares):
            raise InvalidRequest("a model is given twice with --model; give it once, with the sum of the weights")
        return tuple(shares)

    def model(self, name: str) -> ServedModel:
        found = self._found(name)
        return ServedModel(id=name, version=found.version, variant=found.variant)

    def _share(self, wanted: str, task: Task | None) -> Share:
        name, weight = wanted.rsplit("=", 1) if "=" in wanted else (wanted, "1")
        model = self._found(name)
        try:
            return Share(model=name, task=model.task or task or "text", weight=float(weight))
        except ValueError:
            raise InvalidRequest(
                f"--model is {wanted!r}, whose weight is no number above 0; write it like {name}=2"
            ) from None

    def _found(self, name: str) -> _Model:
        if name in self._models:
            return self._models[name]
        plain, version = split_name(name) if self.ours else (name, None)
        if version is not None and plain in self._models:  # another version than the latest
            self._models[name] = read(_Model, self._client.ask("GET", f"/v1/models/{name}"))
            return self._models[name]
        raise InvalidRequest(f"the server has no model {name!r}; it has {self._names()}")

    def _only(self) -> str:
        if len(self._models) == 1:
            return next(iter(self._models))
        raise InvalidRequest(f"say with --model which one to ask, or several; the server has {self._names()}")

    def _names(self) -> str:
        return ", ".join(self._models) or "none"
