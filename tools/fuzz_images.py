"""Feed damaged pictures to `to_rgb` and see that each ends in pixels or in an ImageError, and nothing else.

    python tools/fuzz_images.py --count 100000

Sixteen pictures of all formats and modes are made in memory, and mutated: bytes flipped, spans cut, doubled or
taken from another picture, header numbers set to extremes, PNG chunks dropped, doubled or resealed with right
checksums. Case number `index` depends on `--seed` and `index` alone (and on the version of Pillow that makes the
pictures). Child processes with little address space read them, so that a crash, a hang or a flood of memory ends a
child and not this tool. Exit status 1 if any case ended in a foreign exception, a crash, a hang or a warning; the
bytes of these cases are written to `--output`. Linux only.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import resource
import select
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from npmobilevit.errors import ImageError

READER = "npmobilevit.images:to_rgb"
LIMITS = {"max_pixels": 10_000_000, "max_file_bytes": 2**20}
ADDRESS_SPACE = 2 * 2**30  # bytes of a child
BATCH = 2000  # cases of one child: what leaks shows in its peak, and does not add up
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FAILURES = ("foreign", "warning", "crash", "hang")


class Seed(NamedTuple):
    """A good picture and the options that it is read with."""

    name: str
    data: bytes
    options: Mapping[str, Any] = MappingProxyType({})


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


def flip_bytes(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Replace some bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_early_bytes(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Replace bytes where headers are."""
    return flip_bytes(data[:100], rng, seeds) + data[100:]


def extreme_integer(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Write an extreme number of one, two or four bytes, in either order, most often near the start."""
    start = rng.randrange(1 + (min(len(data), 120) if rng.random() < 0.7 else len(data)))
    size = rng.choice((1, 2, 4))
    number = rng.choice(EXTREMES) % 2 ** (8 * size)
    return data[:start] + number.to_bytes(size, rng.choice(("big", "little"))) + data[start + size :]


def truncate(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(len(data) + 1)]


def delete_span(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Leave a span out."""
    start, stop = span(data, rng)
    return data[:start] + data[stop:]


def double_span(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Write a span twice."""
    start, stop = span(data, rng)
    return data[:stop] + data[start:]


def splice(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Go on as another picture."""
    other = rng.choice(seeds).data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def shuffle_chunks(data: bytes, rng: random.Random, seeds: list[Seed]) -> bytes:
    """Drop, double or move a chunk of a PNG; other pictures lose a span."""
    chunks = png_chunks(data) if data.startswith(PNG_SIGNATURE) else []
    if not chunks:
        return delete_span(data, rng, seeds)
    chunk = chunks.pop(rng.randrange(len(chunks)))
    for _ in range(rng.randrange(3)):
        chunks.insert(rng.randrange(len(chunks) + 1), chunk)
    return joined_png(chunks)


MUTATIONS: tuple[Callable[[bytes, random.Random, list[Seed]], bytes], ...] = (
    flip_bytes,
    flip_early_bytes,
    extreme_integer,
    truncate,
    delete_span,
    double_span,
    splice,
    shuffle_chunks,
)


def span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """Return start and stop of a span, of any length but more often short."""
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, rng.randrange(1, len(data) + 2))))


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


# a child: reads cases, and says what became of each


def examine(reader: Callable[..., Any], data: bytes, options: Mapping[str, Any]) -> str:
    """Read one picture; return "picture", the code of our error, or "foreign: ..." or "warning: ..."."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            rgb = reader(data, **LIMITS, **options)
            outcome = "picture" if rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 else "foreign: result"
        except ImageError as error:
            outcome = error.code
        except Exception as error:
            outcome = f"foreign: {type(error).__name__}: {str(error)[:200]}"
    return f"warning: {caught[0].message}" if caught else outcome


def run_child(reader: str, seed: int, start: int, stop: int) -> None:
    """Print one line of JSON before and one after each case."""
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)
    seeds = seed_pictures()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for index in range(start, stop):
        source, data = mutated(index, seed, seeds)
        say(begin=index)
        before = time.perf_counter()
        outcome = examine(read, data, source.options)
        say(end=index, outcome=outcome, seconds=time.perf_counter() - before, peak=peak_mib())


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def peak_mib() -> float:
    """Largest memory this process has had (ru_maxrss would count what its parent had, too)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# the parent


