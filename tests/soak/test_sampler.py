"""What the sampler measures, where it can be known beforehand."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from tests.soak.sampler import connected_clients, memory

MIB = 1 << 20


def test_memory_that_a_process_takes_is_its_own():
    before, _ = memory(os.getpid())
    taken = bytearray(os.urandom(64 * MIB))
    own, resident = memory(os.getpid())
    assert 60 * MIB < own - before < 80 * MIB
    assert own < resident
    assert len(taken) == 64 * MIB


def test_a_client_that_has_gone_is_no_connected_one():
    process, ours = psutil.Process(), []
    before = connected_clients(process)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(3):
            ours += [socket.create_connection(server.getsockname()), server.accept()[0]]
        assert connected_clients(process) - before == 6  # both ends are of this process
        ours[0].close()
        assert connected_clients(process) - before == 4
        for end in ours:
            end.close()


def test_a_process_that_has_ended_is_an_os_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="No such"):
        memory(process.pid)
