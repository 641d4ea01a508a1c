import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import Tally, algorithm, counted, get_env

import jaxmarl_lite as jml
from jaxmarl_lite import platforms, train

SIZES = {"num_envs": 4, "num_steps": 6}
RICH = {
    "recurrent": True,
    "normalize_observations": True,
    "normalize_values": True,
    "parameter_sharing": False,
    "lr": 0.01,
}
"""Settings under which every part of the state is at work."""


def _pure(name="mappo", env_id="toy/early-death", **settings):
    env = get_env(env_id)
    return train.make_train(algorithm(name, env, **settings), env, **SIZES)


def _plain(tree):
    return jax.tree.map(
        lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
        tree,
    )


def _assert_same(result, expected, **tolerance):
    """Every leaf, bit for bit unless a tolerance is given; NaN (no episode ended) equals NaN."""
    result, expected = jax.tree.leaves_with_path(_plain(result)), jax.tree.leaves(_plain(expected))
    for (path, a), b in zip(result, expected, strict=True):
        np.testing.assert_allclose(
            a,
            b,
            **{"rtol": 0, "atol": 0} | tolerance,
            equal_nan=True,
            err_msg=jax.tree_util.keystr(path),
        )


@pytest.fixture(scope="module")
def rich():
    """`(begin, go)` compiled, of a run with all parts."""
    init, go = _pure(**RICH)
    return jax.jit(init), jax.jit(go, static_argnums=1)


def test_four_updates_are_two_and_two_bit_for_bit(rich):
    begin, go = rich
    start = begin(jax.random.key(3))
    full, metrics = go(start, 4)
    half, previous = go(start, 2)
    again, rest = go(half, 2)
    _assert_same(again, full)
    _assert_same(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), previous, rest), metrics)
    assert full.num_updates == 4 and full.learner_state.env_steps == 4 * 4 * 6
    assert all(leaf.shape[0] == 4 for leaf in jax.tree.leaves(metrics))


def test_one_seed_gives_one_run_and_another_seed_another(rich):
    begin, go = rich
    first, again, other = (go(begin(jax.random.key(seed)), 2) for seed in (5, 5, 6))
    _assert_same(again, first)
    for a, b in zip(
        *(jax.tree.leaves(run[0].learner_state.actor_params) for run in (first, other)), strict=True
    ):
        assert (a != b).any()


def test_a_policy_that_stands_still_yet_acts_anew_in_every_update():
    init, go = _pure("ippo", "toy/climbing", lr=0.0, num_epochs=1)
    _, metrics = jax.jit(go, static_argnums=1)(jax.jit(init)(jax.random.key(0)), 4)
    assert len(np.unique(metrics["episode_return"])) == 4


def test_every_network_moves(rich):
    begin, go = rich
    start = begin(jax.random.key(3))
    later = go(start, 2)[0].learner_state
    for name in ("actor_params", "critic_params"):
        for old, new in zip(
            *(jax.tree.leaves(getattr(x, name)) for x in (start.learner_state, later)), strict=True
        ):
            assert (old != new).any()
    assert jax.tree.structure(later) == jax.tree.structure(start.learner_state)
    for old, new in zip(jax.tree.leaves(start.learner_state), jax.tree.leaves(later), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)


def test_jit_is_no_jit():
    """Op by op, the scans unrolled by hand; float32 sums come in another order, hence the
    tolerance."""
    env = get_env("toy/counter")
    ours = algorithm("ippo", env, hidden_sizes=(8,), num_epochs=1, num_minibatches=1, lr=0.01)
    init, go = train.make_train(ours, env, num_envs=2, num_steps=2)
    start = jax.jit(init)(jax.random.key(0))
    compiled = jax.jit(go, static_argnums=1)(start, 2)
    with jax.disable_jit():
        plain = go(start, 2)
    assert int(compiled[0].num_updates) == int(plain[0].num_updates) == 2
    _assert_same(compiled, plain, rtol=2e-4, atol=2e-6)


