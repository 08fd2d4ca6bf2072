"""Puts what lies in `benchmarks/results/` into the tables of the PAGES below; the words between them are people's.

    python benchmarks/page.py [--check]

A table stands between `<!-- begin NAME -->` and `<!-- end -->`. Of each benchmark the newest file counts, by the date
in its name; of text engines the newest for each model. `--check` only says whether the pages are as the files have it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / name for name in ("performance.md", "scaling.md")]
RESULTS = ROOT / "benchmarks" / "results"
REGION = re.compile(r"(<!-- begin ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Rows = list[dict[str, Any]]
PEERS = {"onnx:int8": "CTranslate2 int8", "pytorch:fp32": "CTranslate2 float32", "onnx:fp32": "CTranslate2 float32"}


class Results:
    """What the files say. A benchmark that nobody has run has no rows."""

    def __init__(self, folder: Path) -> None:
        self._files = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}

    def newest(self, benchmark: str) -> dict[str, Any]:
        dated = re.compile(rf"{re.escape(benchmark)}-\d{{4}}-\d\d-\d\d\.json")
        found = [content for file, content in self._files.items() if dated.fullmatch(file.name)]
        return found[-1] if found else {}

    def text_engines(self, benchmark: str = "text-engines") -> Rows:
        """The newest figures of each model and number of requests."""
        files = [file for file in self._files if file.name.startswith(f"{benchmark}-")]
        by_case: dict[str, Rows] = {}
        for file in sorted(files, key=lambda file: file.stem[-10:]):
            rows: Rows = self._files[file]["results"]
            by_case |= {case: [row for row in rows if row["case"] == case] for case in {row["case"] for row in rows}}
        return [row for case in sorted(by_case) for row in by_case[case]]

    def ratios(self, case: str, engine: str, peer: str) -> list[float]:
        """Of tokens per second, for 1, 8, ... requests."""
        rows = [row for row in self.text_engines() if row["case"] == case]
        rate = {(row["engine"], row["rows"]): row["tokens_per_second"] for row in rows}
        return [rate[engine, count] / rate[peer, count] for name, count in sorted(rate) if name == engine]

    def served(self, case: str) -> list[float]:
        return [row["ratio"] for row in self.newest("served-text").get("results", []) if row["case"] == case]

    def pictures(self, peer: str) -> list[float]:
        """The best of our variants beside a peer."""
        rows = self.newest("pictures").get("served", [])
        rate = {row["server"]: row["pictures_per_second"] for row in rows}
        ours = [value for server, value in rate.items() if server.startswith("Kamishibai")]
        return [max(ours) / rate[peer]] if ours and peer in rate else []

    def echo(self) -> list[float]:
        rows = self.newest("serving").get("results", [])
        rate = {(row["case"], row["clients"], row["server"]): row["requests_per_second"] for row in rows}
        wanted = [("complete", 32, server) for server in ("Kamishibai", "LitServe")]
        return [rate[wanted[0]] / rate[wanted[1]]] if all(each in rate for each in wanted) else []

    def single(self, benchmark: str, name: str) -> list[float]:
        found = self.newest(benchmark).get(name)
        return [] if found is None else [found]


@dataclass(frozen=True)
class Goal:
    """A row of the table of goals; `wanted` are times the peer's rate, one for each number of requests."""

    work: str
    peer: str
    wanted: tuple[float, ...]
    reached: Callable[[Results], Sequence[float]]

    def row(self, results: Results) -> list[str]:
        reached = self.reached(results)
        if not reached:
            return [self.work, self.peer, _times(self.wanted), "not measured", ""]
        missing = [1 - have / want for have, want in zip(reached, self.wanted, strict=True)]
        short = [f"{lack:.0%}" if lack > 0 else "-" for lack in missing]
        verdict = "reached" if max(missing) <= 0 else f"falls short by {' / '.join(short)}"
        return [self.work, self.peer, _times(self.wanted), _times(reached), verdict]


def _times(ratios: Sequence[float]) -> str:
    return " / ".join(f"{ratio:.3g}x" for ratio in ratios)


