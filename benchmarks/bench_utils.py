"""A clock, the machine's own rates, operation counts, and result files of the benchmarks."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxmarl_lite.report import atomic_io, run_dir


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
    """Returns the commit of a checkout, or ``unknown``."""
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows, column name -> cell, as a Markdown table; numbers are aligned to the right."""
    if not rows:
        return "(no rows)\n"
    columns = list(rows[0])
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


def write(path: Path, data: Mapping[str, Any], text: str) -> None:
    """Writes ``data`` to ``path`` as JSON and ``text`` beside it as Markdown, both atomically."""
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
