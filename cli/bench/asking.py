"""One request and what became of it: nothing that a server does is an exception here."""

from __future__ import annotations

import asyncio
import time
from typing import Self
from urllib.parse import SplitResult

from cli.bench.calls import Call
from cli.bench.connections import Connections, Exchange
from cli.bench.content import Unusable, read
from cli.bench.http_answer import BrokenAnswer
from cli.bench.outcome import Fault, Outcome


class Asking:
    """Asks one server, and gives up after so many seconds."""

    def __init__(self, address: SplitResult, api_key: str | None, timeout_seconds: float) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._connections = Connections(address)
        self._authorization = f"Authorization: Bearer {api_key}\r\n" if api_key is not None else ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connections.close()

    async def ask(self, call: Call, due: float) -> Outcome:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                exchange = await self._connections.ask(self._request(call))
        except TimeoutError:
            fault = Fault("timeout", f"no whole answer after {self._timeout_seconds:g} s")
        except ConnectionRefusedError as error:
            fault = Fault("connection refused", str(error))
        except (BrokenAnswer, OSError) as error:
            fault = Fault("broken stream" if call.streams else "connection lost", str(error) or type(error).__name__)
        else:
            return _outcome(call, due, exchange)
        return Outcome(call, due, began, time.perf_counter(), fault=fault)

    def _request(self, call: Call) -> bytes:
        content = call.content()
        head = (
            f"POST {self._address.path}{call.path} HTTP/1.1\r\nHost: {self._address.netloc}\r\n{self._authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode("latin-1") + content


def _outcome(call: Call, due: float, exchange: Exchange) -> Outcome:
    try:
        return Outcome(call, due, exchange.sent, exchange.ended, content=read(call, exchange))
    except Unusable as error:
        return Outcome(call, due, exchange.sent, exchange.ended, fault=Fault(error.kind, error.message))
