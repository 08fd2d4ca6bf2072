"""The generator is the plain nn.Sequential that others save, and its pixels are what tanh said."""

import pytest
import torch
from torch import nn

from models.dcgan import DcganConfig, discriminator, generator, to_pixels


def test_the_generator_takes_a_plain_state_dict_of_the_paper():
    layers: list[nn.Module] = []
    for before, after, stride, padding in [(128, 512, 1, 0), (512, 256, 2, 1), (256, 128, 2, 1), (128, 64, 2, 1)]:
        layers.append(nn.ConvTranspose2d(before, after, kernel_size=4, stride=stride, padding=padding, bias=False))
        layers += [nn.BatchNorm2d(after), nn.ReLU(True)]
    plain = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()).eval()
    ours = generator(DcganConfig(size=64, latent=128, width=64)).eval()
    ours.load_state_dict(plain.state_dict())
    latents = torch.randn(2, 128, 1, 1)
    assert torch.equal(ours(latents), plain(latents))


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_pictures_have_the_configured_size_and_one_verdict_each(size):
    config = DcganConfig(size=size, latent=6, width=4)
    pictures = generator(config)(torch.randn(3, 6, 1, 1))
    assert pictures.shape == (3, 3, size, size)
    assert discriminator(config)(pictures).shape == (3, 1)


@pytest.mark.parametrize("size", [4, 48])
def test_sizes_that_do_not_double_from_four_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size}"):
        DcganConfig(size=size)


def test_pixels_span_the_whole_range():
    pictures = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).view(1, 1, 1, 5)
    assert to_pixels(pictures).flatten().tolist() == [0, 64, 128, 191, 255]
