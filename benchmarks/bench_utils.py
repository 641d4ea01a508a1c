"""Shared by the benchmarks: options, clocks, operation counts, programs in turns, result files."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from jaxmarl_lite.report import atomic_io, run_dir
from jaxmarl_lite.report import statistics as seed_statistics

RESULTS = Path(__file__).parent / "results"
"""Default folder of the result files."""


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser that prints a module's docstring as it is and has ``--out``."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
            f"--{name.replace('_', '-')}", type=whole_number, default=default, help=text, **several
        )


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


def seconds(call: Callable[[], Any], repeats: int, warm: int = 1) -> list[float]:
    """Returns the wall-clock seconds of ``repeats`` calls, after ``warm`` calls without timing.

    The clock stops when the result of a call is complete.
    """
    for _ in range(warm):
        jax.block_until_ready(call())
    durations = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        durations.append(time.perf_counter() - began)
    return durations


def median(call: Callable[[], Any], repeats: int, warm: int = 1) -> float:
    """Returns the median of `seconds`."""
    return statistics.median(seconds(call, repeats, warm))


def repeated(
    function: Callable[..., Any], carry: Any, repeats: int, warm: int = 1, group: int = 1
) -> tuple[list[float], Any]:
    """Returns the seconds of ``carry = function(carry)``, and the last carry.

    For functions that donate their argument. The clock stops once in ``group`` calls, so that the
    host does not slow a fast device.
    """

    def call() -> Any:
        nonlocal carry
        for _ in range(group):
            carry = function(carry)
        return carry

    return [duration / group for duration in seconds(call, repeats, warm)], carry


def machine(repeats: int = 15) -> dict[str, float]:
    """Measures the rates of float32 matrix products in GFLOP/s, and of memory in GB/s.

    They bound the speed of everything else. The precision of a product is JAX's default on this
    device, the same as in training.
    """
    key = jax.random.key(0)
    product = jax.jit(lambda a, b: a @ b)
    rates = {}
    for m, k, n in ((2048, 2048, 2048), (4096, 128, 128)):
        a, b = jax.random.normal(key, (m, k)), jax.random.normal(key, (k, n))
        duration = median(lambda a=a, b=b: product(a, b), repeats, warm=3)
        rates[f"gemm_{m}x{k}x{n}_gflops"] = 2 * m * k * n / duration / 1e9
    size = 1 << 24  # 64 MiB, read and written once
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    durations, _ = repeated(add, jnp.ones(size), repeats, warm=3)
    rates["memory_gbytes_per_second"] = 2 * 4 * size / statistics.median(durations) / 1e9
    return rates


def machine_text(rates: Mapping[str, float]) -> str:
    """Formats the rates of `machine` as a line of text."""
    return ", ".join(f"{name} {cell_text(rate)}" for name, rate in rates.items())


def product_operations(function: Callable[..., Any], *args: Any) -> float:
    """Counts the operations of all matrix products in a function.

    A product counts 2 m k n, times the lengths of the scans around it; of a `cond` the larger
    branch counts. The count is that of the traced program without unused results. XLA's own
    analysis does not help: it counts the body of a loop once.
    """
    from jax.interpreters import partial_eval

    traced = jax.make_jaxpr(function)(*args)
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return _products(used)


def _products(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inside = [_products(getattr(sub, "jaxpr", sub)) for sub in _inner_jaxprs(equation.params)]
        name = equation.primitive.name
        if name == "dot_general":
            left_shape, right_shape = (v.aval.shape for v in equation.invars)
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            shared = _volume(left_shape, contracted) * _volume(left_shape, batched)
            total += 2.0 * _volume(left_shape) * _volume(right_shape) / shared if shared else 0.0
        elif name == "scan":
            total += equation.params["length"] * sum(inside)
        else:
            total += max(inside, default=0.0) if name == "cond" else sum(inside)
    return total


def _inner_jaxprs(params: Mapping[str, Any]) -> list[Any]:
    lists = [value if isinstance(value, (tuple, list)) else (value,) for value in params.values()]
    return [x for values in lists for x in values if hasattr(x, "eqns") or hasattr(x, "jaxpr")]


def _volume(shape: Sequence[int], axes: Sequence[int] | None = None) -> float:
    return float(math.prod(shape if axes is None else (shape[axis] for axis in axes)))


class Program:
    """A driver that compiles one program, prints facts, and then makes updates on request.

    A thread waits for its facts, so that several programs can compile at once.

    Attributes:
        facts: the driver's printed facts, or None until then and if it failed.
    """

    def __init__(self, command: Sequence[str], log: Path | None = None):
        self.facts: dict[str, Any] | None = None
        self._command = command
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if log is None else log.open("w"),
            text=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        )
        self._reader = threading.Thread(target=self._read_facts, daemon=True)
        self._reader.start()

    def _read_facts(self) -> None:
        with contextlib.suppress(json.JSONDecodeError):  # an empty line: the driver has failed
            self.facts = json.loads(self._readline())

    def _readline(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Waits for the facts, at most ``timeout`` seconds; returns whether they have come."""
        self._reader.join(timeout)
        return self.facts is not None

    def updates(self, number: int) -> list[Any]:
        """Returns the driver's answers for ``number`` updates: seconds, or several measurements."""
        if not self.wait_until_ready():
            raise RuntimeError(f"{' '.join(self._command)} failed; its messages are above")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return json.loads(self._readline())

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def in_turns(
    programs: Mapping[str, Program], rounds: int, updates: int, warmup: int = 2
) -> dict[str, Any]:
    """Times programs in turns; with a peer beside ``own``, also the ratio of their speeds.

    Args:
        programs: name to program; ours is called ``own``.
        rounds: turns of each program.
        updates: updates of a turn.
        warmup: updates of each before the first round, which are not timed.

    Returns:
        ``facts`` and ``seconds`` (the median update of each turn) by name; with a peer ``ratio``
        (their seconds over ours, the median of the rounds) and ``ratio_range``.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program.updates(warmup)
    for _ in range(rounds):
        for name, program in programs.items():
            time.sleep(0.2)  # the other program's threads come to rest
            seconds[name].append(statistics.median(program.updates(updates)))
    row: dict[str, Any] = {
        "facts": {name: program.facts for name, program in programs.items()},
        "seconds": seconds,
    }
    for peer in seconds.keys() - {"own"}:
        ratios = [theirs / own for own, theirs in zip(seconds["own"], seconds[peer], strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)]}
    return row


def device_name() -> str:
    """Returns the device as a part of a file name, for example ``cpu`` or ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")


