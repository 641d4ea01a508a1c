"""Gradient steps: optimizers with traced rates, and minibatches of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, Number, PyTree


class Optimizer(NamedTuple):
    """``init(params) -> state``; ``step(params, state, grads, lr, max_norm) -> (params, state)``,
    downhill.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, PyTree, Number, Number], tuple[PyTree, PyTree]]


def make_optimizer(
    name: Literal["adam", "rmsprop", "sgd"], eps_root: Array | float, per_agent: bool = False
) -> Optimizer:
    """An optimizer whose learning rate and clipping are arguments, so that they may be traced.

    ``eps_root`` stands under the square root of the second moment: with it the step is
    differentiable where a gradient is zero. ``per_agent`` treats each entry of the leading axis as
    a model of its own, clipped by its own norm.
    """
    rule: Any
    if name == "adam":
        rule = optax.scale_by_adam(eps=1e-5, eps_root=eps_root)  # type: ignore[arg-type]
    elif name == "rmsprop":
        rule = optax.scale_by_rms(decay=0.99, eps=eps_root, eps_in_sqrt=True)  # type: ignore[arg-type]
    else:
        rule = optax.identity()

    def step(
        params: PyTree, state: PyTree, grads: PyTree, lr: Number, max_norm: Number
    ) -> tuple[PyTree, PyTree]:
        updates, state = rule.update(tree_math.clip_by_norm(grads, max_norm), state, params)
        return tree_math.add_scaled(-lr, updates, params), state

    if per_agent:
        return Optimizer(jax.vmap(rule.init), jax.vmap(step, (0, 0, 0, None, None)))
    return Optimizer(rule.init, step)


_GRADIENT_SCALE = 2.0**30
"""Gradients are multiplied by this before they are squared: in float32 the square of 1e-20 is 0.
Steps cancel it."""


def make_scale_free_optimizer(
    name: Literal["adam", "rmsprop", "sgd"], eps: Array | float, per_agent: bool = False
) -> Optimizer:
    """Makes an optimizer whose steps do not depend on the scale of the gradient.

    Adam and RMSprop with ``m / (sqrt(v) + eps rms(sqrt(v)))``, where rms is the root mean square
    over all weights of the model, in the place of ``m / (sqrt(v) + eps)``. A gradient that is a
    hundred million times smaller than 1, as a meta-gradient is, still moves a weight by about the
    learning rate. Gradients are not clipped, because a longest gradient would be a scale. The steps
    are not made to be differentiated.

    Args:
        name: the rule. ``sgd`` is plain and clipped: its steps have the gradient's scale.
        eps: share of the root mean square of ``sqrt(v)``, > 0.
        per_agent: each entry of the leading axis of all leaves is a model of its own.
    """
    if name == "sgd":
        return make_optimizer(name, 0.0, per_agent)
    first, second = (0.9, 0.999) if name == "adam" else (0.0, 0.99)

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def step(
        params: PyTree, state: optax.ScaleByAdamState, grads: PyTree, lr: Number, max_norm: Number
    ) -> tuple[PyTree, optax.ScaleByAdamState]:
        grads = jax.tree.map(lambda g: _GRADIENT_SCALE * g, grads)
        mu = optax.tree.update_moment(grads, state.mu, first, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, second, 2)
        count = optax.safe_increment(state.count)
        m, v = (
            optax.tree.bias_correction(mu, first, count),
            optax.tree.bias_correction(nu, second, count),
        )
        leaves = jax.tree.leaves(v)
        floor = eps * jnp.sqrt(sum(x.sum() for x in leaves) / sum(x.size for x in leaves))

        def moved(p: Array, m: Array, v: Array) -> Array:
            root = jnp.sqrt(v) + floor
            return p - lr * jnp.where(v > 0, m / jnp.where(v > 0, root, 1.0), 0.0)

        return jax.tree.map(moved, params, m, v), optax.ScaleByAdamState(count, mu, nu)

    if per_agent:
        return Optimizer(jax.vmap(init), jax.vmap(step, (0, 0, 0, None, None)))
    return Optimizer(init, step)


def linear_schedule(lr: Number, env_steps: Array, lr_anneal_steps: Number) -> Array:
    """The learning rate after so many environment steps: constant, or falling linearly to 0 at
    ``lr_anneal_steps``.
    """
    left = jnp.maximum(1.0 - env_steps / jnp.maximum(lr_anneal_steps, 1.0), 0.0)
    return lr * jnp.where(lr_anneal_steps > 0, left, 1.0)


def learning_rate_metric(config: Any, env_steps: Array) -> dict[str, Array]:
    """The metric ``learning_rate`` of an update that begins after ``env_steps`` environment
    steps.
    """
    return {"learning_rate": linear_schedule(config.reported_lr, env_steps, config.lr_anneal_steps)}


class SequenceBatch(NamedTuple):
    """Data of whole sequences: ``steps`` has leaves ``[T, B, ...]``, ``initial_states`` has leaves
    ``[B, ...]``.
    """

    steps: Any
    initial_states: Any


def make_minibatches(key: Array, data: SequenceBatch, number: int) -> SequenceBatch:
    """Deal the worlds into minibatches: leaves ``[number, T, B/number, ...]`` and ``[number,
    B/number, ...]``.

    Each run of ``number`` neighbouring worlds gives one world, at random, to every minibatch. The
    worlds are alike, so nothing is lost against a shuffle of all, and where they are spread over
    devices no world moves.
    """
    if number == 1:
        return jax.tree.map(lambda x: x[None], data)
    num_envs = jax.tree.leaves(data.steps)[0].shape[1]
    order = jnp.argsort(jax.random.uniform(key, (num_envs // number, number)), -1)

    def pick(x: Array, axis: int) -> Array:
        groups = x.reshape(*x.shape[:axis], num_envs // number, number, *x.shape[axis + 1 :])
        index = order.reshape((1,) * axis + order.shape + (1,) * (groups.ndim - axis - 2))
        return jnp.moveaxis(jnp.take_along_axis(groups, index, axis + 1), axis + 1, 0)

    return SequenceBatch(
        jax.tree.map(lambda x: pick(x, 1), data.steps),
        jax.tree.map(lambda x: pick(x, 0), data.initial_states),
    )


def run_epochs(
    key: Array,
    learner: Any,
    data: SequenceBatch,
    step: Callable[[Any, SequenceBatch], tuple[Any, dict[str, Array]]],
    num_epochs: int,
    num_minibatches: int,
) -> tuple[Any, dict[str, Array]]:
    """Go over the data ``num_epochs`` times, one ``step`` a minibatch; info is the mean over all
    steps.
    """

    def epoch(learner: Any, key: Array) -> tuple[Any, dict[str, Array]]:
        return jax.lax.scan(step, learner, make_minibatches(key, data, num_minibatches))

    learner, info = jax.lax.scan(epoch, learner, jax.random.split(key, num_epochs))
    return learner, jax.tree.map(lambda x: x.mean((0, 1)), info)


def check_minibatches(num_envs: int, num_minibatches: int, name: str = "num_minibatches") -> None:
    """Raise ValueError unless the worlds divide into the minibatches."""
    if num_envs % num_minibatches:
        raise ValueError(
            f"num_envs is {num_envs} and {name} is {num_minibatches}; allowed is a num_envs that "
            f"{name} divides, for example {num_minibatches * math.ceil(num_envs / num_minibatches)}"
        )
