"""What a run tells while it is trained: a bar, a line of JSON every few steps, TensorBoard, a loss curve."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from contracts.errors import StoreError
from training.progress import progress_bar

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
Curve = Callable[[Sequence[dict[str, float]], Path], None]  # draws lines into a file


class SilentJournal:
    """Of the processes that only help."""

    def write(self, step: int, **values: float) -> None: ...

    def show(self, **values: str) -> None: ...

    def say(self, text: str) -> None: ...

    def draw(self, curve: Curve, name: str) -> None: ...

    def advance(self) -> None: ...

    def close(self) -> None: ...


class Journal(SilentJournal):
    """`logs` also writes TensorBoard's events and curves, which need libraries of the extra `train`."""

    def __init__(self, folder: Path, *, steps: int, step: int, show_progress: bool, logs: bool) -> None:
        """Goes on at `step`; what was written after it is forgotten. Raises StoreError where a library is missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._events = _events(folder / TENSORBOARD, step) if logs else None
        self._lines = [line for line in read_metrics(folder) if line["step"] <= step]
        self._write_lines()
        self._bar = progress_bar(steps, folder.name, done=step, show=show_progress)
        self._shown: dict[str, str] = {}

    def write(self, step: int, **values: float) -> None:
        """A line of measurements after `step` steps."""
        line = {"step": step, **values}
        self._lines.append(line)
        with (self._folder / METRICS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def show(self, **values: str) -> None:
        """Beside the bar, from now on."""
        self._shown |= values
        self._bar.set_postfix(self._shown, refresh=False)

    def say(self, text: str) -> None:
        """Above the bar, if there is one."""
        if not self._bar.disable:
            tqdm.write(text, file=sys.stderr)

    def draw(self, curve: Curve, name: str) -> None:
        """Of all lines up to now, into the file of this name."""
        if self._events is not None:
            curve(self._lines, self._folder / name)

    def advance(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def _write_lines(self) -> None:
        incoming = self._folder / f".incoming-{METRICS}"
        incoming.write_text("".join(json.dumps(line) + "\n" for line in self._lines), encoding="utf-8")
        incoming.replace(self._folder / METRICS)


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a run; a last one that was cut off is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _events(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise StoreError(
            "TensorBoard's logs need tensorboard; install it with: pip install 'kamishibai[train]'"
        ) from None
    return SummaryWriter(str(folder), purge_step=step)
