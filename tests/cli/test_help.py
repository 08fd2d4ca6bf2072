"""Help and start: every command explains itself, and nothing heavy is imported for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import click
import pytest

from cli.main import cli


def commands(group: click.Group, *path: str):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield [*path, name]
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


ALL = list(commands(cli))


def test_all_commands_are_known_to_these_tests():
    names = {" ".join(path) for path in ALL}
    assert {
        "up",
        "serve",
        "worker",
        "demo",
        "models",
        "generate",
        "classify",
        "export",
        "keys create",
        "import hf",
        "import tfjs",
        "evaluate text",
        "train dcgan",
        "train gpt2",
        "train genres",
        "evaluate pictures",
        "bench",
    } <= names


@pytest.mark.parametrize("path", [[], *ALL], ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself_and_each_of_its_options(kamishibai, path, option):
    ended = kamishibai(*path, option)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: kamishibai {' '.join(path)}".strip())
    for line in re.findall(r"^  (?:-\w, )?--\S+.*(?:\n {3,}\S.*)*", ended.out, re.MULTILINE):
        assert re.search(r"\S {2,}\S|\n +\S", line), f"an option without help: {line}"


def test_the_help_lists_every_command(kamishibai):
    listed = re.findall(r"^  (\S+) +\S", kamishibai("--help").out.split("Commands:")[1], re.MULTILINE)
    assert listed == sorted({path[0] for path in ALL})


def test_the_version_is_the_packages(kamishibai):
    assert re.fullmatch(r"kamishibai, version \d+\.\d+\.\d+\n", kamishibai("--version").out)


HEAVY = ["torch", "transformers", "accelerate", "onnxruntime"]
NEEDLESS = [*HEAVY, "numpy", "pydantic", "redis", "rq", "flask", "tokenizers", "PIL", "gevent"]
RUN = "import sys; sys.argv = ['kamishibai', {}]\nfrom cli.main import main\ntry: main()\nexcept SystemExit: pass\n"


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (RUN.format("'--help'"), NEEDLESS),
        (RUN.format("'--version'"), NEEDLESS),
        *[
            (RUN.format(f"*{path!r}, '--help'"), NEEDLESS)
            for path in (["up"], ["generate"], ["classify"], ["dump"], ["import", "hf"], ["evaluate", "text"])
        ],
        (RUN.format("'models', '--store', '/nowhere'"), [*HEAVY, "flask", "rq"]),
        ("import cli.bench.command", [*HEAVY, "flask", "PIL", "matplotlib"]),
        ("import cli.dump", [*HEAVY, "flask", "PIL"]),  # a server's client computes nothing
        ("import server.app", [*HEAVY, "PIL"]),
        ("import server.serving", HEAVY),
        ("import workers.parent", [*HEAVY, "flask"]),
        ("import cli.worker", [*HEAVY, "flask"]),
        ("import cli.up", [*HEAVY, "flask"]),
        ("import contracts.jobs, contracts.store", [*HEAVY, "flask", "numpy"]),
    ],
)
def test_the_start_is_cheap(code, unwanted):
    code += f"\nimport json, sys\nprint(json.dumps([name for name in {unwanted!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
