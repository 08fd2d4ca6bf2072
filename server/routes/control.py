"""Control of models and workers, for operators: off unless the server was started with it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint
from flask.typing import ResponseReturnValue
from redis import Redis

from contracts import controls
from contracts.announcements import read_announcements
from contracts.errors import Forbidden, NotFound, StoreError
from contracts.requests import PromoteBody, RollbackBody, ShadowBody
from server import answers, client
from server.admission import Body, decode, parse
from server.services import Services, services
from server.shadow_control import store_fault

blueprint = Blueprint("control", __name__)


@blueprint.post("/v1/models/<name>/load")
def load_model(name: str) -> ResponseReturnValue:
    """Have the workers serve a model again that was unloaded."""
    return _control_model(name, controls.load, "load")


@blueprint.post("/v1/models/<name>/unload")
def unload_model(name: str) -> ResponseReturnValue:
    """Have the workers serve a model no longer. What was accepted is still done, then its memory is free."""
    return _control_model(name, controls.unload, "unload")


@blueprint.post("/v1/models/<name>/reload")
def reload_model(name: str) -> ResponseReturnValue:
    """Have the workers read a model anew from the store, into a fresh engine process beside the one that serves."""
    return _control_model(name, controls.reload, "reload")


@blueprint.post("/v1/models/<name>/shadow")
def begin_shadow(name: str) -> ResponseReturnValue:
    """Have a share of what new requests for a model run on also run on another version or variant, and compare."""
    here = _allowed_for(name)
    body = _body(here, ShadowBody)
    return dict(here.shadows.begin(name, body.candidate, body.share)), 201


@blueprint.get("/v1/models/<name>/shadow")
def read_shadow(name: str) -> ResponseReturnValue:
    """What the comparison that runs has found, or the last one."""
    here = services()
    here.catalogue.check_known(name)
    return dict(here.shadows.read(name))


@blueprint.delete("/v1/models/<name>/shadow")
def stop_shadow(name: str) -> ResponseReturnValue:
    """Compare no longer. What was found can be read for a week."""
    return dict(_allowed_for(name).shadows.stop(name))


@blueprint.post("/v1/models/<name>/promote")
def promote_model(name: str) -> ResponseReturnValue:
    """Have new requests run on the candidate, or on the version given. What was accepted stays where it is."""
    here = _allowed_for(name)
    body = _body(here, PromoteBody)
    return _choose(lambda: here.shadows.promote(name, body.to))


@blueprint.post("/v1/models/<name>/rollback")
def roll_back_model(name: str) -> ResponseReturnValue:
    """Have new requests run on what they ran on before, or on the version given."""
    here = _allowed_for(name)
    body = _body(here, RollbackBody)
    return _choose(lambda: here.shadows.roll_back(name, body.to))


@blueprint.get("/v1/workers")
def list_workers() -> ResponseReturnValue:
    """The workers, and what they serve."""
    here = services()
    drained = controls.read_controls(here.redis).drained
    data: list[answers.Worker] = [
        {
            "id": each.worker,
            "object": "worker",
            "device": each.device,
            "ready": each.ready,
            "drained": each.worker in drained,
            "models": [f"{served.target.model}@{served.target.version}" for served in each.models],
        }
        for each in read_announcements(here.redis)
    ]
    return {"object": "list", "data": data}


@blueprint.post("/v1/workers/<name>/drain")
def drain_worker(name: str) -> ResponseReturnValue:
    """Have a worker end what it has and take nothing more."""
    return _control_worker(name, controls.drain, "drain")


@blueprint.post("/v1/workers/<name>/resume")
def resume_worker(name: str) -> ResponseReturnValue:
    """Have a drained worker take jobs again."""
    return _control_worker(name, controls.resume, "resume")


def _allowed_for(name: str) -> Services:
    here = _allowed()
    here.catalogue.check_known(name)
    return here


def _body(here: Services, kind: type[Body]) -> Body:
    """No body at all is an empty one."""
    return parse(kind, decode(client.body(here.settings.slow_client_seconds) or b"{}"))


def _choose(act: Callable[[], answers.Choice]) -> ResponseReturnValue:
    try:
        return dict(act())
    except (StoreError, OSError) as error:
        raise store_fault(error) from None


def _control_model(name: str, act: Callable[[Redis, str], None], word: answers.Control) -> ResponseReturnValue:
    here = _allowed()
    here.catalogue.check_known(name)
    act(here.redis, name)
    return {"id": name, "object": "model", "asked": word}, 202


def _control_worker(name: str, act: Callable[[Redis, str], None], word: answers.Control) -> ResponseReturnValue:
    here = _allowed()
    known = sorted(each.worker for each in read_announcements(here.redis))
    if name not in known:
        raise NotFound(f"There is no worker {name[:80]!r}; there is: {', '.join(known) or 'none'}", param="name")
    act(here.redis, name)
    return {"id": name, "object": "worker", "asked": word}, 202


def _allowed() -> Services:
    here = services()
    if here.settings.model_control != "on":
        raise Forbidden("This server controls no models and workers; start it with KAMISHIBAI_MODEL_CONTROL=on.")
    return here
