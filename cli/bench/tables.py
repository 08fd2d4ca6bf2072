"""Results in rows, for the terminal and for the page; the first row of each is its head."""

from __future__ import annotations

from collections.abc import Callable

from cli.bench.distribution import PERCENTS, Distribution
from cli.bench.results import Level, Repeats, Results

Rows = list[list[str]]
WORDS = frozenset({"load", "model", "ms", "how", "the first one"})  # columns that hold words, not numbers
UNSURE = "*"  # behind a percentile beyond which nothing was measured

LATENCIES = {
    "time_to_first_token": "first token",
    "time_per_output_token": "per further token",
    "between_pieces": "between pieces",
    "end_to_end": "end to end",
}


def load_rows(results: Results) -> Rows:
    """A line for each level. Columns that would be empty are left out."""
    columns: dict[str, Callable[[Level], str | None]] = {
        "load": lambda level: f"{level.load}",
        "requests": lambda level: f"{level.requests:,}",
        "came/s": lambda level: _rate(level.came_rate),
        "failed": lambda level: f"{level.requests - level.succeeded:,}",
        "seconds": lambda level: f"{level.seconds:,.1f}",
        "requests/s": lambda level: _rate(level.rates.requests),
        "tokens/s": lambda level: _rate(level.rates.output_tokens),
        "pictures/s": lambda level: _rate(level.rates.pictures),
        "texts/s": lambda level: _rate(level.rates.texts),
        "good": lambda level: f"{level.goodput.share:.1%}" if level.goodput else None,
        "good/s": lambda level: _rate(level.goodput.rate) if level.goodput else None,
        "changed": lambda level: _changed(level.repeats),
        "client CPU": lambda level: f"{level.client.cpu_share:.0%}",
    }
    filled = {name: [cell(level) for level in results.levels] for name, cell in columns.items()}
    kept = {name: cells for name, cells in filled.items() if any(cell is not None for cell in cells)}
    return [list(kept), *([cell or "-" for cell in line] for line in zip(*kept.values(), strict=True))]


def latency_rows(results: Results) -> Rows:
    """A line for each level, model and kind of latency, in milliseconds."""
    several = len(results.workload.mix) > 1
    rows = [["load", *(["model"] if several else []), "ms", "of", *(f"p{percent}" for percent in PERCENTS), "most"]]
    for level in results.levels:
        for model in level.models:
            for name, words in LATENCIES.items():
                if found := getattr(model.latencies, name):
                    rows.append([f"{level.load}", *([model.model] if several else []), words, *_cells(found)])
    return rows


def model_rows(results: Results) -> Rows:
    """A line for each level and model of a mix."""
    rows = [["load", "model", "requests", "requests/s", "tokens/s", "prompt tokens", "new tokens"]]
    for level in results.levels:
        for model in level.models:
            counts = [model.prompt_tokens_mean, model.output_tokens_mean]
            rates = [model.rates.requests, model.rates.output_tokens]
            cells = [*(_rate(rate) for rate in rates), *(None if mean is None else f"{mean:,.1f}" for mean in counts)]
            rows.append([f"{level.load}", model.model, f"{model.succeeded:,}", *(cell or "-" for cell in cells)])
    return rows


def error_rows(results: Results) -> Rows:
    rows = [["load", "failed", "how", "the first one"]]
    for level in results.levels:
        rows += [[f"{level.load}", f"{each.count:,}", each.kind, each.example] for each in level.errors]
    return rows


def _cells(found: Distribution) -> list[str]:
    percentiles = [
        milliseconds(found.percentile(percent)) + ("" if found.is_sure(percent) else UNSURE) for percent in PERCENTS
    ]
    return [f"{found.count:,}", *percentiles, milliseconds(found.most)]


def milliseconds(seconds: float) -> str:
    return _digits(1000 * seconds)


def _rate(rate: float | None) -> str | None:
    return None if rate is None else _digits(rate)


def _digits(value: float) -> str:
    """Three that count."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _changed(repeats: Repeats | None) -> str | None:
    return None if repeats is None else f"{repeats.changed} of {repeats.repeated - repeats.unsteady - repeats.failed}"
