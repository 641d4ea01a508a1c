"""Single episodes and policies of a trained run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import keys
from jaxmarl_lite.evaluate import make_play
from jaxmarl_lite.types import Algorithm, Array, Environment, Observation, PyTree
from jaxmarl_lite.validation import check_bool, check_int, check_obs


class Episode(NamedTuple):
    """One episode of T steps; arrays are NumPy's.

    Attributes:
        states: the T + 1 states of the environment, including the last one.
        agents_view: ``[T, N, O]`` observation of each agent.
        action: ``[T, N]`` int or ``[T, N, A]`` float.
        alive: ``[T, N]`` bool.
        reward: ``[T, N]`` reward of each step.
        cost: ``[T, N, K]`` cost of each step.
        team_reward: ``[T]`` reward of the team.
        intrinsic_reward: ``[T, N]`` reward of each step that the algorithm has learned for each
            agent; None where it learns none.
    """

    states: list[Any]
    agents_view: np.ndarray
    action: np.ndarray
    alive: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    team_reward: np.ndarray
    intrinsic_reward: np.ndarray | None

    @property
    def length(self) -> int:
        """T, the number of steps."""
        return len(self.reward)


EpisodeFn = Callable[[PyTree, int], Episode]


def make_episode_fn(algorithm: Algorithm, env: Environment, greedy: bool) -> EpisodeFn:
    """Returns a function that plays one episode with a learner's policy.

    Args:
        algorithm: the algorithm.
        env: the environment.
        greedy: whether to play the likeliest actions instead of sampled ones.

    Returns:
        ``play(learner, seed) -> Episode``; the episode is drawn from ``seed``. The function is
        compiled at its first call.
    """
    spec = env.spec
    # One step more than an episode can have, so that its last state is included.
    play_one = make_play(algorithm, env, spec.max_episode_steps + 1, greedy)

    @jax.jit
    def compiled(learner: PyTree, key: Array) -> Any:
        states, timesteps, actions = play_one(learner, key)
        intrinsic = (
            None
            if algorithm.intrinsic_reward is None
            else algorithm.intrinsic_reward(learner, timesteps.obs, actions)
        )
        return states, timesteps, actions, intrinsic

    def play(learner: PyTree, seed: int) -> Episode:
        seed = check_int("episode_seed", seed, -(2**31), 2**32 - 1)
        states, timesteps, actions, intrinsic = jax.device_get(
            compiled(learner, keys.for_purpose(seed, keys.PLAY))
        )
        # an episode that the step limit of `make_play` ends has no last time step
        length = int(timesteps.last.argmax()) if timesteps.last.any() else len(timesteps.last) - 1
        obs, successors = timesteps.obs, slice(1, length + 1)
        return Episode(
            states=[jax.tree.map(lambda x, i=i: x[i], states) for i in range(length + 1)],
            agents_view=obs.agents_view[:length],
            action=actions[:length],
            alive=obs.alive[:length],
            reward=timesteps.reward[successors],
            cost=timesteps.cost[successors],
            team_reward=np.asarray(spec.team_return(timesteps.reward[successors])),
            intrinsic_reward=None if intrinsic is None else intrinsic[:length],
        )

    return play


class TrainedPolicy:
    """A policy that maps the observation of one environment to actions, with its hidden state.

    Call it once per step, and `reset` when a new episode begins. Sampled actions are the same for
    the same ``key``.

    Args:
        algorithm: the algorithm.
        learner: the learner's state.
        greedy: whether to take the likeliest actions instead of sampled ones.
        key: random key of the sampled actions; None: a fixed one.

    Raises:
        ValueError: ``greedy`` is no bool.
    """

    def __init__(
        self, algorithm: Algorithm, learner: PyTree, greedy: bool, key: Array | None = None
    ):
        self._algorithm, self._learner = algorithm, learner
        greedy = check_bool("greedy", greedy)

        def act(
            learner: PyTree, key: Array, obs: Observation, hidden_state: PyTree
        ) -> tuple[Array, PyTree]:
            obs = jax.tree.map(lambda x: x[None], obs)
            action, _, hidden_state = algorithm.act(learner, key, obs, hidden_state, greedy=greedy)
            return action[0], hidden_state

        self._act = jax.jit(act)
        self.reset(keys.for_purpose(0, keys.ACT) if key is None else key)

    def reset(self, key: Array | None = None) -> None:
        """Resets the hidden state for a new episode.

        Args:
            key: random key of the actions that follow; None continues with the present one.
        """
        self._hidden_state = self._algorithm.init_hidden_state(1)
        self._key = self._key if key is None else key

    def __call__(self, obs: Observation) -> Array:
        """Returns the actions of all agents, and advances the hidden state.

        Args:
            obs: observation of one environment, without batch axis.

        Returns:
            ``[N]`` int for discrete actions, ``[N, A]`` float for continuous ones.

        Raises:
            ValueError: ``obs`` has other shapes than the algorithm's environment.
        """
        if self._algorithm.spec is not None:
            check_obs(obs, self._algorithm.spec)
        self._key, key = jax.random.split(self._key)
        action, self._hidden_state = self._act(self._learner, key, obs, self._hidden_state)
        return action
