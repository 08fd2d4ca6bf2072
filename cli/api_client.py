"""A running server, asked over HTTP: with an API key, without redirects and proxies, and with patience."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from contracts.errors import (
    EngineFailed,
    Forbidden,
    InvalidRequest,
    KamishibaiError,
    NotFound,
    NotReady,
    RateLimited,
    Unauthenticated,
)

TIMEOUT_SECONDS = 60.0
PATIENCE_SECONDS = 120.0  # with a server that was there: it may be restarted, and so may its workers
RETRY_SECONDS = 2.0  # where the server does not say when

_AWAY = frozenset({502, 503, 504})  # what a proxy says, too, while its server is restarted
_OF_STATUS: dict[int, type[KamishibaiError]] = {401: Unauthenticated, 403: Forbidden, 404: NotFound}


class ApiClient:
    def __init__(self, address: str, api_key: str | None = None, *, option: str = "--server") -> None:
        """`option` is how the command line names the server. Raises InvalidRequest for what is no address or no
        key."""
        self.address = _split(address, option)
        self._option = option
        self._headers = {"Content-Type": "application/json"}
        if api_key is not None:
            if not (api_key.isascii() and api_key.isprintable()):
                raise InvalidRequest("the API key holds characters that no key has; copy it again")
            self._headers["Authorization"] = f"Bearer {api_key}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of an answer. Raises the error that it holds: RateLimited with its time, NotReady for a server that
        is away for now, and others that will stay."""
        content = None if body is None else json.dumps(body)
        with self._answer(method, path, content, headers) as answer:
            return self._json(answer, answer.read())

    @contextmanager
    def read(self, path: str, **headers: str) -> Iterator[http.client.HTTPResponse]:
        """An answer that is no JSON, to be read as it comes. Raises as `ask`."""
        with self._answer("GET", path, None, headers) as answer:
            if answer.status not in (200, 206):
                self._json(answer, answer.read())
                raise InvalidRequest(f"{self.address.geturl()} answers {answer.status} {answer.reason} to {path}")
            yield answer

    def insist(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """As `ask`, for what may be asked twice: a server that is away is waited for."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ask(method, path, body, **headers)
            except NotReady:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    @contextmanager
    def _answer(
        self, method: str, path: str, content: str | None, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """What breaks while it is read is NotReady, too."""
        try:
            with closing(self._connection()) as connection:
                connection.request(method, f"{self.address.path}{path}", content, self._headers | headers)
                yield connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NotReady(
                f"{self.address.geturl()} cannot be reached ({reason}); start a server there with `kamishibai up`,"
                f" or name another one with {self._option}"
            ) from None

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.address.scheme == "https" else http.client.HTTPConnection
        return kind(self.address.hostname or "", self.address.port, timeout=TIMEOUT_SECONDS)

    def _json(self, answer: http.client.HTTPResponse, content: bytes) -> Any:
        said = f"{self.address.geturl()} answers {answer.status} {answer.reason}"
        try:
            body = json.loads(content)
            if answer.status < 400:
                return body
            message = str(body["error"]["message"])
        except (ValueError, KeyError, TypeError, RecursionError):
            if answer.status in _AWAY:
                raise NotReady(f"{said}; try again when the server behind it is there") from None
            raise InvalidRequest(f"{said} and is no Kamishibai server; name another one with {self._option}") from None
        if answer.status == 429:
            raise RateLimited(message, retry_after_seconds=_seconds(answer.headers.get("Retry-After")))
        if answer.status in _AWAY:
            raise NotReady(message)
        if answer.status == 401:
            message += " Give it with --api-key or KAMISHIBAI_API_KEY."
        raise _OF_STATUS.get(answer.status, InvalidRequest if answer.status < 500 else EngineFailed)(message)


def _split(address: str, option: str) -> SplitResult:
    """The parts of an address; one that ends in /v1, as OpenAI's clients want it, is the server's, too."""
    try:
        parts = urlsplit(address.strip().rstrip("/").removesuffix("/v1"))
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and plain:
            return parts
    except ValueError:  # a port that is no number
        pass
    raise InvalidRequest(f"{option} is {address!r}, which is no address; write it like http://127.0.0.1:8000")


def _seconds(retry_after: str | None) -> float:
    """What Retry-After says, if it is a number of seconds."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else RETRY_SECONDS
