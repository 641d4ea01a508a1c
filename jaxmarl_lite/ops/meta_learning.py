"""The gradient of an objective through an update that depends on other parameters.

θ'(η) = U(η, θ)            the inner update
∇_η J(θ'(η)) = ∇_η U · ∇_θ' J      the meta-gradient
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.ops import jax_types
from jaxmarl_lite.types import Array, PyTree


class MetaGradient(NamedTuple):
    """The outcome of `meta_gradient`.

    Attributes:
        gradient: gradient of the outer objective with respect to ``eta``, a tree like ``eta``.
        params: the parameters after the inner update.
        value: ``[]``, the outer objective at these parameters.
        outer_gradient: its gradient with respect to these parameters.
        aux: what the inner update returned besides; None without ``has_aux``.
    """

    gradient: PyTree
    params: PyTree
    value: Array
    outer_gradient: PyTree
    aux: Any


def meta_gradient(
    eta: PyTree,
    params: PyTree,
    inner_update: Callable[[PyTree, PyTree], PyTree],
    outer_objective: Callable[[PyTree], Array],
    *,
    has_aux: bool = False,
) -> MetaGradient:
    """Differentiates an objective after an update, with respect to what the update depends on.

    One reverse pass, whatever the update: a gradient step, several, or a step of an optimizer,
    whose state it may close over. It must be differentiable in reverse mode, so without
    ``jax.lax.while_loop`` (``jax.lax.scan`` is).

    Args:
        eta: η, a tree of float arrays, such as the parameters of a reward.
        params: θ, a tree of arrays.
        inner_update: ``(eta, params) -> new_params``.
        outer_objective: ``new_params -> []``, the objective or loss.
        has_aux: whether ``inner_update`` returns ``(new_params, aux)``, where ``aux`` is a tree of
            arrays that is not differentiated, such as the optimizer's new state.

    Returns:
        The gradient, the new parameters, and what came up on the way.

    Raises:
        TypeError: ``eta`` has entries that are no floats, and so no gradient.

    Example:
        One step of 0.1 down (θ - η)² brings θ from 0 to 0.2 η, so that (θ' - 1)² at η = 3 has the
        derivative 2 (0.6 - 1) 0.2 = -0.16:

        >>> import jax, jax.numpy as jnp
        >>> from jaxmarl_lite import ops
        >>> def step(eta, theta):
        ...     return theta - 0.1 * jax.grad(lambda theta: (theta - eta) ** 2)(theta)
        >>> result = ops.meta_gradient(
        ...     jnp.array(3.0), jnp.array(0.0), step, lambda theta: (theta - 1.0) ** 2
        ... )
        >>> round(float(result.params), 4), round(float(result.gradient), 4)
        (0.6, -0.16)
    """
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(eta)]
    if wrong := {str(dtype) for dtype in dtypes if not jnp.issubdtype(dtype, jnp.floating)}:
        raise TypeError(f"eta has entries of {', '.join(sorted(wrong))}; allowed are floats")

    def update(eta: PyTree) -> tuple[PyTree, Any]:
        return inner_update(eta, params) if has_aux else (inner_update(eta, params), None)

    new_params, pull_back, aux = jax_types.vjp(update, eta, has_aux=True)
    value, outer_gradient = jax_types.value_and_grad(outer_objective)(new_params)
    (gradient,) = pull_back(outer_gradient)
    return MetaGradient(gradient, new_params, value, outer_gradient, aux)
