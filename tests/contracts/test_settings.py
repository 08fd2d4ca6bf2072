"""Settings: from the environment, over it, and what is said of values that cannot be."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from contracts.settings import CHOICES, Settings, from_environment, parse_bytes


def test_an_empty_environment_gives_the_defaults():
    assert from_environment({}) == Settings()


def test_the_process_environment_is_read(monkeypatch):
    monkeypatch.setenv("KAMISHIBAI_PORT", "8123")
    assert from_environment().port == 8123


def other_than(name, value):
    """A good value of a field that is not its default."""
    if name in CHOICES:
        return next(choice for choice in CHOICES[name] if choice != value)
    if isinstance(value, Path):
        return Path("/other")
    return "other" if isinstance(value, str) else value + 1


def test_every_field_can_be_given_and_comes_back_from_its_own_environment():
    changed = replace(Settings(), **{field.name: other_than(field.name, field.default) for field in fields(Settings)})
    assert all(getattr(changed, field.name) != field.default for field in fields(Settings))
    environment = changed.to_environment()
    assert set(environment) == {f"KAMISHIBAI_{field.name.upper()}" for field in fields(Settings)}
    assert from_environment(environment) == changed
    assert {type(getattr(from_environment(environment), field.name)) for field in fields(Settings)} == {
        type(field.default) for field in fields(Settings)
    }


def test_overrides_win_unless_they_are_none():
    environment = {"KAMISHIBAI_PORT": "8001", "KAMISHIBAI_HOST": "::1"}
    settings = from_environment(environment, port=8002, host=None)
    assert (settings.port, settings.host) == (8002, "::1")


def test_variables_of_others_are_ignored():
    assert from_environment({"PORT": "1", "KAMISHIBAI_COLOUR": "red", "kamishibai_port": "2"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("KAMISHIBAI_PORT", "http", "must be of type int"),
        ("KAMISHIBAI_PORT", "", "must be of type int"),
        ("KAMISHIBAI_PORT", "0", "between 1 and 65535"),
        ("KAMISHIBAI_PORT", "65536", "between 1 and 65535"),
        ("KAMISHIBAI_SERVER_PROCESSES", "1.5", "must be of type int"),
        ("KAMISHIBAI_SERVER_PROCESSES", "0", "greater than 0"),
        ("KAMISHIBAI_MAX_BODY_BYTES", "-1", "greater than 0"),
        ("KAMISHIBAI_MAX_WAIT_SECONDS", "soon", "must be of type float"),
        ("KAMISHIBAI_MAX_WAIT_SECONDS", "nan", "greater than 0"),
        ("KAMISHIBAI_MAX_WAIT_SECONDS", "inf", "greater than 0"),
        ("KAMISHIBAI_MAX_PICTURES", "0", "greater than 0"),
        ("KAMISHIBAI_SYNC_RESULT_SECONDS", "0", "greater than 0"),
        ("KAMISHIBAI_JOB_RESULT_SECONDS", "0", "greater than 0"),
        ("KAMISHIBAI_JOB_TIMEOUT_SECONDS", "-5", "greater than 0"),
        ("KAMISHIBAI_STEP_SECONDS", "0", "greater than 0"),
        ("KAMISHIBAI_LOAD_SECONDS", "long", "must be of type float"),
        ("KAMISHIBAI_KEYS", "optional", "auto or required"),
        ("KAMISHIBAI_LOG_FORMAT", "xml", "text or json"),
        ("KAMISHIBAI_LOG_REQUESTS", "1", "auto, on or off"),
    ],
)
def test_a_bad_value_is_refused_by_variable_value_and_remedy(variable, value, remedy):
    with pytest.raises(ValueError, match=variable) as caught:
        from_environment({variable: value})
    assert value in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("text", "amount"), [("5", 5), ("1KB", 1000), ("2GiB", 2 << 30), ("1.5 M", 1_500_000), ("3gib", 3 << 30)]
)
def test_amounts_of_memory_are_read_as_people_write_them(text, amount):
    assert parse_bytes(text) == amount


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 PB", "2 GiB more", "nan"])
def test_a_bad_amount_of_memory_shows_the_form(text):
    with pytest.raises(ValueError, match="write it like 2GiB"):
        parse_bytes(text)
