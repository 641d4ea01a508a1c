"""Schedules that end with the run: annealed learning rates, and QMIX's exploration."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import BATCH, SIZES, config, rows, updates
from toy_envs import algorithm, env_for

import jaxmarl_lite as jml
from jaxmarl_lite import train
from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.cli import train as cli_train
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.experiment import presets
from jaxmarl_lite.report import metrics


def resolved(result):
    return np.asarray(result.states.learner_state.config.lr_anneal_steps)


def test_a_share_of_the_run_ends_with_it_and_the_learning_rate_is_reported():
    half = config("ippo", lr_anneal_share=0.5, lr=0.8)
    result = jml.run(
        "ippo",
        "toy/climbing",
        config=half,
        seeds=2,
        total_steps=updates(4),
        num_evaluations=4,
        **SIZES,
    )
    assert resolved(result).tolist() == [2 * BATCH] * 2
    np.testing.assert_allclose(
        result.metrics["learning_rate"][:, 1:], [[0.8, 0.4, 0, 0]] * 2, rtol=1e-6
    )
    assert result.config.lr_anneal_share == 0.5 and result.config.lr_anneal_steps == 0


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_every_algorithm_reports_its_learning_rate(name):
    env = env_for(name, "toy/climbing")
    built = algorithm(name, env, lr_anneal_steps=1e4)
    info = jax.eval_shape(lambda key: _train(built, env)(key), jax.random.key(0))
    assert info["learning_rate"].shape == (1,) and "learning_rate" in metrics.METRICS


def _train(built, env):
    init, go = train.make_train(built, env, num_envs=4, num_steps=6)
    return lambda key: go(init(key), 1)[1]


def test_without_a_run_a_share_is_refused():
    env = env_for("ippo", "toy/climbing")
    with pytest.raises(
        ValueError,
        match="lr_anneal_share is 0.5; allowed in jaxmarl_lite.run alone.*give lr_anneal_steps",
    ):
        jml.make_algorithm("ippo", env.spec, jml.IPPOConfig(lr_anneal_share=0.5))
    built = algorithm("ippo", env)
    init, _ = train.make_train(built, env, num_envs=4, num_steps=6)
    with pytest.raises(ValueError, match="lr_anneal_share is 0.5"):
        init(jax.random.key(0), dataclasses.replace(built.config, lr_anneal_share=0.5))


def test_a_share_and_steps_together_are_refused():
    with pytest.raises(
        ValueError,
        match="IPPOConfig.lr_anneal_share is 1.0 and lr_anneal_steps is 50.0; allowed is one",
    ):
        jml.IPPOConfig(lr_anneal_share=1.0, lr_anneal_steps=50.0)
    with pytest.raises(
        ValueError,
        match="QMIXConfig.epsilon_share is 0.1 and epsilon_steps is 50.0; allowed is one",
    ):
        jml.QMIXConfig(epsilon_share=0.1, epsilon_steps=50.0)
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="lr_anneal_share"):
            jml.MAPPOConfig(lr_anneal_share=share)


def test_no_preset_stops_at_a_number_of_steps():
    for (name, env_id), fields in presets.DEFAULTS.items():
        assert not {"lr_anneal_steps", "epsilon_steps"} & set(fields), (name, env_id)
    assert presets.lookup("happo", "safe/search-and-rescue-2s-40t").fields["lr_anneal_share"] == 1.0
    assert presets.lookup("qmix", "smax/3m").fields["epsilon_share"] == 0.05


def test_steps_replace_a_tuned_share(monkeypatch):
    monkeypatch.setitem(presets.DEFAULTS, ("happo", "toy/counter"), {"lr_anneal_share": 1.0})
    built, _ = experiment_config.make_run_config(
        "happo",
        "toy/counter",
        config={"lr_anneal_steps": 64.0},
        total_steps=4096,
        num_evaluations=1,
        eval_episodes=2,
    )
    assert built.config.lr_anneal_steps == 64 and built.config.lr_anneal_share == 0
    tuned = cli_train._defaults("happo", None, ["--env", "toy/counter"]).config
    assert tuned.lr_anneal_share == 1
    parsed = dataclasses.replace(tuned, lr_anneal_share=0.0, lr_anneal_steps=64.0)
    assert cli_train._settings(tuned, parsed, ["--lr_anneal_steps", "64"]) == parsed
    untouched = cli_train._settings(tuned, tuned, ["--lr_anneal_steps", "0"])
    assert untouched.lr_anneal_share == 0 and untouched.lr_anneal_steps == 0


def test_a_longer_run_stretches_its_schedules_and_says_so(tmp_path, capsys):
    full = config("ippo", lr_anneal_share=1.0)
    two = SIZES | {"seeds": 2, "total_steps": updates(2), "num_evaluations": 2}
    jml.run("ippo", "toy/climbing", config=full, out=tmp_path / "r", **two)
    capsys.readouterr()
    longer = jml.resume_run(tmp_path / "r", total_steps=updates(8))
    assert "goes on at a factor of 0.75, where it stood at 0" in capsys.readouterr().out
    assert resolved(longer).tolist() == [8 * BATCH] * 2
    lr = jml.IPPOConfig.lr
    np.testing.assert_allclose(
        longer.metrics["learning_rate"][0, 3:], lr * (1 - np.arange(2, 8) / 8), rtol=1e-5
    )
    assert len(rows(tmp_path / "r")) == 2 * 9
    short = config("ippo", lr_anneal_steps=float(BATCH))
    jml.run(
        "ippo", "toy/climbing", config=short, **two | {"total_steps": updates(4), "quiet": False}
    )
    assert (
        f"nothing is learned in the last {3 * BATCH} of {4 * BATCH} steps"
        in capsys.readouterr().out
    )


def test_exploration_is_a_share_of_the_run():
    fields = dataclasses.replace(config("qmix"), epsilon_share=0.5)
    result = jml.run(
        "qmix",
        "toy/climbing",
        config=fields,
        seeds=1,
        total_steps=updates(4),
        num_evaluations=4,
        **SIZES,
    )
    np.testing.assert_allclose(
        result.metrics["epsilon"][0, 1:], [0.525, 0.05, 0.05, 0.05], rtol=1e-6
    )
    assert base_config.resolve_shares(fields, 100).epsilon_steps == 50
    assert jnp.shape(result.states.learner_state.config.epsilon_share) == (1,)
