"""Answers in any pieces, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bench.events import events
from cli.bench.http_answer import BrokenAnswer, HttpAnswer

BODIES = st.lists(st.binary(max_size=40), max_size=8)


def by_length(parts):
    body = b"".join(parts)
    return b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def by_chunks(parts):
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"


def until_close(parts):
    return b"HTTP/1.0 200 OK\r\nContent-Type: x\r\n\r\n" + b"".join(parts)


def cut(data, places):
    places = sorted({min(place, len(data)) for place in places})
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


@given(BODIES, st.lists(st.integers(0, 400), max_size=12), st.sampled_from([by_length, by_chunks, until_close]))
def test_a_body_is_the_same_however_its_bytes_come(parts, places, form):
    answer = HttpAnswer()
    pieces = [piece for piece in cut(form(parts), places) if piece]
    assert b"".join(answer.feed(piece) for piece in pieces) == b"".join(parts)
    assert answer.status == (429 if form is by_chunks else 200)
    assert answer.ended == (form is not until_close)
    answer.close()
    assert answer.ended
    assert answer.reusable == (form is not until_close)


@given(BODIES, st.data(), st.sampled_from([by_length, by_chunks]))
def test_an_answer_that_breaks_off_is_broken(parts, data, form):
    whole = form(parts)
    answer = HttpAnswer()
    answer.feed(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert not answer.ended
    with pytest.raises(BrokenAnswer, match="in the middle"):
        answer.close()


@pytest.mark.parametrize(
    ("head", "behind", "reusable"),
    [
        (b"HTTP/1.1 200 OK", b"", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close", b"", False),
        (b"HTTP/1.0 200 OK", b"", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive", b"", True),
        (b"HTTP/1.1 200 OK", b"more than it says", False),
    ],
)
def test_a_connection_is_used_again_where_nothing_speaks_against_it(head, behind, reusable):
    answer = HttpAnswer()
    assert answer.feed(head + b"\r\nContent-Length: 2\r\n\r\nok" + behind) == b"ok"
    assert (answer.ended, answer.reusable) == (True, reusable)


@given(st.binary(max_size=200))
def test_what_is_no_http_is_told(data):
    answer = HttpAnswer()
    with pytest.raises(BrokenAnswer):
        answer.feed(b"x" + data + b"\r\n\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_an_answer_that_lies_of_its_length_is_told(data):
    with pytest.raises(BrokenAnswer):
        HttpAnswer().feed(data)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_have_the_time_of_the_piece_that_ends_them(line_end):
    stream = b": hello\n\nid: 1\ndata: one\n\ndata:two\ndata: more\n\n\ndata: lost".replace(b"\n", line_end)
    for length in range(1, len(stream)):
        pieces = [(float(place), stream[place : place + length]) for place in range(0, len(stream), length)]
        found = list(events(pieces))
        assert [data for _, data in found] == [b"one", b"two\nmore"]
        ends = [stream.index(part) + len(part) + 2 * len(line_end) - 1 for part in (b"one", b"more")]
        assert [seconds for seconds, _ in found] == [float(end // length * length) for end in ends]
