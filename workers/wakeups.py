"""The worker parent's only wait: for its child, for other threads, for signals, and for the next chore."""

from __future__ import annotations

import selectors
import signal
import socket

from workers.channel import Channel


class WakeUps:
    """A bell inside the process that threads and signals ring."""

    def __init__(self) -> None:
        self._heard, self._rung = socket.socketpair()
        self._heard.setblocking(False)
        self._rung.setblocking(False)

    def listen_to_signals(self) -> None:
        """Every signal with a Python handler ends the wait. From the main thread only."""
        signal.set_wakeup_fd(self._rung.fileno(), warn_on_full_buffer=False)

    def wake(self) -> None:
        """From any thread."""
        try:
            self._rung.send(b"\0")
        except BlockingIOError:
            return  # it is awake already

    def wait(self, channels: list[Channel], seconds: float) -> bool:
        """Until a channel has messages, or room for what is unsent, or somebody wakes us. Returns whether one did."""
        with selectors.PollSelector() as selector:  # an epoll would be made and closed for every wait
            selector.register(self._heard, selectors.EVENT_READ)
            for channel in channels:
                selector.register(channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.has_unsent else 0))
            selector.select(max(0.0, seconds))
        return self._hear()

    def _hear(self) -> bool:
        heard = False
        try:
            while self._heard.recv(4096):
                heard = True
        except BlockingIOError:
            return heard
        return heard
