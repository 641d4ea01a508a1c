"""The toys' known answers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_envs import TOY_ENVS, compiled

from jaxmarl_lite.envs import check_environment, make
from jaxmarl_lite.envs.toys.constrained import Budget, Risky
from jaxmarl_lite.envs.toys.games import Pursuit
from jaxmarl_lite.envs.wrappers import DelayedRewardWrapper


def best_action(env, state):
    """What the best policy, which may look at the state, does."""
    if isinstance(env, Budget):
        return jnp.argmax(jnp.asarray(env.rewards), axis=-1)
    if isinstance(env, Risky):
        return jnp.ones(2, jnp.int32)
    kind = type(state).__name__
    if kind == "MemoryState":
        return state.cue
    if kind == "ReachState":
        return 2 * (state.target - state.position)
    if kind == "CounterState":
        return jnp.ones(2, jnp.int32)
    if kind == "HeterogeneousState":
        return state.target
    if kind == "PursuitState":
        return jnp.sign(state.offset) + 1
    if kind == "RelayState":
        return state.target
    return jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize("env_id", TOY_ENVS)
def test_the_best_return_is_reached(env_id):
    env, reset, step = compiled(env_id)
    for seed in range(3):
        state, timestep = reset(jax.random.key(seed))
        total, best = timestep.reward, env.spec.max_return
        if isinstance(env, Pursuit):  # an expectation over starts
            best = 1.0 + 0.01 * float(jnp.abs(state.offset).max())
        while not timestep.last:
            action = best_action(env, state)
            if env.spec.action_type == "continuous":
                assert (jnp.abs(action) <= 1).all()
            else:
                legal = jnp.take_along_axis(timestep.obs.action_mask, action[:, None], axis=-1)
                assert (legal[:, 0] | ~timestep.obs.alive).all()
                action = jnp.where(legal[:, 0], action, 0)
            state, timestep = step(state, action)
            total = total + timestep.reward
        assert env.spec.team_return(total) == pytest.approx(best, abs=1e-6)


def test_matrix_game_pays_by_the_table():
    table = ((1.0, 2.0), (3.0, 4.0))
    env = make("toy/payoff", payoff=table)
    state, first = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.obs.agents_view, np.ones((2, 1)))
    for row in range(2):
        for column in range(2):
            _, timestep = env.step(state, jnp.array([row, column]))
            assert timestep.reward.tolist() == [table[row][column]] * 2
            assert timestep.discount == 0 and timestep.last
    assert env.spec.max_return == 4.0


def test_memory_hides_the_cue_until_the_answer():
    _env, reset, step = compiled("toy/memory")
    state, timestep = reset(jax.random.key(1))
    np.testing.assert_array_equal(timestep.obs.agents_view[:, :2], jax.nn.one_hot(state.cue, 2))
    for t in range(1, 4):
        state, timestep = step(state, jnp.zeros(2, jnp.int32))
        assert (
            not timestep.obs.agents_view[:, :2].any()
            and not timestep.last
            and not timestep.reward.any()
        )
        assert timestep.obs.agents_view[:, 2].tolist() == [float(t == 3)] * 2
    half = state._replace(cue=jnp.array([0, 1], jnp.int32))
    _, timestep = step(half, jnp.zeros(2, jnp.int32))
    assert timestep.reward.tolist() == [0.5, 0.5] and timestep.discount == 0


def test_pursuit_pays_when_both_approach():
    env, reset, step = compiled("toy/pursuit")
    state, _ = reset(jax.random.key(0))

    def next_state(offsets, moves, time=0):
        begun = state._replace(
            offset=jnp.array(offsets, jnp.int32), time=jnp.array(time, jnp.int32)
        )
        return step(begun, jnp.array(moves, jnp.int32) + 1)

    for offsets, moves, reward, then in [
        ((3, -2), (1, -1), 0.01, (2, -1)),
        ((3, -2), (1, 1), -0.01, (2, -3)),  # one alone is not paid
        ((3, -2), (1, 0), -0.01, (2, -2)),
        ((0, -2), (0, -1), 0.01, (0, -1)),  # waiting on the target
        ((0, -2), (1, -1), -0.01, (-1, -1)),
        ((5, -5), (-1, 1), -0.01, (5, -5)),  # the line's ends
        ((0, 1), (0, 1), 1.01, (0, 0)),
    ]:
        current, timestep = next_state(offsets, moves)
        assert timestep.reward.tolist() == pytest.approx(
            [reward] * 2
        ) and current.offset.tolist() == list(then)
        np.testing.assert_allclose(timestep.obs.agents_view[:, 0], np.array(then) / 5, rtol=1e-6)
        assert bool(timestep.last) == (then == (0, 0)) == (timestep.discount == 0)
    _, timestep = next_state((3, 3), (0, 0), time=19)
    assert timestep.last and timestep.discount == 1
    best = np.mean([1.0 + 0.01 * max(a, b) for a in range(1, 6) for b in range(1, 6)])
    assert env.spec.max_return == pytest.approx(best)
    starts = jax.vmap(lambda key: env.reset(key)[0].offset)(
        jax.random.split(jax.random.key(1), 500)
    )
    assert set(np.unique(starts)) == set(range(-5, 6)) - {0}


def test_many_pursuers_must_all_approach():
    env = make("toy/pursuit", agents=4, reach=3)
    state, timestep = env.reset(jax.random.key(0))
    assert (
        timestep.obs.agents_view.shape == (4, 1)
        and timestep.obs.global_state.shape == (4,)
        and timestep.obs.action_mask.shape == (4, 3)
    )
    state = state._replace(offset=jnp.array([1, 1, -1, 0], jnp.int32))
    assert env.step(state, jnp.array([2, 2, 0, 0]))[1].reward.tolist() == pytest.approx([-0.01] * 4)
    assert env.step(state, jnp.array([2, 2, 0, 1]))[1].reward.tolist() == pytest.approx([1.01] * 4)
    draws = np.random.default_rng(0).integers(1, 4, size=(200_000, 4)).max(1)
    assert env.spec.max_return == pytest.approx(1 + 0.01 * draws.mean(), abs=1e-4)


def test_the_first_choice_is_paid_for_at_the_end():
    _env, reset, step = compiled("toy/relay")
    for is_correct in (0, 1):
        state, timestep = reset(jax.random.key(3))
        assert (
            timestep.obs.alive.tolist() == [True, True]
            and timestep.obs.agents_view[0, :4].sum() == 1
        )
        rewards = []
        for t in range(16):
            assert timestep.obs.action_mask[0].sum() == (4 if t == 0 else 1) and timestep.obs.alive[
                0
            ] == (t == 0)
            assert timestep.obs.global_state[8] == (t > 0 and is_correct)
            first = (state.target[0] + 1 - is_correct) % 4 if t == 0 else 0
            second = state.target[1] if t % 2 else (state.target[1] + 1) % 4
            state, timestep = step(state, jnp.stack([jnp.asarray(first, jnp.int32), second]))
            rewards.append(float(timestep.reward[1]))
        assert (
            rewards == [0.25 * (t % 2) for t in range(15)] + [0.25 + is_correct]
            and timestep.discount == 0
        )


def test_counter_ends_and_is_cut_off():
    _env, reset, step = compiled("toy/counter")
    state, timestep = reset(jax.random.key(0))
    for _ in range(3):
        state, timestep = step(state, jnp.ones(2, jnp.int32))
    assert timestep.last and timestep.discount == 0 and timestep.reward.tolist() == [1.0, 1.0]
    state, timestep = reset(jax.random.key(0))
    for t in range(6):
        assert not timestep.last
        state, timestep = step(state, jnp.array([1, t % 2], jnp.int32) * (t < 4))
    assert timestep.last and timestep.discount == 1 and not timestep.reward.any()
    assert timestep.obs.agents_view[0, 0] == pytest.approx(2 / 3)
    both = state._replace(count=jnp.int32(2), time=jnp.int32(5))
    _, timestep = step(both, jnp.ones(2, jnp.int32))
    assert timestep.last and timestep.discount == 0


def test_reach_ignores_padding_and_sums_to_the_team():
    team, item = (
        make("toy/reach-heterogeneous"),
        make("toy/reach-heterogeneous", reward="individual"),
    )
    state, timestep = team.reset(jax.random.key(0))
    assert timestep.obs.action_mask.tolist() == [[True, True], [True, False]]
    action = jnp.array([[0.3, -0.2], [0.5, 0.1]])
    _, shared = team.step(state, action)
    _, individual = item.step(state, action)
    _, other = team.step(state, action.at[1, 1].set(-1.0))
    np.testing.assert_allclose(shared.reward, np.full(2, individual.reward.sum()), rtol=1e-6)
    np.testing.assert_array_equal(shared.reward, other.reward)
    gap = np.asarray(state.target) - np.array([[0.15, -0.1], [0.25, 0.0]])
    np.testing.assert_allclose(individual.reward, -(gap**2).sum(-1) / 2, rtol=1e-5)


def test_masks_and_deaths_of_heterogeneous_agents():
    _env, reset, step = compiled("toy/early-death")
    state, timestep = reset(jax.random.key(0))
    assert timestep.obs.action_mask.tolist() == [[True, True, False, False], [True] * 4]
    for _ in range(2):
        assert timestep.obs.alive.all()
        state, timestep = step(state, state.target)
        assert timestep.reward[0] == pytest.approx(2 / 6)
    assert timestep.obs.alive.tolist() == [True, False]
    assert (
        timestep.obs.action_mask[1].tolist() == [True, False, False, False]
        and not timestep.obs.agents_view[1].any()
    )
    _, timestep = step(state, state.target)
    assert timestep.reward[0] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("payoff", {"payoff": ((1.0, 2.0),)}, "payoff must have as many columns"),
        ("memory", {"cues": 1}, "cues is 1; allowed is a whole number, 2 or more"),
        ("reach", {"reward": "shared"}, "reward is 'shared'; allowed is one of team, individual"),
        ("reach", {"dims": (2, 0)}, "dims is 0; allowed is a whole number, 1 or more"),
        ("counter", {"goal": 9}, "goal must be between 1 and limit=6, not 9"),
        ("relay", {"steps": 1}, "steps is 1; allowed is a whole number, 2 or more"),
        (
            "relay",
            {"immediate_reward": float("nan")},
            "immediate_reward is nan; allowed is a finite number",
        ),
        ("pursuit", {"reach": 0}, "reach is 0; allowed is a whole number, 1 or more"),
        ("pursuit", {"agents": "two"}, "agents is 'two'; allowed is a whole number, 1 or more"),
        ("pursuit", {"limit": 3}, "limit is 3; allowed is reach, 5, or more"),
        ("heterogeneous", {"sizes": (2, 0)}, "sizes is 0; allowed is a whole number, 1 or more"),
        ("budget", {"steps": 0}, "toy/budget: steps is 0; allowed is a whole number"),
        ("budget", {"costs": ((0.0, 1.0),)}, "rewards and costs must have rows of one length"),
        ("budget", {"costs": ((1.0, 1.0, 2.0),)}, "action 0 is rest"),
        ("budget", {"limits": (1.0, 1.0)}, "costs, limits and cost_names must be equally many"),
        (
            "budget",
            {"limits": ((1.0, 1.0, 1.0),)},
            "limit of 'energy' is .* or one for each of 2 agents",
        ),
        ("budget", {"limits": (-1.0,)}, "limits is -1.0; allowed is a number from 0 up"),
        ("risky", {"costs": ((1.0, 0.0), (0.0, 1.0))}, r"costs\[0\]\[0\] must be 0"),
        ("risky", {"payoff": ((1.0,),)}, "payoff must be two rows of two"),
    ],
)
def test_impossible_toys(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(f"toy/{name}", **keywords)


def test_delayed_rewards_are_paid_in_one_sum():
    inner, env = make("toy/pursuit", limit=6), make("delayed/toy/pursuit", limit=6)
    assert env.spec.name == "delayed/toy/pursuit" and env.spec.max_return == inner.spec.max_return
    assert (
        env.spec.global_state_size == inner.spec.global_state_size + 2
        and env.spec.obs_size == inner.spec.obs_size
    )
    (state, timestep), (delayed_state, delayed) = (
        inner.reset(jax.random.key(0)),
        env.reset(jax.random.key(0)),
    )
    pending = 0.0
    for t in range(6):
        np.testing.assert_array_equal(delayed.obs.agents_view, timestep.obs.agents_view)
        np.testing.assert_allclose(
            delayed.obs.global_state,
            jnp.append(timestep.obs.global_state, jnp.full(2, pending)),
            rtol=1e-6,
        )
        action = jnp.array([t % 3, (t + 1) % 3])
        (state, timestep), (delayed_state, delayed) = (
            inner.step(state, action),
            env.step(delayed_state, action),
        )
        pending += float(timestep.reward[0])
        assert delayed.last == timestep.last and delayed.discount == timestep.discount
        assert delayed.reward.tolist() == pytest.approx([pending if timestep.last else 0.0] * 2)
    assert (
        timestep.last and not delayed.obs.global_state[-2:].any()
    )  # paid is not owed: a time limit is looked beyond
    with pytest.raises(
        AttributeError, match="'DelayedRewardWrapper' object has no attribute 'nothing'"
    ):
        _ = env.nothing
    assert not hasattr(env, "animate")
    with pytest.raises(ValueError, match="environment is 'toy/pursiut'.*nearest: .*toy/pursuit"):
        make("delayed/toy/pursiut")


def test_the_delayed_environment_has_the_facts_of_the_original():
    class Described(Pursuit):
        def is_win(self, state):
            return (state.offset == 0).all()

        def animate(self, states, path, fps=5):
            return [type(state).__name__ for state in states], path, fps

    env = DelayedRewardWrapper(Described())
    state, _ = env.reset(jax.random.key(0))
    assert not env.is_win(state) and env.is_win(
        state._replace(inner=state.inner._replace(offset=jnp.zeros(2, jnp.int32)))
    )
    assert env.animate([state, state], "film.gif", fps=2) == (["PursuitState"] * 2, "film.gif", 2)
    assert list(inspect.signature(env.animate).parameters) == ["states", "path", "fps"]
    check_environment(env)
