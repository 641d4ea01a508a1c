"""Config classes: frozen dataclasses with traceable floats, and the checks of their values.

Settings may be objects of the user, such as an optimizer: see `algorithms.optimizers`.

The config of an algorithm is the sum of the classes at the end of this module whose settings it
uses. Values are checked when a config is made by its constructor, and again where it is put to use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast, dataclass_transform

import jax.numpy as jnp
from jax.core import Tracer

from jaxmarl_lite import references, validation
from jaxmarl_lite.algorithms import optimizers
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.algorithms.optimizers import LearningRate, OptimizerRule
from jaxmarl_lite.networks.recurrent import NetworkSpec
from jaxmarl_lite.networks.torsos import Sharing
from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import PyTree

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config")


_FLOATS = ("float", float, "LearningRate")
"""Annotations of fields that hold a number, or perhaps a schedule."""


def bounded(default: float, low: float, high: float) -> float:
    """Declares a float field with its default and its range.

    Args:
        default: the default.
        low: the lowest number allowed.
        high: the highest number allowed.

    Returns:
        The field, for `config_record`.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclass_transform(frozen_default=True)
def config_record(cls: type[Config]) -> type[Config]:
    """Makes a class a frozen dataclass and a pytree.

    Float fields and cost limits are the leaves of the pytree, all other fields are static. So is a
    learning rate that is a schedule.

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
    _name_unknown_fields(cls, [f.name for f in fields])
    # Annotations are strings here, because modules postpone their evaluation.
    data_names = [f.name for f in fields if f.type in _FLOATS or isinstance(f.default, CostLimits)]
    rate_names = {f.name for f in fields if f.type == "LearningRate"}

    def flatten(
        config: Config,
    ) -> tuple[tuple[tuple[object, PyTree], ...], tuple[tuple[str, object], ...]]:
        values = vars(config)
        schedules = {name for name in rate_names if optimizers.is_object(values[name])}
        data = [name for name in data_names if name not in schedules]
        leaves = ((jax_types.attribute_key(name), values[name]) for name in data)
        static = (f.name for f in fields if f.name not in data_names or f.name in schedules)
        return tuple(leaves), tuple((name, values[name]) for name in static)

    def unflatten(static: tuple[tuple[str, object], ...], leaves: Iterable[PyTree]) -> Config:
        # `__init__` would check the leaves, which need not be numbers.
        config = object.__new__(cls)
        vars(config).update(static)
        data = [name for name in data_names if name not in vars(config)]
        vars(config).update(zip(data, leaves, strict=True))
        return config

    jax_types.register_pytree_with_keys(cls, flatten, unflatten)
    _RECORDS.add(cls)
    return cls


_RECORDS: set[type] = set()


def is_config_record(kind: type) -> bool:
    """Returns whether a class is a `config_record`.

    Args:
        kind: the class; one that only inherits from a config record is none.
    """
    return kind in _RECORDS


_OPTIONAL_RULES = ("OptimizerRule | None",)


def _name_unknown_fields(cls: type[Config], names: list[str]) -> None:
    """Makes the constructor of a config raise ValueError, with the nearest names, for others."""
    construct = cls.__init__

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **values: Any) -> None:
        for name in values:
            if name not in names:
                raise validation.unknown_name(f"field of {cls.__name__}", name, names)
        construct(self, *args, **values)

    cls.__init__ = init


def check_fields(config: DataclassInstance) -> None:
    """Checks every field against its annotation and range, and stores it as a plain Python value.

    Numbers of NumPy and JAX become Python numbers; traced ones pass unchecked, because they have no
    value yet. An int is a count: from 1 to the largest that 32 bits hold.

    Args:
        config: a frozen config, whose fields are set in place.

    Raises:
        ValueError: for a value of the wrong type or range; the message names the field, its value
            and the allowed values.
    """
    prefix = f"{type(config).__name__}."
    validation.check_fields(config, prefix)
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if field.type in ("tuple[int, ...]", tuple[int, ...]):
            lowest = field.metadata.get("lowest", 1)
            object.__setattr__(config, field.name, _check_ints(name, value, lowest))
        elif field.type == "LearningRate":
            value = optimizers.check_learning_rate(name, value, *field.metadata["range"])
            object.__setattr__(config, field.name, value)
        elif field.type == "OptimizerRule" or (field.type in _OPTIONAL_RULES and value is not None):
            optimizers.check_rule(name, value)
        elif "range" in field.metadata:
            value = validation.check_number(name, value, *field.metadata["range"])
            object.__setattr__(config, field.name, value)


def _check_ints(name: str, value: object, lowest: int) -> tuple[int, ...]:
    """Returns widths (from 1) or groups (from 0) as a tuple of ints, which may be empty."""
    numbers = [validation.to_python(x) for x in _items(value)]
    if not all(type(number) is int and lowest <= number <= validation.MOST for number in numbers):
        allowed = "a tuple of positive whole numbers, such as (64, 64)"
        if lowest == 0:
            allowed = "a tuple of whole numbers from 0, such as (0, 0, 1)"
        raise validation.invalid(name, value, allowed)
    return tuple(numbers)


def _items(value: object) -> Sequence[object]:
    """Returns the items of a tuple or list; [-1], which is not allowed, of any other value."""
    return cast("Sequence[object]", value) if isinstance(value, (tuple, list)) else [-1]


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
                f"{type(config).__name__}.{name} is {validation.show(value)}, which has no effect "
                f"{why}; allowed is {default!r}"
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


def shares_of(kind: type) -> dict[str, str]:
    """Returns the entries of `SHARES` whose share is a field of a config class.

    Args:
        kind: the config class.

    Returns:
        Field of the share -> field of the number of steps.
    """
    return {share: steps for share, steps in SHARES.items() if hasattr(kind, share)}


def _set_shares(config: object) -> dict[str, str]:
    """Returns the entries of `SHARES` that are set; traced values and arrays count as not set."""
    values = {share: getattr(config, share, 0.0) for share in SHARES}
    return {
        share: SHARES[share]
        for share, value in values.items()
        if isinstance(value, (int, float)) and value != 0
    }


def resolve_shares(config: Config, total_steps: int) -> Config:
    """Replaces every share of a run by its number of environment steps.

    Args:
        config: the config of an algorithm.
        total_steps: environment steps of the whole run of one seed.

    Returns:
        The config that a learner starts with; its shares are 0.
    """
    resolved: dict[str, float] = {}
    for share, steps in _set_shares(config).items():
        resolved |= {share: 0.0, steps: getattr(config, share) * total_steps}
    return dataclasses.replace(config, **resolved) if resolved else config  # type: ignore[type-var]


def check_resolved(config: object) -> None:
    """Checks that a config can be put to use: no share of a run, and all of its objects at hand.

    Only `jaxmarl_lite.run` knows the length of the run that a share refers to.

    Args:
        config: a config.

    Raises:
        ValueError: for a share that is set, and for an optimizer or a schedule that cannot be
            imported, is of the wrong kind, or is not available.
    """
    for field, value in objects_of(config).items():
        name = f"{type(config).__name__}.{field}"
        if field in _RATES:
            optimizers.load_schedule(name, cast(LearningRate, value))
        elif field in _RATES.values():
            optimizers.load_transformation(name, cast(OptimizerRule, value))
        else:
            optimizers.load_object(name, value)
    for share, steps in _set_shares(config).items():
        raise ValueError(
            f"{type(config).__name__}.{share} is {getattr(config, share)!r}; allowed in "
            f"jaxmarl_lite.run alone, which knows the length of the run; give {steps}, in "
            "environment steps, which jaxmarl_lite.tuned returns with total_steps"
        )


def objects_of(config: object) -> dict[str, object]:
    """Returns the settings of a config that hold an object of the user, or a text that names one.

    Args:
        config: the config of an algorithm.

    Returns:
        Name of a field -> the object or text.

    Example:
        >>> import jaxmarl_lite as jml
        >>> objects_of(jml.IPPOConfig(lr="my_module:schedule", optimizer="sgd"))
        {'lr': 'my_module:schedule'}
    """
    return {name: value for name, value in vars(config).items() if optimizers.is_object(value)}


def describe_objects(config: object) -> dict[str, str]:
    """Returns the settings of `objects_of` as texts, for the folder of a run.

    Args:
        config: the config of an algorithm.

    Returns:
        Name of a field -> its text by `references.describe`.
    """
    return {name: references.describe(value) for name, value in objects_of(config).items()}


def restore_objects(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns stored settings where an object that no folder can hold is `Unavailable`.

    Args:
        fields: values by field name, with the texts of `describe_objects`.

    Returns:
        The values; whoever builds the algorithm replaces those that are not available.
    """
    return {
        name: references.from_description(value)
        if isinstance(value, str) and value.startswith("<")
        else value
        for name, value in fields.items()
    }


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
    dtype = jnp.result_type(float)
    return tree_math.map_leaves(lambda x: jnp.asarray(x, dtype), config)


