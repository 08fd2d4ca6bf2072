"""One text of a request: its parts, its log-probabilities, its places."""

from __future__ import annotations

import pytest
import tokenizers

from contracts.prompt_fields import PromptFields
from contracts.requests import Target, TextRequest
from contracts.tokenizers import BpeTokenizer, WordTokenizer
from workers.choice import ChoiceText
from workers.engines import Score

FORMAT = "genre<|endofgenre|>title<|endoftitle|>plot<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer():
    bpe = tokenizers.ByteLevelBPETokenizer()
    markers = ["<|endoftext|>", "<|endofgenre|>", "<|endoftitle|>"]
    bpe.train_from_iterator(["war and peace, a story 日本"], 300, show_progress=False, special_tokens=markers)
    return BpeTokenizer(bpe._tokenizer)


def request_of(tokenizer, prompt, **fields):
    target = Target(model="plots", version=1, variant="pytorch:fp32")
    return TextRequest(target=target, seed=1, prompt_tokens=tuple(tokenizer.encode(prompt)), max_tokens=99, **fields)


def test_the_parts_of_prompt_and_output_are_found_by_their_markers(tokenizer):
    request = request_of(tokenizer, "war<|endofgenre|>", with_fields=True)
    choice = ChoiceText(request, tokenizer, PromptFields.from_format(FORMAT))
    choice.take(tokenizer.encode("Peace<|endoftitle|>A story.<|endoftext|>"), [])
    choice.finish("stop")
    result = choice.result([])
    assert result.text == "PeaceA story.", "markers are no part of the text"
    assert result.fields == {"genre": "war", "title": "Peace", "plot": "A story."}
    assert result.marked_text == "war<|endofgenre|>Peace<|endoftitle|>A story.<|endoftext|>"


def test_without_fields_in_the_request_the_answer_has_none(tokenizer):
    choice = ChoiceText(request_of(tokenizer, "war"), tokenizer, PromptFields.from_format(FORMAT))
    choice.take(tokenizer.encode(" and peace"), [])
    choice.finish("length")
    assert (choice.result([]).fields, choice.result([]).marked_text) == (None, None)


def test_echo_and_log_probabilities_line_up_with_the_text(tokenizer):
    prompt, output = tokenizer.encode("war 日"), tokenizer.encode("本 peace")
    choice = ChoiceText(request_of(tokenizer, "war 日", echo=True, logprobs=1), tokenizer, None)
    choice.take(output, [Score(-1.0, [(5, -0.5)]) for _ in output])
    choice.finish("length")
    result = choice.result([Score(-2.0, [(6, -0.25)]) for _ in prompt[1:]])
    assert result.text == "war 日本 peace"
    logprobs = result.logprobs
    assert logprobs is not None
    assert len(logprobs.tokens) == len(logprobs.text_offset) == len(prompt) + len(output)
    assert logprobs.token_logprobs == [None, *[-2.0] * (len(prompt) - 1), *[-1.0] * len(output)]
    assert logprobs.top_logprobs[0] is None
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert token.startswith("bytes:") or result.text.startswith(token, offset)


@pytest.mark.parametrize(
    ("prompt", "output", "text"),
    [
        ("War", ", and peace.", "war, and peace."),
        ("war", "and (peace)", "war and (peace)"),
        ("war (", "peace)", "war (peace)"),
        ("<end>", "war", "war"),
    ],
)
def test_a_text_of_words_goes_on_as_people_write_it(prompt, output, text):
    words = WordTokenizer([*".,()", "war", "and", "peace", "<end>"], end_token="<end>")
    written = text.removeprefix(prompt.lower())
    for echo in (True, False):
        choice = ChoiceText(request_of(words, prompt, echo=echo), words, None)
        published = ""
        for token in words.encode(output):
            choice.take([token], [])
            published += (choice.to_publish() or (0, ""))[1]
            choice.published()
        choice.finish("length")
        assert choice.result([]).text == published == (text if echo else written)


def test_the_chosen_token_is_always_among_the_likeliest(tokenizer):
    choice = ChoiceText(request_of(tokenizer, "war", logprobs=1), tokenizer, None)
    token, other = tokenizer.encode("a")[0], tokenizer.encode("w")[0]
    choice.take([token], [Score(-3.0, [(other, -0.1)])])
    choice.finish("length")
    logprobs = choice.result([]).logprobs
    assert logprobs is not None
    assert logprobs.top_logprobs == [{"a": -3.0, "w": -0.1}]


def test_after_a_stop_string_no_token_counts_any_more(tokenizer):
    choice = ChoiceText(request_of(tokenizer, "war", logprobs=0, stop=("ea",)), tokenizer, None)
    tokens = tokenizer.encode(" peace") + tokenizer.encode(" more and more")
    choice.take(tokens, [Score(-1.0, [])] * len(tokens))
    assert choice.finish_reason == "stop"
    choice.take(tokens, [Score(-1.0, [])] * len(tokens))
    choice.finish("length")
    result = choice.result([])
    assert (result.text, result.finish_reason) == (" p", "stop")
    assert result.logprobs is not None
    assert len(result.logprobs.tokens) == result.tokens == len(result.logprobs.token_logprobs)
