"""Parts of an update that several algorithms share: advantages, losses and gradient steps.

    max_θ  E[ min(ρ A, clip(ρ, 1-ε, 1+ε) A) ] + c H(π_θ),   ρ = π_θ(u|o) / π_old(u|o)

is PPO's objective (`clipped_policy_loss`), A the generalized advantage (`estimate_advantages`). A
minibatch holds whole sequences of a subset of the environments, for feed-forward networks as well,
so that both kinds of network share one code and LIIR can differentiate through whole returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxmarl_lite.algorithms import base_config, optimizers
from jaxmarl_lite.algorithms.base_config import ClippedStepConfig, CriticConfig, LearnerConfig
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.networks.torsos import Sharing
from jaxmarl_lite.ops import jax_types, returns, running_statistics, surrogates, tree_math
from jaxmarl_lite.ops.running_statistics import RunningStatistics
from jaxmarl_lite.types import Algorithm, Array, Number, Observation, PyTree, Rollout, Transition

State = TypeVar("State")
Info = TypeVar("Info")
Moments = RunningStatistics | tuple[()]
"""Running moments of the targets of a critic that predicts them standardized; () for one that does
not."""


class PolicyBatch(NamedTuple):
    """The part of a rollout or minibatch that the policy step reads, ``[T, b, ...]``.

    Attributes:
        obs: observations, with leading axes ``[T, b]``.
        action: ``[T, b, N]`` int, or ``[T, b, N, A]`` float.
        log_prob: ``[T, b, N]``, log-probability under the policy that acted, in nats.
        is_first: ``[T, b]`` bool, whether the step begins an episode.
    """

    obs: Observation
    action: Array
    log_prob: Array
    is_first: Array


def to_policy_batch(steps: Transition) -> PolicyBatch:
    """Returns the part of a rollout that the policy step reads.

    Args:
        steps: transitions ``[T, B, ...]``.

    Returns:
        The batch, ``[T, B, ...]``.
    """
    return PolicyBatch(
        steps.obs, steps.action, steps.log_prob, actor_critic.is_first_step(steps.last)
    )


class ActingLearner(Protocol):
    """The state of a learner that acts by a policy network."""

    @property
    def actor_params(self) -> PyTree:
        """Parameters of the policy network."""
        ...

    @property
    def obs_normalizer(self) -> actor_critic.ObsNormalizer | tuple[()]:
        """Running moments of observations and global states, or ()."""
        ...

    @property
    def env_steps(self) -> Array:
        """``[]``, environment steps so far."""
        ...


class CriticLearner(ActingLearner, Protocol):
    """The state of a learner with a critic of the reward, as `ppo.PPOState`."""

    @property
    def config(self) -> Any:
        """The algorithm's config with its floats as arrays."""
        ...

    @property
    def critic_params(self) -> PyTree:
        """Parameters of the critic."""
        ...

    @property
    def critic_hidden_state(self) -> PyTree:
        """The critic's hidden state before the rollout, ``[B, ...]``."""
        ...

    @property
    def value_statistics(self) -> Moments:
        """Running moments of the returns, or ()."""
        ...


def act(
    actor: actor_critic.Actor,
    learner: ActingLearner,
    key: Array,
    obs: Observation,
    hidden_state: PyTree,
    greedy: bool = False,
) -> tuple[Array, Array, PyTree]:
    """Chooses the actions of one time step by a learner's policy.

    Args:
        actor: the policies.
        learner: the state of the learner.
        key: random key of the samples.
        obs: observations as the environment gives them, ``[B, ...]``.
        hidden_state: the policy's hidden state before the step, ``[B, ...]``.
        greedy: whether to take the likeliest action instead of a sample.

    Returns:
        Actions, log-probabilities and the new hidden state, as `Actor.act`.
    """
    obs = actor_critic.normalize_obs(learner.obs_normalizer, obs)
    return actor.act(learner.actor_params, key, obs, hidden_state, greedy)


def end_of_update(learner: ActingLearner, batch: Rollout) -> dict[str, Any]:
    """Returns the fields of a learner that change last.

    The whole update reads the moments of observations with which the policy acted.

    Args:
        learner: the state of the learner.
        batch: the rollout of the update.

    Returns:
        The new ``obs_normalizer`` and ``env_steps``.
    """
    steps = batch.transitions
    return {
        "obs_normalizer": actor_critic.update_obs_normalizer(learner.obs_normalizer, steps.obs),
        "env_steps": learner.env_steps + steps.last.size,
    }


class CriticState(NamedTuple):
    """The part of a critic's state that its values depend on.

    Attributes:
        params: the critic's weights.
        hidden_state: the critic's hidden state before the rollout, ``[B, ...]``.
        value_statistics: running moments of the critic's targets, or ().
    """

    params: PyTree
    hidden_state: PyTree
    value_statistics: Moments


