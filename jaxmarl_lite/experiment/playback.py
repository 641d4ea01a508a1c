"""Single episodes of what a run has learned, and its policies to play with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import keys
from jaxmarl_lite.algorithms import liir
from jaxmarl_lite.evaluate import make_play
from jaxmarl_lite.types import Algorithm, Array, Environment, Observation, PyTree
from jaxmarl_lite.validation import check_bool, check_int, check_obs


class Episode(NamedTuple):
    """One episode of T steps; arrays are NumPy's."""

    states: list[Any]  # T + 1 of the environment's states, the last one among them
    agents_view: np.ndarray  # [T, N, O] what each agent saw
    action: np.ndarray  # [T, N] or [T, N, A]
    alive: np.ndarray  # [T, N]
    reward: np.ndarray  # [T, N] of each step
    cost: np.ndarray  # [T, N, K]
    team_reward: np.ndarray  # [T]
    intrinsic_reward: (
        np.ndarray | None
    )  # [T, N] what LIIR's learned rewards say to each step; None for other algorithms

    @property
    def length(self) -> int:
        """T."""
        return len(self.reward)


EpisodeFn = Callable[[PyTree, int], Episode]


def make_episode_fn(algorithm: Algorithm, env: Environment, greedy: bool) -> EpisodeFn:
    """``play(learner, seed) -> Episode``: one episode, drawn from ``seed``, with what has been
    learned.
    """
    spec = env.spec
    compiled = jax.jit(_with_intrinsic(algorithm, env, greedy))

    def play(learner: PyTree, seed: int) -> Episode:
        seed = check_int("episode_seed", seed, -(2**31), 2**32 - 1)
        states, timesteps, actions, intrinsic = jax.device_get(
            compiled(learner, keys.for_purpose(seed, keys.PLAY))
        )
        length = int(timesteps.last.argmax()) if timesteps.last.any() else len(timesteps.last) - 1
        obs, after = timesteps.obs, slice(1, length + 1)
        return Episode(
            states=[jax.tree.map(lambda x, i=i: x[i], states) for i in range(length + 1)],
            agents_view=obs.agents_view[:length],
            action=actions[:length],
            alive=obs.alive[:length],
            reward=timesteps.reward[after],
            cost=timesteps.cost[after],
            team_reward=np.asarray(spec.team_return(timesteps.reward[after])),
            intrinsic_reward=None if intrinsic is None else intrinsic[:length],
        )

    return play


def _with_intrinsic(algorithm: Algorithm, env: Environment, greedy: bool) -> Callable[..., Any]:
    """The play of one episode, with one step to spare for its last state, and what LIIR's rewards
    say to it.
    """
    play_one = make_play(algorithm, env, env.spec.max_episode_steps + 1, greedy)

    def episode(learner: PyTree, key: Array) -> Any:
        states, timesteps, actions = play_one(learner, key)
        intrinsic = None
        if isinstance(learner, liir.LIIRState):
            intrinsic = liir.intrinsic_rewards(env.spec, learner, timesteps.obs, actions)
        return states, timesteps, actions, intrinsic

    return episode


class TrainedPolicy:
    """A policy in one world: call it with what the agents see, get their actions; it remembers the
    episode.

    Call `reset` when a new episode begins. Sampled actions are the same for the same ``key``.
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
        """Forget the episode; with ``key``, draw from it from now on."""
        self._memory = self._algorithm.init_hidden_state(1)
        self._key = self._key if key is None else key

    def __call__(self, obs: Observation) -> Array:
        """Actions ``[N]`` or ``[N, A]`` for an observation of one world."""
        if self._algorithm.spec is not None:
            check_obs(obs, self._algorithm.spec)
        self._key, key = jax.random.split(self._key)
        action, self._memory = self._act(self._learner, key, obs, self._memory)
        return action
