"""The beams of one request in the text engine: which slot holds which, and what has to be copied after a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

from models.beams import BeamSearch, BeamSettings, Continuation, from_short_list
from models.sampling import RowState
from workers.engines import Delta, Done, Event, Score
from workers.engines.rows import Row, ending, row_sampling


class Copy(NamedTuple):
    """Positions `begin` to `end` of one slot are needed in another; what both hold before is the same."""

    source: int
    target: int
    begin: int
    end: int


class BeamGroup:
    """Owns `num_beams` slots. One beam reads the prompt; the others begin as copies of it."""

    def __init__(self, rows: dict[int, Row]) -> None:
        """`rows` by slot."""
        self._rows = rows
        self._job_id, self.request, self._ending_tokens = next(
            (row.job_id, row.request, row.ending_tokens) for row in rows.values()
        )
        self.search = BeamSearch(
            BeamSettings(
                self.request.num_beams,
                self.request.max_tokens,
                self._ending_tokens,
                self.request.length_penalty,
                self.request.early_stopping,
            )
        )
        sampling = row_sampling(self.request, self._ending_tokens, 0)
        # As in `transformers`: a beam must have a way to go on that does not end it.
        top_k = max(sampling.top_k, self.search.settings.fanout) if sampling.top_k else 0
        self._sampling = replace(sampling, top_k=top_k)
        self.short_list = from_short_list(self.search.settings, self._sampling)
        self._scores: list[list[Score]] = []  # of the continuations of each step, where asked for
        self._hold([next(iter(rows))])

    @property
    def active(self) -> bool:
        """Whether the next step advances it."""
        return self._rows[self.slots[0]].active

    def states(self) -> list[RowState]:
        """Of the running beams, by rank."""
        return [
            RowState(replace(self._sampling, row=rank), self.request.prompt_tokens, beam.tokens)
            for rank, beam in enumerate(self.search.running)
        ]

    def advance(self, found: Sequence[Continuation], scores: list[Score]) -> list[Copy]:
        """Take a step's continuations with their scores, if wanted. Returns what must be copied before the next."""
        self._scores.append(scores)
        parents = [self.slots[rank] for rank in self.search.advance(found)]
        if self.search.ended:
            return []
        spare = [slot for slot in self._rows if slot not in parents]
        slots: list[int] = []
        copies = []
        for parent in parents:
            if parent not in slots:
                slots.append(parent)  # its first child stays where it is
            else:
                slots.append(spare.pop())
                copies.append(self._copy(parent, slots[-1]))
        position = self._rows[self.slots[0]].position
        self._hold(slots)
        for slot, beam in zip(slots, self.search.running, strict=True):
            self._rows[slot].output, self._rows[slot].position = list(beam.tokens), position
        return copies

    def events(self) -> list[Event]:
        """The texts, once the search has ended."""
        if not self.search.ended:
            return []
        events: list[Event] = []
        for choice, (beam, score) in enumerate(self.search.best(self.request.n)):
            tokens = list(beam.tokens)
            scores = [of_step[place] for of_step, place in zip(self._scores, beam.path, strict=False) if of_step]
            events.append(Delta(self._job_id, choice, tokens, scores, beam_score=score))
            reason = ending(tokens, self.request.max_tokens, self._ending_tokens) or "length"
            events.append(Done(self._job_id, reason, choice))
        return events

    def _hold(self, slots: list[int]) -> None:
        """The running beams are in these slots, by rank."""
        self.slots = slots
        for slot, row in self._rows.items():
            row.idle = slot not in slots

    def _copy(self, source: int, target: int) -> Copy:
        """What the target holds of its former beam is kept as far as the two texts are the same."""
        old, new = self._rows[target], self._rows[source]
        same = 0
        if old.position:
            pairs = zip(old.output, new.output, strict=False)
            shared = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
            same = min(old.position, len(self.request.prompt_tokens) + shared)
        return Copy(source, target, same, new.position)
