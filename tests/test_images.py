"""``images.to_rgb``: every source and mode, and every refusal with its code."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from npmobilevit import images
from npmobilevit.errors import ImageError
from npmobilevit.images import describe, to_rgb

PHOTO = Path(__file__).parents[1] / "reference" / "images" / "chelsea.png"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(height: int, width: int, *, rows: bytes | None = None) -> bytes:
    """Write a 1-bit PNG by hand, so that its header can promise more than its data hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    data = zlib.compress(rows if rows is not None else bytes(16))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refusal(source: object, code: str) -> str:
    with pytest.raises(ImageError) as caught:
        to_rgb(source)
    assert caught.value.code == code, str(caught.value)
    assert isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert " at 0x" not in message
    assert message.endswith((".", "'")), message
    return message


# Sources


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "photo.jpg"
    Image.fromarray(noise(21, 34, 3)).save(path, "PNG")  # the name lies, the content counts
    return path


def unseekable(data: bytes) -> io.RawIOBase:
    class Pipe(io.RawIOBase):
        source = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: memoryview) -> int:
            part = self.source.read(min(len(buffer), 100))  # short reads, as from a pipe
            buffer[: len(part)] = part
            return len(part)

    return Pipe()


@pytest.mark.parametrize(
    "make",
    [
        str,
        Path,
        Path.read_bytes,
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
        lambda path: unseekable(path.read_bytes()),
        Image.open,
        lambda path: np.array(Image.open(path)),
    ],
    ids=["str", "path", "bytes", "bytearray", "memoryview", "BytesIO", "unseekable", "pil", "array"],
)
def test_all_sources_give_the_same_pixels(make: object, photo_file: Path) -> None:
    source = make(photo_file)
    rgb = to_rgb(source)
    np.testing.assert_array_equal(rgb, noise(21, 34, 3), strict=True)
    assert rgb.flags.c_contiguous
    assert rgb.flags.writeable
    if isinstance(source, Image.Image):
        source.close()


def test_open_binary_file(photo_file: Path) -> None:
    with photo_file.open("rb") as file:
        assert to_rgb(file).shape == (21, 34, 3)
        assert "seek(0)" in refusal(file, "image-empty")


def test_a_photograph() -> None:
    with Image.open(PHOTO) as picture:
        expected = np.array(picture.convert("RGB"))
    np.testing.assert_array_equal(to_rgb(PHOTO), expected, strict=True)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_formats(kind: str) -> None:
    pixels = noise(13, 17, 3)
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(to_rgb(encode(Image.fromarray(pixels), kind, **options)), pixels, strict=True)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "MPO"])
def test_lossy_formats(kind: str) -> None:
    grey = np.repeat(np.arange(0, 250, 10, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    difference = to_rgb(encode(Image.fromarray(grey), kind)).astype(int) - grey
    assert np.abs(difference).max() <= 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (to_rgb(data) == [255, 0, 0]).all()


# Modes


def test_grey_and_black_and_white() -> None:
    grey = noise(5, 7)
    expected = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(grey)), expected, strict=True)
    np.testing.assert_array_equal(to_rgb(encode(Image.fromarray(grey), "PNG")), expected, strict=True)
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(to_rgb(bits)[..., 0], np.where(grey > 127, 255, 0))


