"""What all training loops share around a step: the seed, the bar and the measurements."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from tqdm import tqdm


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's generator starts from `seed`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
        interval = 0.1 if sys.stderr.isatty() else 5.0  # a log file wants no animation
        with tqdm(total=self.steps, desc=self.name, unit="step", disable=not self.show, mininterval=interval) as bar:
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
