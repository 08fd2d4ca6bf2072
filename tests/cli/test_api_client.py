"""The client of a running server, beside servers that are none of ours: it says what is wrong and gives no key away."""

from __future__ import annotations

import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import api_client
from cli.api_client import ApiClient
from cli.dump_pace import Pace
from contracts.errors import EngineFailed, InvalidRequest, KamishibaiError, NotFound, NotReady, RateLimited

ERROR = {"error": {"message": "It says why.", "type": "server_error", "param": None, "code": "any"}}


@pytest.fixture
def foreign():
    """A server that gives these answers, one after the other; the last for ever. `seen` are the requests' headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.seen.append((self.path, dict(self.headers)))
            status, headers, content = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        answers: list[tuple[int, dict[str, str], bytes]]
        seen: list[tuple[str, dict[str, str]]]

    with Server(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address_of(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


def refused(client, path="/v1/models/x"):
    with pytest.raises(KamishibaiError) as found:
        client.ask("GET", path)
    assert found.value.message.isprintable()
    return found.value


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidRequest), (404, NotFound), (418, InvalidRequest), (500, EngineFailed), (503, NotReady)],
)
def test_an_error_of_the_api_is_that_error(foreign, status, kind):
    foreign.answers = [(status, {}, json.dumps(ERROR).encode())]
    error = refused(ApiClient(address_of(foreign)))
    assert (type(error), error.message) == (kind, "It says why.")


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [("17", 17.0), (None, 2.0), ("Fri, 20 Nov 2026 23:00:00 GMT", 2.0)]
)
def test_a_limit_says_when_to_come_back(foreign, retry_after, seconds):
    foreign.answers = [(429, {"Retry-After": retry_after} if retry_after else {}, json.dumps(ERROR).encode())]
    error = refused(ApiClient(address_of(foreign)))
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize("content", [b"<html>", b"\xff", b"[]", b"{}", b'{"error": "no"}', b"[" * 100_000])
def test_what_is_no_answer_of_the_api_is_told(foreign, content):
    foreign.answers = [(404, {}, content)]
    error = refused(ApiClient(address_of(foreign)))
    assert re.search("answers 404 .* is no Kamishibai server; name another one with --server", error.message)
    foreign.answers = [(502, {}, content)]
    assert isinstance(refused(ApiClient(address_of(foreign))), NotReady)


def test_a_redirect_is_not_followed_and_takes_no_key_along(foreign):
    foreign.answers = [(302, {"Location": f"{address_of(foreign)}/elsewhere"}, b"")]
    refused(ApiClient(address_of(foreign), "kmb_secret"))
    assert [path for path, _ in foreign.seen] == ["/v1/models/x"]
    assert foreign.seen[0][1]["Authorization"] == "Bearer kmb_secret"


def test_a_path_before_the_api_stays(foreign):
    foreign.answers = [(200, {}, b"{}")]
    assert ApiClient(f"{address_of(foreign)}/behind/a/proxy/v1/").ask("GET", "/v1/models") == {}
    assert foreign.seen[0][0] == "/behind/a/proxy/v1/models"


def test_a_server_that_is_away_is_waited_for(foreign, monkeypatch):
    monkeypatch.setattr(api_client, "RETRY_SECONDS", 0.01)
    away: tuple[int, dict[str, str], bytes] = (503, {}, json.dumps(ERROR).encode())
    foreign.answers = [away, away, (200, {}, b'{"there": true}')]
    assert ApiClient(address_of(foreign)).insist("GET", "/v1/models") == {"there": True}
    assert len(foreign.seen) == 3
    foreign.answers = [away]
    monkeypatch.setattr(api_client, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(NotReady):
        ApiClient(address_of(foreign)).insist("GET", "/v1/models")


def test_a_server_that_is_not_there_is_told_with_the_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        error = refused(ApiClient(address))
    assert error.message.startswith(f"{address} cannot be reached (Connection refused); start a server there with")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:8000",
        "ftp://a",
        "http://",
        "http://a:x",
        "http://a:0",
        "http://a:99999",
        "http://u:p@a",
        "http://a?b",
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(
        InvalidRequest, match=r"--server is .* which is no address; write it like http://127.0.0.1:8000"
    ):
        ApiClient(address)


@given(st.text())
def test_any_address_is_taken_or_refused(address):
    with suppress(InvalidRequest):  # and nothing else
        ApiClient(address)


@pytest.mark.parametrize("key", ["kmb_\nx", "schlüssel"])
def test_a_key_that_fits_into_no_header_is_refused_without_being_shown(key):
    with pytest.raises(InvalidRequest, match="copy it again") as found:
        ApiClient("http://a", key)
    assert key not in found.value.message


def test_the_command_says_that_nobody_is_there(kamishibai, tmp_path):
    ended = kamishibai("dump", "lstm", "--genres", "a", "--output", tmp_path / "dump", "--server", "http://127.0.0.1:1")
    assert (ended.status, ended.out) == (1, "")
    assert "http://127.0.0.1:1 cannot be reached" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_dump_sends_less_once_it_is_refused_and_more_once_it_is_not():
    pace = Pace()
    assert (pace.due(0), pace.room(0)) == (True, 1000)
    assert (pace.due(501), pace.due(500), pace.room(500)) == (False, True, 500)
    pace.slow_down(8, 0.0)
    assert (pace.due(5), pace.due(4), pace.room(4)) == (False, True, 4)
    sizes = []
    for _ in range(50):
        pace.speed_up()
        sizes.append(pace.room(0))
    assert sizes[:4] == [10, 12, 14, 16]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 1000
    pace.slow_down(0, 60.0)
    assert (pace.due(0), pace.room(0)) == (False, 1)
