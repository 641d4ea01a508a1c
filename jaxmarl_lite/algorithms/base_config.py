"""Configs: frozen records whose floats may be traced, and whose values are checked when they are
made.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxmarl_lite import validation
from jaxmarl_lite.algorithms.cost_limits import CostLimits

Config = TypeVar("Config")


@dataclass_transform(frozen_default=True)
def config_record(cls: type[Config]) -> type[Config]:
    """Make a class a frozen dataclass and a pytree: float fields and limits are its data, all
    others are static.

    A config is rebuilt from its leaves without `__init__`, so that a tree function may put anything
    in their place (shapes, masks, stacked sweeps); values are checked where a config is made by
    hand and where it is put to use.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = [
        f.name for f in fields if f.type in ("float", float) or isinstance(f.default, CostLimits)
    ]
    others = [f.name for f in fields if f.name not in data]

    def flatten(config: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(config, name) for name in data), tuple(
            getattr(config, name) for name in others
        )

    def flatten_with_keys(config: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        leaves, static = flatten(config)
        return tuple(zip(map(jax.tree_util.GetAttrKey, data), leaves, strict=True)), static

    def unflatten(static: tuple[Any, ...], leaves: Any) -> Any:
        config = object.__new__(cls)
        vars(config).update(zip(others, static, strict=True))
        vars(config).update(zip(data, leaves, strict=True))
        return config

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    """The types of the fields."""
    return typing.get_type_hints(kind)


def check_types(config: Any) -> None:
    """Check every field against its annotation, and keep numbers of NumPy and JAX as Python's.

    An int is a count: from 1 to what 32 bits hold.

    Raises:
        ValueError: names the field, its value and what is allowed.
    """
    kinds = _annotations(type(config))
    for field in dataclasses.fields(config):
        name, value, kind = (
            f"{type(config).__name__}.{field.name}",
            getattr(config, field.name),
            kinds[field.name],
        )
        if kind is float:
            value = validation.check_number(name, value)
        elif kind is int:
            value = validation.check_int(name, value, 1, validation.MOST)
        elif kind is bool:
            value = validation.check_bool(name, value)
        elif typing.get_origin(kind) is Literal:
            value = validation.check_choice(name, value, typing.get_args(kind))
        elif kind == tuple[int, ...]:
            value = _check_widths(name, value)
        object.__setattr__(config, field.name, value)


def _check_widths(name: str, value: Any) -> tuple[int, ...]:
    """Widths as a tuple of ints; an empty one is a network of its head."""
    widths = [validation.to_python(x) for x in value] if isinstance(value, (tuple, list)) else [0]
    if not all(type(width) is int and 1 <= width <= validation.MOST for width in widths):
        raise validation.invalid(name, value, "a tuple of positive whole numbers, such as (64, 64)")
    return tuple(widths)


def check_range(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise ValueError for a number outside ``[low, high]``; traced values are let through
    unseen.
    """
    for name, (low, high) in ranges.items():
        value = validation.check_number(
            f"{type(config).__name__}.{name}", getattr(config, name), low, high
        )
        object.__setattr__(config, name, value)


def check_unused(config: Any, fields: tuple[str, ...], unused: bool, why: str) -> None:
    """Raise ValueError for a field that is not at its default where it has no effect.

    Args:
        config: the config.
        fields: which ones.
        unused: whether they have no effect; nothing is checked otherwise.
        why: the setting that leaves them without effect, as in "with recurrent False".
    """
    for name in fields if unused else ():
        value, default = getattr(config, name), getattr(type(config), name)
        if not isinstance(value, Tracer) and value != default:
            error = ValueError(
                f"{type(config).__name__}.{name} is {value!r}, which has no effect {why}; allowed "
                f"is {default!r}"
            )
            error.unused_field = name  # type: ignore[attr-defined]  # for `override`
            raise error


def checked(config: Config) -> Config:
    """Returns a config of the same values after the checks of its constructor: one made by a tree
    function had none.
    """
    return dataclasses.replace(config)  # type: ignore[type-var]


def override(kind: type[Config], base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    """Returns a config of the values in ``base`` with ``changes`` in their place.

    A value of the base that says in another form what a change says (a share of the run, or a
    number of steps), or that the changes leave without effect, makes way for the default; one of
    the changes is refused.

    Raises:
        ValueError: as the constructor.
    """
    other_form = SHARES | {steps: share for share, steps in SHARES.items()}
    dropped = {other_form.get(name) for name in changes}
    base = {name: value for name, value in base.items() if name not in dropped}
    while True:
        try:
            return kind(**(base | dict(changes)))
        except ValueError as error:
            unused = getattr(error, "unused_field", None)
            if unused in changes or unused not in base:
                raise
            del base[unused]


SHARES = {"lr_anneal_share": "lr_anneal_steps", "epsilon_share": "epsilon_steps"}
"""Field that gives a share of a run -> the field that gives the same in environment steps."""


def check_shares(config: Any) -> None:
    """Raise ValueError for a share outside 0 to 1, or for one beside the number of steps that it
    stands for.
    """
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
    """Raise ValueError for a share of a run: only `jaxmarl_lite.run` knows the length that it is a
    share of.
    """
    for share, steps in shares_of(type(config)).items():
        if _is_set(config, share):
            raise ValueError(
                f"{type(config).__name__}.{share} is {getattr(config, share)!r}; allowed in "
                "jaxmarl_lite.run alone, "
                f"which knows the length of the run; give {steps}, in environment steps"
            )


def as_arrays(config: Config) -> Config:
    """The config with its floats as arrays of the working precision, as a learner carries it.

    Raises:
        ValueError: a share of a run is given, see `check_resolved`.
    """
    check_resolved(config)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), config)
