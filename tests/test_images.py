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
from PIL import Image, ImageOps

from npmobilevit.errors import ConfigError, ImageError
from npmobilevit.image_processing import MobileViTImageProcessor
from npmobilevit.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    ReadOptions,
    check_finite,
    describe,
    flatten,
    pictures,
    raw_pixels,
    read_stream,
    scaling,
    to_rgb,
)

PHOTO = Path(__file__).parents[1] / "reference" / "images" / "chelsea.png"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(height: int, width: int, *, rows: bytes = bytes(16), bits: int = 1, colour: int = 0) -> bytes:
    """Write a PNG by hand, so that its header can promise more than its data hold."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(
    height: int, width: int, data: bytes, *, bits: int, photometric: int = 1, more: dict[int, int] | None = None
) -> bytes:
    """Write an uncompressed grey TIFF by hand, little-endian, of any depth and with white as 0 if asked."""
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        277: 1,
        278: height,
        279: len(data),
        **(more or {}),
    }
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4  # where the data start
    entries = [struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, tags[tag]) for tag in sorted(tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


def refusal(source: object, code: str, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        to_rgb(source, **options)
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


@pytest.mark.case("13", "PNG named .jpg", "read by its content")
@pytest.mark.case("40", "a stream that cannot seek", "read")
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


@pytest.mark.case("35-37", "animated GIF and WebP, TIFF of several pages", "the first frame")
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_of_several_frames(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (to_rgb(data) == [255, 0, 0]).all()


# Modes


@pytest.mark.case("32", "1-bit black and white", "0 and 255")
def test_grey_and_black_and_white() -> None:
    grey = noise(5, 7)
    expected = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(grey)), expected, strict=True)
    np.testing.assert_array_equal(to_rgb(encode(Image.fromarray(grey), "PNG")), expected, strict=True)
    bits = Image.fromarray(grey > 127)
    assert bits.mode == "1"
    np.testing.assert_array_equal(to_rgb(bits)[..., 0], np.where(grey > 127, 255, 0))


@pytest.mark.case("21-22", "palette pictures, with and without transparency", "colours; transparency laid on white")
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


@pytest.mark.case("23-24", "LA or RGBA with hidden colours", "laid on white")
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


@pytest.mark.case("29-30", "CMYK JPEG, YCbCr", "converted")
@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_colour_spaces(mode: str) -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], dtype=np.uint8)
    rgb = to_rgb(Image.fromarray(colours).convert(mode)).astype(int)
    assert np.abs(rgb - colours).max() <= 3
    if mode == "CMYK":
        jpeg = to_rgb(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")).astype(int)
        assert np.abs(jpeg - [255, 0, 0]).max() <= 3


@pytest.mark.case("33", "EXIF orientation 1 to 8", "turned upright once, sides swapped where they have to be")
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


@pytest.mark.case("34", "EXIF orientation 99", "ignored")
@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert to_rgb(encode(Image.fromarray(noise(3, 5, 3)), "PNG", exif=exif)).shape == (3, 5, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"xx"])
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    assert to_rgb(encode(Image.fromarray(noise(16, 24, 3)), "JPEG", exif=exif)).shape == (16, 24, 3)


@pytest.mark.case("26", "16-bit RGB or RGBA PNG", "the upper 8 bits")
def test_sixteen_bit_colour_is_read_as_eight() -> None:
    rgb = b"\0" + struct.pack(">6H", 0, 0x8080, 0xFFFF, 0x0101, 0x0202, 0x0303)
    assert to_rgb(png(1, 2, rows=rgb, bits=16, colour=2)).tolist() == [[[0, 128, 255], [1, 2, 3]]]
    rgba = b"\0" + struct.pack(">8H", 9, 9, 9, 0, 0, 0x8080, 0xFFFF, 0xFFFF)
    assert to_rgb(png(1, 2, rows=rgba, bits=16, colour=6)).tolist() == [[[255, 255, 255], [0, 128, 255]]]


@pytest.mark.case("31", "LAB", "converted")
def test_lab_by_its_definition() -> None:
    """L alone is grey; a and b turn red and blue. Catches: the bytes taken for RGB."""
    lab = Image.merge("LAB", [Image.new("L", (4, 3), level) for level in (138, 128, 128)])  # L = 54.1
    grey = to_rgb(lab)
    assert np.abs(grey.astype(int) - 129).max() <= 2
    red = to_rgb(Image.merge("LAB", [Image.new("L", (4, 3), level) for level in (138, 209, 198)]))[0, 0].astype(int)
    assert np.abs(red - [254, 0, 0]).max() <= 8  # L = 54.3, a = 81, b = 70 of D50
    np.testing.assert_array_equal(to_rgb(encode(lab, "TIFF")), grey, strict=True)


@pytest.mark.case("29-32", "an ICC profile", "ignored")
def test_profiles_are_ignored() -> None:
    picture = Image.fromarray(noise(5, 7, 3))
    profiled = encode(picture, "PNG", icc_profile=b"any profile at all")
    np.testing.assert_array_equal(to_rgb(profiled), np.array(picture), strict=True)


# Grey of more than 8 bits


def sixteen_bit(values: np.ndarray, mode: str = "I;16") -> Image.Image:
    picture = Image.frombytes("I;16", values.shape[::-1], values.astype("<u2").tobytes())
    if mode == "I;16B":
        return Image.fromarray(values.astype(">u2"))
    if mode == "I;16L":
        return Image.frombytes("I;16L", values.shape[::-1], values.astype("<u2").tobytes())
    return picture


@pytest.mark.case("25", "16-bit grey", "scaled over the full depth, never clipped")
@pytest.mark.parametrize("form", ["I;16", "I;16B", "I;16L", "PNG", "TIFF", "TIFF deflate"])
def test_sixteen_bit_grey_is_scaled_over_its_depth_and_rounded(form: str) -> None:
    """Catches: values clipped at 255, the high byte alone (v // 256), v // 257, bytes swapped."""
    values = np.arange(2**16, dtype=np.uint16).reshape(128, 512)
    source = sixteen_bit(values, form if form.startswith("I") else "I;16")
    if form.startswith("TIFF"):
        source = encode(source, "TIFF", **({"compression": "tiff_adobe_deflate"} if "deflate" in form else {}))
    elif form == "PNG":
        source = encode(source, "PNG")
    elif form != "I;16L":  # fromarray may give another name to the same bytes
        assert source.mode == form
    expected = ((values.astype(int) + 128) // 257).astype(np.uint8)
    np.testing.assert_array_equal(to_rgb(source), np.stack([expected] * 3, axis=-1), strict=True)


def test_transparent_value_of_a_sixteen_bit_png_is_background() -> None:
    data = encode(sixteen_bit(np.array([[0, 256, 257, 258, 65535]])), "PNG", transparency=257)
    assert to_rgb(data)[0, :, 0].tolist() == [0, 1, 255, 1, 255]
    assert to_rgb(data, background=(1, 2, 3))[0].tolist() == [[0] * 3, [1] * 3, [1, 2, 3], [1] * 3, [255] * 3]
    data = encode(sixteen_bit(np.array([[0, 40, 100, 65535]])), "PNG", transparency=65535)  # and out of the range
    assert to_rgb(data, value_range=(0, 100))[0, :, 0].tolist() == [0, 102, 255, 255]
    data = encode(sixteen_bit(np.array([[300, 300]])), "PNG", transparency=300)
    assert to_rgb(data, value_range=(0, 1), background="red")[0].tolist() == [[255, 0, 0]] * 2


@pytest.mark.case("25", "16-bit TIFF with white as 0", "inverted, as 8-bit ones are")
@pytest.mark.parametrize("compressed", [False, True])
def test_white_is_zero_is_undone(compressed: bool) -> None:
    """Pillow undoes it for 8 bits and not for 16."""
    values = np.array([[0, 257, 1000, 65535]])
    data = tiff(1, 4, values.astype("<u2").tobytes(), bits=16, photometric=0)
    if compressed:
        with Image.open(io.BytesIO(data)) as picture:
            data = encode(picture, "TIFF", compression="tiff_lzw", tiffinfo={262: 0})
            assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    assert to_rgb(data)[0, :, 0].tolist() == [255, 254, 251, 0]
    assert to_rgb(data, value_range=(0, 65535))[0, :, 0].tolist() == [0, 1, 4, 255]  # as stored
    assert to_rgb(tiff(1, 2, bytes([0, 200]), bits=8, photometric=0))[0, :, 0].tolist() == [255, 55]


@pytest.mark.case("25", "12-bit TIFF", "scaled over 0..4095")
def test_twelve_bits_are_scaled_over_twelve() -> None:
    packed = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in [(0, 4095), (2048, 257)])
    data = tiff(1, 4, packed, bits=12)
    assert to_rgb(data)[0, :, 0].tolist() == [0, 255, 128, 16]  # 2048 is 127.53, 257 is 16.003
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()  # nothing but its tags tells the depth now
        assert to_rgb(picture)[0, :, 0].tolist() == [0, 255, 128, 16]
    assert to_rgb(data, value_range=(0, 65535))[0, :, 0].tolist() == [0, 16, 8, 1]
    white_is_zero = tiff(1, 4, packed, bits=12, photometric=0)
    assert "kind of TIFF that Pillow cannot read" in refusal(white_is_zero, "image-corrupt")


def test_value_range_overrides_the_depth_of_sixteen_bits() -> None:
    picture = sixteen_bit(np.array([[0, 1000, 1023]]))
    assert to_rgb(picture, value_range=(0, 1023))[0, :, 0].tolist() == [0, 249, 255]
    message = refusal(picture, "array-range", value_range=(10, 1000))
    assert "value_range = (10, 1000), found 0..1023" in message
    assert to_rgb(sixteen_bit(np.array([[0, 9, 255]])), value_range=(0, 255))[0, :, 0].tolist() == [0, 9, 255]


@pytest.mark.case("27-28", "TIFF of int32 or float32", "ImageError unless value_range says what is black and white")
@pytest.mark.parametrize("form", ["pil", "TIFF"])
@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_need_one(mode: str, form: str) -> None:
    picture = Image.new(mode, (3, 1))
    for column, value in enumerate([-1000, 2, 1000]):
        picture.putpixel((column, 0), value)
    source = picture if form == "pil" else encode(picture, "TIFF")
    assert "value_range=(low, high)" in refusal(source, "image-mode")
    middle = 128 if mode == "I" else 127  # 127.755: integers are rounded, floats truncated
    assert to_rgb(source, value_range=(-1000, 1000))[0, :, 0].tolist() == [0, middle, 255]
    assert "found -1000..1000" in refusal(source, "array-range", value_range=(-1000, 999))
    assert "found -1000..1000" in refusal(source, "array-range", value_range=(-999, 1000))


@pytest.mark.case("28", "float TIFF with NaN or infinity", "ImageError with the first index")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_float_pictures_that_are_not_finite(value: float) -> None:
    pixels = np.zeros((3, 4), dtype=np.float32)
    pixels[1, 2] = value
    for source in (Image.fromarray(pixels), encode(Image.fromarray(pixels), "TIFF")):
        assert f"1 values are not finite, the first is {value} at index (1, 2)" in refusal(
            source, "array-not-finite", value_range=(0, 1)
        )


def test_signed_sixteen_bits_need_a_range() -> None:
    signed = {258: 16, 339: 2}
    data = encode(Image.new("I", (3, 2), -5), "TIFF", tiffinfo=signed)
    refusal(data, "image-mode")
    assert (to_rgb(data, value_range=(-5, 5)) == 0).all()


def test_value_range_does_not_apply_to_eight_bit_pictures(photo_file: Path) -> None:
    for source in (photo_file, Image.new("L", (3, 2)), Image.new("LA", (3, 2)), Image.new("P", (3, 2))):
        assert "Leave value_range out" in refusal(source, "option-unused", value_range=(0, 255))
    assert "photo.jpg" in refusal(photo_file, "option-unused", value_range=(0, 255))


def test_modes_that_pillow_has_and_we_have_not() -> None:
    picture = Image.new("L", (3, 2))
    picture._mode = "BGR;15"
    assert "convert('RGB')" in refusal(picture, "image-mode")


# Which frame


@pytest.mark.case("35-37", "a PIL image that was moved to another frame", "that frame")
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_a_pil_image_is_read_at_the_frame_it_stands_at(kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as picture:
        for frame in (1, 2, 0):
            picture.seek(frame)
            np.testing.assert_array_equal(to_rgb(picture), np.array(frames[frame]), strict=True)
            assert picture.tell() == frame


# Transparency on a colour


@pytest.mark.case("23-24", "LA or RGBA, with background=", "laid on that colour")
@pytest.mark.parametrize(
    ("background", "colour"),
    [
        ("white", [255, 255, 255]),
        ("black", [0, 0, 0]),
        ("RebeccaPurple", [102, 51, 153]),
        ("#10203f", [16, 32, 63]),
        ((1, 2, 3), [1, 2, 3]),
        ((np.uint8(1), np.int64(2), 3), [1, 2, 3]),
    ],
)
def test_transparency_is_laid_on_the_background(background: object, colour: list[int]) -> None:
    clear = np.array([[[9, 9, 9, 0], [200, 100, 50, 255], [200, 100, 50, 51]]], dtype=np.uint8)
    keyed = encode(Image.fromarray(np.array([[0, 9]], dtype=np.uint8)), "PNG", transparency=0)
    mixed = 0.2 * np.array([200, 100, 50]) + 0.8 * np.array(colour)
    for source in (clear, Image.fromarray(clear), encode(Image.fromarray(clear), "PNG"), clear / 255):
        rgb = to_rgb(source, background=background)
        assert rgb[0, :2].tolist() == [colour, [200, 100, 50]]
        assert np.abs(rgb[0, 2] - mixed).max() <= 1
    assert to_rgb(keyed, background=background).tolist() == [[colour, [9, 9, 9]]]
    assert to_rgb(Image.new("RGB", (1, 1), "red"), background=background).tolist() == [[[255, 0, 0]]]


def test_flatten_lays_on_white_unless_told() -> None:
    clear = Image.new("RGBA", (1, 1), (9, 9, 9, 0))
    assert flatten(clear).getpixel((0, 0)) == (255, 255, 255)
    assert flatten(clear, (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


# Options


WRONG_OPTIONS = {
    "background": [
        "no colour",
        "#ffff8",
        "#ffffff80",
        "rgb(300,0,0)",
        (1, 2),
        (1, 2, 3, 4),
        (1, 2, 256),
        (-1, 0, 0),
        (0.5, 0, 0),
        (True, 0, 0),
        None,
        7,
        "x" * 200,
    ],
    "value_range": [
        (1, 0),
        (1, 1),
        (0,),
        (0, 1, 2),
        5,
        "01",
        (0, np.nan),
        (-np.inf, 0),
        (0, 10**400),
        (False, True),
        (-1.5e308, 1.5e308),
        ("0", "1"),
        (0, 1j),
        np.array([0, 1]),
    ],
    "layout": ["hwc", "CHWN", "", 3, ("C", "H", "W"), np.array(["HWC", "CHW"])],
    "max_pixels": [0, -1, 1.5, True, None, "9", np.inf],
    "max_file_bytes": [0, -1, 1.5, True, None, "9", np.inf],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG_OPTIONS.items() for v in values])
def test_wrong_options_are_named(name: str, value: object) -> None:
    for source in (noise(3, 4, 3), "no such file.png"):  # whatever the picture
        with pytest.raises(ConfigError, match=rf"^(?s:{name} is .*it has to be .*\.)$") as caught:
            to_rgb(source, **{name: value})
        assert caught.value.code == "option"


def test_options_at_their_defaults_change_nothing(photo_file: Path) -> None:
    defaults = {"background": "white", "max_pixels": MAX_PIXELS, "max_file_bytes": MAX_FILE_BYTES}
    defaults |= {"value_range": None, "layout": None}
    assert set(defaults) == ReadOptions.__optional_keys__
    np.testing.assert_array_equal(to_rgb(photo_file, **defaults), to_rgb(photo_file), strict=True)


def test_numpy_numbers_are_numbers(photo_file: Path) -> None:
    options = {"max_pixels": np.int64(10**6), "max_file_bytes": np.uint32(10**6)}
    assert to_rgb(photo_file, **options).shape == (21, 34, 3)
    assert to_rgb(np.array([[5.0]]), value_range=[np.float32(0), np.int8(10)])[0, 0, 0] == 127


# Parts


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 3), (1, 23), (23, 1), (7, 11), (30, 4)])
def test_parts_cover_every_pixel_once(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "PART_PIXELS", 10)
    seen = np.zeros((height, width), dtype=int)
    for rows, columns in scaling.parts(height, width):
        seen[rows, columns] += 1
        assert 0 < (rows.stop - rows.start) * (columns.stop - columns.start) <= 10
        assert rows.stop <= height
        assert columns.stop <= width
    assert (seen == 1).all()


