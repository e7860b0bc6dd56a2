"""Checkpoints themselves: models, download, convert."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import TYPE_CHECKING, Any

from npmobilevit import __version__
from npmobilevit.cli import reports
from npmobilevit.cli.console import printable
from npmobilevit.cli.ending import EXIT_GOOD, EXIT_INPUT, Stop, usage
from npmobilevit.errors import CheckpointError

if TYPE_CHECKING:
    from npmobilevit.checkpoints.catalogue import Entry

COLUMNS = ("name", "aliases", "task", "input", "labels", "accuracy", "MB", "where")


def run_models(options: argparse.Namespace) -> int:
    """List the checkpoints that are known by name."""
    from npmobilevit.checkpoints.catalogue import CATALOGUE

    if options.json:
        models = [dataclasses.asdict(entry) | {"cached": _where(entry) == "cached"} for entry in CATALOGUE]
        _print_facts("models", {"models": models})
        return EXIT_GOOD
    rows = [COLUMNS, *map(_row, CATALOGUE)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        "Any other Hub id or folder of a MobileViT works too. Accuracy as published; --json has sources and licences."
    )
    return EXIT_GOOD


def _row(entry: Entry) -> tuple[str, ...]:
    aliases = ", ".join(entry.aliases) or "-"
    size = f"{entry.megabytes:.1f}"
    return (entry.name, aliases, entry.task, str(entry.input_size), entry.labels, entry.accuracy, size, _where(entry))


def _where(entry: Entry) -> str:
    from npmobilevit.checkpoints import is_cached

    return "shipped" if entry.shipped else "cached" if is_cached(entry) else "Hub"


def run_download(options: argparse.Namespace) -> int:
    """Bring a checkpoint into the cache, or say where it is already."""
    from npmobilevit.checkpoints import find_checkpoint

    found = find_checkpoint(
        options.name, revision=options.revision, cache_dir=options.cache_dir, force_download=options.force
    )
    paths = [found.weights_path, found.config_path, found.processor_path]
    files = [str(path) for path in paths if path is not None]
    facts = {"name": found.name, "source": found.source, "revision": found.revision, "verified": found.verified}
    if options.json:
        _print_facts("download", {**facts, "files": files})
        return EXIT_GOOD
    print(f"{printable(found.name)} ({_origin(found.source, found.revision, found.verified)})")
    print(*(f"  {printable(file)}" for file in files), sep="\n")
    return EXIT_GOOD


def _origin(source: str, revision: str | None, verified: bool) -> str:
    if source != "hub":
        return "comes with the package" if source == "shipped" else "a local checkpoint"
    return f"commit {revision}, {'hashes verified' if verified else 'hashes not verified: the Hub names none'}"


def run_convert(options: argparse.Namespace) -> int:
    """Write a checkpoint of any family as a Hugging Face folder."""
    from npmobilevit.checkpoints import CONFIG, PROCESSOR, WEIGHTS, convert

    folder = os.path.expanduser(options.folder)
    there = [name for name in (CONFIG, PROCESSOR, WEIGHTS) if os.path.lexists(os.path.join(folder, name))]
    if there and not options.force:
        raise usage("output-exists", f"{folder!r} holds {there[0]} already; replace it with --force")
    try:
        contents = convert(options.source, folder, dtype=options.dtype)
    except CheckpointError as error:
        if error.code == "checkpoint-overwrites-source":
            raise usage(error.code, str(error)) from error
        if error.code == "checkpoint-unwritable":
            raise Stop(EXIT_INPUT, error.code, str(error)) from error
        raise
    facts = {
        "source": {"name": contents.name, "revision": contents.revision, "verified": contents.verified},
        "family": contents.family,
        "architecture": contents.class_name,
        "labels": contents.config.num_labels,
        "folder": folder,
    }
    if options.json:
        _print_facts("convert", facts)
    else:
        print(f"{printable(contents.name)} ({contents.family}, {contents.class_name}) -> {printable(folder)}")
    return EXIT_GOOD


def _print_facts(command: str, facts: dict[str, Any]) -> None:
    reports.print_document({"schema": reports.schema(command), "version": __version__, **facts})
