"""What parity measures: held against the definition, computed text by text with one whole pass of the model."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from contracts.bundle import WEIGHTS, Variant
from contracts.tokenizers import CharacterTokenizer
from export import parity
from export.draft import Draft
from export.formats import Wishes
from export.parity import Judge
from models.dcgan import DcganConfig, generator
from models.gpt2 import Gpt2, Gpt2Config
from models.noise import latents

LETTERS = "abcdefgh "
GPT2 = Gpt2Config(len(LETTERS), context_tokens=96, width=32, layers=2, heads=2)
HELD_OUT = "a bad egg had a bad bed he fed a hag " * 30
ROUNDED = Variant(format="pytorch", precision="bf16", files=(WEIGHTS,))


@pytest.fixture(autouse=True)
def real_samples(monkeypatch):
    monkeypatch.setattr(parity, "PROMPTS", 16)
    monkeypatch.setattr(parity, "GROUPS", (1, 5, 10))
    monkeypatch.setattr(parity, "LONGEST_PROMPT", 40)
    monkeypatch.setattr(parity, "NEW_TOKENS", 8)
    monkeypatch.setattr(parity, "PICTURE_GROUPS", (1, 4, 8))


@pytest.fixture
def bundle(store):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Gpt2(GPT2)
    for weight in model.parameters():
        weight.data *= 4
    draft = Draft(GPT2, model.state_dict(), CharacterTokenizer(LETTERS), "a bad egg", {}, held_out=HELD_OUT)
    return draft.publish(store, "tiny", Wishes(frozenset({"pytorch"}), frozenset({"fp32"})))


def test_text_is_judged_by_the_definitions(bundle):
    held_out = CharacterTokenizer(LETTERS).encode(HELD_OUT)
    judge = Judge(bundle, held_out, trained=True, show_progress=False)
    found = judge.judge(ROUNDED)
    assert found.mean_kl is not None
    assert found.equal_greedy_share is not None

    exact, rounded = Gpt2(GPT2).eval(), Gpt2(GPT2).eval()
    weights = load_file(bundle.path / WEIGHTS)
    exact.load_state_dict(weights)
    rounded.load_state_dict(weights)
    rounded.to(torch.bfloat16)
    divergence, ratio, gaps, equal, written = [], [], [], 0, 0
    for prompt, following in judge._texts:
        assert exact(torch.tensor([prompt]))[0][0, -1].argmax() == following[0]
        text = torch.tensor(prompt + following)
        expected, given = (F.log_softmax(model(text[None, :-1])[0][0].double(), -1) for model in (exact, rounded))
        divergence.append((expected.exp() * (expected - given)).sum(-1))
        gaps.append((expected.exp() - given.exp()).abs())
        ratio.append((expected - given)[: len(prompt) - 1].gather(1, text[1 : len(prompt), None]))
        same = given[len(prompt) - 1 :].argmax(-1) == text[len(prompt) :]
        equal, written = equal + int(same.int().cumprod(0).sum()), written + len(following)
    assert {len(prompt) for prompt, _ in judge._texts} >= {1, 40 - 2}
    # bf16 rounds elsewhere in a whole pass than in chunks and steps.
    assert found.mean_kl == pytest.approx(torch.cat(divergence).mean().item(), rel=0.3)
    assert found.mean_difference == pytest.approx(torch.cat(gaps).mean().item(), rel=0.2)
    assert found.perplexity_ratio == pytest.approx(torch.cat(ratio).mean().exp().item(), abs=0.01)
    assert found.equal_greedy_share == pytest.approx(equal / written, abs=0.1)
    assert 0 < found.mean_kl < 0.1
    assert found.equal_greedy_share < 1 or found.max_difference > 0


def test_the_reference_beside_itself_is_equal(bundle):
    found = Judge(bundle, [], trained=True, show_progress=False).judge(
        Variant(format="pytorch", precision="fp32", files=(WEIGHTS,))
    )
    assert (found.max_difference, found.mean_kl, found.equal_greedy_share) == (0, 0, 1)
    assert found.reference_error is not None
    assert 0 < found.reference_error < 1e-3
    assert found.perplexity_ratio is None, "there is no held-out text"


def test_a_variant_that_computes_something_else_is_found_out(bundle):
    judge = Judge(bundle, [], trained=True, show_progress=False)
    weights = load_file(bundle.path / WEIGHTS)
    save_file(weights | {"norm.bias": weights["norm.bias"] + torch.linspace(0, 0.1, 32)}, bundle.path / WEIGHTS)
    found = judge.judge(Variant(format="pytorch", precision="fp32", files=(WEIGHTS,)))
    assert any("differs by up to" in fault for fault in found.faults)
    assert any("times the reference's own error" in fault for fault in found.faults)


def test_pictures_are_judged_by_the_definitions(store):
    config = DcganConfig(size=16, latent=8, width=8)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = generator(config).eval().requires_grad_(False)
    draft = Draft(config, model.state_dict(), None, None, {})
    found = draft.publish(store, "tiny", Wishes(frozenset({"pytorch"}))).variant("pytorch:bf16").parity
    assert found is not None
    assert found.psnr_db is not None
    noise = latents(0, list(range(13)), 8)[:, :, None, None]
    expected = (model(noise) + 1) / 2
    rounded = (model.to(torch.bfloat16)(noise.to(torch.bfloat16)).float() + 1) / 2
    error = (expected - rounded).double()
    assert found.max_difference == pytest.approx(error.abs().max().item(), rel=0.2)
    assert found.mean_difference == pytest.approx(error.abs().mean().item(), rel=0.1)
    assert found.psnr_db == pytest.approx(-10 * error.square().mean().log10().item(), abs=0.5)
    assert found.mean_kl is None
