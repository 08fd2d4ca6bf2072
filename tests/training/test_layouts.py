"""Rows: every token that can be predicted is predicted once an epoch."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import SMALL
from training.layouts import packed, padded
from training.objective import IGNORED

TEXTS = st.lists(st.lists(st.integers(1, 50), min_size=2, max_size=40), min_size=1, max_size=30)


def recipe(layout, block_tokens, batch_rows):
    return SMALL[layout].model_copy(update={"block_tokens": block_tokens, "batch_rows": batch_rows})


def batches(layout, epoch):
    return [layout.batch(epoch, index) for index in range(layout.batches)]


@given(TEXTS, st.integers(2, 20), st.integers(1, 7))
def test_padded_rows_predict_every_token_but_the_first_of_each_text(texts, block_tokens, batch_rows):
    layout = padded(texts, recipe("padded", block_tokens, batch_rows), filler=0)
    seen: Counter[int] = Counter()
    for batch in batches(layout, 1):
        assert batch.inputs.shape == batch.targets.shape
        seen.update(batch.targets[batch.targets != IGNORED].tolist())
        # Behind a text there is nothing but the filler.
        assert bool((batch.inputs[:, 1:][batch.targets[:, :-1] == IGNORED] == 0).all())
    assert seen == Counter(token for text in texts for token in text[1:block_tokens])


@given(TEXTS, st.integers(2, 20), st.integers(1, 7))
def test_packed_blocks_are_pieces_of_one_stream_and_predict_each_of_their_tokens_once(texts, block_tokens, batch_rows):
    layout = packed(texts, recipe("packed", block_tokens, batch_rows))
    targets = [row for batch in batches(layout, None) for row in batch.targets.tolist()]
    inputs = [row for batch in batches(layout, None) for row in batch.inputs.tolist()]
    stream = [inputs[0][0], *(token for row in targets for token in row)]
    assert all(a[1:] == b[:-1] for a, b in zip(inputs, targets, strict=True))
    total = sum(map(len, texts))
    width = min(block_tokens, total - 1)
    assert len(stream) - 1 == (total - 1) // width * width
    joined = ",".join(map(str, stream))
    assert sum(",".join(map(str, text)) in joined for text in texts) >= len(texts) - width  # whole but at the cut end


@given(TEXTS, st.integers(0, 5))
def test_every_epoch_has_an_order_of_its_own_and_the_same_one_each_time(texts, epoch):
    layout = padded(texts, recipe("padded", 40, 3), filler=0)
    first, second = batches(layout, epoch), batches(layout, epoch)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))
    ordered = sorted(tuple(row) for batch in batches(layout, epoch + 1) for row in batch.targets.tolist())
    assert len(ordered) == sum(len(batch.inputs) for batch in first)
