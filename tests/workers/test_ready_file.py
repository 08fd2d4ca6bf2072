"""workers/ready_file.py: what a container's probe sees of a worker."""

from __future__ import annotations

import logging
import signal
import time

from workers.ready_file import ReadyFile


def test_it_is_there_as_long_as_the_worker_takes_jobs(tmp_path):
    file = ReadyFile(tmp_path / "ready")
    file.show(False)
    assert not (tmp_path / "ready").exists()
    file.show(True)
    first = (tmp_path / "ready").stat().st_mtime_ns
    time.sleep(0.02)
    file.show(True)
    assert (tmp_path / "ready").stat().st_mtime_ns > first
    file.show(False)
    assert not (tmp_path / "ready").exists()


def test_a_disk_that_refuses_is_told_of_once(tmp_path, caplog):
    file = ReadyFile(tmp_path / "missing" / "ready")
    with caplog.at_level(logging.WARNING):
        file.show(True)
        file.show(True)
    assert [record.message for record in caplog.records] == [caplog.records[0].message]
    assert "the ready file cannot be kept" in caplog.text


def test_a_worker_shows_it_from_its_first_warm_up_to_its_end(start_worker, tmp_path):
    shown = tmp_path / "ready"
    worker = start_worker(environment={"KAMISHIBAI_READY_FILE": str(shown)}, wait=False)
    assert not shown.exists()
    deadline = time.monotonic() + 60
    while not shown.exists():
        assert time.monotonic() < deadline, "it was not ready within 60 s"
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0
    assert not shown.exists()
