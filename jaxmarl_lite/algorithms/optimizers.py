"""Optimizers and learning rates: the library's own, and any that a user has from optax.

An optimizer is one of two things.

- A word, ``adam``, ``rmsprop`` or ``sgd``: the gradient is clipped to ``max_grad_norm``, the rule
  is applied, and the step is its result times the learning rate. The numbers of the config are data
  of the compiled program, so that a sweep over them compiles once.
- An ``optax.GradientTransformation``, complete as in Flax's ``TrainState``: it receives the
  gradient as it is, and its updates are added to the weights as they are. Learning rate, clipping,
  weight decay and schedules are its own; settings of the config that would do the same are refused.
  Its schedules count gradient steps, as those of optax do.

A learning rate that belongs to a word is a number, or a schedule: a function from the environment
steps of one seed so far to the rate. It does not depend on how many gradient steps an update takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite import references, validation
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, Number, PyTree

WORDS = ("adam", "rmsprop", "sgd")
"""The library's own rules."""

OptimizerRule = (
    str
    | optax.GradientTransformation
    | Callable[[], optax.GradientTransformation]
    | references.Unavailable
)
"""One of `WORDS`, a transformation, a function without arguments that returns one, or the text
``module:name`` of either."""

LearningRate = float | Callable[[Array], Array] | str | references.Unavailable
"""A number, a schedule (environment steps -> rate), or the text ``module:name`` of one."""

_ALLOWED_RULE = (
    "adam, rmsprop, sgd, an optax.GradientTransformation such as optax.adamw(3e-4), or "
    "'module:name' of one"
)
_ALLOWED_SCHEDULE = "a schedule (environment steps -> rate) or 'module:name' of one"

_eval_shape: Callable[..., PyTree] = cast(PyTree, jax).eval_shape


def is_object(value: object) -> bool:
    """Returns whether a setting holds an object of the user, or the text that names one.

    Args:
        value: the value of a field.

    Returns:
        False for numbers, the library's words and None.
    """
    return (
        callable(value)
        or isinstance(value, (optax.GradientTransformation, references.Unavailable))
        or references.is_reference(value)
    )


def _check_hashable(name: str, value: object) -> None:
    """Raises ValueError for an object by which no compiled program could be found again."""
    try:
        hash(value)
    except TypeError:
        raise validation.invalid(
            name, value, "an object with a hash, such as a function that closes over its arrays"
        ) from None


def check_rule(name: str, rule: object) -> None:
    """Checks the form of an optimizer setting; texts are not imported yet.

    Args:
        name: name of the field, for messages.
        rule: the value.

    Raises:
        ValueError: for a value that is no `OptimizerRule`.
    """
    if not (isinstance(rule, str) and rule in WORDS) and not is_object(rule):
        raise validation.invalid(name, rule, _ALLOWED_RULE)
    _check_hashable(name, rule)


def check_learning_rate(name: str, rate: object, low: float, high: float) -> LearningRate:
    """Returns a learning rate after a check of its form; texts are not imported yet.

    Args:
        name: name of the field, for messages.
        rate: the value.
        low: the lowest number allowed.
        high: the highest number allowed.

    Returns:
        A number as a Python float; a schedule, a text or a traced number unchanged.

    Raises:
        ValueError: for a value that is no `LearningRate`, or out of range.
    """
    if is_object(rate) and not isinstance(rate, optax.GradientTransformation):
        _check_hashable(name, rate)
        return cast(LearningRate, rate)
    try:
        return validation.check_number(name, rate, low, high)
    except ValueError as error:
        raise ValueError(f"{error}, or {_ALLOWED_SCHEDULE}") from None


def is_complete(rule: object) -> bool:
    """Returns whether an optimizer is a transformation with a learning rate of its own.

    Args:
        rule: an `OptimizerRule`, or None.

    Returns:
        False for the library's words and for None.
    """
    return rule is not None and not (isinstance(rule, str) and rule in WORDS)


def load_object(name: str, value: object) -> object:
    """Returns the object that a setting names or holds.

    Args:
        name: name of the field, for messages.
        value: the object, or the text ``module:name`` of it.

    Returns:
        The object.

    Raises:
        ValueError: the object cannot be imported, or is not available.
    """
    if isinstance(value, references.Unavailable):
        raise references.missing(name, value, f"config={{{name.rpartition('.')[2]!r}: ...}}")
    return references.load(name, value) if isinstance(value, str) else value


def load_function(name: str, value: object) -> Callable[..., PyTree]:
    """Returns the function that a setting names or holds.

    Args:
        name: name of the field, for messages.
        value: a function, or the text ``module:name`` of one.

    Returns:
        The function.

    Raises:
        ValueError: it cannot be imported, is not available, or cannot be called.
    """
    function = load_object(name, value)
    if not callable(function):
        raise validation.invalid(name, value, "a function, or 'module:name' of one")
    return function


