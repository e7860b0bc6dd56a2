"""Feed damaged pictures to `to_rgb` and see that each ends in pixels or in an ImageError, and nothing else.

    python tools/fuzz_images.py --count 100000

Sixteen pictures of all formats and modes are made in memory, and mutated: bytes flipped, spans cut, doubled or
taken from another picture, header numbers set to extremes, PNG chunks dropped, doubled or resealed with right
checksums. Case number `index` depends on `--seed` and `index` alone (and on the version of Pillow that makes the
pictures). Exit status 1 if any case ended in a foreign exception, a crash, a hang or a warning; the
bytes of these cases are written to `--output`. Linux only.
"""

from __future__ import annotations

import importlib
import io
import random
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
from fuzzing import Seed
from PIL import Image

from npmobilevit.errors import ImageError

READER = "npmobilevit.images:to_rgb"
LIMITS = {"max_pixels": 10_000_000, "max_file_bytes": 2**20}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


# good pictures


def seed_pictures() -> list[Seed]:
    """Make sixteen small pictures of all formats and most ways of storing pixels."""
    levels = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    smooth = np.add.outer(np.arange(24) * 5, np.arange(20) * 6).astype(np.uint8)
    rgb = Image.fromarray(np.stack([smooth, smooth.T.reshape(24, 20), 255 - smooth], axis=-1))
    grey, rgba = Image.fromarray(smooth), Image.fromarray(levels)
    deep = Image.fromarray(smooth.astype(np.uint16) * 257)
    real = Image.fromarray(smooth.astype(np.float32))
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    return [
        Seed("JPEG with EXIF", encoded(rgb, "JPEG", exif=exif)),
        Seed("JPEG progressive", encoded(rgb, "JPEG", progressive=True)),
        Seed("JPEG grey", encoded(grey, "JPEG")),
        Seed("JPEG CMYK", encoded(rgb.convert("CMYK"), "JPEG")),
        Seed("PNG RGBA", encoded(rgba, "PNG", dpi=(72, 72))),
        Seed("PNG palette, transparent", encoded(rgb.quantize(16), "PNG", transparency=3)),
        Seed("PNG 16-bit grey", encoded(deep, "PNG", transparency=257)),
        Seed("PNG 1-bit interlaced", interlaced_png()),
        Seed("WebP lossy, animated", encoded(rgb, "WEBP", exif=exif, **frames)),
        Seed("WebP lossless", encoded(rgba, "WEBP", lossless=True)),
        Seed("GIF animated", encoded(rgb.quantize(32), "GIF", **frames)),
        Seed("BMP", encoded(rgb, "BMP")),
        Seed("TIFF LZW, pages", encoded(rgb, "TIFF", compression="tiff_lzw", exif=exif, **frames)),
        Seed("TIFF 16-bit deflate", encoded(deep, "TIFF", compression="tiff_adobe_deflate")),
        Seed("TIFF RGB raw", encoded(rgb, "TIFF")),
        Seed("TIFF float", encoded(real, "TIFF"), {"value_range": (0, 255)}),
    ]


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def interlaced_png() -> bytes:
    """A picture of 8 x 8 bits in Adam7 order, which Pillow does not write."""
    rows = b"".join(b"\0" + b"\xa5" for _ in range(15))  # 7 passes: 1 + 1 + 1 + 2 + 2 + 4 + 4 rows of up to 8 bits
    header = struct.pack(">IIBBBBB", 8, 8, 1, 0, 0, 0, 1)
    return joined_png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


# mutations


def mutated(index: int, seed: int, seeds: list[Seed]) -> tuple[Seed, bytes]:
    """Return case number `index`: the good picture and what became of it."""
    rng = random.Random(f"{seed}:{index}")
    source = rng.choice(seeds)
    data = source.data
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(MUTATIONS)(data, rng, seeds)
    if data.startswith(PNG_SIGNATURE) and rng.random() < 0.5:
        data = joined_png(png_chunks(data))  # else most mutations end at the checksum
    return source, data


def shuffle_chunks(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Drop, double or move a chunk of a PNG; other pictures lose a span."""
    chunks = png_chunks(data) if data.startswith(PNG_SIGNATURE) else []
    if not chunks:
        return fuzzing.delete_span(data, rng, seeds)
    chunk = chunks.pop(rng.randrange(len(chunks)))
    for _ in range(rng.randrange(3)):
        chunks.insert(rng.randrange(len(chunks) + 1), chunk)
    return joined_png(chunks)


MUTATIONS: tuple[fuzzing.Mutation, ...] = (*fuzzing.BYTE_MUTATIONS, shuffle_chunks)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into (name, contents) as far as its lengths lead."""
    chunks, position = [], len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return chunks


def joined_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Write (name, contents) with right lengths and checksums."""
    sealed = [struct.pack(">I", len(b)) + a + b + struct.pack(">I", zlib.crc32(a + b)) for a, b in chunks]
    return PNG_SIGNATURE + b"".join(sealed)


# reading


def read(reader: Callable[..., Any], data: bytes, options: Mapping[str, Any]) -> str:
    """Read one picture; return "picture" if it is one."""
    rgb = reader(data, **LIMITS, **options)
    return "picture" if rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 else "foreign: result"


def run_child(reader: str, seed: int, start: int, stop: int) -> None:
    module, _, name = reader.partition(":")
    function = getattr(importlib.import_module(module), name)
    seeds = seed_pictures()

    def prepare(index: int) -> Callable[[], str]:
        source, data = mutated(index, seed, seeds)
        return lambda: fuzzing.examine(lambda: read(function, data, source.options), ImageError)

    fuzzing.run_child(start, stop, prepare)


def main(arguments: list[str] | None = None) -> int:
    parser = fuzzing.parser(__doc__.splitlines()[0], seconds=10, output=Path("runs/fuzz_images"))
    parser.add_argument("--reader", default=READER, help="module:function that reads, to test this tool itself")
    options = parser.parse_args(arguments)
    if options.child:
        run_child(options.reader, options.seed, *options.child)
        return 0
    command = (__file__, "--seed", str(options.seed), "--reader", options.reader)
    summary = fuzzing.run(fuzzing.Job(command, options.count, options.processes, options.seconds))
    seeds = seed_pictures()
    return fuzzing.report(summary, lambda index: mutated(index, options.seed, seeds)[1], options.seed, options.output)


if __name__ == "__main__":
    sys.exit(main())
