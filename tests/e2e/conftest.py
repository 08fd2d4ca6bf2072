"""The product as a user runs it: `kamishibai up` on a store of tiny models, real processes, HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from contracts.store import Store
from tests.ports import free_port


class Product:
    """A running `kamishibai up`."""

    def __init__(
        self, store: Path, *options: str, settings: dict[str, str] | None = None, log: Path | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-P", "-m", "cli.main", "up", "--store", str(store), "--port", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KAMISHIBAI_")}
        with log.open("wb") if log else nullcontext() as written:
            self.process = subprocess.Popen(
                [*command, "--device", "cpu", *options],
                env=environment | (settings or {}),
                stdout=written,
                stderr=written,
            )

    def wait_ready(self, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < deadline, f"not ready within {seconds} s"
            assert self.process.poll() is None, "`kamishibai up` has ended"
            time.sleep(0.1)

    def get(self, path: str) -> tuple[int, Any]:
        return self._call("GET", path)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._call("POST", path, json.dumps(body).encode())

    def delete(self, path: str) -> tuple[int, Any]:
        return self._call("DELETE", path)

    def metric(self, pattern: str) -> float:
        """The sum of all samples whose line matches."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    def processes(self, part: str) -> list[psutil.Process]:
        """Our processes whose command line holds `part`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended just now; a zombie is one of those
                if part in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError as error:
            return 0, str(error)


@pytest.fixture
def start_product(store: Store) -> Iterator[Callable[..., Product]]:
    started: list[Product] = []

    def start(
        *options: str, root: Path | None = None, settings: dict[str, str] | None = None, log: Path | None = None
    ) -> Product:
        product = Product(root or store.root, *options, settings=settings, log=log)
        started.append(product)
        return product

    yield start
    for product in started:
        if product.process.poll() is None:
            product.stop()


@pytest.fixture(scope="module")
def start_shared_product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Product]]:
    """Starts one for all tests of a module."""
    started: list[Product] = []

    def start(root: Path, settings: dict[str, str] | None = None) -> Product:
        started.append(Product(root, settings=settings, log=tmp_path_factory.mktemp("log") / "up.log"))
        started[-1].wait_ready()
        return started[-1]

    yield start
    for product in started:
        product.stop()


@pytest.fixture(scope="module")
def shared_product(request: pytest.FixtureRequest, start_shared_product: Callable[..., Product]) -> Product:
    """One for all tests of a module, on the store that the module's fixture `root` names."""
    return start_shared_product(request.getfixturevalue("root"))


@pytest.fixture
def product(start_product: Callable[..., Product]) -> Product:
    running = start_product()
    running.wait_ready()
    return running
