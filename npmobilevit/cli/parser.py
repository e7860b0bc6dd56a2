"""The command line: its commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from npmobilevit import __version__
from npmobilevit.cli import reports
from npmobilevit.cli.batch import run_predict, run_segment
from npmobilevit.cli.bench import run_bench
from npmobilevit.cli.ending import usage
from npmobilevit.cli.epilogs import BENCH, CHECK, EXPLAIN, INFO, PREDICT, RANGES, RECORD, SEGMENT
from npmobilevit.cli.explain_page import run_explain
from npmobilevit.cli.model import run_info, run_taps
from npmobilevit.cli.ranges_table import run_ranges
from npmobilevit.cli.store import run_convert, run_download, run_models
from npmobilevit.cli.validate import run_check, run_record
from npmobilevit.engine import WORKERS

COMMANDS = (
    "predict",
    "segment",
    "explain",
    "models",
    "download",
    "convert",
    "info",
    "taps",
    "record",
    "check",
    "ranges",
    "bench",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise usage("usage", f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="npmobilevit", description="MobileViT in plain NumPy.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"npmobilevit {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add_plain(
        name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str, epilog: str = ""
    ) -> argparse.ArgumentParser:
        command = add_plain(name, run, text, epilog)
        command.add_argument(
            "--model",
            help="shipped name, alias, Hub id, folder or file of weights (default: $NPMOBILEVIT_MODEL, else Apple's "
            "xx-small from the cache or the Hub, else the one that is shipped; see npmobilevit models)",
        )
        return command

    _add_predict(add("predict", run_predict, "name what pictures show", PREDICT))
    text = "tell which class every pixel of pictures belongs to"
    _add_segment(add("segment", run_segment, text, SEGMENT))
    text = "show what a model makes of a picture, and what leads there, as a page of HTML"
    _add_explain(add("explain", run_explain, text, EXPLAIN))
    _add_json(add_plain("models", run_models, "list the checkpoints that are known by name, and where they are"))
    _add_download(add_plain("download", run_download, "bring a checkpoint into the cache, to be used offline"))
    text = "write a checkpoint of transformers, timm or ml-cvnets as a Hugging Face folder with safetensors"
    _add_convert(add_plain("convert", run_convert, text))
    _add_info(add("info", run_info, "describe a model: task, family, labels, hash, and what each layer costs", INFO))
    command = add("taps", run_taps, "list the names and shapes of all values that the network can report")
    _add_json(command)
    _add_size(command)
    text = "record what the network puts out at every layer, for others to compare with"
    _add_record(add("record", run_record, text, RECORD))
    _add_check(add("check", run_check, "tell whether a port of a model is right, layer by layer", CHECK))
    text = "tell which values the taps take over pictures, and the fixed-point formats that hold them"
    _add_ranges(add("ranges", run_ranges, text, RANGES))
    _add_bench(add_plain("bench", run_bench, "time the network on this machine", BENCH))
    return parser


def _add_json(command: argparse._ActionsContainer) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document")


def _add_size(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--size", type=_positive, nargs=2, metavar=("H", "W"), help="input size (default: the model's)"
    )


def _add_info(command: argparse.ArgumentParser) -> None:
    _add_size(command)
    command.add_argument("--layers", action="store_true", help="print a line for each layer, and not for each block")
    forms = command.add_mutually_exclusive_group()
    _add_json(forms)
    forms.add_argument("--csv", action="store_true", help="print the layers alone, as comma-separated values")
    command.add_argument(
        "--plot", type=_path, metavar="FILE", help="write bars of the blocks' costs, as .png, .jpg, .jpeg or .webp"
    )
    command.set_defaults(existing="refuse")
    _add_force(command)


def _add_download(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.add_argument("name", metavar="NAME", help="alias or Hub id")
    command.add_argument("--revision", help="branch, tag or commit (default: main)")
    command.add_argument("--cache-dir", type=_path, metavar="FOLDER", help="cache to use (default: that of the Hub)")
    command.add_argument("--force", action="store_true", help="download even what is cached")


def _add_convert(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.add_argument("source", metavar="SRC", type=_path, help="name, folder, or a .safetensors, .bin or .pt file")
    command.add_argument("folder", metavar="DST", type=_path, help="folder to write; it is made if need be")
    command.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the weights (default: as stored)"
    )
    command.add_argument("--force", action="store_true", help="replace a checkpoint that is in DST already")


def _add_record(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.set_defaults(existing="refuse")
    command.add_argument("input", metavar="INPUT", type=_path, help="picture or pixel_values; see below")
    command.add_argument(
        "-o", "--output", required=True, type=_path, metavar="PATH", help="file to write; with --export, a folder"
    )
    command.add_argument(
        "--taps",
        default="all",
        metavar="all|blocks|stages|NAME,NAME",
        help="what to record (default: all; see npmobilevit taps)",
    )
    command.add_argument(
        "--precision",
        choices=("float32", "float64", "bitexact"),
        default="float64",
        help="arithmetic; bitexact gives float64 with the same bits on every machine (default: float64)",
    )
    command.add_argument("--with-bounds", action="store_true", help="record what tolerances are made of, too")
    command.add_argument(
        "--max-bytes-per-tap", type=_positive, metavar="N", help="keep only fingerprints of larger values"
    )
    command.add_argument("--export", choices=("npy", "raw", "hex"), help="write a folder with a file for each tap")
    command.add_argument("--layout", choices=("NCHW", "NHWC"), help="of exported values with four axes (default: NCHW)")
    command.add_argument(
        "--dtype",
        choices=("float64", "float32", "float16", "bfloat16"),
        help="of exported values (default: the precision)",
    )
    _add_force(command)


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.set_defaults(existing="refuse")
    command.add_argument("candidate", metavar="CANDIDATE", type=_path, help="what the port put out; see below")
    command.add_argument("--image", type=_path, metavar="PICTURE", help="the picture that its pixel values come from")
    command.add_argument(
        "--profile",
        default="fp32",
        help="arithmetic that the port declares: fp32 (the default), tf32, fp16, fp16-acc16, bf16, int8-dynamic, or "
        "fixed, with the scales of its manifest",
    )
    command.add_argument(
        "--target-size", type=_positive, nargs=2, metavar=("H", "W"), help="size of its mask (default: the logits')"
    )
    command.add_argument(
        "--inputs", type=_path, metavar="BUNDLE", help="recorded tensors on which it ran each layer by itself"
    )
    command.add_argument("--every-layer", action="store_true", help="print the line of every layer")
    command.add_argument(
        "-o",
        "--output",
        type=_path,
        action="append",
        default=[],
        metavar="FILE",
        help="write the report to a file as well, whose name ends in .html, .json or .txt; may be given again",
    )
    _add_force(command)


def _add_ranges(command: argparse.ArgumentParser) -> None:
    _add_inputs(command)
    _add_reading(command)
    forms = command.add_mutually_exclusive_group()
    for form, text in (("json", "print one JSON document"), ("csv", "print a table of comma-separated values")):
        forms.add_argument(f"--{form}", action="store_const", dest="form", const=form, default="text", help=text)
    command.add_argument(
        "--taps", metavar="all|blocks|stages|NAME,NAME", help="what to look at (default: all; see npmobilevit taps)"
    )
    command.add_argument(
        "--percentile",
        type=float,
        default=99.9,
        metavar="P",
        help="the upper percentile, 50 to 100; the lower one is 100 - P (default: 99.9)",
    )
    command.add_argument("-o", "--output", type=_path, metavar="FILE", help="write to FILE what would go to stdout")
    command.add_argument("--export", type=_path, metavar="FOLDER", help="write test vectors of the --layers")
    command.add_argument("--layers", metavar="NAME,NAME", help="convolution and linear layers to write; see below")
    command.add_argument("--width", type=int, choices=(8, 16), help="bits of a word (default: 8)")
    command.add_argument(
        "--rounding",
        choices=("half-even", "half-up", "truncate"),
        help="from the accumulator to the output (default: half-even)",
    )
    command.add_argument(
        "--accumulator", type=int, choices=(32, 64), help="bits of a sum (default: 32, and 64 for words of 16)"
    )
    command.add_argument("--layout", choices=("NCHW", "NHWC"), help="of maps and kernels (default: NCHW)")
    _add_force(command)


def _add_bench(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.add_argument(
        "--model", help="shipped name, alias, Hub id, folder or file of weights (default: cifar10-xx-small)"
    )
    _add_size(command)
    command.add_argument("--batch", type=_positive, default=1, metavar="N", help="pictures at a time (default: 1)")
    command.add_argument("--rounds", type=_positive, default=10, metavar="N", help="turns of each (default: 10)")


def _add_predict(command: argparse.ArgumentParser) -> None:
    _add_pictures(command)
    command.add_argument("--top-k", type=_positive, default=5, metavar="K", help="classes to print (default: 5)")
    command.add_argument("-o", "--output", type=_path, metavar="FILE", help="write to FILE what would go to stdout")
    command.add_argument(
        "--save-plot",
        type=_path,
        metavar="PATH",
        help="write the picture beside bars of its classes; a file may end in .png, .jpg, .jpeg or .webp",
    )
    _add_force(command)


def _add_segment(command: argparse.ArgumentParser) -> None:
    _add_pictures(command)
    command.add_argument("-o", "--output", type=_path, metavar="PATH", help="write the mask, or the masks, as PNG")
    existing = command.add_mutually_exclusive_group()
    _add_force(existing)
    existing.add_argument(
        "--skip-existing",
        action="store_const",
        dest="existing",
        const="skip",
        help="leave out pictures whose files exist already: an interrupted command goes on",
    )
    command.add_argument(
        "--overlay",
        type=_path,
        metavar="PATH",
        help="write the picture under the colours of its classes; a file may end in .png, .jpg, .jpeg or .webp",
    )
    command.add_argument(
        "--crop", action="store_true", help="look only at what is left after the model's centre crop, as predict does"
    )


def _add_explain(command: argparse.ArgumentParser) -> None:
    _add_json(command)
    command.set_defaults(existing="refuse")
    command.add_argument("picture", metavar="PICTURE", help="the picture; see below")
    command.add_argument(
        "-o", "--output", required=True, type=_path, metavar="PAGE", help="the file to write, as .html or .htm"
    )
    _add_reading(command)
    _add_force(command)


def _add_pictures(command: argparse.ArgumentParser) -> None:
    """What predict and segment have in common."""
    _add_inputs(command)
    _add_reading(command)
    command.add_argument(
        "--workers",
        choices=WORKERS,
        default="threads",
        help="who shares the work on a picture (default: threads; processes may take less time for many pictures)",
    )
    forms = command.add_mutually_exclusive_group()
    for name, report, text in (
        ("--json", reports.Document, "print one JSON document, at the end"),
        ("--jsonl", reports.Lines, "print a JSON object a line, as soon as it is known"),
    ):
        forms.add_argument(name, action="store_const", dest="report", const=report, default=reports.Text, help=text)


def _add_inputs(command: argparse.ArgumentParser) -> None:
    """Which pictures there are."""
    command.add_argument("inputs", nargs="+", metavar="INPUT", help="pictures; see below")
    command.add_argument("-r", "--recursive", action="store_true", help="look into subfolders of folders as well")
    command.set_defaults(existing="refuse")


def _add_reading(command: argparse.ArgumentParser) -> None:
    """How a picture is read and prepared."""
    command.add_argument(
        "--background",
        default="white",
        metavar="COLOUR",
        help='what transparency is laid on: a name or "#rrggbb" (default: white)',
    )
    command.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the values that mean black and white; for pictures of more than 8 bits, and others are refused",
    )
    command.add_argument(
        "--max-pixels", type=_positive, metavar="N", help="refuse larger pictures (default: 100 million pixels)"
    )
    command.add_argument(
        "--max-network-pixels",
        type=_positive,
        metavar="N",
        help="refuse pictures that are larger after the resize (default: 1.5 million pixels; the time of attention "
        "grows with the square)",
    )


def _add_force(command: argparse._ActionsContainer) -> None:
    command.add_argument(
        "--force",
        action="store_const",
        dest="existing",
        const="replace",
        help="replace output files that exist already",
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, found {text[:40]!r}")
    return int(text)


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must be the name of a file or folder, found {text!r}")
    return text
