"""The texts of a request: what each says so far, what has been published of it, and its log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.bundle import Bundle
from contracts.errors import InvalidRequest
from contracts.prompt_fields import PromptFields
from contracts.requests import TextRequest
from contracts.results import Choice, FinishReason, Logprobs, TextResult
from contracts.tokenizers import Detokenizer, Tokenizer
from workers.assembler import TextAssembler
from workers.engines import Delta, Score


class ChoiceText:
    """Put together from the events of the engine, by whoever runs it."""

    def __init__(self, request: TextRequest, tokenizer: Tokenizer, prompt_fields: PromptFields | None) -> None:
        self._request = request
        self._prompt_fields = prompt_fields
        self._tokenizer = tokenizer
        ending_tokens = request.ending_tokens(tokenizer.end_token)
        self._assembler = TextAssembler(tokenizer, request.stop, ending_tokens, request.prompt_tokens)
        self._scores: list[Score] = []
        self._fresh = prompt_text(request, tokenizer) if request.echo else ""  # text that has not been published
        self._prefix = self._fresh
        self._published_bytes = 0
        self.finish_reason: FinishReason | None = None
        self.beam_score: float | None = None

    @property
    def text(self) -> str:
        return self._prefix + self._assembler.text

    def take(self, tokens: list[int], scores: Sequence[Score]) -> None:
        """Tokens of the output with their scores, if asked for. A stop string finishes the choice."""
        known = self._assembler.tokens
        self._fresh += self._assembler.feed(tokens)
        self._scores += scores[: self._assembler.tokens - known]
        if self._assembler.stopped:
            self.finish_reason = "stop"

    def finish(self, reason: FinishReason) -> None:
        """The engine says that it has ended; a stop string may have ended it before."""
        if self.finish_reason is None:
            self._assembler.finish()
            self.finish_reason = "stop" if self._assembler.stopped else reason

    def to_publish(self) -> tuple[int, str] | None:
        """Byte offset and text that nobody has been told of yet. The end of a text comes with the result."""
        return (self._published_bytes, self._fresh) if self._fresh else None

    def published(self) -> None:
        """What `to_publish` gave has been published."""
        self._published_bytes += len(self._fresh.encode())
        self._fresh = ""

    def result(self, prompt_scores: list[Score]) -> Choice:
        """The finished choice; the scores of the prompt are the same for all choices."""
        marked_text, fields = self._parts()
        return Choice(
            text=self.text,
            finish_reason=self.finish_reason or "length",
            tokens=self._assembler.tokens,
            beam_score=self.beam_score,
            fields=fields,
            marked_text=marked_text,
            logprobs=self._logprobs(prompt_scores) if self._request.logprobs is not None else None,
        )

    def _parts(self) -> tuple[str, dict[str, str]] | tuple[None, None]:
        """Prompt and output together with their markers, and the parts between those."""
        if self._prompt_fields is None or not self._request.with_fields:
            return None, None
        tokens = [*self._request.prompt_tokens, *self._assembler.token_ids]
        text = b"".join(map(self._tokenizer.marked_bytes, tokens)).decode(errors="replace")
        return text, self._prompt_fields.parse(text)

    def _logprobs(self, prompt_scores: list[Score]) -> Logprobs:
        prompt = list(self._request.prompt_tokens) if self._request.echo else []
        scores = [*([None] if prompt else []), *(prompt_scores if prompt else []), *self._scores]
        tokens = [*prompt, *self._assembler.token_ids]
        offsets = [
            *_offsets(prompt, self._tokenizer),
            *(len(self._prefix) + offset for offset in self._assembler.offsets),
        ]
        return Logprobs(
            tokens=[self._tokenizer.token_text(token) for token in tokens],
            token_logprobs=[score.logprob if score else None for score in scores],
            top_logprobs=[
                self._likeliest(token, score) if score else None for token, score in zip(tokens, scores, strict=True)
            ],
            text_offset=offsets,
        )

    def _likeliest(self, token: int, score: Score) -> dict[str, float]:
        """The likeliest tokens by their texts, and the token itself, as OpenAI lists them."""
        entries = [(token, score.logprob), *reversed(score.likeliest)]  # of tokens that look alike the likeliest stays
        return {self._tokenizer.token_text(other): logprob for other, logprob in entries}


class TextAnswer:
    """All choices of a request."""

    def __init__(self, request: TextRequest, bundle: Bundle, fingerprint: str) -> None:
        """Raises InvalidRequest for tokens that have no text and more tokens than the model writes.

        Admission has looked at that, but any client of Redis can write a request.
        """
        self._request = request
        self._fingerprint = fingerprint
        tokenizer, fields = bundle.tokenizer(), bundle.manifest.prompt_fields
        if (largest := max(request.prompt_tokens)) >= tokenizer.vocabulary_size:
            raise InvalidRequest(f"Token {largest} is not among the model's {tokenizer.vocabulary_size}.")
        most = bundle.manifest.limits.max_tokens
        if most is not None and request.max_tokens > most:
            raise InvalidRequest(f"'max_tokens' is {request.max_tokens}, but the model writes at most {most} at once.")
        self.choices = [ChoiceText(request, tokenizer, fields) for _ in range(request.n)]
        self._prompt_scores: list[Score] = []

    def take(self, delta: Delta) -> bool:
        """What an engine call brought. True if nothing more of this choice is wanted (it met a stop string)."""
        self._prompt_scores += delta.prompt_scores
        text = self.choices[delta.choice]
        if text.finish_reason is not None:
            return False
        text.take(delta.tokens, delta.scores)
        text.beam_score = delta.beam_score
        return text.finish_reason is not None

    def finish(self, choice: int, reason: FinishReason) -> None:
        """The engine says that a choice has ended."""
        self.choices[choice].finish(reason)

    @property
    def complete(self) -> bool:
        return all(choice.finish_reason for choice in self.choices)

    def result(self) -> TextResult:
        return TextResult(
            choices=[choice.result(self._prompt_scores) for choice in self.choices],
            prompt_tokens=len(self._request.prompt_tokens),
            fingerprint=self._fingerprint,
        )


def prompt_text(request: TextRequest, tokenizer: Tokenizer) -> str:
    """The text of a request's prompt tokens."""
    detokenizer = Detokenizer(tokenizer)
    return "".join(map(detokenizer.feed, request.prompt_tokens)) + detokenizer.finish()


def _offsets(tokens: list[int], tokenizer: Tokenizer) -> list[int]:
    """Characters of the text before each token."""
    detokenizer = Detokenizer(tokenizer)
    offsets, length = [], 0
    for token in tokens:
        offsets.append(length)
        length += len(detokenizer.feed(token))
    return offsets
