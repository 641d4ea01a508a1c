"""Settings of all tests: silent broadcasting of ranks is an error, and so is a warning from the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

# The rooms whose own code or whose libraries (Jumanji) broadcast ranks on purpose.
LENIENT = ("envs", "report")

# The tests compile for minutes and compute for seconds, so XLA is asked to hurry: a training program then compiles in a
# third of the time. The flag is given to the jax it is known of alone, because XLA aborts on a flag it does not know.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version__.startswith("0.10."):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error:::jaxmarl_lite")


@pytest.fixture(autouse=True)
def strict_ranks(request: pytest.FixtureRequest) -> Iterator[None]:
    """`[B, N] + [N]` must be written out, except where `LENIENT` or a module's `LENIENT_RANKS` says otherwise."""
    room = request.path.relative_to(HERE).parts[0]
    lenient = room in LENIENT or getattr(request.module, "LENIENT_RANKS", False)
    with jax.numpy_rank_promotion("allow" if lenient else "raise"):
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision."""
    with jax.enable_x64(True):
        yield
