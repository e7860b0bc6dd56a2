"""What predict and segment return: to read, to look at, to write as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npmobilevit.images import to_rgb
from npmobilevit.visual import drawing, notebook, overlay, palettes
from npmobilevit.visual.lettering import shown_text

BAR_WIDTH = 30
LABEL_WIDTH = 60  # of longer names the end is left out
PLOT_PIXELS = 240  # a smaller picture is enlarged to about that when it is plotted
VIEW_PIXELS = 480  # the longest side of a picture in a notebook
UNKNOWN = (224, 224, 192)  # PASCAL VOC's colour for no class
UNTINTED = "background"  # the class of this name is what is not marked


class Prediction(NamedTuple):
    """One class that a picture may belong to.

    Attributes
    ----------
    label : str
    score : float
        In 0..1.
    index : int
        Position of the class among the logits.
    """

    label: str
    score: float
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


class Predictions(list[Prediction]):
    """The classes of one picture, best first: a list that can be looked at.

    ``print`` shows bars, a notebook the picture beside them, and so does the picture that `plot` draws.

    Attributes
    ----------
    model : str
        Name of the model that made them.
    picture : bytes
        The picture, scaled down to at most 320 pixels a side, as JPEG.
    """

    def __init__(self, predictions: Iterable[Prediction] = (), *, model: str = "", picture: bytes = b"") -> None:
        super().__init__(predictions)
        self.model = model
        self.picture = picture

    def to_dict(self) -> dict[str, Any]:
        """Return model and predictions as a dict that JSON can hold."""
        return {"model": self.model, "predictions": [prediction._asdict() for prediction in self]}

    def plot(self) -> Image.Image:
        """Draw the picture beside a bar for each class.

        Returns
        -------
        PIL.Image.Image
            Mode RGB, on white, with the name of the model above the bars. A full bar means a score of 1. The picture is
            the one that is kept in `picture`; without it, there are the bars alone.

        Raises
        ------
        ImageError
            If `picture` is no picture.
        ConfigError
            If a score is negative.
        """
        bars = drawing.bars([(p.label, p.score, f"{p.score:.1%}") for p in self], limit=1.0)
        parts: list[Image.Image | tuple[Image.Image, str]] = [(bars, shown_text(self.model, LABEL_WIDTH))]
        if self.picture:
            rgb = to_rgb(self.picture)
            parts.insert(0, drawing.picture(rgb, cell=max(1, PLOT_PIXELS // max(rgb.shape[:2]))))
        return drawing.arranged(parts)

    def __str__(self) -> str:
        names = [shown_text(p.label, LABEL_WIDTH) for p in self]
        bars = ["#" * round(BAR_WIDTH * p.score) for p in self]
        width = max([20, *map(len, names)])
        return "\n".join(
            f"{p.score:6.1%}  {name:{width}} {bar}".rstrip() for p, name, bar in zip(self, names, bars, strict=True)
        )

    @overload
    def __getitem__(self, index: SupportsIndex) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> Predictions: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Prediction | Predictions:
        if isinstance(index, slice):
            return Predictions(super().__getitem__(index), model=self.model, picture=self.picture)
        return super().__getitem__(index)

    def _repr_html_(self) -> str:
        return notebook.bars_html(self.picture, self.model, [(p.label, p.score) for p in self])


class SegmentedClass(NamedTuple):
    """One class that a picture shows.

    Attributes
    ----------
    id : int
        Its value in the mask.
    name : str
    share : float
        Of the picture's pixels, in 0..1.
    probability : float
        Mean over its pixels of the probability that the network gives the class there, in 0..1.
    """

    id: int
    name: str
    share: float
    probability: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Segmentation:
    """The class of every pixel of a picture.

    Attributes
    ----------
    mask : (H, W) int32 array
        A class for each pixel of the upright picture. With ``crop=True``, `ignore_index` where the network saw nothing;
        a model whose ignore index is one of its classes cannot tell the two apart here, but in `classes` it does.
    labels : dict
        The name of each class of the model, by its value in the mask.
    classes : tuple of SegmentedClass
        Those present, largest first.
    image : (H, W, 3) uint8 array
        The picture, upright, in RGB.
    model : str
        Name of the model.
    ignore_index : int
        The value that means no class.
    """

    mask: NDArray[np.int32]
    labels: Mapping[int, str]
    classes: tuple[SegmentedClass, ...]
    image: NDArray[np.uint8]
    model: str
    ignore_index: int = 255

    def overlay(self, alpha: float = 0.5, *, legend: bool = True) -> Image.Image:
        """Lay the colours of the classes over the picture.

        Parameters
        ----------
        alpha : float
            0 shows the picture alone, 1 the colours alone.
        legend : bool
            Whether the classes present are named in a strip added below; the picture itself keeps its size.

        Returns
        -------
        PIL.Image.Image
            Mode RGB. A class called "background" is not coloured.

        Raises
        ------
        ConfigError
            If `alpha` is not within 0..1.
        """
        palette = palettes.class_colours(self.labels)
        coloured = [found for found in self.classes if found.name != UNTINTED]
        colours = {found.id: palette[found.id] for found in coloured}
        pixels = overlay.overlay(self.image, self.mask, colours, alpha=alpha)
        if not legend:
            return Image.fromarray(pixels)
        return overlay.with_legend(
            pixels, [(colours[c.id], f"{shown_text(c.name, 30)} ({c.share:.1%})") for c in coloured]
        )

    def mask_image(self) -> Image.Image:
        """Return the mask as a picture that can be saved as PNG without loss.

        Returns
        -------
        PIL.Image.Image
            Mode P, the values being the classes and the palette their colours; mode I;16 if the model has classes above
            255. A value for no class that does not fit becomes the largest one, 255 or 65535.
        """
        wide = max(self.labels, default=0) > 255
        largest = 65535 if wide else 255
        values = np.where((self.mask < 0) | (self.mask > largest), largest, self.mask)
        if wide:
            return Image.fromarray(values.astype(np.uint16))
        picture = Image.fromarray(values.astype(np.uint8))
        colours = palettes.class_colours(self.labels)
        picture.putpalette([level for i in range(256) for level in colours.get(i, UNKNOWN)])
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Return model, size and classes, without the mask, as a dict that JSON can hold."""
        height, width = self.mask.shape
        return {
            "model": self.model,
            "height": height,
            "width": width,
            "classes": [found._asdict() for found in self.classes],
        }

    def __repr__(self) -> str:
        height, width = self.mask.shape
        shares = [f"{shown_text(found.name, LABEL_WIDTH)} {found.share:.1%}" for found in self.classes[:3]]
        more = len(self.classes) - len(shares)
        text = ", ".join(shares) + (f" and {more} more" if more else "")
        return f"<Segmentation {height} x {width} by {self.model}: {text or 'no class'}>"

    def _repr_html_(self) -> str:
        palette = palettes.class_colours(self.labels)
        picture = notebook.jpeg_bytes(np.asarray(self.overlay(legend=False)), longest=VIEW_PIXELS)
        rows = [(palette[c.id], c.name, c.share, c.probability) for c in self.classes]
        return notebook.classes_html(picture, repr(self)[1:-1], rows)
