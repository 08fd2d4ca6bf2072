"""What the sampler measures, where it can be known beforehand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.soak.sampler import memory

MIB = 1 << 20


def test_memory_that_a_process_takes_is_its_own():
    before, _ = memory(os.getpid())
    taken = bytearray(os.urandom(64 * MIB))
    own, resident = memory(os.getpid())
    assert 60 * MIB < own - before < 80 * MIB
    assert own < resident
    assert len(taken) == 64 * MIB


def test_a_process_that_has_ended_is_an_os_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(OSError, match="No such"):
        memory(process.pid)
