"""Bars of training loops, and the measurements of one without a journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from tqdm import tqdm


def progress_bar(steps: int, name: str, *, done: int = 0, show: bool = True) -> tqdm[NoReturn]:
    """On stderr, with speed and time left. A log file, which wants no animation, gets a line every few seconds."""
    interval = 0.1 if sys.stderr.isatty() else 5.0
    return tqdm(total=steps, initial=done, desc=name, unit="step", disable=not show, mininterval=interval)


@dataclass
class Progress:
    """Counts steps on a bar that shows the loss beside the speed, and sums the run up."""

    name: str
    steps: int
    show: bool = True
    losses: dict[str, list[float]] = field(default_factory=dict)  # name -> one value per step
    seconds: float = 0.0

    def __iter__(self) -> Iterator[int]:
        """The steps 0 .. steps - 1."""
        begin = time.perf_counter()
        with progress_bar(self.steps, self.name, show=self.show) as bar:
            for step in range(self.steps):
                yield step
                bar.set_postfix({name: f"{values[-1]:.3f}" for name, values in self.losses.items()}, refresh=False)
                bar.update()
        self.seconds = time.perf_counter() - begin

    def record(self, **losses: float) -> None:
        """The losses of the step just made."""
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)

    def metrics(self) -> dict[str, float]:
        """Each loss' mean over the last tenth of the steps, the number of steps and the seconds they took."""
        last = max(1, self.steps // 10)
        means = {name: sum(values[-last:]) / last for name, values in self.losses.items()}
        return {**means, "steps": self.steps, "seconds": round(self.seconds, 3)}
