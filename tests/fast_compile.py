"""Settings that make JAX compile quickly: tests compile for minutes and compute for seconds.

Measured on a training program of IPPO, XLA's flags take a quarter off the time to compile.
Processes that a test starts inherit them."""

from __future__ import annotations

import gc
import os
import platform

import jax

FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_backend_extra_options=xla_cpu_optimize_for_size=true,"
    "xla_cpu_disable_slp_vectorizer=true,xla_cpu_disable_loop_unrolling=true",
)
X86 = ("--xla_cpu_max_isa=AVX2",)  # narrow vectors: less code; SSE4.2 cannot convert float16


def switch_on() -> None:
    """Before JAX has started its devices."""
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version__.startswith("0.10."):  # XLA aborts on a flag that it does not know
        flags = FLAGS + (X86 if platform.machine() in ("x86_64", "AMD64") else ())
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    # the place in the source that an operation stands at is of use in a profile alone
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    jax.config.update("jax_traceback_in_locations_limit", 0)
    # tracing makes many small objects and hardly any garbage
    gc.set_threshold(50_000, 20, 20)
