"""Config classes: frozen dataclasses with traceable floats, and the checks of their values.

Values are checked when a config is made by its constructor, and again where it is put to use.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar, cast, dataclass_transform

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxmarl_lite import validation
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, Number, PyTree

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config")


@dataclass_transform(frozen_default=True)
def config_record(cls: type[Config]) -> type[Config]:
    """Makes a class a frozen dataclass and a pytree.

    Float fields and cost limits are the leaves of the pytree, all other fields are static.

    JAX rebuilds a config from its leaves without ``__init__``, so that a tree function may put
    anything in their place (shapes, masks, stacked sweeps). Values are therefore checked where a
    config is made by hand and where it is put to use (`checked`), and not in between.

    Args:
        cls: a class with annotated fields, each with a default.

    Returns:
        The same class, as a frozen dataclass that is registered as a pytree.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    # Annotations are strings here, because modules postpone their evaluation.
    data_names = [
        f.name for f in fields if f.type in ("float", float) or isinstance(f.default, CostLimits)
    ]
    static_names = [f.name for f in fields if f.name not in data_names]

    def flatten(config: Config) -> tuple[tuple[PyTree, ...], tuple[object, ...]]:
        return tuple(getattr(config, name) for name in data_names), tuple(
            getattr(config, name) for name in static_names
        )

    def flatten_with_keys(
        config: Config,
    ) -> tuple[tuple[tuple[object, PyTree], ...], tuple[object, ...]]:
        leaves, static = flatten(config)
        return tuple(zip(map(jax_types.attribute_key, data_names), leaves, strict=True)), static

    def unflatten(static: tuple[object, ...], leaves: Iterable[PyTree]) -> Config:
        # `__init__` would check the leaves, which need not be numbers.
        config = object.__new__(cls)
        vars(config).update(zip(static_names, static, strict=True))
        vars(config).update(zip(data_names, leaves, strict=True))
        return config

    jax_types.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@functools.cache
def _annotations(kind: type) -> dict[str, object]:
    """Returns the type of every field by its name."""
    return typing.get_type_hints(kind)


def check_types(config: DataclassInstance) -> None:
    """Checks every field against its annotation, and stores it as a plain Python value.

    Numbers of NumPy and JAX become Python numbers. An int is a count: from 1 to the largest that 32
    bits hold.

    Args:
        config: a frozen config, whose fields are set in place.

    Raises:
        ValueError: for a value of the wrong type; the message names the field, its value and the
            allowed values.
    """
    kinds = _annotations(type(config))
    for field in dataclasses.fields(config):
        name = f"{type(config).__name__}.{field.name}"
        value, kind = getattr(config, field.name), kinds[field.name]
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


def _check_widths(name: str, value: object) -> tuple[int, ...]:
    """Returns layer widths as a tuple of ints; an empty one is a network of its head alone."""
    widths = [validation.to_python(x) for x in _items(value)]
    if not all(type(width) is int and 1 <= width <= validation.MOST for width in widths):
        raise validation.invalid(name, value, "a tuple of positive whole numbers, such as (64, 64)")
    return tuple(widths)


def _items(value: object) -> Sequence[object]:
    """Returns the items of a tuple or list; [0], which no width may be, of any other value."""
    return cast("Sequence[object]", value) if isinstance(value, (tuple, list)) else [0]


def check_range(config: object, **ranges: tuple[float, float]) -> None:
    """Checks that numbers of a config lie in their ranges.

    Traced values pass unchecked, because they have no value yet.

    Args:
        config: a frozen config, whose fields are set in place as Python numbers.
        **ranges: ``[low, high]`` of each field that is to be checked, both ends included.

    Raises:
        ValueError: for a number outside its range.
    """
    for name, (low, high) in ranges.items():
        value = validation.check_number(
            f"{type(config).__name__}.{name}", getattr(config, name), low, high
        )
        object.__setattr__(config, name, value)


def check_unused(config: object, fields: tuple[str, ...], unused: bool, why: str) -> None:
    """Checks that fields without effect are at their defaults.

    Args:
        config: the config.
        fields: names of the fields.
        unused: whether the fields have no effect; nothing is checked otherwise.
        why: the setting that leaves them without effect, as in "with recurrent False".

    Raises:
        ValueError: for a field that is not at its default although it has no effect. The error's
            attribute ``unused_field`` holds the field's name, for `override`.
    """
    for name in fields if unused else ():
        value, default = getattr(config, name), getattr(type(config), name)
        if not isinstance(value, Tracer) and value != default:
            error = ValueError(
                f"{type(config).__name__}.{name} is {value!r}, which has no effect {why}; allowed "
                f"is {default!r}"
            )
            error.unused_field = name  # type: ignore[attr-defined]
            raise error