def load_transformation(name: str, rule: OptimizerRule) -> optax.GradientTransformation:
    """Returns the transformation that a setting names or holds.

    Args:
        name: name of the field, for messages.
        rule: a transformation, a function without arguments that returns one, or the text
            ``module:name`` of either.

    Returns:
        The transformation.

    Raises:
        ValueError: it cannot be imported, is not available, or is no transformation.

    Example:
        >>> import optax
        >>> load_transformation("optimizer", lambda: optax.sgd(0.1)).init({"w": 0.0})
        (EmptyState(), EmptyState())
    """
    value = load_object(name, rule)
    if callable(value) and not isinstance(value, optax.GradientTransformation):
        try:
            value = value()
        except TypeError as error:
            raise ValueError(
                f"{name} is {validation.show(rule)}, which cannot be called without arguments "
                f"({validation.one_line(error)}); allowed is {_ALLOWED_RULE}"
            ) from error
    if not isinstance(value, optax.GradientTransformation):
        raise validation.invalid(name, rule, _ALLOWED_RULE)
    return value


def load_schedule(name: str, rate: LearningRate) -> Callable[[Array], Array]:
    """Returns the schedule that a setting names or holds, after a check of its result's shape.

    Args:
        name: name of the field, for messages.
        rate: a schedule, or the text ``module:name`` of one.

    Returns:
        The schedule.

    Raises:
        ValueError: it cannot be imported, is not available, or returns no single number.
    """
    schedule = load_function(name, rate)
    try:
        value = _eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.result_type(float)))
    except Exception as error:  # whatever the user's function raises
        raise ValueError(
            f"{name} is {validation.show(rate)}, which fails for a traced number of environment "
            f"steps ({validation.one_line(error)}); allowed is {_ALLOWED_SCHEDULE}"
        ) from error
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.number):
        raise ValueError(
            f"{name} is {validation.show(rate)}, which returns {value}; allowed is a schedule that "
            "returns one number"
        )
    return schedule


def learning_rate(rate: LearningRate, env_steps: Array, lr_anneal_steps: Number) -> Array:
    """Returns the learning rate after a number of environment steps.

        lr max(1 - env_steps / lr_anneal_steps, 0),    or lr where lr_anneal_steps is 0

    The value of a schedule is taken as it is.

    Args:
        rate: the learning rate at the start, or a schedule.
        env_steps: ``[]``, environment steps so far.
        lr_anneal_steps: environment steps after which a number has fallen to 0; 0 for a constant
            rate.

    Returns:
        ``[]``, the learning rate.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> schedule = optax.cosine_decay_schedule(0.1, decay_steps=1000)
        >>> [round(float(learning_rate(schedule, jnp.float32(n), 0)), 3) for n in (0, 500, 1000)]
        [0.1, 0.05, 0.0]
    """
    if is_object(rate):
        return jnp.asarray(load_schedule("lr", rate)(env_steps), env_steps.dtype)
    remaining = jnp.maximum(1.0 - env_steps / jnp.maximum(lr_anneal_steps, 1.0), 0.0)
    return cast(Number, rate) * jnp.where(lr_anneal_steps > 0, remaining, 1.0)


class Optimizer(NamedTuple):
    """An optimizer that minimizes, as two pure functions.

    Attributes:
        init: ``params -> state``.
        step: ``(params, state, grads, lr, max_norm) -> (params, state)``, downhill along ``grads``.
            A complete optimizer has no use for ``lr`` and ``max_norm``.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, PyTree, Number, Number], tuple[PyTree, PyTree]]


def make_optimizer(
    rule: OptimizerRule, eps_root: Array | float, per_agent: bool = False, name: str = "optimizer"
) -> Optimizer:
    """Returns an optimizer whose learning rate and clipping are arguments, which may be traced.

    Args:
        rule: one of the library's words, or a complete optimizer.
        eps_root: number under the square root of the second moment, 0 or more: with it the step is
            differentiable where a gradient is zero. Without effect for all but ``adam`` and
            ``rmsprop``.
        per_agent: whether each entry of the leading axis of all leaves is a separate model, whose
            gradient is clipped by its own norm.
        name: name of the setting, for messages.

    Returns:
        The optimizer; but for a complete one, it clips gradients to the norm ``max_norm``.

    Raises:
        ValueError: ``rule`` is a complete optimizer that cannot be imported, or that cannot take a
            step (raised by ``init``).
    """
    if is_complete(rule):
        optimizer = _complete_optimizer(name, rule)
    else:
        scale: optax.GradientTransformation
        if rule == "adam":
            scale = optax.scale_by_adam(eps=1e-5, eps_root=eps_root)
        elif rule == "rmsprop":
            scale = optax.scale_by_rms(decay=0.99, eps=eps_root, eps_in_sqrt=True)
        else:
            scale = optax.identity()

        def step(
            params: PyTree, state: PyTree, grads: PyTree, lr: Number, max_norm: Number
        ) -> tuple[PyTree, PyTree]:
            updates, state = scale.update(tree_math.clip_by_norm(grads, max_norm), state, params)
            return tree_math.add_scaled(-lr, updates, params), state

        optimizer = Optimizer(scale.init, step)
    if per_agent:
        return Optimizer(jax.vmap(optimizer.init), jax.vmap(optimizer.step, (0, 0, 0, None, None)))
    return optimizer


def _complete_optimizer(name: str, rule: OptimizerRule) -> Optimizer:
    """Returns a user's transformation, whose updates are added to the weights as they are."""
    transformation = load_transformation(name, rule)

    def init(params: PyTree) -> PyTree:
        state = tree_math.map_leaves(jnp.asarray, transformation.init(params))
        _check_step(name, rule, transformation, params, state)
        return state

    def step(
        params: PyTree, state: PyTree, grads: PyTree, lr: Number, max_norm: Number
    ) -> tuple[PyTree, PyTree]:
        del lr, max_norm
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return Optimizer(init, step)


