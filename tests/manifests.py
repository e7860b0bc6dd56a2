"""Manifests under test."""

import json
import shutil
import tempfile
from pathlib import Path

from npmobilevit.validation import read_candidate

OF_MAPS = {"OIHW": "NCHW", "OHWI": "NHWC"}


def parameters_of(folder):
    """Values of the parameters of a manifest, kernels as O, I, H, W: read as taps from a copy that names them so."""
    parameters = json.loads((folder / "manifest.json").read_text())["parameters"]
    taps = {
        name: entry | ({"layout": OF_MAPS[entry["layout"]]} if "layout" in entry else {})
        for name, entry in parameters.items()
    }
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        (Path(copy) / "manifest.json").write_text(json.dumps({"taps": taps}))
        return dict(read_candidate(copy).tensors)
