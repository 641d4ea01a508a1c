"""Settings of all tests: silent broadcasting of ranks is an error, and so is a warning from the
package."""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import chex
import jax
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fast_compile  # noqa: E402

# The rooms whose own code or whose libraries (Jumanji) broadcast ranks on purpose.
LENIENT = ("envs", "report")

fast_compile.switch_on()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error:::jaxmarl_lite")


# Files that take minutes, longest first: a worker takes a whole file, so a long one that begins
# last is waited for.
LONG = (
    "test_resume.py",
    "test_protocol.py",
    "test_benchmarks.py",
    "test_readme.py",
    "test_docs_blocks.py",
    "test_docs.py",
    "test_costs.py",
    "test_sequential_update.py",
    "test_sharding.py",
    "test_envs_mujoco_physics.py",
    "test_constrained_optimization.py",
    "test_run.py",
    "test_kill.py",
)


@pytest.hookimpl(tryfirst=True)  # before the selection by markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    unused: dict[tuple[str, str], bool] = {}
    for item in items:
        named = item.get_closest_marker("ci_cases")
        if named is None or not isinstance(item, pytest.Function):
            continue
        matches = {p: fnmatch.fnmatchcase(item.callspec.id, p) for p in named.args}
        if not any(matches.values()):
            item.add_marker(pytest.mark.slow)
        for pattern, match in matches.items():
            key = (f"{item.path.name}::{item.originalname}", pattern)
            unused[key] = unused.get(key, True) and not match
    if any(unused.values()) and not any("::" in arg for arg in config.args):
        wrong = [f"{pattern!r} of {test}" for (test, pattern), none in unused.items() if none]
        raise pytest.UsageError(f"ci_cases: no case matches {', '.join(wrong)}")


@pytest.fixture(autouse=True)
def strict_ranks(request: pytest.FixtureRequest) -> Iterator[None]:
    """`[B, N] + [N]` must be written out, except where `LENIENT` or a module's `LENIENT_RANKS` says
    otherwise."""
    room = request.path.relative_to(HERE).parts[0]
    lenient = room in LENIENT or getattr(request.module, "LENIENT_RANKS", False)
    with jax.numpy_rank_promotion("allow" if lenient else "raise"):
        yield


_after_clearing = [0.0]  # gigabytes


@pytest.fixture(scope="module", autouse=True)
def forget_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let go of what a file has compiled when it ends: all files together need gigabytes, in every
    worker."""
    yield
    if _resident_gigabytes() > 1.0:  # below, the small programs that files share are worth more
        _forget(request.module)


@pytest.fixture(autouse=True)
def forget_many_programs() -> Iterator[None]:
    """The same between the tests of a large file."""
    yield
    if _resident_gigabytes() > max(2.0, _after_clearing[0] + 0.5):
        _forget()


def _forget(*modules: ModuleType) -> None:
    """Clear the caches of JAX, of the library and of the modules, and give the memory back."""
    library = [module for name, module in sys.modules.items() if name.startswith("jaxmarl_lite.")]
    for module in [*modules, *library]:
        for value in list(vars(module).values()):
            if callable(getattr(value, "cache_clear", None)):
                value.cache_clear()
    jax.clear_caches()
    chex.clear_trace_counter()  # a function whose program is gone may be traced once more
    gc.collect()
    with contextlib.suppress(
        OSError, AttributeError
    ):  # of glibc, which else keeps the memory for later
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _after_clearing[0] = _resident_gigabytes()


def _resident_gigabytes() -> float:
    """Memory that this process has now; infinite where that cannot be found out."""
    try:
        return (
            int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
        )
    except OSError:
        return float("inf")


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision."""
    with jax.enable_x64(True):
        yield
