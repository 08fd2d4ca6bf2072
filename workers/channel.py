"""The line between worker parent and engine child: msgpack messages over a socket pair."""

from __future__ import annotations

import socket
from typing import Any

import msgpack

_MOST_BYTES = 256 << 20


class ChannelClosed(Exception):
    """The other side has gone."""


class Channel:
    """One end. A blocking end waits; a non-blocking one never does: what cannot be sent now is kept for `flush`."""

    def __init__(self, end: socket.socket, *, blocking: bool) -> None:
        end.setblocking(blocking)
        self._socket = end
        self._unpacker = msgpack.Unpacker(max_buffer_size=_MOST_BYTES)
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, message: dict[str, Any]) -> None:
        """Raises ChannelClosed."""
        self._unsent += msgpack.packb(message)
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as it goes. Raises ChannelClosed."""
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            raise ChannelClosed from None

    def receive(self) -> list[dict[str, Any]]:
        """All messages that are complete; a blocking end waits for bytes. Raises ChannelClosed."""
        try:
            data = self._socket.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            raise ChannelClosed from None
        if not data:
            raise ChannelClosed
        self._unpacker.feed(data)
        return list(self._unpacker)

    def close(self) -> None:
        self._socket.close()
