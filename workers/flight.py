"""A job in flight: its lease, its request, and what has come of it so far."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from contracts import keys
from contracts.bundle import Bundle
from contracts.errors import InvalidRequest, JobExpired, JobTimedOut, KamishibaiError
from contracts.jobs import request_of
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest
from contracts.results import FinishReason, ImageResult
from workers.choice import TextAnswer
from workers.engines import Delta, Score
from workers.labelling import LabelledTexts
from workers.leases import Ending, Lease
from workers.pace import Pace
from workers.pictures import encode_file, encode_png


class Flight(ABC):
    """Belongs to one lease."""

    def __init__(self, lease: Lease, request: Request, fingerprint: str) -> None:
        self.lease = lease
        self.request = request
        self._fingerprint = fingerprint
        self.deadline = time.monotonic() + min(lease.timeout_seconds, lease.seconds_to_deadline)
        self.pace = Pace(lease.waited_seconds)
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Forget what has come so far: the engine begins again."""

    @abstractmethod
    def take(self, delta: dict[str, Any]) -> bool:
        """Take what an engine call brought. True if nothing more of this choice is wanted (it met a stop string)."""

    @abstractmethod
    def finish(self, choice: int, reason: FinishReason) -> None:
        """The engine says that a choice has ended."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether every choice has ended."""

    @abstractmethod
    def land(self) -> Ending:
        """The end of a complete flight."""

    @abstractmethod
    def to_publish(self) -> list[tuple[int, int, str]]:
        """Choices with byte offset and text that nobody has been told of yet; nothing for jobs that do not stream."""

    @abstractmethod
    def published(self) -> None:
        """What `to_publish` gave has been published."""

    def run_late(self) -> Ending:
        """The end of a job whose time is up."""
        if self.lease.seconds_to_deadline < self.lease.timeout_seconds:
            return self.crash(JobExpired("The job's deadline passed while it ran; it was stopped."))
        limit = f"The job ran longer than its limit of {self.lease.timeout_seconds:g} s."
        return self.crash(JobTimedOut(limit))

    def crash(self, error: KamishibaiError) -> Ending:
        """The end of a job that failed."""
        return Ending(self.lease, "failed", error=error)


class TextFlight(Flight):
    request: TextRequest

    def __init__(self, lease: Lease, request: TextRequest, fingerprint: str, bundle: Bundle) -> None:
        self._bundle = bundle
        super().__init__(lease, request, fingerprint)

    def restart(self) -> None:
        self._answer = TextAnswer(self.request, self._bundle, self._fingerprint)

    def take(self, delta: dict[str, Any]) -> bool:
        return self._answer.take(
            Delta(
                self.lease.job_id,
                delta["choice"],
                delta["tokens"],
                _scores(delta["scores"]),
                _scores(delta["prompt_scores"]),
                delta["beam_score"],
            )
        )

    def finish(self, choice: int, reason: FinishReason) -> None:
        self._answer.finish(choice, reason)

    @property
    def complete(self) -> bool:
        return self._answer.complete

    def land(self) -> Ending:
        return Ending(self.lease, "finished", result=self._answer.result())

    def to_publish(self) -> list[tuple[int, int, str]]:
        parts = ((index, choice.to_publish()) for index, choice in enumerate(self._answer.choices))
        return [(index, *part) for index, part in parts if part] if self.request.stream else []

    def published(self) -> None:
        for choice in self._answer.choices:
            choice.published()


class ImageFlight(Flight):
    request: ImageRequest

    def __init__(self, lease: Lease, request: ImageRequest, fingerprint: str, size: tuple[int, int]) -> None:
        self._size = size
        super().__init__(lease, request, fingerprint)

    def restart(self) -> None:
        self._pictures: list[bytes] = []  # PNG files, or, for one file of all, pixels
        self._finished = False

    def take(self, delta: dict[str, Any]) -> bool:
        pictures = delta["pictures"]
        self._pictures += (
            pictures if self.request.is_one_file else [encode_png(pixels, self._size) for pixels in pictures]
        )
        return False

    def finish(self, choice: int, reason: FinishReason) -> None:
        self._finished = True

    @property
    def complete(self) -> bool:
        return self._finished

    def land(self) -> Ending:
        key = keys.pictures(self.lease.job_id, self.lease.execution_id)
        one_file = self.request.is_one_file
        files = [encode_file(self.request, self._pictures, self._size)] if one_file else self._pictures
        result = ImageResult(count=len(files), fingerprint=self._fingerprint, pictures_key=key)
        return Ending(self.lease, "finished", result=result, pictures=files)

    def to_publish(self) -> list[tuple[int, int, str]]:
        return []

    def published(self) -> None:
        return


class ClassifyFlight(Flight):
    request: ClassifyRequest

    def __init__(self, lease: Lease, request: ClassifyRequest, fingerprint: str, bundle: Bundle) -> None:
        self._bundle = bundle
        super().__init__(lease, request, fingerprint)

    def restart(self) -> None:
        self._texts = LabelledTexts(self.request, self._bundle, self._fingerprint)

    def take(self, delta: dict[str, Any]) -> bool:
        self._texts.take(delta["choice"], delta["logits"])
        return False

    def finish(self, choice: int, reason: FinishReason) -> None:
        return

    @property
    def complete(self) -> bool:
        return self._texts.complete

    def land(self) -> Ending:
        return Ending(self.lease, "finished", result=self._texts.result())

    def to_publish(self) -> list[tuple[int, int, str]]:
        return []

    def published(self) -> None:
        return


def _scores(packed: list[Any]) -> list[Score]:
    return [Score(logprob, [(token, value) for token, value in likeliest]) for logprob, likeliest in packed]


def take_off(lease: Lease, bundle: Bundle, fingerprint: str) -> Flight:
    """The flight of a claimed job, on an engine with this fingerprint.

    Raises InvalidRequest for a payload that is not a request for this bundle.
    """
    request = request_of(lease.data)
    if request.target.engine != lease.engine or request.task != bundle.manifest.task:
        raise InvalidRequest(f"The job asks for {request.target.engine} but lay on the queue {lease.queue}.")
    if isinstance(request, TextRequest):
        return TextFlight(lease, request, fingerprint, bundle)
    if isinstance(request, ClassifyRequest):
        return ClassifyFlight(lease, request, fingerprint, bundle)
    size = bundle.manifest.limits.picture_pixels or (0, 0)
    request.check_file(size)
    return ImageFlight(lease, request, fingerprint, size)
