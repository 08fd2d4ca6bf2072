"""What a dump is to hold: lists of numbers, names of files, seeds."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.dump_plan import (
    Plan,
    Setting,
    WritingModel,
    parse_temperatures,
    parse_top_ps,
    settings,
    split_list,
)
from contracts.errors import InvalidRequest

JUNK = st.text(alphabet=st.sampled_from(" ,.-+_0123456789einfaoNT\t\x00١"), max_size=20)


def plan_of(**changes):
    fields: dict[str, Any] = {
        "settings": settings("0.7,1", "off"),
        "prompts": ("a", "b"),
        "samples": 3,
        "max_tokens": 9,
        "seed": 42,
    }
    return Plan(**fields | changes)


def outcome(parse, text):
    """What was read, and the words of a refusal."""
    try:
        return parse(text), ""
    except InvalidRequest as error:
        return [], error.message


def test_the_defaults_of_the_recipe_are_six_files_with_the_names_of_the_public_dumps():
    assert [setting.name for setting in settings("0.7,1,1.3", "off,0.9")] == [
        "temp_0_7_topp_0",
        "temp_0_7_topp_0_9",
        "temp_1_topp_0",
        "temp_1_topp_0_9",
        "temp_1_3_topp_0",
        "temp_1_3_topp_0_9",
    ]


@given(st.lists(st.floats(0, 100), min_size=1))
def test_temperatures_are_read_as_they_were_written(numbers):
    distinct = list(dict.fromkeys(numbers))
    assert parse_temperatures(" , ".join(map(repr, numbers))) == distinct
    names = [Setting(number, None).name for number in distinct]
    assert len(set(names)) == len(distinct), "each has a file of its own"
    assert not [name for name in names if re.search(r"[./\s]", name)]


@given(st.lists(st.one_of(st.sampled_from(["off", "OFF", "1"]), st.floats(0, 1, exclude_min=True)), min_size=1))
def test_top_ps_are_read_as_they_were_written_and_one_is_off(given):
    expected = [None if word in ("off", "OFF", "1", 1.0) else word for word in given]
    assert parse_top_ps(",".join(map(str, given))) == list(dict.fromkeys(expected))


@given(JUNK)
def test_any_other_list_is_refused_by_name_in_one_line(text):
    for parse, option in ((parse_temperatures, "--temperatures"), (parse_top_ps, "--top-p")):
        numbers, refused = outcome(parse, text)
        assert all(number is None or 0 <= number <= 100 for number in numbers)
        assert bool(numbers) != bool(refused)
        assert not refused or (refused.startswith(option) and "like" in refused and refused.isprintable())


@pytest.mark.parametrize(
    ("temperatures", "top_ps", "said"),
    [
        ("0.7,hot", "off", "--temperatures holds 'hot'; give numbers from 0 to 100"),
        ("-0.1", "off", "--temperatures holds '-0.1'"),
        ("nan", "off", "--temperatures holds 'nan'"),
        (" , ", "off", "--temperatures is empty"),
        ("1", "0", "--top-p holds '0'; give numbers above 0 up to 1, or off"),
        ("1", "0.9,1.1", "--top-p holds '1.1'"),
        ("1", "", "--top-p is empty"),
    ],
)
def test_what_is_no_setting_is_named(temperatures, top_ps, said):
    with pytest.raises(InvalidRequest, match=re.escape(said)):
        settings(temperatures, top_ps)


@given(st.text())
def test_a_list_holds_each_word_once_and_no_blanks(text):
    words = split_list(text)
    assert len(set(words)) == len(words)
    assert all(word and word == word.strip() and "," not in word for word in words)
    assert set(words) <= {part.strip() for part in text.split(",")}
    assert split_list(",".join(words)) == words


def test_texts_are_in_the_order_of_their_lines_with_the_samples_of_a_prompt_together():
    texts = plan_of().texts()
    assert [(text.setting.temperature, text.line, text.prompt) for text in texts] == [
        (temperature, line, prompt)
        for temperature in (0.7, 1.0)
        for line, prompt in enumerate(["a", "a", "a", "b", "b", "b"], start=1)
    ]


def test_every_text_has_a_seed_of_its_own_that_other_texts_do_not_change():
    texts = plan_of().texts()
    seeds = {text[:3]: text.seed for text in texts}
    assert len(set(seeds.values())) == len(texts)
    assert all(0 <= seed < 2**53 for seed in seeds.values())
    more = plan_of(settings=settings("0.5,1,0.7", "0.9,off"), prompts=("a", "b", "c")).texts()
    assert seeds.items() <= {text[:3]: text.seed for text in more}.items()
    other = plan_of(seed=43).texts()
    assert not set(seeds.values()) & {text.seed for text in other}


def test_the_seeds_are_those_of_every_version():
    assert [text.seed for text in plan_of().texts()[:2]] == [3399659599774960, 5797820015925784]


@pytest.mark.parametrize(
    ("context_tokens", "length"),
    [(None, {"max_tokens": 9}), (10, {"max_tokens": 9}), (9, {"max_length": 9}), (5, {"max_length": 5})],
)
def test_a_model_with_a_short_context_fills_it(context_tokens, length):
    plan = plan_of(settings=settings("0.7", "0.9"))
    body = plan.body(plan.texts()[0], WritingModel("m@1", None, context_tokens))
    assert body.items() >= {"prompt": "a", "temperature": 0.7, "top_p": 0.9, **length}.items()
    assert len({"max_tokens", "max_length"} & body.keys()) == 1
