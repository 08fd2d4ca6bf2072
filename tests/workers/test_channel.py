"""The line between parent and child: whole messages, whatever the sockets do."""

from __future__ import annotations

import itertools
import socket
import threading

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.channel import Channel, ChannelClosed


@pytest.fixture
def ends():
    """(non-blocking, blocking), as parent and child have them."""
    left, right = socket.socketpair()
    channels = Channel(left, blocking=False), Channel(right, blocking=True)
    yield channels
    for channel in channels:
        channel.close()


def receive(channel: Channel, count: int) -> list:
    messages: list = []
    while len(messages) < count:
        messages += channel.receive()
    return messages


def test_messages_arrive_in_order_both_ways(ends):
    parent, child = ends
    sent = [{"op": "add", "job": str(number), "data": bytes([number])} for number in range(50)]
    for message in sent:
        parent.send(message)
        child.send(message)
    assert receive(child, 50) == sent
    assert receive(parent, 50) == sent


def test_a_non_blocking_end_never_waits(ends):
    parent, _ = ends
    assert parent.receive() == []
    assert not parent.has_unsent
    parent.flush()


def test_what_does_not_fit_is_kept_and_flushed(ends):
    parent, child = ends
    sent = [{"op": "call", "pixels": bytes([number]) * 3_000_000} for number in range(3)]
    for message in sent:
        parent.send(message)  # nobody reads yet: this must not wait
    assert parent.has_unsent
    received: list = []
    while len(received) < 3:
        parent.flush()
        received += child.receive()
    assert received == sent
    assert not parent.has_unsent


def test_a_blocking_end_waits_until_all_is_sent(ends):
    parent, child = ends
    message = {"pixels": b"x" * 5_000_000}
    sender = threading.Thread(target=child.send, args=[message])
    sender.start()
    assert receive(parent, 1) == [message]
    sender.join(5)
    assert not sender.is_alive()
    assert not child.has_unsent


@settings(deadline=None)
@given(
    messages=st.lists(st.dictionaries(st.text(), st.integers(-(2**63), 2**63) | st.text() | st.binary()), min_size=1),
    borders=st.lists(st.integers(0, 400)),
)
def test_messages_cut_at_any_border_arrive_whole(messages, borders):
    ours, theirs = socket.socketpair()
    channel = Channel(theirs, blocking=False)
    data = b"".join(map(msgpack.packb, messages))
    cuts = sorted({0, len(data), *(border % len(data) for border in borders)})
    received: list = []
    with ours, theirs:
        for begin, end in itertools.pairwise(cuts):
            ours.sendall(data[begin:end])
            received += channel.receive()
            assert received == messages[: len(received)]
    assert received == messages


@pytest.mark.parametrize("number", [0, 1])
def test_the_end_of_one_side_is_told_to_the_other_after_its_last_words(number):
    left, right = socket.socketpair()
    channels = Channel(left, blocking=False), Channel(right, blocking=True)
    gone, left_over = channels[number], channels[1 - number]
    gone.send({"last": "words"})
    gone.close()
    assert receive(left_over, 1) == [{"last": "words"}]
    with pytest.raises(ChannelClosed):
        left_over.receive()
    with pytest.raises(ChannelClosed):
        left_over.send({"op": "add"})
    left_over.close()


@pytest.mark.parametrize("number", [0, 1])
def test_a_closed_end_can_neither_send_nor_receive(ends, number):
    ends[number].close()
    with pytest.raises(ChannelClosed):
        ends[number].receive()
    with pytest.raises(ChannelClosed):
        ends[number].send({"op": "add"})


def test_unsent_words_to_a_side_that_has_gone_end_the_channel(ends):
    parent, child = ends
    parent.send({"pixels": b"x" * 5_000_000})
    child.close()
    with pytest.raises(ChannelClosed):
        parent.flush()
