"""Requests through the product's own engine in this process: for stock RQ workers, `kamishibai generate` and `dump`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import from_record
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest
from contracts.results import ClassifyResult, ImageResult, Result, TextResult
from contracts.settings import DEFAULT_KV_BYTES
from workers.choice import TextAnswer
from workers.engines import Delta, Done, Event, Evicted, Failed
from workers.engines.loading import load_model
from workers.labelling import LabelledTexts
from workers.pictures import encode_png
from workers.scheduler import Scheduler

_ONLY = "only"  # the id of the one request, and the name of the one engine


class LocalModel:
    """A loaded bundle that runs one request at a time, or many texts together, with the same numbers either way."""

    def __init__(
        self,
        bundle: Bundle,
        variant: str = DEFAULT_VARIANT,
        device: str = "cpu",
        kv_bytes: int = DEFAULT_KV_BYTES,
    ) -> None:
        self.bundle = bundle
        loaded = load_model(bundle, variant, torch.device(device), kv_bytes)
        self.probe, self.fingerprint, self._engine = loaded.probe, loaded.fingerprint, loaded.engine

    def text(self, request: TextRequest, on_text: Callable[[str], None] = lambda _: None) -> TextResult:
        """Run a text request; `on_text` gets the first choice's text as it comes."""
        answer = TextAnswer(request, self.bundle, self.fingerprint)
        first = answer.choices[0]
        shown = 0
        for event in self._events(request):
            self._tell(answer, event)
            on_text(first.text[shown:])
            shown = len(first.text)
        return answer.result()

    def texts(self, requests: Sequence[TextRequest]) -> Iterator[tuple[int, TextResult]]:
        """Run text requests in shared batches: whenever one ends, the next takes its place. Each result comes, with
        its request's place, as soon as it is there.

        Raises InvalidRequest and EngineFailed for the first request that cannot be run. Nothing else may be run
        before the last result has come or the iterator is closed.
        """
        scheduler: Scheduler[Request] = Scheduler({_ONLY: self._engine})
        for place, request in enumerate(requests):
            scheduler.submit(_ONLY, str(place), request)
        answers: dict[int, TextAnswer] = {}  # of the texts that are being written, by place
        try:
            while scheduler.busy:
                scheduler.admit(_refuse)
                for event in self._engine.collect(self._engine.launch()).events:
                    place = int(event.job_id)
                    if isinstance(event, Evicted):  # it begins anew, behind those that wait
                        answers.pop(place, None)
                        scheduler.submit(_ONLY, event.job_id, requests[place])
                        continue
                    if place not in answers:
                        answers[place] = TextAnswer(requests[place], self.bundle, self.fingerprint)
                    self._tell(answers[place], event)
                for place in [place for place, answer in answers.items() if answer.complete]:
                    yield place, answers.pop(place).result()
        finally:
            scheduler.clear(_ONLY)

    def pictures(self, request: ImageRequest) -> list[bytes]:
        """Run a picture request; PNG files."""
        size = self.bundle.manifest.limits.picture_pixels or (0, 0)
        return [
            encode_png(pixels, size)
            for event in self._events(request)
            if isinstance(event, Delta)
            for pixels in event.pictures
        ]

    def labels(self, request: ClassifyRequest) -> ClassifyResult:
        """Run a request to classify texts. Raises InvalidRequest for texts that the model cannot read."""
        texts = LabelledTexts(request, self.bundle, self.fingerprint)
        for event in self._events(request):
            if isinstance(event, Delta):
                texts.take(event.choice, event.logits)
        return texts.result()

    def run(self, request: Request) -> Result:
        if isinstance(request, TextRequest):
            return self.text(request)
        if isinstance(request, ClassifyRequest):
            return self.labels(request)
        pictures = [base64.b64encode(picture).decode() for picture in self.pictures(request)]
        return ImageResult(count=request.count, pictures=pictures, fingerprint=self.fingerprint)

    def _events(self, request: Request) -> Iterator[Event]:
        """Raises EngineFailed if there is not enough memory for it."""
        self._engine.add(_ONLY, request)
        try:
            while self._engine.busy:
                for event in self._engine.collect(self._engine.launch()).events:
                    if isinstance(event, Failed):
                        raise from_record(event.record)
                    yield event
        finally:
            self._engine.remove(_ONLY)  # RQ stops a job that is late wherever it is; the next one must not meet it

    def _tell(self, answer: TextAnswer, event: Event) -> None:
        """Raises what the request failed of."""
        if isinstance(event, Failed):
            raise from_record(event.record)
        if isinstance(event, Done):
            answer.finish(event.choice, event.finish_reason)
        elif isinstance(event, Delta) and answer.take(event):
            self._engine.remove(event.job_id, event.choice)


def _refuse(_job_id: str, error: Exception) -> NoReturn:
    raise error
