"""A file that is there, and fresh, as long as a worker takes jobs: what a container's probe looks at without Python."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)


class ReadyFile:
    def __init__(self, path: Path | None) -> None:
        """None: nobody looks."""
        self._path = path
        self._told = False

    def show(self, ready: bool) -> None:
        """Called every few seconds. A disk that refuses is told of once; jobs go on."""
        if self._path is None:
            return
        try:
            if ready:
                self._path.touch()
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            if not self._told:
                log.warning("the ready file cannot be kept, so probes call this worker unready: %s", error)
                self._told = True
