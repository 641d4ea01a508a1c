"""The protocol of the drivers: print facts as JSON, then answer each number on standard input."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import hlo


def take_stdout() -> TextIO:
    """Returns the standard output; from here on the output of the peer goes to stderr instead."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(answers: TextIO, facts: Mapping[str, Any], measure: Callable[[int], list[Any]]) -> None:
    """Prints the facts, then ``measure(number)`` for each number, until the input ends."""
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(int(line))), file=answers, flush=True)


def compile_program(jitted: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
    """Compiles a jitted function; returns it with the compile time, device, kernels and memory."""
    import jax

    began = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    facts = {"compile_seconds": time.perf_counter() - began}
    return compiled, facts | {"device": jax.devices()[0].device_kind} | hlo.facts(compiled)


def timed_steps(step: Callable[[Any], Any], carry: Any) -> Callable[[int], list[float]]:
    """Returns a function that times so many steps ``carry = step(carry)``, in seconds each."""
    import jax

    def measure(number: int) -> list[float]:
        nonlocal carry
        seconds = []
        for _ in range(number):
            began = time.perf_counter()
            carry = jax.block_until_ready(step(carry))
            seconds.append(time.perf_counter() - began)
        return seconds

    return measure


def versions(*packages: str) -> dict[str, str]:
    """Returns the installed version of each package."""
    return {name: metadata.version(name) for name in packages}
