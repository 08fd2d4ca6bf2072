"""What only a GPU can show: the engines on CUDA give the tokens of the CPU, and the same ones in any company."""

from __future__ import annotations

import pytest
import torch

from contracts.requests import ImageRequest, TextRequest
from workers.local import LocalModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
def test_greedy_text_on_the_gpu_equals_the_cpus(store, name):
    bundle = store.open(name)
    tokens = tuple(bundle.tokenizer().encode("the quick brown fox"))
    request = TextRequest(target=bundle.target(), seed=1, prompt_tokens=tokens, max_tokens=60, temperature=0.0)
    assert LocalModel(bundle, device="cuda").text(request) == LocalModel(bundle).text(request)


def test_likeliest_beams_on_the_gpu_are_the_cpus(store):
    bundle = store.open("gpt2")
    tokens = tuple(bundle.tokenizer().encode("the quick brown fox"))
    request = TextRequest(
        target=bundle.target(), seed=1, prompt_tokens=tokens, max_tokens=30, temperature=0.0, num_beams=4, n=2
    )
    texts = [LocalModel(bundle, device=device).text(request).choices for device in ("cuda", "cpu")]
    assert [choice.text for choice in texts[0]] == [choice.text for choice in texts[1]]


def test_pictures_on_the_gpu_are_the_cpus_to_a_grey_level(store):
    from models.noise import latents
    from models.runtimes.pytorch import load_images

    bundle = store.open("faces")
    request = ImageRequest(target=bundle.target(), seed=1, count=8)
    backends = [load_images(bundle, torch.device(device)) for device in ("cuda", "cpu")]
    noise = latents(request.seed, list(range(8)), backends[0].latent)
    on_gpu, on_cpu = (backend.draw(noise).int() for backend in backends)
    assert (on_gpu - on_cpu).abs().max() <= 1