class AdvantageEstimate(NamedTuple):
    """Advantages and critic targets of a rollout, ``[T, B, N]``, or ``[T, B, N, K]`` of costs.

    Attributes:
        advantage: advantages under the policy that made the rollout, in the unit of the signal.
        target: targets of the critic, in the critic's unit.
        hidden_state: the critic's hidden state after the rollout, ``[B, ...]``.
        value_statistics: the running moments with these targets merged in, or ().
        explained_variance: ``[]``, share of the targets' variance that the critic explains.
    """

    advantage: Array
    target: Array
    hidden_state: PyTree
    value_statistics: Moments
    explained_variance: Array


@jax.named_scope("advantages")
def estimate_advantages(
    critic: actor_critic.Critic,
    state: CriticState,
    steps: Transition,
    signal: Array,
    gamma: Number,
    gae_lambda: Number,
) -> AdvantageEstimate:
    """Computes generalized advantages and critic targets of a reward or of costs.

        target = advantage + value

    Args:
        critic: the critic of the signal.
        state: the critic's weights, hidden state and moments.
        steps: the rollout as the networks see it, ``[T, B, ...]``.
        signal: ``[T, B, N]`` rewards or ``[T, B, N, K]`` costs, the numbers that the critic sums.
        gamma: discount per step, 0 to 1.
        gae_lambda: mixing of n-step returns, 0 to 1; see `ops.returns`.

    Returns:
        The estimate.
    """
    value, next_value, hidden_state = critic.values_and_bootstrap(
        state.params, state.hidden_state, steps
    )
    moments = state.value_statistics
    # A critic with moments predicts standardized values; advantages are in the signal's unit.
    if isinstance(moments, RunningStatistics):
        value, next_value = (
            running_statistics.denormalize(moments, v) for v in (value, next_value)
        )
    # The environment's flags are [T, B]; they broadcast over agents and costs.
    trailing_axes = tuple(range(2, signal.ndim))
    discount, last = (jnp.expand_dims(x, trailing_axes) for x in (steps.discount, steps.last))
    advantage = returns.generalized_advantage_estimation(
        signal, value, next_value, discount, last, gamma, gae_lambda
    )
    target = advantage + value
    explained = surrogates.explained_variance(value, target, steps.obs.alive)
    if isinstance(moments, RunningStatistics):
        # Updated first, so that the targets are standardized by moments that include them.
        moments = running_statistics.update_running_statistics(moments, target)
        target = running_statistics.normalize(moments, target)
    return AdvantageEstimate(advantage, target, hidden_state, moments, explained)


def reward_advantages(
    critic: actor_critic.Critic, learner: CriticLearner, steps: Transition
) -> AdvantageEstimate:
    """Computes `estimate_advantages` of the reward by a learner's critic.

    Args:
        critic: the critic of the reward.
        learner: the state of the learner.
        steps: transitions ``[T, B, ...]`` with normalized observations.

    Returns:
        The estimate, ``[T, B, N]``.
    """
    state = CriticState(
        learner.critic_params, learner.critic_hidden_state, learner.value_statistics
    )
    config = learner.config
    return estimate_advantages(critic, state, steps, steps.reward, config.gamma, config.gae_lambda)


def clipped_policy_loss(
    pi: Distribution,
    data: PolicyBatch,
    advantage: Array,
    config: ClippedStepConfig,
    shared: Sharing,
) -> tuple[Array, dict[str, Array]]:
    """Computes minus the clipped objective in the module docstring.

    Args:
        pi: the action distributions of the new policy, with batch axes ``[T, b, N]``.
        data: a minibatch ``[T, b, ...]``.
        advantage: ``[T, b, N]``. The loss may be differentiated with respect to it as well.
        config: settings; it reads ``clip_eps`` and ``entropy_coef``.
        shared: whether all agents share one set of parameters, or the group of each.

    Returns:
        The loss, scalar, and a dict of scalar metrics: ``entropy`` (nats), ``approx_kl`` (nats) and
        ``clip_fraction`` (0 to 1), each a mean over the steps of alive agents.
    """
    log_prob = pi.log_prob(data.action)
    ratio = surrogates.importance_ratio(log_prob, data.log_prob)
    alive, entropy = data.obs.alive, pi.entropy()
    gain = (
        surrogates.clipped_surrogate(ratio, advantage, config.clip_eps)
        + config.entropy_coef * entropy
    )
    info = {
        "entropy": running_statistics.masked_mean(entropy, alive),
        "approx_kl": running_statistics.masked_mean(
            surrogates.approximate_kl(log_prob - data.log_prob), alive
        ),
        "clip_fraction": running_statistics.masked_mean(
            (jnp.abs(ratio - 1.0) > config.clip_eps).astype(ratio.dtype), alive
        ),
    }
    return -actor_critic.masked_agent_mean(gain, alive, shared), info


