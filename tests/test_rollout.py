import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_but_obvious
from small_runs import Lottery
from worlds import Tally

from jaxmarl_lite import rollout

B, T = 3, 7
WORLDS = {
    "over": Tally(over_at=3),
    "cut": Tally(over_at=100, limit=4),
    "both at once": Tally(over_at=2, limit=2),
    "every step": Tally(over_at=1),
    "uneven": Tally(over_at=2, uneven=True),
}


def _act(key, obs, memory):
    """Agent 1 acts at random; the memory counts the steps since the reset."""
    action = jnp.stack([jnp.zeros(B, jnp.int32), jax.random.randint(key, (B,), 0, 3)], -1)
    return action, obs.view.sum(-1), jax.tree.map(lambda m: m + 1.0, memory)


def _two_rollouts(env):
    """Two rollouts on end, and their steps as one."""
    begun = rollout.begin(env, jax.random.key(7), B, jnp.zeros((B, 2)))

    @jax.jit
    def both(begun):
        middle, first = rollout.rollout(env, _act, begun, jax.random.key(1), T)
        after, second = rollout.rollout(env, _act, middle, jax.random.key(2), T)
        return middle, after, first, second

    middle, after, first, second = both(begun)
    steps = jax.tree.map(lambda a, b: np.concatenate([a, b]), first.steps, second.steps)
    return begun, middle, after, first, second, steps


@pytest.mark.parametrize("env", WORLDS.values(), ids=WORLDS)
def test_two_rollouts_are_a_loop_over_worlds_and_steps(env):
    begun, middle, after, first, second, steps = _two_rollouts(env)
    actions = steps.action
    wanted, *_ = slow_but_obvious.play_tally(env, begun.reset_key, 2 * T, lambda t, b: actions[t, b])
    for t in range(2 * T):
        for b in range(B):
            here, found = wanted[t][b], jax.tree.map(lambda x, t=t, b=b: x[t, b], steps)
            np.testing.assert_allclose(found.obs.view, [here["seen"]] * 2, rtol=1e-6)
            np.testing.assert_allclose(found.obs.state, here["seen"], rtol=1e-6)
            np.testing.assert_allclose(found.next_obs.view, [here["next"]] * 2, rtol=1e-6)
            np.testing.assert_allclose(found.reward, here["reward"], rtol=1e-6)
            np.testing.assert_allclose(found.cost, here["cost"])
            assert found.discount == here["discount"] and found.last == here["last"]
            np.testing.assert_allclose(found.log_prob, 2 * [sum(here["seen"])], rtol=1e-6)


