"""One algorithm in one environment, with the compiled programs that all checks share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import rollout
from jaxmarl_lite.types import (
    Algorithm,
    Array,
    Environment,
    EnvSpec,
    Observation,
    PyTree,
    Rollout,
    RolloutState,
)

LANES = (0, 1, 0)
"""Seeds that are run side by side; the first and the last must agree."""
MOST_UPDATES = 200
"""Updates after which the checks no longer wait for an algorithm to learn."""


class CheckFailedError(Exception):
    """A check that an algorithm does not pass; the message says what is wrong."""


class CheckSkippedError(Exception):
    """A check that does not apply; the message says why."""


class Run(NamedTuple):
    """State of the runs of all seeds; leaves lead with the seeds.

    Attributes:
        learner: State of the learners.
        rollout_state: State of their environments.
    """

    learner: PyTree
    rollout_state: RolloutState


def leaves_of(name: str, tree: PyTree) -> Iterator[tuple[str, Any]]:
    """Yields every leaf of a tree with its name.

    Args:
        name: Name of the tree.
        tree: The tree.

    Yields:
        Name and leaf; typed keys as their data.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        yield name + jax.tree_util.keystr(path), leaf


def first_difference(name: str, tree: PyTree, other: PyTree) -> str | None:
    """Returns the name of the first leaf that differs in a bit, or None.

    Args:
        name: Name of the trees.
        tree: A tree of arrays.
        other: A tree of the same structure.

    Returns:
        The leaf's name.
    """
    for (leaf_name, a), (_, b) in zip(leaves_of(name, tree), leaves_of(name, other), strict=True):
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            return leaf_name
    return None


def without_config(learner: PyTree) -> PyTree:
    """Returns a learner without the config that it may carry, whose numbers are no result.

    Args:
        learner: State of a learner.

    Returns:
        The learner with () in place of ``config``, if it is a named tuple that has one.
    """
    if isinstance(learner, tuple) and "config" in getattr(learner, "_fields", ()):
        return learner._replace(config=())  # type: ignore[attr-defined]
    return learner