@config_record
class Settings:
    """The base of every part of a config.

    A config that sums up parts takes each default from the first part in its list of bases that has
    the field: one part may override the default of another that stands behind it.
    """

    def __post_init__(self) -> None:
        check_fields(self)


_RATES = {
    "lr": "optimizer",
    "critic_lr": "critic_optimizer",
    "cost_critic_lr": "cost_critic_optimizer",
    "intrinsic_lr": "intrinsic_optimizer",
}
"""Field of a learning rate -> field of the optimizer that it belongs to."""
_FALLBACKS = {
    "critic_optimizer": "optimizer",
    "cost_critic_optimizer": "critic_optimizer",
    "intrinsic_optimizer": "optimizer",
}
"""Field of an optimizer -> the field that counts where it is None."""


def rule_of(config: object, field: str) -> OptimizerRule:
    """Returns the optimizer of one network.

    Args:
        config: the config of an algorithm.
        field: ``optimizer``, ``critic_optimizer``, ``cost_critic_optimizer`` or
            ``intrinsic_optimizer``.

    Returns:
        The field's value; where it is None, the optimizer of the policy, or, for the critic of
        costs, that of the critic. The intrinsic reward takes no complete optimizer from the policy,
        because its gradients are many orders of magnitude smaller, but ``adam``.

    Example:
        >>> import jaxmarl_lite as jml
        >>> rule_of(jml.MACPOConfig(critic_optimizer="sgd"), "cost_critic_optimizer")
        'sgd'
    """
    rule = getattr(config, field)
    if rule is None:
        rule = rule_of(config, _FALLBACKS[field])
        if field == "intrinsic_optimizer" and optimizers.is_complete(rule):
            return "adam"
    return rule


