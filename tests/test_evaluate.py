import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import Tally, algorithm, get_env

from jaxmarl_lite import evaluate
from jaxmarl_lite.types import Algorithm


def _scripted(act):
    """An algorithm without a learner, whose hidden state counts the steps."""
    none = lambda *_: None  # noqa: E731
    return Algorithm("scripted", None, none, lambda b: jnp.zeros((b, 1)), act, none, none)


def _ones(learner, key, obs, hidden_state, greedy=False):
    return (
        jnp.ones(obs.agents_view.shape[:2], jnp.int32),
        jnp.zeros(obs.agents_view.shape[:2]),
        hidden_state + 1,
    )


def _greedy_is_two(learner, key, obs, hidden_state, greedy=False):
    return (
        jnp.full(obs.agents_view.shape[:2], 2 if greedy else 1, jnp.int32),
        jnp.zeros(obs.agents_view.shape[:2]),
        hidden_state,
    )


@pytest.mark.parametrize("env", [Tally(over_at=3), Tally(over_at=9, limit=3)], ids=["over", "cut"])
def test_a_scripted_policy_in_an_env_with_a_known_return(env):
    result = jax.jit(evaluate.make_evaluate(_scripted(_ones), env, 5))((), jax.random.key(0))
    assert result.returns.shape == (5, 2) and result.costs.shape == (5, 2, 2)
    np.testing.assert_array_equal(result.lengths, 3)
    np.testing.assert_array_equal(result.returns[:, 1], 3)
    # Agent 0 receives start, start + 1, start + 2.
    starts = (np.asarray(result.returns[:, 0]) - 3) / 3
    assert ((starts >= 0) & (starts < 1)).all() and len(np.unique(starts)) == 5
    np.testing.assert_array_equal(result.costs, np.broadcast_to([[0, 0], [3, 30]], (5, 2, 2)))


def _counts_from(begin):
    """In world b, both agents of toy/counter wait until step `begin[b]`."""

    def act(learner, key, obs, hidden_state, greedy=False):
        go = hidden_state[:, :1] >= jnp.asarray(begin)[:, None]
        return (
            jnp.repeat(go, 2, 1).astype(jnp.int32),
            jnp.zeros(obs.agents_view.shape[:2]),
            hidden_state + 1,
        )

    return _scripted(act)


def test_an_episode_counts_once_though_others_are_longer():
    env = get_env("toy/counter")
    # Three counts are needed; the limit is six steps.
    result = jax.jit(evaluate.make_evaluate(_counts_from([0, 1, 3, 4, 9]), env, 5))(
        (), jax.random.key(0)
    )
    assert result.lengths.tolist() == [3, 4, 6, 6, 6]
    assert result.returns.tolist() == [[1, 1]] * 3 + [[0, 0]] * 2


def test_greedy_reaches_the_algorithm():
    env = Tally(over_at=3)
    for greedy, expected in ((False, 3), (True, 6)):
        result = jax.jit(evaluate.make_evaluate(_scripted(_greedy_is_two), env, 2, greedy))(
            (), jax.random.key(0)
        )
        np.testing.assert_array_equal(result.returns[:, 1], expected)


def test_greedy_is_the_likeliest_action_and_sampling_is_not():
    env = get_env("toy/climbing")
    ours = algorithm("ippo", env)
    learner = jax.jit(lambda key: ours.init(key, 4))(jax.random.key(0))
    spread = {}
    for greedy in (True, False):
        result = jax.jit(evaluate.make_evaluate(ours, env, 64, greedy))(learner, jax.random.key(1))
        spread[greedy] = len(np.unique(result.returns))
    assert spread[True] == 1 and spread[False] > 3


def test_rewards_after_the_end_do_not_count_even_when_they_are_not_numbers():
    class Broken(Tally):
        """Over after 2 or 3 steps; beyond its end it says that it is not over, and pays what is not
        a number."""

        def step(self, state, action):
            state, next_state = super().step(state, action)
            end = jnp.where(state.start > 0.5, 2, 3)
            pay = jnp.where(state.time > end, jnp.nan, 1.0)
            paid = next_state._replace(reward=jnp.full((2,), pay), cost=jnp.full((2, 2), pay))
            return state, paid._replace(last=state.time == end)

    result = jax.jit(evaluate.make_evaluate(_scripted(_ones), Broken(over_at=3), 8))(
        (), jax.random.key(0)
    )
    assert set(np.asarray(result.lengths).tolist()) == {2, 3}
    np.testing.assert_array_equal(result.returns[:, 0], result.lengths)
    np.testing.assert_array_equal(result.costs[:, 1, 1], result.lengths)


def test_play_shows_states_steps_and_actions():
    env = Tally(over_at=3)
    states, timesteps, actions = jax.jit(
        evaluate.make_play(_scripted(_greedy_is_two), env, 4, greedy=True)
    )((), jax.random.key(0))
    assert states.time.tolist() == [0, 1, 2, 3] and timesteps.last.tolist() == [
        False,
        False,
        False,
        True,
    ]
    assert actions.shape == (4, 2) and (actions == 2).all()
    assert timesteps.reward[:, 1].tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_a_wrong_number_of_episodes_is_named(number):
    with pytest.raises(ValueError, match=f"num_episodes is {number!r}"):
        evaluate.make_evaluate(_scripted(_ones), Tally(), number)
