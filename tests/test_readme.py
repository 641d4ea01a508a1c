"""README's commands and its block do what they say, with fewer steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENVIRONMENT = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def shortened(text: str, changes: dict[str, str]) -> str:
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, f"{pattern} is not in README's block"
    return text


def test_the_first_command_trains_and_draws(tmp_path):
    message = shlex.split(blocks("bash")[0].split("&&")[-1])
    assert message[0] == ".venv/bin/jaxmarl-lite"
    at = message.index("--total-steps") + 1
    assert (
        message[message.index("--seeds") + 1] == "3"
        and message[message.index("--out") + 1] == "runs/liir"
    )
    message[at] = "8192"
    command = [sys.executable, "-m", "jaxmarl_lite", *message[1:], "--num-evaluations", "1"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "random policy" in done.stdout and "seed 2" in done.stdout
    assert (tmp_path / "runs/liir/curve.png").stat().st_size > 10_000


def test_every_command_installs_as_the_project_says():
    extras = re.search(
        r"\[project.optional-dependencies\](.*?)\n\[",
        (ROOT / "pyproject.toml").read_text(),
        re.DOTALL,
    )
    assert extras is not None
    named = [
        extra for group in re.findall(r"-e '\.\[([\w,]+)\]'", README) for extra in group.split(",")
    ]
    assert {"test", "cuda13", "tpu", "smax", "mujoco"} <= set(named)
    for extra in [*named, "all", "export"]:
        assert re.search(rf"^{extra} = ", extras.group(1), re.MULTILINE)
    # one command each: a second one may replace JAX by a version that the plugin does not fit
    for plugin in ("cuda13", "tpu"):
        assert re.search(rf"\.\[{plugin},[\w,]+\]", README)
    assert "-m pytest" in blocks("bash")[1]


def test_the_python_block_runs(tmp_path):
    code = shortened(
        blocks("python")[0],
        {
            r"init\(key\), 100\)": "init(key), 1)",
            r"key\(0\), 5": "key(0), 2",
            r"seeds=5": "seeds=2",
            r"total_steps=2_000_000": "total_steps=4096, num_evaluations=1",
        },
    )
    code += "\nfrom jaxmarl_lite.experiment import presets\n"
    code += "preset = presets.lookup('liir', 'jumanji/lbf-2s-8x8-2p-2f-coop')\n"
    code += (
        "assert result.config == tuned['config'] == jml.LIIRConfig(**preset.fields)\n"
        "assert preset.run_settings == dict(num_envs=64, num_steps=64)\n"
        "assert (result.plan.num_envs, result.plan.num_steps) == (64, 64)\n"
    )
    code += (
        "\nassert metrics['episode_return'].shape == (2, 1) and result.returns.shape == (2, 2)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/five/curve.png").exists()


def test_every_page_that_is_linked_exists():
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", README) + re.findall(r'src="([^"]+)"', README)
    assert len(links) > 10 and [link for link in links if not (ROOT / link).exists()] == []
    assert len(README.splitlines()) <= 150
