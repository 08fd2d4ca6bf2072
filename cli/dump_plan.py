"""What a dump is to hold: which texts, drawn by which settings, from which seeds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from contracts.errors import InvalidRequest
from contracts.prompt_fields import PromptFields

OFF = "off"
_SEED_BITS = 53  # whole numbers up to 2^53 are exact for every reader of JSON


@dataclass(frozen=True)
class Setting:
    """How the texts of one file are drawn."""

    temperature: float
    top_p: float | None  # None: off

    @property
    def name(self) -> str:
        """Of its file, as the public dumps have it: `temp_0_7_topp_0_9`; `topp_0` is off."""
        return f"temp_{_digits(self.temperature)}_topp_{_digits(self.top_p or 0.0)}"


@dataclass(frozen=True)
class WritingModel:
    """What must be known of a model that writes texts, wherever it runs."""

    name: str  # with its version: name@1
    prompt_fields: PromptFields | None
    context_tokens: int | None


class PlannedText(NamedTuple):
    setting: Setting
    line: int  # of its file, from 1 on
    prompt: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """The texts of a dump, file by file. All files have equally many."""

    settings: tuple[Setting, ...]
    prompts: tuple[str, ...]
    samples: int  # of each prompt
    max_tokens: int
    seed: int

    @property
    def texts_per_file(self) -> int:
        return len(self.prompts) * self.samples

    def texts(self) -> list[PlannedText]:
        """In the order of the files' lines. A text's seed depends on its file and line alone, so that it is the same
        in a dump with more settings or more prompts behind its own."""
        prompts = [prompt for prompt in self.prompts for _ in range(self.samples)]
        return [
            PlannedText(setting, line, prompt, _seed_of(self.seed, setting, line))
            for setting in self.settings
            for line, prompt in enumerate(prompts, start=1)
        ]

    def body(self, text: PlannedText, model: WritingModel) -> dict[str, Any]:
        """What the API is asked for a text, but for the model. Of a model with a context no longer than `max_tokens`
        as much as the context holds."""
        fits = model.context_tokens is None or self.max_tokens < model.context_tokens
        return {
            "prompt": text.prompt,
            "echo": True,
            "temperature": text.setting.temperature,
            "top_p": 1.0 if text.setting.top_p is None else text.setting.top_p,
            "seed": text.seed,
            **({"max_tokens": self.max_tokens} if fits else {"max_length": model.context_tokens}),
        }


def settings(temperatures: str, top_ps: str) -> tuple[Setting, ...]:
    """Every temperature with every top-p, both given as lists with commas. Raises InvalidRequest."""
    return tuple(
        Setting(temperature, top_p)
        for temperature in parse_temperatures(temperatures)
        for top_p in parse_top_ps(top_ps)
    )


def parse_temperatures(text: str) -> list[float]:
    """`0.7,1,1.3`. Raises InvalidRequest."""
    form = "give numbers from 0 to 100 with commas between them, like 0.7,1,1.3"
    return _numbers("--temperatures", text, lambda number: 0 <= number <= 100, form)


def parse_top_ps(text: str) -> list[float | None]:
    """`off,0.9`; 1 is off too. Raises InvalidRequest."""
    form = f"give numbers above 0 up to 1, or {OFF}, with commas between them, like {OFF},0.9"
    ones = ",".join("1" if word.lower() == OFF else word for word in split_list(text))
    numbers = _numbers("--top-p", ones, lambda number: 0 < number <= 1, form)
    return [None if number == 1 else number for number in numbers]


def split_list(text: str) -> list[str]:
    """What stands between the commas, each once."""
    return distinct(text.split(","))


def distinct(words: Iterable[str]) -> list[str]:
    """Each word once, without blanks around it; those that are nothing but blanks are left out."""
    return list(dict.fromkeys(word for given in words if (word := given.strip())))


def _numbers(option: str, text: str, fits: Callable[[float], bool], form: str) -> list[float]:
    numbers = {_number(word) + 0.0: word for word in split_list(text)}  # no -0.0, which would be another name
    for number, word in numbers.items():
        if not fits(number):
            raise InvalidRequest(f"{option} holds {word!r}; {form}")
    if not numbers:
        raise InvalidRequest(f"{option} is empty; {form}")
    return list(numbers)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _digits(number: float) -> str:
    return repr(number).removesuffix(".0").replace(".", "_")


def _seed_of(seed: int, setting: Setting, line: int) -> int:
    digest = hashlib.sha256(f"{seed}/{setting.name}/{line}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)
