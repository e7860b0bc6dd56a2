"""What the exporters share: the command line. The standard library only.

An exporter is a script `export_*.py` that runs in an environment with the framework that a backend's files come from:

    python export_NAME.py --checkpoint FOLDER --shape N C H W --out FILE --variant VARIANT
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

Export: TypeAlias = Callable[[Path, tuple[int, ...], Path, str], None]  # checkpoint, shape, file to write, variant


def serve(export: Export, variants: Sequence[str]) -> None:
    """Answer the command line: make one file of a checkpoint for one shape of the pixel values."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--shape", type=int, nargs=4, required=True, metavar=("N", "C", "H", "W"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variant", choices=variants, required=True)
    arguments = parser.parse_args()
    export(arguments.checkpoint, tuple(arguments.shape), arguments.out, arguments.variant)