def value_loss(value: Array, target: Array, shared: Sharing) -> Array:
    """Computes half the mean squared error of a critic against its targets.

    Agents that are not alive count: a team is paid after some of its agents have died, and the
    returns of an agent's last steps alive are estimated from the values of its later steps.

    Args:
        value: ``[T, b, N]``, or ``[T, b, N, K]`` of costs.
        target: the shape and the unit of ``value``.
        shared: whether all agents share one set of parameters, or the group of each. If not, the
            losses of agents or groups are added, so that the gradient of one does not depend on the
            number of agents.

    Returns:
        The loss, scalar.
    """
    error = (value - target) ** 2
    error = error.mean(tuple(range(3, error.ndim)))
    return 0.5 * actor_critic.masked_agent_mean(error, jnp.ones_like(error), shared)


class ModelState(NamedTuple):
    """What the gradient steps of one network change.

    Attributes:
        params: the network's weights.
        opt_state: state of its optimizer.
    """

    params: PyTree
    opt_state: PyTree


def optimizer_of(
    config: LearnerConfig, field: str = "optimizer", per_agent: bool = False
) -> optimizers.Optimizer:
    """Returns the optimizer that a field of a config holds.

    Args:
        config: settings.
        field: the field; where it is None, the optimizer is that of `base_config.rule_of`.
        per_agent: see `optimizers.make_optimizer`.

    Returns:
        The optimizer.
    """
    rule = base_config.rule_of(config, field)
    name = f"{type(config).__name__}.{field}"
    return optimizers.make_optimizer(rule, config.eps_root, per_agent, name)


def check_objects(algorithm: Algorithm) -> None:
    """Checks by tracing that a user's optimizers can step the weights of an algorithm.

    Args:
        algorithm: an algorithm whose config may hold objects of the user.

    Raises:
        ValueError: an optimizer cannot take a step, see `optimizers.make_optimizer`.
    """
    if base_config.objects_of(algorithm.config):
        init: Callable[[Array], PyTree] = lambda key: algorithm.init(key, 1)  # noqa: E731
        jax_types.eval_shape(init, jax.random.key(0))


def lr_metric(config: LearnerConfig, lr: Array, field: str = "optimizer") -> dict[str, Array]:
    """Returns the metric ``learning_rate``; none where the optimizer has a rate of its own.

    Args:
        config: settings.
        lr: the learning rate, ``[]``.
        field: the field of ``config`` that holds the optimizer.

    Returns:
        The metric by its name.
    """
    is_complete = optimizers.is_complete(base_config.rule_of(config, field))
    return {} if is_complete else {"learning_rate": lr}


class GradientStep(NamedTuple):
    """The outcome of one gradient step.

    Attributes:
        state: the weights and the optimizer's state after the step.
        loss: ``[]``, the loss at the old weights.
        info: the loss's metrics.
        grad_norm: ``[]``, norm of the gradient before clipping.
    """

    state: ModelState
    loss: Array
    info: dict[str, Array]
    grad_norm: Array


def gradient_step(
    loss: Callable[[PyTree], tuple[Array, dict[str, Array]]],
    state: ModelState,
    lr: Number,
    config: LearnerConfig,
    per_agent: bool = False,
    optimizer_field: str = "optimizer",
) -> GradientStep:
    """Takes one step of the optimizer down a loss.

    Args:
        loss: ``params -> (loss, metrics)``.
        state: the weights and the optimizer's state.
        lr: learning rate, 0 or more.
        config: settings of the optimizer.
        per_agent: whether each entry of the leading axis of all weights is a separate model, see
            `optimizers.make_optimizer`.
        optimizer_field: the field of ``config`` that holds the optimizer.

    Returns:
        The state after the step, the loss, its metrics and the norm of its gradient.
    """
    (value, info), grads = jax_types.value_and_grad(loss, has_aux=True)(state.params)
    optimizer = optimizer_of(config, optimizer_field, per_agent)
    new_state = optimizer.step(state.params, state.opt_state, grads, lr, config.max_grad_norm)
    return GradientStep(ModelState(*new_state), value, info, tree_math.norm(grads))


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


