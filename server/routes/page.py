"""The page for people: its scripts, styles and pictures. The page itself is what browsers get at `/`."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from server.page_files import page_response

blueprint = Blueprint("page", __name__)


@blueprint.get("/page/<file>")
def read_page_file(file: str) -> ResponseReturnValue:
    """A file of the page."""
    return page_response(file)


@blueprint.get("/page/vendor/<file>")
def read_page_library(file: str) -> ResponseReturnValue:
    """A file of a library that the page uses."""
    return page_response(f"vendor/{file}")