def test_palette_gives_colours_not_indices() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    assert to_rgb(picture).tolist() == colours
    assert to_rgb(encode(picture, "PNG")).tolist() == colours
    transparent = encode(picture, "PNG", transparency=1)
    assert to_rgb(transparent).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    half = encode(picture, "PNG", transparency=bytes([255, 0, 128]))
    assert to_rgb(half)[0, :2].tolist() == [[10, 20, 30], [255, 255, 255]]
    assert np.abs(to_rgb(half)[0, 2] - np.array([162.1, 167.2, 172.2])).max() <= 1


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Composite by the definition, in float64."""
    alpha = rgba[..., 3:] / 255.0
    return rgba[..., :3] * alpha + 255.0 * (1 - alpha)


def test_alpha_is_laid_on_white() -> None:
    """Catches: alpha dropped (hidden colours appear), black below, premultiplied twice."""
    rgba = noise(9, 11, 4)
    rgba[0, :4] = [[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 128], [10, 20, 30, 1]]
    expected = over_white(rgba)
    for source in (Image.fromarray(rgba), encode(Image.fromarray(rgba), "PNG"), rgba):
        assert np.abs(to_rgb(source) - expected).max() <= 1
        assert to_rgb(source)[0, :2].tolist() == [[255, 255, 255], [255, 0, 0]]
    grey = Image.fromarray(rgba).convert("LA")
    levels = np.array(grey)  # (H, W, 2)
    expected = over_white(np.concatenate([levels[..., :1].repeat(3, axis=2), levels[..., 1:]], axis=2))
    assert np.abs(to_rgb(grey) - expected).max() <= 1
    assert np.abs(to_rgb(encode(grey, "PNG")) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBa", "La", "PA"])
def test_rare_modes_with_alpha(mode: str) -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, :3], rgba[0, :, 3] = 51, [255, 0, 102]
    picture = Image.fromarray(rgba)
    if mode == "PA":
        picture = picture.convert("L").convert("P")
        picture.putalpha(Image.fromarray(rgba[..., 3]))
    else:
        picture = picture.convert({"RGBa": "RGBA", "La": "LA"}[mode]).convert(mode)
    assert picture.mode == mode
    assert np.abs(to_rgb(picture)[0, :, 0] - np.array([51, 255, 173.4])).max() <= 2


@pytest.mark.parametrize(("mode", "transparency"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_one_transparent_colour(mode: str, transparency: object) -> None:
    picture = Image.fromarray(np.array([[7, 200]], dtype=np.uint8)).convert(mode)
    if mode == "1":
        picture = Image.fromarray(np.array([[False, True]]))
    data = encode(picture, "PNG", transparency=transparency)
    assert (to_rgb(data)[0, 0] == 255).all()
    assert (to_rgb(data)[0, 1] == (255 if mode == "1" else 200)).all()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_colour_spaces(mode: str) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    rgb = to_rgb(Image.fromarray(colours).convert(mode)).astype(int)
    assert np.abs(rgb - colours).max() <= 3
    if mode == "CMYK":
        jpeg = to_rgb(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).astype(int)
        assert np.abs(jpeg - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "pil"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    """Catches: orientation ignored, applied twice (TIFF), clockwise for anticlockwise."""
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :16, 0], upright[:8, 16:, 1], upright[8:, :16, 2] = 255, 255, 255
    stored = {  # as the camera wrote it
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # right when turned clockwise
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    quality = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    data = encode(picture, "PNG" if kind == "pil" else kind, exif=exif, **quality)
    rgb = to_rgb(Image.open(io.BytesIO(data)) if kind == "pil" else data)
    assert rgb.shape == upright.shape
    assert np.abs(rgb.astype(int) - upright).max() <= 8


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert to_rgb(encode(Image.fromarray(noise(3, 5, 3)), "PNG", exif=exif)).shape == (3, 5, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"xx"])
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert to_rgb(encode(Image.fromarray(noise(16, 24, 3)), "JPEG", exif=exif)).shape == (16, 24, 3)


def test_sixteen_bit_colour_is_read_as_eight() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">6H", 0, 0x8080, 0xFFFF, 0x0101, 0x0202, 0x0303)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert to_rgb(data).tolist() == [[[0, 128, 255], [1, 2, 3]]]


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_modes_without_a_range(mode: str) -> None:
    assert f"mode {mode}" in refusal(Image.new(mode, (4, 3)), "image-mode")
    assert mode in refusal(encode(Image.new(mode, (4, 3)), "TIFF"), "image-mode")


# Arrays


def test_array_shapes() -> None:
    grey = noise(4, 6)
    expected = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(to_rgb(grey), expected, strict=True)
    np.testing.assert_array_equal(to_rgb(grey[:, :, None]), expected, strict=True)
    for shape in ((1, 1, 3), (3, 20, 3), (3, 3, 3), (4, 9, 4), (1, 7), (7, 1)):
        assert to_rgb(noise(*shape)).shape == (*shape[:2], 3)  # always (H, W, C)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_are_scaled_and_truncated(dtype: object) -> None:
    """Catches: rounding instead of truncation, no float32 rounding before it, x256."""
    values = np.linspace(0, 1, 999).reshape(3, 111, 3).astype(dtype)
    expected = [int(np.float32(float(v) * 255)) for v in values.ravel()]
    assert to_rgb(values).ravel().tolist() == expected
    assert to_rgb(np.full((1, 1), 0.99999999))[0, 0, 0] == 255
    assert to_rgb(np.full((1, 1), 0.999))[0, 0, 0] == 254
    assert to_rgb(np.ones((1, 2), dtype))[0, 0, 0] == 255  # white, not the grey level 1


def test_float_alpha() -> None:
    rgba = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    assert np.abs(to_rgb(rgba) - over_white(rgba * 255)).max() <= 2.5


def test_strides_and_views_do_not_matter(tmp_path: Path) -> None:
    base = noise(20, 30, 3)
    mapped = np.memmap(tmp_path / "pixels", dtype=np.uint8, mode="w+", shape=(20, 30, 3))
    mapped[:] = base
    for view in (base[::-1, ::2, ::-1], np.asfortranarray(base), base.swapaxes(0, 1), mapped):
        np.testing.assert_array_equal(to_rgb(view), np.array(view), strict=True)
    constant = np.broadcast_to(np.uint8(9), (4, 5, 3))
    assert (to_rgb(constant) == 9).all()
    rgba = noise(6, 8, 4)
    np.testing.assert_array_equal(to_rgb(rgba[:, ::-2]), to_rgb(rgba[:, ::-2].copy()), strict=True)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 7, 3), (6, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_are_never_written_to_nor_shared(shape: tuple[int, ...], dtype: type) -> None:
    array = (noise(*shape) / (1 if dtype is np.uint8 else 255)).astype(dtype)
    before = array.copy()
    array.flags.writeable = False
    rgb = to_rgb(array)
    rgb[:] = 7
    np.testing.assert_array_equal(array, before, strict=True)


def test_pil_images_are_not_changed() -> None:
    picture = Image.fromarray(noise(6, 7, 4))
    before = picture.copy()
    to_rgb(picture)[:] = 0
    assert picture == before


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
            lambda hw: st.sampled_from([hw, (*hw, 1), (*hw, 3)]),
        ),
    )
)
def test_uint8_values_survive(array: np.ndarray) -> None:
    full = array if array.ndim == 3 else array[:, :, None]
    np.testing.assert_array_equal(to_rgb(array), np.broadcast_to(full, (*array.shape[:2], 3)), strict=True)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (2, 3), elements=st.floats(-2, 300)))
def test_floats_are_either_in_range_or_refused(array: np.ndarray) -> None:
    if array.min() >= 0 and array.max() <= 1:
        assert (np.abs(to_rgb(array)[..., 0] - array * 255) <= 1).all()
    else:
        refusal(array, "array-range")


REFUSED_ARRAYS = {
    "array-channel-first": [(np.zeros((3, 8, 9), np.uint8), "moveaxis"), (np.zeros((1, 8, 9)), "channel-first")],
    "array-batch": [(np.zeros((2, 8, 9, 3), np.uint8), "list of images")],
    "array-shape": [
        (np.zeros(9, np.uint8), "(9,)"),
        (np.zeros((), np.uint8), "()"),
        (np.zeros((8, 9, 2), np.uint8), "(8, 9, 2)"),
        (np.zeros((8, 9, 5), np.uint8), "(8, 9, 5)"),
    ],
    "image-no-pixels": [(np.zeros((0, 9, 3), np.uint8), "at least 1"), (np.zeros((9, 0)), "at least 1")],
    "array-dtype": [
        (np.zeros((4, 4), np.int64), "astype(np.uint8)"),
        (np.zeros((4, 4), np.uint16), "257"),
        (np.zeros((4, 4), bool), "* 255"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        (np.zeros((4, 4), object), "object"),
        (np.full((4, 4), "a"), "<U1"),
        (np.zeros((4, 4), np.longdouble), "float64"),
    ],
    "array-masked": [(np.ma.masked_equal(np.eye(3, dtype=np.uint8), 1), "filled")],
    "array-not-finite": [
        (np.array([[0.0, 1.0], [np.nan, np.inf]]), "2 values are not finite, the first is nan at index (1, 0)"),
        (np.array([[0.0, -np.inf]], np.float16), "(0, 1)"),
    ],
    "array-range": [
        (np.array([[0.0, 255.0]]), "found 0..255"),
        (np.array([[-0.5, 1.0]]), "found -0.5..1"),
        (np.array([[0.0, 1.0001]]), "divide them by 255"),
    ],
}


@pytest.mark.parametrize(
    ("code", "array", "words"), [(c, a, w) for c, cases in REFUSED_ARRAYS.items() for a, w in cases]
)
def test_refused_arrays(code: str, array: np.ndarray, words: str) -> None:
    assert words in refusal(array, code)


def test_array_with_too_many_pixels() -> None:
    refusal(np.broadcast_to(np.uint8(0), (20_000, 5_001)), "image-too-large")  # takes one byte


# Refused files, bytes and streams


def test_paths_that_are_not_pictures(tmp_path: Path) -> None:
    assert "nothing.png" in refusal(tmp_path / "nothing.png", "file-missing")
    assert "download" in refusal("https://example.org/cat.jpg", "file-missing")
    refusal("", "file-missing")
    refusal(tmp_path, "file-is-folder")
    refusal("a\0b.png", "file-unreadable")
    refusal("x" * 5000, "file-unreadable")
    refusal(tmp_path / "nothing.png" / "below", "file-missing")
    (tmp_path / "file").touch()
    refusal(tmp_path / "file" / "below", "file-unreadable")
    assert "0 bytes" in refusal(tmp_path / "file", "image-empty")


def test_a_path_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png(1, 1))

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", denied)  # root may read everything, so the mode bits would not do
    assert "Permission denied" in refusal(path, "file-unreadable")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_and_devices_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refusal(tmp_path / "pipe", "file-not-regular")
    refusal("/dev/null", "file-not-regular")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        refusal(tmp_path / "s", "file-not-regular")


LOOKALIKES = {
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "ZIP": b"PK\x03\x04\x14\x00",
    "gzip": b"\x1f\x8b\x08\x00",
    "HEIF": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00",
    "Photoshop": b"8BPS\x00\x01",
    "text": b"hello, this is no picture",
    "unknown binary data starting with 00 01 02 03": bytes(range(9)),
}


@pytest.mark.parametrize("word", LOOKALIKES)
def test_other_files_are_named_for_what_they_are(word: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(LOOKALIKES[word])
    for source in (path, LOOKALIKES[word], io.BytesIO(LOOKALIKES[word])):
        assert word in refusal(source, "image-unknown")


def test_saved_arrays_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "cat.npy", noise(4, 4, 3))
    message = refusal(tmp_path / "cat.npy", "image-unknown")
    assert "numpy.load" in message
    assert "cat.npy" in message


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("part", [3, 30, 0.3, 0.5, 0.9])
def test_truncated_pictures(kind: str, part: float) -> None:
    data = encode(Image.fromarray(noise(64, 64, 3)), kind)
    keep = part if isinstance(part, int) else int(part * len(data))
    if kind == "PNG" and keep == 3:
        return  # three bytes of a PNG are anything
    refusal(data[:keep], "image-truncated")
    refusal(io.BytesIO(data[:keep]), "image-truncated")


def test_truncated_pil_image(tmp_path: Path) -> None:
    """A picture that was opened by the caller is decoded here, and fails here."""
    path = tmp_path / "cut.png"
    data = encode(Image.fromarray(noise(64, 64, 3)), "PNG")
    path.write_bytes(data[: len(data) // 2])
    with Image.open(path) as picture:
        assert "cut.png" in refusal(picture, "image-truncated")


def test_closed_pil_image(photo_file: Path) -> None:
    picture = Image.open(photo_file)
    picture.close()
    refusal(picture, "image-corrupt")


def test_corrupt_pictures() -> None:
    data = bytearray(encode(Image.fromarray(noise(64, 64, 3)), "PNG"))
    data[20] ^= 1  # in the header, so that its checksum is wrong
    assert "PNG" in refusal(bytes(data), "image-corrupt")
    data[20] ^= 1
    middle = data.index(b"IDAT") + 200
    data[middle : middle + 50] = bytes(50)
    refusal(bytes(data), "image-corrupt")


def test_text_chunk_bomb() -> None:
    """Pillow raises a bare ValueError for these."""
    bomb = zlib.compress(bytes(20_000_000))
    body = b"zTXt" + b"k\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = png(2, 2)
    refusal(data[:33] + chunk + data[33:], "image-corrupt")


@pytest.mark.parametrize(("height", "width"), [(10_001, 10_000), (15_000, 15_000), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_pixel_limit_comes_before_decoding(height: int, width: int) -> None:
    assert "100,000,000" in refusal(png(height, width), "image-too-large")


def test_just_below_the_pixel_limit_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above 89 million pixels (twice that is an error); the warning must neither leak nor refuse."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(encode(Image.fromarray(noise(10, 10, 3)), "PNG")).shape == (10, 10, 3)
        refusal(encode(Image.fromarray(noise(10, 11, 3)), "PNG"), "image-too-large")
        refusal(encode(Image.fromarray(noise(20, 20, 3)), "PNG"), "image-too-large")
        refusal(Image.fromarray(noise(10, 11, 3)), "image-too-large")


def test_file_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.fromarray(noise(20, 20, 3)), "BMP")
    path = tmp_path / "large.bmp"
    path.write_bytes(data)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data))
    assert to_rgb(path).shape == (20, 20, 3)
    monkeypatch.setattr(images, "MAX_FILE_BYTES", len(data) - 1)
    for source in (path, data, io.BytesIO(data), unseekable(data)):
        refusal(source, "file-too-large")


def test_zero_size_pictures() -> None:
    refusal(Image.new("RGB", (0, 5)), "image-no-pixels")
    with pytest.raises(ImageError):
        to_rgb(png(0, 0))


def test_streams_that_are_not_binary(photo_file: Path) -> None:
    assert "'rb'" in refusal(io.StringIO("text"), "stream-text")
    closed = io.BytesIO(b"x")
    closed.close()
    assert "closed" in refusal(closed, "stream-unreadable")
    with (photo_file.parent / "out").open("wb") as writable:
        refusal(writable, "stream-unreadable")

    class Nothing:
        def read(self, size: int) -> None:
            return None

    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("the disk is gone")

    refusal(Nothing(), "stream-unreadable")
    assert "the disk is gone" in refusal(Broken(), "stream-unreadable")


def test_unsupported_types() -> None:
    class Tensor:
        __module__ = "torch"

    message = refusal(Tensor(), "image-type")
    assert "torch." in message
    assert "NumPy array" in message
    for thing in (None, 3, 2.5, [noise(3, 3, 3)], {"image": 1}, object()):
        refusal(thing, "image-type")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mutated_files_end_in_pixels_or_in_our_error(kind: str, data: st.DataObject) -> None:
    """Any byte changed: no foreign exception, no warning, no crash."""
    good = bytearray(encode(Image.fromarray(noise(12, 12, 3)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        rgb = to_rgb(bytes(good))
        assert rgb.dtype == np.uint8
        assert rgb.shape[2] == 3


def test_describe_names_the_source_only() -> None:
    assert describe("a/b.png") == "'a/b.png'"
    assert describe(Path("b.png")) == "'b.png'"
    assert describe(b"123") == "image data of 3 bytes"
    assert describe(Image.new("L", (4, 3))) == "PIL image (L, 4 x 3)"
    assert describe(np.zeros((2, 3))) == "array of shape (2, 3) and dtype float64"
    assert describe(3) == "object of type int"
    assert describe(io.BytesIO(b"12")) == "file object _io.BytesIO"


def test_too_little_memory_is_not_a_damaged_picture(monkeypatch) -> None:
    def exhaust(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "flatten", exhaust)
    with pytest.raises(ImageError, match="not enough memory") as caught:
        images.to_rgb(Image.new("RGB", (8, 8)))
    assert caught.value.code == "image-memory"
