"""Runs the examples in the docstrings of the package."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxmarl_lite.envs import _import

PACKAGE = Path(__file__).parent.parent / "jaxmarl_lite"
WITH_EXAMPLES = sorted(
    path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")
)


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(autouse=True)
def without_cache() -> Iterator[None]:
    """Ends what an example of the compilation cache begins."""
    yield
    if jax.config.jax_compilation_cache_dir is not None:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


@pytest.mark.parametrize("name", list(map(_name, WITH_EXAMPLES)))
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    ranks = "allow" if ".envs" in name else "raise"  # libraries of environments promote ranks
    if name.endswith(".bridges"):  # JaxMARL's first import takes the output from the doctest
        _import.load("jaxmarl")
    with jax.numpy_rank_promotion(ranks):
        result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.attempted > 0 and result.failed == 0
