"""The Python blocks of docs/extending.md run, with fewer steps, and its commands parse."""

import re
import shlex
from pathlib import Path

import jax
import pytest

from jaxmarl_lite.cli import train

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _name(block):
    """The first public call of a block."""
    return re.findall(r"jml\.(\w+)", block)[0] + str(BLOCKS.index(block))


@pytest.mark.parametrize("block", BLOCKS, ids=_name)
def test_the_block_runs(block, tmp_path, monkeypatch, capsys):
    if "equinox" in block:
        pytest.importorskip("equinox")
    monkeypatch.chdir(tmp_path)
    fewer = "num_evaluations=1, eval_episodes=4, num_envs=4, num_steps=16"
    steps = 256 if "sweep" in block else 128
    code, count = re.subn(r"total_steps=[\d_]+", f"total_steps={steps}, {fewer}", block)
    assert count or "to_pettingzoo" in block
    code = code.replace("make_curious)).", 'make_curious), checks=("init",)).')
    with jax.numpy_rank_promotion("allow"):  # as outside the tests
        exec(compile(code, "extending.md", "exec"), {"__name__": "__main__"})
    capsys.readouterr()


def test_the_commands_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = next(block for block in BLOCKS if "make_curious" in block)
    (tmp_path / "curious.py").write_text(module)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = next(line for line in PAGE.splitlines() if "curious:make_curious" in line)
    parsed = train.parse(shlex.split(command)[2:])
    assert parsed.algorithm == "curious:make_curious" and parsed.settings["config"].bonus == 0.2
