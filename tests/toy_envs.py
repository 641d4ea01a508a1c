"""Tiny worlds for the tests, and helpers that build small cases from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, registry
from jaxmarl_lite.envs import registry as environments
from jaxmarl_lite.envs.wrappers import Cost, with_costs
from jaxmarl_lite.types import Algorithm, Array, Environment, EnvSpec, Observation, TimeStep


class TallyState(NamedTuple):
    start: Array  # [] float, drawn at reset
    time: Array  # [] int


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sees (start, time); ends for good at `over_at`, or is cut off at `limit`, whichever comes
    first.

    Reward ``(start + time, action_1)``, cost ``time`` and ``10 time`` for agent 1 alone, both
    before the step. The start is a uniform draw, so that every episode of every world is told
    apart; where it is above one half, a world with `uneven` ends two steps later."""

    over_at: int = 3
    limit: int = 100
    uneven: bool = False

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            "test/tally",
            2,
            2,
            2,
            "discrete",
            3,
            min(self.over_at + 2, self.limit),
            "individual",
            cost_names=("a", "b"),
        )

    def _observe(self, state: TallyState) -> Observation:
        observed = jnp.stack([state.start, state.time.astype(state.start.dtype)])
        return Observation(
            jnp.stack([observed, observed]), observed, jnp.ones((2, 3), bool), jnp.ones(2, bool)
        )

    def reset(self, key: Array) -> tuple[TallyState, TimeStep]:
        state = TallyState(jax.random.uniform(key), jnp.zeros((), jnp.int32))
        return state, TimeStep(
            self._observe(state), jnp.zeros(2), jnp.zeros((2, 2)), jnp.ones(()), jnp.zeros((), bool)
        )

    def step(self, state: TallyState, action: Array) -> tuple[TallyState, TimeStep]:
        previous = state.time.astype(float)
        state = state._replace(time=state.time + 1)
        end = self.over_at + jnp.where((state.start > 0.5) & self.uneven, 2, 0)
        over, cut = state.time >= end, state.time >= self.limit
        reward = jnp.stack([state.start + previous, action[1].astype(float)])
        cost = jnp.stack([jnp.zeros(2), jnp.stack([previous, 10.0 * previous])])
        return state, TimeStep(
            self._observe(state), reward, cost, 1.0 - over.astype(float), over | cut
        )


@dataclasses.dataclass(frozen=True)
class Lenient:
    """An environment that may broadcast ranks silently, while the library around it may not."""

    env: Environment

    @property
    def spec(self) -> EnvSpec:
        return self.env.spec

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        with jax.numpy_rank_promotion("allow"):
            return self.env.reset(key)

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        with jax.numpy_rank_promotion("allow"):
            return self.env.step(state, action)


@functools.cache
def get_env(env_id: str, **keywords: Any) -> Environment:
    """A registered environment, safe under the tests' strict settings."""
    return Lenient(environments.make(env_id, **keywords))


@functools.cache
def env_for(algorithm: str, env_id: str) -> Environment:
    """A registered environment; with two costs, and limits, for an algorithm that needs some."""
    env = get_env(env_id)
    return limited(env) if hasattr(registry.config_of(algorithm)(), "cost_limit") else env


def limited(
    env: Environment, first: float | tuple[float, ...] = 0.5, second: float = 0.3
) -> Environment:
    """The environment with a cost of action 1, or of the squared first dimension, and one of all
    that is not 0."""
    discrete = env.spec.action_type == "discrete"

    def subset(state: Any, action: Array, later: Any) -> Array:
        return (action == 1).astype(float) if discrete else jnp.square(action[:, 0])

    def any_at_all(state: Any, action: Array, later: Any) -> Array:
        return (action != 0).astype(float) if discrete else jnp.abs(action).sum(-1)

    return with_costs(
        env,
        [
            Cost("some", "of action 1", subset, first),
            Cost("any", "of not resting", any_at_all, second),
        ],
    )


def counted(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """The function, and a list that grows by one entry whenever it is traced."""
    calls: list[int] = []

    def counting(*args: Any, **keywords: Any) -> Any:
        calls.append(1)
        return function(*args, **keywords)

    return counting, calls


def serves(name: str, action_type: str) -> bool:
    """Whether an algorithm has an answer to such actions."""
    return action_type == "discrete" or name not in ("coma", "qmix")


def algorithm(name: str, env: Environment, **settings: Any) -> Algorithm:
    """An algorithm with tiny networks."""
    kind = registry.config_of(name)
    small = {"rnn_hidden_size": 8} if settings.get("recurrent", kind.recurrent) else {}
    small |= {"num_epochs": 2} if hasattr(kind, "num_epochs") else {}
    small |= (
        {"sequence_length": 3, "buffer_size": 16, "batch_size": 8, "mixing_embed_dim": 4}
        if hasattr(kind, "sequence_length")
        else {}
    )
    if not issubclass(kind, base_config.SharingConfig):
        settings.pop("parameter_sharing", None)  # always separate
    return registry.make_algorithm(
        name, env.spec, kind(**{"hidden_sizes": (16,)} | small | settings)
    )


def of_agents(learner: Any) -> dict[str, Any]:
    """Name -> the weights of a learner that an agent may have for its own; the first are those it
    acts by."""
    if hasattr(learner, "replay_state"):
        return {"values": learner.params.agents}
    joint = hasattr(learner, "target_params")  # one critic for the team
    critics = (
        "critic_params",
        "proxy_critic_params",
        "extrinsic_critic_params",
        "intrinsic_params",
    )
    names = ["actor_params", *(() if joint else critics)]
    result = {name: getattr(learner, name) for name in names if hasattr(learner, name)}
    return result | (
        {"cost critic": learner.costs.critic_params} if getattr(learner, "costs", ()) else {}
    )


def acting(learner: Any) -> Any:
    """The weights that a learner acts by."""
    return next(iter(of_agents(learner).values()))
