"""Download every published checkpoint and compare its logits with those that its publishers printed.

    python tools/check_published.py --picture 000000039769.jpg

Needs the internet. The picture is COCO val2017 000000039769 (two cats, 640x480), which may not be redistributed:
http://images.cocodataset.org/val2017/000000039769.jpg. The figures are those of transformers: for the two xx-small ones
of its integration tests (tests/models/mobilevit), else of its conversion script (convert_mlcvnets_to_pytorch.py). They
were made from a PNG and a JPEG of the picture, so that the last digits may differ, and those of the x-small and small
segmenters may be of an earlier upload. timm publishes no logits: its files are compared with Apple's, of which they are
copies under other names.

Prints a line for every checkpoint of the catalogue and ends with 1 if one differs or could not be had.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import npmobilevit as nm
from npmobilevit.checkpoints.catalogue import CATALOGUE

TOLERANCE = 1e-3  # four decimals are printed, and two decoders of JPEG differ by a grey level here and there
TIMM_TOLERANCE = 5e-2  # of the scores: another resize and crop of the same picture

CLASSIFIERS = {  # logits[0, :3]
    "apple/mobilevit-xx-small": (-1.9364, -1.2327, -0.4653),
    "apple/mobilevit-x-small": (-2.4761, -0.9399, -1.9587),
    "apple/mobilevit-small": (-0.9866, 0.2392, -1.1241),
}
SEGMENTERS = {  # logits[0, :3, :3, :3]
    "apple/deeplabv3-mobilevit-xx-small": """
        6.9713 6.9786 7.2422 7.2893 7.2825 7.4446 7.6580 7.8797 7.9420
        -10.6869 -10.3250 -10.3471 -10.4228 -9.9868 -9.7132 -11.0405 -11.0221 -10.7318
        -3.3089 -2.8539 -2.6740 -3.2706 -2.5621 -2.5108 -3.2534 -2.6615 -2.6651""",
    "apple/deeplabv3-mobilevit-x-small": """
        5.4449 5.5733 5.6314 5.1815 5.3930 5.5963 5.1656 5.4333 5.4853
        -9.4423 -9.7766 -9.6714 -9.1581 -9.5720 -9.5519 -9.1006 -9.6458 -9.5703
        -7.7721 -7.3716 -7.1583 -8.4599 -8.0624 -7.7944 -8.4172 -7.8366 -7.5025""",
    "apple/deeplabv3-mobilevit-small": """
        6.2065 6.1292 6.2070 6.1079 6.1254 6.1747 6.0042 6.1071 6.1034
        -6.9253 -6.8653 -7.0398 -7.3218 -7.3983 -7.3670 -7.1961 -7.2482 -7.1569
        -4.4723 -4.4348 -4.3769 -5.3629 -5.4632 -5.4598 -5.1587 -5.3402 -5.5059""",
}
TIMM = {
    "timm/mobilevit_xxs.cvnets_in1k": "apple/mobilevit-xx-small",
    "timm/mobilevit_xs.cvnets_in1k": "apple/mobilevit-x-small",
    "timm/mobilevit_s.cvnets_in1k": "apple/mobilevit-small",
}


def expected_logits(name: str) -> NDArray[np.float64]:
    """What was published: (3,) of a classifier, (3, 3, 3) of a segmenter."""
    if name in CLASSIFIERS:
        return np.array(CLASSIFIERS[name])
    return np.array(SEGMENTERS[name].split(), float).reshape(3, 3, 3)


def logits(name: str, picture: Path, load: Callable[[str], nm.Pipeline]) -> NDArray[np.floating]:
    """The same of our own, through the checkpoint's processor with its centre crop."""
    pipeline = load(name)
    found = pipeline.network(pipeline.pixel_values(picture)).logits[0]
    return found[:3] if found.ndim == 1 else found[:3, :3, :3]


def difference(name: str, picture: Path, load: Callable[[str], nm.Pipeline] = nm.load) -> tuple[float, float]:
    """Largest difference from what is published, and what is allowed."""
    if name in TIMM:
        ours, apples = (load(other).predict(picture, top_k=1)[0] for other in (name, TIMM[name]))
        same = ours.index == apples.index
        return (abs(ours.score - apples.score) if same else float("inf")), TIMM_TOLERANCE
    return float(np.abs(logits(name, picture, load) - expected_logits(name)).max()), TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, required=True, help="COCO val2017 000000039769 as JPEG or PNG")
    picture = parser.parse_args().picture
    failed = 0
    for entry in CATALOGUE:
        if entry.shipped:
            continue
        try:
            found, allowed = difference(entry.name, picture)
        except nm.NpMobileViTError as error:
            print(f"not tried  {entry.name}: {error}", flush=True)
            failed += 1
            continue
        failed += found > allowed
        print(f"{'good' if found <= allowed else 'DIFFERS':9}  {entry.name}: {found:.1e} of {allowed:.0e}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
