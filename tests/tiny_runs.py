"""Small runs for the tests of the host side: they compile in seconds and train in none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.experiment.run_logger import TIMINGS
from jaxmarl_lite.report import run_dir
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep

SIZES: dict[str, Any] = dict(num_envs=4, num_steps=4, eval_episodes=4, quiet=True)
BATCH = 16  # environment steps of an update of these sizes


def config(algorithm: str, **fields: Any) -> Any:
    """The algorithm's smallest networks."""
    kind = registry.config_of(algorithm)
    replay = (
        {"sequence_length": 2, "buffer_size": 16, "batch_size": 8, "mixing_embed_dim": 2}
        if hasattr(kind, "sequence_length")
        else {}
    )
    return kind(**{"hidden_sizes": (4,), **replay, **fields})


def updates(number: int) -> int:
    """Environment steps of so many updates."""
    return number * BATCH


def rows(path: Path) -> list[str]:
    """A run's rows without what differs from run to run; as text, in which NaN equals NaN and every
    bit shows."""
    return [
        repr({k: v for k, v in row.items() if k not in TIMINGS}) for row in run_dir.load(path).rows
    ]


def assert_same_bits(a: Any, b: Any) -> None:
    """Two trees agree in every bit, keys included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), (_, y) in zip(
        *(jax.tree_util.tree_leaves_with_path(tree) for tree in (a, b)), strict=True
    ):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), jax.tree_util.keystr(path)


class LotteryState(NamedTuple):
    drawn: Array  # [] bool
    time: Array  # [] int


@dataclasses.dataclass(frozen=True)
class Lottery:
    """Two steps an episode; a few episodes in a thousand pay `prize` instead of the first agent's
    action."""

    prize: float
    per_thousand: float
    name: str = "test/lottery"

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(self.name, 2, 1, 1, "discrete", 2, 2)

    def _step(self, state: LotteryState, reward: Array, over: Array) -> TimeStep:
        time = state.time.astype(float)
        obs = Observation(
            jnp.full((2, 1), time), time[None], jnp.ones((2, 2), bool), jnp.ones(2, bool)
        )
        return TimeStep(obs, jnp.full(2, reward), jnp.zeros((2, 0)), 1.0 - over.astype(float), over)

    def reset(self, key: Array) -> tuple[LotteryState, TimeStep]:
        state = LotteryState(
            jax.random.uniform(key) < self.per_thousand / 1000, jnp.zeros((), jnp.int32)
        )
        return state, self._step(state, jnp.zeros(()), jnp.zeros((), bool))

    def step(self, state: LotteryState, action: Array) -> tuple[LotteryState, TimeStep]:
        state = state._replace(time=state.time + 1)
        reward = jnp.where(state.drawn, self.prize, action[0].astype(float))
        return state, self._step(state, reward, state.time >= 2)


class Closed:
    """An environment that hashes by identity and cannot be drawn; otherwise a `Lottery` without
    prizes."""

    def __init__(self) -> None:
        self._inner = Lottery(0.0, 0.0, "test/closed")
        self.spec = self._inner.spec
        self.reset, self.step = self._inner.reset, self._inner.step
