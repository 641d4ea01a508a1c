"""One rule for numbers at every door: configs, `config={...}`, arguments of `run`, keywords of
environments."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmarl_lite as jml
from jaxmarl_lite import validation
from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.cli import train as cli_train
from jaxmarl_lite.envs.toys.games import Counter
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.report import run_dir

COUNTS: dict[str, Any] = dict(total_steps=64, num_evaluations=1, eval_episodes=2)
NO_NUMBERS = [
    None,
    "x",
    [1e-3],
    {},
    object(),
    np.array([1e-3, 1e-2]),
    np.float32(np.nan),
    jnp.float32(np.inf),
    True,
    np.bool_(True),
    10**400,
    1j,
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda x: str(x)[:20])
def test_what_is_no_number_is_refused_at_every_door(value: Any) -> None:
    doors = (
        lambda: jml.IPPOConfig(lr=value),
        lambda: dataclasses.replace(jml.IPPOConfig(), lr=value),
        lambda: experiment_config.make_run_config(
            "ippo", "toy/counter", config={"lr": value}, **COUNTS
        ),
    )
    for door in doors:
        with pytest.raises(ValueError, match=r"^IPPOConfig\.lr is .*; allowed is a .*number"):
            door()


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.float32, np.array, jnp.asarray])
def test_numbers_of_numpy_and_jax_are_pythons_and_are_checked(kind: Any) -> None:
    config = jml.MACPOConfig(backtrack_coeff=kind(0.5), cost_limit={"toll": kind(3.0)})
    assert type(config.backtrack_coeff) is float and config == jml.MACPOConfig(
        cost_limit={"toll": 3.0}
    )
    with pytest.raises(ValueError, match="lr is .*; allowed is a number from 0 to 10"):
        jml.IPPOConfig(lr=kind(-1e-3))
    plan, _ = experiment_config.make_run_config(
        "ippo", "toy/counter", config={"lr": kind(0.5)}, **COUNTS
    )
    assert type(plan.config.lr) is float and plan.config.lr == 0.5


def test_whole_numbers_may_be_written_with_an_exponent_and_bools_may_be_numpys() -> None:
    numbers: Any = dict(
        total_steps=1e6,
        num_envs=np.int64(4),
        num_evaluations=jnp.int32(2),
        eval_episodes=np.array(3),
    )
    others: Any = dict(
        stagger_episodes=np.bool_(True), seeds=np.arange(2), env_args={"goal": np.int32(2)}
    )
    plan, _ = experiment_config.make_run_config(
        "ippo", "toy/counter", config={"num_epochs": np.int8(2)}, **numbers, **others
    )
    assert (plan.total_steps, plan.num_envs, plan.num_evaluations, plan.eval_episodes) == (
        1_000_000,
        4,
        2,
        3,
    )
    assert type(plan.total_steps) is int and plan.stagger_episodes is True and plan.seeds == (0, 1)
    assert plan.env_args == {"goal": 2} and plan.config.num_epochs == 2
    for value in (1.5, float("nan"), "1e6", None, True, 10**16):
        with pytest.raises(ValueError, match="total_steps is .*; allowed is a whole number"):
            experiment_config.make_run_config(
                "ippo", "toy/counter", total_steps=value, num_evaluations=1, eval_episodes=1
            )


@pytest.mark.parametrize(
    "changes", [{"backtrack_coeff": np.float32(0.99)}, {"precision": "bfloat16"}]
)
def test_settings_of_a_run_can_be_read_again(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = jml.HATRPOConfig(**changes)
    assert settings != jml.HATRPOConfig()
    plan, _ = experiment_config.make_run_config("hatrpo", "toy/climbing", config=settings, **COUNTS)
    run_dir.create(tmp_path, plan.to_dict())
    assert experiment_config.read(tmp_path) == plan


def test_tree_functions_never_meet_the_checks_and_the_doors_do() -> None:
    env = jml.make("toy/counter")
    algorithm = jml.make_algorithm("mappo", env.spec, jml.MAPPOConfig(hidden_sizes=(8,)))
    init, _ = jml.make_train(algorithm, env, 4, 4)
    learner = jax.eval_shape(init, jax.random.key(0)).learner_state
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), learner)
    assert zeros.config.max_grad_norm == 0.0  # out of range, and no one's setting
    mask = jax.tree.map(lambda x: False, learner)
    optax.masked(optax.adam(1e-3), mask).init(zeros)
    assert jax.tree.map(lambda x: None, zeros.config).lr is None
    for wrong in (zeros.config, jax.tree.map(lambda x: jnp.stack([x, x]), zeros.config)):
        with pytest.raises(
            ValueError, match="MAPPOConfig.lr_anneal_steps|MAPPOConfig.max_grad_norm"
        ):
            init(jax.random.key(0), wrong)
        with pytest.raises(
            ValueError, match="MAPPOConfig.lr_anneal_steps|MAPPOConfig.max_grad_norm"
        ):
            jml.make_algorithm("mappo", env.spec, wrong)
        with pytest.raises(
            ValueError, match="MAPPOConfig.lr_anneal_steps|MAPPOConfig.max_grad_norm"
        ):
            experiment_config.make_run_config("mappo", "toy/counter", config=wrong, **COUNTS)


def test_keys_of_a_config_are_its_fields() -> None:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(jml.LIIRConfig())]
    assert [path[0].name for path in paths[:2]] == ["lr_anneal_steps", "lr_anneal_share"]  # type: ignore[attr-defined]
    assert jax.tree.structure(jml.LIIRConfig()) == jax.tree.structure(
        jml.LIIRConfig(intrinsic_coef=0.5)
    )
    assert jax.tree.structure(jml.LIIRConfig()) != jax.tree.structure(
        jml.LIIRConfig(hidden_sizes=(8,))
    )


def test_traced_settings_pass() -> None:
    built = jax.jit(lambda lr: dataclasses.replace(jml.IPPOConfig(), lr=lr))(0.5)
    assert built.lr == 0.5
    vmapped = jax.vmap(lambda x: jml.MACPOConfig(cost_limit={"a": x, "b": (x, x)}))(jnp.arange(3.0))
    assert vmapped.cost_limit.values[1][0].shape == (3,)


def test_arrays_with_values_are_plain_numbers_inside_a_trace_too() -> None:
    limits = jnp.array([1.0, 2.5])

    @jax.jit
    def traced(x: jax.Array) -> jax.Array:
        assert validation.to_plain({"limits": limits}) == {"limits": (1.0, 2.5)}
        return x

    traced(0.0)


@pytest.mark.parametrize(
    ("algorithm", "settings", "field"),
    [
        ("ippo", {"shared_torso": True, "critic_lr": 1e-3}, "critic_lr"),
        ("ippo", {"vf_coef": 0.1}, "vf_coef"),
        ("mappo", {"optimizer": "sgd", "eps_root": 1e-3}, "eps_root"),
        ("mappo", {"rnn_hidden_size": 8}, "rnn_hidden_size"),
        ("mappo", {"hidden_sizes": (), "precision": "bfloat16"}, "precision"),
        ("qmix", {"mixer": "vdn", "mixing_embed_dim": 8}, "mixing_embed_dim"),
        ("qmix", {"mixer": "vdn", "hypernet_embed_dim": 8}, "hypernet_embed_dim"),
        ("hatrpo", {"line_search_steps": 1, "backtrack_coeff": 0.8}, "backtrack_coeff"),
        ("happo", {"num_epochs": 1, "num_minibatches": 1, "clip_eps": 0.1}, "clip_eps"),
    ],
)
def test_a_setting_without_effect_is_refused(
    algorithm: str, settings: dict[str, Any], field: str
) -> None:
    kind = jml.ALGORITHMS[algorithm][0]
    with pytest.raises(
        ValueError,
        match=rf"^{kind.__name__}\.{field} is .*, which has no effect with.*; allowed is",
    ):
        kind(**settings)
    value = settings.pop(field)
    built = base_config.override(kind, {field: value}, settings)  # as a preset has it
    assert getattr(built, field) == getattr(kind, field)
    with pytest.raises(ValueError, match=field):
        base_config.override(kind, {}, settings | {field: value})


@pytest.mark.parametrize("name", ["hatrpo", "macpo"])
def test_settings_of_gradient_steps_are_none_of_a_trust_region(name: str) -> None:
    kind = jml.ALGORITHMS[name][0]
    for field in ("lr", "clip_eps", "entropy_coef"):
        assert field not in {item.name for item in dataclasses.fields(kind)}
        with pytest.raises(ValueError, match=f"field of config is '{field}'; allowed"):
            experiment_config.make_run_config(name, "toy/budget", config={field: 0.1}, **COUNTS)
    plan, _ = experiment_config.make_run_config(name, "toy/budget", **COUNTS)
    stored = plan.to_dict()
    assert experiment_config.from_dict(stored, "config.json") == plan
    with pytest.raises(ValueError, match="field of config.json: config is 'lr'; allowed"):
        experiment_config.from_dict(
            stored | {"config": stored["config"] | {"lr": 3e-4}}, "config.json"
        )


def test_stored_configs_have_one_reader(tmp_path: Path) -> None:
    plan, _ = experiment_config.make_run_config(
        "ippo", "toy/risky", env_args={"limit": float("inf")}, **COUNTS
    )
    run_dir.create(tmp_path, plan.to_dict())
    assert experiment_config.read(tmp_path) == plan and plan.env_args == {"limit": float("inf")}
    path = tmp_path / "config.json"
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert experiment_config.read(tmp_path) == plan
    for broken in (b"", b"[" * 100_000, text[:-20], b"[]", b"\xff"):
        path.write_bytes(broken)
        with pytest.raises(run_dir.RunFolderError, match=r"config\.json is damaged"):
            experiment_config.read(tmp_path)
    stored = json.loads(text)
    for field, value in (
        ("seeds_in_parallel", 0),
        ("num_envs", []),
        ("env_args", 1),
        ("seeds", 10**23),
        ("algorithm", []),
        ("num_evaluations", 10**9),
        ("greedy", None),
        ("total_steps", 10**400),
        ("env", 5),
    ):
        with pytest.raises(ValueError, match=rf"{field} is .*; allowed"):
            experiment_config.from_dict(stored | {field: value}, path)


def test_a_longer_run_is_a_whole_number_of_at_least_what_was_planned() -> None:
    plan, _ = experiment_config.make_run_config("ippo", "toy/counter", **COUNTS)
    longer = experiment_config.extend(plan, 2e2)  # type: ignore[arg-type]
    assert type(longer.total_steps) is int and longer.total_steps == 200
    for value in (1.5, True, float("nan"), "x", 63):
        with pytest.raises(ValueError, match="total_steps is .*; allowed is"):
            experiment_config.extend(plan, value)


def test_values_are_shown_in_one_short_line() -> None:
    class Loud:
        def __repr__(self) -> str:
            return "a\nb" * 1000

    for value in (Loud(), np.zeros((50, 50)), 10**5000):
        text = validation.show(value)
        assert "\n" not in text and len(text) <= 120


def test_words_for_whole_numbers() -> None:
    assert cli_train.to_int("1e6") == 10**6 and cli_train.to_int("12") == 12
    for word in ("1.5", "nan", "inf", "x", ""):
        with pytest.raises(ValueError):
            cli_train.to_int(word)


def test_an_environment_that_stores_traced_numbers_is_reported() -> None:
    class Cached(Counter):
        def reset(self, key: Any) -> Any:
            object.__setattr__(self, "total", jnp.zeros(()) + jax.random.uniform(key))
            return super().reset(key)

    with pytest.raises(
        ValueError, match="reset keeps traced numbers in the environment's own field 'total'"
    ):
        jml.check_environment(Cached())


@pytest.mark.parametrize(
    "change", [{"name": 5}, {"max_return": np.nan}, {"return_description": 5}, {"can_diverge": 1}]
)
def test_words_and_numbers_of_a_spec_are_checked(change: dict[str, Any]) -> None:
    class Odd(Counter):
        spec = dataclasses.replace(Counter().spec, **change)  # type: ignore[assignment]

    with pytest.raises(ValueError, match=rf"spec\.{next(iter(change))} is"):
        jml.check_environment(Odd())


def test_functions_of_training_refuse_what_cannot_be() -> None:
    env = jml.make("toy/counter")
    algorithm = jml.make_algorithm("ippo", env.spec, jml.IPPOConfig(hidden_sizes=(8,)))
    init, train = jml.make_train(algorithm, env, np.int64(4), 4)  # type: ignore[arg-type]
    state = jax.eval_shape(init, jax.random.key(0))
    for updates in (-1, 1.5, "x", None):
        with pytest.raises(ValueError, match="num_updates is .*; allowed is a whole number"):
            train(state, updates)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state is None; allowed is a TrainState"):
        train(None, 1)  # type: ignore[arg-type]
    for key in (0, None, jax.random.split(jax.random.key(0), 2)):
        with pytest.raises(ValueError, match="key is .*; allowed is"):
            init(key)
    other = jml.make("toy/climbing")
    for make in (
        lambda: jml.make_evaluate(algorithm, other, 2),
        lambda: jml.make_play(algorithm, other, 2),
    ):
        with pytest.raises(ValueError, match="env has obs_size 3; allowed is 1"):
            make()
    for wrong in ("x", 1):
        with pytest.raises(ValueError, match="stagger_episodes is .*; allowed is True or False"):
            jml.make_train(algorithm, env, 4, 4, wrong)  # type: ignore[arg-type]


def test_paths_begin_at_home_where_they_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert validation.check_path("out", "~/runs") == tmp_path / "runs"
    for value in ("", "a\0b", 5, None, [], b"x"):
        with pytest.raises(ValueError, match="out is .*; allowed is the path"):
            validation.check_path("out", value)
