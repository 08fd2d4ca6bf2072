"""`python -m tests.soak`: a run of any length; `make soak` starts the long one."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from tests.chaos.checker import check
from tests.chaos.references import references
from tests.chaos.report import report as report_of_requests
from tests.chaos.run import make_store
from tests.soak.judge import judge
from tests.soak.report import report
from tests.soak.run import Plan, run

SAMPLES = 360  # of a long run's load


def main() -> int:
    """0 if every limit and every promise was kept."""
    plan, folder = _arguments()
    logging.basicConfig(filename=folder / "harness.log", format="%(asctime)s %(name)s %(levelname)s %(message)s")
    print(f"soak with {plan}; log, history and samples in {folder}", flush=True)
    store = make_store(folder / "store")
    right = references(store)
    with tqdm(total=round(plan.load_seconds * plan.requests_per_second), unit="requests", disable=None) as bar:
        samples, entries = run(plan, store, folder, lambda answered: _advance(bar, answered))
    broken_limits, broken_promises = judge(samples), check(entries, right)
    text = report(samples, broken_limits)
    if broken_promises:
        text += "\n\n" + report_of_requests(entries, right, broken_promises)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if broken_limits or broken_promises else 0


def _arguments() -> tuple[Plan, Path]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Run the product under a steady load, and check that it stays within its limits.",
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="of load")
    parser.add_argument("--rate", type=float, default=20.0, metavar="REQUESTS", help="per second")
    parser.add_argument("--lifetime", type=int, default=60, metavar="SECONDS", help="of an ended job's result")
    parser.add_argument("--seed", type=int, default=1, help="of the requests")
    parser.add_argument("--folder", type=Path, help="for log, history and samples; default: a new one")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    load_seconds = given.minutes * 60
    return Plan(given.seed, load_seconds, given.rate, given.lifetime, max(1.0, load_seconds / SAMPLES)), folder


def _advance(bar: tqdm[NoReturn], answered: int) -> None:
    bar.update(answered - bar.n)


if __name__ == "__main__":
    sys.exit(main())