PART_SOURCES = {
    "RGB": lambda: Image.fromarray(noise(9, 13, 3)),
    "RGBA": lambda: Image.fromarray(noise(9, 13, 4)),
    "LA": lambda: Image.fromarray(noise(9, 13, 4)).convert("LA"),
    "CMYK": lambda: Image.fromarray(noise(9, 13, 4)).convert("RGB").convert("CMYK"),
    "LAB": lambda: Image.merge("LAB", [Image.fromarray(noise(9, 13, seed=i)) for i in range(3)]),
    "1": lambda: Image.fromarray(noise(9, 13) > 99),
    "palette": lambda: encode(Image.fromarray(noise(9, 13, 3)).quantize(9), "PNG", transparency=bytes(range(0, 99, 9))),
    "keyed": lambda: encode(Image.fromarray(noise(9, 13) // 99), "PNG", transparency=1),
    "sixteen bits": lambda: encode(sixteen_bit(noise(9, 13).astype(int) * 257), "PNG", transparency=257),
    "JPEG": lambda: encode(Image.fromarray(noise(9, 13, 3)), "JPEG"),
    "array": lambda: noise(9, 13, 4),
    "floats": lambda: noise(9, 13, 3) / 255,
    "channel first": lambda: np.asfortranarray(noise(9, 13, 3)),
}


@pytest.mark.parametrize("name", PART_SOURCES)
def test_the_result_does_not_depend_on_the_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: transparency or palettes lost by the cut, parts put into the wrong place."""
    make = PART_SOURCES[name]
    whole = to_rgb(make())
    for size in (1, 10, 26, 30):
        monkeypatch.setattr(scaling, "PART_PIXELS", size)
        np.testing.assert_array_equal(to_rgb(make()), whole, strict=True)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_every_pixel(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own way to turn a picture, pixel by pixel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(noise(5, 7, 3)), "PNG", exif=exif)
    monkeypatch.setattr(scaling, "PART_PIXELS", 3)
    with Image.open(io.BytesIO(data)) as picture:
        expected = np.array(ImageOps.exif_transpose(picture))
    rgb = to_rgb(data)
    np.testing.assert_array_equal(rgb, expected, strict=True)
    assert rgb.flags.c_contiguous
    deep = encode(sixteen_bit(noise(5, 7).astype(int) * 257), "PNG", exif=exif)
    with Image.open(io.BytesIO(deep)) as picture:
        expected = np.array(ImageOps.exif_transpose(picture)) // 257
    np.testing.assert_array_equal(to_rgb(deep)[..., 0], expected)


# Arrays


@pytest.mark.case("45-47", "(H, W), (H, W, 1), (H, W, 3)", "read")
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


@pytest.mark.case("47", "(H, W, 4)", "laid on white")
def test_float_alpha() -> None:
    rgba = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    assert np.abs(to_rgb(rgba) - over_white(rgba * 255)).max() <= 2.5


@pytest.mark.case("51", "negative strides, Fortran order, broadcast, memmap", "read as any array")
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


@pytest.mark.case("51", "a read-only array", "read, never written to")
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


@pytest.mark.case("41", "floats in 0..255 or otherwise beyond 0..1", "ImageError naming value_range; floats mean 0..1")
@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (2, 3), elements=st.floats(-2, 300)))
def test_floats_are_either_in_range_or_refused(array: np.ndarray) -> None:
    if array.min() >= 0 and array.max() <= 1:
        assert (np.abs(to_rgb(array)[..., 0] - array * 255) <= 1).all()
    else:
        refusal(array, "array-range")


@pytest.mark.case("52", "integers of any width in 0..255", "read by value")
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", ">i2", ">u2", "i4", ">u4", "i8", ">i8", "u8"])
def test_integers_of_any_width_are_taken_by_value(dtype: str) -> None:
    values = np.arange(128 if dtype == "i1" else 256).reshape(2, -1)
    for shape in (values, values[:, :, None], values.reshape(-1, 4, 1).repeat(3, axis=2)):
        np.testing.assert_array_equal(to_rgb(shape.astype(dtype)), to_rgb(shape.astype(np.uint8)), strict=True)
    rgba = noise(4, 5, 4) // 2
    np.testing.assert_array_equal(to_rgb(rgba.astype(dtype)), to_rgb(rgba), strict=True)


@pytest.mark.case("54", "big-endian numbers", "read")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["i2", "u2", "i4", "u8", "f2", "f4", "f8"])
def test_byte_order_does_not_matter(order: str, kind: str) -> None:
    values = np.array([[0, 1, 100], [200, 255, 3]])
    array = (values if kind[0] in "iu" else values / 255).astype(order + kind)
    np.testing.assert_array_equal(to_rgb(array), to_rgb(array.astype(kind)), strict=True)
    scaled = {"value_range": (-1000, 1000)}
    np.testing.assert_array_equal(to_rgb(array, **scaled), to_rgb(array.astype(kind), **scaled), strict=True)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-(2**31), 2**31 - 2).flatmap(
        lambda low: st.integers(low + 1, 2**31 - 1).flatmap(
            lambda high: st.tuples(st.just(low), st.just(high), st.lists(st.integers(low, high), min_size=1))
        )
    )
)
def test_integers_in_a_range_are_rounded_to_nearest(case: tuple[int, int, list[int]]) -> None:
    """In whole numbers, so that no rounding error can hide."""
    low, high, values = case
    span = high - low
    for dtype in ("i4", "i8"):
        levels = to_rgb(np.array([values], dtype=dtype), value_range=(low, high))[0, :, 0]
        for value, level in zip(values, levels.tolist(), strict=True):
            assert abs(2 * (255 * (value - low) - level * span)) <= span
    assert to_rgb(np.array([[low, high]]), value_range=(low, high))[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_arrays_and_pictures_are_scaled_alike() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    expected = to_rgb(sixteen_bit(values))
    for array in (values, values.astype(">u2"), values.astype(int)):
        np.testing.assert_array_equal(to_rgb(array, value_range=(0, 65535)), expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
def test_the_range_zero_to_one_is_the_default_of_floats(dtype: object) -> None:
    values = np.random.default_rng(0).random((40, 50, 3)).astype(dtype)
    np.testing.assert_array_equal(to_rgb(values, value_range=(0, 1)), to_rgb(values), strict=True)
    assert to_rgb(np.array([[0, 1]]), value_range=(0, 1))[0, :, 0].tolist() == [0, 255]  # of integers it is not


@pytest.mark.case("41", "floats with value_range=(0, 255)", "the same pixels as the integers")
def test_floats_in_a_range_are_truncated() -> None:
    whole = np.arange(256.0).reshape(16, 16)
    np.testing.assert_array_equal(to_rgb(whole, value_range=(0, 255)), to_rgb(whole.astype(int)), strict=True)
    np.testing.assert_array_equal(to_rgb(whole + 0.9, value_range=(0, 256))[0, 1:3, 0], [1, 2])
    assert to_rgb(np.array([[-1.0, 0.0, 1.0]]), value_range=(-1, 1))[0, :, 0].tolist() == [0, 127, 255]
    assert to_rgb(np.float32([[0, 0.1]]), value_range=(0, 0.1))[0, :, 0].tolist() == [0, 255]  # 0.1 as float32 is more
    assert to_rgb(np.float16([[-0.1, 60000]]), value_range=(-0.1, 1e9))[0, :, 0].tolist() == [0, 0]


def test_a_range_applies_to_alpha_too() -> None:
    array = np.array([[[100, 50, 0, 0], [100, 50, 0, 100]]])
    assert to_rgb(array, value_range=(0, 100)).tolist() == [[[255, 255, 255], [255, 128, 0]]]


def test_values_outside_a_stated_range_are_refused() -> None:
    assert "value_range = (0, 100), found 0..101" in refusal(np.array([[0, 101]]), "array-range", value_range=(0, 100))
    assert "found -0.5..1" in refusal(np.array([[-0.5, 1]]), "array-range", value_range=(0, 1))
    assert "found 9..9" in refusal(np.full((2, 2), 9, np.uint8), "array-range", value_range=(0, 8))
    assert "(low, high)" in refusal(np.array([[-7, 999]]), "array-range", value_range=(0, 8))  # no usual range fits
    refusal(np.array([[2**63 - 1]]), "array-range", value_range=(0, 2**62))
    refusal(np.array([[0.1]]), "array-range", value_range=(0, np.nextafter(0.1, 0)))


@pytest.mark.case("43", "(C, H, W) with layout='CHW'", "read")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_first_when_told(channels: int, dtype: type) -> None:
    array = noise(7, 9, channels).astype(dtype) / (1 if dtype is np.uint8 else 255)
    array = array.astype(dtype)
    first = np.moveaxis(array, -1, 0)
    for view in (first, first.copy()):
        np.testing.assert_array_equal(to_rgb(view, layout="CHW"), to_rgb(array), strict=True)
    np.testing.assert_array_equal(to_rgb(array, layout="HWC"), to_rgb(array), strict=True)
    assert "layout='CHW'" in refusal(first, "array-channel-first", layout="HWC")
    assert "leave layout out" in refusal(array, "array-shape", layout="CHW")


@pytest.mark.case("44", "(3, 300, 3) or (3, 3, 3)", "(H, W, C) unless layout='CHW'")
def test_ambiguous_shapes_are_channels_last_unless_told() -> None:
    """Catches: the layout guessed from the shape."""
    wide = noise(3, 300, 3)
    np.testing.assert_array_equal(to_rgb(wide), wide, strict=True)
    np.testing.assert_array_equal(to_rgb(wide, layout="CHW"), wide.transpose(1, 2, 0), strict=True)
    small = noise(3, 3, 3)
    np.testing.assert_array_equal(to_rgb(small), small, strict=True)
    np.testing.assert_array_equal(to_rgb(small, layout="CHW"), small.transpose(1, 2, 0), strict=True)


def test_layout_means_nothing_with_two_dimensions() -> None:
    for grey in (noise(5, 7), noise(3, 3), noise(3, 7)):
        np.testing.assert_array_equal(to_rgb(grey, layout="CHW"), to_rgb(grey), strict=True)


def test_layout_does_not_apply_to_pictures(photo_file: Path) -> None:
    for source in (photo_file, photo_file.read_bytes(), Image.new("RGB", (3, 3))):
        for layout in ("HWC", "CHW"):
            assert "Leave layout out" in refusal(source, "option-unused", layout=layout)


REFUSED_ARRAYS = {
    "array-channel-first": [
        (np.zeros((3, 8, 9), np.uint8), "Pass layout='CHW'"),
        (np.zeros((3, 8, 9), np.uint8), "moveaxis"),
        (np.zeros((1, 8, 9)), "channel-first"),
    ],
    "array-batch": [(np.zeros((2, 8, 9, 3), np.uint8), "list of images")],
    "array-shape": [
        (np.zeros(9, np.uint8), "(9,)"),
        (np.zeros((), np.uint8), "()"),
        (np.zeros((8, 9, 2), np.uint8), "(8, 9, 2)"),
        (np.zeros((8, 9, 5), np.uint8), "(8, 9, 5)"),
    ],
    "image-no-pixels": [(np.zeros((0, 9, 3), np.uint8), "at least 1"), (np.zeros((9, 0)), "at least 1")],
    "array-dtype": [
        (np.zeros((4, 4), bool), "* 255"),
        (np.zeros((4, 4), np.complex64), "complex64"),
        (np.zeros((4, 4), object), "object"),
        (np.full((4, 4), "a"), "<U1"),
        (np.zeros((4, 4), np.longdouble), "float64"),
        (np.zeros((4, 4), "m8[s]"), "timedelta64"),
        (np.zeros((4, 4), [("r", "u1")]), "[('r', 'u1')]"),
    ],
    "array-masked": [(np.ma.masked_equal(np.eye(3, dtype=np.uint8), 1), "filled")],
    "array-not-finite": [
        (np.array([[0.0, 1.0], [np.nan, np.inf]]), "2 values are not finite, the first is nan at index (1, 0)"),
        (np.array([[0.0, -np.inf]], np.float16), "(0, 1)"),
    ],
    "array-range": [
        (np.array([[0.0, 255.0]]), "found 0..255. Pass value_range=(0, 255)"),
        (np.array([[-0.5, 1.0]]), "found -0.5..1. Pass value_range=(-1, 1)"),
        (np.array([[0.0, 1.0001]]), "found 0..1.0001"),
        (np.array([[-5, 300]]), "found -5..300. Pass value_range=(low, high)"),
        (np.array([[300]]), "found 300..300. Pass value_range=(0, 65535)"),
        (np.array([[256]], np.uint16), "within 0..255 for integers"),
        (np.array([[-1]], np.int8), "found -1..-1"),
        (np.array([[2**64 - 1]], np.uint64), "found 18446744073709551615"),
    ],
}


@pytest.mark.case("42", "NaN or infinity in an array", "ImageError with the first index")
@pytest.mark.case("43", "(C, H, W)", "ImageError: pass layout='CHW'")
@pytest.mark.case("47", "(H, W, 2) or (H, W, 5)", "ImageError naming the shape")
@pytest.mark.case("48", "one dimension", "ImageError naming the shape")
@pytest.mark.case("49", "a batch in one array", "ImageError: pass a list of images")
@pytest.mark.case("50", "no pixels", "ImageError")
@pytest.mark.case("52", "bool, complex, object, str", "ImageError naming the dtype and what to do")
@pytest.mark.case("53", "integers such as -5 or 300", "ImageError naming the range found and value_range")
@pytest.mark.case("55", "a masked array", "ImageError: pass array.filled(value)")
@pytest.mark.parametrize(
    ("code", "array", "words"), [(c, a, w) for c, cases in REFUSED_ARRAYS.items() for a, w in cases]
)
def test_refused_arrays(code: str, array: np.ndarray, words: str) -> None:
    assert words in refusal(array, code)


def test_advice_of_a_refusal_is_good_advice() -> None:
    to_rgb(np.array([[0.0, 255.0]]), value_range=(0, 255))
    to_rgb(np.zeros((3, 8, 9), np.uint8), layout="CHW")
    to_rgb(np.zeros((20, 20), np.uint8), max_pixels=400)


def test_signalling_nan_is_refused_without_a_warning() -> None:
    array = np.array([[0x7F800001]], dtype=np.uint32).view(np.float32)
    refusal(array, "array-not-finite")


def test_check_finite_looks_at_floats_only() -> None:
    for dtype in (np.uint8, np.int64, bool):
        check_finite(np.ones((2, 2), dtype), "x")
    check_finite(np.ones((2, 0)), "x")
    with pytest.raises(ImageError, match=r"x: 1 values are not finite, the first is inf at index \(1,\)"):
        check_finite(np.array([0, np.inf]), "x")


@pytest.mark.case("56", "an array of 30000 x 30000", "ImageError naming max_pixels")
def test_array_with_too_many_pixels() -> None:
    huge = np.broadcast_to(np.uint8(0), (30_000, 30_000))  # takes one byte
    assert "30000 x 30000 (height x width) is more than the limit max_pixels = 100,000,000" in refusal(
        huge, "image-too-large"
    )
    assert "raise max_pixels" in refusal(noise(3, 4, 3), "image-too-large", max_pixels=11)
    assert to_rgb(noise(3, 4, 3), max_pixels=12).shape == (3, 4, 3)


# Refused files, bytes and streams


@pytest.mark.case("6", "an empty file", "ImageError: 0 bytes")
@pytest.mark.case("38", "a folder, a missing file, a path without meaning", "ImageError naming the path and the cause")
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


@pytest.mark.case("38", "a file that may not be read", "ImageError naming the cause")
def test_a_path_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(png(1, 1))

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", denied)  # root may read everything, so the mode bits would not do
    assert "Permission denied" in refusal(path, "file-unreadable")


@pytest.mark.case("38", "a pipe, a socket, /dev/null", "ImageError at once")
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


@pytest.mark.case("8-10", "HTML, SVG or PDF named .jpg", "ImageError that says what it looks like and what to do")
@pytest.mark.case("12", "a Git LFS pointer named .jpg", "ImageError: run git lfs pull")
@pytest.mark.parametrize("word", LOOKALIKES)
def test_other_files_are_named_for_what_they_are(word: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(LOOKALIKES[word])
    for source in (path, LOOKALIKES[word], io.BytesIO(LOOKALIKES[word])):
        assert word in refusal(source, "image-unknown")


@pytest.mark.case("11", "a .npy file", "ImageError: pass numpy.load(path)")
def test_saved_arrays_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "cat.npy", noise(4, 4, 3))
    message = refusal(tmp_path / "cat.npy", "image-unknown")
    assert "numpy.load" in message
    assert "cat.npy" in message


@pytest.mark.case("1-3", "JPEG or PNG cut off in the middle or after 30 bytes", "ImageError: truncated")
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


@pytest.mark.case("40", "a PIL image that was closed", "ImageError")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP"])  # WebP is read when it is opened
@pytest.mark.parametrize("by", ["path", "stream"])
def test_closed_pil_image(kind: str, by: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encode(Image.fromarray(noise(21, 34, 3)), kind))
    stream = io.BytesIO(path.read_bytes())
    with Image.open(path if by == "path" else stream) as picture:
        pass
    stream.close()
    assert "load()" in refusal(picture, "image-closed")


@pytest.mark.case("7", "the first three bytes of a picture", "ImageError that names no memory address")
def test_three_bytes_of_a_picture() -> None:
    for start, code in [(b"\xff\xd8\xff", "image-truncated"), (b"GIF", "image-unknown"), (b"BM1", "image-corrupt")]:
        assert "at 0x" not in refusal(start, code)


@pytest.mark.case("40", "a damaged TIFF about which libtiff writes to stderr", "ImageError; libtiff's line stays")
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_damaged_tiff_ends_in_our_error_whatever_libtiff_writes(compression: str, capfd: pytest.CaptureFixture) -> None:
    data = bytearray(encode(Image.fromarray(noise(40, 40, 3)), "TIFF", compression=compression))
    data[1000:1100] = b"\xff" * 100
    refusal(bytes(data), "image-corrupt")
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.case("14", "EPS, for which Pillow starts Ghostscript", "ImageError; only six formats are opened")
def test_eps_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript for it."""
    eps = encode(Image.new("RGB", (4, 4)), "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    assert "PostScript" in refusal(eps, "image-unknown")


@pytest.mark.case("4-5", "PNG with damaged pixel data, or a wrong checksum of its header", "ImageError: damaged")
def test_corrupt_pictures() -> None:
    data = bytearray(encode(Image.fromarray(noise(64, 64, 3)), "PNG"))
    data[20] ^= 1  # in the header, so that its checksum is wrong
    assert "PNG" in refusal(bytes(data), "image-corrupt")
    data[20] ^= 1
    middle = data.index(b"IDAT") + 200
    data[middle : middle + 50] = bytes(50)
    refusal(bytes(data), "image-corrupt")


def test_a_palette_picture_without_a_palette_is_damaged() -> None:
    """Catches: shown in black."""
    assert "no palette" in refusal(png(2, 2, rows=bytes(6), bits=8, colour=3), "image-corrupt")


@pytest.mark.case("17", "PNG text that unpacks to many megabytes", "ImageError")
def test_text_chunk_bomb() -> None:
    """Pillow raises a bare ValueError for these."""
    bomb = zlib.compress(bytes(20_000_000))
    text = chunk(b"zTXt", b"k\0\0" + bomb)
    data = png(2, 2)
    refusal(data[:33] + text + data[33:], "image-corrupt")


@pytest.mark.case("15", "headers that promise 225 million, or 2^31 - 1, pixels", "ImageError naming the limit")
@pytest.mark.case("16", "100 million pixels and a few", "ImageError naming max_pixels, nothing decoded")
@pytest.mark.parametrize(("height", "width"), [(10_001, 10_000), (15_000, 15_000), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_pixel_limit_comes_before_decoding(height: int, width: int) -> None:
    assert "100,000,000" in refusal(png(height, width), "image-too-large")


def test_just_below_the_pixel_limit_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above 89 million pixels (twice that is an error); the warning must neither leak nor refuse."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(encode(Image.fromarray(noise(10, 10, 3)), "PNG"), max_pixels=100).shape == (10, 10, 3)
        refusal(encode(Image.fromarray(noise(10, 11, 3)), "PNG"), "image-too-large", max_pixels=100)
        assert "max_pixels = 100. " in refusal(
            encode(Image.fromarray(noise(20, 20, 3)), "PNG"), "image-too-large", max_pixels=100
        )
        refusal(Image.fromarray(noise(10, 11, 3)), "image-too-large", max_pixels=100)


def test_the_limit_of_pillow_is_named_where_it_is_the_lower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    data = encode(Image.fromarray(noise(20, 20, 3)), "PNG")
    message = refusal(data, "image-too-large", max_pixels=400)
    assert "2 * PIL.Image.MAX_IMAGE_PIXELS = 160" in message
    assert "raise PIL.Image.MAX_IMAGE_PIXELS" in message
    assert Image.MAX_IMAGE_PIXELS == 80
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # as the message says
    assert to_rgb(data, max_pixels=400).shape == (20, 20, 3)


def test_file_size_limit(tmp_path: Path) -> None:
    data = encode(Image.fromarray(noise(20, 20, 3)), "BMP")
    path = tmp_path / "large.bmp"
    path.write_bytes(data)
    assert to_rgb(path, max_file_bytes=len(data)).shape == (20, 20, 3)
    for source in (path, data, io.BytesIO(data), unseekable(data)):
        message = refusal(source, "file-too-large", max_file_bytes=len(data) - 1)
        assert f"max_file_bytes = {len(data) - 1:,}" in message


def test_read_stream_gives_the_bytes_from_where_it_stands() -> None:
    data = noise(3_000_000).tobytes()
    stream = io.BytesIO(data)
    stream.seek(5)
    assert read_stream(stream) == data[5:]
    assert read_stream(unseekable(data[:1000])) == data[:1000]
    assert read_stream(io.BytesIO(data), max_file_bytes=len(data)) == data


def test_read_stream_refuses_what_is_empty_long_or_no_stream() -> None:
    for stream, limit, code in [
        (io.BytesIO(), 9, "image-empty"),
        (io.BytesIO(b"123"), 2, "file-too-large"),
        (io.StringIO("12"), 9, "stream-text"),
        (object(), 9, "stream-unreadable"),
    ]:
        with pytest.raises(ImageError) as caught:
            read_stream(stream, max_file_bytes=limit)
        assert caught.value.code == code
    with pytest.raises(ConfigError) as wrong:
        read_stream(io.BytesIO(b"123"), max_file_bytes=0)
    assert wrong.value.code == "option"


def test_no_more_of_a_stream_is_read_than_the_limit() -> None:
    class Endless:
        asked = 0

        def read(self, size: int) -> bytes:
            self.asked += size
            return bytes(size)

    stream = Endless()
    refusal(stream, "file-too-large", max_file_bytes=3_000_000)
    assert stream.asked == 3_000_001


@pytest.mark.case("19", "one pixel", "read")
def test_one_pixel_is_a_picture() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"):
        assert to_rgb(Image.new(mode, (1, 1))).shape == (1, 1, 3)
    assert to_rgb(png(1, 1)).tolist() == [[[0, 0, 0]]]


@pytest.mark.case("18", "PNG of 0 x 0", "ImageError")
def test_zero_size_pictures() -> None:
    refusal(Image.new("RGB", (0, 5)), "image-no-pixels")
    with pytest.raises(ImageError):
        to_rgb(png(0, 0))


@pytest.mark.case("40", "a closed, failing, text or write-only stream", "ImageError that says how to open it")
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


@pytest.mark.case("56", "a tensor of a framework, an object whose __array__ fails", "ImageError: pass a NumPy array")
def test_unsupported_types() -> None:
    class Tensor:
        __module__ = "torch"

    message = refusal(Tensor(), "image-type")
    assert "torch." in message
    assert "NumPy array" in message

    class Unwilling:
        def __array__(self, *arguments: object, **options: object) -> np.ndarray:
            raise TypeError("cannot convert a device tensor; use tensor.cpu()")

    for thing in (None, 3, 2.5, [noise(3, 3, 3)], {"image": 1}, object(), Unwilling()):
        refusal(thing, "image-type")


@pytest.mark.case("39", "any bytes changed, all formats", "pixels or ImageError")
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

    monkeypatch.setattr(pictures, "flatten", exhaust)
    assert "not enough memory" in refusal(Image.new("RGB", (8, 8)), "image-memory")


def test_raw_pixels_are_the_stored_ones() -> None:
    np.testing.assert_array_equal(raw_pixels(Image.fromarray(noise(4, 5))), noise(4, 5), strict=True)
    values = np.array([[-5, 70000]], dtype=np.int32)
    np.testing.assert_array_equal(raw_pixels(Image.fromarray(values)), values, strict=True)


def test_a_picture_that_we_opened_is_closed(photo_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels would else live on in the traceback of an error that somebody keeps."""
    opened = []
    original = Image.open

    def remember(*arguments: object, **options: object) -> Image.Image:
        opened.append(original(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(Image, "open", remember)
    to_rgb(photo_file)
    refusal(photo_file, "option-unused", value_range=(0, 1))
    assert len(opened) == 2
    for picture in opened:
        with pytest.raises(ValueError, match="closed"):
            picture.getpixel((0, 0))


def test_a_picture_that_the_caller_opened_stays_open(photo_file: Path) -> None:
    with Image.open(photo_file) as picture:
        to_rgb(picture)
        assert picture.getpixel((0, 0)) == tuple(noise(21, 34, 3)[0, 0])


# What becomes of them in the processor


@pytest.mark.case(
    "20",
    "1 x 50000 pixels, which a resize would blow up",
    "ImageError naming the aspect ratio",
)
def test_a_picture_one_pixel_wide_is_refused_before_it_is_resized() -> None:
    """Its shortest side made 256 long, it would have 3.3 thousand million pixels."""
    rows = b"\0\0" * 50_000
    for data in (png(50_000, 1, rows=rows), png(1, 50_000, rows=bytes(1 + 50_000 // 8))):
        assert max(to_rgb(data).shape) == 50_000
        with pytest.raises(ImageError, match="aspect ratio is 50000: crop it") as caught:
            MobileViTImageProcessor().preprocess(data)
        assert caught.value.code == "resized-too-large"


@pytest.mark.case("49", "a list of pictures", "one result for each")
@pytest.mark.case("56", "a list of pictures of mixed sizes", "one result for each; ImageError for a bad one")
def test_pictures_of_a_list_may_differ_in_size() -> None:
    mixed = [noise(30, 40, 3), Image.new("L", (50, 20)), encode(Image.new("RGB", (9, 9)), "PNG")]
    assert MobileViTImageProcessor().preprocess(mixed)["pixel_values"].shape == (3, 3, 256, 256)
    with pytest.raises(ImageError):
        MobileViTImageProcessor().preprocess([*mixed, b"no picture"])


def test_an_empty_stdin_gives_advice_for_the_command_line() -> None:
    stream = io.BytesIO()
    stream.name = "<stdin>"
    assert describe(stream) == "stdin"
    message = refusal(stream, "image-empty")
    assert "command before the pipe" in message
    assert "seek" not in message


def test_what_can_become_an_image_is_told_how() -> None:
    class Tensor:
        def __array__(self) -> np.ndarray:
            raise TypeError("on a device")

    assert "numpy()" in refusal(Tensor(), "image-type")
    assert "list(generator)" in refusal((noise(3, 3, 3) for _ in range(2)), "image-type")


@pytest.mark.parametrize("part", [14, 0.3, 0.5, -5])
@pytest.mark.parametrize("lossless", [True, False])
def test_truncated_webp(part: float, lossless: bool) -> None:
    data = encode(Image.fromarray(noise(64, 64, 3)), "WEBP", lossless=lossless)
    refusal(data[: part if isinstance(part, int) else int(part * len(data))], "image-truncated")


def test_unsigned_integers_of_32_bits_do_not_wrap() -> None:
    """Pillow reads them as signed."""
    data = np.array([0, 2**31, 2**32 - 1], "<u4").tobytes()
    unsigned, signed = (tiff(1, 3, data, bits=32, more={339: form}) for form in (1, 2))
    assert to_rgb(unsigned, value_range=(0, 2**32 - 1))[0, :, 0].tolist() == [0, 128, 255]
    assert "-2147483648" in refusal(signed, "array-range", value_range=(0, 2**32 - 1))
