"""Measures a written variant in the runtime that will serve it, beside `pytorch:fp32`.

Both read the same texts in groups of several sizes, prompt by chunks and then step by step, as they do when they serve;
or draw the same pictures. Prompts are excerpts of held-out text, or else what the reference itself draws, on which
perplexity is not judged. They are continued by the reference's likeliest tokens. Everything is computed on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import exp, log10

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from contracts.bundle import Bundle, Parity, Precision, Variant
from contracts.labels import Activation
from export.pt2 import load_pt2_classifier, load_pt2_images, load_pt2_text
from models.noise import latents
from models.probe import probe_classify, probe_images, probe_text
from models.reading import read_prompts
from models.runtimes import (
    ClassifyBackend,
    ImageBackend,
    TextBackend,
    length_bucket,
    most_texts,
    row_bucket,
)
from models.runtimes.load import load_classifier, load_images, load_text
from models.runtimes.pytorch import load_classifier as load_pytorch_classifier
from models.runtimes.pytorch import load_images as load_pytorch_images
from models.runtimes.pytorch import load_text as load_pytorch_text

CPU = torch.device("cpu")
PROMPTS = 64
GROUPS = (1, 15, 48)  # of prompts that run together
DRAWN = 16  # texts that the reference draws; prompts of several lengths are cut from each
LONGEST_PROMPT = 64  # two chunks; with what follows, more than the first stride of attention
NEW_TOKENS = 24
PICTURE_GROUPS = (1, 2, 4, 8, 16, 32)

MOST_FP32_DIFFERENCE = 1e-4  # of a probability or a pixel
MOST_ERRORS = 10  # fp32 logits may differ by so many times the reference's own error
MOST_KL: dict[Precision, float] = {"fp16": 1e-3, "bf16": 1e-3, "int8": 1e-2}  # nats, on average
MOST_PERPLEXITY = 0.01  # int8 may change it by this share
LEAST_PSNR_DB = 40.0  # from here on nobody sees a difference

Texts = list[tuple[list[int], list[int]]]  # prompts and what follows them


class Judge:
    """Judges the variants of a bundle in the making, one by one."""

    def __init__(self, bundle: Bundle, held_out: list[int], *, trained: bool, show_progress: bool) -> None:
        """`held_out` are tokens that the model was not trained on; fewer than PROMPTS count as none."""
        self._bundle = bundle
        self._trained = trained
        self._show = show_progress
        if bundle.manifest.task == "image":
            self._painter = load_pytorch_images(bundle, CPU)
            return
        if bundle.manifest.task == "classify":
            self._classifier = load_pytorch_classifier(bundle, CPU)
            self._inputs = _inputs(bundle, self._classifier)
            self._expected = _classified(self._classifier, self._inputs)
            true_logits = _classified(load_pytorch_classifier(bundle, CPU, dtype=torch.float64), self._inputs)
            self._error = (self._expected - true_logits).abs().max().item()
            return
        self._reader = load_pytorch_text(bundle, CPU)
        self._has_held_out = len(held_out) >= PROMPTS
        self._texts = self._make_texts(held_out if self._has_held_out else [])
        exact = load_pytorch_text(bundle, CPU, dtype=torch.float64)
        self._error = self._compare_text(exact, "fp64", self._texts[: sum(GROUPS[:2])]).max_logit_difference

    def judge(self, variant: Variant) -> Parity:
        """Raises StoreError for a variant that cannot be run here."""
        if variant.format == "pt2":
            text, images, classifier = load_pt2_text, load_pt2_images, load_pt2_classifier
        else:
            text, images, classifier = load_text, load_images, load_classifier
        if self._bundle.manifest.task == "image":
            parity = self._judge_pictures(images(self._bundle, variant, CPU), variant.name)
        elif self._bundle.manifest.task == "classify":
            parity = self._judge_classifier(classifier(self._bundle, variant, CPU))
        else:
            parity = self._judge_text(text(self._bundle, variant, CPU), variant.name)
        return parity.model_copy(update={"faults": tuple(faults(parity, variant.precision))})

    def _judge_text(self, reader: TextBackend, name: str) -> Parity:
        found = self._compare_text(reader, name, self._texts)
        written = sum(len(following) for _, following in self._texts)
        return Parity(
            max_difference=found.max_difference,
            mean_difference=found.difference_sum / found.values,
            max_logit_difference=found.max_logit_difference,
            reference_error=self._error,
            mean_kl=max(0.0, found.kl_sum / found.rows),
            equal_greedy_share=found.equal_tokens / written,
            perplexity_ratio=exp(found.surprise / found.judged) if self._has_held_out else None,
            batch_invariant=probe_text(reader, self._bundle.manifest.limits.context_tokens).batch_invariant,
            trained=self._trained,
        )

    def _judge_pictures(self, painter: ImageBackend, name: str) -> Parity:
        largest = total = squares = 0.0
        count, begin = 0, 0
        for size in tqdm(PICTURE_GROUPS, desc=name, unit="batch", disable=not self._show, leave=False):
            noise = latents(0, list(range(begin, begin + size)), painter.latent)
            gap = ((self._painter.paint(noise) - painter.paint(noise)) / 2).abs().double()  # pixels from 0 to 1
            largest = max(largest, gap.max().item())
            total, squares = total + gap.sum().item(), squares + gap.square().sum().item()
            count, begin = count + gap.numel(), begin + size
        return Parity(
            max_difference=largest,
            mean_difference=total / count,
            psnr_db=-10 * log10(squares / count) if squares else None,
            batch_invariant=probe_images(painter).batch_invariant,
            trained=self._trained,
        )

    def _judge_classifier(self, classifier: ClassifyBackend) -> Parity:
        labels = self._bundle.labels()
        logits, expected = _classified(classifier, self._inputs), self._expected
        ours, theirs = (
            torch.tensor([labels.probabilities(row) for row in each.tolist()]) for each in (expected, logits)
        )
        applying = [[labels.applying(row) for row in each.tolist()] for each in (ours, theirs)]
        equal = sum(one == other for one, other in zip(*applying, strict=True))
        gap = (ours - theirs).abs()
        return Parity(
            max_difference=gap.max().item(),
            mean_difference=gap.mean().item(),
            max_logit_difference=(logits - expected).abs().max().item(),
            reference_error=self._error,
            mean_kl=_divergence(expected.double(), logits.double(), labels.activation),
            equal_labels_share=equal / len(self._inputs),
            batch_invariant=probe_classify(classifier).batch_invariant,
            trained=self._trained,
        )

    def _compare_text(self, other: TextBackend, name: str, texts: Texts) -> _Differences:
        """Both read the texts group by group, side by side, so that no more than one chunk's logits are kept."""
        found = _Differences()
        with tqdm(total=len(texts), desc=name, unit="prompt", disable=not self._show, leave=False) as bar:
            for group in _groups(texts, min(self._reader.slots, other.slots)):
                equal = torch.ones(len(group), dtype=torch.bool)
                for ours, theirs in zip(_read(self._reader, group), _read(other, group), strict=True):
                    found.add(ours, theirs)
                    if ours.drawn:
                        equal &= theirs.logits.argmax(-1) == ours.following
                        found.equal_tokens += int(equal.sum())
                bar.update(len(group))
        return found

    def _make_texts(self, held_out: list[int]) -> Texts:
        context = self._bundle.manifest.limits.context_tokens or LONGEST_PROMPT + NEW_TOKENS
        longest = min(LONGEST_PROMPT, context // 2)
        lengths = [1 + place * 37 % PROMPTS * longest // PROMPTS for place in range(PROMPTS)]  # mixed
        if held_out:
            begins = [place * max(0, len(held_out) - longest) // PROMPTS for place in range(PROMPTS)]
            sources = [held_out[begin : begin + longest] for begin in begins]
        else:
            example = self._bundle.tokenizer().encode(self._bundle.manifest.example.prompt or "")[:longest]
            sources = [example] * min(DRAWN, PROMPTS)
            if longest > len(example):
                sources = _continued(self._reader, sources, longest - len(example), torch.Generator().manual_seed(0))
        prompts = [sources[place % len(sources)][:length] for place, length in enumerate(lengths)]
        count = min(NEW_TOKENS, context - longest)
        whole = _continued(self._reader, prompts, count)
        return [(text[: len(prompt)], text[len(prompt) :]) for prompt, text in zip(prompts, whole, strict=True)]


def _inputs(bundle: Bundle, classifier: ClassifyBackend) -> list[list[int]]:
    """Texts of many lengths: the example, then tokens drawn from all."""
    example = bundle.encoder_tokenizer().encode(bundle.manifest.example.prompt or "")
    drawn = torch.randint(
        classifier.vocabulary_size, (PROMPTS, LONGEST_PROMPT), generator=torch.Generator().manual_seed(0)
    )
    longest = min(LONGEST_PROMPT, classifier.context_tokens)
    return [(example + row)[: 1 + place * longest // PROMPTS] for place, row in enumerate(drawn.tolist())]


def _classified(classifier: ClassifyBackend, texts: list[list[int]]) -> Tensor:
    """Logits (texts, labels), of groups of one length bucket as they are served."""
    rows: list[Tensor] = []
    for bucket, group in groupby(texts, lambda text: length_bucket(len(text))):
        waiting = list(group)
        most = most_texts(bucket, classifier.batch_tokens)
        rows += [classifier.classify(waiting[begin : begin + most]) for begin in range(0, len(waiting), most)]
    return torch.cat(rows)


def _divergence(expected: Tensor, found: Tensor, activation: Activation) -> float:
    """Mean KL divergence in nats: of the distribution over labels, or of one label's yes or no."""
    if activation == "softmax":
        ours, theirs = expected.log_softmax(-1), found.log_softmax(-1)
        return max(0.0, (ours.exp() * (ours - theirs)).sum(-1).mean().item())
    parts = [
        F.logsigmoid(sign * expected).exp() * (F.logsigmoid(sign * expected) - F.logsigmoid(sign * found))
        for sign in (1, -1)
    ]
    return max(0.0, (parts[0] + parts[1]).mean().item())


def faults(parity: Parity, precision: Precision) -> Iterator[str]:
    """The bounds of a precision that are missed, each as a clause with the value and the bound."""
    if precision == "fp32":
        if parity.max_difference > MOST_FP32_DIFFERENCE:
            yield f"it differs by up to {parity.max_difference:.2g}, more than {MOST_FP32_DIFFERENCE:.0e}"
        bound = MOST_ERRORS * (parity.reference_error or 0.0)
        if parity.max_logit_difference is not None and parity.max_logit_difference > bound:
            yield (
                f"its logits differ by up to {parity.max_logit_difference:.2g}, "
                f"more than {MOST_ERRORS} times the reference's own error of {parity.reference_error:.2g}"
            )
        return
    if precision == "int8" and not parity.trained:
        return
    if parity.mean_kl is not None and parity.mean_kl > MOST_KL[precision]:
        yield f"its mean KL divergence is {parity.mean_kl:.2g} nats, more than {MOST_KL[precision]:.0e}"
    if precision == "int8" and abs((parity.perplexity_ratio or 1.0) - 1) > MOST_PERPLEXITY:
        yield f"its perplexity is {parity.perplexity_ratio:.3f} times the reference's, over {MOST_PERPLEXITY:.0%} off"
    if parity.psnr_db is not None and parity.psnr_db < LEAST_PSNR_DB:
        yield f"its pictures' PSNR is {parity.psnr_db:.1f} dB, less than {LEAST_PSNR_DB:.0f}"


@dataclass
class _Differences:
    """Sums over all that was compared."""

    max_difference: float = 0.0
    max_logit_difference: float = 0.0
    difference_sum: float = 0.0
    values: int = 0
    kl_sum: float = 0.0
    rows: int = 0
    surprise: float = 0.0  # nats by which the other finds held-out tokens less likely
    judged: int = 0
    equal_tokens: int = 0

    def add(self, ours: _Reading, theirs: _Reading) -> None:
        expected, found = ours.logits.double().log_softmax(-1), theirs.logits.double().log_softmax(-1)
        difference = (expected.exp() - found.exp()).abs()
        self.max_difference = max(self.max_difference, difference.max().item())
        self.difference_sum += difference.sum().item()
        self.values += difference.numel()
        logits = (ours.logits.double() - theirs.logits.double()).abs().max().item()
        self.max_logit_difference = max(self.max_logit_difference, logits)
        self.kl_sum += (expected.exp() * (expected - found)).sum().item()
        self.rows += len(expected)
        if not ours.drawn:
            self.surprise += (expected - found).gather(-1, ours.following[:, None]).sum().item()
            self.judged += len(expected)


@dataclass(frozen=True)
class _Reading:
    """Logits (rows, vocabulary) and the tokens (rows,) that follow in the text; drawn: each row is another text's."""

    logits: Tensor
    following: Tensor
    drawn: bool


def _groups(texts: Texts, slots: int) -> Iterator[Texts]:
    begin = 0
    for size in GROUPS:
        group = texts[begin : begin + size]
        begin += size
        for first in range(0, len(group), slots):
            yield group[first : first + slots]


def _read(backend: TextBackend, texts: Texts) -> Iterator[_Reading]:
    """The prompts but their last tokens, which the first step feeds, chunk by chunk; then step after step of all texts
    together."""
    for slot, start, logits in read_prompts(backend, [prompt for prompt, _ in texts]):
        following = texts[slot][0][start + 1 : start + 1 + len(logits)]
        yield _Reading(logits, torch.tensor(following), drawn=False)
    whole = [prompt + following for prompt, following in texts]
    for step in range(len(texts[0][1])):
        places = [len(prompt) - 1 + step for prompt, _ in texts]
        logits = _step(backend, [text[place] for text, place in zip(whole, places, strict=True)], places)
        following = [text[place + 1] for text, place in zip(whole, places, strict=True)]
        yield _Reading(logits, torch.tensor(following), drawn=True)


def _step(backend: TextBackend, tokens: list[int], places: list[int]) -> Tensor:
    """Logits (len(tokens), vocabulary) of a copy's own: a backend may write its next ones over them."""
    rows = row_bucket(len(tokens), backend.slots, backend.smallest_rows)
    empty = [0] * (rows - len(tokens))
    active = [True] * len(tokens) + [False] * len(empty)
    return backend.decode(tokens + empty, places + empty, active)[: len(tokens)].clone()


def _continued(
    backend: TextBackend, prompts: list[list[int]], count: int, generator: torch.Generator | None = None
) -> list[list[int]]:
    """The prompts with `count` more tokens: the likeliest, or drawn."""
    texts = [list(prompt) for prompt in prompts]
    for first in range(0, len(texts), backend.slots):
        group = texts[first : first + backend.slots]
        for _ in read_prompts(backend, group):
            pass
        for _ in range(count):
            logits = _step(backend, [text[-1] for text in group], [len(text) - 1 for text in group])
            drawn = logits.argmax(-1)
            if generator is not None:
                drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            for text, token in zip(group, drawn.tolist(), strict=True):
                text.append(token)
    return texts
