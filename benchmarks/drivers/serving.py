"""The protocol of the drivers, and the kernels of their compiled programs.

A driver compiles one program and prints facts as a line of JSON: ``env_steps_per_update``,
``versions`` and, where there are such, ``compile_seconds``, ``kernels``, bytes and ``work``, a note
on the work of an update. Then, for each number on its standard input, it makes so many updates and
prints their seconds as a JSON list.

A kernel is counted for every instruction of the optimized HLO that computes or moves data: all but
parameters, constants, tuples, their elements and bitcasts. A `while` multiplies its body by its
trip count, which XLA notes for GPUs and the condition of the loop tells for TPUs (once where
neither does), a `conditional` counts its longest branch, a fusion is one kernel. On a GPU that a
program does not fill, its time is about the number of kernels times the few microseconds that
starting one takes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple, TextIO

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


CHIP = "BENCHMARK_CHIP"
"""Environment variable with the chip to compile for, in place of this process's device."""


def compile_program(
    jitted: Any, *args: Any, donated: tuple[int, ...] = ()
) -> tuple[Any, dict[str, Any]]:
    """Compiles a jitted function; returns it with the compile time, device, kernels and memory."""
    import jax

    if chip := os.environ.get(CHIP):
        jitted, args, kind = for_chip(jitted, donated, chip), abstract(args), chip
    else:
        kind = jax.devices()[0].device_kind
    began = time.perf_counter()
    compiled = jitted.lower(*args).compile()
    facts = {"compile_seconds": time.perf_counter() - began}
    return compiled, facts | {"device": kind} | program_facts(compiled)


def abstract(args: Any) -> Any:
    """Returns the shapes and types of arrays."""
    import jax

    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jax.numpy.shape(x), x.dtype), args)