@pytest.mark.parametrize("env", WORLDS.values(), ids=WORLDS)
def test_sums_of_the_ended_episodes(env):
    begun, middle, after, first, second, steps = _two_rollouts(env)
    before, whole = (
        slow_but_obvious.play_tally(env, begun.reset_key, end, lambda t, b: steps.action[t, b])[1] for end in (T, 2 * T)
    )
    both = ((first, before), (second, {name: whole[name] - before[name] for name in whole}))
    for batch, ended in both[env.uneven :]:  # of uneven episodes the first rollout leaves some out
        assert ended["count"] > 0
        for name, found in zip(("count", "returns", "costs", "length"), batch.episodes[:4], strict=True):
            np.testing.assert_allclose(found, ended[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("env", WORLDS.values(), ids=WORLDS)
def test_where_the_worlds_then_stand(env):
    begun, middle, after, first, second, steps = _two_rollouts(env)
    for acting, end in ((middle, T), (after, 2 * T)):
        stand = slow_but_obvious.play_tally(env, begun.reset_key, end, lambda t, b: steps.action[t, b])[2]
        for b, here in enumerate(stand):
            found = jax.tree.map(lambda x, b=b: x[b], acting._replace(unreported=()))
            assert found.episode == here["episode"] + 1
            assert (found.memory == here["time"]).all()
            np.testing.assert_allclose(found.env_state, (here["start"], here["time"]), rtol=1e-6)
            np.testing.assert_allclose(found.timestep.obs.view, [[here["start"], here["time"]]] * 2, rtol=1e-6)
            assert not found.timestep.last and found.running.count == 0
            assert found.running.length == here["time"]
            np.testing.assert_allclose(found.running.returns, here["returns"], rtol=1e-5)
            np.testing.assert_allclose(found.running.costs, here["costs"])
            assert found.reset_key == begun.reset_key[b]
    np.testing.assert_array_equal(first.memory, 0)
    np.testing.assert_array_equal(second.memory, middle.memory)


def test_the_uneven_worlds_are_uneven():
    steps = _two_rollouts(WORLDS["uneven"])[-1]
    assert ((0 < steps.last.sum(1)) & (steps.last.sum(1) < B)).any()


def test_every_episode_of_every_world_begins_differently():
    steps = _two_rollouts(WORLDS["every step"])[-1]
    starts = np.asarray(steps.obs.state[..., 0])
    assert len(np.unique(starts)) == 2 * T * B


def test_an_episodes_beginning_does_not_depend_on_the_other_worlds():
    """Worlds 0 to 1 alone live through the same episodes as beside a third world, whatever the actions."""
    env = WORLDS["over"]
    begun = rollout.begin(env, jax.random.key(7), B, jnp.zeros((B, 2)))
    alone = jax.tree.map(lambda x: x[:2], begun._replace(unreported=()))._replace(unreported=begun.unreported)

    def act(key, obs, memory):
        return jax.random.randint(key, obs.view.shape[:2], 0, 3), jnp.zeros(obs.view.shape[:2]), memory

    def play(acting, key):
        return jax.jit(lambda acting: rollout.rollout(env, act, acting, key, T))(acting)[1].steps.obs.state

    together = play(begun, jax.random.key(1))
    np.testing.assert_array_equal(together[:, :2], play(alone, jax.random.key(2)))


def test_under_vmap_as_one_by_one():
    """There the `cond` about new episodes becomes a select."""
    env = WORLDS["over"]
    keys = jax.random.split(jax.random.key(3), 2)

    def play(key):
        return rollout.rollout(env, _act, rollout.begin(env, key, B, jnp.zeros((B, 2))), key, T)

    acting, batch = jax.jit(jax.vmap(play))(keys)
    for i, key in enumerate(keys):
        wanted = jax.jit(play)(key)
        found = jax.tree.map(lambda x, i=i: x[i], (acting, batch))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_allclose(a, b, rtol=1e-6)


class Breaking(Lottery):
    """A lottery in which a world that was drawn says that it broke."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, may_break=True)

    def broken(self, state):
        return state.drawn & (state.time >= 2)


def test_worlds_that_broke_are_counted():
    env = Breaking(5.0, 300.0)
    act = lambda key, obs, memory: (jnp.zeros((64, 2), jnp.int32), jnp.zeros((64, 2)), memory)  # noqa: E731
    acting = rollout.begin(env, jax.random.key(0), 64, ())
    _, batch = jax.jit(lambda acting, key: rollout.rollout(env, act, acting, key, 8))(acting, jax.random.key(1))
    lost = (batch.steps.last & (batch.steps.reward[..., 0] == 5.0)).sum()
    assert batch.episodes.broken == lost and 40 < lost < 120
    assert batch.episodes.count == 64 * 4


def test_staggered_worlds_are_cut_once_and_the_cut_episode_is_not_counted():
    limit, worlds, steps = 20, 64, 100
    env = Tally(over_at=1000, limit=limit)
    begun = rollout.begin(env, jax.random.key(3), worlds, ())

    def act(key, obs, memory):
        return jnp.zeros((worlds, 2), jnp.int32), obs.view.sum(-1), memory

    run = jax.jit(lambda begun: rollout.rollout(env, act, begun, jax.random.key(1), steps, stagger=True))
    after, batch = run(begun)
    last = np.asarray(batch.steps.last)
    firsts = last.argmax(0) + 1
    assert firsts.min() >= 1 and firsts.max() <= limit
    assert len(set(firsts)) > limit // 2 and abs(firsts.mean() - limit / 2) < 3  # spread evenly
    for world, first in enumerate(firsts):
        np.testing.assert_array_equal(np.flatnonzero(last[:, world]) + 1, np.arange(first, steps + 1, limit))
    assert (np.asarray(batch.steps.discount) == 1).all()  # as at a time limit: what follows is still to be had
    whole = last.sum() - worlds
    assert batch.episodes.count == whole and batch.episodes.length == limit * whole
    sums = sum(range(limit))
    np.testing.assert_allclose(batch.episodes.costs / whole, [[0, 0], [sums, 10 * sums]], rtol=1e-5)
    assert ((np.asarray(after.episode) - 1) == last.sum(0)).all()


def test_the_first_episodes_are_reported_when_every_environment_has_finished_one():
    """Episodes of three or five steps in rollouts of two: after four steps only short ones have ended."""
    env, copies = Tally(over_at=3, uneven=True), 8

    def act(key, obs, memory):
        return jnp.zeros((copies, 2), jnp.int32), jnp.zeros((copies, 2)), memory

    acting = rollout.begin(env, jax.random.key(7), copies, ())
    first_long = np.asarray(acting.env_state.start) > 0.5
    long = int(first_long.sum())
    assert 0 < long < copies
    play, reports = jax.jit(lambda acting, key: rollout.rollout(env, act, acting, key, 2)), []
    begun = []
    for key in jax.random.split(jax.random.key(1), 6):
        acting, batch = play(acting, key)
        reports.append(batch.episodes)
        begun.append(batch.begun)
    counts = [float(episodes.count) for episodes in reports]
    short = copies - long
    assert counts[:2] == [0.0, 0.0], "after four steps the long first episodes go on"
    assert copies <= counts[2] <= copies + short, "every first episode, and those that end after the last of them"
    assert reports[2].length == 3 * (counts[2] - long) + 5 * long
    np.testing.assert_array_equal(reports[2].living_steps, [reports[2].length] * 2)
    assert acting.unreported.count == 0 and min(counts[3:]) > 0
    for steps, so_far in ((2, begun[0]), (4, begun[1])):
        lengths = [min(steps, 5 if x else 3) for x in first_long]
        assert so_far.count == copies and so_far.length == sum(lengths)
        np.testing.assert_allclose(so_far.costs[1, 0], sum(n * (n - 1) / 2 for n in lengths))


def test_short_episodes_do_not_count_more_often_while_a_long_one_runs():
    """Episodes of one or three steps: in three steps a copy with short ones ends three, and the first alone counts."""
    env, copies = Tally(over_at=1, uneven=True), 8

    def act(key, obs, memory):
        return jnp.zeros((copies, 2), jnp.int32), jnp.zeros((copies, 2)), memory

    acting = rollout.begin(env, jax.random.key(7), copies, ())
    long = int((acting.env_state.start > 0.5).sum())
    assert 0 < long < copies
    _, batch = jax.jit(lambda acting: rollout.rollout(env, act, acting, jax.random.key(1), 3))(acting)
    assert batch.steps.last.sum() > copies
    assert batch.episodes.count == copies and batch.episodes.length == 1 * (copies - long) + 3 * long
