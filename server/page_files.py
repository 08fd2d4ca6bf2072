"""The files of the page for people: read once, compressed once, and sent anew only where they have changed."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import Response, request

from contracts.errors import NotFound

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
INDEX_ENDPOINT = "operations.index"
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Scripts and styles are files of ours, so nothing that a model writes can become one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class PageFile:
    content: bytes
    compressed: bytes
    digest: str
    media_type: str


def is_asked_for() -> bool:
    """Whether the current request is a browser's for the page, and not a program's for the list of routes."""
    if request.endpoint != INDEX_ENDPOINT:
        return False
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"


def page_response(name: str) -> Response:
    """One file. Raises NotFound for a name that the page does not have."""
    file = _files().get(name)
    if file is None:
        raise NotFound(f"The page has no file {name[:80]!r}; open / in a browser.", param="name")
    takes_gzip = request.accept_encodings["gzip"] > 0
    response = Response(file.compressed if takes_gzip else file.content, mimetype=file.media_type)
    response.set_etag(f"{file.digest}-gzip" if takes_gzip else file.digest)
    if takes_gzip:
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept, Accept-Encoding"
    response.headers["Cache-Control"] = "no-cache"  # asked for again each time, so that an update is seen at once
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.make_conditional(request)
    return response


@cache
def _files() -> dict[str, PageFile]:
    """By name. Names are looked up here and never joined to a path."""
    paths = [path for path in sorted(FOLDER.rglob("*")) if path.suffix in MEDIA_TYPES]
    return {path.relative_to(FOLDER).as_posix(): _read(path) for path in paths}


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    return PageFile(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        digest=hashlib.sha256(content).hexdigest()[:32],
        media_type=MEDIA_TYPES[path.suffix],
    )
