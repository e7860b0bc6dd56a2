"""Many damaged pictures and a few huge ones, read in processes of their own: time, memory, crashes, noise."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from memory import peak_growth
from PIL import Image

from npmobilevit.images import to_rgb

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux does")


@pytest.fixture(scope="module")
def fuzz():
    pytest.importorskip("resource")
    spec = importlib.util.spec_from_file_location("fuzz_images", ROOT / "tools" / "fuzz_images.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_images"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


# damaged pictures


@pytest.mark.case(
    "39", "thousands of random mutations of 16 pictures", "pixels or ImageError; no warning, crash or hang"
)
def test_damaged_pictures_end_in_pixels_or_in_our_error(fuzz, tmp_path, capsys):
    arguments = ["--count", "3000", "--processes", "2", "--output", str(tmp_path / "failures")]
    assert fuzz.main(arguments) == 0
    out = capsys.readouterr().out
    counts = {kind: int(count.replace(",", "")) for count, kind in re.findall(r"^ *([0-9,]+)  (\S+)$", out, re.M)}
    assert counts.pop("cases") == sum(counts.values()) == 3000
    # else the mutations would end at the first check, and show nothing
    assert counts["picture"] > 300
    assert {"image-corrupt", "image-truncated", "image-unknown", "image-too-large"} <= set(counts)
    assert "warnings: 0" in out
    assert not (tmp_path / "failures").exists()


def test_the_sixteen_pictures_are_good(fuzz):
    seeds = fuzz.seed_pictures()
    assert len({seed.data for seed in seeds}) == 16
    for seed in seeds:
        rgb = to_rgb(seed.data, **seed.options)
        assert sorted(rgb.shape) == ([3, 8, 8] if "interlaced" in seed.name else [3, 20, 24])
        assert len(np.unique(rgb)) > 1


def test_a_case_depends_on_seed_and_index_only(fuzz):
    seeds = fuzz.seed_pictures()
    cases = [fuzz.mutated(index, 0, seeds)[1] for index in range(300)]
    again = fuzz.seed_pictures()
    assert [fuzz.mutated(index, 0, again)[1] for index in reversed(range(300))] == cases[::-1]
    assert len(set(cases)) > 290
    assert fuzz.mutated(5, 1, seeds)[1] != cases[5]


def test_chunks_survive_taking_apart(fuzz):
    data = next(seed.data for seed in fuzz.seed_pictures() if seed.name == "PNG RGBA")
    assert fuzz.joined_png(fuzz.png_chunks(data)) == data


# The tool itself: a planted reader goes wrong at one case.

READER = """
import os, sys, time, warnings
import npmobilevit.images
from pathlib import Path
bad = Path(__file__).with_name("bad.bin").read_bytes()
def read(data, **options):
    if data == bad:
        {fault}
    return npmobilevit.images.to_rgb(data, **options)
"""

FAULTS = {
    "foreign: KeyError": "raise KeyError('planted')",
    "foreign: result": "import numpy; return numpy.zeros(3)",
    "foreign: MemoryError": "bytearray(2**31)",
    "warning: planted": "warnings.warn('planted')",
    "crash: status -6": "os.abort()",
    "crash: status 3": "os._exit(3)",
    "hang: more than 0.5 s": "time.sleep(60)",
}


@pytest.fixture
def plant(fuzz, tmp_path, monkeypatch):
    def planted(fault):
        (tmp_path / "planted_reader.py").write_text(READER.format(fault=fault), encoding="utf-8")
        (tmp_path / "bad.bin").write_bytes(fuzz.mutated(3, 0, fuzz.seed_pictures())[1])
        monkeypatch.syspath_prepend(tmp_path)
        options = ["--count", "6", "--processes", "1", "--seconds", "0.5", "--output", str(tmp_path / "failures")]
        return [*options, "--reader", "planted_reader:read"]

    return planted


@pytest.mark.parametrize("outcome", FAULTS)
def test_the_tool_finds_every_fault(outcome, fuzz, plant, tmp_path, capsys):
    assert fuzz.main(plant(FAULTS[outcome])) == 1
    out = capsys.readouterr().out
    assert f"FAILED case 3: {outcome}" in out
    assert out.count("FAILED") == 1
    assert "6  cases" in out  # the others were read all the same
    saved = tmp_path / "failures" / "0-3.bin"
    assert saved.read_bytes() == (tmp_path / "bad.bin").read_bytes()
    assert str(saved) in out


def test_the_tool_counts_what_decoders_write(fuzz, plant, capsys):
    assert fuzz.main(plant("os.write(2, b'x' * 1234)")) == 0
    assert "bytes written to stderr: 1,234" in capsys.readouterr().out


def test_a_reader_that_is_not_there_ends_the_tool(fuzz):
    with pytest.raises(SystemExit, match="no_such_module"):
        fuzz.main(["--count", "5", "--processes", "1", "--reader", "no_such_module:read"])


# memory


SETUP = """
import numpy as np
from npmobilevit.images import to_rgb
from npmobilevit.errors import ImageError
from npmobilevit.image_processing import MobileViTImageProcessor

source = {source}
to_rgb({small!r})  # loads what is loaded once
"""


def growth(tmp_path, source, action="to_rgb(source)"):
    small = tmp_path / "small.png"
    Image.new("RGB", (2, 2)).save(small)
    return peak_growth(SETUP.format(source=source, small=str(small)), action)


def save(path, mode, **options):
    picture = Image.new(mode, (4000, 3000), 9)
    picture.save(path, **options)
    return repr(str(path))


EXIF = Image.Exif()
EXIF[0x0112] = 6
MIB_PER_BYTE = 4000 * 3000 / 2**20  # of each pixel
SLACK = 30  # MiB


@pytest.mark.case("16", "many pixels within the limit", "7 bytes per pixel at most: 4 of Pillow, 3 of the result")
@pytest.mark.parametrize(
    ("name", "mode", "options", "bytes_per_pixel"),
    [
        ("turned.jpg", "RGB", {"exif": EXIF}, 7),
        ("clear.png", "RGBA", {"compress_level": 1}, 7),
        ("deep.png", "I;16", {"compress_level": 1}, 5),
        ("palette.png", "P", {"transparency": 9}, 4),
    ],
)
def test_a_picture_is_not_copied(name, mode, options, bytes_per_pixel, tmp_path):
    """Catches: one more copy in mode RGB (4 bytes per pixel) or as an array (3), or the picture kept twice."""
    needed = growth(tmp_path, save(tmp_path / name, mode, **options))
    assert 3 * MIB_PER_BYTE < needed < bytes_per_pixel * MIB_PER_BYTE + SLACK


@pytest.mark.parametrize("value", ["np.float32(0.5)", "np.int64(7)"])
def test_an_array_is_not_copied(value, tmp_path):
    """Catches: float64 temporaries (32 bytes per pixel), the table of where it is finite (4)."""
    needed = growth(tmp_path, f"np.broadcast_to({value}, (3000, 4000, 4))")
    assert 2.9 * MIB_PER_BYTE < needed < 3 * MIB_PER_BYTE + SLACK


@pytest.mark.case("20", "1 x 50000 pixels, in a process of its own", "refused within a few megabytes")
def test_a_long_thin_picture_costs_nothing(tmp_path):
    Image.new("1", (1, 50_000)).save(tmp_path / "thin.png")
    action = """
try:
    MobileViTImageProcessor().preprocess(source)
    raise SystemExit("not refused")
except ImageError as error:
    assert error.code == "resized-too-large", error
"""
    assert growth(tmp_path, repr(str(tmp_path / "thin.png")), action) < SLACK