def _check_step(
    name: str,
    rule: OptimizerRule,
    transformation: optax.GradientTransformation,
    params: PyTree,
    state: PyTree,
) -> None:
    """Checks by tracing that a transformation takes a step and keeps the form of its state."""
    try:
        updates, after = _eval_shape(transformation.update, params, state, params)
    except Exception as error:  # whatever the user's transformation raises
        raise ValueError(
            f"{name} is {validation.show(rule)}, which cannot take a step "
            f"({validation.one_line(error)}); allowed is a transformation whose update needs "
            "gradients, state and weights alone"
        ) from error
    for what, new, old in (("updates", updates, params), ("a state", after, state)):
        if _form(new) != _form(old):
            raise ValueError(
                f"{name} is {validation.show(rule)}, which returns {what} of another structure, "
                "shape or dtype than it took; allowed is a transformation that keeps them"
            )


def _form(tree: PyTree) -> PyTree:
    """Returns structure, shapes and dtypes of a tree."""
    map_leaves: Callable[..., PyTree] = jax.tree.map

    def form(leaf: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    return map_leaves(form, tree)


_GRADIENT_SCALE = 2.0**30
"""Gradients are multiplied by this before they are squared: in float32 the square of 1e-20 is 0.
Steps cancel it."""


def make_scale_free_optimizer(
    rule: OptimizerRule,
    eps: Array | float,
    per_agent: bool = False,
    name: str = "intrinsic_optimizer",
) -> Optimizer:
    """Returns an optimizer whose steps do not depend on the scale of the gradient.

        step = m / (sqrt(v) + eps rms(sqrt(v)))    instead of    m / (sqrt(v) + eps)

    This is Adam or RMSprop, where rms is the root mean square over all weights of the model. A
    gradient that is a hundred million times smaller than 1, as a meta-gradient is, still moves a
    weight by about the learning rate. Gradients are not clipped, because a longest gradient would
    be a scale. The steps are not made to be differentiated.

    Args:
        rule: the rule. ``sgd`` is plain and clipped: its steps have the gradient's scale. A
            complete optimizer is used as it is.
        eps: share of the root mean square of ``sqrt(v)``, > 0.
        per_agent: whether each entry of the leading axis of all leaves is a separate model.
        name: name of the setting, for messages.

    Returns:
        The optimizer; its ``max_norm`` has no effect except for ``sgd``.
    """
    if rule not in ("adam", "rmsprop"):
        return make_optimizer(rule, 0.0, per_agent, name)
    first_decay, second_decay = (0.9, 0.999) if rule == "adam" else (0.0, 0.99)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = tree_math.map_leaves(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def step(
        params: PyTree, state: optax.ScaleByAdamState, grads: PyTree, lr: Number, max_norm: Number
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        grads = tree_math.map_leaves(lambda g: _GRADIENT_SCALE * g, grads)
        mu = optax.tree.update_moment(grads, state.mu, first_decay, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, second_decay, 2)
        count = optax.safe_increment(state.count)
        first_moments = optax.tree.bias_correction(mu, first_decay, count)
        second_moments = optax.tree.bias_correction(nu, second_decay, count)
        leaves: list[Array] = jax.tree.leaves(second_moments)
        # One floor for the whole model, in the unit of the gradient, so that its scale cancels.
        floor = eps * jnp.sqrt(sum(x.sum() for x in leaves) / sum(x.size for x in leaves))

        def update_leaf(p: Array, m: Array, v: Array) -> Array:
            root = jnp.sqrt(v) + floor
            # A weight that has never had a gradient stays, even where the floor is 0.
            return p - lr * jnp.where(v > 0, m / jnp.where(v > 0, root, 1.0), 0.0)

        return (
            tree_math.map_leaves(update_leaf, params, first_moments, second_moments),
            optax.ScaleByAdamState(count, mu, nu),
        )

    if per_agent:
        return Optimizer(jax.vmap(init), jax.vmap(step, (0, 0, 0, None, None)))
    return Optimizer(init, step)