@jax.named_scope("epochs")
def run_epochs(
    key: Array,
    state: State,
    data: SequenceBatch,
    step: Callable[[State, SequenceBatch], tuple[State, Info]],
    num_epochs: int,
    num_minibatches: int,
) -> tuple[State, Info]:
    """Runs a training step on every minibatch of the data, in several passes over the data.

    Args:
        key: random key; each pass divides the environments anew.
        state: the state that the steps change.
        data: sequences of B environments.
        step: ``(state, minibatch) -> (state, info)``.
        num_epochs: number of passes.
        num_minibatches: number of minibatches per pass, which has to divide B.

    Returns:
        The state after all steps, and the mean of ``info`` over all steps.
    """
    to_info: list[Callable[[Array], Info]] = []

    def one_step(state: State, minibatch: SequenceBatch) -> tuple[State, Array]:
        state, info = step(state, minibatch)
        # one vector: an accelerator starts a kernel for every array that a step stores
        vector, unravel = ravel_pytree(tree_math.map_leaves(lambda x: 1.0 * x, info))
        to_info.append(unravel)
        return state, vector

    def epoch(state: State, key: Array) -> tuple[State, Array]:
        return jax.lax.scan(one_step, state, make_minibatches(key, data, num_minibatches))

    state, vectors = jax.lax.scan(epoch, state, jax.random.split(key, num_epochs))
    return state, to_info[-1](vectors.mean((0, 1)))


def critic_step(
    critic: actor_critic.Critic,
    state: ModelState,
    batch: SequenceBatch,
    lr: Number,
    config: CriticConfig,
    shared: Sharing,
    optimizer_field: str = "critic_optimizer",
) -> GradientStep:
    """Takes one gradient step of a critic down `value_loss`.

    Args:
        critic: the critic of the reward, or of K costs.
        state: its weights and its optimizer's state.
        batch: a minibatch whose steps are a `PolicyBatch` and the targets in the critic's unit, and
            whose initial states are the critic's.
        lr: learning rate, 0 or more.
        config: settings of the optimizer.
        shared: whether all agents share one set of parameters, or the group of each.
        optimizer_field: the field of ``config`` that holds the optimizer.

    Returns:
        The state after the step, the loss and the norm of its gradient.
    """
    data, target = batch.steps

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
        value, _ = critic.unroll(params, batch.initial_states, data.obs, data.is_first)
        return value_loss(value, target, shared), {}

    return gradient_step(loss, state, lr, config, shared is not True, optimizer_field)


class CriticFit(NamedTuple):
    """A critic that is to be fitted to a rollout.

    Attributes:
        critic: the critic.
        state: its weights and its optimizer's state.
        hidden_state: its hidden state before the rollout, ``[B, ...]``.
        target: ``[T, B, N]``, or ``[T, B, N, K]`` of costs, in the critic's unit.
        lr: learning rate.
        optimizer_field: the field of the config that holds the critic's optimizer.
    """

    critic: actor_critic.Critic
    state: ModelState
    hidden_state: PyTree
    target: Array
    lr: Number
    optimizer_field: str = "critic_optimizer"


def fit_critics(
    key: Array,
    fits: tuple[CriticFit, ...],
    data: PolicyBatch,
    config: CriticConfig,
    num_epochs: int,
    shared: Sharing,
) -> tuple[tuple[ModelState, ...], tuple[tuple[Array, Array], ...]]:
    """Fits critics to a rollout, all on the same minibatches.

    Args:
        key: random key of the minibatches.
        fits: the critics.
        data: the rollout, ``[T, B, ...]``.
        config: settings of the optimizer and the minibatches.
        num_epochs: number of passes over the rollout.
        shared: whether all agents share one set of parameters, or the group of each.

    Returns:
        For each critic its new state, and the means of its loss and of its gradient's norm.
    """

    def step(
        states: tuple[ModelState, ...], batch: SequenceBatch
    ) -> tuple[tuple[ModelState, ...], tuple[tuple[Array, Array], ...]]:
        data, targets = batch.steps
        results = [
            critic_step(
                fit.critic,
                state,
                SequenceBatch((data, target), hidden_state),
                fit.lr,
                config,
                shared,
                fit.optimizer_field,
            )
            for fit, state, target, hidden_state in zip(
                fits, states, targets, batch.initial_states, strict=True
            )
        ]
        return (
            tuple(result.state for result in results),
            tuple((result.loss, result.grad_norm) for result in results),
        )

    sequences = SequenceBatch(
        (data, tuple(fit.target for fit in fits)), tuple(fit.hidden_state for fit in fits)
    )
    states = tuple(fit.state for fit in fits)
    return run_epochs(key, states, sequences, step, num_epochs, config.num_minibatches)


def check_minibatches(num_envs: int, num_minibatches: int, name: str = "num_minibatches") -> None:
    """Checks that the environments divide evenly into the minibatches.

    Args:
        num_envs: number of environments, B.
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
