"""Bundles of the store, for workers that share no folder with this server."""

from __future__ import annotations

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from contracts.errors import Forbidden
from server import answers
from server.access import caller
from server.file_pieces import FilePieces
from server.services import services
from server.stock import Stock, Stocked
from server.threads import in_thread

blueprint = Blueprint("bundles", __name__)


@blueprint.get("/v1/bundles")
def list_bundles() -> ResponseReturnValue:
    """All versions of the store."""
    found: answers.BundleList = {"object": "list", "data": [_body(each) for each in in_thread(_stock().list)]}
    return found


@blueprint.get("/v1/bundles/<name>/<version>/manifest")
def read_bundle_manifest(name: str, version: str) -> ResponseReturnValue:
    """A version's manifest as it was written: its SHA-256 is the digest."""
    return Response(in_thread(_stock().manifest, name, version), mimetype="application/json")


@blueprint.get("/v1/bundles/<name>/<version>/files/<sha256>")
def read_bundle_file(name: str, version: str, sha256: str) -> ResponseReturnValue:
    """A file of a version, by its hash; whole, or a range of its bytes."""
    file, size = in_thread(_stock().open_file, name, version, sha256)
    response = Response(FilePieces(file), mimetype="application/octet-stream")
    response.call_on_close(file.close)
    response.content_length = size
    response.set_etag(sha256)
    response.headers["X-Content-Type-Options"] = "nosniff"
    try:
        return response.make_conditional(request, accept_ranges=True, complete_length=size)
    except RequestedRangeNotSatisfiable:
        file.close()
        raise


def _stock() -> Stock:
    """Raises Forbidden where the store is not for others."""
    here = services()
    shared = here.settings.share_store
    if shared == "off" or (shared == "auto" and caller().owner is None):
        raise Forbidden(
            "This server gives its models to nobody. Make a key with `kamishibai keys create NAME --scope worker`, or"
            " start it with KAMISHIBAI_SHARE_STORE=on to give them to all who reach it."
            if shared == "auto"
            else "This server gives its models to nobody: it was started with KAMISHIBAI_SHARE_STORE=off."
        )
    return here.stock


def _body(stocked: Stocked) -> answers.Bundle:
    return {
        "id": f"{stocked.model}@{stocked.version}",
        "object": "bundle",
        "model": stocked.model,
        "version": stocked.version,
        "digest": stocked.digest,
        "bytes": stocked.bytes,
        "latest": stocked.latest,
        "variant": stocked.variant,
    }
