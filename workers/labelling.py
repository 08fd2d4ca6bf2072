"""The labels of a request's texts, put together from the logits that the engine brings."""

from __future__ import annotations

from contracts.bundle import Bundle
from contracts.labels import likeliest_first
from contracts.requests import ClassifyRequest
from contracts.results import Classification, ClassifyResult, LabelScore


class LabelledTexts:
    """All texts of a request."""

    def __init__(self, request: ClassifyRequest, bundle: Bundle, fingerprint: str) -> None:
        self._request = request
        self._labels = bundle.labels()
        self._fingerprint = fingerprint
        self._logits: dict[int, list[float]] = {}  # by the text's place in the request

    def take(self, place: int, logits: list[float]) -> None:
        self._logits[place] = logits

    @property
    def complete(self) -> bool:
        return len(self._logits) == len(self._request.texts)

    def result(self) -> ClassifyResult:
        """Of a complete request."""
        places = range(len(self._request.texts))
        return ClassifyResult(classifications=list(map(self._classification, places)), fingerprint=self._fingerprint)

    def _classification(self, place: int) -> Classification:
        text = self._request.texts[place]
        probabilities = self._labels.probabilities(self._logits[place])
        shown = likeliest_first(probabilities)[: self._request.top_k]
        return Classification(
            labels=self._labels.applying(probabilities, self._request.threshold),
            scores=[LabelScore(label=self._labels.names[label], score=probabilities[label]) for label in shown],
            tokens=len(text.tokens),
            truncated=text.truncated,
        )
