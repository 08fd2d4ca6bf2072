"""Examples are found in a page, and what they print is held against what the page shows."""

from __future__ import annotations

import json

import pytest

from tests.examples import Example, examples, missing

PAGE = """# A page

```sh
one
```

```json
{"a": 1}
```

Words between.

```bash
two
```

More words.

```text
not what two prints
```

<!-- not run: it needs a
second machine -->
```python
three
```

```text
shown
```
```python
four
```
```yaml
five
```
"""


def test_blocks_are_found_with_their_lines_what_they_print_and_why_they_are_not_run():
    assert examples(PAGE) == [
        Example(3, "sh", "one\n", ("json", '{"a": 1}\n'), None),
        Example(13, "bash", "two\n", None, None),
        Example(25, "python", "three\n", ("text", "shown\n"), "it needs a\nsecond machine"),
        Example(32, "python", "four\n", None, None),
    ]


def shown_as(language, shown):
    return Example(1, "sh", "", (language, shown), None)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ({"a": 1, "b": {"c": "x..."}}, {"b": {"c": "xyz", "d": 0}, "a": 7.5, "e": 0}),
        ({"a": "..."}, {"a": "two\nlines"}),
        ({"a": "begin...end"}, {"a": "begin and end"}),
        ([{"a": 1}, True, None], [{"a": 2}, True, None, "more"]),
    ],
)
def test_as_much_as_is_shown_of_json_has_to_be_there(shown, printed):
    assert missing(shown_as("json", json.dumps(shown)), json.dumps(printed)) == []


@pytest.mark.parametrize(
    ("shown", "printed", "difference"),
    [
        ({"a": {"b": 1}}, {"a": {"c": 1}}, "answer.a.b is not there"),
        ({"a": "x"}, {"a": "xy"}, "answer.a is 'xy', not 'x'"),
        ({"a": "x..."}, {"a": "y"}, "answer.a is 'y', not 'x...'"),
        ({"a": 1}, {"a": True}, "answer.a is True, not 1"),
        ({"a": 1}, {"a": "1"}, "answer.a is '1', not 1"),
        ({"a": None}, {"a": 0}, "answer.a is 0, not None"),
        ({"a": True}, {"a": False}, "answer.a is False, not True"),
        ([{}, {}], [{}], "answer is [{}], not [{}, {}]"),
        ({}, [], "answer is [], not {}"),
    ],
)
def test_what_is_not_there_or_is_something_else_is_named(shown, printed, difference):
    assert missing(shown_as("json", json.dumps(shown)), json.dumps(printed)) == [difference]


def test_what_is_no_json_is_told():
    assert "Expecting value" in missing(shown_as("json", "{}"), "curl: (7)")[0]


@pytest.mark.parametrize(
    ("shown", "lines"),
    [
        ("a\nc\n", []),
        ("a...\n...d\n", []),
        ("c\na\n", ["a"]),
        ("a\na\n", ["a"]),
        ("b.\n", ["b."]),
        ("a...b\n", ["a...b"]),
    ],
)
def test_every_shown_line_has_to_be_printed_in_its_order(shown, lines):
    assert missing(shown_as("text", shown), "a\nb x\nc\nand d\n") == lines
