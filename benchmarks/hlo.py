"""Counts a compiled program's kernels on an accelerator, from its optimized HLO text.

A kernel is counted for every instruction that computes or moves data: all but parameters,
constants, tuples, their elements and bitcasts. A `while` multiplies its body by the trip count that
XLA knows (once where it knows none), a `conditional` counts its longest branch, a fusion is one
kernel. On a GPU that a program does not fill, its time is about the number of kernels times the few
microseconds that starting one takes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

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


def facts(compiled: Any) -> dict[str, int]:
    """Returns a compiled function's kernels, and bytes of arguments, results and temporaries."""
    memory = compiled.memory_analysis()
    return {
        "kernels": kernels(compiled.as_text()),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
    }
