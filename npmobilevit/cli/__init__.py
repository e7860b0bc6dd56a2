"""The command ``npmobilevit``: parse, call the library, print.

Data goes to stdout, talk to stderr. Exit codes: 0 good, 1 some inputs failed, 2 usage, 3 the model is not to be
had, 4 a port failed its check, 130 interrupted.

The modules: ``parser``; ``batch`` (predict, segment), ``explain_page``, ``store`` (models, download, convert),
``model`` (info, taps), ``validate`` (record, check), ``ranges_table`` and ``bench``; for them ``inputs``, ``targets``
(output files), ``reports`` (text and JSON), ``turns`` (programs timed in turn) and ``machine`` (facts about it);
``console`` and ``ending`` at the bottom.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

from npmobilevit.cli import console, reports
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, EXIT_USAGE, STOPPING, as_stop
from npmobilevit.cli.parser import COMMANDS, build_parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    console.prepare_streams()
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has seen enough
        console.drop(sys.stdout)
        return EXIT_GOOD
    except OSError as error:
        console.drop(sys.stdout)
        console.say("error", f"cannot write the output: {error.strerror or error}")
        return EXIT_INPUT


def _run(arguments: list[str]) -> int:
    try:
        parser = build_parser()
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.print_help(sys.stderr)
            return EXIT_USAGE
        code: int = options.run(options)
        return code
    except SystemExit:  # --help or --version
        return EXIT_GOOD
    except STOPPING as error:
        stop = as_stop(error)
        console.say("error", stop)
        flags = set(itertools.takewhile(lambda argument: argument != "--", arguments))
        if flags & {"--json", "--jsonl"}:  # whoever parses stdout is told there, even if the options are wrong
            reports.print_failure(_command(arguments), stop, lines="--json" not in flags)
        return stop.exit_code


def _command(arguments: Sequence[str]) -> str | None:
    """The command among arguments that may be wrong in any way."""
    return next((argument for argument in arguments[:1] if argument in COMMANDS), None)
