"""Algorithms with some settings changed, as words of a command line: ``LABEL=ALGORITHM:FIELD=VALUE,FIELD=VALUE``."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """What is trained under one name."""

    label: str
    algorithm: str
    published: bool
    """Begin from the settings of the authors' program (``ALGORITHM.authors``) instead of the tuned ones."""
    fields: dict[str, Any]

    def config(self) -> Any:
        """What `jaxmarl_lite.run` takes as ``config``."""
        from jaxmarl_lite.algorithms import registry

        if self.published:
            return registry.config_of(self.algorithm).authors(**self.fields)  # type: ignore[attr-defined]
        return self.fields or None


def parse(word: str) -> Variant:
    """A variant from ``ALGORITHM``, or ``LABEL=ALGORITHM[.authors][:FIELD=VALUE,...]``.

    Raises:
        ValueError: the word is neither.
    """
    found = re.fullmatch(r"(?:([\w.-]+)=)?([\w-]+)(\.authors)?(?::(.+))?", word)
    if found is None or (found[1] is None and (found[3] or found[4])):
        allowed = "ALGORITHM or LABEL=ALGORITHM[.authors][:FIELD=VALUE,FIELD=VALUE]"
        raise ValueError(f"algorithm is {word!r}; allowed is {allowed}")
    pairs = re.split(r",(?=\w+=)", found[4]) if found[4] else []
    fields = {name: _value(text) for name, _, text in (pair.partition("=") for pair in pairs)}
    return Variant(found[1] or found[2], found[2], bool(found[3]), fields)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
