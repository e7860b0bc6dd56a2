"""The measurements as a picture: how long the contestants take beside PyTorch eager."""

from __future__ import annotations

from benchmarks.bars import times
from benchmarks.cases import CONTESTANTS, SEGMENTER, VARIANTS
from resumable import Json

from npmobilevit.cli.turns import paired

CASES = {**{f"{name}/256": f"{name}, 256 x 256" for name in VARIANTS}, f"{SEGMENTER}/512": f"{SEGMENTER}, 512 x 512"}
OTHER = "eager-2"
COLOURS = {
    "eager-2": "#8c8c8c",
    "ort-2": "#5b7fa6",
    "readable": "#c9a24b",
    "engine-threads": "#4f9d69",
    "engine-processes": "#2f7048",
}
LEFT, UNIT, BAR, ROW, GAP = 250, 180, 14, 20, 34  # pixels; a ratio of 1 is UNIT wide
WIDTH = 820


def svg(results: Json) -> str:
    """Bars of the median ratios, with a line from the lowest to the highest."""
    lines: list[str] = []
    y = 30
    for case, title in CASES.items():
        found = times(results["parts"], case)
        lines.append(text(10, y, f"{title}, one picture", "bold"))
        y += 8
        for name, colour in COLOURS.items():
            if name in found and OTHER in found:
                lines += bar(y, CONTESTANTS[name].title, paired(found[name], found[OTHER]), colour)
                y += ROW
        y += GAP
    lines.append(text(10, y - 10, "Time over that of PyTorch eager with 2 threads; less is faster.", "normal"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(lines)
    return f'{head} {style}>\n<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n{body}\n</svg>\n'


def bar(y: int, title: str, ratio: tuple[float, float, float], colour: str) -> list[str]:
    median, low, high = (value * UNIT for value in ratio)
    middle = y + BAR / 2
    right = min(LEFT + high, WIDTH - 60)  # one slow round is no reason for a wider picture
    return [
        text(10, y + 11, title, "normal"),
        f'<rect x="{LEFT}" y="{y}" width="{median:.1f}" height="{BAR}" fill="{colour}"/>',
        f'<path d="M{LEFT + low:.1f} {middle}H{right:.1f}" stroke="#222222"/>',
        text(round(max(right, LEFT + median)) + 6, y + 11, f"{ratio[0]:.2f}", "normal"),
    ]


def text(x: int, y: int, content: str, weight: str) -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}">{content}</text>'
