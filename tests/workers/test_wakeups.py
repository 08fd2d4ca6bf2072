"""The parent's wait ends for its child, for other threads and for signals, and for nothing else."""

from __future__ import annotations

import signal
import socket
import threading
import time

import pytest

from workers.channel import Channel
from workers.wakeups import WakeUps


@pytest.fixture
def wake_ups():
    made = WakeUps()
    yield made
    made._heard.close()
    made._rung.close()


@pytest.fixture
def channels():
    ours, theirs = socket.socketpair()
    made = Channel(ours, blocking=False), Channel(theirs, blocking=True)
    yield made
    for channel in made:
        channel.close()


def test_nobody_wakes_us(wake_ups, channels):
    began = time.monotonic()
    assert not wake_ups.wait([channels[0]], 0.2)
    assert 0.19 < time.monotonic() - began < 2
    assert not wake_ups.wait([], -1.0), "what is due already is not waited for"


def test_a_thread_wakes_us_once_however_often_it_calls(wake_ups):
    def call() -> None:
        for _ in range(100_000):
            wake_ups.wake()

    caller = threading.Thread(target=call)
    caller.start()
    caller.join(10)
    assert wake_ups.wait([], 10)
    assert not wake_ups.wait([], 0.0)


def test_a_message_ends_the_wait_but_wakes_nobody(wake_ups, channels):
    ours, theirs = channels
    theirs.send({"op": "ready"})
    began = time.monotonic()
    assert not wake_ups.wait([ours], 10)
    assert time.monotonic() - began < 5
    assert ours.receive() == [{"op": "ready"}]


def test_a_signal_wakes_us(wake_ups):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        wake_ups.listen_to_signals()
        threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGUSR1)).start()
        assert wake_ups.wait([], 10)
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]
