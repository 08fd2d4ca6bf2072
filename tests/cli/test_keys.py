"""`kamishibai keys`: what it prints, what it leaves in Redis, and one line where it cannot."""

from __future__ import annotations

import re

import pytest

from contracts.api_keys import ApiKeys, key_id
from workers.embedded_redis import DATA_FOLDER


@pytest.fixture
def keys(kamishibai, connection, redis_url):
    """The command on the tests' Redis, in the beginning without any key."""
    return lambda *arguments: kamishibai("keys", *arguments, "--redis-url", redis_url)


def stored(connection):
    return ApiKeys(connection).read()


def test_a_key_is_shown_once_and_alone_on_standard_output(keys, connection):
    ended = keys("create", "ci")
    text = ended.out.removesuffix("\n")
    assert ended.status == 0
    assert re.fullmatch(r"kmb_[0-9a-f]{12}_[0-9a-f]{64}", text)
    key = stored(connection)[key_id(text)]
    assert (key.name, key.scope, key.opens(text)) == ("ci", "infer", True)
    assert "only time that it is shown" in ended.err
    assert "the first key: from now on every route" in ended.err
    assert "the first key" not in keys("create", "second").err
    assert text not in keys("list").out


def test_the_list_shows_every_key_and_no_secret(keys):
    limits = ["--jobs-per-minute", "60", "--unfinished-jobs", "8"]
    texts = [keys("create", "ci", *limits).out, keys("create", "ops", "--scope", "admin").out]
    keys("revoke", "ci")
    rows = [line.split() for line in keys("list").out.splitlines()]
    assert rows[0] == ["ID", "NAME", "SCOPE", "JOBS/MIN", "UNFINISHED", "CREATED", "REVOKED"]
    assert [row[:5] for row in rows[1:]] == [
        [key_id(texts[0].strip()), "ci", "infer", "60", "8"],
        [key_id(texts[1].strip()), "ops", "admin", "-", "-"],
    ]
    assert [row[-1] == "-" for row in rows[1:]] == [False, True]


def test_a_revoked_key_can_be_named_by_its_id(keys, connection):
    text = keys("create", "ci").out.strip()
    ended = keys("revoke", key_id(text))
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"ci ({key_id(text)}) is revoked; servers refuse it within a second.\n"
    assert not stored(connection)[key_id(text)].opens(text)


def test_off_asks_and_then_forgets_all(keys, connection, monkeypatch):
    keys("create", "ci")
    assert keys("off").status != 0, "nobody answered its question"
    assert stored(connection) is not None
    assert keys("off", "--yes").status == 0
    assert stored(connection) is None
    assert keys("list").out == "There are no API keys; servers are open to whoever reaches them.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "ci"), "there is a key 'ci' already"),
        (("create", "a b"), "cannot name a key"),
        (("create", "x", "--scope", "all"), "'all' is not one of"),
        (("revoke", "nobody"), "no good key has the name or id 'nobody'; there is: ci"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_and_changes_nothing(keys, connection, arguments, message):
    keys("create", "ci")
    before = stored(connection)
    ended = keys(*arguments)
    assert (ended.status > 0, ended.out) == (True, "")
    assert message in ended.err
    assert stored(connection) == before


def test_without_redis_the_way_out_is_named(kamishibai, tmp_path):
    for arguments in (("create", "x"), ("list",), ("revoke", "x"), ("off", "--yes")):
        ended = kamishibai("keys", *arguments, "--redis-url", f"unix://{tmp_path}/none.sock")
        assert (ended.status, ended.out) == (1, "")
        assert "start `kamishibai up` or give another one with --redis-url" in ended.err


def test_the_redis_of_a_running_up_is_found_by_its_store(kamishibai, connection, redis_url, tmp_path):
    (tmp_path / DATA_FOLDER).mkdir()
    (tmp_path / DATA_FOLDER / "url").write_text(redis_url)
    assert kamishibai("keys", "create", "ci", "--store", tmp_path).status == 0
    assert [key.name for key in stored(connection).values()] == ["ci"]