@config_record
class LearnerConfig(Settings):
    """Settings of every algorithm: its networks, its optimizer and its discount."""

    lr_anneal_steps: float = bounded(0.0, 0, 1e15)
    """Environment steps over which the learning rates fall linearly to 0; 0 keeps them constant."""
    lr_anneal_share: float = bounded(0.0, 0, 1)
    """The same as a share of the run's total_steps, 0 to 1; 1 falls to 0 at its end."""
    gamma: float = bounded(0.99, 0, 1)
    """Discount per step."""
    max_grad_norm: float = bounded(0.5, 1e-6, 1e9)
    """Largest norm of a gradient, for each network separately."""
    eps_root: float = bounded(1e-12, 0, 1)
    """Added to the optimizer's second moment under its root; with it the step is differentiable at
    a zero gradient."""
    optimizer: OptimizerRule = "adam"
    """Rule of the gradient steps: adam, rmsprop or sgd, which clip the gradient to max_grad_norm
    and step by lr; or a complete one, such as optax.adamw(3e-4), or module:name of one, whose
    updates are applied as they are, so that its learning rate and clipping are its own."""
    recurrent: bool = False
    """Whether the networks have a GRU after their dense layers."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Widths of the dense layers."""
    rnn_hidden_size: int = 128
    """Width of the GRU's hidden state."""
    head_hidden_sizes: tuple[int, ...] = ()
    """Widths of further dense layers between the GRU and each head."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function after each dense layer."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """To what the operands of the matrix products of dense layers and GRU are rounded; sums,
    weights and gradients stay float32, and so do the products of heads and of QMIX's mixer. A
    user's own networks do not read it."""
    normalize_observations: bool = False
    """Standardize observations and states by their running moments."""
    evaluated_greedily: ClassVar[bool] = False
    """Whether evaluations take the best actions unless the user chooses, because sampled ones
    explore."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for share, steps in _set_shares(self).items():
            if getattr(self, steps) != getattr(type(self), steps):
                raise ValueError(
                    f"{type(self).__name__}.{share} is {getattr(self, share)!r} and {steps} is "
                    f"{getattr(self, steps)!r}; allowed is one of them"
                )
        check_unused(self, ("rnn_hidden_size",), not self.recurrent, "with recurrent False")
        only_heads = not (self.recurrent or self.hidden_sizes or self.head_hidden_sizes)
        check_unused(self, ("precision",), only_heads, "with no layers but the heads")
        self._check_optimizers()

    def _check_optimizers(self) -> None:
        """Refuses settings that no optimizer reads."""
        rules = self.rules_by_rate()
        as_they_are = "whose updates are applied as they are"
        for rate, rule in rules.items():
            why = f"with {_RATES[rate]} {validation.show(rule)}, {as_they_are}"
            check_unused(self, (rate,), optimizers.is_complete(rule), why)
        names = [
            rule for rule in rules.values() if isinstance(rule, str) and rule in optimizers.WORDS
        ]
        complete = not names and any(map(optimizers.is_complete, rules.values()))
        why = f"with optimizers {as_they_are}"
        check_unused(self, ("max_grad_norm", "eps_root"), complete, why)
        is_plain = bool(names) and set(names) == {"sgd"}
        check_unused(self, ("eps_root",), is_plain, "with optimizer 'sgd'")
        anneal = ("lr_anneal_steps", "lr_anneal_share")
        rates = [name for name, rule in rules.items() if not optimizers.is_complete(rule)]
        check_unused(self, anneal, not rates, why)
        schedules = all(optimizers.is_object(getattr(self, name)) for name in rates)
        check_unused(self, anneal, schedules, "with learning rates that are schedules")
        if "lr" not in rules and getattr(self, "critic_optimizer", None) is not None:
            check_unused(
                self, ("optimizer",), True, "with critic_optimizer: no policy has its step"
            )

    def rules_by_rate(self) -> dict[str, OptimizerRule | None]:
        """Returns the optimizers in use.

        Returns:
            Field of a learning rate -> the optimizer that it belongs to; None for one that reads
            the rate and neither ``max_grad_norm`` nor ``eps_root``.
        """
        return {rate: rule_of(self, field) for rate, field in _RATES.items() if hasattr(self, rate)}

    @property
    def network_spec(self) -> NetworkSpec:
        """The layers of the networks.

        Returns:
            The part of this config that decides the networks' shapes.
        """
        return NetworkSpec(
            self.hidden_sizes,
            self.activation,
            self.recurrent,
            self.rnn_hidden_size,
            self.head_hidden_sizes,
            self.precision,
        )


@config_record
class SharingConfig(Settings):
    """The settings of algorithms whose agents may share their weights."""

    parameter_sharing: bool = True
    """One set of weights for all agents, or one per agent."""
    share_groups: tuple[int, ...] = dataclasses.field(default=(), metadata={"lowest": 0})
    """Number of each agent's group, from 0, where the agents of a group share their weights; ():
    all agents or none do, by parameter_sharing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        groups = self.share_groups
        if sorted(set(groups)) != list(range(len(set(groups)))):
            raise validation.invalid(
                f"{type(self).__name__}.share_groups",
                groups,
                "a group for each agent, numbered from 0 without a gap, such as (0, 0, 1)",
            )
        check_unused(self, ("parameter_sharing",), bool(groups), "with share_groups")

    @property
    def sharing(self) -> Sharing:
        """Which agents share their weights.

        Returns:
            True for all, False for none, or the group of each agent. Groups that hold all agents,
            or one each, are True and False.
        """
        groups = self.share_groups
        if not groups:
            return self.parameter_sharing
        if len(set(groups)) in (1, len(groups)):
            return len(set(groups)) == 1
        return groups

    def check_agents(self, num_agents: int) -> None:
        """Checks that every agent has a group, if there are groups.

        Args:
            num_agents: number of agents, N.

        Raises:
            ValueError: there are more or fewer groups than agents.
        """
        if self.share_groups and len(self.share_groups) != num_agents:
            raise validation.invalid(
                f"{type(self).__name__}.share_groups",
                self.share_groups,
                f"() or {num_agents} numbers, one for each agent of the environment",
            )