CHARACTERS, WORDS, EAGER = "characters 2x128", "words 100 -> 3x512 -> 20000", "eager nn.LSTM"
GOALS = [
    Goal(
        "GPT-2 124M engine, int8, 1 / 8 / 32 requests",
        "CTranslate2 int8",
        (2.5, 2.0, 1.2),
        lambda results: results.ratios("GPT-2 124M", "onnx:int8", "CTranslate2 int8"),
    ),
    Goal(
        "the same in fp32",
        "CTranslate2 float32",
        (1.3, 1.7, 2.0),
        lambda results: results.ratios("GPT-2 124M", "onnx:fp32", "CTranslate2 float32"),
    ),
    Goal("GPT-2 124M served, 32 clients", "our engine", (0.85,), lambda results: results.served("gpt2")),
    Goal(
        "character LSTM engine, 64 requests",
        "eager PyTorch loop",
        (2.5,),
        lambda results: results.ratios(CHARACTERS, "onnx:int8", EAGER),
    ),
    Goal(
        "character LSTM served, 64 clients (a stretch goal)",
        "our engine",
        (0.7,),
        lambda results: results.served("characters"),
    ),
    Goal(
        "word LSTM engine, 64 requests",
        "eager PyTorch loop",
        (4.0,),
        lambda results: results.ratios(WORDS, "onnx:int8", EAGER),
    ),
    Goal("DCGAN served as PNG, 16 each, 16 clients", "LitServe", (1.8,), lambda results: results.pictures("LitServe")),
    Goal("the same", "mosec", (1.3,), lambda results: results.pictures("mosec")),
    Goal("echo over HTTP, 32 clients, every job durable", "LitServe", (1.2,), Results.echo),
    Goal(
        "queue alone, claim to complete", "RQ's SimpleWorker", (12.0,), lambda results: results.single("queue", "ratio")
    ),
]


def goals(results: Results) -> str:
    head = ["work", "peer, same run", "goal", "reached", ""]
    return table(head, [goal.row(results) for goal in GOALS])


def text_engines(results: Results, benchmark: str = "text-engines") -> str:
    rows = results.text_engines(benchmark)
    rate = {(row["case"], row["rows"], row["engine"]): row["tokens_per_second"] for row in rows}
    lines = []
    for row in rows:
        peer = PEERS.get(row["engine"], "") if row["case"].startswith("GPT-2") else EAGER
        base = rate.get((row["case"], row["rows"], peer))
        ours = row["invariant"] is not None and base
        times = f"{row['tokens_per_second'] / base:.2f}x {peer}" if ours else ""
        known = {True: "yes", False: "NO", None: ""}[row["invariant"]]
        lines.append([row["case"], str(row["rows"]), row["engine"], f"{row['tokens_per_second']:,.0f}", times, known])
    return table(["model", "requests", "engine", "tokens/s", "times its peer", "invariant"], lines)


def served_text(results: Results) -> str:
    lines = []
    for row in results.newest("served-text").get("results", []):
        first = row["levels"][0]["models"][0]["latencies"]["time_to_first_token"]
        changed = sum(level["repeats"]["changed"] for level in row["levels"])
        repeated = sum(level["repeats"]["repeated"] for level in row["levels"])
        told = [f"{1000 * first[name]:,.0f}" for name in ("p50", "p99")]
        rates = [f"{row['engine']:,.0f}", f"{row['served']:,.0f}", f"{row['ratio']:.0%}"]
        lines.append([row["case"], str(row["clients"]), *rates, " / ".join(told), f"{changed} of {repeated}"])
    head = ["model", "clients", "engine tokens/s", "served tokens/s", "of the engine"]
    return table([*head, "first token p50 / p99, ms", "changed under load"], lines)


def pictures(results: Results) -> str:
    found = results.newest("pictures")
    alone = {(row["engine"], row["png"]): row["pictures_per_second"] for row in found.get("engines", [])}
    lines = [[name, f"{rate:,.0f}", f"{alone[name, True]:,.0f}"] for (name, png), rate in alone.items() if not png]
    served = [
        [
            row["server"],
            f"{row['pictures_per_second']:,.0f}",
            f"{row['p50_ms']:,.0f}",
            f"{row['p99_ms']:,.0f}",
            _cpu(row),
        ]
        for row in found.get("served", [])
    ]
    first = table(["engine", "pictures/s", "with PNG in the same thread"], lines)
    return first + "\n" + table(["served", "pictures/s", "p50 ms", "p99 ms", "CPU ms a request of 16"], served)


