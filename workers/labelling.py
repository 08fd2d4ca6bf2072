"""The labels of a request's texts, put together from the logits that the engine brings."""

from __future__ import annotations

import math
from itertools import islice

from contracts.bundle import Bundle
from contracts.labels import likeliest_first
from contracts.requests import ClassifyRequest, TokenisedText
from contracts.results import Classification, ClassifyResult, LabelScore


class LabelledTexts:
    """All texts of a request."""

    def __init__(self, request: ClassifyRequest, bundle: Bundle, fingerprint: str) -> None:
        self._request = request
        self._labels = bundle.labels()
        self._fingerprint = fingerprint
        self._logits: dict[int, list[float]] = {}  # by the window's place in the request

    def take(self, place: int, logits: list[float]) -> None:
        """Of a window; windows are counted through all texts."""
        self._logits[place] = logits

    @property
    def complete(self) -> bool:
        return len(self._logits) == sum(len(text.windows) for text in self._request.texts)

    def result(self) -> ClassifyResult:
        """Of a complete request."""
        logits = iter([self._logits[place] for place in sorted(self._logits)])
        classifications = [
            self._classification(text, list(islice(logits, len(text.windows)))) for text in self._request.texts
        ]
        return ClassifyResult(classifications=classifications, fingerprint=self._fingerprint)

    def _classification(self, text: TokenisedText, logits: list[list[float]]) -> Classification:
        by_window = map(self._labels.probabilities, logits)
        probabilities = [math.fsum(each) / len(logits) for each in zip(*by_window, strict=True)]
        shown = likeliest_first(probabilities)[: self._request.top_k]
        return Classification(
            labels=self._labels.applying(probabilities, self._request.threshold),
            scores=[LabelScore(label=self._labels.names[label], score=probabilities[label]) for label in shown],
            tokens=text.tokens,
            windows=len(text.windows),
            truncated=text.truncated,
        )
