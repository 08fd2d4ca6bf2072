"""One request through the product's own engine, in this process: for stock RQ workers and `kamishibai generate`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.errors import from_record
from contracts.requests import ClassifyRequest, ImageRequest, Request, TextRequest
from contracts.results import ClassifyResult, ImageResult, Result, TextResult
from workers.choice import TextAnswer
from workers.engines import Delta, Done, Event, Failed
from workers.engines.loading import load_model
from workers.labelling import LabelledTexts
from workers.pictures import encode_png

_ONLY = "only"  # the id of the one request


class LocalModel:
    """A loaded bundle that runs one request at a time, with the same numbers as a shared batch."""

    def __init__(self, bundle: Bundle, variant: str = DEFAULT_VARIANT, device: str = "cpu") -> None:
        self.bundle = bundle
        loaded = load_model(bundle, variant, torch.device(device))
        self.probe, self.fingerprint, self._engine = loaded.probe, loaded.fingerprint, loaded.engine

    def text(self, request: TextRequest, on_text: Callable[[str], None] = lambda _: None) -> TextResult:
        """Run a text request; `on_text` gets the first choice's text as it comes."""
        answer = TextAnswer(request, self.bundle, self.fingerprint)
        first = answer.choices[0]
        shown = 0
        for event in self._events(request):
            if isinstance(event, Delta):
                if answer.take(event):
                    self._engine.remove(_ONLY, event.choice)
            elif isinstance(event, Done):
                answer.finish(event.choice, event.finish_reason)
            on_text(first.text[shown:])
            shown = len(first.text)
        return answer.result()

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
