import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_impl
from tiny_runs import Lottery
from toy_envs import Tally

from jaxmarl_lite import platforms, rollout

B, T = 3, 7
ENVS = {
    "over": Tally(over_at=3),
    "cut": Tally(over_at=100, limit=4),
    "both at once": Tally(over_at=2, limit=2),
    "every step": Tally(over_at=1),
    "uneven": Tally(over_at=2, uneven=True),
}


def _act(key, obs, hidden_state):
    """Agent 1 acts at random; the hidden state counts the steps since the reset."""
    action = jnp.stack([jnp.zeros(B, jnp.int32), jax.random.randint(key, (B,), 0, 3)], -1)
    return action, obs.agents_view.sum(-1), jax.tree.map(lambda m: m + 1.0, hidden_state)


def _two_rollouts(env):
    """Two rollouts on end, and their steps as one."""
    begun = rollout.init_rollout_state(env, jax.random.key(7), B, jnp.zeros((B, 2)))

    @jax.jit
    def both(begun):
        middle, first = rollout.rollout(env, _act, begun, jax.random.key(1), T)
        later, second = rollout.rollout(env, _act, middle, jax.random.key(2), T)
        return middle, later, first, second

    middle, later, first, second = both(begun)
    steps = jax.tree.map(lambda a, b: np.concatenate([a, b]), first.transitions, second.transitions)
    return begun, middle, later, first, second, steps


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
def test_two_rollouts_are_a_loop_over_envs_and_steps(env):
    begun, _middle, _after, _first, _second, steps = _two_rollouts(env)
    actions = steps.action
    expected, *_ = reference_impl.play_tally(
        env, begun.reset_key, 2 * T, lambda t, b: actions[t, b]
    )
    for t in range(2 * T):
        for b in range(B):
            here, result = expected[t][b], jax.tree.map(lambda x, t=t, b=b: x[t, b], steps)
            np.testing.assert_allclose(result.obs.agents_view, [here["seen"]] * 2, rtol=1e-6)
            np.testing.assert_allclose(result.obs.global_state, here["seen"], rtol=1e-6)
            np.testing.assert_allclose(result.next_obs.agents_view, [here["next"]] * 2, rtol=1e-6)
            np.testing.assert_allclose(result.reward, here["reward"], rtol=1e-6)
            np.testing.assert_allclose(result.cost, here["cost"])
            assert result.discount == here["discount"] and result.last == here["last"]
            np.testing.assert_allclose(result.log_prob, 2 * [sum(here["seen"])], rtol=1e-6)


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
def test_sums_of_the_ended_episodes(env):
    begun, _middle, _after, first, second, steps = _two_rollouts(env)
    previous, full = (
        reference_impl.play_tally(env, begun.reset_key, end, lambda t, b: steps.action[t, b])[1]
        for end in (T, 2 * T)
    )
    both = ((first, previous), (second, {name: full[name] - previous[name] for name in full}))
    for batch, ended in both[env.uneven :]:  # of uneven episodes the first rollout leaves some out
        assert ended["count"] > 0
        stats = batch.episode_stats
        for name, result in zip(
            ("count", "returns", "costs", "length", "squared_costs"),
            (*stats[:4], stats.squared_costs),
            strict=True,
        ):
            np.testing.assert_allclose(result, ended[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
def test_state_of_the_envs_at_the_end(env):
    begun, middle, next_state, first, second, steps = _two_rollouts(env)
    for acting, end in ((middle, T), (next_state, 2 * T)):
        stand = reference_impl.play_tally(
            env, begun.reset_key, end, lambda t, b: steps.action[t, b]
        )[2]
        for b, here in enumerate(stand):
            result = jax.tree.map(lambda x, b=b: x[b], acting._replace(unreported=()))
            assert result.episode_index == here["episode"] + 1
            assert (result.hidden_state == here["time"]).all()
            np.testing.assert_allclose(result.env_state, (here["start"], here["time"]), rtol=1e-6)
            np.testing.assert_allclose(
                result.timestep.obs.agents_view, [[here["start"], here["time"]]] * 2, rtol=1e-6
            )
            assert not result.timestep.last and result.episode_stats.count == 0
            assert result.episode_stats.lengths == here["time"]
            np.testing.assert_allclose(result.episode_stats.returns, here["returns"], rtol=1e-5)
            np.testing.assert_allclose(result.episode_stats.costs, here["costs"])
            assert result.reset_key == begun.reset_key[b]
    np.testing.assert_array_equal(first.initial_hidden_state, 0)
    np.testing.assert_array_equal(second.initial_hidden_state, middle.hidden_state)


def test_the_uneven_envs_are_uneven():
    steps = _two_rollouts(ENVS["uneven"])[-1]
    assert ((steps.last.sum(1) > 0) & (steps.last.sum(1) < B)).any()


def test_every_episode_of_every_env_begins_differently():
    steps = _two_rollouts(ENVS["every step"])[-1]
    starts = np.asarray(steps.obs.global_state[..., 0])
    assert len(np.unique(starts)) == 2 * T * B


def test_an_episodes_beginning_does_not_depend_on_the_other_envs():
    """Worlds 0 to 1 alone live through the same episodes as beside a third world, whatever the
    actions."""
    env = ENVS["over"]
    begun = rollout.init_rollout_state(env, jax.random.key(7), B, jnp.zeros((B, 2)))
    alone = jax.tree.map(lambda x: x[:2], begun._replace(unreported=()))._replace(
        unreported=begun.unreported
    )

    def act(key, obs, hidden_state):
        return (
            jax.random.randint(key, obs.agents_view.shape[:2], 0, 3),
            jnp.zeros(obs.agents_view.shape[:2]),
            hidden_state,
        )

    def play(acting, key):
        return jax.jit(lambda acting: rollout.rollout(env, act, acting, key, T))(acting)[
            1
        ].transitions.obs.global_state

    together = play(begun, jax.random.key(1))
    np.testing.assert_array_equal(together[:, :2], play(alone, jax.random.key(2)))


def test_under_vmap_as_one_by_one():
    """There the `cond` about new episodes becomes a select."""
    env = ENVS["over"]
    keys = jax.random.split(jax.random.key(3), 2)

    def play(key):
        return rollout.rollout(
            env, _act, rollout.init_rollout_state(env, key, B, jnp.zeros((B, 2))), key, T
        )

    acting, batch = jax.jit(jax.vmap(play))(keys)
    for i, key in enumerate(keys):
        expected = jax.jit(play)(key)
        result = jax.tree.map(lambda x, i=i: x[i], (acting, batch))
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_allclose(a, b, rtol=1e-6)


class Breaking(Lottery):
    """A lottery in which a world that was drawn says that it broke."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, can_diverge=True)

    def is_non_finite(self, state):
        return state.drawn & (state.time >= 2)


def test_envs_that_broke_are_counted():
    env = Breaking(5.0, 300.0)

    def act(key, obs, hidden_state):
        return jnp.zeros((64, 2), jnp.int32), jnp.zeros((64, 2)), hidden_state

    acting = rollout.init_rollout_state(env, jax.random.key(0), 64, ())
    _, batch = jax.jit(lambda acting, key: rollout.rollout(env, act, acting, key, 8))(
        acting, jax.random.key(1)
    )
    lost = (batch.transitions.last & (batch.transitions.reward[..., 0] == 5.0)).sum()
    assert batch.episode_stats.non_finite == lost and 40 < lost < 120
    assert batch.episode_stats.count == 64 * 4


def test_staggered_envs_are_cut_once_and_the_cut_episode_is_not_counted():
    limit, num_envs, steps = 20, 64, 100
    env = Tally(over_at=1000, limit=limit)
    begun = rollout.init_rollout_state(env, jax.random.key(3), num_envs, ())

    def act(key, obs, hidden_state):
        return jnp.zeros((num_envs, 2), jnp.int32), obs.agents_view.sum(-1), hidden_state

    run = jax.jit(
        lambda begun: rollout.rollout(
            env, act, begun, jax.random.key(1), steps, stagger_episodes=True
        )
    )
    later, batch = run(begun)
    last = np.asarray(batch.transitions.last)
    firsts = last.argmax(0) + 1
    assert firsts.min() >= 1 and firsts.max() <= limit
    assert len(set(firsts)) > limit // 2 and abs(firsts.mean() - limit / 2) < 3  # spread evenly
    for one_env, first in enumerate(firsts):
        np.testing.assert_array_equal(
            np.flatnonzero(last[:, one_env]) + 1, np.arange(first, steps + 1, limit)
        )
    assert (
        np.asarray(batch.transitions.discount) == 1
    ).all()  # as at a time limit: what follows is still to be had
    full = last.sum() - num_envs
    assert batch.episode_stats.count == full and batch.episode_stats.lengths == limit * full
    sums = sum(range(limit))
    np.testing.assert_allclose(
        batch.episode_stats.costs / full, [[0, 0], [sums, 10 * sums]], rtol=1e-5
    )
    assert ((np.asarray(later.episode_index) - 1) == last.sum(0)).all()


def test_the_first_episodes_are_reported_when_every_environment_has_finished_one():
    """Episodes of three or five steps in rollouts of two: after four steps only short ones have
    ended."""
    env, copies = Tally(over_at=3, uneven=True), 8

    def act(key, obs, hidden_state):
        return jnp.zeros((copies, 2), jnp.int32), jnp.zeros((copies, 2)), hidden_state

    acting = rollout.init_rollout_state(env, jax.random.key(7), copies, ())
    first_long = np.asarray(acting.env_state.start) > 0.5
    long = int(first_long.sum())
    assert 0 < long < copies
    play, reports = jax.jit(lambda acting, key: rollout.rollout(env, act, acting, key, 2)), []
    begun = []
    for key in jax.random.split(jax.random.key(1), 6):
        acting, batch = play(acting, key)
        reports.append(batch.episode_stats)
        begun.append(batch.first_episodes)
    counts = [float(episodes.count) for episodes in reports]
    short = copies - long
    assert counts[:2] == [0.0, 0.0], "after four steps the long first episodes go on"
    assert copies <= counts[2] <= copies + short, (
        "every first episode, and those that end after the last of them"
    )
    assert reports[2].lengths == 3 * (counts[2] - long) + 5 * long
    np.testing.assert_array_equal(reports[2].living_steps, [reports[2].lengths] * 2)
    assert acting.unreported.count == 0 and min(counts[3:]) > 0
    for steps, so_far in ((2, begun[0]), (4, begun[1])):
        lengths = [min(steps, 5 if x else 3) for x in first_long]
        assert so_far.count == copies and so_far.lengths == sum(lengths)
        np.testing.assert_allclose(so_far.costs[1, 0], sum(n * (n - 1) / 2 for n in lengths))


def test_short_episodes_do_not_count_more_often_while_a_long_one_runs():
    """Episodes of one or three steps: in three steps a copy with short ones ends three, and the
    first alone counts."""
    env, copies = Tally(over_at=1, uneven=True), 8

    def act(key, obs, hidden_state):
        return jnp.zeros((copies, 2), jnp.int32), jnp.zeros((copies, 2)), hidden_state

    acting = rollout.init_rollout_state(env, jax.random.key(7), copies, ())
    long = int((acting.env_state.start > 0.5).sum())
    assert 0 < long < copies
    _, batch = jax.jit(lambda acting: rollout.rollout(env, act, acting, jax.random.key(1), 3))(
        acting
    )
    assert batch.transitions.last.sum() > copies
    assert (
        batch.episode_stats.count == copies
        and batch.episode_stats.lengths == 1 * (copies - long) + 3 * long
    )


@pytest.mark.parametrize("env", ENVS.values(), ids=ENVS)
@pytest.mark.parametrize("num_steps", [6, 11, 16])
def test_beginnings_prepared_for_an_accelerator_are_those_of_a_cpu(env, num_steps, monkeypatch):
    prepare, counts = rollout._prepare_starts, []
    monkeypatch.setattr(
        rollout, "_prepare_starts", lambda *args: counts.append(args[2]) or prepare(*args)
    )
    begun = rollout.init_rollout_state(env, jax.random.key(7), B, jnp.zeros((B, 2)))

    def play(begun):
        middle, first = rollout.rollout(env, _act, begun, jax.random.key(1), num_steps, True)
        return first, *rollout.rollout(env, _act, middle, jax.random.key(2), num_steps)

    on_cpu = jax.jit(play)(begun)
    with platforms.compile_for("gpu"):
        on_gpu = jax.jit(lambda begun: play(begun))(begun)
    chex.assert_trees_all_equal(on_cpu, on_gpu)
    assert set(counts) == {6: {6}, 11: set(), 16: {8}}[num_steps]  # 11 has no divisor but 1
