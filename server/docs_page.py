"""The OpenAPI document as one page: no scripts, nothing from elsewhere, so it works offline and can run no code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

from flask import Response
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape

Json = dict[str, Any]

_FOLDER = Path(__file__).parent / "templates"
_STYLE = (_FOLDER / "docs.css").read_text(encoding="utf-8")
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_page(document: Json, address: str) -> Response:
    """`address` is where the examples ask."""
    operations = [
        {**operation, "method": method.upper(), "path": path, "curl": _curl(address, method, path, operation)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    by_tag = {tag["name"]: [each for each in operations if tag["name"] in each["tags"]] for tag in document["tags"]}
    page = _TEMPLATES.get_template("docs.html").render(document=document, by_tag=by_tag, style=Markup(_STYLE))  # noqa: S704 - a file of ours
    return Response(page, content_type="text/html; charset=utf-8", headers={"Content-Security-Policy": _POLICY})


def _curl(address: str, method: str, path: str, operation: Json) -> str:
    """A command for a shell; what stands for a name in the path is left for the reader."""
    words = ["curl"] if method == "get" else ["curl", "-X", method.upper()]
    words.append(shlex.quote(address + re.sub(r"\{(\w+?)(_id)?\}", lambda name: name[1].upper(), path)))
    if "requestBody" in operation:
        example = json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
        words = ["curl", words[-1], "-H", "'Content-Type: application/json'", "-d", shlex.quote(example)]
    if operation.get("security") != []:
        words += ["-H", '"Authorization: Bearer $KAMISHIBAI_KEY"']
    return " ".join(words)


def _kind(schema: Json) -> Markup:
    """A schema in a few words; types of ours are links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{0}">{0}</a>').format(name)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return Markup(" or ").join(dict.fromkeys(map(_kind, branches)))
    if "const" in schema or "enum" in schema:
        return Markup(" | ").join(escape(json.dumps(each)) for each in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array" and "items" in schema:
        return Markup("list of {}").format(_kind(schema["items"]))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of {}").format(_kind(schema["additionalProperties"]))
    return escape(schema.get("type", "anything"))


def _marked(text: str | None) -> Markup:
    """Words in backticks are code, as in Markdown."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text or ""))))  # noqa: S704 - escaped just before


_RANGES = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "minLength": "characters, at least",
    "maxLength": "characters, at most",
    "minItems": "items, at least",
    "maxItems": "items, at most",
}


def _range(schema: Json) -> str:
    """What values it may have, of the first of its kinds that says so."""
    for each in (schema, *schema.get("anyOf", ())):
        if found := [f"{words} {each[name]:,}" for name, words in _RANGES.items() if name in each]:
            return ", ".join(found)
    return ""


_TEMPLATES = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.filters |= {"kind": _kind, "range": _range, "marked": _marked}
