"""Limits, broken and kept, in the rows of a run and in its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from constrained_envs import BoundedConfig, Limited, bounded_algorithm, env_by_id
from test_run import compilations
from tiny_runs import SIZES, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite.algorithms import cost_limits
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.report import metrics, run_dir, statistics

INF = float("inf")
RUN: dict[str, Any] = dict(
    SIZES, seeds=2, total_steps=updates(4), num_evaluations=2, config=config("ippo")
)


def changed(**fields: Any) -> dict[str, Any]:
    """`RUN` with other settings."""
    return {**RUN, **fields}


LIMITS = ((INF, 2.5), 30.0)  # an episode of `Limited` costs agent 1 exactly 3 and 30


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> jml.Result:
    return jml.run("ippo", Limited(LIMITS), out=tmp_path_factory.mktemp("limited") / "run", **RUN)


@pytest.fixture
def bounded() -> Iterator[str]:
    with bounded_algorithm() as name:
        yield name


def bounded_config(**fields: Any) -> Any:
    return BoundedConfig(**{"hidden_sizes": (4,), **fields})


def test_a_config_goes_over_the_environment_goes_over_none() -> None:
    spec = Limited(((1.0, 2.0), 7.0)).spec
    np.testing.assert_array_equal(cost_limits.limits_of(jml.IPPOConfig(), spec), [[1, 7], [2, 7]])
    np.testing.assert_array_equal(
        cost_limits.limits_of(bounded_config(cost_limit={"a": 5}), spec), [[5, 7], [5, 7]]
    )
    np.testing.assert_array_equal(
        cost_limits.limits_of(bounded_config(cost_limit={"b": (0, 9)}), spec), [[1, 0], [2, 9]]
    )
    np.testing.assert_array_equal(
        cost_limits.limits_of(None, Limited(None).spec), np.full((2, 2), INF)
    )
    assert cost_limits.limits_of(None, jml.make("toy/counter").spec).shape == (2, 0)


def test_every_row_counts_the_updates_that_broke_a_limit(result: jml.Result) -> None:
    violations, share = result.metrics["num_violations"], result.metrics["violation_rate"]
    assert violations.shape == share.shape == (2, 3, 2, 2)
    np.testing.assert_array_equal(violations[:, :, 1, 0], [[0, 2, 4]] * 2)
    np.testing.assert_array_equal(share[:, :, 1, 0], [[np.nan, 1, 1]] * 2)
    for untouched in (violations[..., 1], share[:, 1:, :, 1]):  # at its limit of 30 is not over it
        np.testing.assert_array_equal(untouched, 0)
    assert np.isnan(violations[:, :, 0, 0]).all(), "no limit, nothing to count"
    for name in ("num_violations", "violation_rate", "eval_satisfaction_rate"):
        assert metrics.describe(f"{name}/agent_1/cost_0")


def test_updates_without_an_ended_episode_break_nothing() -> None:
    # rollouts of 2 steps and episodes of 3: the updates 2, 3, 5 and 6 of six see one end
    settings = changed(num_steps=2, total_steps=6 * 8, num_evaluations=6)
    result = jml.run("ippo", Limited(LIMITS), **settings)
    actual = result.metrics
    np.testing.assert_array_equal(actual["num_violations"][:, :, 1, 0], [[0, 0, 1, 2, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(actual["updates_with_cost"], [[0, 0, 1, 2, 2, 3, 4]] * 2)
    assert result.updates_with_cost() == 4 and "it, of 4" in result.summary()
    expected = [[np.nan, np.nan, 1, 1, np.nan, 1, 1]] * 2
    np.testing.assert_array_equal(actual["violation_rate"][:, :, 1, 0], expected)
    settings["num_evaluations"] = 3
    actual = jml.run("ippo", Limited(LIMITS), **settings).metrics
    np.testing.assert_array_equal(actual["num_violations"][:, :, 1, 0], [[0, 1, 2, 4]] * 2)
    np.testing.assert_array_equal(actual["violation_rate"][:, 1:, 1, 0], 1)


def test_counts_agree_with_the_costs_of_every_update_whatever_the_rows() -> None:
    env = Limited((5.0, 60.0), uneven=True)
    settings = changed(total_steps=updates(12), seeds=3)
    every = jml.run("ippo", env, **changed(**settings | {"num_evaluations": 12})).metrics
    over = every["episode_cost"][:, 1:] > [5.0, 60.0]
    counts = np.concatenate([np.zeros((3, 1, 2, 2)), np.cumsum(over, axis=1)], axis=1)
    assert 0 < counts[:, -1, 1, 0].min() < 12 and (counts[..., 0] != counts[..., 1]).any()
    np.testing.assert_array_equal(every["num_violations"], counts)
    few = jml.run("ippo", env, **changed(**settings | {"num_evaluations": 3})).metrics
    np.testing.assert_array_equal(few["num_violations"], counts[:, ::4])
    measured = np.where(
        np.isnan(every["episode_cost"][:, 1:]), np.nan, over
    )  # before its first episode ends, nothing is known
    assert np.isnan(measured[:, 0]).all() and not np.isnan(measured[:, 4:]).any()
    share = np.nanmean(measured.reshape(3, 3, 4, 2, 2), axis=2)
    np.testing.assert_allclose(few["violation_rate"][:, 1:], share, rtol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    env = Limited((5.0, 60.0), uneven=True)
    jml.run(
        "ippo", env, out=tmp_path / "whole", **changed(total_steps=updates(8), num_evaluations=4)
    )
    jml.run("ippo", env, out=tmp_path / "parts", **RUN)
    parts = jml.resume_run(tmp_path / "parts", env=env, total_steps=updates(8), quiet=True)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    counts = parts.metrics["num_violations"][:, :, 1, 0]
    assert (counts[:, 2] > 0).all() and (counts[:, -1] > counts[:, 2]).any()


def test_kept_is_the_share_of_episodes_within_the_limit() -> None:
    result = jml.run("ippo", Limited((5.0, 30.0), uneven=True), **changed(eval_episodes=16))
    actual = result.metrics
    assert "P(kept)" in result.summary()
    short = 1 - (actual["eval_cost"][:, :, 1, 0] - 3) / 7  # the episodes that cost 3, the others 10
    assert ((short > 0) & (short < 1)).any()
    np.testing.assert_allclose(actual["eval_satisfaction_rate"][:, :, 1, 0], short)
    np.testing.assert_allclose(
        actual["eval_satisfaction_rate"][:, :, 1, 1], short
    )  # a cost at its limit keeps it
    np.testing.assert_array_equal(actual["eval_satisfaction_rate"][:, :, 0], 1)
    by_hand = statistics.satisfaction_rate(
        [[[1.0, 9.0]], [[2.0, 9.0]], [[3.0, 9.0]], [[4.0, 9.0]]], np.asarray([[2.0, INF]])
    )
    np.testing.assert_array_equal(by_hand, [[0.5, np.nan]])


def test_without_limits_rows_hold_costs_alone_and_without_costs_nothing() -> None:
    actual = jml.run("ippo", Limited(None), **RUN)
    assert {"episode_cost", "eval_cost"} <= set(actual.metrics)
    none = {"num_violations", "violation_rate", "eval_satisfaction_rate"}
    assert not none & set(actual.metrics) and np.isnan(actual.satisfaction_rate()).all()
    free = jml.run("ippo", "toy/counter", **RUN)
    assert not (none | {"episode_cost", "eval_cost"}) & set(free.metrics)
    assert free.costs is None and free.limits.shape == (2, 0) and len(free.plot().axes) == 1
    assert "P(kept)" not in free.summary()
    for ask in (free.final_costs, free.satisfaction_rate):
        with pytest.raises(ValueError, match="toy/counter has no costs"):
            ask()


def test_a_result_knows_its_costs(result: jml.Result) -> None:
    np.testing.assert_array_equal(result.limits, [[INF, 30], [2.5, 30]])
    assert result.costs is not None
    np.testing.assert_array_equal(
        result.costs, np.broadcast_to([[0.0, 0.0], [3.0, 30.0]], (2, 3, 2, 2))
    )
    final = result.final_costs()
    for part in (final.estimate, final.low, final.high):
        np.testing.assert_array_equal(part, [[0, 0], [3, 30]])
    np.testing.assert_array_equal(result.satisfaction_rate(), [[np.nan, 1], [0, 1]])
    lines = [line.split() for line in result.summary().splitlines()]
    assert ["a,", "agent", "1", "2.5", "3.00", "[3.00,", "3.00]", "0.000", "4.0"] in lines
    assert ["a,", "agent", "0", "none", "0.00", "[0.00,", "0.00]", "-", "-"] in lines


def test_the_pictures_of_a_run_show_its_costs(result: jml.Result, tmp_path: Path) -> None:
    figure = result.plot(tmp_path / "curve.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["return", "cost: a", "cost: b"]
    assert figure.axes[1].get_ylabel() == "steps before this one"
    folder = run_dir.RunFolder(result.path or Path())
    assert folder.curve.read_bytes() == (tmp_path / "curve.png").read_bytes()


def test_other_limits_compile_nothing(bounded: str) -> None:
    settings = changed(config=bounded_config(cost_limit={"a": 1.0, "b": (2.0, 3.0)}))
    with env_by_id("test/tally", Limited((5.0, 5.0))) as env:
        first = jml.run(bounded, env, **settings)
        with compilations() as observed:
            settings["config"] = bounded_config(cost_limit={"a": 4.0, "b": (INF, 3.0)}, lr=1e-2)
            other = jml.run(bounded, env, **settings)
    assert not observed
    np.testing.assert_array_equal(first.metrics["num_violations"][:, -1], [[[0, 0], [4, 4]]] * 2)
    np.testing.assert_array_equal(
        other.metrics["num_violations"][:, -1], [[[0, np.nan], [0, 4]]] * 2
    )
    assert (other.metrics["is_finite"] == 1).all(), "a limit of inf is no divergence"


def test_limits_go_through_a_folder(bounded: str, tmp_path: Path) -> None:
    env, settings = (
        Limited(None),
        changed(config=bounded_config(cost_limit={"a": INF, "b": [29.0, 31.0]})),
    )
    jml.run(bounded, env, out=tmp_path / "run", **settings)
    assert run_dir.read_config(tmp_path / "run")["config"]["cost_limit"] == {
        "a": INF,
        "b": [29.0, 31.0],
    }
    assert '"a": "Infinity"' in (tmp_path / "run" / "config.json").read_text()
    loaded = jml.load_run(tmp_path / "run", env)
    assert loaded.config == settings["config"] and isinstance(loaded.config.cost_limit, CostLimits)
    np.testing.assert_array_equal(loaded.limits, [[INF, 29], [INF, 31]])
    longer = jml.resume_run(tmp_path / "run", env=env, total_steps=updates(5), quiet=True)
    assert (longer.metrics["is_finite"] == 1).all()
    with pytest.raises(ValueError, match="config.cost_limit is"):
        jml.run(
            bounded,
            env,
            resume=tmp_path / "run",
            **changed(config=bounded_config(cost_limit={"b": 29.0})),
        )


def test_the_form_of_a_program_knows_which_limits_there_are_but_not_their_values() -> None:
    one, other = (
        compilation._static(bounded_config(lr=x, cost_limit={"a": x, "b": (x, 1)}))
        for x in (0.5, 0.25)
    )
    assert one == other and hash(one) == hash(other) and one.lr == BoundedConfig().lr
    assert one.cost_limit == CostLimits(("a", "b"), ((0.0,), (0.0, 0.0)))
    assert compilation._static(bounded_config()).cost_limit == CostLimits() != one.cost_limit
    assert BoundedConfig(lr=1, cost_limit={"a": INF}).cost_limit.values == ((INF,),)


def test_only_limits_may_be_infinite_in_a_learner() -> None:
    learner = {"config": bounded_config(cost_limit=INF), "theta": np.ones(2)}
    assert len(jax.tree.leaves(learner)) == 1 + len(leaves := cost_limits.learned_leaves(learner))
    assert not any(np.isinf(x).any() for x in leaves)


def test_a_run_keeps_the_limits_it_began_with(tmp_path: Path) -> None:
    """Also where its environment is an object whose own limits have changed since."""
    env = Limited(limits=(2.0, (3.0, 4.0)))
    settings = config("macpo", cost_limit={"a": 1.0})
    jml.run(
        "macpo",
        env,
        config=settings,
        total_steps=updates(1),
        num_evaluations=1,
        seeds=1,
        out=tmp_path,
        **SIZES,
    )
    other = Limited(limits=(9.0, 9.0))
    again = jml.resume_run(tmp_path, env=other, total_steps=updates(2), quiet=True)
    assert (
        again.limits.tolist()
        == jml.load_run(tmp_path, other).limits.tolist()
        == [[1.0, 3.0], [1.0, 4.0]]
    )


def test_limits_that_no_longer_fit_are_named(tmp_path: Path) -> None:
    env = Limited(limits=(2.0, 3.0))
    jml.run(
        "macpo",
        env,
        config=config("macpo"),
        total_steps=updates(1),
        num_evaluations=1,
        seeds=1,
        out=tmp_path,
        **SIZES,
    )
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"a"', '"nope"'))
    with pytest.raises(
        ValueError,
        match="cost in cost_limit of the run in .* is 'nope'; allowed is one of a, b",
    ):
        jml.load_run(tmp_path, env)
