"""One request through the product's own engine, in this process: for stock RQ workers and `kamishibai generate`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import torch

from contracts.bundle import DEFAULT_VARIANT, Bundle
from contracts.requests import ImageRequest, TextRequest
from contracts.results import FinishReason, ImageResult, TextResult
from workers.assembler import TextAssembler
from workers.engines import Delta, Done, Event
from workers.engines.loading import load_engine
from workers.pictures import encode_png

_ONLY = "only"  # the id of the one request


class LocalModel:
    """A loaded bundle that runs one request at a time, with the same numbers as a shared batch."""

    def __init__(self, bundle: Bundle, variant: str = DEFAULT_VARIANT, device: str = "cpu") -> None:
        self.bundle = bundle
        self._engine = load_engine(bundle, variant, torch.device(device))

    def text(self, request: TextRequest, on_text: Callable[[str], None] = lambda _: None) -> TextResult:
        """Run a text request; `on_text` gets the text as it comes."""
        assembler = TextAssembler(self.bundle.tokenizer(), request.stop)
        finish_reason: FinishReason = "length"
        for event in self._events(request):
            if isinstance(event, Delta):
                on_text(assembler.feed(event.tokens))
            elif isinstance(event, Done):
                finish_reason = event.finish_reason
            if assembler.stopped:
                self._engine.remove(_ONLY)
                break
        on_text(assembler.finish())
        return TextResult(
            text=assembler.text,
            finish_reason="stop" if assembler.stopped else finish_reason,
            prompt_tokens=len(request.prompt_tokens),
            completion_tokens=assembler.tokens,
        )

    def pictures(self, request: ImageRequest) -> list[bytes]:
        """Run a picture request; PNG files."""
        size = self.bundle.manifest.limits.picture_pixels or (0, 0)
        return [
            encode_png(pixels, size)
            for event in self._events(request)
            if isinstance(event, Delta)
            for pixels in event.pictures
        ]

    def run(self, request: TextRequest | ImageRequest) -> TextResult | ImageResult:
        if isinstance(request, TextRequest):
            return self.text(request)
        pictures = [base64.b64encode(picture).decode() for picture in self.pictures(request)]
        return ImageResult(count=request.count, pictures=pictures)

    def _events(self, request: TextRequest | ImageRequest) -> Iterator[Event]:
        self._engine.add(_ONLY, request)
        while self._engine.busy:
            yield from self._engine.collect(self._engine.launch()).events
