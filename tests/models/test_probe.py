"""The probe finds rows that depend on their company, and clears those that do not."""

import pytest
import torch

from models.dcgan import DcganConfig, generator
from models.lstm import LstmConfig, LstmLanguageModel
from models.probe import probe_images, probe_text
from models.runtimes.pytorch import DcganBackend, LstmBackend, WindowedLstmBackend

CPU = torch.device("cpu")


@pytest.mark.parametrize("window", [None, 12])
def test_invariant_text_backends_are_cleared(window):
    model = LstmLanguageModel(LstmConfig(30, (32,), window=window)).eval().requires_grad_(False)
    backend = WindowedLstmBackend(model, CPU) if window else LstmBackend(model, CPU)
    probe = probe_text(backend, None)
    assert probe.batch_invariant
    assert {rows for rows, _ in probe.equal} == {4, 8, 16, 32, 64}


def test_invariant_image_backends_are_cleared():
    backend = DcganBackend(generator(DcganConfig(size=16, latent=8, width=8)).eval(), 8, CPU)
    assert probe_images(backend).batch_invariant


def test_a_row_that_sees_its_neighbours_is_found():
    class Leaking(LstmBackend):
        def decode(self, tokens, positions, active):
            logits = super().decode(tokens, positions, active)
            return logits + logits.abs().amax() * 1e-6  # as a scale per tensor would

    backend = Leaking(LstmLanguageModel(LstmConfig(30, (32,))).eval().requires_grad_(False), CPU)
    assert not probe_text(backend, None).batch_invariant


def test_a_prompt_that_sees_those_that_are_read_with_it_is_found():
    class Leaking(LstmBackend):
        def prefill(self, chunks):
            logits = super().prefill(chunks)
            self._state[0][0][chunks[-1].slot] += (len(chunks) - 1) * 1e-6
            return logits

    backend = Leaking(LstmLanguageModel(LstmConfig(30, (32,))).eval().requires_grad_(False), CPU)
    probe = probe_text(backend, None)
    assert [place for place, equal in probe.equal.items() if not equal] == [(4, 2), (4, 3)]


def test_pictures_that_see_their_neighbours_are_found():
    class Leaking(DcganBackend):
        def draw(self, latents):
            pixels = super().draw(latents)
            return pixels ^ (len(pixels) > 8)

    probe = probe_images(Leaking(generator(DcganConfig(size=16, latent=8, width=8)).eval(), 8, CPU))
    assert not probe.batch_invariant
    assert probe.equal[8, 0]
    assert not probe.equal[16, 0]
