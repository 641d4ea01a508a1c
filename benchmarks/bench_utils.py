"""What the benchmarks share: a clock, the machine's own rates, operation counts, and result
files.
"""

from __future__ import annotations

import datetime
import json
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

RESULTS = Path(__file__).parent / "results"
"""Where result files lie."""


def seconds(call: Callable[[], Any], repeats: int, warm: int = 1) -> list[float]:
    """Wall-clock seconds of ``repeats`` calls after ``warm`` untimed ones; each is waited for."""
    for _ in range(warm):
        jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return taken


def median(call: Callable[[], Any], repeats: int, warm: int = 1) -> float:
    """Median of `seconds`."""
    return statistics.median(seconds(call, repeats, warm))


def repeated(
    function: Callable[..., Any], carry: Any, repeats: int, warm: int = 1, group: int = 1
) -> tuple[list[float], Any]:
    """Seconds of ``carry = function(carry)``, for functions that use up what they are given; and
    the last carry.

    ``group`` calls are made before they are waited for, so that a fast device is not held up by the
    host.
    """
    held = [carry]

    def call() -> Any:
        for _ in range(group):
            held[0] = function(held[0])
        return held[0]

    return [taken / group for taken in seconds(call, repeats, warm)], held[0]


def machine(repeats: int = 15) -> dict[str, float]:
    """Rates that bound everything else: float32 matrix products in GFLOP/s, and memory in GB/s.

    The precision of a product is JAX's default on this device, the same as in training.
    """
    key = jax.random.key(0)
    product = jax.jit(lambda a, b: a @ b)
    rates = {}
    for m, k, n in ((2048, 2048, 2048), (4096, 128, 128)):
        a, b = jax.random.normal(key, (m, k)), jax.random.normal(key, (k, n))
        taken = median(lambda a=a, b=b: product(a, b), repeats, warm=3)
        rates[f"gemm_{m}x{k}x{n}_gflops"] = 2 * m * k * n / taken / 1e9
    size = 1 << 24  # 64 MiB, read and written once
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    taken, _ = repeated(add, jnp.ones(size), repeats, warm=3)
    rates["memory_gbytes_per_second"] = 2 * 4 * size / statistics.median(taken) / 1e9
    return rates


def product_operations(function: Callable[..., Any], *args: Any) -> float:
    """Operations of all matrix products in a function: 2 m k n for each, times the lengths of the
    scans around it.

    Counted in the traced program after unused results are dropped; the larger branch of a `cond`
    counts, and nothing else does. XLA's own analysis is of no use here: it counts the body of a
    loop once.
    """
    from jax.interpreters import partial_eval

    traced = jax.make_jaxpr(function)(*args)
    used, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return _products(used)


def _products(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inside = [_products(getattr(sub, "jaxpr", sub)) for sub in _inner(equation.params)]
        name = equation.primitive.name
        if name == "dot_general":
            left, right = (v.aval.shape for v in equation.invars)
            (contracted, _), (batched, _) = equation.params["dimension_numbers"]
            shared = _volume(left, contracted) * _volume(left, batched)
            total += 2.0 * _volume(left) * _volume(right) / shared if shared else 0.0
        elif name == "scan":
            total += equation.params["length"] * sum(inside)
        else:
            total += max(inside, default=0.0) if name == "cond" else sum(inside)
    return total


def _inner(params: Mapping[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        entries = value if isinstance(value, (tuple, list)) else (value,)
        found += [entry for entry in entries if hasattr(entry, "eqns") or hasattr(entry, "jaxpr")]
    return found


def _volume(shape: Sequence[int], axes: Sequence[int] | None = None) -> float:
    size = 1.0
    for axis in range(len(shape)) if axes is None else axes:
        size *= shape[axis]
    return size


def device_name() -> str:
    """The device as a part of a file name, for example ``cpu`` or ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", jax.devices()[0].device_kind.lower()).strip("-")


def facts() -> dict[str, Any]:
    """What every result file says about where it comes from."""
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
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor()


def facts_text(where: Mapping[str, Any]) -> str:
    """`facts` as a line of Markdown."""
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return (
        f"{where['date']}; {where['device_count']} x {where['device_kind']} "
        f"({where['device_platform']}), "
        f"{where['cores']} cores of {where['processor']}, {where['platform']}; Python "
        f"{where['python']}, {packages}."
    )


def commit(checkout: Path) -> str:
    """The commit of a checkout."""
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; numbers stand right."""
    right = [
        all(isinstance(row[i], (int, float)) or not row[i] for row in rows)
        for i in range(len(columns))
    ]
    lines = [
        columns,
        ["--:" if r else ":--" for r in right],
        *([cell_text(cell) for cell in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell_text(value: Any) -> str:
    """A number with three or more digits that mean something; anything else as it is."""
    if value is None:
        return ""
    if isinstance(value, int) or not isinstance(value, float):
        return (
            f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        )
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(path: Path, data: Mapping[str, Any], text: str) -> None:
    """Put ``data`` at ``path`` as JSON and ``text`` beside it as Markdown, each whole or not at
    all.
    """
    atomic_io.replace_text(path, atomic_io.to_json(data, indent=2) + "\n")
    atomic_io.replace_text(path.with_suffix(".md"), text)


def begun(path: Path, settings: dict[str, str]) -> dict[str, Any]:
    """The earlier result with these settings, or an empty one; a result with others ends the
    program, as it is.
    """
    found = read(path)
    if not found:
        return {"settings": settings, "rows": {}}
    had = found.get("settings", {})
    for name in sorted({*settings, *had}):
        if settings.get(name) != had.get(name):
            told = f"{path} holds results with {name} {had.get(name)}, not {settings.get(name)}"
            raise SystemExit(f"{told}; allowed is the same, or another --out")
    return found


def read(path: Path) -> dict[str, Any]:
    """An earlier result; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
