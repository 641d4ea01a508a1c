"""The inner update of a meta-gradient: one step of the optimizer, or a user's function.

The meta-gradient goes through it, so that it must have a derivative with respect to the gradient of
its loss: one that exists, is finite and is not zero everywhere. `check_derivative` looks at that on
weights of the policy's structure before anything is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from jaxmarl_lite import references, validation
from jaxmarl_lite.algorithms import optimizers
from jaxmarl_lite.ops import jax_types, tree_math
from jaxmarl_lite.types import Array, Number, PyTree

Loss = Callable[[PyTree], Array]
"""``params -> []``."""
UpdateFn = Callable[[Loss, PyTree, PyTree, Number], tuple[PyTree, PyTree]]
"""``(loss, params, state, lr) -> (params, state)``."""


class InnerUpdate(NamedTuple):
    """An inner update with a state of its own, such as an optimizer's.

    Attributes:
        init: ``params -> state``.
        update: ``(loss, params, state, lr) -> (params, state)``; ``loss(params)`` is a scalar.
    """

    init: Callable[[PyTree], PyTree]
    update: UpdateFn


InnerUpdateRule = str | UpdateFn | InnerUpdate | references.Unavailable
"""``optimizer``, a function without a state (it returns the state that it was given), an
`InnerUpdate`, or the text ``module:name`` of one."""

_ALLOWED = (
    "'optimizer', a function (loss, params, state, lr) -> (params, state), an InnerUpdate of "
    "init and update, or 'module:name' of one"
)


def check_form(name: str, rule: object) -> None:
    """Checks the form of an inner update setting; texts are not imported yet.

    Args:
        name: name of the field, for messages.
        rule: the value.

    Raises:
        ValueError: for a value that is no `InnerUpdateRule`.
    """
    is_update = isinstance(rule, InnerUpdate) or optimizers.is_object(rule)
    if rule != "optimizer" and not is_update:
        raise validation.invalid(name, rule, _ALLOWED)


def load(name: str, rule: InnerUpdateRule) -> InnerUpdate:
    """Returns the inner update that a setting names or holds.

    Args:
        name: name of the field, for messages.
        rule: a function, an `InnerUpdate`, or the text ``module:name`` of one.

    Returns:
        The update and the start of its state.

    Raises:
        ValueError: it cannot be imported, is not available, or cannot be called.
    """
    value = optimizers.load_object(name, rule)
    if isinstance(value, InnerUpdate):
        return value
    if not callable(value):
        raise validation.invalid(name, rule, _ALLOWED)
    return InnerUpdate(_no_state, cast(UpdateFn, value))


def _no_state(params: PyTree) -> PyTree:
    """Returns the state of an update without one."""
    return ()


def from_optimizer(optimizer: optimizers.Optimizer, per_agent: bool) -> InnerUpdate:
    """Returns one step of a complete optimizer as an inner update.

    Args:
        optimizer: the optimizer.
        per_agent: see `guard`.

    Returns:
        The update.
    """

    def update(loss: Loss, params: PyTree, state: PyTree, lr: Number) -> tuple[PyTree, PyTree]:
        return optimizer.step(
            params, state, guard(jax_types.grad(loss)(params), per_agent), lr, 1.0
        )

    return InnerUpdate(optimizer.init, update)


def guard(grads: PyTree, per_agent: bool = False) -> PyTree:
    """Returns a gradient without its derivative where it is zero everywhere.

    The gradient of an agent that was dead in the whole batch is zero everywhere. There
    ``optax.clip_by_global_norm`` divides zero by zero in the branch that it does not take, and one
    NaN of the derivative would spoil the reward of all agents.

    Args:
        grads: the gradient of a model.
        per_agent: whether each entry of the leading axis of all leaves is a separate model.

    Returns:
        The gradient, with the same values.
    """
    if per_agent:
        return jax.vmap(guard)(grads)
    leaves: list[Array] = jax.tree.leaves(grads)
    is_zero = ~jnp.stack([(x != 0).any() for x in leaves]).any()
    return tree_math.where(is_zero, jax.lax.stop_gradient(grads), grads)


_STEPS = 4
"""Steps of the check: an optimizer may begin at a learning rate of 0."""
_LR = 1e-3

_jit: Callable[[Callable[[PyTree], tuple[Array, ...]]], Callable[[PyTree], tuple[Array, ...]]]
_jit = cast(PyTree, jax).jit


def check_derivative(name: str, rule: object, inner: InnerUpdate, params: PyTree) -> None:
    """Checks with random gradients that a meta-gradient can go through an inner update.

    Args:
        name: name of the field, for messages.
        rule: its value, for messages.
        inner: the update.
        params: shapes and dtypes of the policy's weights.

    Raises:
        ValueError: the update fails, has no derivative in reverse mode, or one that is not finite
            or is zero everywhere; the message says which.
    """
    weights = tree_math.map_leaves(lambda x: jnp.full(x.shape, 0.5, x.dtype), params)
    try:
        with jax.ensure_compile_time_eval():  # also where a user builds the algorithm under jit
            reason = _reason(*map(float, _jit(functools.partial(_probe, inner))(weights)))
    except Exception as error:  # whatever the user's function raises
        reason = validation.one_line(error)
    if reason:
        raise ValueError(
            f"{name} is {validation.show(rule)}, through which no meta-gradient can go: {reason}; "
            "allowed is an update whose steps are a smooth function of the gradient"
        )


def _reason(finite: float, finite_at_zero: float, slope: float) -> str:
    """Returns why a meta-gradient cannot go through an update, from the results of `_probe`."""
    if not finite:
        return "its derivative with respect to the gradient is not finite"
    if not finite_at_zero:
        return (
            "its derivative is not finite where the gradient of a weight is zero (Adam and RMSprop "
            "of optax need an eps_root above 0 for it, as in optax.adam(3e-4, eps_root=1e-8))"
        )
    if not slope > 0:
        return (
            "its derivative with respect to the gradient is zero, as that of a rule that reads "
            "signs alone (lion), so that the reward would learn nothing"
        )
    return ""


def _probe(inner: InnerUpdate, params: PyTree) -> tuple[Array, Array, Array]:
    """Returns whether derivatives are finite, also at a zero gradient, and the largest one."""

    def slopes(grads: PyTree, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree, Array]:
        """The update down a loss with these gradients, and its derivative along a direction."""
        start = params

        def update(grads: PyTree) -> tuple[PyTree, PyTree]:
            def loss(params: PyTree) -> Array:
                offset = tree_math.add_scaled(-1.0, start, params)
                return tree_math.vdot(grads, params) + 0.5 * tree_math.vdot(offset, offset)

            return inner.update(loss, params, state, _LR)

        new_params, pull_back, state = jax_types.vjp(update, grads, has_aux=True)
        direction = tree_math.map_leaves(
            lambda x: jnp.linspace(0.5, 1.5, x.size, dtype=x.dtype).reshape(x.shape), new_params
        )
        flat: list[Array] = jax.tree.leaves(pull_back(direction))
        return new_params, state, jnp.concatenate([x.ravel() for x in flat])

    def gradient(step: int) -> PyTree:
        def waves(x: Array) -> Array:
            return jnp.cos((step + 1) * jnp.arange(1, x.size + 1, dtype=x.dtype)).reshape(x.shape)

        return tree_math.map_leaves(waves, params)

    # Every second weight has no gradient, as behind a dead unit, and never had one.
    sparse = tree_math.map_leaves(
        lambda x: x * (jnp.arange(x.size).reshape(x.shape) % 2), gradient(_STEPS)
    )
    _, _, at_zero = slopes(sparse, params, inner.init(params))
    state = inner.init(params)
    collected: list[Array] = []
    for step in range(_STEPS):
        params, state, slope = slopes(gradient(step), params, state)
        collected.append(slope)
    all_slopes = jnp.stack(collected)
    return (
        jnp.isfinite(all_slopes).all(),
        jnp.isfinite(at_zero).all(),
        jnp.abs(all_slopes).max(),
    )
