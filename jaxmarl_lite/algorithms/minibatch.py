"""Gradient steps: optimizers with traceable rates, and minibatches of whole sequences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxmarl_lite.algorithms.settings import CriticConfig
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, Number, PyTree

LearnerState = TypeVar("LearnerState")


class Optimizer(NamedTuple):
    """An optimizer that minimizes, as two pure functions.

    Attributes:
        init: ``params -> state``.
        step: ``(params, state, grads, lr, max_norm) -> (params, state)``, downhill along ``grads``.
    """

    init: Callable[[PyTree], PyTree]
    step: Callable[[PyTree, PyTree, PyTree, Number, Number], tuple[PyTree, PyTree]]


def make_optimizer(
    name: Literal["adam", "rmsprop", "sgd"], eps_root: Array | float, per_agent: bool = False
) -> Optimizer:
    """Returns an optimizer whose learning rate and clipping are arguments, which may be traced.

    Args:
        name: the rule.
        eps_root: number under the square root of the second moment, 0 or more: with it the step is
            differentiable where a gradient is zero. Without effect for ``sgd``.
        per_agent: whether each entry of the leading axis of all leaves is a separate model, whose
            gradient is clipped by its own norm.

    Returns:
        The optimizer; it clips gradients to the norm ``max_norm``.
    """
    rule: optax.GradientTransformation
    if name == "adam":
        rule = optax.scale_by_adam(eps=1e-5, eps_root=eps_root)
    elif name == "rmsprop":
        rule = optax.scale_by_rms(decay=0.99, eps=eps_root, eps_in_sqrt=True)
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
    """Returns an optimizer whose steps do not depend on the scale of the gradient.

        step = m / (sqrt(v) + eps rms(sqrt(v)))    instead of    m / (sqrt(v) + eps)

    This is Adam or RMSprop, where rms is the root mean square over all weights of the model. A
    gradient that is a hundred million times smaller than 1, as a meta-gradient is, still moves a
    weight by about the learning rate. Gradients are not clipped, because a longest gradient would
    be a scale. The steps are not made to be differentiated.

    Args:
        name: the rule. ``sgd`` is plain and clipped: its steps have the gradient's scale.
        eps: share of the root mean square of ``sqrt(v)``, > 0.
        per_agent: whether each entry of the leading axis of all leaves is a separate model.

    Returns:
        The optimizer; its ``max_norm`` has no effect except for ``sgd``.
    """
    if name == "sgd":
        return make_optimizer(name, 0.0, per_agent)
    first_decay, second_decay = (0.9, 0.999) if name == "adam" else (0.0, 0.99)

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


def linear_schedule(lr: Number, env_steps: Array, lr_anneal_steps: Number) -> Array:
    """Returns the learning rate after a number of environment steps.

        lr max(1 - env_steps / lr_anneal_steps, 0),    or lr where lr_anneal_steps is 0

    Args:
        lr: the learning rate at the start.
        env_steps: ``[]``, environment steps so far.
        lr_anneal_steps: environment steps after which the rate is 0; 0 for a constant rate.

    Returns:
        ``[]``, the learning rate.
    """
    remaining = jnp.maximum(1.0 - env_steps / jnp.maximum(lr_anneal_steps, 1.0), 0.0)
    return lr * jnp.where(lr_anneal_steps > 0, remaining, 1.0)


def learning_rate_metric(config: CriticConfig, env_steps: Array) -> dict[str, Array]:
    """Returns the metric ``learning_rate`` of an update.

    Args:
        config: the algorithm's config, with ``reported_lr`` and ``lr_anneal_steps``.
        env_steps: ``[]``, environment steps before the update.

    Returns:
        The metric's name -> the learning rate, ``[]``.
    """
    return {"learning_rate": linear_schedule(config.reported_lr, env_steps, config.lr_anneal_steps)}


class SequenceBatch(NamedTuple):
    """Data of whole sequences.

    Attributes:
        steps: leaves ``[T, B, ...]``.
        initial_states: leaves ``[B, ...]``, at the start of each sequence.
    """

    steps: PyTree
    initial_states: PyTree


def make_minibatches(key: Array, data: SequenceBatch, num_minibatches: int) -> SequenceBatch:
    """Divides the environments among minibatches at random.

    Each group of ``num_minibatches`` neighboring environments gives one environment, at random, to
    every minibatch. The environments are alike, so nothing is lost against a shuffle of all, and
    where they are spread over devices no environment changes its device.

    Args:
        key: random key of the assignment.
        data: sequences of B environments.
        num_minibatches: number of minibatches, which has to divide B.

    Returns:
        The data with leaves ``[num_minibatches, T, B / num_minibatches, ...]`` for the steps and
        ``[num_minibatches, B / num_minibatches, ...]`` for the initial states.
    """
    if num_minibatches == 1:
        return tree_math.map_leaves(lambda x: x[None], data)
    num_envs = jax.tree.leaves(data.steps)[0].shape[1]
    num_groups = num_envs // num_minibatches
    # One random permutation per group: order[i, j] is the member of group i in minibatch j.
    order = jnp.argsort(jax.random.uniform(key, (num_groups, num_minibatches)), -1)

    def pick(x: Array, axis: int) -> Array:
        groups = x.reshape(*x.shape[:axis], num_groups, num_minibatches, *x.shape[axis + 1 :])
        index = order.reshape((1,) * axis + order.shape + (1,) * (groups.ndim - axis - 2))
        return jnp.moveaxis(jnp.take_along_axis(groups, index, axis + 1), axis + 1, 0)

    return SequenceBatch(
        tree_math.map_leaves(lambda x: pick(x, 1), data.steps),
        tree_math.map_leaves(lambda x: pick(x, 0), data.initial_states),
    )


def run_epochs(
    key: Array,
    learner: LearnerState,
    data: SequenceBatch,
    step: Callable[[LearnerState, SequenceBatch], tuple[LearnerState, dict[str, Array]]],
    num_epochs: int,
    num_minibatches: int,
) -> tuple[LearnerState, dict[str, Array]]:
    """Runs a training step on every minibatch of the data, in several passes over the data.

    Args:
        key: random key; each pass divides the environments anew.
        learner: the learner's state.
        data: sequences of B environments.
        step: ``(learner, minibatch) -> (learner, info)``.
        num_epochs: number of passes.
        num_minibatches: number of minibatches per pass, which has to divide B.

    Returns:
        The learner's state after all steps, and the mean of ``info`` over all steps.
    """

    def epoch(learner: LearnerState, key: Array) -> tuple[LearnerState, dict[str, Array]]:
        return jax.lax.scan(step, learner, make_minibatches(key, data, num_minibatches))

    learner, info = jax.lax.scan(epoch, learner, jax.random.split(key, num_epochs))
    return learner, tree_math.map_leaves(lambda x: x.mean((0, 1)), info)


def check_minibatches(num_envs: int, num_minibatches: int, name: str = "num_minibatches") -> None:
    """Checks that the environments divide evenly into the minibatches.

    Args:
        num_envs: B.
        num_minibatches: number of minibatches.
        name: name of the setting, for the error message.

    Raises:
        ValueError: for a ``num_envs`` that the number of minibatches does not divide.
    """
    if num_envs % num_minibatches:
        raise ValueError(
            f"num_envs is {num_envs} and {name} is {num_minibatches}; allowed is a num_envs that "
            f"{name} divides, for example {num_minibatches * math.ceil(num_envs / num_minibatches)}"
        )