@config_record
class CriticConfig(LearnerConfig):
    """Settings of every algorithm with a critic, whatever the step of its policy."""

    critic_lr: LearningRate = bounded(5e-4, 0, 10)
    """Learning rate of the critic; or a schedule, as for lr."""
    critic_optimizer: OptimizerRule | None = None
    """Rule of the critic's gradient steps, as for optimizer; None: that of optimizer."""
    gae_lambda: float = bounded(0.95, 0, 1)
    """Mixing of n-step returns: 0 is one step, 1 the whole return."""
    num_minibatches: int = 2
    """Number of minibatches into which each pass divides the environments."""
    normalize_advantages: bool = True
    """Standardize the advantages of each minibatch."""


@config_record
class CriticInputConfig(Settings):
    """The setting of a critic that may see one observation or the state."""

    critic_input: Literal["local", "global_state"] = "local"
    """Input of the critic: the agent's own observation or the global state."""


@config_record
class CentralCriticConfig(CriticInputConfig):
    """The default of algorithms with a central critic."""

    critic_input: Literal["local", "global_state"] = "global_state"
    """Input of the critic: the agent's own observation or the global state."""


@config_record
class ValueNormalizationConfig(Settings):
    """The setting of algorithms whose critic may predict standardized returns."""

    normalize_values: bool = False
    """Let the critic predict returns standardized by their running moments (Yu et al. 2022)."""