@dataclass
class Summary:
    """What became of all cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)  # seconds, index
    peak: float = 0.0  # MiB of the largest child
    stderr_bytes: int = 0

    def add(self, index: int, outcome: str, seconds: float, peak: float = 0.0) -> None:
        kind = outcome.partition(":")[0]
        self.outcomes[kind] += 1
        if kind in FAILURES:
            self.failures.append((index, outcome))
        self.slowest = max(self.slowest, (seconds, index))
        self.peak = max(self.peak, peak)

    def __str__(self) -> str:
        rows = [f"{count:9,}  {kind}" for kind, count in self.outcomes.most_common()]
        rows += [
            f"{self.outcomes.total():9,}  cases",
            f"slowest: {self.slowest[0]:.2f} s (case {self.slowest[1]}); peak memory of a child: {self.peak:.0f} MiB",
            f"warnings: {self.outcomes['warning']}; bytes written to stderr by the decoders: {self.stderr_bytes:,}",
        ]
        rows += [f"FAILED case {index}: {outcome}" for index, outcome in sorted(self.failures)]
        return "\n".join(rows)


class Child:
    """A process that works on some of the cases, and what it has said so far."""

    def __init__(self, options: argparse.Namespace, start: int, stop: int) -> None:
        self.next, self.stop, self.limit = start, stop, options.seconds
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in finish)
        command = [sys.executable, __file__, "--child", str(start), str(stop)]
        command += ["--seed", str(options.seed), "--reader", options.reader]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",  # its threads would take up the address space
        }
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.stderr, env=environment)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        self.text = b""
        self.begun: tuple[int, float] | None = None  # case being read, and since when

    def collect(self, summary: Summary) -> bool:
        """Take in what the process has said; return whether it still works."""
        piece = os.read(self.output.fileno(), 2**16)
        *lines, self.text = (self.text + piece).split(b"\n")
        for line in lines:
            facts = json.loads(line)
            if "begin" in facts:
                self.begun = facts["begin"], time.perf_counter()
                continue
            summary.add(facts["end"], facts["outcome"], facts["seconds"], facts["peak"])
            self.next, self.begun = facts["end"] + 1, None
        return bool(piece)

    def is_stuck(self) -> bool:
        return self.begun is not None and time.perf_counter() - self.begun[1] > self.limit

    def finish(self, summary: Summary, *, stuck: bool) -> None:
        """Count the case that ended the process, if one did."""
        if stuck:
            self.process.kill()
        status = self.process.wait()
        self.output.close()
        summary.stderr_bytes += os.fstat(self.stderr.fileno()).st_size
        self.stderr.seek(0)
        last_words = self.stderr.read().decode(errors="replace")[-500:].strip()
        self.stderr.close()
        if self.begun is not None:
            index, since = self.begun
            outcome = f"hang: more than {self.limit:g} s" if stuck else f"crash: status {status} {last_words}"
            summary.add(index, outcome, time.perf_counter() - since)
            self.next = index + 1
        elif status:
            raise SystemExit(f"a child failed before its first case: {last_words}")


def run(options: argparse.Namespace) -> Summary:
    """Have all cases read by children."""
    summary = Summary()
    waiting = [(start, min(start + BATCH, options.count)) for start in range(0, options.count, BATCH)][::-1]
    children: list[Child] = []
    told = time.perf_counter()
    while waiting or children:
        while waiting and len(children) < options.processes:
            children.append(Child(options, *waiting.pop()))
        readable = select.select([child.output for child in children], [], [], 0.2)[0]
        for child in list(children):
            ready = child.output in readable
            stuck = not ready and child.is_stuck()
            if stuck or (ready and not child.collect(summary)):
                child.finish(summary, stuck=stuck)
                children.remove(child)
                if child.next < child.stop:
                    waiting.append((child.next, child.stop))
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            done = summary.outcomes.total()
            print(f"{done:,} of {options.count:,} cases, {len(summary.failures)} failed", file=sys.stderr, flush=True)
    return summary


def save_failures(summary: Summary, seed: int, folder: Path) -> Iterator[Path]:
    """Write the pictures that failed as seed-index.bin."""
    seeds = seed_pictures()
    for index, _ in summary.failures:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{seed}-{index}.bin"
        path.write_bytes(mutated(index, seed, seeds)[1])
        yield path


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=10, help="that one picture may take")
    parser.add_argument("--output", type=Path, default=Path("runs/fuzz_images"), help="folder for cases that fail")
    parser.add_argument("--reader", default=READER, help="module:function that reads, to test this tool itself")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.child:
        run_child(options.reader, options.seed, *options.child)
        return 0
    summary = run(options)
    print(summary)
    for path in save_failures(summary, options.seed, options.output):
        print(f"saved {path}")
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
