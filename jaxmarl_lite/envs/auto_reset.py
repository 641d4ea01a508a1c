"""The probe for an environment that resets itself at the end of an episode.

Such an environment returns, in the step whose ``last`` is True, the state and the observation of
the next episode. A critic then looks beyond a time limit into another episode, and the last state
of an episode is lost. Many environments of other libraries do so.

The probe compares the numbers that are the same after every reset (a clock at 0, a flag at False):
while an episode lasts they change, and in a state that was reset they are back. The environment
resets itself if this is so at the end of several episodes, and if the state then goes on as an
episode that is not over.

It cannot see a reset in an environment whose state and observation have no such number, for example
without a clock, whose episodes are one step long, or whose episodes outlast the check. A state that
truly ends where every episode begins is no different from one that was reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.types import Array, PyTree, TimeStep

RESETS = 8
"""Number of resets whose common numbers are taken for those of every reset."""
EPISODES = 3
"""Number of episodes that must all end in a reset."""
_SHORTEST_CLOCK = 4
"""Length of an episode from which one number that returns at the end, and not before, counts as a
clock; in shorter ones a number that alternates does so too."""


def flatten(tree: PyTree) -> np.ndarray:
    """Returns all numbers of a tree as one vector.

    Args:
        tree: Arrays and typed random keys.

    Returns:
        A float64 vector.
    """
    leaves = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in map(jnp.asarray, jax.tree.leaves(tree))
    ]
    vectors = [np.asarray(x, np.float64).reshape(-1) for x in jax.device_get(leaves)]
    return np.concatenate([np.zeros(0), *vectors])


class Start(NamedTuple):
    """The numbers that every reset gives alike.

    Attributes:
        value: The numbers after one reset.
        is_constant: Whether each of them is the same after all resets.
    """

    value: np.ndarray
    is_constant: np.ndarray

    def is_back(self, tree: PyTree) -> np.ndarray:
        """Returns, for each constant number, whether a tree has it.

        Args:
            tree: A tree of the form of the start.

        Returns:
            A bool vector.
        """
        vector, start = flatten(tree)[self.is_constant], self.value[self.is_constant]
        return np.isclose(vector, start, rtol=1e-5, atol=1e-6)


class Starts(NamedTuple):
    """What every reset of an environment gives alike.

    Attributes:
        state: In the state.
        obs: In the observation.
    """

    state: Start
    obs: Start


def find_starts(reset: Callable[[Array], tuple[PyTree, TimeStep]], key: Array) -> Starts:
    """Compares the states and observations of several resets.

    Args:
        reset: The environment's function, compiled.
        key: Random key.

    Returns:
        The numbers that all of them have in common.
    """
    results = [reset(jax.random.fold_in(key, i)) for i in range(RESETS)]
    states = np.stack([flatten(state) for state, _ in results])
    observations = np.stack([flatten(timestep.obs) for _, timestep in results])
    return Starts(*(Start(x[0], (x == x[0]).all(0)) for x in (states, observations)))


def ends_in_reset(
    starts: Starts,
    steps: Iterable[tuple[PyTree, TimeStep]],
    next_step: Callable[[PyTree, TimeStep], TimeStep],
) -> bool:
    """Returns whether the last state and observation of an episode are those of a fresh one.

    Args:
        starts: What every reset gives alike.
        steps: The state and time step after each step of the episode; all are read.
        next_step: ``(state, timestep) -> timestep``, takes one step more.

    Returns:
        Whether the state goes on as an episode that is not over, and all constant numbers of the
        observation are back, and in the state all of them, or one that was elsewhere after every
        earlier step. False for an episode that is not over.
    """
    ever_away = np.zeros(starts.state.is_constant.sum(), bool)
    always_away, is_back = ~ever_away, ever_away
    last: tuple[PyTree, TimeStep] | None = None
    length = 0
    for state, timestep in steps:
        if last is not None:
            ever_away, always_away = ever_away | ~is_back, always_away & ~is_back
        is_back = starts.state.is_back(state)
        last, length = (state, timestep), length + 1
    if last is None or length < 2 or not last[1].last:
        return False
    everything = bool(is_back.all() and ever_away.any())
    clock = length >= _SHORTEST_CLOCK and bool((is_back & always_away).any())
    if not (everything or clock) or not starts.obs.is_back(last[1].obs).all():
        return False
    return not bool(next_step(*last).last)
