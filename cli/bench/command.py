"""`kamishibai bench`: options in, tables and files out."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from cli.api_client import ApiClient
from cli.bench import options as given
from cli.bench.asking import Asking
from cli.bench.comparison import compare
from cli.bench.measurement import Measured, Measurement
from cli.bench.notes import notes
from cli.bench.options import Asked
from cli.bench.results import Machine, Results, read_results
from cli.bench.served import Served
from cli.bench.tables import Rows, error_rows, latency_rows, load_rows, model_rows
from cli.bench.workload import Workload
from cli.devices import device_class
from cli.tables import print_table
from contracts.bundle import Task
from contracts.errors import InvalidRequest
from contracts.files import read_small

MESSAGE_CHARACTERS = 80  # of an error, in the terminal; the files have all of it
INTERRUPTED = 130  # exit status, as shells have it


def bench(url: str | None, comparison: tuple[Path, Path] | None, **options: Any) -> None:
    """Raises InvalidRequest, NotReady and what else the server says, StoreError, OSError."""
    if comparison is not None:
        if url is not None:
            raise InvalidRequest("--compare compares two files and asks no server; leave the URL out")
        print_comparison(*comparison)
    elif url is None:
        raise InvalidRequest("name a server, like: kamishibai bench http://127.0.0.1:8000")
    else:
        run(url, **options)


def print_comparison(first: Path, second: Path) -> None:
    found = compare(*(read_results(read_small(path), str(path)) for path in (first, second)))
    for note in found.notes:
        click.echo(note)
    print_table(found.rows)


def run(
    url: str, api_key: str | None, models: tuple[str, ...], task: Task | None, output: Path | None, **options: Any
) -> None:
    asked = given.read(**options)
    if output is not None:
        from cli.bench.report import check_report  # here and below: matplotlib, without which servers are measured, too

        check_report(output)  # before an hour's run, not behind it
    client = ApiClient(url, api_key, option="URL")
    served = Served(client)
    workload = asked.workload.model_copy(update={"mix": served.mix(models, task)})
    began = datetime.now(UTC)
    _allow_many_connections()
    measured = asyncio.run(_measure(client, api_key, asked, workload, served.ours))
    results = Results(
        began=began.isoformat(timespec="seconds"),
        url=client.address.geturl(),
        models=tuple(served.model(share.model) for share in workload.mix),
        machine=_machine(),
        workload=workload,
        plan=asked.plan,
        objective=asked.objective,
        characters_per_token=measured.characters_per_token,
        levels=measured.levels,
        interrupted=measured.interrupted,
    )
    _tell(results, output)
    if results.interrupted:
        click.get_current_context().exit(INTERRUPTED)


async def _measure(client: ApiClient, api_key: str | None, asked: Asked, workload: Workload, ours: bool) -> Measured:
    async with Asking(client.address, api_key, asked.plan.timeout_seconds) as asking:
        measurement = Measurement(
            asking, workload, asked.plan, asked.loads, objective=asked.objective, checks=asked.checks, ours=ours
        )
        return await measurement.run(asked.prompts)


def _tell(results: Results, output: Path | None) -> None:
    """Tables, then one line of JSON."""
    _print(load_rows(results))
    if len(results.workload.mix) > 1:
        _print(model_rows(results))
    _print(latency_rows(results))
    _print([[*row[:3], row[3][:MESSAGE_CHARACTERS]] for row in error_rows(results)])
    for note in notes(results):
        click.echo(note)
    try:
        if output is not None:
            from cli.bench.report import write_report

            write_report(output, results)
            click.echo(f"{output}: results.json, report.html and figures")
    finally:  # a full disk should not cost what was measured
        click.echo(results.model_dump_json())


def _print(rows: Rows) -> None:
    if len(rows) > 1:
        print_table(rows)
        click.echo()


def _machine() -> Machine:
    return Machine(
        processor=device_class("cpu").rpartition(",")[0],
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        kamishibai=version("kamishibai"),
    )


def _allow_many_connections() -> None:
    """As many as the system lets a process have: in an open loop a slow server collects them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
