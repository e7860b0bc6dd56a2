"""What a network makes of a picture, as one page of HTML: what it saw, what each patch attends to, where time went.

``evidence`` measures, with ``attention`` for what the transformers attend to; ``page`` shows it, with ``pictures``.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Unpack

from npmobilevit.errors import ImageError
from npmobilevit.explanation.evidence import Evidence, View, gather, view
from npmobilevit.explanation.page import to_html
from npmobilevit.files import write_atomically
from npmobilevit.images import ImageSource
from npmobilevit.pipeline import PictureOptions, Pipeline, as_pipeline, check_names
from npmobilevit.visual.standalone import escaped

__all__ = ["Evidence", "Page", "explain"]

FRAME_HEIGHT = 800  # pixels of a page within a notebook


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Page:
    """A page that explains what a network makes of a picture: :func:`explain` makes it.

    Attributes
    ----------
    html : str
        The page in ASCII. It loads nothing and works from the file system.
    evidence : Evidence
        What the page shows, as arrays.
    """

    html: str
    evidence: Evidence

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, whole or not at all. Its folder is made if need be.

        Raises
        ------
        ImageError
            If it cannot be written (code ``page-unwritable``).
        """
        try:
            write_atomically(Path(path), self.html.encode("ascii"))
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            cause = getattr(error, "strerror", None) or error
            raise ImageError(
                f"cannot write the page to {os.fspath(path)!r}: {cause}. Choose a place that can be written to.",
                "page-unwritable",
            ) from error

    def __repr__(self) -> str:
        return f"<Page of {len(self.html):,} bytes: {self.evidence}>"

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{FRAME_HEIGHT}px;border:0"
        source = escaped(self.html)
        return f'<iframe sandbox="allow-scripts" title="explanation" style="{style}" srcdoc="{source}"></iframe>'


def explain(
    image: ImageSource,
    model: Pipeline | str | os.PathLike[str] | None = None,
    **options: Unpack[PictureOptions],
) -> Page:
    """Show what a network makes of a picture, and what inside it led there.

    The page has the picture as the network sees it; the classes; what each patch attends to, in each MobileViT block,
    transformer layer and head, for each pixel position in the patches; the maps of each stage; and where time went. Of
    a classifier it also has how much each part of the picture, when covered, changes the probability of the best class;
    of a segmenter the mask, shares and probability maps.

    Parameters
    ----------
    image : path, bytes, file object, PIL image or array
        See :func:`npmobilevit.predict`.
    model : Pipeline, str or path, optional
        A classifier or a segmenter, as for :func:`npmobilevit.predict`. A segmenter is shown the whole picture.
    **options
        See :func:`npmobilevit.predict`: how the picture is read, and limits.

    Returns
    -------
    Page

    Raises
    ------
    ImageError
        If the picture cannot be used, or would enter the network with a side above 65536 pixels.
    ConfigError
        If an option is out of its range, or the model neither classifies nor segments pictures.
    CheckpointError, WeightsError
        If the model cannot be loaded.

    Notes
    -----
    The inside is that of the readable network in the pipeline's precision; the answer, and the up to 64 runs with a
    part of the picture covered, are the pipeline's own. Of equal input all but the times is equal.

    Examples
    --------
    >>> page = explain("reference/images/chelsea.png", "cifar10-xx-small")
    >>> page.evidence.predictions[0].label
    'cat'
    """
    check_names(options, "explain")
    return page_of(view(as_pipeline(model), image, **options))


def page_of(seen: View) -> Page:
    """Make the page of a picture that has been read and prepared; see :func:`explain`."""
    evidence = gather(seen)
    return Page(to_html(evidence), evidence)
