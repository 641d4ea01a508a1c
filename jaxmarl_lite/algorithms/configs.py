"""Configs: frozen records whose floats may be traced, and whose values are checked when they are made."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms.limits import Limits

Config = TypeVar("Config")


@dataclass_transform(frozen_default=True)
def config_record(cls: type[Config]) -> type[Config]:
    """Make a class a frozen dataclass and a pytree: float fields and limits are its data, all others are static."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [f.name for f in fields if f.type in ("float", float) or isinstance(f.default, Limits)]
    others = [f.name for f in fields if f.name not in data]
    return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=others)


def check_range(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise ValueError for a number outside ``[low, high]``; traced values are let through unseen."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            allowed = math.isfinite(value) and low <= value <= high
        else:
            allowed = not isinstance(value, (bool, str))
        if not allowed:
            kind = type(config).__name__
            raise ValueError(f"{kind}.{name} is {value!r}; allowed is a number from {low:g} to {high:g}")


def check_whole(config: Any, **lowest: int) -> None:
    """Raise ValueError for a field that is not a whole number of at least ``lowest``."""
    for name, low in lowest.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{type(config).__name__}.{name} is {value!r}; allowed is a whole number, {low} or more")


def check_choice(config: Any, **choices: tuple[str, ...]) -> None:
    """Raise ValueError for a field that is none of its choices."""
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise ValueError(f"{type(config).__name__}.{name} is {value!r}; allowed is one of {', '.join(allowed)}")


def check_flags(config: Any) -> None:
    """Raise ValueError for a field that is to be True or False, and is neither: any word would be taken for True."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type in ("bool", bool) and not isinstance(value, bool):
            raise ValueError(f"{type(config).__name__}.{field.name} is {value!r}; allowed is True or False")


def check_widths(config: Any, name: str) -> None:
    """Make a field a tuple of positive whole numbers, or raise ValueError; an empty one is a network of its head."""
    value = getattr(config, name)
    if not isinstance(value, (tuple, list)) or not all(type(width) is int and width > 0 for width in value):
        allowed = "a tuple of positive whole numbers, such as (64, 64)"
        raise ValueError(f"{type(config).__name__}.{name} is {value!r}; allowed is {allowed}")
    object.__setattr__(config, name, tuple(value))


SHARES = {"anneal_share": "anneal_steps", "epsilon_share": "epsilon_steps"}
"""Field that gives a share of a run -> the field that gives the same in environment steps."""


def check_shares(config: Any) -> None:
    """Raise ValueError for a share outside 0 to 1, or for one beside the number of steps that it stands for."""
    for share, steps in shares_of(type(config)).items():
        check_range(config, **{share: (0, 1)})
        if _is_set(config, share) and getattr(config, steps) != getattr(type(config), steps):
            raise ValueError(
                f"{type(config).__name__}.{share} is {getattr(config, share)!r} and {steps} is "
                f"{getattr(config, steps)!r}; allowed is one of them"
            )


def shares_of(kind: type) -> dict[str, str]:
    """The entries of `SHARES` that a config has."""
    return {share: steps for share, steps in SHARES.items() if hasattr(kind, share)}


def resolve_shares(config: Config, total_steps: int) -> Config:
    """Replaces every share of a run by its number of environment steps.

    Args:
        config: of an algorithm.
        total_steps: environment steps of the whole run of one seed.

    Returns:
        The config that a learner starts with; its shares are 0.
    """
    resolved: dict[str, float] = {}
    for share, steps in shares_of(type(config)).items():
        if _is_set(config, share):
            resolved |= {share: 0.0, steps: getattr(config, share) * total_steps}
    return dataclasses.replace(config, **resolved) if resolved else config  # type: ignore[type-var]


def _is_set(config: Any, share: str) -> bool:
    """Whether a share is given; traced values and arrays are let through unseen."""
    value = getattr(config, share)
    return isinstance(value, (int, float)) and value != 0


def check_resolved(config: Any) -> None:
    """Raise ValueError for a share of a run: only `jaxmarl_lite.run` knows the length that it is a share of."""
    for share, steps in shares_of(type(config)).items():
        if _is_set(config, share):
            raise ValueError(
                f"{type(config).__name__}.{share} is {getattr(config, share)!r}; allowed in jaxmarl_lite.run alone, "
                f"which knows the length of the run; give {steps}, in environment steps"
            )


def as_arrays(config: Config) -> Config:
    """The config with its floats as arrays of the working precision, as a learner carries it.

    Raises:
        ValueError: a share of a run is given, see `check_resolved`.
    """
    check_resolved(config)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), config)
