"""What two results of one request say of the versions that made them, as fields of `contracts.shadows.Tally`."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from contracts.bundle import TOKENIZER
from contracts.requests import MAX_LOGPROBS, ImageRequest, Request, Target, TextRequest
from contracts.results import Choice, Classification, ClassifyResult, Result, TextResult
from contracts.tokenizers import Detokenizer, Tokenizer
from server.catalogue import CatalogueEntry
from server.png_pixels import png_pixels

MOST_SCORED_TOKENS = 1024  # of prompt and output, to measure the divergence on


def same_tokens(live: CatalogueEntry, candidate: CatalogueEntry) -> bool:
    """Whether a token is the same text to both."""
    return live.manifest.files.get(TOKENIZER) == candidate.manifest.files.get(TOKENIZER)


def copy_for(request: Request, live: CatalogueEntry, candidate: CatalogueEntry) -> Request | None:
    """The request on the candidate: same seed, same settings. None if it names tokens that the candidate lacks."""
    target = {"target": candidate.target}
    if not isinstance(request, TextRequest):
        return request.model_copy(update=target)
    if same_tokens(live, candidate):
        return request.model_copy(update=target | {"stream": False})
    if request.logit_bias or request.stop_token_ids or live.tokenizer is None:
        return None
    (tokens,) = candidate.encode([_text_of(request.prompt_tokens, live.tokenizer)])
    return request.model_copy(update=target | {"stream": False, "prompt_tokens": tuple(tokens)}) if tokens else None


def scored_tokens(request: TextRequest, choice: Choice, entry: CatalogueEntry) -> tuple[int, ...]:
    """The prompt and the tokens into which the tokenizer cuts the text behind it; empty if there is nothing to score.

    A result holds no token ids. A text that comes out cut otherwise than it was written is still one text that both
    versions can be asked about.
    """
    if entry.tokenizer is None:
        return ()
    output = _output(choice.text, request, entry.tokenizer)
    most = min(MOST_SCORED_TOKENS, entry.manifest.limits.context_tokens or MOST_SCORED_TOKENS)
    tokens = (*request.prompt_tokens, *entry.tokenizer.encode(output))[:most]
    return tokens if len(tokens) > len(request.prompt_tokens) else ()


def scoring(target: Target, tokens: tuple[int, ...]) -> TextRequest:
    """A request that writes nothing and tells of each of these tokens how likely it and the likeliest were."""
    return TextRequest(
        target=target, seed=0, prompt_tokens=tokens, max_tokens=0, echo=True, logprobs=MAX_LOGPROBS, with_fields=False
    )


def compare_texts(
    request: TextRequest, live: TextResult, candidate: TextResult, tokenizer: Tokenizer | None
) -> dict[str, float]:
    """`tokenizer` is that of both; without one only whole texts can be compared."""
    pairs = list(zip(live.choices, candidate.choices, strict=True))
    equal = [ours.text == theirs.text and ours.finish_reason == theirs.finish_reason for ours, theirs in pairs]
    found = _equal(equal)
    if tokenizer is not None:
        outputs = [tuple(tokenizer.encode(_output(each.text, request, tokenizer)) for each in pair) for pair in pairs]
        found |= _agreements([_leading_share(ours, theirs) for ours, theirs in outputs])
    return found


def compare_labels(live: ClassifyResult, candidate: ClassifyResult) -> dict[str, float]:
    """Differences are the largest ones of a label's probability, text by text, among the scores that both tell."""
    pairs = list(zip(live.classifications, candidate.classifications, strict=True))
    differences = [_label_difference(ours, theirs) for ours, theirs in pairs]
    same_labels = [float(set(ours.labels) == set(theirs.labels)) for ours, theirs in pairs]
    return _equal([ours == theirs for ours, theirs in pairs]) | _agreements(same_labels) | _differences(differences)


def compare_pictures(request: ImageRequest, live: Sequence[str], candidate: Sequence[str]) -> dict[str, float]:
    """Files in base64. Differences are the mean ones of pixels from 0 to 1, of PNG files of one size."""
    equal, differences = [], []
    for ours, theirs in zip(map(base64.b64decode, live), map(base64.b64decode, candidate), strict=True):
        difference = _pixel_difference(ours, theirs) if request.output_format == "png" else None
        # Encoders differ between machines, so the same pixels can be other bytes.
        equal.append(ours == theirs or difference == 0)
        differences += [] if difference is None else [difference]
    return _equal(equal) | _differences(differences)


def units(result: Result) -> int:
    """Tokens written, files drawn or texts classified."""
    if isinstance(result, TextResult):
        return sum(choice.tokens for choice in result.choices)
    return len(result.classifications) if isinstance(result, ClassifyResult) else result.count


def _text_of(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.feed, tokens)) + detokenizer.finish()


def _output(text: str, request: TextRequest, tokenizer: Tokenizer) -> str:
    """A choice's text without the prompt, which it begins with if that was asked for."""
    return text.removeprefix(_text_of(request.prompt_tokens, tokenizer)) if request.echo else text


def _leading_share(ours: list[int], theirs: list[int]) -> float:
    """How much of two texts is the same before they part."""
    longest = max(len(ours), len(theirs))
    parted = next((place for place, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    leading = min(len(ours), len(theirs)) if parted is None else parted
    return leading / longest if longest else 1.0


def _label_difference(ours: Classification, theirs: Classification) -> float:
    known = {score.label: score.score for score in theirs.scores}
    return max((abs(score.score - known[score.label]) for score in ours.scores if score.label in known), default=0.0)


def _pixel_difference(ours: bytes, theirs: bytes) -> float | None:
    first, second = png_pixels(ours), png_pixels(theirs)
    if first is None or second is None or first[0] != second[0]:
        return None
    return sum(abs(a - b) for a, b in zip(first[1], second[1], strict=True)) / (255 * len(first[1]))


def _equal(equal: list[bool]) -> dict[str, float]:
    return {"equal": float(all(equal)), "parts": len(equal), "equal_parts": sum(equal)}


def _agreements(agreements: list[float]) -> dict[str, float]:
    return {"agreed": len(agreements), "agreements": sum(agreements)}


def _differences(differences: list[float]) -> dict[str, float]:
    found = {"measured": len(differences), "differences": sum(differences)}
    return found | {"largest_difference": max(differences, default=0.0)}