def test_seeds_under_vmap_are_seeds_one_by_one(float64):
    """Under vmap products of matrices are batched and `cond` is a select, so that sums come in
    another order: in float64 the runs then agree to 1e-9, although Adam blows small differences
    up."""
    init, go = _pure("mappo", "toy/counter", recurrent=True, lr=0.01)

    def run(key):
        return go(init(key), 3)

    keys = jax.random.split(jax.random.key(0), 2)
    together, alone = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    assert np.asarray(together[0].num_updates).tolist() == [3, 3]
    for i, key in enumerate(keys):
        _assert_same(
            jax.tree.map(lambda x, i=i: x[i], _plain(together)), alone(key), rtol=1e-9, atol=1e-9
        )


@pytest.mark.ci_cases("macpo*")
@pytest.mark.parametrize(
    ("name", "env_id", "settings"),
    [
        ("mappo", "toy/early-death", RICH),
        ("liir", "toy/early-death", {}),
        ("macpo", "toy/budget", {}),
    ],
)
def test_an_update_written_for_an_accelerator_is_that_of_a_cpu(float64, name, env_id, settings):
    """Its rollout stores other arrays, and its values come in parts: 40 steps are 32 and 8."""

    def update(platform):
        # made anew: JAX would take the loops of a function that it has traced for the other
        env = get_env(env_id)
        made = algorithm(name, env, **settings)
        with platforms.compile_for(platform):
            init, step = train.make_train(made, env, num_envs=4, num_steps=40)
            begun = init(jax.random.key(0))
            return begun, jax.jit(lambda state: step(state, 2))(begun)

    (begun, on_cpu), (_, on_gpu) = update("cpu"), update("gpu")
    _assert_same(on_gpu, on_cpu, rtol=1e-6, atol=1e-9)
    change = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), begun.learner_state, on_cpu[0].learner_state
    )
    assert max(jax.tree.leaves(change.actor_params)) > 1e-4


def test_a_sweep_compiles_once_and_equals_its_runs(float64):
    env = get_env("toy/counter")
    config = algorithm("ippo", env).config
    init, go = train.make_train(algorithm("ippo", env), env, **SIZES)
    key = jax.random.key(0)

    def one(config):
        return go(init(key, config), 2)

    run, traces = counted(one)

    rates, discounts = jnp.array([1e-3, 1e-2, 0.0]), jnp.array([0.9, 0.5, 0.99])
    several = [
        dataclasses.replace(config, lr=lr, gamma=gamma)
        for lr, gamma in zip(rates, discounts, strict=True)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(value) for value in x]), *several)
    sweep = jax.jit(jax.vmap(run))
    state, metrics = sweep(stacked)
    sweep(jax.tree.map(lambda x: 0.5 * x, stacked))
    assert len(traces) == 1
    separately = jax.jit(one)
    for i in range(3):
        expected = separately(
            dataclasses.replace(config, lr=float(rates[i]), gamma=float(discounts[i]))
        )
        _assert_same(
            jax.tree.map(lambda x, i=i: x[i], _plain((state, metrics))),
            expected,
            rtol=1e-9,
            atol=1e-9,
        )
    # A rate of 0 leaves the policy where it began.
    begun = jax.jit(init)(key).learner_state.actor_params
    _assert_same(jax.tree.map(lambda x: x[2], state.learner_state.actor_params), begun)
    updated = jax.tree.map(lambda x: jnp.abs(x[0] - x[1]).max(), state.learner_state.actor_params)
    assert min(jax.tree.leaves(updated)) > 0


def test_other_floats_and_seeds_do_not_compile_anew():
    env = get_env("toy/counter")
    ours = algorithm("ippo", env)
    init, go = train.make_train(ours, env, **SIZES)
    (init, begun), (go, gone) = counted(init), counted(go)
    begin, go = jax.jit(init), jax.jit(go, static_argnums=1)
    result = []
    for seed, changes in enumerate(
        [{}, {"lr": 0.02}, {"gamma": 0.5, "clip_eps": 0.1, "entropy_coef": 0.0}]
    ):
        state, _ = go(begin(jax.random.key(seed), dataclasses.replace(ours.config, **changes)), 2)
        result.append(state.learner_state.config)
    assert len(begun) == len(gone) == 1
    assert [float(c.lr) for c in result] == pytest.approx([5e-4, 0.02, 5e-4])
    assert [float(c.gamma) for c in result] == pytest.approx([0.99, 0.99, 0.5])


