"""`run`, `Result` and `load_run`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import SIZES, Closed, Lottery, assert_same_bits, config, rows, updates

import jaxmarl_lite as jml
from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import random_policy
from jaxmarl_lite.envs.wrappers import Cost, with_costs
from jaxmarl_lite.evaluate import make_evaluate
from jaxmarl_lite.experiment import compilation, presets, runner
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.report import checkpoint, metrics, run_dir

RUN: dict[str, Any] = dict(SIZES, seeds=2, total_steps=updates(4), num_evaluations=2)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """What is compiled meanwhile."""
    observed: list[str] = []

    def note(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            observed.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield observed
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> jml.Result:
    return jml.run(
        "ippo", "toy/counter", config=config("ippo"), out=tmp_path_factory.mktemp("run"), **RUN
    )


def test_curves_are_arrays_of_seeds_and_evaluations(result: jml.Result) -> None:
    assert result.steps.tolist() == [0, 32, 64] and result.returns.shape == (2, 3)
    assert np.isfinite(result.returns).all() and result.random_returns is not None
    assert result.random_returns.shape == (2,) and result.spec.max_return == 1.0
    assert (
        np.isnan(result.metrics["entropy"][:, 0]).all()
        and np.isfinite(result.metrics["entropy"][:, 1:]).all()
    )
    assert jax.tree.leaves(result.states)[0].shape[
        0
    ] == 2 and result.states.num_updates.tolist() == [4, 4]
    assert (
        "IQM" in result.summary()
        and "random policy" in result.summary()
        and "final return" in repr(result)
    )


def test_a_folder_holds_all_that_a_run_is(result: jml.Result) -> None:
    folder = run_dir.RunFolder(result.path or Path())
    for path in (folder.config, folder.versions, folder.metrics, folder.marl_eval, folder.curve):
        assert path.stat().st_size > 0
    assert any(folder.tensorboard.iterdir()) and checkpoint.steps(folder.checkpoints) == [2, 4]
    nested = json.loads(folder.marl_eval.read_text())["toy"]["counter"]["ippo"]["seed_0"]
    assert nested["step_2"]["step_count"] == 64 and nested["step_2"]["eval_return"] == [
        result.returns[0, 2]
    ]
    for row in run_dir.load(folder.path).rows:
        for name in set(row) - {"update", "step", "seed"}:
            metrics.describe(name)


def test_a_loaded_run_is_the_run(result: jml.Result) -> None:
    loaded = jml.load_run(result.path or Path())
    np.testing.assert_array_equal(loaded.returns, result.returns)
    np.testing.assert_array_equal(loaded.random_returns, result.random_returns)
    assert loaded.plan == result.plan and set(loaded.metrics) == set(result.metrics)
    assert loaded.timings.training_seconds == pytest.approx(result.timings.training_seconds)
    assert_same_bits(loaded.states, result.states)


def test_a_trained_policy_acts(result: jml.Result) -> None:
    _state, timestep = result.env.reset(jax.random.key(0))
    for greedy in (True, False):
        policy = result.policy(1, greedy=greedy)
        policy.reset(jax.random.key(0))
        actions = np.stack([policy(timestep.obs) for _ in range(8)])
        assert actions.shape == (8, 2) and set(actions.ravel()) <= {0, 1}
        policy.reset(jax.random.key(0))
        np.testing.assert_array_equal(actions, np.stack([policy(timestep.obs) for _ in range(8)]))
        assert not greedy or (actions == actions[0]).all()
    with pytest.raises(ValueError, match="seed is 7; allowed is one of 0, 1"):
        result.policy(7)


@pytest.mark.parametrize("greedy", [True, False])
def test_what_is_played_follows_the_runs_own_rule(result: jml.Result, greedy: bool) -> None:
    run = dataclasses.replace(result, plan=dataclasses.replace(result.plan, greedy=greedy))
    _, timestep = run.env.reset(jax.random.key(0))
    policy, said = run.policy(), run.policy(greedy=greedy)
    actions = np.stack([policy(timestep.obs) for _ in range(16)])
    np.testing.assert_array_equal(actions, np.stack([said(timestep.obs) for _ in range(16)]))
    assert (actions == actions[0]).all() == greedy
    for other in (greedy, not greedy):
        same = np.array_equal(
            run.episode(episode_seed=1).action, run.episode(episode_seed=1, greedy=other).action
        )
        assert same == (other == greedy)
    with pytest.raises(ValueError, match="greedy is 'yes'; allowed is True or False"):
        run.episode(greedy="yes")  # type: ignore[arg-type]


def test_the_curve_is_one_call(result: jml.Result, tmp_path: Path) -> None:
    figure = result.plot(tmp_path / "curve.png")
    assert figure.axes and (tmp_path / "curve.png").exists()


def test_floats_and_seeds_compile_nothing(result: jml.Result) -> None:
    jml.run("ippo", "toy/counter", **RUN)  # whatever was let go of before
    with compilations() as observed:
        other = jml.run(
            "ippo",
            "toy/counter",
            **RUN | dict(config=config("ippo", lr=1e-2, gamma=0.5), seeds=(9, 4)),
        )
    assert not observed
    assert (other.returns != result.returns).any() and other.path is None
    with compilations() as observed:  # the listener does hear
        jax.jit(lambda x: x + 0.123456)(1.0)
    assert observed


def test_the_same_run_is_the_same_bits_whatever_the_chunks(
    result: jml.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.Runner, "_chunk_updates", lambda self, pace, left: left)
    again = jml.run("ippo", "toy/counter", config=config("ippo"), out=tmp_path / "one", **RUN)
    monkeypatch.setattr(runner.Runner, "_chunk_updates", lambda self, pace, left: 1)
    jml.run("ippo", "toy/counter", config=config("ippo"), out=tmp_path / "two", **RUN)
    assert_same_bits(again.states, result.states)
    assert rows(tmp_path / "one") == rows(tmp_path / "two") == rows(result.path or Path())


def test_seeds_begin_as_init_does(result: jml.Result) -> None:
    init, _ = jml.make_train(
        jml.make_algorithm("ippo", result.spec, config("ippo")), result.env, 4, 4
    )
    compiled, _ = compilation.compile_run(result.plan, result.env)
    states = compiled.init(np.asarray([0, 1], np.uint32), jax.tree.map(np.float32, config("ippo")))
    policy = jax.tree.map(lambda x: x[1], states.learner_state.actor_params)
    for a, b in zip(
        *map(jax.tree.leaves, (policy, init(jax.random.key(1)).learner_state.actor_params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_one_program_plays_the_random_policy_and_the_learned_one(result: jml.Result) -> None:
    compiled, _ = compilation.compile_run(result.plan, result.env)
    seeds, learners = np.asarray([0, 1], np.uint32), result.states.learner_state
    # a policy that is far from uniform: an untrained one plays almost as the random one
    learners = learners._replace(
        actor_params=jax.tree.map(lambda x: 1000.0 * x, learners.actor_params)
    )
    played = compiled.evaluate(learners, seeds, np.int32(3), np.bool_(True))
    play = make_evaluate(random_policy.random_policy(result.spec), result.env, 4)
    expected = play((), keys.for_purpose(jax.random.key(1), keys.RANDOM_POLICY))
    np.testing.assert_allclose(played.returns[1], expected.returns, rtol=1e-6)
    learned = compiled.evaluate(learners, seeds, np.int32(3), np.bool_(False))
    assert not np.array_equal(learned.returns, played.returns)


def test_options_that_a_compiler_does_not_know_are_left_out() -> None:
    lowered = jax.jit(lambda x: x + 1.0).lower(np.float32(1.0))
    options = {"xla_backend_optimization_level": 0, "xla_of_another_version": True}
    assert compilation._Program("init", lowered, options).compile()(np.float32(1.0)) == 2.0
    with pytest.raises(jax.errors.JaxRuntimeError, match="level"):  # a value that it refuses
        wrong = options | {"xla_backend_optimization_level": "high"}
        compilation._Program("init", lowered, wrong).compile()


def test_seeds_side_by_side_learn_the_same(result: jml.Result) -> None:
    beside = jml.run("ippo", "toy/counter", config=config("ippo"), seeds_in_parallel=2, **RUN)
    np.testing.assert_allclose(beside.metrics["entropy"], result.metrics["entropy"], rtol=1e-4)


@pytest.mark.slow
def test_seeds_in_groups_and_a_rest_learn_the_same() -> None:
    three = dict(RUN, seeds=3, total_steps=updates(2), config=config("ippo"))
    grouped, alone = (jml.run("ippo", "toy/counter", seeds_in_parallel=n, **three) for n in (2, 1))
    assert grouped.metrics["entropy"].shape[0] == 3
    np.testing.assert_allclose(grouped.metrics["entropy"], alone.metrics["entropy"], rtol=1e-4)


LOTTERY = dict(SIZES, seeds=(1, 2, 3), total_steps=updates(4), num_evaluations=4)


def test_a_diverged_seed_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = Lottery(1e30, 20.0)
    settings = dict(LOTTERY, config=config("ippo"), quiet=False)
    hit = jml.run("ippo", env, out=tmp_path, **settings)
    lost = np.isnan(hit.returns[:, -1])
    assert lost.sum() == 1, "the draw of these seeds hits one of them"
    seed = int(np.asarray(hit.seeds)[lost][0])
    assert (
        f"seed {seed} diverged at update" in (said := capsys.readouterr().out)
        and "2 of 3 seeds" in said
    )
    assert hit.metrics["is_finite"][lost, -1] == 0 and (hit.metrics["is_finite"][~lost] == 1).all()
    others = tuple(s for s in hit.seeds if s != seed)
    calm = jml.run("ippo", env, **dict(settings, seeds=(*others, 20), quiet=True))
    np.testing.assert_array_equal(hit.returns[~lost], calm.returns[:2])
    stored = [row for row in run_dir.load(tmp_path).rows if row["seed"] == seed]
    assert stored[-1]["is_finite"] == 0 and np.isnan(stored[-1]["eval_return"])
    longer = jml.resume_run(tmp_path, env=env, total_steps=updates(5), quiet=True)
    assert longer.metrics["is_finite"][lost, -1] == 0 and np.isfinite(longer.returns[~lost]).all()


def test_when_all_seeds_diverge_the_run_stops(tmp_path: Path) -> None:
    with pytest.raises(jml.RunError, match="all 3 seeds have diverged"):
        jml.run("ippo", Lottery(1e30, 1000.0), out=tmp_path, config=config("ippo"), **LOTTERY)
    assert checkpoint.latest(tmp_path / "checkpoints") == 0


RARE = dict(LOTTERY, seeds=8, total_steps=updates(40), num_evaluations=4)
"""Eight seeds of about 350 episodes; the protocol's check plays an episode of its own, which a rare
fault escapes."""


def test_a_seed_whose_environment_gives_no_number_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env, loud = Lottery(float("nan"), 2.0), dict(RARE, quiet=False, config=config("ippo"))
    hit = jml.run("ippo", env, out=tmp_path, **loud)
    seeds, lost = np.asarray(hit.seeds), np.isnan(hit.returns[:, -1])
    assert lost.any() and not lost.all(), "each is hit with a probability of about one half"
    said = capsys.readouterr().out
    for seed in seeds[lost]:
        assert (
            f"environment test/lottery gave a reward that is not finite to seed {seed} in " in said
        )
    assert f"to seed {seeds[~lost][0]}" not in said and "smaller lr" not in said
    assert hit.diverged == tuple(seeds[lost]) and (hit.metrics["is_finite"][~lost] == 1).all()
    others = seeds[~lost].tolist()
    calm = jml.run(
        "ippo", env, **dict(loud, seeds=(*others, *range(20, 20 + lost.sum())), quiet=True)
    )
    np.testing.assert_array_equal(hit.returns[~lost], calm.returns[: len(others)])
    longer = jml.resume_run(tmp_path, env=env, total_steps=updates(44))
    assert f"to seed {seeds[lost][0]} in " in capsys.readouterr().out
    assert (
        np.isnan(longer.returns[lost, -1]).all() and longer.returns.shape[1] > hit.returns.shape[1]
    )


def test_when_the_environment_leaves_no_seed_the_run_stops(tmp_path: Path) -> None:
    everywhere = dict(RARE, config=config("ippo"), out=tmp_path)
    text = "no seed is left of 8.*environment test/lottery gave a reward that is not finite to seed"
    with pytest.raises(jml.RunError, match=text):
        jml.run("ippo", Lottery(float("inf"), 100.0), **everywhere)
    assert checkpoint.latest(tmp_path / "checkpoints") is not None


def test_a_cost_that_is_no_number_names_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    tax = Cost(
        "tax",
        "nothing",
        lambda state, action, next_state: jnp.where(next_state.drawn, jnp.nan, 0.0) * jnp.ones(2),
    )
    rare = with_costs(Lottery(0.0, 2.0), [tax])
    result = jml.run("ippo", rare, config=config("ippo"), **dict(RARE, quiet=False))
    assert result.diverged and "gave a cost that is not finite to seed" in capsys.readouterr().out


@dataclasses.dataclass(frozen=True)
class Blind(Lottery):
    """A lottery whose drawn worlds spoil a field of the time step after their first step."""

    field: str = "agents_view"

    def step(self, state: Any, action: Any) -> Any:
        state, timestep = super().step(state._replace(drawn=state.drawn), action)
        wrong = jnp.where(state.drawn & (state.time == 1), -jnp.inf, 0.0)
        if self.field == "discount":
            return state, timestep._replace(discount=timestep.discount + wrong)
        obs = timestep.obs
        if self.field == "action_mask":
            obs = obs._replace(action_mask=obs.action_mask & (wrong == 0))
        else:
            obs = obs._replace(**{self.field: getattr(obs, self.field) + wrong})
        return state, timestep._replace(obs=obs)


@pytest.mark.parametrize(
    ("field", "algorithm"),
    [("agents_view", "ippo"), ("global_state", "mappo"), ("discount", "ippo")],
)
def test_wrong_numbers_are_reported_as_the_environments(
    field: str, algorithm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dict(LOTTERY, seeds=2, config=config(algorithm), quiet=False)
    article = "an" if field == "agents_view" else "a"
    text = f"environment test/blind gave {article} {field} that is not finite to seed"
    with pytest.raises(jml.RunError, match=f"no seed is left of 2.*{text}") as caught:
        jml.run(algorithm, Blind(0.0, 50.0, "test/blind", field), **settings)
    assert text in capsys.readouterr().out and "lr" not in str(caught.value)


def test_a_mask_without_a_legal_action_is_named_where_it_breaks_learning() -> None:
    play = jml.make_evaluate(
        jml.make_algorithm("ippo", Lottery(0.0, 0.0).spec, config("ippo")), Blind(0.0, 1000.0), 3
    )
    from jaxmarl_lite import rollout

    learner = jml.make_train(
        jml.make_algorithm("ippo", Lottery(0.0, 0.0).spec, config("ippo")), Lottery(0.0, 0.0), 2
    )
    state = learner[0](jax.random.key(0)).learner_state
    assert play(state, jax.random.key(0)).faults.tolist() == [1, 1, 1]  # the view's bit
    _, timestep = Blind(0.0, 1000.0, field="action_mask").step(
        Lottery(0.0, 1000.0).reset(jax.random.key(0))[0], jnp.zeros(2)
    )
    assert int(rollout.env_faults(timestep)) == 1 << rollout.ENV_FIELDS.index("action_mask")
    out_of_play = timestep._replace(obs=timestep.obs._replace(alive=jnp.zeros(2, bool)))
    assert int(rollout.env_faults(out_of_play)) == 0


@dataclasses.dataclass(frozen=True)
class Breaking(Lottery):
    """A lottery whose drawn worlds say that they broke."""

    @property
    def spec(self) -> Any:
        return dataclasses.replace(super().spec, can_diverge=True)

    def is_non_finite(self, state: Any) -> Any:
        return state.drawn


def test_episodes_that_broke_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    actual = jml.run(
        "ippo", Breaking(0.0, 500.0), config=config("ippo"), **dict(LOTTERY, quiet=False)
    ).metrics
    said = capsys.readouterr().out
    counts = actual["non_finite_episodes"][:, 1:]
    assert (
        counts.shape == (3, 4) and (counts > 0).any() and (counts < actual["episodes"][:, 1:]).any()
    )
    assert (
        f"seed 1: {counts[0][counts[0] > 0][0]:g} episodes ended because the environment's numbers "
        "were not finite" in said
    )


@dataclasses.dataclass(frozen=True)
class Winning(Lottery):
    """A lottery whose drawn worlds are won."""

    @property
    def spec(self) -> Any:
        return dataclasses.replace(super().spec, win_condition="the world was drawn")

    def is_win(self, state: Any) -> Any:
        return state.drawn & (state.time >= 2)


def test_win_rates_are_counted_shown_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = jml.run(
        "ippo", Winning(1000.0, 300.0), config=config("ippo"), out=tmp_path / "won", **LOTTERY
    )
    assert result.win_rates is not None and result.win_rates.shape == result.returns.shape
    np.testing.assert_allclose(
        result.win_rates, result.returns / 2000.0, atol=2.0 / 2000.0
    )  # a draw returns 2,000
    assert 0 < result.win_rates.mean() < 1
    trained = result.metrics["win_rate"][:, 1:]
    np.testing.assert_allclose(
        trained, result.metrics["episode_return"][:, 1:] / 2000.0, atol=2.0 / 2000.0
    )
    assert (
        f"{result.final_win_rate().estimate:.2f}" in result.summary()
        and "win rate" in result.summary()
    )
    picture = result.plot(tmp_path / "curve.png")
    assert [axes.get_ylabel() for axes in picture.axes][1] == "share of won episodes"
    again = jml.load_run(tmp_path / "won", Winning(1000.0, 300.0))
    np.testing.assert_array_equal(again.win_rates, result.win_rates)
    with pytest.raises(
        ValueError,
        match="test/lottery has no wins; allowed is a run in an environment that reports",
    ):
        jml.run("ippo", Lottery(0.0, 0.0), config=config("ippo"), **LOTTERY).final_win_rate()


def test_an_environment_without_a_hash_is_compiled_once() -> None:
    class Unhashable(Closed):
        __hash__ = None  # type: ignore[assignment]

    one_env = Unhashable()
    options = {name: value for name, value in RUN.items() if name != "quiet"}
    forms = [
        compilation._program_key(*experiment_config.make_run_config("ippo", env, **options))
        for env in (one_env, one_env, Unhashable())
    ]
    assert forms[0] == forms[1] != forms[2] and hash(forms[0]) == hash(forms[1])


def test_bad_input_is_one_error_before_anything_is_compiled(
    tmp_path: Path, result: jml.Result
) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("algorithm is 'lir'.*nearest: liir", {"algorithm": "lir"}),
        ("toy/conter.*toy/counter", {"env": "toy/conter"}),
        ("num_envs is 0", {"num_envs": 0}),
        ("num_steps is 2.5", {"num_steps": 2.5}),
        ("seeds is 0", {"seeds": 0}),
        ("seeds is .*different whole numbers", {"seeds": (1, 1)}),
        ("seeds is True", {"seeds": True}),
        ("total_steps is -1", {"total_steps": -1}),
        ("num_evaluations is 0", {"num_evaluations": 0}),
        ("eval_episodes is 0", {"eval_episodes": 0}),
        ("seeds_in_parallel is 0", {"seeds_in_parallel": 0}),
        ("num_envs is 3 and num_minibatches is 2", {"num_envs": 3}),
        ("devices is 99", {"devices": 99}),
        ("shard_over is 'rows'", {"shard_over": "rows"}),
        ("env_args is", {"env": Closed(), "env_args": {"a": 1}}),
        ("has no `spec`", {"env": object()}),
        ("already holds a run", {"out": result.path}),
        ("is a file; allowed is a folder", {"out": __file__}),
        ("max_checkpoints is 0", {"max_checkpoints": 0}),
        ("greedy is 'no'; allowed is True or False", {"greedy": "no"}),
        ("stagger_episodes is 1; allowed is True or False", {"stagger_episodes": 1}),
        (
            "parameter_sharing is 'no'; allowed is True or False",
            {"config": {"parameter_sharing": "no"}},
        ),
        ("lr is None; allowed is a number from 0 to 10, or a sched", {"config": {"lr": None}}),
        ("field of config is 3; allowed is one of", {"config": {3: 1}}),
        (
            "vf_coef is 3.0, which has no effect without shared_torso; allowed",
            {"config": {"vf_coef": 3.0}},
        ),
    ]
    with compilations() as observed:
        for text, change in cases:
            with pytest.raises((ValueError, run_dir.RunFolderError), match=text):
                jml.run(
                    **{
                        "algorithm": "ippo",
                        "env": "toy/counter",
                        "config": config("ippo"),
                        **RUN,
                        **change,
                    }
                )
    assert not observed


def test_without_wandb_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"pip install jaxmarl-lite\[wandb\]"):
        jml.run(
            "ippo",
            "toy/counter",
            config=config("ippo"),
            loggers=["wandb"],
            out=tmp_path / "run",
            **RUN,
        )
    assert not (tmp_path / "run").exists()


def test_tuned_defaults_stand_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = {("ippo", "toy/counter"): {"num_envs": 8, "lr": 0.25, "stagger_episodes": True}}
    monkeypatch.setattr(presets, "DEFAULTS", tuned)
    counts = dict(total_steps=1, num_evaluations=1, eval_episodes=1)
    actual, _ = experiment_config.make_run_config("ippo", "toy/counter", **counts)
    assert (actual.num_envs, actual.num_steps, actual.stagger_episodes, actual.config.lr) == (
        8,
        64,
        True,
        0.25,
    )
    actual, _ = experiment_config.make_run_config(
        "ippo", "toy/counter", num_envs=2, stagger_episodes=False, config=jml.IPPOConfig(), **counts
    )
    assert (actual.num_envs, actual.stagger_episodes, actual.config.lr) == (
        2,
        False,
        jml.IPPOConfig().lr,
    )
    untuned, _ = experiment_config.make_run_config("ippo", "toy/memory", **counts)
    assert (untuned.num_envs, untuned.stagger_episodes) == (64, False)
    tuned["ippo", "toy/"] = {"num_steps": 16}
    assert experiment_config.make_run_config("ippo", "toy/memory", **counts)[0].num_steps == 16
    assert experiment_config.make_run_config("ippo", "toy/counter", **counts)[0].num_steps == 64
    assert (
        experiment_config.make_run_config("ippo", "delayed/toy/counter", **counts)[0].config.lr
        == 0.25
    )
    tuned["mappo", ""] = {"num_steps": 8}
    assert experiment_config.make_run_config("mappo", "toy/memory", **counts)[0].num_steps == 8
    assert experiment_config.make_run_config("ippo", "toy/memory", **counts)[0].num_steps == 16


def test_every_preset_fits_its_algorithm() -> None:
    for algorithm, env_id in presets.DEFAULTS:
        fields = presets.lookup(algorithm, env_id).fields
        built = jml.ALGORITHMS[algorithm][0](**fields)
        assert all(getattr(built, name) == value for name, value in fields.items())


def test_a_plan_goes_through_json(tmp_path: Path) -> None:
    settings = jml.LIIRConfig(hidden_sizes=(3, 5), intrinsic_coef=0.5, meta_gradient="immediate")
    options, _ = experiment_config.make_run_config(
        "liir",
        "toy/reach",
        config=settings,
        env_args={"dims": (1, 2)},
        seeds=(7,),
        total_steps=1,
        num_evaluations=1,
        eval_episodes=1,
    )
    run_dir.create(tmp_path, options.to_dict())
    assert experiment_config.read(tmp_path) == options
    wrong = (
        ({"lr": 1}, "field of config.json is 'lr'; allowed"),
        (
            {"config": {"intrinsic_coeff": 1}},
            "config is 'intrinsic_coeff'; allowed is .*; nearest: intrinsic_coef",
        ),
    )
    for change, text in wrong:
        with pytest.raises(ValueError, match=text):
            experiment_config.from_dict(options.to_dict() | change, "config.json")
    with pytest.raises(ValueError, match="lacks the field 'env'"):
        experiment_config.from_dict(
            {k: v for k, v in options.to_dict().items() if k != "env"}, "config.json"
        )


def test_public_names_are_there() -> None:

    assert callable(jml.run) and jml.__version__
    for name in jml.__all__:
        assert getattr(jml, name) is not None
    assert dataclasses.is_dataclass(jml.LIIRConfig)


def test_every_module_is_there_in_a_fresh_process() -> None:
    package = Path(jml.__file__).parent
    parts = [path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")]
    names = sorted(".".join(part) for part in parts if not part[-1].startswith("__"))
    assert {"ops.returns", "envs.toys.games", "experiment.result", "train"} <= {*names}
    code = "import jaxmarl_lite as jml, operator\n"
    code += "assert not hasattr(jml, 'nothing') and not hasattr(jml.networks, 'nothing')\n"
    code += (
        f"for name in {names}:\n    assert operator.attrgetter(name)(jml).__name__ == "
        f"f'jaxmarl_lite.{{name}}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_an_episode_of_what_was_learned(tmp_path: Path) -> None:
    result = jml.run("liir", "toy/pursuit", config=config("liir"), **RUN)
    episode = result.episode(seed=1, episode_seed=3, greedy=True)
    length, env = episode.length, result.env
    assert 1 <= length <= 20 and len(episode.states) == length + 1
    for current, then, action, reward in zip(
        episode.states[:-1], episode.states[1:], episode.action, episode.team_reward, strict=True
    ):
        next_state, timestep = env.step(current, jnp.asarray(action))
        assert_same_bits(next_state, then)
        assert timestep.reward[0] == reward
    policy = result.policy(seed=1, greedy=True)
    _, timestep = env.reset(jax.random.split(keys.for_purpose(3, keys.PLAY))[0])
    np.testing.assert_array_equal(policy(timestep.obs), episode.action[0])
    assert episode.intrinsic_reward is not None
    same = {}  # shared weights: a number of view and action
    for view, action, r in zip(
        episode.agents_view.reshape(-1),
        episode.action.reshape(-1),
        episode.intrinsic_reward.reshape(-1),
        strict=True,
    ):
        assert same.setdefault((float(view), int(action)), float(r)) == pytest.approx(
            float(r), abs=1e-6
        )
    assert (
        result.plot_intrinsic_rewards(tmp_path / "r.png", episode=episode).axes
        and (tmp_path / "r.png").exists()
    )
    assert result.episode(seed=0).intrinsic_reward is not None
    with pytest.raises(ValueError, match="seed is 2; allowed is one of 0, 1"):
        result.episode(seed=2)
    plain = jml.run("ippo", "toy/counter", config=config("ippo"), **RUN)
    assert plain.episode().intrinsic_reward is None
    with pytest.raises(ValueError, match="ippo learns no reward; allowed is a run of an algorithm"):
        plain.plot_intrinsic_rewards()


def test_some_settings_by_name_leave_the_others_as_tuned() -> None:
    tuned = presets.lookup("macpo", "toy/budget").fields
    sizes = dict(total_steps=64, num_evaluations=1, eval_episodes=4)
    built, _ = experiment_config.make_run_config(
        "macpo", "toy/budget", config={"target_kl": 0.5}, **sizes
    )
    assert built.config.target_kl == 0.5 != jml.MACPOConfig().target_kl
    assert all(
        getattr(built.config, name) == value != getattr(jml.MACPOConfig(), name)
        for name, value in tuned.items()
    )
    with pytest.raises(ValueError, match="field of config is 'lamda'"):
        experiment_config.make_run_config("liir", "toy/counter", config={"lamda": 0.5}, **sizes)
    with pytest.raises(ValueError, match="LIIRConfig.intrinsic_coef is -1.0; allowed"):
        experiment_config.make_run_config(
            "liir", "toy/counter", config={"intrinsic_coef": -1}, **sizes
        )
