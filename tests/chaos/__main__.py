"""`python -m tests.chaos`: a run of any size; `make chaos` starts the long one."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from tests.chaos.checker import check
from tests.chaos.history import HISTORY, Entry, read_history
from tests.chaos.orders import orders
from tests.chaos.references import references
from tests.chaos.report import report
from tests.chaos.run import Plan, make_store, run


def main() -> int:
    """0 if every promise was kept."""
    plan, folder, judge = _arguments()
    if judge:
        return _judge(read_history(folder / HISTORY), folder)
    logging.basicConfig(filename=folder / "harness.log", format="%(asctime)s %(name)s %(levelname)s %(message)s")
    print(f"chaos with {plan}; logs and history in {folder}", flush=True)
    with tqdm(total=len(orders(plan.seed, plan.jobs)), unit="requests", disable=None) as bar:
        entries = run(plan, folder, lambda finished: _advance(bar, finished))
    return _judge(entries, folder)


def _judge(entries: list[Entry], folder: Path) -> int:
    with tempfile.TemporaryDirectory() as store:
        right = references(make_store(Path(store)))
    violations = check(entries, right)
    text = report(entries, right, violations)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if violations else 0


def _arguments() -> tuple[Plan, Path, bool]:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Kill Redis, servers and workers in all ways under load, and check that no promise is broken.",
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of faults and clients; default: the time")
    parser.add_argument("--jobs", type=int, default=5000, help="jobs to send, beside calls and streams")
    parser.add_argument("--kills", type=int, default=10, help="kills of each kind of process, at least")
    parser.add_argument(
        "--away", type=float, default=60.0, metavar="SECONDS", help="how long Redis is away once; 0: never"
    )
    parser.add_argument("--lifetime", type=int, default=150, metavar="SECONDS", help="of an ended job's result")
    parser.add_argument("--folder", type=Path, help="for logs and history; default: a new one")
    parser.add_argument("--judge", action="store_true", help="judge the history in --folder again; runs nothing")
    given = parser.parse_args()
    if given.judge and given.folder is None:
        parser.error("--judge needs the --folder of a run")
    if given.lifetime <= given.away:
        parser.error("--lifetime must be longer than --away: results must outlive an outage to be read")
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    return Plan(given.seed, given.jobs, given.kills, given.away, given.lifetime), folder, given.judge


def _advance(bar: tqdm[NoReturn], finished: int) -> None:
    bar.update(finished - bar.n)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        os._exit(130)  # all parts have been stopped, but clients still wait for answers that will not come
