"""Curves of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contracts.errors import StoreError

LOSSES = "loss.png"
_GENERATOR, _DISCRIMINATOR, _REAL = "#c0392b", "#0b57a4", "#2e7d4f"
_TRAINING, _VALIDATION, _GRID = "#9aa7b8", "#c0392b", "#e3e6ea"


def draw_losses(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Training and validation loss over the steps, the best validation marked. Raises StoreError."""
    figure, axes = empty_figure("step", "loss, nats per token")
    trained = [line for line in lines if "loss" in line]
    validated = [line for line in lines if "validation_loss" in line]
    axes.plot(
        [line["step"] for line in trained], [line["loss"] for line in trained], color=_TRAINING, lw=1, label="training"
    )
    if validated:
        steps, losses = [line["step"] for line in validated], [line["validation_loss"] for line in validated]
        axes.plot(steps, losses, color=_VALIDATION, lw=1.8, marker="o", ms=3, label="validation")
        best = min(range(len(losses)), key=losses.__getitem__)
        axes.axhline(losses[best], color=_VALIDATION, lw=0.8, ls=":")
        axes.set_title(f"best validation loss {losses[best]:.4f} at step {steps[best]:,.0f}", fontsize=11)
    # The first steps' losses, of a model that knows nothing, would press the rest into a line.
    shown = sorted(line["loss"] for line in trained)
    if len(shown) > 20:
        low = min([shown[0], *(line["validation_loss"] for line in validated)])
        axes.set_ylim(low - 0.05 * (shown[int(0.97 * len(shown))] - low), shown[int(0.97 * len(shown))])
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_gan_losses(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Those of generator and discriminator over the steps, and their means over epochs. Raises StoreError."""
    figure, axes = empty_figure("step", "loss, nats")
    for name, colour in (("generator", _GENERATOR), ("discriminator", _DISCRIMINATOR)):
        _draw_with_epochs(axes, lines, f"{name}_loss", colour, name)
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_scores(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Mean probabilities of being real that the discriminator gives real and generated pictures. Raises StoreError."""
    figure, axes = empty_figure("step", "mean score of the discriminator")
    for name, colour in (("real", _REAL), ("fake", _GENERATOR)):
        _draw_with_epochs(axes, lines, f"{name}_score", colour, f"{name} pictures")
    axes.axhline(0.5, color="black", lw=0.8, ls=":")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False)
    save_figure(figure, path)


def draw_distances(lines: Sequence[dict[str, float]], path: Path) -> None:
    """Of generated pictures to real ones over the epochs, logarithmic, the smallest marked. Raises StoreError."""
    figure, axes = empty_figure("epoch", "distance to the real pictures")
    measured = [line for line in lines if "epoch_distance" in line]
    if measured:
        epochs = [line["epoch"] for line in measured]
        distances = [line["epoch_distance"] for line in measured]
        axes.plot(epochs, distances, color=_GENERATOR, lw=1.8, marker="o", ms=3)
        best = min(range(len(distances)), key=distances.__getitem__)
        if distances[best] > 0:
            axes.set_yscale("log")
        axes.axhline(distances[best], color=_GENERATOR, lw=0.8, ls=":")
        axes.set_title(f"smallest distance {distances[best]:.4f} after epoch {epochs[best]:,.0f}", fontsize=11)
    save_figure(figure, path)


def _draw_with_epochs(axes: Any, lines: Sequence[dict[str, float]], name: str, colour: str, label: str) -> None:
    """A thin line of all measurements, a thick one of the means over epochs."""
    fine, coarse = ([line for line in lines if key in line] for key in (name, f"epoch_{name}"))
    axes.plot([line["step"] for line in fine], [line[name] for line in fine], color=colour, lw=0.8, alpha=0.45)
    means = [line[f"epoch_{name}"] for line in coarse]
    axes.plot([line["step"] for line in coarse], means, color=colour, lw=1.8, marker="o", ms=3, label=label)


def draw_learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: float, path: Path) -> None:
    """Loss over the learning rate, logarithmic, with the one that is proposed. Raises StoreError."""
    figure, axes = empty_figure("learning rate", "loss, nats per token")
    axes.plot(rates, losses, color=_VALIDATION, lw=1.8)
    axes.set_xscale("log")
    axes.axvline(chosen, color="black", lw=1, ls=":")
    axes.set_title(f"proposed learning rate {chosen:.1e}", fontsize=11)
    save_figure(figure, path)


def empty_figure(x: str, y: str, *, width: float = 8.0, height: float = 4.5, extra: str = "train") -> tuple[Any, Any]:
    """A figure of so many inches and its axes, with their names. Raises StoreError where the library is missing, which
    `extra` holds."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise StoreError(f"figures need matplotlib; install it with: pip install 'kamishibai[{extra}]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """It appears whole."""
    incoming = path.with_name(f".incoming-{path.name}")
    figure.savefig(incoming, format="png", dpi=120)
    incoming.replace(path)
