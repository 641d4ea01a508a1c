"""Algorithms with some settings changed, as words of a command line:
``LABEL=ALGORITHM:FIELD=VALUE,FIELD=VALUE``.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn


class Variant(NamedTuple):
    """What is trained under one name."""

    label: str
    algorithm: str
    published: bool
    """Begin from the settings of the authors' program (``ALGORITHM.reference``) instead of the
    tuned ones."""
    fields: dict[str, Any]

    def config(self) -> Any:
        """What `jaxmarl_lite.run` takes as ``config``."""
        from jaxmarl_lite.algorithms import registry

        if self.published:
            has = [
                name
                for name in registry.ALGORITHMS
                if hasattr(registry.config_of(name), "reference")
            ]
            if self.algorithm not in has:
                known = [f"{name}.reference" for name in has]
                raise ValueError(
                    f"algorithm is '{self.algorithm}.reference'; allowed is {' or '.join(known)}"
                )
            return registry.config_of(self.algorithm).reference(**self.fields)  # type: ignore[attr-defined]
        return self.fields or None


def parse(word: str) -> Variant:
    """A variant from ``ALGORITHM``, or ``LABEL=ALGORITHM[.reference][:FIELD=VALUE,...]``.

    Raises:
        ValueError: the word is neither.
    """
    found = re.fullmatch(r"(?:([\w.-]+)=)?([\w-]+)(\.reference)?(?::(.+))?", word)
    if (
        found is None
        or set(found[1] or "") == {"."}
        or (found[1] is None and (found[3] or found[4]))
    ):
        allowed = "ALGORITHM or LABEL=ALGORITHM[.reference][:FIELD=VALUE,FIELD=VALUE]"
        raise ValueError(f"algorithm is {word!r}; allowed is {allowed}")
    pairs = re.split(r",(?=\w+=)", found[4]) if found[4] else []
    fields = {name: _value(text) for name, _, text in (pair.partition("=") for pair in pairs)}
    return Variant(found[1] or found[2], found[2], bool(found[3]), fields)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check(found: Variant, env: str, **sizes: Any) -> Any:
    """The plan that `jaxmarl_lite.run` would make; before anything is compiled, ValueError for what
    cannot be.
    """
    from jaxmarl_lite.experiment import config as experiment_config

    try:
        return experiment_config.make_run_config(
            found.algorithm, env, config=found.config(), **sizes
        )[0]
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{found.label}: {error}") from error


def to_the_end(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark that may be stopped and started again as a program; Ctrl-C ends it in one
    line.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on where it was")


def whole(text: str) -> int:
    """A whole number of at least 1, of a command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed is a whole number, 1 or more")
    return int(text)
