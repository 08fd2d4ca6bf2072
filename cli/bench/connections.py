"""Connections to one server that are kept and used again: the least that a client of HTTP/1.1 has to do.

Half of what a general client does for a request is not needed here, and would be taken from the server where both share
a machine. Redirects and proxies are not followed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import SplitResult

from cli.bench.http_answer import BrokenAnswer, HttpAnswer


@dataclass
class Exchange:
    """A request's answer as it comes in."""

    sent: float  # when it was written to the connection, on time.perf_counter
    answer: HttpAnswer = field(default_factory=HttpAnswer)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # of the body, with the times they came in
    ended: float = 0.0

    @property
    def body(self) -> bytes:
        return b"".join(piece for _, piece in self.pieces)


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.alive = True
        self.used = False  # for a request before
        self.answered = False  # whether anything has come for the one that was sent last
        self._exchange: Exchange | None = None
        self._over: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a stream's, tells mypy
        self._transport = transport

    async def ask(self, request: bytes) -> Exchange:
        """Raises BrokenAnswer, and OSError of the connection."""
        self._over = asyncio.get_running_loop().create_future()
        self._exchange = exchange = Exchange(time.perf_counter())
        self.answered = False
        self._transport.write(request)
        try:
            await self._over
        except BaseException:  # also when nobody waits any more: what still comes is of no request
            self.abort()
            raise
        finally:
            self._exchange = self._over = None
        self.used = True
        if not exchange.answer.reusable:
            self.abort()
        return exchange

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        exchange, over = self._exchange, self._over
        if exchange is None or over is None or over.done():  # nobody has asked for this
            self.abort()
            return
        self.answered = True
        try:
            if piece := exchange.answer.feed(data):
                exchange.pieces.append((now, piece))
        except BrokenAnswer as error:
            over.set_exception(error)
            return
        if exchange.answer.ended:
            exchange.ended = now
            over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        now = time.perf_counter()
        self.alive = False
        exchange, over = self._exchange, self._over
        if exchange is None or over is None or over.done():
            return
        try:
            exchange.answer.close()
        except BrokenAnswer as broken:
            over.set_exception(error or broken)
            return
        exchange.ended = now
        over.set_result(None)

    def abort(self) -> None:
        self.alive = False
        self._transport.abort()


class Connections:
    """As many as there are requests at once. The one that was used last is used next."""

    def __init__(self, address: SplitResult) -> None:
        self._host = address.hostname or ""
        self._port = address.port or (443 if address.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._idle: list[_Connection] = []
        self._addresses: list[tuple[str, int]] = []  # after the first connection the one that took it

    async def ask(self, request: bytes) -> Exchange:
        """Raises BrokenAnswer and OSError."""
        while True:
            connection = await self._connection()
            used = connection.used
            try:
                exchange = await connection.ask(request)
            except (BrokenAnswer, OSError):
                # A server may close a kept connection just as it is used again; a new one tells what is the matter.
                if used and not connection.answered:
                    continue
                raise
            if connection.alive:
                self._idle.append(connection)
            return exchange

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # in which the loop closes them

    async def _connection(self) -> _Connection:
        while self._idle:
            if (connection := self._idle.pop()).alive:
                return connection
        return await self._connect()

    async def _connect(self) -> _Connection:
        """To the first of the host's addresses where somebody listens."""
        loop = asyncio.get_running_loop()
        if not self._addresses:  # looked up once: that takes a thread, and may take long
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys((str(each[4][0]), self._port) for each in found))
        name = self._host if self._tls else None
        for place, (host, port) in enumerate(self._addresses):
            try:
                _, made = await loop.create_connection(_Connection, host, port, ssl=self._tls, server_hostname=name)
            except OSError:
                if place + 1 == len(self._addresses):
                    raise
            else:
                self._addresses = [(host, port)]
                return made
        raise AssertionError("a host has at least one address")
