"""What random actions reach: stored for every listed environment, measured again, and shown."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main as cli
from jaxmarl_lite.envs import registry
from jaxmarl_lite.experiment import random_results

LENIENT_RANKS = True  # Jumanji's own code broadcasts


def test_every_listed_environment_has_them() -> None:
    suites = {suite.prefix for suite in registry.SUITES}  # and no installed plug-ins
    listed = [name for name, _ in jml.list_environments() if name.split("/")[0] in suites]
    assert list(random_results.load()) == listed


@pytest.mark.parametrize("env_id", ["toy/counter", "toy/budget", "safe/cleaner-10x10x3a"])
def test_play_without_our_policy_gives_the_stored_returns_and_costs(env_id: str) -> None:
    """Actions are drawn by NumPy, and sums are kept in Python."""
    stored, env = random_results.load()[env_id], jml.make(env_id)
    reset, advance = jax.jit(env.reset), jax.jit(env.step)
    generator = np.random.default_rng(0)
    returns, costs = [], []
    for seed in range(24):
        state, step = reset(jax.random.key(1000 + seed))
        total, cost = 0.0, np.zeros((env.spec.num_agents, env.spec.num_costs))
        while not step.last:
            legal = [np.flatnonzero(row) for row in np.asarray(step.obs.action_mask)]
            action = np.asarray([generator.choice(each) for each in legal], np.int32)
            state, step = advance(state, action)
            total += float(step.reward.mean())  # a team's reward is that of each agent
            cost += step.cost
        returns.append(total)
        costs.append(cost)
    error = float(np.std(returns, ddof=1)) / len(returns) ** 0.5
    assert abs(np.mean(returns) - stored.mean_return) < 4 * error
    assert stored.interval[0] <= stored.mean_return <= stored.interval[1]
    if env.spec.num_costs:
        errors = np.std(costs, axis=0, ddof=1) / len(costs) ** 0.5
        assert (np.abs(np.mean(costs, axis=0) - stored.mean_costs) < 4 * errors).all()


def test_the_script_measures_some_again_and_drops_what_is_no_longer_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    script = importlib.import_module("random_policy")
    file = tmp_path / "random.json"
    file.write_text(json.dumps({"rows": {"toy/gone": {}, "toy/relay": {"episodes": 1}}}))
    assert script.main(["toy/counter", "--episodes", "8", "--out", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert set(rows) == {"toy/counter", "toy/relay"} and rows["toy/relay"] == {"episodes": 1}
    assert rows["toy/counter"]["episodes"] == 8
    assert f"jax {jax.__version__}" in rows["toy/counter"]["measured"]
    with pytest.raises(SystemExit):
        script.main(["toy/gone"])
    assert "ENV is toy/gone; allowed is a name that" in capsys.readouterr().err


def test_they_are_listed_beside_the_sizes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = random_results.RandomResult(
        64, -1234.5, (-1300.0, -1100.0), 5.0, 0.0234, [[152.3], [148.9]]
    )
    monkeypatch.setattr(random_results, "load", lambda: {"toy/budget": result})
    assert cli(["list", "toy/budget"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "-1230" in said and "energy 3, 4.5 (random 150)" in said
    assert cli(["list", "toy/relay"]) == 0
    assert random_results.cost_text(result._replace(mean_costs=[[0.5], [12.0]]), 0) == "0.5 to 12"
