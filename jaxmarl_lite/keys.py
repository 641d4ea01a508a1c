"""Random keys by purpose, so that no two uses of one seed share a key.

``jax.random.split(key, n)[i]`` and ``jax.random.fold_in(key, i)`` are the same key. A key that is
split for one purpose can therefore be folded for another only with a number that no split reaches:
the numbers below, each used once.
"""

from __future__ import annotations

import jax

from jaxmarl_lite.types import Array

EVALUATION = 1 << 20
"""Episodes of a run's evaluations; folded again with the number of updates."""
RANDOM_POLICY = (1 << 20) + 1
"""Episodes of the uniformly random policy."""
PLAY = (1 << 20) + 2
"""One episode of a trained policy."""
ACT = (1 << 20) + 3
"""Actions of a policy that is called from outside."""
AFTERWARDS = (1 << 20) + 4
"""Episodes that are played with a finished run."""
COST_CRITIC = (1 << 20) + 5
"""Weights of the cost critics, so that the other networks begin as they would without costs."""
STAGGER = 2**32 - 1
"""Step at which an environment's first episode is cut; beyond the number of any episode."""


def for_purpose(key: Array | int, purpose: int) -> Array:
    """Derives the key of one purpose.

    Args:
        key: A typed key, or a seed.
        purpose: One of the numbers of this module.

    Returns:
        A typed key that no split of ``key`` returns.

    Example:
        A seed stands for its key, and two purposes have different keys:

        >>> import jax
        >>> from jaxmarl_lite import keys
        >>> bool(keys.for_purpose(0, keys.PLAY) == keys.for_purpose(jax.random.key(0), keys.PLAY))
        True
        >>> bool(keys.for_purpose(0, keys.PLAY) == keys.for_purpose(0, keys.ACT))
        False
    """
    return jax.random.fold_in(key if isinstance(key, jax.Array) else jax.random.key(key), purpose)
