"""Fresh episodes of trained policies: one function for Python and the command line."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from constrained_envs import Limited
from tiny_runs import Closed, Lottery, config

import jaxmarl_lite as jml
from jaxmarl_lite import keys
from jaxmarl_lite.cli.main import main
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import playback

LENIENT_RANKS = True  # Jumanji promotes ranks
SIZES: dict[str, Any] = dict(
    num_envs=4, num_steps=4, eval_episodes=4, total_steps=32, num_evaluations=2, quiet=True
)


@pytest.fixture(scope="module")
def closed() -> jml.Result:
    return jml.run("ippo", Closed(), config=config("ippo"), seeds=(4, 2), **SIZES)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> jml.Result:
    out = tmp_path_factory.mktemp("runs") / "counter"
    return jml.run("liir", "toy/counter", config=config("liir"), seeds=2, out=out, **SIZES)


def test_the_numbers_are_those_of_make_evaluate(closed: jml.Result) -> None:
    evaluation = closed.evaluate(8, greedy=True, episode_seed=3)
    play = jml.make_evaluate(closed.built_algorithm, closed.env, 8, greedy=True)
    for i, seed in enumerate((4, 2)):
        key = jax.random.fold_in(keys.for_purpose(3, keys.AFTERWARDS), seed)
        expected = play(closed.learner(seed), key)
        np.testing.assert_array_equal(evaluation.returns[i], expected.returns.mean(-1))
        np.testing.assert_array_equal(evaluation.lengths[i], expected.lengths)
    one = closed.evaluate(8, seed=2, greedy=True, episode_seed=3)
    np.testing.assert_array_equal(one.returns, evaluation.returns[1:])
    assert evaluation.wins is None and evaluation.costs is None
    assert "seed 4" in evaluation.summary() and "test/closed, greedy" in evaluation.summary()
    with pytest.raises(ValueError, match="has no wins"):
        evaluation.win_rate(4)
    with pytest.raises(ValueError, match="has no costs"):
        evaluation.mean_costs()
    with pytest.raises(ValueError, match=re.escape("seed is 7; allowed is one of 4, 2")):
        evaluation.mean_return(7)


def test_policies_play_in_another_environment_of_the_same_sizes(closed: jml.Result) -> None:
    prize = Lottery(5.0, 1000.0, "test/prize")  # every step pays 5, whatever the actions
    evaluation = closed.evaluate(4, env=prize)
    np.testing.assert_array_equal(evaluation.returns, np.full((2, 4), 10.0))
    assert (evaluation.trained_on, evaluation.env) == ("test/closed", "test/prize")
    assert "test/prize, sampled, trained on test/closed" in evaluation.summary()
    again = closed.evaluate(4, env=Lottery(1.0, 1000.0, "test/prize"))  # not the compiled one
    np.testing.assert_array_equal(again.returns, np.full((2, 4), 2.0))
    message = "env is toy/climbing, which has"
    with pytest.raises(ValueError, match=f"{re.escape(message)}.*as test/closed has"):
        closed.evaluate(4, env="toy/climbing")


def test_costs_of_the_other_environment_are_measured(closed: jml.Result) -> None:
    """The policies know nothing of the costs, which the environment of the training lacks."""
    env = jml.with_costs(
        Closed(), [jml.Cost("step", "steps", lambda state, action, later: np.ones(2), limit=1.5)]
    )
    if env.spec.obs_size != closed.spec.obs_size:
        pytest.skip("costs change the observations")
    evaluation = closed.evaluate(4, env=env)
    assert evaluation.costs is not None
    np.testing.assert_array_equal(evaluation.costs, np.full((2, 4, 2, 1), 2.0))
    np.testing.assert_array_equal(evaluation.limits, np.full((2, 1), 1.5))
    np.testing.assert_array_equal(evaluation.satisfaction_rate(), np.zeros((2, 1)))
    assert evaluation.mean_costs().estimate.tolist() == [[2.0], [2.0]]


def test_bad_arguments(closed: jml.Result) -> None:
    for arguments, message in (
        (dict(episodes=0), "episodes is 0; allowed is a whole number"),
        (dict(episode_seed=2**40), "episode_seed is"),
        (dict(seed=9), "seed is 9; allowed is one of 4, 2"),
        (dict(greedy="yes"), "greedy is 'yes'"),
        (dict(env=3), "int has no `spec`"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            closed.evaluate(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"test/closed cannot be drawn"):
        closed.render("episode.gif")


def test_one_rule_for_greedy_actions(closed: jml.Result) -> None:
    """Every method that plays has the argument, None is its default, and means the run's own."""
    methods = ("policy", "episode", "evaluate", "render", "plot_intrinsic_rewards")
    for name in methods:
        assert inspect.signature(getattr(jml.Result, name)).parameters["greedy"].default is None
        assert f"`{name}`" in (jml.Result.__doc__ or "")
    greedy_run = dataclasses.replace(closed, plan=dataclasses.replace(closed.plan, greedy=True))
    for result, expected in ((closed, False), (greedy_run, True)):
        assert result.evaluate(4).greedy is expected
        np.testing.assert_array_equal(
            result.evaluate(4).returns, result.evaluate(4, greedy=expected).returns
        )
        np.testing.assert_array_equal(
            result.episode().action, result.episode(greedy=expected).action
        )


