"""The protocol of the drivers, and the kernels of their compiled programs.

A driver compiles one program and prints facts as a line of JSON: ``env_steps_per_update``,
``versions`` and, where there are such, ``compile_seconds``, ``kernels``, bytes and ``work``, a note
on the work of an update. Then, for each number on its standard input, it makes so many updates and
prints their seconds as a JSON list.

A kernel is counted for every instruction of the optimized HLO that computes or moves data: all but
parameters, constants, tuples, their elements and bitcasts. A `while` multiplies its body by the
trip count that XLA knows (once where it knows none), a `conditional` counts its longest branch, a
fusion is one kernel. On a GPU that a program does not fill, its time is about the number of kernels
times the few microseconds that starting one takes.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, TextIO

LIIR_EPISODES = 32
LIIR_MAPS = {"3m": (3, 48, 30, 9, 60), "8m": (8, 168, 80, 14, 120)}
"""Map -> agents, state size, view size, actions, steps of the random episodes for LIIR's update."""


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
    return compiled, facts | {"device": jax.devices()[0].device_kind} | program_facts(compiled)


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


FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")
FREE += ("opt-barrier", "iota", "partition-id")
"""Instructions that start no kernel."""
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)$")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def kernels(text: str) -> int:
    """Counts the kernels that one run of a program starts, from the text of its optimized HLO."""
    bodies: dict[str, list[tuple[str, str]]] = {}
    entry, instructions = "", None
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head is not None:
            instructions = bodies.setdefault(head.group(1), [])
            entry = head.group(1) if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            instructions = None
        elif instructions is not None:
            instruction = INSTRUCTION.match(line)
            if instruction is not None:
                instructions.append((instruction.group(1), instruction.group(2)))

    @functools.cache
    def kernels_of(name: str) -> int:
        return sum(_of_instruction(kind, rest, kernels_of) for kind, rest in bodies.get(name, []))

    return kernels_of(entry)


def _of_instruction(kind: str, rest: str, kernels_of: Callable[[str], int]) -> int:
    if kind in FREE or kind.endswith("-done"):
        return 0
    if kind == "while":
        trips = TRIPS.search(rest)
        return (int(trips.group(1)) if trips else 1) * sum(
            kernels_of(name) for name in CALLED.findall(rest)
        )
    if kind == "conditional":
        listed = BRANCHES.search(rest)
        names = re.findall(r"[\w.\-]+", listed.group(1)) if listed else CALLED.findall(rest)
        return max((kernels_of(name) for name in names), default=0)
    if kind in ("call", "async-start"):
        return sum(kernels_of(name) for name in CALLED.findall(rest)) or 1
    return 1


def program_facts(compiled: Any) -> dict[str, int]:
    """Returns a compiled function's kernels, and bytes of arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    return {
        "kernels": kernels(compiled.as_text()),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
    }
