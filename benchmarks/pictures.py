"""Pictures per second: the engine alone, with PNG files made of them, and served over HTTP beside peers, in one run.

    python benchmarks/pictures.py [--quick] [--rounds 3] [--generator FILE] [--peers PYTHON] [--write FILE]

A DCGAN's generator of 64x64 pictures, width 64: random weights, or those of FILE (as `kamishibai import dcgan` reads).

- engine   the product's own engine with every variant, four requests of 16 pictures at once; beside it the plain module
           and the frozen TorchScript one that the peers have, 64 pictures in a call. Once for pixels, once with each
           picture made into a PNG file in the same thread
- served   16 clients ask for 16 pictures each, as PNG in base64; the product with one variant after the other, as it
           runs (every job durable), and LitServe and mosec with the frozen TorchScript generator and Pillow at level 1

PYTHON is an interpreter that has the peers, PyTorch and Pillow (this one by default); those that it has not are named
and left out. All take turns; figures are medians over the rounds. "CPU" is milliseconds of processor time that each
process took per request. The last line is JSON, which `--write` puts into a file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from record import PEER_PACKAGES, record, versions_of  # type: ignore[import-not-found] # it lies beside this script
from sides import (  # type: ignore[import-not-found] # it lies beside this script
    FOLDER,
    Case,
    Side,
    eventually,
    free_port,
    installed,
    measure_all,
    post,
    product,
    request,
    running,
)

from contracts.bundle import Bundle
from contracts.requests import ImageRequest
from contracts.store import Store
from export.formats import Wishes
from export.torch_dcgan import import_dcgan
from models.dcgan import DcganConfig, generator, to_pixels
from models.runtimes.load import load_images
from models.weights import fitting_weights
from workers.engines import Delta
from workers.engines.image import ImageEngine
from workers.pictures import PNG_ENCODER, encode_png
from workers.processes import python_module

CPU = torch.device("cpu")
THREADS = torch.get_num_threads()
VARIANTS = ("pytorch:fp32", "pytorch:bf16", "onnx:fp32")
PICTURES = 16  # in a request
REQUESTS = 4  # in the engine at once
CLIENTS = 16

Drawn = list[bytes]
Draw = Callable[[], Drawn]


def publish(store: Store, weights: Path | None) -> Bundle:
    with tempfile.TemporaryDirectory() as folder:
        file = weights or Path(folder) / "G.pth"
        if weights is None:
            torch.manual_seed(0)
            torch.save(generator(DcganConfig()).state_dict(), file)
        return import_dcgan(file, store, "faces", Wishes(precisions=frozenset({"fp32", "bf16"})))


def plain_module(bundle: Bundle) -> torch.nn.Module:
    config, weights = fitting_weights(bundle)
    module = generator(cast(DcganConfig, config))
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)


def freeze(module: torch.nn.Module, latent: int, file: Path) -> Any:
    """As the makers of small services do: traced, frozen, saved."""
    example = torch.zeros(2, latent, 1, 1)
    frozen = torch.jit.freeze(torch.jit.trace(module, example))
    frozen.save(str(file))
    return frozen


def engines(bundle: Bundle, frozen: Any) -> Iterator[tuple[str, Draw]]:
    """Each draws 64 pictures."""
    for name in VARIANTS:
        yield name, _engine(ImageEngine(load_images(bundle, bundle.variant(name), CPU)), bundle)
    for name, module in (("plain module", plain_module(bundle)), ("frozen TorchScript", frozen)):
        yield name, _module(module, bundle.manifest.config["latent"])


def _engine(engine: ImageEngine, bundle: Bundle) -> Draw:
    def draw() -> Drawn:
        for number in range(REQUESTS):
            engine.add(str(number), ImageRequest(target=bundle.target(), seed=number, count=PICTURES))
        drawn: Drawn = []
        while engine.busy:
            events = engine.collect(engine.launch()).events
            drawn += [pixels for event in events if isinstance(event, Delta) for pixels in event.pictures]
        return drawn

    return draw


def _module(module: Any, latent: int) -> Draw:
    @torch.inference_mode()
    def draw() -> Drawn:
        torch.set_num_threads(THREADS)  # engines of small models set it for themselves
        return [picture.numpy().tobytes() for picture in to_pixels(module(torch.randn(64, latent, 1, 1)))]

    return draw


def measure_engines(bundle: Bundle, frozen: Any, rounds: int) -> list[dict[str, Any]]:
    size: int = bundle.manifest.config["size"]
    sides = dict(engines(bundle, frozen))
    seconds: dict[tuple[str, bool], list[float]] = {}
    for turn in range(rounds + 1):
        for name, draw in sides.items():
            for with_png in (False, True):
                started = time.perf_counter()
                drawn = draw()
                if with_png:
                    for pixels in drawn:
                        encode_png(pixels, (size, size))
                taken = time.perf_counter() - started
                if turn:  # the first one warms up
                    seconds.setdefault((name, with_png), []).append(taken)
    return [
        {"engine": name, "png": png, "pictures_per_second": round(REQUESTS * PICTURES / statistics.median(taken), 1)}
        for (name, png), taken in seconds.items()
    ]


@contextmanager
def ours(store: Path, variant: str, folder: Path) -> Iterator[Side]:
    """The product with all its own processes, on the models of `store`."""
    folder.mkdir()
    (folder / "faces").symlink_to(store / "faces")
    work = [*python_module("cli.main"), "worker", "--variant", variant]
    with product(f"Kamishibai {variant}", folder, work) as (side, port):
        body = {"model": "faces", "n": PICTURES, "seed": 1, "response_format": "b64_json", "cache": False}
        side.cases = [Case("pictures", port, request("POST", "/v1/images/generations", body), 200)]
        yield side


@contextmanager
def litserve(python: str, frozen: Path, latent: int) -> Iterator[Side]:
    port = free_port()
    script = str(FOLDER / "peer_litserve_pictures.py")
    with running([python, script, str(port), str(frozen), str(latent)]) as process:
        yield _peer("LitServe", process, port, "/predict")


@contextmanager
def mosec(python: str, frozen: Path, latent: int) -> Iterator[Side]:
    port = free_port()
    command = [python, str(FOLDER / "peer_mosec_pictures.py"), "--address", "127.0.0.1", "--port", str(port)]
    environment = {"GENERATOR": str(frozen), "LATENT": str(latent)}
    with running([*command, "--timeout", "60000", "--log-level", "error"], environment) as process:
        yield _peer("mosec", process, port, "/inference")


def _peer(name: str, process: subprocess.Popen[bytes], port: int, path: str) -> Side:
    side = Side(name, {name: process})
    body = {"seed": 1, "n": PICTURES}
    eventually(lambda: len(json.loads(post(port, path, body).read())["data"]) == PICTURES, f"{name} answers")
    side.cases = [Case("pictures", port, request("POST", path, body), 200)]
    return side


def measure_served(bundle: Bundle, store: Path, frozen: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    latent = bundle.manifest.config["latent"]
    with ExitStack() as stack:
        folders = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [stack.enter_context(ours(store, variant, folders / variant.replace(":", "-"))) for variant in VARIANTS]
        for name, peer in {"litserve": litserve, "mosec": mosec}.items():
            if installed(options.peers, name, "torch"):
                sides.append(stack.enter_context(peer(options.peers, frozen, latent)))
        clients, seconds = (2, 0.5) if options.quick else (CLIENTS, options.seconds)
        rows = measure_all(sides, options.rounds, (clients,), seconds)
    return [{**row, "pictures_per_second": round(PICTURES * row["requests_per_second"], 1)} for row in rows]


def print_tables(alone: list[dict[str, Any]], served: list[dict[str, Any]]) -> None:
    print(f"| engine | pictures/s | with PNG ({PNG_ENCODER}) |\n|---|---|---|")
    by_engine = {(row["engine"], row["png"]): row["pictures_per_second"] for row in alone}
    for name in dict.fromkeys(row["engine"] for row in alone):
        print(f"| {name} | {by_engine[name, False]:,.0f} | {by_engine[name, True]:,.0f} |")
    print("\n| served | pictures/s | p50 ms | p99 ms | CPU ms a request |\n|---|---|---|---|---|")
    for row in served:
        cpu = ", ".join(f"{part} {spent / 1000:.1f}" for part, spent in row["cpu"].items() if spent >= 100)
        print(f"| {row['server']} | {row['pictures_per_second']:,.0f} | {row['p50_ms']} | {row['p99_ms']} | {cpu} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a moment of each, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--generator", type=Path, metavar="FILE")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        store, file = Path(folder) / "store", Path(folder) / "frozen.pt"
        bundle = publish(Store(store), options.generator)
        frozen = freeze(plain_module(bundle), bundle.manifest.config["latent"], file)
        alone = measure_engines(bundle, frozen, options.rounds)
        served = measure_served(bundle, store, file, options)
    print_tables(alone, served)
    peers = versions_of(options.peers, PEER_PACKAGES)
    figures = {"png": PNG_ENCODER, "peer_versions": peers, "engines": alone, "served": served}
    record(options.write, ("torch", "onnxruntime", "pillow"), figures)


if __name__ == "__main__":
    main()
