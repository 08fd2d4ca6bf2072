"""A TCP proxy before Redis, with a port for each process, so that one connection can be harmed and not the others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 16


class Link:
    """The way of one process to Redis, and what is wrong with it."""

    def __init__(self) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self.passable = asyncio.Event()  # not set: bytes are held back, as on a network that loses packets
        self.passable.set()
        self.writers: set[asyncio.StreamWriter] = set()


class Proxy:
    """Runs in a thread of its own. `upstream` is the Unix socket of Redis, which may come and go."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._links: dict[str, Link] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def open(self, name: str) -> int:
        """A port on 127.0.0.1 for the process of this name."""
        self._run(self._listen(name))
        return self._links[name].port

    def cut(self, name: str) -> None:
        """Reset the connections that there are; new ones are let through."""
        self._run(self._reset(self._links[name]))

    def delay(self, name: str, seconds: float) -> None:
        """Have every piece wait, both ways; 0 ends it."""
        self._links[name].delay_seconds = seconds

    def block(self, name: str, blocked: bool) -> None:
        """Hold everything back, silently, until it is let through again."""
        passable = self._links[name].passable
        self._loop.call_soon_threadsafe(passable.clear if blocked else passable.set)

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    async def _listen(self, name: str) -> None:
        link = self._links[name] = Link()
        server = await asyncio.start_server(lambda r, w: self._serve(link, r, w), "127.0.0.1", 0)
        link.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for link in self._links.values():
            await self._reset(link)
        await asyncio.sleep(0)

    async def _reset(self, link: Link) -> None:
        for writer in link.writers:
            writer.transport.abort()

    async def _serve(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link.writers.add(writer)
        try:
            there, back = await asyncio.open_unix_connection(str(self._upstream))
        except OSError:  # Redis is away: so is this connection, at once
            writer.transport.abort()
            link.writers.discard(writer)
            return
        link.writers.add(back)
        await asyncio.gather(_pump(link, reader, back), _pump(link, there, writer))
        link.writers -= {writer, back}


async def _pump(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until one side has gone; then the other goes too."""
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE_BYTES):
            if link.delay_seconds:
                await asyncio.sleep(link.delay_seconds)
            await link.passable.wait()
            writer.write(piece)
            await writer.drain()
    writer.transport.abort()