def test_the_command_prints_one_json_object(
    counter: jml.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(counter.path), "--episodes", "6", "--episode-seed", "5"]
    assert main([*command, "--json", "--sampled"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    evaluation = counter.evaluate(6, episode_seed=5)
    assert not said.err and data["run"] == str(counter.path) and not data["greedy"]
    np.testing.assert_array_equal(data["returns"], evaluation.returns)
    assert data["return_iqm"]["estimate"] == evaluation.iqm_return().estimate
    assert [entry["seed"] for entry in data["by_seed"]] == [0, 1]
    assert data["by_seed"][1]["return"]["low"] == evaluation.mean_return(1).low
    assert main([*command, "--seed", "1", "--env", "toy/payoff"]) == 0
    said = capsys.readouterr()
    assert "trained on toy/counter" in said.out and "seed 0" not in said.out
    assert main([*command, "--env-args", "reward=team"]) == 2
    assert "--env-args is without --env" in capsys.readouterr().err


def test_json_has_costs_and_limits() -> None:
    result = jml.run("ippo", Limited(((1.0, 2.5), 30.0)), config=config("ippo"), seeds=1, **SIZES)
    data = result.evaluate(4).to_dict()
    rows = {(row["cost"], row["agent"]): row for row in data["costs_mean"]}
    assert rows["a", 1]["estimate"] == 3.0 and rows["a", 1]["limit"] == 2.5
    assert rows["a", 1]["satisfaction_rate"] == 0.0 and rows["b", 1]["satisfaction_rate"] == 1.0
    assert np.shape(data["costs"]) == (1, 4, 2, 2)


def test_tuned_settings_are_those_of_a_run_without_any() -> None:
    """Through the plans, which hold everything that the numbers of a run depend on."""
    for algorithm, env in (
        ("qmix", "toy/counter"),
        ("macpo", "toy/budget"),
        ("liir", "jumanji/lbf-2s-8x8-2p-2f-coop"),
        ("mappo", Closed()),
    ):
        settings = jml.tuned(algorithm, env)
        plan, _ = experiment_config.make_run_config(**settings)
        assert plan == experiment_config.make_run_config(algorithm, env)[0]
    assert jml.tuned("macpo", "toy/budget")["config"].cost_confidence == 0.95
    with pytest.raises(ValueError, match="nearest: liir"):
        jml.tuned("lir", "toy/counter")
    with pytest.raises(ValueError, match="total_steps is 0; allowed"):
        jml.tuned("mappo", "toy/counter", total_steps=0)
    with pytest.raises(ValueError, match="nearest: toy/counter"):
        jml.tuned("liir", "toy/conter")


@pytest.mark.parametrize("algorithm", ["mappo", "mappo-lagrangian"])
def test_tuned_settings_of_a_length_are_those_that_a_run_learns_with(algorithm: str) -> None:
    env = jml.make("safe/search-and-rescue-2s-40t")
    settings = jml.tuned(algorithm, env.spec.name, total_steps=100_000)
    jml.make_algorithm(algorithm, env.spec, settings["config"])
    # 25 updates of 4,096 steps, over which the rate falls to 0
    assert (settings["num_envs"] * settings["num_steps"], settings["config"].lr_anneal_share) == (
        4096,
        0.0,
    )
    assert settings["config"].lr_anneal_steps == 25 * 4096
    with pytest.raises(ValueError, match="jaxmarl_lite.tuned returns with total_steps"):
        share = jml.tuned(algorithm, env.spec.name)["config"]
        jml.make_algorithm(algorithm, env.spec, share)


def test_render_writes_into_the_folder(counter: jml.Result) -> None:
    rendering = counter.render()
    assert counter.path is not None
    assert rendering.video is None and rendering.rewards == counter.path / "episode.rewards.png"
    assert repr(rendering).startswith("Rendering(video=None, rewards='")
    assert rendering.rewards.read_bytes().startswith(b"\x89PNG")
    assert rendering.episode.length > 0
    with pytest.raises(ValueError, match="allowed is a file name with a suffix"):
        counter.render(counter.path)
    with pytest.raises(ValueError, match="the run has no folder"):
        dataclasses.replace(counter, path=None).render()


def test_a_video_gets_the_rewards_that_it_can_show(tmp_path: Path, counter: jml.Result) -> None:
    shown: list[Any] = []

    class Drawn(Closed):
        def animate(self, states: list[Any], path: Path, rewards: Any = None) -> Path:
            shown.append((len(states), rewards))
            return path

    episode = counter.episode()
    video = playback.animate(Drawn(), episode, tmp_path / "film.gif")  # type: ignore[arg-type]
    ((length, rewards),) = shown
    assert video == tmp_path / "film.gif" and length == episode.length + 1
    np.testing.assert_array_equal(rewards, episode.intrinsic_reward)


def test_unknown_settings_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="field of MAPPOConfig is 'lrr'.*nearest: lr"):
        jml.MAPPOConfig(lrr=1)  # type: ignore[call-arg]
    message = "keeps no limits; allowed with macpo or mappo-lagrangian"
    with pytest.raises(ValueError, match=f"config.cost_limit is set.*{message}"):
        jml.run("mappo", "toy/budget", config={"cost_limit": 3.0})
    assert main(["train", "mappo", "--env", "toy/budget", "--cost-limit", "energy=3"]) == 2
    assert re.search(f"--cost-limit is set.*{message}", capsys.readouterr().err)


@pytest.mark.slow
def test_own_environments_and_unequal_runs_are_compared(tmp_path: Path) -> None:
    for name, steps in (("short", 32), ("long", 64)):
        sizes = SIZES | {"total_steps": steps}
        small = config("ippo")
        jml.run("ippo", Closed(), config=small, seeds=2, out=tmp_path / name, **sizes)
    runs = [tmp_path / "short", tmp_path / "long"]
    with pytest.raises(ValueError, match="give it again as env"):
        jml.compare_runs(runs)
    comparison = jml.compare_runs(runs, env=Closed())
    lengths, seeds = comparison.caveats()
    assert "differ in steps of each seed (short 32, long 64)" in lengths
    assert "as few as 2 seeds" in seeds and "as few as 2 seeds" in comparison.summary()
    assert comparison.caveats()[0] in comparison.save(tmp_path / "c")[1].read_text()
    assert jml.compare_runs(runs[:1], env=[Closed()]).caveats() == []