@config_record
class EpochsConfig(Settings):
    """The setting of algorithms that pass over each batch several times."""

    num_epochs: int = 4
    """Passes over each batch; by the critics alone where the policy's step is not PPO's."""


@config_record
class CriticEpochsConfig(Settings):
    """Settings of algorithms whose policy takes one gradient step per batch."""

    gae_lambda: float = bounded(0.8, 0, 1)
    """λ of the TD(λ) targets and of the advantage: 0 is one step, 1 the whole return."""
    critic_epochs: int = 4
    """Passes of the critic over each batch; the policy takes one step."""


@config_record
class PolicyGradientConfig(Settings):
    """Settings of every algorithm whose policy takes gradient steps."""

    lr: LearningRate = bounded(5e-4, 0, 10)
    """Learning rate of the policy; or a schedule, such as optax.cosine_decay_schedule(3e-4, 1e6),
    or module:name of one: a function of the environment steps of a seed so far, not of gradient
    steps."""
    entropy_coef: float = bounded(0.01, 0, 1e3)
    """Weight of the entropy bonus, reward per nat."""


@config_record
class ClippedStepConfig(PolicyGradientConfig, EpochsConfig, CriticConfig):
    """Settings of every algorithm whose policy takes PPO's clipped step."""

    clip_eps: float = bounded(0.2, 1e-6, 1e6)
    """Distance of the probability ratio from 1 beyond which its gain is cut off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        one_step = self.num_epochs == 1 and self.num_minibatches == 1
        check_unused(
            self, ("clip_eps",), one_step, "with 1 epoch of 1 minibatch, whose only ratio is 1"
        )