def facts() -> dict[str, Any]:
    """Returns date, processor, device, and versions, which every result file records."""
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "matmul_precision": str(jax.config.jax_default_matmul_precision or "default"),
        **run_dir.versions(),
    }


def _processor() -> str:
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match.group(1).strip() if match else platform.processor()


def facts_text(facts: Mapping[str, Any]) -> str:
    """Formats `facts` as a line of Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['date']}; {facts['device_count']} x {facts['device_kind']} "
        f"({facts['device_platform']}), {facts['cores']} cores of {facts['processor']}, "
        f"{facts['platform']}; Python {facts['python']}, {packages}."
    )


def commit(checkout: Path) -> str:
    """Returns the commit of a checkout; ``unknown`` for a plain folder, inside another one too."""
    command = ["git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    is_checkout = len(lines) == 2 and Path(lines[0]).resolve() == checkout.resolve()
    return lines[1] if is_checkout else "unknown"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows, column name -> cell, as a Markdown table; numbers are aligned to the right.

    A column without any value is left out.
    """
    if not rows:
        return "(no rows)\n"
    columns = [c for c in rows[0] if any(row[c] not in (None, "") for row in rows)]
    is_number = [all(isinstance(r[c], (int, float)) or not r[c] for r in rows) for c in columns]
    lines = [columns, ["--:" if right else ":--" for right in is_number]]
    lines += [[cell_text(row[column]) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell_text(value: Any) -> str:
    """Formats a number with at least three significant digits; None is empty."""
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_integer else str(value)


def interval_text(interval: Any, digits: str = ".3f") -> str:
    """Formats an interval, or the IQM of values ``[seeds]`` with its 95 % interval."""
    if not isinstance(interval, (Mapping, seed_statistics.Interval)):
        interval = seed_statistics.bootstrap_interval(interval)
    interval = interval if isinstance(interval, Mapping) else interval._asdict()
    numbers = (format(interval[name], digits) for name in ("estimate", "low", "high"))
    return "{} [{}, {}]".format(*numbers)


def write(path: Path, data: Mapping[str, Any], text: str) -> None:
    """Writes ``data`` to ``path`` as JSON and ``text`` beside it as Markdown, both atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_io.replace_text(path, atomic_io.to_json(data, indent=2) + "\n")
    atomic_io.replace_text(path.with_suffix(".md"), text)


def begun(path: Path, settings: dict[str, str]) -> dict[str, Any]:
    """Returns the earlier result with these settings, or an empty one.

    A result with other settings ends the program and stays as it is.
    """
    result = read(path)
    if not result:
        return {"settings": settings, "rows": {}}
    earlier = result.get("settings", {})
    for name in sorted({*settings, *earlier}):
        if settings.get(name) != earlier.get(name):
            raise SystemExit(
                f"{path} holds results with {name} {earlier.get(name)}, not {settings.get(name)}; "
                "allowed is the same, or another --out"
            )
    return result


def comparable_rows(path: Path, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """Returns the rows of an earlier result with the same settings, versions and device, or {}."""
    earlier = read(path)
    same = earlier.get("settings") == settings and {**earlier["facts"], "date": ""} == {
        **facts,
        "date": "",
    }
    return earlier["rows"] if same else {}


def read(path: Path) -> dict[str, Any]:
    """Returns an earlier result; empty where no file can be read."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}