def checked(config: Config) -> Config:
    """Returns a config of the same values after the checks of its constructor.

    A config that a tree function made has not passed these checks.

    Args:
        config: a config, in whatever way it was made.

    Returns:
        A new config with the same values.

    Raises:
        ValueError: as the constructor.
    """
    return dataclasses.replace(config)  # type: ignore[type-var]


def override(
    kind: type[Config], base: Mapping[str, object], changes: Mapping[str, object]
) -> Config:
    """Returns a config with the values of ``base``, where ``changes`` takes precedence.

    A value of the base returns to its default where a change gives the same setting in another form
    (a share of the run, or a number of steps), and where the changes leave it without effect. A
    value of the changes that has no effect is refused.

    Args:
        kind: the config class.
        base: values by field name.
        changes: values by field name that replace those of the base.

    Returns:
        An instance of ``kind``.

    Raises:
        ValueError: as the constructor.
    """
    other_form = SHARES | {steps: share for share, steps in SHARES.items()}
    replaced = {other_form.get(name) for name in changes}
    base = {name: value for name, value in base.items() if name not in replaced}
    # The constructor names one field without effect at a time: drop it from the base, try again.
    while True:
        try:
            return kind(**(base | dict(changes)))
        except ValueError as error:
            unused = getattr(error, "unused_field", None)
            if unused in changes or unused not in base:
                raise
            del base[unused]


SHARES = {"lr_anneal_share": "lr_anneal_steps", "epsilon_share": "epsilon_steps"}
"""Field that gives a share of a run -> field that gives the same in environment steps."""


def check_shares(config: object) -> None:
    """Checks every share of a run in a config.

    Args:
        config: a config.

    Raises:
        ValueError: for a share outside 0 to 1, or for a share together with the number of steps
            that it stands for.
    """
    for share, steps in shares_of(type(config)).items():
        check_range(config, **{share: (0, 1)})
        if _is_set(config, share) and getattr(config, steps) != getattr(type(config), steps):
            raise ValueError(
                f"{type(config).__name__}.{share} is {getattr(config, share)!r} and {steps} is "
                f"{getattr(config, steps)!r}; allowed is one of them"
            )


def shares_of(kind: type) -> dict[str, str]:
    """Returns the entries of `SHARES` whose share is a field of a config class.

    Args:
        kind: the config class.

    Returns:
        Field of the share -> field of the number of steps.
    """
    return {share: steps for share, steps in SHARES.items() if hasattr(kind, share)}


def resolve_shares(config: Config, total_steps: int) -> Config:
    """Replaces every share of a run by its number of environment steps.

    Args:
        config: the config of an algorithm.
        total_steps: environment steps of the whole run of one seed.

    Returns:
        The config that a learner starts with; its shares are 0.
    """
    resolved: dict[str, float] = {}
    for share, steps in shares_of(type(config)).items():
        if _is_set(config, share):
            resolved |= {share: 0.0, steps: getattr(config, share) * total_steps}
    return dataclasses.replace(config, **resolved) if resolved else config  # type: ignore[type-var]


def _is_set(config: object, share: str) -> bool:
    """Returns whether a share is set; traced values and arrays count as not set."""
    value = getattr(config, share)
    return isinstance(value, (int, float)) and value != 0


def check_resolved(config: object) -> None:
    """Checks that a config has no share of a run.

    Only `jaxmarl_lite.run` knows the length of the run that a share refers to.

    Args:
        config: a config.

    Raises:
        ValueError: for a share that is set.
    """
    for share, steps in shares_of(type(config)).items():
        if _is_set(config, share):
            raise ValueError(
                f"{type(config).__name__}.{share} is {getattr(config, share)!r}; allowed in "
                "jaxmarl_lite.run alone, "
                f"which knows the length of the run; give {steps}, in environment steps"
            )


def as_arrays(config: Config) -> Config:
    """Returns the config with its floats and cost limits as arrays, as a learner carries it.

    Args:
        config: a config without shares of a run.

    Returns:
        The config with scalar arrays of the working precision as its leaves.

    Raises:
        ValueError: for a share of a run, see `check_resolved`.
    """
    check_resolved(config)

    def as_array(x: Number) -> Array:
        return jnp.asarray(x, jnp.result_type(float))

    return jax.tree.map(as_array, config)
