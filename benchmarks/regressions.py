"""Whether ratios to peers have fallen since the results that are kept: rates say nothing between two machines or days.

    python benchmarks/regressions.py FOLDER [--kept benchmarks/results] [--most 0.2]

FOLDER holds results that the other scripts wrote with `--write FOLDER/NAME-YYYY-MM-DD.json`, named like the kept ones.
Every goal of `page.py` that both know is compared. Ends with status 1 if a ratio fell by more than `--most` of itself.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from page import GOALS, RESULTS, Results, table  # type: ignore[import-not-found] # it lies beside this script

MOST_FALL = 0.2  # two runs on one quiet machine differ by up to a seventh


def compared(kept: Results, new: Results, most: float) -> tuple[list[list[str]], list[str]]:
    """Lines of a table, and what has fallen."""
    lines, fallen = [], []
    for goal in GOALS:
        before, after = goal.reached(kept), goal.reached(new)
        if not before or len(before) != len(after):
            continue
        name = f"{goal.work} / {goal.peer}"
        change = min(now / then - 1 for then, now in zip(before, after, strict=True))
        lines.append([name, _times(before), _times(after), f"{change:+.0%}"])
        if change < -most:
            fallen.append(name)
    return lines, fallen


def _times(ratios: list[float]) -> str:
    return " / ".join(f"{ratio:.3g}x" for ratio in ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kept", type=Path, default=RESULTS)
    parser.add_argument("--most", type=float, default=MOST_FALL)
    options = parser.parse_args()
    lines, fallen = compared(Results(options.kept), Results(options.folder), options.most)
    if not lines:
        sys.exit(
            f"{options.folder} has no results of a goal that {options.kept} knows, such as serving-2026-01-31.json"
        )
    print(table(["work / peer", "kept", "now", "change at its worst"], lines), end="")
    if fallen:
        sys.exit(f"fallen by more than {options.most:.0%}: {'; '.join(fallen)}")


if __name__ == "__main__":
    main()
