"""What a reader should know before believing the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.bench.distribution import Distribution
from cli.bench.rehearsal import USUAL_CHARACTERS_PER_TOKEN
from cli.bench.results import Level, Repeats, Results
from cli.bench.tables import LATENCIES, UNSURE, milliseconds

BUSY_SHARE = 0.8  # of a core
LATE_SECONDS = 0.02
KEPT_UP = 0.9  # of what came


def notes(results: Results) -> list[str]:
    found = []
    if results.interrupted:
        found.append("The run was stopped; what was under way then is left out.")
    found += _of_counting(results)
    for level in results.levels:
        found += [f"{level.load}: {note}" for note in _of_level(level)]
    found += _of_repeats([level.repeats for level in results.levels if level.repeats])
    if any(not each.is_sure(99) for each in _distributions(results)):
        found.append(
            f"{UNSURE} beyond this percentile nothing was measured: of so few requests it is the largest value. A p99"
            " needs 100 requests, a p90 10."
        )
    return found


def _of_counting(results: Results) -> Iterator[str]:
    for place, share in enumerate(results.workload.mix):
        ways = {level.models[place].counted for level in results.levels if level.models[place].succeeded}
        if share.task == "text" and ways & {"pieces", "both"}:
            yield f"{share.model}: the server gives no usage; its tokens are pieces of streams, which may be fewer."
        elif share.task == "text" and None in ways:
            yield f"{share.model}: the server does not count its tokens."
        made_of_words = results.workload.prompts is None and share.task != "image"
        if made_of_words and results.characters_per_token[place] is None:
            guess = f"{USUAL_CHARACTERS_PER_TOKEN:g} characters were taken for a token"
            yield f"{share.model}: the server does not count tokens of prompts; {guess}."


def _of_level(level: Level) -> Iterator[str]:
    if level.client.cpu_share >= BUSY_SHARE:
        yield (
            f"this tool used {level.client.cpu_share:.0%} of a core, so it may have been the limit; run parts of the"
            " load from several commands."
        )
    if level.load.rate is not None:
        if level.client.late_p99 > LATE_SECONDS:
            yield (
                f"1 % of the requests went out {milliseconds(level.client.late_p99)} ms late or later; their latencies"
                " count from when they were due."
            )
        if level.came_rate is not None and level.rates.requests < KEPT_UP * level.came_rate:
            yield (
                f"{level.came_rate:.3g} requests came a second and {level.rates.requests:.3g} were answered. If the"
                " server did not keep up, what waits grows, and latencies say how long the run was."
            )
    if level.given_up:
        yield f"{level.given_up} requests were under way when the run was stopped."


def _of_repeats(repeats: Sequence[Repeats]) -> Iterator[str]:
    """Of all levels together; the table has each."""
    repeated = sum(each.repeated for each in repeats)
    if not repeated:
        yield "Whether load changes answers was not checked."
        return
    unsteady, failed = sum(each.unsteady for each in repeats), sum(each.failed for each in repeats)
    if judged := repeated - unsteady - failed:
        changed = sum(each.changed for each in repeats)
        yield f"{changed} of {judged} answers changed under load; each was asked for once more, alone."
    if unsteady:
        yield f"{unsteady} of {repeated} answers are others each time, also alone; of these nothing can be said."
    if failed:
        yield f"{failed} of {repeated} requests failed when they were asked alone."


def _distributions(results: Results) -> Iterator[Distribution]:
    for level in results.levels:
        for model in level.models:
            for name in LATENCIES:
                if found := getattr(model.latencies, name):
                    yield found
