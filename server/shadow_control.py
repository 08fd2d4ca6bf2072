"""What an operator does with versions under traffic: compare, promote, roll back. For routes and the command line."""

from __future__ import annotations

import math
import re
from typing import cast

from redis import Redis

from contracts.announcements import EngineCounters, HistogramName
from contracts.errors import InvalidRequest, NotFound, NotReady, StoreError
from contracts.requests import Target
from contracts.shadows import Comparison, Shadow, Shadows, Tally
from contracts.store import Chosen, Store
from server import answers
from server.catalogue import Catalogue
from server.shadow_compare import same_tokens
from server.threads import in_thread

_CANDIDATE = re.compile(r"([1-9][0-9]{0,8})(?:/([a-z0-9]+:[a-z0-9]+))?")


def parse_candidate(text: str) -> Chosen:
    """`2` or `2/onnx:int8`. Raises InvalidRequest."""
    match = _CANDIDATE.fullmatch(text)
    if match is None:
        raise InvalidRequest(
            f"{text[:80]!r} names no version and variant; write it like 2 or 2/onnx:int8", param="candidate"
        )
    return Chosen(int(match[1]), match[2])


class ShadowControl:
    """Every method may raise redis.RedisError, and UnknownModel for a model that is not there."""

    def __init__(self, connection: Redis, store: Store, catalogue: Catalogue) -> None:
        self._shadows = Shadows(connection)
        self._store = store
        self._catalogue = catalogue

    def begin(self, name: str, candidate: str, share: float) -> answers.Shadow:
        """Compare a version with the one that new requests run on. Raises InvalidRequest for two that cannot be
        compared, NotReady where a worker is missing."""
        live = self._catalogue.resolve(name).target
        shadow = Shadow(live=live, candidate=self._find(live, parse_candidate(candidate)), share=share)
        self._check_comparable(shadow)
        self._shadows.begin(shadow)
        return self.read(name)

    def stop(self, name: str) -> answers.Shadow:
        """Raises NotFound where nothing runs."""
        if not self._shadows.stop(name):
            raise NotFound(f"Nothing is compared with {name[:80]!r}; `kamishibai models shadow` begins that.")
        return self.read(name)

    def read(self, name: str) -> answers.Shadow:
        """What the comparison that runs has found, or the last one. Raises NotFound."""
        found = self._shadows.comparison(name)
        if found is None:
            raise NotFound(f"Nothing was compared with {name[:80]!r} lately; `kamishibai models shadow` begins that.")
        counters = {target: self._catalogue.counters(target) for target in (found.shadow.live, found.shadow.candidate)}
        return _report(name, found, counters)

    def promote(self, name: str, to: str | None) -> answers.Choice:
        """New requests run on this from now on; without a word on the candidate of the comparison that runs. That ends.

        Raises InvalidRequest, NotFound, StoreError.
        """
        shadow = self._shadows.running().get(name)
        if to is not None:
            chosen = parse_candidate(to)
        elif shadow is not None:
            chosen = Chosen(shadow.candidate.version, shadow.candidate.variant)
        else:
            raise NotFound(
                f"Nothing is compared with {name[:80]!r}; say which version to promote, as in 2 or 2/onnx:int8"
            )
        before = in_thread(self._store.chosen, name)
        in_thread(self._store.promote, name, *chosen)
        self._shadows.stop(name)
        return _choice(name, chosen, before)

    def roll_back(self, name: str, version: int | None) -> answers.Choice:
        """New requests run on what ran before the latest was promoted or written, or on this version. Raises
        StoreError."""
        before = in_thread(self._store.chosen, name)
        return _choice(name, in_thread(self._store.roll_back, name, version), before)

    def _find(self, live: Target, candidate: Chosen) -> Target:
        """What a worker serves of this version. Raises NotReady, InvalidRequest."""
        served = [target for target in self._catalogue.targets(live.model) if target.version == candidate.version]
        found = [target for target in served if candidate.variant in (None, target.variant)]
        others = [target for target in found if target != live]
        if others:
            return others[0]
        if found:
            raise InvalidRequest(
                f"New requests run on {live.model}@{live.version} as {live.variant} already; name another version or"
                " variant, as in 2/onnx:int8",
                param="candidate",
            )
        variant = f" --variant {candidate.variant}" if candidate.variant else ""
        raise NotReady(
            f"No ready worker serves {live.model}@{candidate}; start one beside the others: kamishibai worker"
            f" --candidate --models {live.model}@{candidate.version}{variant}",
            param="candidate",
        )

    def _check_comparable(self, shadow: Shadow) -> None:
        live, candidate = self._catalogue.served(shadow.live), self._catalogue.served(shadow.candidate)
        if live.manifest.task != candidate.manifest.task:
            fault = f"is for {candidate.manifest.task}, not {live.manifest.task}"
        elif live.manifest.task == "classify" and not same_tokens(live, candidate):
            fault = "reads other tokens, which are all that a job holds of its texts"
        elif live.latent_length != candidate.latent_length:
            fault = f"draws from {candidate.latent_length} numbers, not {live.latent_length}"
        else:
            return
        name, versions = shadow.live.model, (shadow.live.version, shadow.candidate.version)
        raise InvalidRequest(f"{name}@{versions[1]} {fault}: it cannot be compared with {name}@{versions[0]}.")


