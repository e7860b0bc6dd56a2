"""Draw reference/images/street.png: a made-up street, for examples of segmentation.

    python tools/draw_street.py reference/images/street.png

Photographs of streets that may be shipped were not at hand; this picture belongs to nobody. It is drawn at four times
its size and scaled down, so that its edges are soft.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 480, 360
SCALE = 4
HORIZON = 165
VANISHING = 245  # x of the point where the road ends

Point = tuple[float, float]
Colour = tuple[int, int, int]


def scaled(points: list[Point]) -> list[Point]:
    return [(x * SCALE, y * SCALE) for x, y in points]


def box(draw: ImageDraw.ImageDraw, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    draw.polygon(scaled([(left, top), (right, top), (right, bottom), (left, bottom)]), fill=colour)


def sky(picture: Image.Image) -> None:
    rows = np.linspace(0, 1, picture.height)[:, None, None]
    levels = (1 - rows) * np.array([150, 175, 205]) + rows * np.array([235, 238, 240])
    picture.paste(Image.fromarray(np.broadcast_to(levels, (picture.height, picture.width, 3)).astype(np.uint8)))


def ground(draw: ImageDraw.ImageDraw) -> None:
    """Pavement on both sides, road in the middle, kerbs and a broken line."""
    box(draw, 0, HORIZON, WIDTH, HEIGHT, (150, 143, 136))
    draw.polygon(
        scaled([(VANISHING - 8, HORIZON), (VANISHING + 8, HORIZON), (430, HEIGHT), (40, HEIGHT)]), (88, 88, 92)
    )
    for end in (40, 430):
        side = 1 if end > VANISHING else -1
        near, far = (end, HEIGHT), (VANISHING + 8 * side, HORIZON)
        draw.polygon(scaled([far, near, (end + 10 * side, HEIGHT)]), (120, 114, 108))
    for step in range(6):
        top, bottom = HORIZON + 8 + 6 * 1.75**step, HORIZON + 8 + 6 * 1.75 ** (step + 0.5)
        half_top, half_bottom = (top - HORIZON) / 60, (bottom - HORIZON) / 60
        x = [VANISHING - 0.05 * (y - HORIZON) for y in (top, bottom)]
        corners = [(x[0] - half_top, top), (x[0] + half_top, top), (x[1] + half_bottom, bottom)]
        draw.polygon(scaled([*corners, (x[1] - half_bottom, bottom)]), (205, 205, 200))


def building(draw: ImageDraw.ImageDraw, left: float, top: float, right: float, base: float, colour: Colour) -> None:
    box(draw, left, top, right, base, colour)
    width, height = (right - left) / 9, (base - top) / 11
    for row in range(3):
        for column in range(3):
            x, y = left + width * (1.2 + 2.6 * column), top + height * (1.2 + 3.1 * row)
            box(draw, x, y, x + 1.4 * width, y + 1.8 * height, (62, 70, 82))


def tree(draw: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: np.random.Generator) -> None:
    box(draw, x - size / 18, base - size, x + size / 18, base, (70, 56, 46))
    for _ in range(90):
        dx, dy = rng.normal(0, size / 4.2, 2)
        radius = size * rng.uniform(0.05, 0.12)
        green = int(rng.integers(50, 95))
        centre = (x + dx, base - 1.25 * size + dy)
        corners = scaled([(centre[0] - radius, centre[1] - radius), (centre[0] + radius, centre[1] + radius)])
        draw.ellipse([*corners[0], *corners[1]], fill=(green - 14, green + 6, green - 22))


def car(draw: ImageDraw.ImageDraw, x: float, base: float, width: float, colour: Colour) -> None:
    """A car seen from behind; x is its middle."""
    height = 0.72 * width
    box(draw, x - width / 2, base - 0.62 * height, x + width / 2, base - 0.12 * height, colour)
    roof = [(x - 0.4 * width, base - 0.6 * height), (x - 0.3 * width, base - height)]
    draw.polygon(scaled([*roof, (x + 0.3 * width, base - height), (x + 0.4 * width, base - 0.6 * height)]), colour)
    glass = [(x - 0.33 * width, base - 0.62 * height), (x - 0.26 * width, base - 0.93 * height)]
    draw.polygon(
        scaled([*glass, (x + 0.26 * width, base - 0.93 * height), (x + 0.33 * width, base - 0.62 * height)]),
        (38, 44, 52),
    )
    for side in (-1, 1):
        box(
            draw,
            x + side * 0.36 * width - 0.09 * width,
            base - 0.2 * height,
            x + side * 0.36 * width + 0.09 * width,
            base,
            (22, 22, 24),
        )
        box(
            draw,
            x + side * 0.41 * width - 0.06 * width,
            base - 0.52 * height,
            x + side * 0.41 * width + 0.06 * width,
            base - 0.38 * height,
            (170, 30, 30),
        )
    box(draw, x - 0.13 * width, base - 0.36 * height, x + 0.13 * width, base - 0.27 * height, (214, 200, 90))


def street() -> Image.Image:
    """The picture, 480 x 360, always the same."""
    rng = np.random.default_rng(7)
    picture = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
    sky(picture)
    draw = ImageDraw.Draw(picture)
    ground(draw)
    building(draw, 0, 18, 92, 236, (142, 96, 78))
    building(draw, 92, 62, 150, 205, (164, 146, 122))
    building(draw, 150, 98, 196, 186, (128, 104, 96))
    building(draw, 382, 34, 480, 240, (150, 132, 112))
    building(draw, 322, 84, 382, 204, (132, 92, 80))
    building(draw, 284, 112, 322, 184, (160, 150, 138))
    tree(draw, 214, 184, 38, rng)
    tree(draw, 350, 214, 74, rng)
    for x, base, top in ((118, 262, 60), (300, 194, 118)):
        box(draw, x - base / 170, top, x + base / 170, base, (72, 74, 76))
    car(draw, 288, 236, 62, (150, 28, 32))
    car(draw, 216, 200, 26, (60, 72, 96))
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))


if __name__ == "__main__":
    street().save(Path(sys.argv[1]), optimize=True)
