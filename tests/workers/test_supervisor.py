"""The supervisor with real processes: restarts, back-off, the order of the end, and no survivors."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from workers.supervisor import Part

# A part that notes what happens to it. Options: "stubborn" ignores SIGTERM, "brief" ends at once.
PART = """
import os, signal, sys, time
name, log, kind = sys.argv[1:4]
def note(event):
    with open(log, "a") as file:
        file.write(f"{time.monotonic()} {name} {event} {os.getpid()}\\n")
def leave(*_):
    time.sleep(0.1)
    note("stopped")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if kind == "stubborn" else leave)
note("started")
if kind == "brief":
    sys.exit(3)
time.sleep(60)
"""

SUPERVISOR = """
import json, logging, sys
from workers.supervisor import Part, Supervisor
logging.basicConfig(stream=sys.stderr)
Supervisor([Part(**part) for part in json.loads(sys.argv[1])]).run()
"""


class Supervised:
    """A supervisor in a process of its own, and the log that its parts write."""

    def __init__(self, folder: Path, kinds: dict[str, str], stop_seconds: float) -> None:
        self._log = folder / "log"
        self._log.touch()
        script = folder / "part.py"
        script.write_text(PART)
        parts = [
            {
                "name": name,
                "command": [sys.executable, "-S", str(script), name, str(self._log), kind],
                "stop_seconds": stop_seconds,
            }
            for name, kind in kinds.items()
        ]
        command = [sys.executable, "-P", "-c", SUPERVISOR, json.dumps(parts)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def events(self, kind: str) -> list[tuple[float, str, int]]:
        """(time, part, process id) of all events of a kind, in order."""
        rows = [line.split() for line in self._log.read_text().splitlines()]
        return [(float(moment), name, int(pid)) for moment, name, event, pid in rows if event == kind]

    def wait_for(self, kind: str, count: int) -> list[tuple[float, str, int]]:
        deadline = time.monotonic() + 15
        while len(found := self.events(kind)) < count:
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        return found

    def stop(self) -> str:
        """Ask it to stop; what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=15)[1]


@pytest.fixture
def supervise(tmp_path):
    started: list[Supervised] = []

    def start(kinds: dict[str, str], stop_seconds: float = 5.0) -> Supervised:
        started.append(Supervised(tmp_path, kinds, stop_seconds))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate()
        for _, _, pid in each.events("started"):
            if is_part(pid):
                os.kill(pid, signal.SIGKILL)


def is_part(pid: int) -> bool:
    """Whether a part of ours lives under this id."""
    try:
        process = psutil.Process(pid)
        return any("part.py" in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_parts_stop_in_reverse_order_one_after_the_other(supervise):
    running = supervise({"redis": "", "worker": "", "server": ""})
    started = running.wait_for("started", 3)
    running.stop()
    assert running.process.returncode == 0
    stopped = running.events("stopped")
    assert [name for _, name, _ in stopped] == ["server", "worker", "redis"]
    assert all(later[0] - earlier[0] > 0.09 for earlier, later in itertools.pairwise(stopped))
    assert not any(is_part(pid) for _, _, pid in started)


def test_a_killed_part_is_started_again_and_the_others_are_left_alone(supervise):
    running = supervise({"redis": "", "worker": ""})
    pids = {name: pid for _, name, pid in running.wait_for("started", 2)}
    os.kill(pids["redis"], signal.SIGKILL)
    *_, (_, name, pid) = running.wait_for("started", 3)
    assert name == "redis"
    assert is_part(pid)
    assert is_part(pids["worker"])
    assert "redis died (status -9)" in running.stop()


def test_a_part_that_keeps_dying_is_started_ever_more_slowly(supervise):
    running = supervise({"broken": "brief", "worker": ""})
    running.wait_for("started", 6)
    times = [moment for moment, name, _ in running.wait_for("started", 6) if name == "broken"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) >= 4
    for gap, backoff in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=False):
        assert backoff < gap < backoff + 0.6
    assert sum(name == "worker" for _, name, _ in running.events("started")) == 1
    assert "broken died (status 3); it starts again in 0.4 s" in running.stop()


def test_a_stubborn_part_is_killed_after_its_time(supervise):
    running = supervise({"redis": "", "stubborn": "stubborn"}, stop_seconds=0.5)
    pids = {name: pid for _, name, pid in running.wait_for("started", 2)}
    asked_at = time.monotonic()
    said = running.stop()
    assert 0.5 < time.monotonic() - asked_at < 5
    assert running.process.returncode == 0
    assert "stubborn did not stop within" in said
    assert not is_part(pids["stubborn"])
    assert [name for _, name, _ in running.events("stopped")] == ["redis"]


def test_ctrl_c_stops_too_and_reaches_the_supervisor_alone(supervise):
    running = supervise({"worker": ""})
    ((_, _, pid),) = running.wait_for("started", 1)
    assert os.getsid(pid) == pid
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 0
    assert [name for _, name, _ in running.events("stopped")] == ["worker"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent-death signal")
def test_parts_do_not_outlive_a_killed_supervisor(supervise):
    running = supervise({"redis": "", "worker": ""})
    pids = [pid for _, _, pid in running.wait_for("started", 2)]
    running.process.kill()
    wait_until(lambda: not any(map(is_part, pids)))
    assert sorted(name for _, name, _ in running.events("stopped")) == ["redis", "worker"]


def test_backoff_is_bounded_however_often_a_part_dies_and_forgiven_after_a_steady_run():
    part = Part("part", ["false"], started_at=time.monotonic(), failures=5000)
    part.note_death()
    assert 9 < part.next_start - time.monotonic() <= 10
    part.started_at = time.monotonic() - 60
    part.note_death()
    assert part.next_start - time.monotonic() <= 0.1
    assert part.failures == 1


def test_a_part_gets_its_own_variables_on_top_of_ours(monkeypatch, tmp_path):
    monkeypatch.setenv("OURS", "1")
    code = "import os, sys; open(sys.argv[1], 'w').write(os.environ['OURS'] + os.environ['ITS'])"
    part = Part("part", [sys.executable, "-S", "-c", code, str(tmp_path / "said")], {"ITS": "2"})
    part.start()
    assert part.process is not None
    assert part.process.wait(10) == 0
    assert part.has_died()
    assert (tmp_path / "said").read_text() == "12"
