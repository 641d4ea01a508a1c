"""The toys with limits: what a step costs, and the best return that keeps the limits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.envs import check_environment, make

COSTLY = ("toy/budget", "toy/budget-two", "toy/risky")


def vertices(reward, costs, limits):
    """The best p over a simplex and half spaces, by trying every corner: at most K + 1 entries are
    positive."""
    best, num_costs = -np.inf, len(limits)
    actions = range(len(reward))
    for size in range(1, num_costs + 2):
        for support in itertools.combinations(actions, size):
            for tight in itertools.combinations(range(num_costs), size - 1):
                rows = np.vstack([np.ones(size), costs[list(tight)][:, list(support)]])
                if abs(np.linalg.det(rows)) < 1e-12:
                    continue
                p = np.linalg.solve(rows, np.append(1.0, limits[list(tight)]))
                if (p >= -1e-12).all() and (costs[:, list(support)] @ p <= limits + 1e-9).all():
                    best = max(best, reward[list(support)] @ p)
    return best


@pytest.mark.parametrize("env_id", COSTLY)
def test_they_keep_the_protocol(env_id):
    spec = check_environment(make(env_id))
    assert spec.num_costs == (2 if env_id == "toy/budget-two" else 1)


@pytest.mark.parametrize("env_id", COSTLY)
def test_the_best_without_limits_costs_three_times_the_limits(env_id):
    env = make(env_id)
    state, timestep = env.reset(jax.random.key(0))
    table = env.rewards if hasattr(env, "rewards") else ((0.0, 1.0), (0.0, 1.0))
    total = np.zeros_like(timestep.cost)
    while not timestep.last:
        state, timestep = env.step(state, jnp.argmax(jnp.asarray(table), -1))
        total += timestep.cost
    for k, limit in enumerate(env.spec.cost_limits):
        assert (total[:, k] >= 3 * np.asarray(limit)).all()
    assert env.constrained_best() < 0.5 * env.spec.max_return


def test_a_step_of_a_budget():
    env = make("toy/budget-two")
    state, first = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.obs.agents_view, [[1, 1, 0], [1, 0, 1]])
    assert first.obs.global_state.tolist() == [0.0]
    state, timestep = env.step(state, jnp.array([1, 3]))
    assert timestep.reward.tolist() == [5.0, 5.0]
    assert timestep.cost.tolist() == [[2.0, 1.0], [4.0, 4.0]]
    assert timestep.obs.global_state[0] == pytest.approx(0.2)
    for _ in range(4):
        assert not timestep.last
        state, timestep = env.step(state, jnp.zeros(2, jnp.int32))
        assert not timestep.reward.any() and not timestep.cost.any()
    assert timestep.last and timestep.discount == 0


@pytest.mark.parametrize(
    ("env_id", "limits", "best"),
    [
        ("toy/budget", None, 5 * (0.6 * 1.0 + 0.3 * 2.0)),
        ("toy/budget", {"energy": 0.0}, 0.0),
        ("toy/budget", {"energy": np.inf}, 17.5),
        ("toy/budget", {"energy": (10.0, 0.0)}, 5 * 1.25),  # half easy, half hard
        ("toy/budget-two", None, 5 * (3.5 / 3 + 1.0)),
        ("toy/budget-two", {"noise": np.inf}, 5 * (1.5 + 2.0)),
    ],
)
def test_the_best_under_limits_by_hand(env_id, limits, best):
    assert make(env_id).constrained_best(limits) == pytest.approx(best, abs=1e-7)


def test_the_best_under_limits_against_all_corners():
    random = np.random.default_rng(0)
    for _ in range(20):
        rewards, costs = random.uniform(-1, 2, (3, 5)), random.uniform(0, 3, (2, 5))
        rewards[:, 0] = costs[:, 0] = 0
        limits = random.uniform(0, 6, (2, 3))
        env = make(
            "toy/budget",
            rewards=tuple(map(tuple, rewards)),
            costs=tuple(map(tuple, costs)),
            limits=tuple(map(tuple, limits)),
            cost_names=("a", "b"),
            steps=4,
        )
        expected = sum(vertices(rewards[i], costs, limits[:, i] / 4) * 4 for i in range(3))
        assert env.constrained_best() == pytest.approx(expected, abs=1e-7)


def test_a_step_of_risky():
    env = make("toy/risky")
    state, first = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.obs.agents_view, [[1, 1, 0], [1, 0, 1]])
    for action, reward, cost in (([0, 0], 0, 0), ([0, 1], 1, 0), ([1, 0], 1, 0), ([1, 1], 3, 1)):
        _, timestep = env.step(state, jnp.array(action))
        assert timestep.reward.tolist() == [reward] * 2 and timestep.cost.tolist() == [[cost]] * 2
        assert timestep.last and timestep.discount == 0


@pytest.mark.parametrize("limit", [0.0, 0.05, 0.2, 0.7, 1.0])
def test_the_best_of_risky_in_closed_form(limit):
    assert make("toy/risky").constrained_best({"accident": limit}) == pytest.approx(
        1 + 2 * limit, abs=1e-9
    )
    assert make("toy/risky", limit=(limit, 2.0)).constrained_best() == pytest.approx(
        1 + 2 * limit, abs=1e-9
    )


def test_the_best_of_risky_tables_against_a_grid():
    random = np.random.default_rng(1)
    x, y = np.meshgrid(np.linspace(0, 1, 801), np.linspace(0, 1, 801), indexing="ij")
    weights = np.stack([(1 - x) * (1 - y), (1 - x) * y, x * (1 - y), x * y])
    for _ in range(10):
        payoff, costs = random.uniform(-1, 1, 4), random.uniform(0, 1, 4) * (random.random(4) > 0.3)
        costs[0], limit = 0.0, random.uniform(0, 0.5)
        reward, cost = np.tensordot(payoff, weights, 1), np.tensordot(costs, weights, 1)
        grid = reward[cost <= limit + 1e-12].max()
        tables = dict(
            payoff=tuple(map(tuple, payoff.reshape(2, 2))),
            costs=tuple(map(tuple, costs.reshape(2, 2))),
        )
        best = make("toy/risky", limit=limit, **tables).constrained_best()
        assert grid - 1e-9 <= best <= grid + 0.02


@pytest.mark.parametrize("env_id", ["toy/budget", "toy/risky"])
def test_limits_of_constrained_best_are_checked(env_id):
    env = make(env_id)
    name = env.spec.cost_names[0]
    with pytest.raises(ValueError, match=f"cost in limits is 'enrgy'; allowed is one of {name}"):
        env.constrained_best({"enrgy": 1.0})
    with pytest.raises(ValueError, match=f"limit of '{name}' is -1; allowed is a number from 0 up"):
        env.constrained_best({name: -1})
    with pytest.raises(ValueError, match="or one for each of 2 agents"):
        env.constrained_best({name: (1.0, 2.0, 3.0)})
