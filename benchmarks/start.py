"""How long `kamishibai up` takes from its start to ready, on a store with the demo models.

    kamishibai demo --store STORE
    python benchmarks/start.py --store STORE [--rounds 5] [--write FILE]

Ready is when /v1/models names all of them: Redis and server answer, and a worker has loaded, probed and warmed up each.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from record import record  # type: ignore[import-not-found] # it lies beside this script
from sides import eventually, free_port, get, running  # type: ignore[import-not-found] # it lies beside this script

from contracts.store import Store
from workers.processes import python_module


def seconds_to_ready(store: Path) -> float:
    """Of a copy of the store, whose Redis holds nothing yet."""
    with tempfile.TemporaryDirectory() as folder:
        copy, port = Path(folder) / "store", free_port()
        shutil.copytree(store, copy, ignore=lambda _, names: [name for name in names if name.startswith(".")])
        began = time.perf_counter()
        with running([*python_module("cli.main"), "up", "--store", str(copy), "--port", str(port)]):
            eventually(lambda: served(port) == Store(copy).names(), "all models are served")
            return time.perf_counter() - began


def served(port: int) -> list[str]:
    return sorted(model["id"] for model in json.load(get(port, "/v1/models"))["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    taken = [round(seconds_to_ready(options.store), 2) for _ in range(options.rounds)]
    models = Store(options.store).names()
    print(f"{', '.join(models)}: {statistics.median(taken):.1f} s ({min(taken):.1f} to {max(taken):.1f})")
    figures = {"models": models, "seconds": statistics.median(taken), "all": taken}
    record(options.write, ("kamishibai", "torch"), figures)


if __name__ == "__main__":
    main()
