"""What the lessons share: where the pictures are, and where the figures go."""

import os
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
IMAGES = HERE.parent / "images"


def figure(name: str, picture: Image.Image) -> Image.Image:
    """Write a figure into figures/, or the folder $NPMOBILEVIT_FIGURES, as PNG; a notebook shows what is returned."""
    folder = Path(os.environ.get("NPMOBILEVIT_FIGURES", HERE / "figures"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"figure: {path}")
    return picture
