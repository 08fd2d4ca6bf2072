"""Labels of a classifier, and what its logits say of a text.

By "sigmoid" any number of labels apply to a text, each with a probability of its own; by "softmax" exactly one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_LABELS = 4096
MAX_LABEL_CHARACTERS = 200

Activation = Literal["sigmoid", "softmax"]
Share = Annotated[float, Field(ge=0, le=1)]


class Labels(BaseModel):
    """Names in the order of the model's outputs, and the probability from which on a label applies by default: one for
    all of them, or one for each."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)], ...],
        Field(min_length=1, max_length=MAX_LABELS),
    ]
    activation: Activation
    threshold: Share | tuple[Share, ...]

    @field_validator("names")
    @classmethod
    def _tell_labels_apart(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"{twice!r} stands twice among the labels")
        if strange := [name for name in names if not name.isprintable()]:
            raise ValueError(f"{strange[0]!r} cannot be printed")
        return names

    @model_validator(mode="after")
    def _one_threshold_each(self) -> Self:
        if isinstance(self.threshold, tuple) and len(self.threshold) != len(self.names):
            raise ValueError(f"{len(self.threshold)} thresholds are given for {len(self.names)} labels")
        return self

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per label."""
        return self.threshold if isinstance(self.threshold, tuple) else (self.threshold,) * len(self.names)

    def probabilities(self, logits: Sequence[float]) -> list[float]:
        """One per label. In fp64 and one by one, so that they depend on the logits alone. Raises ValueError for
        logits that are no numbers."""
        if not all(map(math.isfinite, logits)):
            raise ValueError("the logits are not finite")
        if self.activation == "sigmoid":
            return [_sigmoid(logit) for logit in logits]
        largest = max(logits)
        weights = [math.exp(logit - largest) for logit in logits]
        total = math.fsum(weights)
        return [weight / total for weight in weights]

    def applying(self, probabilities: Sequence[float], threshold: float | None = None) -> list[str]:
        """Labels that reach the threshold, or else their own, likeliest first; by softmax only the likeliest can."""
        needed = self.thresholds if threshold is None else (threshold,) * len(self.names)
        order = likeliest_first(probabilities)
        if self.activation == "softmax":
            order = order[:1]
        return [self.names[label] for label in order if probabilities[label] >= needed[label]]


def likeliest_first(probabilities: Sequence[float]) -> list[int]:
    """Places of the labels; of equals the first comes first."""
    return sorted(range(len(probabilities)), key=lambda label: -probabilities[label])


def _sigmoid(x: float) -> float:
    """Without an overflow for either sign."""
    small = math.exp(-abs(x))
    return 1 / (1 + small) if x >= 0 else small / (1 + small)
