"""One text in its slot of the text engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from contracts.requests import TextRequest
from models.runtimes import PREFILL_CHUNK, Chunk
from models.sampling import RowSampling, RowState
from workers.engines import Score


@dataclass
class Row:
    """A choice, or a beam. `position` tokens of prompt and output are in the slot; `token` is fed next."""

    job_id: str
    choice: int
    request: TextRequest
    ending_tokens: frozenset[int]
    idle: bool = False  # not stepped: a choice that waits for its prompt to be read, a beam that is not needed now
    position: int = 0
    output: list[int] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)  # of the output
    prompt_scores: list[Score] = field(default_factory=list)
    reported: int = 0  # tokens of the output that earlier calls have reported
    followers: list[int] = field(default_factory=list)  # slots of the other choices, while they wait for the prompt

    @property
    def is_beam(self) -> bool:
        return self.request.num_beams > 1

    @cached_property
    def is_plain(self) -> bool:
        """Whether any writer may draw its tokens, which the request alone decides: not who else is there."""
        return row_sampling(self.request, self.ending_tokens, self.choice).plain and not self._needs_logits

    @cached_property
    def is_listed(self) -> bool:
        """Whether a writer may that draws from short lists."""
        return row_sampling(self.request, self.ending_tokens, self.choice).listed and not self._needs_logits

    @property
    def _needs_logits(self) -> bool:
        return self.request.logprobs is not None or self.is_beam

    @property
    def prefilled(self) -> bool:
        return self.position >= len(self.request.prompt_tokens) - 1

    @property
    def active(self) -> bool:
        """Whether the next step advances it."""
        return self.prefilled and not self.idle and self.finish_reason is None

    @property
    def token(self) -> int:
        return self.output[-1] if self.output else self.request.prompt_tokens[-1]

    @property
    def scores_prompt(self) -> bool:
        """The first choice scores the prompt for all of them."""
        return self.request.echo and self.request.logprobs is not None and self.choice == 0

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Why the text has ended; None while it goes on. How beams end is their search's matter."""
        if self.is_beam or not self.prefilled:
            return None
        return ending(self.output, self.request.max_tokens, self.ending_tokens)

    def take(self, tokens: list[int]) -> int:
        """Tokens of several steps, those behind the text's end drawn in vain. Returns how many it took."""
        before = len(self.output)
        for token in tokens[: self.request.max_tokens - before]:
            self.output.append(token)
            if token in self.ending_tokens:
                break
        self.position += len(self.output) - before
        return len(self.output) - before

    def next_chunk(self, slot: int) -> Chunk:
        end = min(self.position + PREFILL_CHUNK, len(self.request.prompt_tokens) - 1)
        tokens = list(self.request.prompt_tokens[self.position : end])
        return Chunk(slot, self.position, tokens, self.scores_prompt)

    def state(self) -> RowState:
        return RowState(
            row_sampling(self.request, self.ending_tokens, self.choice), self.request.prompt_tokens, self.output
        )


def ending(
    output: list[int] | tuple[int, ...], max_tokens: int, ending_tokens: frozenset[int]
) -> Literal["stop", "length"] | None:
    """Why a text of these tokens ends; None if it does not."""
    if output and output[-1] in ending_tokens:
        return "stop"
    return "length" if len(output) >= max_tokens else None


def row_sampling(request: TextRequest, ending_tokens: frozenset[int], row: int) -> RowSampling:
    """The settings of one choice of a request."""
    return RowSampling(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        no_repeat_ngram_size=request.no_repeat_ngram_size,
        logit_bias=request.logit_bias,
        min_tokens=request.min_tokens,
        ending_tokens=tuple(sorted(ending_tokens)),
        seed=request.seed,
        row=row,
    )
