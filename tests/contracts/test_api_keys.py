"""API keys in Redis: what is kept of them, what opens, and that nothing but an explicit word opens a server again."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import keys
from contracts.api_keys import ApiKeys, key_id


@pytest.fixture
def api_keys(connection):
    return ApiKeys(connection)


def key_of(api_keys, text):
    return api_keys.read()[key_id(text)]


def test_a_key_opens_and_no_other_text_does(api_keys):
    text, other = api_keys.create("one", "infer"), api_keys.create("two", "infer")
    key = key_of(api_keys, text)
    assert (key.name, key.scope, key.revoked_at) == ("one", "infer", None)
    assert key.opens(text)
    assert not any(key.opens(wrong) for wrong in (other, text[:-1], text + "0", text.upper(), "", key.sha256))


def test_secrets_have_256_bits_and_are_drawn_anew(api_keys):
    texts = [api_keys.create(f"key-{number}", "infer") for number in range(20)]
    assert all(re.fullmatch(r"kmb_[0-9a-f]{12}_[0-9a-f]{64}", text) for text in texts)
    assert len({text.split("_")[2] for text in texts}) == len({text.split("_")[1] for text in texts}) == 20


def test_redis_keeps_a_hash_and_not_the_key(api_keys, connection):
    text = api_keys.create("one", "admin")
    stored = connection.hgetall(keys.API_KEYS)
    assert text.split("_")[2] not in repr(stored)
    assert json.loads(stored[text.split("_")[1].encode()])["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert connection.ttl(keys.API_KEYS) == -1


def test_admin_may_do_what_infer_may_and_not_the_reverse(api_keys):
    admin = key_of(api_keys, api_keys.create("one", "admin"))
    infer = key_of(api_keys, api_keys.create("two", "infer"))
    assert [admin.allows("admin"), admin.allows("infer"), infer.allows("infer")] == [True] * 3
    assert not infer.allows("admin")


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_revoked_key_opens_nothing_and_its_name_is_free(api_keys, by):
    text, other = api_keys.create("ci", "infer"), api_keys.create("other", "infer")
    assert api_keys.revoke("ci" if by == "name" else key_id(text)).id == key_id(text)
    assert not key_of(api_keys, text).opens(text)
    assert key_of(api_keys, other).opens(other)
    again = api_keys.create("ci", "infer")
    assert key_of(api_keys, again).opens(again)
    assert key_id(again) != key_id(text)


def test_authentication_stays_on_without_a_good_key_until_all_are_forgotten(api_keys):
    assert api_keys.read() is None
    api_keys.create("only", "admin")
    api_keys.revoke("only")
    assert [key.revoked_at is None for key in api_keys.read().values()] == [False]
    api_keys.forget_all()
    assert api_keys.read() is None


def test_a_name_is_given_once(api_keys):
    api_keys.create("ci", "infer")
    with pytest.raises(ValueError, match="there is a key 'ci' already; revoke it first"):
        api_keys.create("ci", "admin")


@pytest.mark.parametrize("name", ["", " ", "a b", "a\n", "-a", "ä", "a" * 65, "a/b", "\x1b[31m"])
def test_a_name_that_would_break_a_list_is_refused(api_keys, name):
    with pytest.raises(ValueError, match="cannot name a key"):
        api_keys.create(name, "infer")
    assert api_keys.read() is None


def test_an_unknown_name_is_told_with_the_names_there_are(api_keys):
    with pytest.raises(ValueError, match="no good key has the name or id 'x'; there is: none"):
        api_keys.revoke("x")
    api_keys.create("ci", "infer")
    api_keys.create("gone", "infer")
    api_keys.revoke("gone")
    for name in ("x", "gone"):
        with pytest.raises(ValueError, match=f"'{name}'; there is: ci"):
            api_keys.revoke(name)


def test_a_name_that_is_anothers_id_revokes_neither(api_keys):
    text = api_keys.create("one", "infer")
    api_keys.create(key_id(text), "infer")
    with pytest.raises(ValueError, match="2 keys have the name"):
        api_keys.revoke(key_id(text))


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: b"",
        lambda row: b"\x80\x04pickle",
        lambda row: b"[]",
        lambda row: json.dumps(json.loads(row) | {"scope": "everything"}),
        lambda row: json.dumps(json.loads(row) | {"sha256": "ä" * 64}),
        lambda row: json.dumps(json.loads(row) | {"expires_at": 5}),
    ],
)
def test_a_damaged_key_or_one_with_limits_unknown_here_is_no_key_and_leaves_nothing_open(api_keys, connection, damage):
    text = api_keys.create("one", "admin")
    connection.hset(keys.API_KEYS, key_id(text), damage(connection.hget(keys.API_KEYS, key_id(text))))
    assert api_keys.read() == {}


@given(st.text() | st.from_regex(r"kmb_[0-9a-f_\n]+_.*"))
def test_any_text_has_a_keys_id_or_none(text):
    found = key_id(text)
    assert found is None or (text.startswith(f"kmb_{found}_") and len(text) == 81)
