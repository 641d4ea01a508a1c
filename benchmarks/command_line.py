"""Command-line options that the benchmarks share; imports neither JAX nor the library."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

RESULTS = Path(__file__).parent / "results"
"""Default folder of the result files."""


def make_parser(text: str | None, out: bool = True) -> argparse.ArgumentParser:
    """Returns a parser that prints a module's docstring as it is; with ``out`` it has ``--out``."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if out:
        parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    return parser


def add_numbers(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Adds options that take whole numbers: keyword -> default, or default and help text.

    An option whose default is a list takes several numbers.
    """
    for name, value in options.items():
        default, text = value if isinstance(value, tuple) else (value, None)
        several: dict[str, Any] = {"nargs": "+"} if isinstance(default, list) else {}
        parser.add_argument(
            as_option(name), type=whole_number, default=default, help=text, **several
        )


def as_option(name: str) -> str:
    """Returns the option of a parsed name: ``num_envs`` -> ``--num-envs``."""
    return f"--{name.replace('_', '-')}"


def to_words(options: Mapping[str, Any]) -> list[str]:
    """Returns a command line: lists become several words, True a flag, and None is left out."""
    command: list[str] = []
    for name, value in options.items():
        if value is not None:
            values = [] if value is True else value if isinstance(value, list) else [value]
            command += [as_option(name), *map(str, values)]
    return command


def check_checkout(parser: argparse.ArgumentParser, name: str, path: Path, folder: str) -> None:
    """Ends the program if the checkout at ``path`` lacks a folder that the benchmark needs."""
    if not (path / folder).is_dir():
        parser.error(f"{as_option(name)}: {path} is no checkout of {name}: it has no {folder}")


def whole_number(text: str) -> int:
    """Parses a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed is a whole number, 1 or more")
    return int(text)


def to_the_end(main: Callable[[], int]) -> NoReturn:
    """Runs a benchmark that can be stopped and restarted; Ctrl-C ends it with one line."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")