def test_costs_and_returns_of_the_batch_are_reported():
    env = Tally(over_at=3)
    init, go = train.make_train(algorithm("ippo", env), env, num_envs=2, num_steps=4)
    _state, metrics = jax.jit(go, static_argnums=1)(jax.jit(init)(jax.random.key(0)), 3)
    # Two worlds, twelve steps, episodes of three: one ends in each of the first two updates, two in
    # the third.
    assert metrics["episodes"].tolist() == [2, 2, 4]
    assert metrics["episode_length"].tolist() == [3, 3, 3]
    np.testing.assert_allclose(
        metrics["episode_cost"], np.broadcast_to([[0, 0], [3, 30]], (3, 2, 2))
    )
    assert metrics["reward_is_finite"].all() and jnp.isfinite(metrics["episode_return"]).all()


def test_where_no_episode_ends_the_return_is_not_a_number():
    env = Tally(over_at=50)
    init, go = train.make_train(algorithm("ippo", env), env, num_envs=2, num_steps=4)
    _, metrics = jax.jit(go, static_argnums=1)(jax.jit(init)(jax.random.key(0)), 1)
    assert metrics["episodes"] == 0
    assert jnp.isnan(metrics["episode_return"]).all() and jnp.isnan(metrics["episode_length"]).all()


def test_the_return_of_a_team_is_its_own_and_of_individuals_their_sum():
    team, individual = (
        dataclasses.replace(Tally().spec, reward_type=kind) for kind in ("team", "individual")
    )
    returns = jnp.array([[2.0, 4.0], [1.0, 1.0]])
    assert team.team_return(returns).tolist() == [3.0, 1.0]
    assert individual.team_return(returns).tolist() == [6.0, 2.0]


def test_numbers_of_envs_that_do_not_divide_are_named():
    env = get_env("toy/counter")
    with pytest.raises(ValueError, match="num_envs is 6 and num_minibatches is 4.*for example 8"):
        train.make_train(algorithm("ippo", env, num_minibatches=4), env, num_envs=6)


@pytest.mark.parametrize("name", ["num_envs", "num_steps"])
@pytest.mark.parametrize("value", [0, -2, 2.5, True, "4"])
def test_sizes_that_are_none_are_named(name, value):
    env = get_env("toy/counter")
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}")):
        train.make_train(algorithm("ippo", env), env, **SIZES | {name: value})


@pytest.mark.parametrize(
    "change",
    [{"hidden_sizes": (8,)}, {"recurrent": True}, {"num_epochs": 3}, {"parameter_sharing": False}],
)
def test_a_config_of_another_form_is_refused(change):
    init, _ = _pure("ippo", "toy/counter")
    config = dataclasses.replace(algorithm("ippo", get_env("toy/counter")).config, **change)
    name, value = next(iter(change.items()))
    with pytest.raises(
        ValueError, match=re.escape(f"config.{name} is {value!r}; allowed is ") + ".*with which the"
    ):
        init(jax.random.key(0), config)


def test_limits_on_other_costs_than_the_algorithm_was_made_with_are_refused():
    env = jml.make("toy/budget")
    built = jml.make_algorithm(
        "macpo", env.spec, jml.MACPOConfig(hidden_sizes=(4,), num_minibatches=1)
    )
    init, _ = train.make_train(built, env, 4, 4)
    config = dataclasses.replace(built.config, cost_limit={"energy": 1.0})
    with pytest.raises(
        ValueError, match="config.cost_limit is energy=1.0, and .* made with the environment's"
    ):
        init(jax.random.key(0), config)


def test_a_config_of_another_algorithm_is_refused():
    init, _ = _pure("ippo", "toy/counter")
    with pytest.raises(ValueError, match="config is a MAPPOConfig; allowed is a IPPOConfig"):
        init(jax.random.key(0), algorithm("mappo", get_env("toy/counter")).config)
