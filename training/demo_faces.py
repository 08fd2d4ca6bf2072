"""Cartoon faces drawn by a program: training data for the demo that needs no download."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

_OVERSAMPLING = 8  # drawn this much larger, then averaged: smooth edges
_SKINS: tuple[Colour, ...] = ((255, 226, 204), (246, 205, 172), (224, 172, 130), (168, 112, 78))
_HAIR_HUES = (0.02, 0.08, 0.13, 0.33, 0.58, 0.72, 0.92)
_EYE_HUES = (0.03, 0.30, 0.55, 0.62, 0.78)
_FRINGES = ("straight", "parted", "spiky")
_LINE: Colour = (52, 36, 44)


@dataclass(frozen=True)
class _Looks:
    """What one face is drawn from; lengths in units of the picture's width."""

    background: Colour
    skin: Colour
    hair: Colour
    eyes: Colour
    fringe: str
    hair_length: float
    face_width: float
    eye_height: float
    smile: float


def draw_faces(count: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures (count, size, size, 3); equal for equal arguments."""
    random = np.random.default_rng(seed)
    return np.stack([np.asarray(_draw(_looks(random), size)) for _ in range(count)])


def _looks(random: np.random.Generator) -> _Looks:
    return _Looks(
        background=_colour(random.uniform(), 0.28, random.uniform(0.8, 0.98)),
        skin=_SKINS[random.integers(len(_SKINS))],
        hair=_colour(random.choice(_HAIR_HUES), random.uniform(0.5, 0.75), random.uniform(0.35, 0.9)),
        eyes=_colour(random.choice(_EYE_HUES), 0.75, 0.7),
        fringe=_FRINGES[random.integers(len(_FRINGES))],
        hair_length=random.uniform(0.6, 1.05),
        face_width=random.uniform(0.54, 0.6),
        eye_height=random.uniform(0.16, 0.21),
        smile=random.uniform(0.02, 0.07),
    )


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw(looks: _Looks, size: int) -> Image.Image:
    canvas = size * _OVERSAMPLING
    image = Image.new("RGB", (canvas, canvas), looks.background)
    pen = _Pen(ImageDraw.Draw(image), canvas)
    # From back to front.
    pen.ellipse(0.5, 0.46, 0.84, 0.84, looks.hair)
    pen.polygon([(0.08, 0.46), (0.92, 0.46), (0.88, looks.hair_length), (0.12, looks.hair_length)], looks.hair)
    pen.polygon([(0.42, 0.7), (0.58, 0.7), (0.62, 1.0), (0.38, 1.0)], _shade(looks.skin, 0.88))
    pen.ellipse(0.5, 0.56, looks.face_width, 0.64, looks.skin)
    for side in (-1, 1):
        _draw_eye(pen, 0.5 + side * 0.14, looks)
        pen.ellipse(0.5 + side * 0.2, 0.72, 0.1, 0.05, _blend(looks.skin, (255, 120, 130)))
    pen.arc(0.5, 0.76, 0.14, looks.smile * 2, _shade(looks.skin, 0.45))
    pen.polygon(_FRINGE_OUTLINES[looks.fringe], _shade(looks.hair, 1.12))
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_eye(pen: _Pen, x: float, looks: _Looks) -> None:
    pen.ellipse(x, 0.585, 0.15, looks.eye_height + 0.03, _LINE)
    pen.ellipse(x, 0.6, 0.12, looks.eye_height - 0.02, looks.eyes)
    pen.ellipse(x - 0.02, 0.55, 0.05, 0.06, (255, 255, 255))


_FRINGE_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "straight": [
        *[(0.16, 0.56), (0.18, 0.3), (0.34, 0.13), (0.66, 0.13), (0.82, 0.3), (0.84, 0.56)],
        *[(0.76, 0.43), (0.24, 0.43)],
    ],
    "parted": [
        *[(0.16, 0.6), (0.18, 0.3), (0.34, 0.13), (0.66, 0.13), (0.82, 0.3), (0.84, 0.6)],
        *[(0.76, 0.42), (0.4, 0.26)],
    ],
    "spiky": [
        *[(0.16, 0.56), (0.18, 0.3), (0.34, 0.13), (0.66, 0.13), (0.82, 0.3), (0.84, 0.56), (0.74, 0.36)],
        *[(0.66, 0.48), (0.58, 0.34), (0.5, 0.5), (0.42, 0.34), (0.34, 0.48), (0.26, 0.36)],
    ],
}


class _Pen:
    """Draws in units of the picture's width, ellipses by centre and diameters."""

    def __init__(self, draw: ImageDraw.ImageDraw, canvas: int) -> None:
        self._draw = draw
        self._canvas = canvas

    def ellipse(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self._draw.ellipse(self._box(x, y, width, height), fill=colour)

    def arc(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """The lower half of an ellipse's outline."""
        self._draw.arc(self._box(x, y, width, height), 10, 170, fill=colour, width=self._canvas // 28)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([(x * self._canvas, y * self._canvas) for x, y in points], fill=colour)

    def _box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        return left * self._canvas, top * self._canvas, right * self._canvas, bottom * self._canvas


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _blend(colour: Colour, other: Colour) -> Colour:
    red, green, blue = ((a * 2 + b) // 3 for a, b in zip(colour, other, strict=True))
    return red, green, blue
