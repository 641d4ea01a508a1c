"""The Python blocks of the documentation run, page by page, with fewer steps."""

import re
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {
    str(path.relative_to(DOCS)): blocks
    for path in sorted(DOCS.rglob("*.md"))
    if path.name != "extending.md"  # it has a test of its own
    and (blocks := re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.M | re.S))
}


def shortened(block: str) -> str:
    """The block with a few steps of training and evaluation."""
    few = {
        "total_steps": "1024",
        "num_evaluations": "1",
        "eval_episodes": "4",
        "num_envs": "4",
        "num_steps": "32",
    }
    for name, value in few.items():
        block = re.sub(rf"\b{name}=[\d_]+", f"{name}={value}", block)
    missing = [f"{k}={v}" for k, v in few.items() if k != "total_steps" and f"{k}=" not in block]
    return re.sub(r"\btotal_steps=1024", ", ".join(["total_steps=1024", *missing]), block)


@pytest.mark.ci_cases("get-started*", "concepts/*", "guides/*", "*/liir*", "*/macpo*")
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):  # as outside the tests
        for i, block in enumerate(PAGES[page]):
            exec(compile(shortened(block), f"{page}, block {i}", "exec"), names)
    capsys.readouterr()
    if jax.config.jax_compilation_cache_dir is not None:  # a block has begun to cache
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