def store_fault(error: StoreError | OSError) -> InvalidRequest:
    """What is said over HTTP of a store that has no such version, or takes no writes."""
    if isinstance(error, StoreError):
        return InvalidRequest(str(error))
    return InvalidRequest(
        f"This server cannot write to its store ({error.strerror}); give the command where it can be written:"
        " kamishibai models promote or rollback"
    )


def _choice(name: str, chosen: Chosen, before: Chosen | None) -> answers.Choice:
    return {
        "id": name,
        "object": "model",
        "version": chosen.version,
        "variant": chosen.variant,
        "before": None if before is None else f"{name}@{before}",
    }


def _report(name: str, found: Comparison, counters: dict[Target, list[EngineCounters]]) -> answers.Shadow:
    shadow, tally = found.shadow, found.tally
    counts = ("drawn", "compared", "equal", "dropped", "live_failed", "candidate_failed")
    return {
        "id": name,
        "object": "shadow",
        "running": found.running,
        "live": _shown(shadow.live),
        "candidate": _shown(shadow.candidate),
        "share": shadow.share,
        "begun_at": int(shadow.begun_at),
        "requests": cast(answers.ShadowRequests, {each: int(getattr(tally, each)) for each in counts}),
        "parts": {
            "compared": int(tally.parts),
            "equal": int(tally.equal_parts),
            "agreement": _mean(tally.agreements, tally.agreed),
            "difference": _mean(tally.differences, tally.measured),
            "largest_difference": tally.largest_difference if tally.measured else None,
        },
        "divergence": _divergence(tally),
        "speed": {
            "live": {
                "wait_seconds": _mean(tally.live_wait_seconds, tally.compared),
                "run_seconds": _mean(tally.live_run_seconds, tally.compared),
                "seconds_per_unit": _mean(tally.live_run_seconds, tally.live_units),
                "first_token_seconds": _first_token_seconds(counters[shadow.live]),
            },
            "candidate": {
                "wait_seconds": _mean(tally.candidate_wait_seconds, tally.compared),
                "run_seconds": _mean(tally.candidate_run_seconds, tally.compared),
                "seconds_per_unit": _mean(tally.candidate_run_seconds, tally.candidate_units),
                "first_token_seconds": _first_token_seconds(counters[shadow.candidate]),
            },
        },
    }


def _shown(target: Target) -> str:
    return f"{target.model}@{target.version}/{target.variant}"


def _divergence(tally: Tally) -> answers.ShadowDivergence:
    mean, squares = _mean(tally.kl, tally.kl_tokens), _mean(tally.kl_squares, tally.kl_tokens)
    variance = None if mean is None or squares is None else max(0.0, squares - mean * mean)
    return {
        "tokens": int(tally.kl_tokens),
        "mean": mean,
        "deviation": None if variance is None else math.sqrt(variance),
        "largest": tally.largest_kl if tally.kl_tokens else None,
    }


def _first_token_seconds(counters: list[EngineCounters]) -> float | None:
    """From a job's start to its first token: the mean of what workers have seen since they began, of all jobs."""
    names: tuple[HistogramName, ...] = ("first_token_seconds", "queue_seconds")
    means = []
    for name in names:
        seen = [each.histograms[name] for each in counters if name in each.histograms]
        means.append(_mean(sum(each.sum for each in seen), sum(sum(each.counts) for each in seen)))
    first, waited = means
    return None if first is None or waited is None else max(0.0, first - waited)


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None
