"""Pages of HTML that hold all they need: in ASCII, loading nothing, and running no script but their own.

A page is made of a template with its style and its script, which lie as files beside the module that fills them in.
Whatever comes from outside goes through :func:`escaped`, and none of it into the script.
"""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.metadata import version
from pathlib import Path
from string import Template

__all__ = ["content_policy", "data_uri", "escaped", "filled_page", "page_part", "page_template"]


def escaped(text: str) -> str:
    """Text that is text wherever it stands in HTML, in ASCII."""
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode("ascii")


@cache
def page_part(path: Path) -> str:
    """A part of a page, such as its style: a file in ASCII."""
    return path.read_text(encoding="ascii")


@cache
def page_template(path: Path) -> Template:
    """A page or a section of one, with ``$name`` where a part or a text belongs."""
    return Template(page_part(path).removesuffix("\n"))


def filled_page(module: Path, *, images: bool = False, **values: object) -> str:
    """A page with all its parts.

    Parameters
    ----------
    module : Path
        Of the module that fills the page in; beside it, with other suffixes, lie template, style and script.
    images : bool
        Whether there are pictures in the page, as data URIs.
    **values
        What the template needs besides `policy`, `style`, `script` and `version`.

    Returns
    -------
    str
    """
    script = page_part(module.with_suffix(".js"))
    return page_template(module.with_suffix(".html")).substitute(
        values,
        policy=content_policy(script, images=images),
        style=page_part(module.with_suffix(".css")),
        script=script,
        version=escaped(version("npmobilevit")),
    )


def content_policy(script: str, *, images: bool = False) -> str:
    """What a browser may do for a page.

    Parameters
    ----------
    script : str
        The page's own script, which alone may run.
    images : bool
        Whether there are pictures in the page, as data URIs.

    Returns
    -------
    str
        Content of its ``Content-Security-Policy``: nothing may be loaded, and styles may stand in the page.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode("ascii")).digest()).decode("ascii")
    pictures = "img-src data:; " if images else ""
    return f"default-src 'none'; {pictures}style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def data_uri(data: bytes, media_type: str) -> str:
    """Bytes as an address, such as ``data:image/png;base64,...``."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