def _cpu(row: dict[str, Any]) -> str:
    return ", ".join(f"{part} {spent / 1000:.1f}" for part, spent in row["cpu"].items() if spent >= 100)


def labels(results: Results) -> str:
    rows = results.newest("labels").get("results", [])
    rate = {(row["case"], row["tokens"], row["engine"]): row["texts_per_second"] for row in rows}
    lines = []
    for (case, tokens, engine), texts in rate.items():
        peers = [value for (*place, name), value in rate.items() if place == [case, tokens] and "transformers" in name]
        ours = "transformers" not in engine and peers
        lines.append([case, str(tokens), engine, f"{texts:,.1f}", f"{texts / max(peers):.2f}x" if ours else ""])
    return table(["model", "tokens of a text", "engine", "texts/s", "times transformers"], lines)


def serving(results: Results) -> str:
    rows = results.newest("serving").get("results", [])
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        name = row["case"] if row["server"] == "Kamishibai" else f"{row['case']}, {row['server']}"
        told = f"{row['requests_per_second']:,.0f} ({_ms(row['p50_ms'])}, {_ms(row['p99_ms'])})"
        cells.setdefault(name, {})[row["clients"]] = told
    counts = sorted({row["clients"] for row in rows})
    lines = [[name, *(by_count.get(count, "") for count in counts)] for name, by_count in cells.items()]
    return table(["requests/s (p50, p99 ms)", *(f"{count} clients" for count in counts)], lines)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def workers(results: Results) -> str:
    lines = [
        [
            str(int(row["workers"])),
            f"{row['jobs_per_second']:,.0f}",
            f"{row['redis_us_per_job']:.0f}",
            f"{row['worker_us_per_job']:.0f}",
            f"{row['redis_busy']:.0%}",
        ]
        for row in results.newest("workers").get("results", [])
    ]
    return table(["workers", "jobs/s", "Redis µs a job", "workers µs a job", "of one core Redis has"], lines)


SIZES = {
    "waiting_bytes": "waits",
    "running_bytes": "runs",
    "ended_bytes": "has ended",
    "file_bytes_to_enqueue": "to enqueue",
    "file_bytes_to_claim": "to claim",
    "file_bytes_to_renew": "each renewal",
    "file_bytes_to_publish": "its stream",
    "file_bytes_to_end": "to end",
}


def sizing(results: Results) -> str:
    lines = [
        [row["kind"], *(f"{row[name]:,}" for name in SIZES)] for row in results.newest("sizing").get("results", [])
    ]
    return table(["job", *SIZES.values()], lines)


IDLE = ("commands", "scripts", "bytes_sent", "file_bytes", "connections", "announcement_bytes")


def idle(results: Results) -> str:
    lines = [
        [str(row["workers"]), *(f"{row[name]:,.3g}" for name in IDLE)]
        for row in results.newest("sizing").get("idle", [])
    ]
    return table(["idle workers", *(name.replace("_", " ") for name in IDLE)], lines)


def redis_limit(results: Results) -> str:
    lines = [
        [
            f"{row['what']}, {'one by one' if row['at_once'] == 1 else str(row['at_once']) + ' at once'}",
            str(row["clients"]),
            f"{row['per_second']:,.0f}",
            f"{row['of_one_core']:.0%}",
            f"{row['redis_us']:.0f}",
        ]
        for row in results.newest("redis-limit").get("results", [])
    ]
    return table(["what", "clients", "each second", "of one core", "µs of Redis each"], lines)


TABLES: dict[str, Callable[[Results], str]] = {
    "goals": goals,
    "text-engines": text_engines,
    "xeon-text-engines": partial(text_engines, benchmark="xeon-text-engines"),
    "served-text": served_text,
    "pictures": pictures,
    "labels": labels,
    "serving": serving,
    "workers": workers,
    "sizing": sizing,
    "idle": idle,
    "redis-limit": redis_limit,
}


def table(head: list[str], lines: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def written(page: str, results: Results) -> str:
    """The page with all its tables made anew. Raises KeyError for a table that nobody makes."""
    return REGION.sub(lambda found: found[1] + TABLES[found[2]](results) + found[3], page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = written(before, Results(RESULTS))
        if options.check and before != after:
            sys.exit(f"{page.name} is not as the results have it; run benchmarks/page.py")
        if not options.check:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
