"""Costs put on an environment from outside."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_envs import compiled

from jaxmarl_lite.envs import Cost, check_environment, make, with_costs
from jaxmarl_lite.envs.wrappers import CostWrapper

INNER = make("toy/counter")


def effort(state, action, next_state):
    return action == 1


def early(state, action, next_state):
    """Agent i pays (i + 1) times the steps left; 10 more where the count has grown."""
    grown = (next_state.count > state.count).astype(float)
    return jnp.array([1.0, 2.0]) * (6 - next_state.time) + 10 * grown


def clock_view(state):
    return jnp.full((2, 2), state.time)


def clock_state(state):
    return state.time[None]


EFFORT = Cost("effort", "steps with action 1", effort)
EARLY = Cost("early", "weighted steps left", early, (1, 2), clock_view, clock_state)


def test_costs_of_hand_made_steps():
    env = with_costs(INNER, [EFFORT, EARLY])
    state, first = jax.jit(env.reset)(jax.random.key(0))
    assert first.cost.shape == (2, 2) and not first.cost.any()
    state, one = jax.jit(env.step)(state, jnp.array([1, 0]))
    np.testing.assert_array_equal(one.cost, [[1, 5], [0, 10]])
    state, two = env.step(state, jnp.array([1, 1]))
    np.testing.assert_array_equal(two.cost, [[1, 14], [1, 18]])
    np.testing.assert_allclose(two.obs.agents_view, [[1 / 3, 2, 2]] * 2, rtol=1e-6)
    np.testing.assert_allclose(two.obs.global_state, [1 / 3, 2], rtol=1e-6)


def test_everything_else_is_the_inner_environments():
    env = with_costs(INNER, [EFFORT])
    (state, _), (inner_state, _) = env.reset(jax.random.key(0)), INNER.reset(jax.random.key(0))
    for action in ([1, 1], [0, 1], [1, 1], [1, 1]):
        state, mine = env.step(state, jnp.array(action))
        inner_state, other = INNER.step(inner_state, jnp.array(action))
        assert state == inner_state
        for x, y in zip(
            jax.tree.leaves(mine._replace(cost=0)),
            jax.tree.leaves(other._replace(cost=0)),
            strict=True,
        ):
            np.testing.assert_array_equal(x, y)
    assert mine.last and mine.discount == 0 and mine.reward[0] == 1


def test_the_spec():
    spec = check_environment(with_costs(INNER, [EFFORT, EARLY]))
    assert spec.cost_names == ("effort", "early")
    assert spec.cost_descriptions == ("steps with action 1", "weighted steps left")
    assert spec.cost_limits == (math.inf, (1.0, 2.0))
    assert (spec.obs_size, spec.global_state_size) == (3, 2)
    assert with_costs(INNER, [EFFORT]).spec.cost_limits is None
    untouched = dataclasses.replace(
        spec, obs_size=1, global_state_size=1, cost_names=(), cost_descriptions=(), cost_limits=None
    )
    assert untouched == INNER.spec


def test_costs_are_added_to_those_that_there_are():
    first = with_costs(INNER, [dataclasses.replace(EARLY, limit=None)])
    env = with_costs(first, [dataclasses.replace(EFFORT, limit=3)])
    assert env.spec.cost_names == ("early", "effort") and env.spec.cost_limits == (math.inf, 3.0)
    state, timestep = env.reset(jax.random.key(0))
    assert timestep.cost.shape == (2, 2)
    _, timestep = env.step(state, jnp.array([0, 1]))
    np.testing.assert_array_equal(timestep.cost, [[5, 0], [10, 1]])
    toy = with_costs(make("toy/budget"), [Cost("presence", "steps", lambda s, a, n: jnp.ones(2))])
    assert toy.spec.cost_names == ("energy", "presence") and toy.spec.cost_limits == (
        (3.0, 4.5),
        math.inf,
    )
    assert check_environment(toy).cost_descriptions == ("units of energy", "steps")


def test_nameless_meanings_are_filled_in():
    class Wordless:
        spec = dataclasses.replace(make("toy/budget").spec, cost_descriptions=())
        reset = staticmethod(make("toy/budget").reset)
        step = staticmethod(make("toy/budget").step)

    assert with_costs(Wordless(), [EFFORT]).spec.cost_descriptions == (
        "energy",
        "steps with action 1",
    )


def test_the_dead_pay_too():
    env = with_costs(
        make("toy/early-death"), [Cost("presence", "steps", lambda s, a, n: jnp.ones(2))]
    )
    state, timestep = env.reset(jax.random.key(0))
    for _ in range(4):
        state, timestep = env.step(state, jnp.zeros(2, jnp.int32))
    assert not timestep.obs.alive.any() and timestep.cost.tolist() == [[1.0], [1.0]]


def test_many_envs():
    env = with_costs(INNER, [EFFORT, EARLY])
    states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4))
    actions = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    _, timesteps = jax.jit(jax.vmap(env.step))(states, actions)
    np.testing.assert_array_equal(timesteps.cost[:, :, 0], actions)
    np.testing.assert_array_equal(timesteps.cost[:, :, 1], [[5, 10], [5, 10], [5, 10], [15, 20]])


def test_double_precision(float64):
    env = with_costs(INNER, [EFFORT, EARLY])
    state, timestep = env.reset(jax.random.key(0))
    _, timestep = env.step(state, jnp.array([1, 0]))
    assert timestep.cost.dtype == timestep.obs.agents_view.dtype == jnp.float64


def test_equal_parts_are_equal_environments():
    same = with_costs(INNER, [EFFORT]), with_costs(make("toy/counter"), (EFFORT,))
    assert same[0] == same[1] and len({*same}) == 1
    assert same[0] != with_costs(INNER, [EARLY])


def test_what_the_inner_environment_offers_is_passed_on(tmp_path):
    plain = with_costs(INNER, [EFFORT])
    assert (
        not hasattr(plain, "animate")
        and not hasattr(plain, "unwrapped")
        and not hasattr(plain, "goal")
    )
    env, reset, _ = compiled("safe/cleaner-5x5x3a")
    assert isinstance(env, CostWrapper) and env.unwrapped.num_rows == 5
    state, _ = reset(jax.random.key(0))
    assert env.animate([state], tmp_path / "one.gif").exists()


def bad(**changes):
    return lambda: with_costs(INNER, [dataclasses.replace(EARLY, **changes)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: with_costs(INNER, []), "costs is empty, but must hold at least one Cost"),
        (lambda: with_costs(INNER, [effort]), "costs holds a function, but must hold Cost objects"),
        (
            lambda: with_costs(INNER, [EARLY, EARLY]),
            "is 'early', but must differ from those there already: early",
        ),
        (
            lambda: with_costs(make("toy/budget"), [dataclasses.replace(EFFORT, name="energy")]),
            "is 'energy', but must differ from those there already: energy",
        ),
        (bad(name=""), "name is '', but must be a word"),
        (bad(name="two words"), "name is 'two words', but must be a word, without spaces"),
        (bad(name="a=b"), r"name is 'a=b', but must be a word, without spaces or any of \* = , /"),
        (bad(limit=-1), "limit of cost 'early' is -1; allowed is a number from 0 up"),
        (bad(limit=math.nan), "limit of cost 'early' is nan"),
        (bad(limit="3"), "limit of cost 'early' is '3'"),
        (bad(limit=(1.0, -2.0)), r"limit of cost 'early' is \(1.0, -2.0\)"),
        (bad(limit=(1.0, 2.0, 3.0)), "but must be one number or 2, one per agent of toy/counter"),
        (
            bad(fn=lambda s, a, n: s.count),
            r"cost 'early' is of shape \(\), but must be an array \[N\], here \[2\]",
        ),
        (
            bad(fn=lambda s, a, n: jnp.ones((2, 1))),
            r"is of shape \(2, 1\), but must be an array \[N\], here \[2\]",
        ),
        (bad(fn=lambda s, a, n: jnp.ones(3)), r"is of shape \(3,\)"),
        (bad(fn=lambda s, a, n: (1, 2)), "cost 'early' is a tuple"),
        (bad(fn=lambda s, a, n: s.place), "cost 'early' cannot be traced .AttributeError"),
        (
            bad(extra_obs=lambda s: jnp.ones(2)),
            r"extra_obs of cost 'early' is of shape \(2,\), .* \[N, X\], here \[2, X\]",
        ),
        (
            bad(extra_global_state=lambda s: s.time),
            r"extra_global_state of cost 'early' is of shape \(\), .* \[X\], here \[X\]",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_what_is_allowed(build, message):
    with pytest.raises(ValueError, match=message):
        build()
