"""The built wheel, once: installed alone, in a folder where somebody else's `server.py` and `models/` lie."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
LEFT_OUT = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "store", "shared")
FOREIGN = 'raise ImportError("this is somebody else\'s module")\n'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves folders in the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run(build, check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=120)
    return folder


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A working directory with modules that must not be taken for ours."""
    folder = tmp_path / "elsewhere"
    for package in ("models", "contracts", "workers"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(FOREIGN)
    (folder / "server.py").write_text(FOREIGN)
    (folder / "cli.py").write_text(FOREIGN)
    return folder


@pytest.fixture
def environment(installed) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KAMISHIBAI_", "PYTHON"))}
    return kept | {"PYTHONPATH": str(installed)}


@pytest.fixture
def command(installed, elsewhere, environment):
    """Start the installed console script in the folder of somebody else."""

    def start(*arguments: object) -> subprocess.Popen[str]:
        words = [sys.executable, str(installed / "bin" / "kamishibai"), *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=elsewhere, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    return start


def output_of(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    return out


def test_the_wheel_holds_the_packages_of_the_product_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {str(Path(name).parent).replace("/", ".") for name in names if name.endswith(".py")}
    assert packages == set(project["tool"]["setuptools"]["packages"])
    listed = {package.split(".")[0] for package in packages}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == listed
    assert "kamishibai = cli.main:main" in entry_points
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_source_file_of_the_product_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}:
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*") if path.is_file()}
        missing = {name for name in files - names if "__pycache__" not in name}
        assert not missing, "data files need an entry under [tool.setuptools.package-data]"


def test_the_command_is_itself_in_somebody_elses_folder(command, store, elsewhere):
    assert output_of(command("--version")).startswith("kamishibai, version ")
    assert "faces" in output_of(command("models", "--store", store.root))
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import server"], cwd=elsewhere, check=True, capture_output=True)


def test_these_tests_run_the_installed_packages(installed, elsewhere, environment):
    code = "import cli, models, server, workers\nprint(*[m.__file__ for m in (cli, models, server, workers)])"
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=elsewhere, env=environment, check=True, capture_output=True, text=True
    )
    assert all(Path(path).is_relative_to(installed) for path in run.stdout.split())


def test_up_serves_from_the_wheel_in_somebody_elses_folder(command, store, tmp_path):
    shutil.copytree(store.root, tmp_path / "store", ignore=shutil.ignore_patterns(".*"))
    port = free_port()
    with command("up", "--store", tmp_path / "store", "--port", port, "--device", "cpu") as product:
        try:
            wait_ready(port, product)
            body = json.dumps({"model": "lstm", "prompt": "the", "max_tokens": 12, "seed": 1}).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert len(json.load(answer)["choices"][0]["text"]) == 12
        finally:
            product.send_signal(signal.SIGTERM)
            out, _ = product.communicate(timeout=60)
    assert product.returncode == 0, out
    assert "Traceback" not in out


def wait_ready(port: int, product: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            assert product.poll() is None, "`kamishibai up` has ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)
