"""A job in flight: its lease, its request, and what has come of it so far."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Any

from contracts import keys
from contracts.bundle import Bundle
from contracts.errors import InvalidRequest, KamishibaiError
from contracts.jobs import request_of
from contracts.requests import ImageRequest, TextRequest
from contracts.results import FinishReason, ImageResult, TextResult
from contracts.tokenizers import Tokenizer
from workers.assembler import TextAssembler
from workers.leases import Ending, Lease
from workers.pictures import encode_png


class Flight(ABC):
    """Belongs to one lease. `crashes` counts the engine children that died while running it."""

    def __init__(self, lease: Lease, request: TextRequest | ImageRequest) -> None:
        self.lease = lease
        self.request = request
        self.deadline = time.monotonic() + lease.timeout_seconds
        self.crashes = 0
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Forget what has come so far: the engine begins again."""

    @abstractmethod
    def take(self, delta: dict[str, Any]) -> bool:
        """Take what an engine call brought. True if nothing more is wanted (a stop string was found)."""

    @abstractmethod
    def land(self, finish_reason: FinishReason) -> Ending:
        """The end of a job that went well."""

    def to_publish(self) -> tuple[int, str] | None:
        """Byte offset and text that nobody has been told of yet; None for jobs that do not stream.

        The end of a text is not published: streams take it from the result.
        """
        return None

    def published(self) -> None:  # noqa: B027 - only streaming jobs have something to note
        """What `to_publish` gave has been published."""

    def crash(self, error: KamishibaiError) -> Ending:
        """The end of a job that failed."""
        return Ending(self.lease, "failed", error=error)


class TextFlight(Flight):
    request: TextRequest

    def __init__(self, lease: Lease, request: TextRequest, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        super().__init__(lease, request)

    def restart(self) -> None:
        self._assembler = TextAssembler(self._tokenizer, self.request.stop)
        self._published_bytes = 0
        self._fresh = ""  # text that has not been published

    def take(self, delta: dict[str, Any]) -> bool:
        self._fresh += self._assembler.feed(delta["tokens"])
        return self._assembler.stopped

    def land(self, finish_reason: FinishReason) -> Ending:
        self._assembler.finish()
        result = TextResult(
            text=self._assembler.text,
            finish_reason="stop" if self._assembler.stopped else finish_reason,
            prompt_tokens=len(self.request.prompt_tokens),
            completion_tokens=self._assembler.tokens,
        )
        return Ending(self.lease, "finished", result=result)

    def to_publish(self) -> tuple[int, str] | None:
        return (self._published_bytes, self._fresh) if self.request.stream and self._fresh else None

    def published(self) -> None:
        self._published_bytes += len(self._fresh.encode())
        self._fresh = ""


class ImageFlight(Flight):
    request: ImageRequest

    def __init__(self, lease: Lease, request: ImageRequest, size: tuple[int, int]) -> None:
        self._size = size
        super().__init__(lease, request)

    def restart(self) -> None:
        self._pictures: list[bytes] = []

    def take(self, delta: dict[str, Any]) -> bool:
        self._pictures += [encode_png(pixels, self._size) for pixels in delta["pictures"]]
        return False

    def land(self, finish_reason: FinishReason) -> Ending:
        key = keys.pictures(self.lease.job_id, self.lease.execution_id)
        return Ending(
            self.lease,
            "finished",
            result=ImageResult(count=len(self._pictures), pictures_key=key),
            pictures=self._pictures,
        )


def take_off(lease: Lease, bundle: Bundle) -> Flight:
    """The flight of a claimed job. Raises InvalidRequest for a payload that is not a request for this bundle."""
    request = request_of(lease.data)
    if request.target.queue_name != lease.queue or request.task != bundle.manifest.task:
        raise InvalidRequest(f"The job asks for {request.target.queue_name} but lay on the queue {lease.queue}.")
    if isinstance(request, TextRequest):
        known = bundle.manifest.config.get("vocabulary_size", math.inf)
        if max(request.prompt_tokens) >= known:  # would end the engine child, and with it the whole batch
            raise InvalidRequest(f"The job's prompt holds token {max(request.prompt_tokens)}; the model has {known}.")
        return TextFlight(lease, request, bundle.tokenizer())
    return ImageFlight(lease, request, bundle.manifest.limits.picture_pixels or (0, 0))
