"""Worlds with costs and limits of their own, for the tests of what a run says about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toy_envs import Tally

from jaxmarl_lite import envs
from jaxmarl_lite.algorithms import base_config, cost_limits, ppo, registry
from jaxmarl_lite.types import Array, Environment, EnvSpec, TimeStep


@dataclasses.dataclass(frozen=True)
class Limited:
    """`Tally` with limits. An episode costs agent 1 three of 'a' and thirty of 'b', or, where its
    start is above one half and `uneven`, ten and a hundred; agent 0 nothing."""

    limits: tuple[float | tuple[float, ...], ...] | None
    uneven: bool = False

    @property
    def spec(self) -> EnvSpec:
        meanings = ("steps before this one", "tens of steps before this one")
        return dataclasses.replace(
            Tally().spec, cost_limits=self.limits, cost_descriptions=meanings
        )

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        return Tally(uneven=self.uneven).reset(key)

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        return Tally(uneven=self.uneven).step(state, action)


@contextmanager
def env_by_id(env_id: str, env: Environment) -> Iterator[str]:
    """The id, for which `make` answers this environment meanwhile; an object would be checked in
    every run anew."""
    make, keywords_of = envs.make, envs.keywords_of
    envs.make = lambda name, **keywords: env if name == env_id else make(name, **keywords)
    envs.keywords_of = lambda name: [] if name == env_id else keywords_of(name)
    try:
        yield env_id
    finally:
        envs.make, envs.keywords_of = make, keywords_of


@base_config.config_record
class BoundedConfig(ppo.IPPOConfig):
    """IPPO's, with limits that it ignores."""

    cost_limit: cost_limits.CostLimit = cost_limits.CostLimits()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(
            self,
            "cost_limit",
            cost_limits.parse_cost_limits(self.cost_limit, "BoundedConfig.cost_limit"),
        )


@contextmanager
def bounded_algorithm() -> Iterator[str]:
    """The name of an algorithm with limits in its config, registered meanwhile."""
    registry.ALGORITHMS["bounded"] = (
        BoundedConfig,
        lambda name, spec, config: ppo.make_ppo("ippo", spec, config),
    )
    try:
        yield "bounded"
    finally:
        del registry.ALGORITHMS["bounded"]
