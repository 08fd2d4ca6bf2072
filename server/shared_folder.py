"""Where the processes of one server count together: a scrape reaches any one of them. Imports no prometheus_client:
what the process that starts the others has imported, gevent can only patch in part in them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

_PREFIX = "kamishibai-counters-"


class Place(NamedTuple):
    """Where one process counts: the folder of all, and a number that no other living process of this server has."""

    folder: Path
    number: int


class SharedFolder:
    """A private folder for as long as a server lives. A process's files have the number of its place, not its id: the
    process that comes after a dead one counts on where that one stopped. So nothing is lost, and nothing grows."""

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        _remove_abandoned(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))  # of mode 700
            self._lock = os.open(self.path, os.O_RDONLY)  # held by the children too, until the last of them has gone
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():  # another server that starts just now may have taken it for abandoned
                return
            os.close(self._lock)

    def forget_open(self, number: int) -> None:
        """The process with this number has died: nobody waits at it any more."""
        (self.path / f"gauge_livesum_{number}.db").unlink(missing_ok=True)

    def remove(self) -> None:
        """The server has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_abandoned(parent: Path) -> None:
    """Folders of servers that were killed: nobody holds their locks."""
    for folder in parent.glob(_PREFIX + "*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue  # somebody else's, or just gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # it is in use
        finally:
            os.close(lock)