def for_chip(jitted: Any, donated: tuple[int, ...], chip: str) -> Any:
    """Returns a jitted function as one for a device of a chip that need not be there."""
    import chips
    import jax

    chips.check_plugin(chip)
    mesh = jax.make_mesh((1,), ("device",), devices=chips.devices(chip))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(
        jitted.__wrapped__, in_shardings=place, out_shardings=place, donate_argnums=donated
    )


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
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)$")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CALLED = re.compile(
    r"(?:body|condition|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
)
CONDITION = re.compile(r"condition=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


PARTS = ("reset", "environment", "rollout", "advantages", "meta_gradient", "epochs", "turn")
"""Names of parts of an update: the named scopes in which the library traces them."""
_SCOPES = re.compile(rf"(?<=/)(?:[a-z]+\()*({'|'.join(PARTS)})\)*(?=/)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}


class Instruction(NamedTuple):
    """An instruction of the optimized HLO: kind, type of its result, all the rest, and name."""

    kind: str
    result: str
    rest: str
    name: str


def parse_hlo(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of an optimized program by name, and the name of its entry."""
    bodies: dict[str, list[Instruction]] = {}
    entry, instructions = "", None
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head is not None:
            instructions = bodies.setdefault(head.group(1), [])
            entry = head.group(1) if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            instructions = None
        elif instructions is not None:
            match = INSTRUCTION.match(line)
            if match is not None:
                name, result, kind, rest = match.groups()
                instructions.append(Instruction(kind, result, rest, name))
    return bodies, entry


def _length(condition: list[Instruction]) -> int | None:
    """Returns the length that a loop's condition tells, or None where it does not.

    A loop of JAX over a fixed length counts from 0 by ones while `counter < length`, a constant.
    """
    if {x.kind for x in condition} != {"parameter", "constant", "get-tuple-element", "compare"}:
        return None  # such as a search that may end early
    constants = {
        x.name: x.rest.partition(")")[0]
        for x in condition
        if x.kind == "constant" and x.result.startswith("s32[]")
    }
    (comparison,) = (x.rest for x in condition if x.kind == "compare")
    operands, _, options = comparison.partition(")")
    length = constants.get(operands.split(",")[-1].strip().lstrip("%"))
    return int(length) if length and "direction=LT" in options else None


def count(text: str, measure: Callable[[Instruction, str], Mapping[str, float]]) -> Counter[str]:
    """Sums a measure of the instructions that one run of a program executes.

    A `while` multiplies its body by its trip count (once where none is known), a `conditional`
    counts its longest branch, what stands inside a fusion is not counted.

    Args:
        text: the text of the optimized HLO.
        measure: instruction, and the part of the update that it belongs to -> name -> amount.
    """
    bodies, entry = parse_hlo(text)
    are_noted = TRIPS.search(text) is not None  # for CPUs and GPUs, where XLA knows them

    def trip_count(rest: str) -> int | None:
        noted, condition = TRIPS.search(rest), CONDITION.search(rest)
        if are_noted or condition is None:
            return int(noted.group(1)) if noted else None
        return _length(bodies.get(condition.group(1), []))

    @functools.cache
    def of(name: str, part: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for instruction in bodies.get(name, []):
            total += of_instruction(instruction, part)
        return total

    def of_instruction(instruction: Instruction, part: str) -> Counter[str]:
        kind, rest = instruction.kind, instruction.rest
        noted = _OP_NAME.search(rest)
        scopes = _SCOPES.findall(noted.group(1)) if noted else []
        part = scopes[-1] if scopes else part  # copies have no name: their loop has
        inner = (of(name, part) for name in CALLED.findall(rest))
        if kind == "while":
            trips, once = trip_count(rest) or 1, sum(inner, Counter())
            return Counter({name: trips * amount for name, amount in once.items()})
        if kind == "conditional":
            listed = BRANCHES.search(rest)
            names = re.findall(r"[\w.\-]+", listed.group(1)) if listed else CALLED.findall(rest)
            return max((of(name, part) for name in names), key=Counter.total, default=Counter())
        if kind in ("call", "async-start") and (called := sum(inner, Counter())):
            return called
        return Counter(measure(instruction, part))

    return of(entry, "other")


def _is_kernel(instruction: Instruction) -> bool:
    return instruction.kind not in FREE and not instruction.kind.endswith("-done")


def kernels(text: str) -> int:
    """Counts the kernels that one run of a program starts, from the text of its optimized HLO."""
    return int(count(text, lambda x, _: {"kernels": float(_is_kernel(x))}).total())


def kernels_by_part(text: str) -> dict[str, int]:
    """Counts the kernels of each part of an update by the named scope that XLA notes for them."""
    counts = count(text, lambda x, part: {part: float(_is_kernel(x))})
    return {name: int(counts[name]) for name in (*PARTS, "other") if counts[name]}


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Returns number and bytes of the exchanges between devices, by kind."""

    def exchange(instruction: Instruction, _: str) -> dict[str, float]:
        kind = instruction.kind.removesuffix("-start")
        if kind not in COLLECTIVES:
            return {}
        return {f"{kind} number": 1.0, f"{kind} bytes": float(result_bytes(instruction.result))}

    counts = count(text, exchange)
    return {
        kind: {name: int(counts[f"{kind} {name}"]) for name in ("number", "bytes")}
        for kind in COLLECTIVES
        if counts[f"{kind} number"]
    }


def result_bytes(text: str) -> int:
    """Returns the bytes of an instruction's result, from the text of its type."""
    total = 0
    for dtype, shape in _SHAPE.findall(text):
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 0)
        total += math.prod(int(x) for x in shape.split(",") if x) * bits // 8
    return total


def program_facts(compiled: Any) -> dict[str, Any]:
    """Returns a compiled function's kernels, and bytes of arguments, results and temporaries."""
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return {
        "kernels": kernels(text),
        "kernels_by_part": kernels_by_part(text),
        "argument_bytes": int(memory.argument_size_in_bytes),
        "output_bytes": int(memory.output_size_in_bytes),
        "temporary_bytes": int(memory.temp_size_in_bytes),
    }
