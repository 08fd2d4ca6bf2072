"""The page's files: what browsers get, compressed and only once, under a policy that runs nothing else."""

from __future__ import annotations

import gzip
import re

import pytest

from contracts.api_keys import ApiKeys
from server import page_files
from server.app import create_app

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
FILES = {path.relative_to(page_files.FOLDER).as_posix(): path for path in page_files.FOLDER.rglob("*")}
OWN = [name for name in FILES if name.endswith((".js", ".css", ".html", ".svg")) and not name.startswith("vendor/")]


def imports_of(name, pattern):
    text = FILES[name].read_text()
    return {found.removeprefix("./") for found in re.findall(pattern, text)}


def first_paint():
    """What a browser fetches before it shows the first tab: the document, what it names, and what that imports."""
    found, waiting = set(), ["index.html", *imports_of("index.html", r'(?:src|href)="/page/([^"]+)"')]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += imports_of(name, r'(?m)^(?:import|export) [^;]*?from "([^"]+)";') if name.endswith(".js") else ()
    return found


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (BROWSER["Accept"], "text/html"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html", "text/html"),
        (None, "application/json"),
    ],
)
def test_browsers_get_the_page_and_programs_the_list_of_routes(client, accept, kind):
    answer = client.get("/", headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200
    assert answer.mimetype == kind
    assert "Accept" in answer.headers["Vary"], "no cache may give one the other's"


def test_its_policy_allows_own_files_alone(client):
    policy = client.get("/", headers=BROWSER).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert client.get("/page/main.js").headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_comes_compressed_to_clients_that_take_it_and_is_the_same(client):
    plain = client.get("/page/main.js", headers={"Accept-Encoding": "identity"})
    packed = client.get("/page/main.js", headers={"Accept-Encoding": "gzip, br"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data == FILES["main.js"].read_bytes()
    assert packed.headers["ETag"] != plain.headers["ETag"]


def test_a_file_that_has_not_changed_is_not_sent_again(client):
    first = client.get("/page/page.css")
    again = client.get("/page/page.css", headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304
    assert again.data == b""
    assert first.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", sorted(name for name, path in FILES.items() if path.suffix in page_files.MEDIA_TYPES))
def test_every_file_is_served_as_what_it_is(client, name):
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.mimetype == page_files.MEDIA_TYPES[FILES[name].suffix]


@pytest.mark.parametrize(
    "name", ["nothing.js", "vendor/README.md", "vendor/nothing.js", "..%2fapp.py", "%2e%2e/app.py"]
)
def test_nothing_else_is_served(client, name):
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_open_where_keys_are_needed_and_what_it_shows_is_not(settings, worker, redis):
    ApiKeys(redis).create("one", "infer")
    client = create_app(settings).test_client()
    assert client.get("/", headers=BROWSER).status_code == 200
    assert client.get("/page/main.js").status_code == 200
    assert client.get("/").status_code == 401
    assert client.get("/v1/models", headers=BROWSER).status_code == 401


def test_the_first_paint_takes_less_than_100_kb(client):
    files = first_paint()
    assert {"index.html", "main.js", "page.css", "play_text.js", "vendor/htm-preact.js"} <= files
    assert "vendor/uplot.js" not in files, "charts are loaded with the dashboard"
    sizes = {name: len(client.get(f"/page/{name}", headers={"Accept-Encoding": "gzip"}).data) for name in files}
    assert sum(sizes.values()) < 100_000, sizes


@pytest.mark.parametrize("name", OWN)
def test_no_file_needs_another_site_or_makes_markup_of_text(name):
    text = FILES[name].read_text()
    assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=\"", text)


def test_every_library_is_told_of_with_its_licence():
    told = FILES["vendor/README.md"].read_text()
    for name, path in FILES.items():
        if name.startswith("vendor/") and path.suffix in page_files.MEDIA_TYPES:
            assert f"`{path.name}`" in told
    for licence in re.findall(r"`(LICENSE-\w+)`", told):
        assert f"vendor/{licence}" in FILES