class Case:
    """An algorithm in an environment.

    Everything is computed when a check first asks for it, and then kept.

    Attributes:
        name: Words for the environment.
        make: Returns the algorithm; anew where it can be.
        algorithm: The algorithm.
        env: The environment.
        spec: Its sizes.
        num_envs: number of environments, B.
        num_steps: number of steps, T.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Algorithm],
        env: Environment,
        num_envs: int,
        num_steps: int,
        seed: int,
    ) -> None:
        self.name, self.make, self.env, self.spec = name, make, env, env.spec
        self.num_envs, self.num_steps, self.seed = num_envs, num_steps, seed
        self.algorithm = make()
        self.num_traces = {"init": 0, "update": 0}

        def update(key: Array, learner: PyTree, batch: Rollout) -> tuple[PyTree, PyTree]:
            self.num_traces["update"] += 1
            return self.algorithm.update(key, learner, batch)

        self._update = jax.jit(jax.vmap(update))
        self._play = jax.jit(jax.vmap(self.play_one))
        self._init = jax.jit(jax.vmap(self.init_one, (0, None)))

    def keys(self, stream: int, number: int | None = None) -> Array:
        """Returns a key for every lane; equal seeds get equal keys.

        Args:
            stream: Number of the purpose.
            number: Number of the update, within the purpose.

        Returns:
            Typed keys.
        """

        def key(lane: int) -> Array:
            root = jax.random.fold_in(jax.random.key(self.seed + lane), stream)
            return root if number is None else jax.random.fold_in(root, number)

        return jnp.stack([key(lane) for lane in LANES])

    @functools.cached_property
    def config_floats(self) -> Any:
        """The config with its floats as arrays; None for a config that is no tree of floats."""
        config = self.algorithm.config
        leaves = jax.tree.leaves(config)
        if not dataclasses.is_dataclass(config) or not leaves or leaves[0] is config:
            return None
        return jax.tree.map(lambda x: jnp.asarray(x, float), config)

    def init(self, config: Any) -> Run:
        """Begins the runs of all seeds.

        Args:
            config: The config with its floats as arrays, or None for the algorithm's config.

        Returns:
            The runs.
        """
        return self._init(self.keys(0), config)

    def init_one(self, key: Array, config: Any) -> Run:
        """Begins a run of one seed.

        Args:
            key: Random key.
            config: The config, whose floats are traced; None for the algorithm's config.

        Returns:
            Its learner and its environments.
        """
        self.num_traces["init"] += 1
        learner_key, env_key = jax.random.split(key)
        config = self.algorithm.config if config is None else config
        learner = self.algorithm.init(learner_key, self.num_envs, config)
        hidden_state = self.algorithm.init_hidden_state(self.num_envs)
        return Run(
            learner, rollout.init_rollout_state(self.env, env_key, self.num_envs, hidden_state)
        )

    def play_one(self, key: Array, run: Run) -> tuple[Run, Rollout]:
        """Collects the rollout of one seed.

        Args:
            key: Random key.
            run: The run.

        Returns:
            The run with its environments' new state, and the rollout.
        """

        def act(key: Array, obs: Observation, hidden_state: PyTree) -> tuple[Array, Array, PyTree]:
            return self.algorithm.act(run.learner, key, obs, hidden_state)

        state, batch = rollout.rollout(self.env, act, run.rollout_state, key, self.num_steps)
        return Run(run.learner, state), batch

    def update(self, number: int, learner: PyTree, batch: Rollout) -> tuple[PyTree, PyTree]:
        """Learns from a rollout, for all seeds.

        Args:
            number: Number of the update, for its keys.
            learner: State of the learners.
            batch: Their rollouts.

        Returns:
            The new state, and the metrics.
        """
        return self._update(self.keys(2, number), learner, batch)

    def advance(self, run: Run, number: int) -> tuple[Run, PyTree]:
        """Collects a rollout and learns from it, for all seeds.

        Args:
            run: The runs.
            number: Number of the update, for its keys.

        Returns:
            The runs, and the metrics.
        """
        run, batch = self._play(self.keys(1, number), run)
        learner, info = self.update(number, run.learner, batch)
        return Run(learner, run.rollout_state), info

    @functools.cached_property
    def start(self) -> Run:
        """The runs before anything is learned."""
        return self.init(self.config_floats)

    @functools.cached_property
    def batch(self) -> Rollout:
        """The first rollouts, leaves ``[lanes, T, B, ...]``."""
        return self._play(self.keys(1, 0), self.start)[1]

    @functools.cached_property
    def num_updates(self) -> int:
        """Updates until every algorithm has learned something."""
        first = self.algorithm.first_learning_update(self.num_envs, self.num_steps)
        return min(int(first) + 1, MOST_UPDATES)

    @functools.cached_property
    def learned(self) -> tuple[Run, PyTree]:
        """The runs after ``num_updates`` updates, and the metrics of the last one."""
        run, info = self.start, {}
        for number in range(self.num_updates):
            run, info = self.advance(run, number)
        return run, info

    @functools.cached_property
    def _act(self) -> Callable[..., tuple[Array, Array, PyTree]]:
        return jax.jit(self.algorithm.act, static_argnames="greedy")

    def act(
        self, obs: Observation, key: int, greedy: bool = False, learner: PyTree = None
    ) -> tuple[Array, Array, PyTree]:
        """Acts by the learner of the first seed, at the start of an episode.

        Args:
            obs: Observations of the shape of `observations`.
            key: Number of the random key.
            greedy: Whether to take the best actions.
            learner: Learners of all seeds; by default those that have learned nothing.

        Returns:
            What the algorithm's ``act`` returns.
        """
        learner = self.start.learner if learner is None else learner
        learner = jax.tree.map(lambda x: x[0], learner)
        hidden_state = self.algorithm.init_hidden_state(obs.alive.shape[0])
        return self._act(learner, jax.random.key(key), obs, hidden_state, greedy=greedy)

    @functools.cached_property
    def observations(self) -> Observation:
        """The observations of the first seed's rollout as one batch, ``[T * B, ...]``."""
        return jax.tree.map(lambda x: x[0].reshape(-1, *x.shape[3:]), self.batch.transitions.obs)


def is_discrete(spec: EnvSpec) -> bool:
    """Returns whether the actions of an environment are discrete.

    Args:
        spec: Its sizes.
    """
    return spec.action_type == "discrete"
