"""The way between two latents keeps to the sphere and is the same in any company."""

from __future__ import annotations

import math

import torch

from models.interpolation import spherical
from models.noise import latents

SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_ends_are_the_latents_themselves():
    for size in (1, 2, 100):
        start, end = latents(1, [0], size)[0], latents(2, [0], size)[0]
        way = spherical(start, end, SHARES)
        assert torch.equal(way[0], start)
        assert torch.equal(way[-1], end)


def test_a_quarter_circle_is_walked_at_an_even_pace():
    way = spherical(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), SHARES)
    angles = [share * math.pi / 2 for share in SHARES]
    expected = torch.tensor([[2 * math.cos(angle), 2 * math.sin(angle)] for angle in angles])
    assert torch.allclose(way, expected, atol=1e-6)


def test_what_lies_between_is_as_long_as_a_drawn_latent():
    start, end = latents(3, [0], 1000)[0], latents(4, [0], 1000)[0]
    lengths = spherical(start, end, SHARES).norm(dim=1)
    assert (lengths / math.sqrt(1000) - 1).abs().max() < 0.06
    assert (start + end).norm() / 2 / math.sqrt(1000) < 0.8, "a straight line would cut through the sphere"


def test_latents_with_no_angle_between_them_are_joined_by_a_line():
    one = torch.tensor([1.0, 2.0])
    assert torch.equal(spherical(one, one, SHARES), one.expand(5, 2))
    assert torch.allclose(spherical(one, -one, SHARES), torch.tensor([[1.0, 2.0]]) * torch.linspace(1, -1, 5)[:, None])
    assert torch.isfinite(spherical(torch.zeros(2), one, SHARES)).all()


def test_a_frame_does_not_depend_on_the_others():
    start, end = latents(5, [0], 100)[0], latents(6, [0], 100)[0]
    together = spherical(start, end, [index / 62 for index in range(63)])
    for index in range(63):
        assert torch.equal(spherical(start, end, [index / 62])[0], together[index])
