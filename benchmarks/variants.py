"""Algorithms with changed settings on a command line: ``LABEL=ALGORITHM:FIELD=VALUE,...``."""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """An algorithm with changed settings, under a name of its own.

    Attributes:
        label: its name.
        algorithm: name of the algorithm.
        published: whether the settings begin from those of the authors' program
            (``ALGORITHM.reference``) instead of the tuned ones.
        fields: changed settings.
    """

    label: str
    algorithm: str
    published: bool
    fields: dict[str, Any]

    def config(self) -> Any:
        """Returns the argument ``config`` of `jaxmarl_lite.run`."""
        from jaxmarl_lite.algorithms import registry

        if self.published:
            configs = {name: registry.config_of(name) for name in registry.ALGORITHMS}
            known = [f"{n}.reference" for n, kind in configs.items() if hasattr(kind, "reference")]
            if f"{self.algorithm}.reference" not in known:
                raise ValueError(
                    f"algorithm is '{self.algorithm}.reference'; allowed is {' or '.join(known)}"
                )
            return registry.config_of(self.algorithm).reference(**self.fields)  # type: ignore[attr-defined]
        return self.fields or None


def parse(word: str) -> Variant:
    """Parses ``ALGORITHM``, or ``LABEL=ALGORITHM[.reference][:FIELD=VALUE,...]``.

    Raises:
        ValueError: the word is neither.
    """
    match = re.fullmatch(r"(?:([\w.-]+)=)?([\w-]+)(\.reference)?(?::(.+))?", word)
    if (
        match is None
        or set(match[1] or "") == {"."}
        or (match[1] is None and (match[3] or match[4]))
    ):
        allowed = "ALGORITHM or LABEL=ALGORITHM[.reference][:FIELD=VALUE,FIELD=VALUE]"
        raise ValueError(f"algorithm is {word!r}; allowed is {allowed}")
    pairs = re.split(r",(?=\w+=)", match[4]) if match[4] else []
    fields = {name: _value(text) for name, _, text in (pair.partition("=") for pair in pairs)}
    return Variant(match[1] or match[2], match[2], bool(match[3]), fields)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def check(variant: Variant, env: str, **sizes: Any) -> Any:
    """Returns the plan that `jaxmarl_lite.run` would make, without compiling anything.

    Raises:
        ValueError: the plan is not possible.
    """
    from jaxmarl_lite.experiment import config as experiment_config

    try:
        return experiment_config.make_run_config(
            variant.algorithm, env, config=variant.config(), **sizes
        )[0]
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{variant.label}: {error}") from error
