"""QMIX: values of agents, mixed into one value of the team, learned from a replay buffer.

    L = E[ ( r + γ d Q'_tot(s', q'_1, ..., q'_N) - Q_tot(s, q_1(o_1, u_1), ..., q_N(o_N, u_N)) )² ]

Rashid et al. 2018, equations 5 and 6. Q_tot is `ops.monotonic_mixing.mix`, whose weights are the
output of hypernetworks of the global state; it grows with every q_i, so that each agent's own best
action is the team's. The primes are target networks, copied from the online networks every
``target_update_interval`` updates; with ``double_q`` (van Hasselt et al. 2016) they value the
actions that the online networks would take. ``mixer="vdn"`` adds the values up instead.

The replay buffer holds pieces of ``sequence_length`` steps of one environment, with the hidden
state at their start (the "stored state" of Kapturowski et al. 2019), so that a piece need not be an
episode. The reward is the mean over the agents of their rewards. Agents that are not alive add
nothing. Actions are drawn uniformly with a probability that falls from ``epsilon_start`` to
``epsilon_end``, else they are the best actions.
"""

from __future__ import annotations

import functools
import math
from typing import ClassVar, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, gradient_update, optimizers, replay_buffer
from jaxmarl_lite.algorithms.gradient_update import ModelState
from jaxmarl_lite.algorithms.optimizers import LearningRate
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.networks.torsos import Network, Networks, Torso, bodies_of, orthogonal, typed
from jaxmarl_lite.ops import monotonic_mixing, tree_math
from jaxmarl_lite.types import (
    Algorithm,
    Array,
    EnvSpec,
    Number,
    Observation,
    PyTree,
    Rollout,
    Transition,
)


@base_config.config_record
class QMIXConfig(base_config.SharingConfig, base_config.LearnerConfig):
    """Settings of QMIX.

    Example:
        >>> import dataclasses
        >>> import jaxmarl_lite as jml
        >>> config = dataclasses.replace(jml.QMIXConfig(), mixer="vdn", epsilon_end=0.1)
        >>> config.mixer, config.epsilon_start, config.epsilon_end
        ('vdn', 1.0, 0.1)
    """

    lr: LearningRate = base_config.bounded(5e-4, 0, 10)
    """Learning rate of the gradient steps; or a schedule (environment steps -> rate), such as
    optax.cosine_decay_schedule(3e-4, 1e6), or module:name of one."""
    max_grad_norm: float = base_config.bounded(10.0, 1e-6, 1e9)
    """Largest norm of the gradient; a longer one is scaled down to it."""
    epsilon_start: float = base_config.bounded(1.0, 0, 1)
    """Probability of a random action at the start of training."""
    epsilon_end: float = base_config.bounded(0.05, 0, 1)
    """Probability of a random action after ``epsilon_steps``."""
    epsilon_steps: float = base_config.bounded(50_000.0, 0, 1e15)
    """Environment steps over which this probability falls linearly; 0 is epsilon_end from the
    start."""
    epsilon_share: float = base_config.bounded(0.0, 0, 1)
    """The same period as a share of the run's total_steps, 0 to 1."""
    mixer: Literal["qmix", "vdn"] = "qmix"
    """Rule that combines the agents' values into the team's: a monotonic network, or the sum."""
    mixing_embed_dim: int = 32
    """Width of the mixer's hidden layer."""
    hypernet_embed_dim: int = 64
    """Width of the hidden layer of the hypernetworks that output the mixer's weights."""
    double_q: bool = True
    """Let the online networks choose the next actions, and the target networks value them."""
    target_update_interval: int = 20
    """Updates between two copies of the online networks into the target networks."""
    sequence_length: int = 32
    """Steps of one environment that are replayed together; a rollout has a multiple of them."""
    buffer_size: int = 2048
    """Sequences that the replay buffer holds."""
    batch_size: int = 32
    """Sequences in a gradient step."""
    gradient_steps: int = 8
    """Gradient steps after each rollout, each on a separately sampled batch."""
    recurrent: bool = True
    """Use agents with a GRU, which remember the episode."""
    hidden_sizes: tuple[int, ...] = (64,)
    """Widths of the dense layers."""
    rnn_hidden_size: int = 64
    """Width of the GRU's hidden state."""
    evaluated_greedily: ClassVar[bool] = True
    """Evaluations take the best actions, as sampled actions are random with probability epsilon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        base_config.check_unused(
            self,
            ("mixing_embed_dim", "hypernet_embed_dim"),
            self.mixer == "vdn",
            "with mixer 'vdn'",
        )
        if self.buffer_size < self.batch_size:
            raise ValueError(
                f"QMIXConfig.buffer_size is {self.buffer_size}; allowed is batch_size, "
                f"{self.batch_size}, or more"
            )


class QMIXParams(NamedTuple):
    """All learned parameters.

    Attributes:
        agents: parameters of the agents' network.
        mixer: parameters of the hypernetworks; () for VDN.
    """

    agents: PyTree
    mixer: PyTree


class Hypernetworks(nn.Module):
    """Networks from the global state to the weights of its mixer.

    Attributes:
        num_agents: N, the number of agents.
        width: M, the width of the mixer's hidden layer.
        hidden_size: width of the hidden layer of the hypernetworks.
    """

    num_agents: int
    width: int
    hidden_size: int

    @nn.compact
    def __call__(self, state: Array) -> monotonic_mixing.Mixer:
        """Computes the mixer of every state.

        Args:
            state: ``[..., S]``, the global states.

        Returns:
            The mixers, with the leading axes of ``state``.
        """
        dense = functools.partial(nn.Dense, param_dtype=jnp.result_type(float))

        def two_layers(name: str, hidden: int, size: int, gain: float = 1.0) -> Array:
            inner = dense(hidden, kernel_init=orthogonal(2.0**0.5), name=name)(state)
            kernel = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
            return dense(size, kernel_init=kernel, name=f"{name}_out")(nn.relu(inner))

        # A value reaches Q_tot through M hidden units: this keeps its initial gain below one for
        # every M.
        gain = self.width**-0.5
        w1 = two_layers("w1", self.hidden_size, self.num_agents * self.width, gain)
        w1 = w1.reshape(*state.shape[:-1], self.num_agents, self.width)
        b1, b2 = dense(self.width, name="b1")(state), two_layers("b2", self.width, 1)[..., 0]
        w2 = two_layers("w2", self.hidden_size, self.width, gain)
        return monotonic_mixing.Mixer(w1, b1, w2, b2)


class QMIXNetworks(NamedTuple):
    """QMIX's networks, built for the sizes of one environment.

    Attributes:
        net: the agents' network, from an observation to the value of every action.
        hyper: the hypernetworks of the mixer; None for VDN.
    """

    net: Network
    hyper: Hypernetworks | None

    def init(self, key: Array, spec: EnvSpec) -> QMIXParams:
        """Returns random parameters.

        Args:
            key: typed PRNG key.
            spec: the environment's sizes.

        Returns:
            The parameters of all networks.
        """
        agents_key, mixer_key = jax.random.split(key)
        states = jnp.zeros((1, spec.global_state_size), jnp.result_type(float))
        mixer = () if self.hyper is None else typed(self.hyper).init(mixer_key, states)["params"]
        return QMIXParams(self.net.init(agents_key), mixer)

    def mix(self, params: QMIXParams, state: Array, q: Array) -> Array:
        """Computes Q_tot of the agents' values.

        Args:
            params: parameters of all networks; it reads those of the mixer.
            state: ``[..., S]``, the global states.
            q: ``[..., N]``, the agents' values.

        Returns:
            ``[...]``, in the unit of the discounted return.
        """
        if self.hyper is None:
            return monotonic_mixing.sum_mixing(q)
        return monotonic_mixing.mix(typed(self.hyper).apply({"params": params.mixer}, state), q)


def make_qmix_networks(
    spec: EnvSpec, config: QMIXConfig, body: NetworkSpec | Torso | None = None
) -> QMIXNetworks:
    """Returns the networks that the static fields of the config describe.

    Args:
        spec: the environment's sizes.
        config: settings.
        body: layers or torso of the agents' network; None: those of the config.

    Returns:
        The networks.
    """
    net = make_network(
        body or config.network_spec,
        spec.obs_size,
        spec.action_size,
        num_agents=spec.num_agents,
        shared=config.sharing,
    )
    if config.mixer == "vdn":
        return QMIXNetworks(net, None)
    return QMIXNetworks(
        net, Hypernetworks(spec.num_agents, config.mixing_embed_dim, config.hypernet_embed_dim)
    )


def temporal_difference_loss(
    params: QMIXParams,
    networks: QMIXNetworks,
    target_params: QMIXParams,
    data: replay_buffer.Sequence,
    config: QMIXConfig,
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss in the module docstring.

    Args:
        params: parameters of the online networks.
        networks: the networks.
        target_params: parameters of the target networks.
        data: b sequences with normalized observations, time first: steps ``[T, b, ...]`` and hidden
            states ``[b, ...]``.
        config: settings; it reads ``gamma`` and ``double_q``.

    Returns:
        The loss, scalar, and the metrics ``q_mean`` and ``q_target_mean``, the means of Q_tot and
        of its targets.
    """
    steps, hidden_state = data
    q, next_q = agent_q_values(networks, params, steps, hidden_state)
    chosen_q = jnp.take_along_axis(q, steps.action[..., None], -1)[..., 0]
    # an agent that is not alive adds nothing: its value is 0
    q_total = networks.mix(params, steps.obs.global_state, chosen_q * steps.obs.alive)
    target = jax.lax.stop_gradient(
        targets(networks, target_params, next_q, steps, hidden_state, config)
    )
    info = {"q_mean": q_total.mean(), "q_target_mean": target.mean()}
    return ((q_total - target) ** 2).mean(), info


def targets(
    networks: QMIXNetworks,
    target_params: QMIXParams,
    next_q: Array,
    steps: Transition,
    hidden_state: PyTree,
    config: QMIXConfig,
) -> Array:
    """Computes the targets ``r + γ d Q'_tot(s', ...)``.

    r is the mean of the agents' rewards.

    Args:
        networks: the networks.
        target_params: parameters of the target networks.
        next_q: ``[T, b, N, A]``, the online networks' values of the true successors; they choose
            the actions with ``double_q``.
        steps: transitions ``[T, b, ...]`` with normalized observations.
        hidden_state: the agents' hidden state before the first step, ``[b, ...]``.
        config: settings; it reads ``gamma`` and ``double_q``.

    Returns:
        ``[T, b]``, in the unit of the discounted return.
    """
    _, next_target_q = agent_q_values(networks, target_params, steps, hidden_state)
    next_action = greedy_action(
        next_q if config.double_q else next_target_q, steps.next_obs.action_mask
    )
    value = jnp.take_along_axis(next_target_q, next_action[..., None], -1)[..., 0]
    next_q_total = networks.mix(
        target_params, steps.next_obs.global_state, value * steps.next_obs.alive
    )
    return steps.reward.mean(-1) + config.gamma * steps.discount * next_q_total


def agent_q_values(
    networks: QMIXNetworks, params: QMIXParams, steps: Transition, hidden_state: PyTree
) -> tuple[Array, Array]:
    """Computes the agents' values of every action in each step and in its true successor.

    Args:
        networks: the networks; it reads ``net``.
        params: parameters of all networks.
        steps: transitions ``[T, b, ...]`` with normalized observations.
        hidden_state: the agents' hidden state before the first step, ``[b, ...]``.

    Returns:
        The values of the steps and those of the successors, both ``[T, b, N, A]``.
    """
    q, hidden_states = networks.net.unroll(
        params.agents, hidden_state, steps.obs.agents_view, actor_critic.is_first_step(steps.last)
    )
    next_q, _ = networks.net.step(params.agents, hidden_states, steps.next_obs.agents_view)
    return q, next_q


def greedy_action(q: Array, mask: Array) -> Array:
    """Returns the best legal action of each agent.

    Args:
        q: ``[..., A]``, the values of the actions.
        mask: ``[..., A]`` bool, the legal actions; where none is legal, all count as legal.

    Returns:
        ``[...]`` int32.
    """
    legal = mask | ~mask.any(-1, keepdims=True)
    return jnp.argmax(jnp.where(legal, q, -jnp.inf), -1).astype(jnp.int32)


def epsilon_schedule(config: QMIXConfig, env_steps: Array) -> Array:
    """Computes the probability of a random action, linear in environment steps.

    Args:
        config: settings; it reads ``epsilon_start``, ``epsilon_end`` and ``epsilon_steps``.
        env_steps: environment steps so far, any shape.

    Returns:
        The probability, with the shape of ``env_steps``.
    """
    share = jnp.where(
        config.epsilon_steps > 0, env_steps / jnp.maximum(config.epsilon_steps, 1.0), 1.0
    )
    return config.epsilon_start + (config.epsilon_end - config.epsilon_start) * jnp.clip(
        share, 0.0, 1.0
    )


def epsilon_greedy(key: Array, q: Array, mask: Array, epsilon: Number) -> Array:
    """Returns each agent's best legal action, or with probability ``epsilon`` any of them.

    Args:
        key: typed PRNG key.
        q: ``[..., A]``, the values of the actions.
        mask: ``[..., A]`` bool, the legal actions.
        epsilon: probability of a uniformly drawn action, 0 to 1; each agent draws on its own.

    Returns:
        ``[...]`` int.
    """
    coin_key, any_key = jax.random.split(key)
    random_action = distributions.categorical(jnp.zeros_like(q), mask).sample(any_key)
    return jnp.where(
        jax.random.uniform(coin_key, q.shape[:-1]) < epsilon, random_action, greedy_action(q, mask)
    )


class QMIXState(NamedTuple):
    """State of a QMIX learner, carried from update to update.

    Attributes:
        config: the config with its floats as arrays.
        params: parameters of the online networks.
        opt_state: state of the optimizer.
        target_params: parameters of the target networks.
        replay_state: contents of the replay buffer.
        obs_normalizer: running moments of observations and global states, or ().
        env_steps: ``[]``, environment steps so far.
        num_updates: ``[]`` int, updates so far.
    """

    config: QMIXConfig
    params: QMIXParams
    opt_state: PyTree
    target_params: QMIXParams
    replay_state: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    env_steps: Array
    num_updates: Array


def _update(
    networks: QMIXNetworks,
    buffer: replay_buffer.ReplayBuffer,
    key: Array,
    learner: QMIXState,
    batch: Rollout,
) -> tuple[QMIXState, dict[str, Array]]:
    """Stores a rollout, and learns from sampled batches once the buffer holds one batch.

    Until then the parameters stay and the metrics of the gradient steps are 0.
    """
    config = learner.config
    # The stored hidden states come from the moments of observations that the rollout acted with.
    sequences = replay_buffer.to_sequences(
        networks.net,
        learner.params.agents,
        learner.obs_normalizer,
        batch,
        config.sequence_length,
    )
    with jax.numpy_rank_promotion("allow"):  # flashbax promotes ranks
        replay_state = buffer.add(learner.replay_state, sequences)
    can_learn = buffer.can_sample(replay_state)
    obs_normalizer = actor_critic.update_obs_normalizer(
        learner.obs_normalizer, batch.transitions.obs
    )
    env_steps = learner.env_steps + batch.transitions.last.size
    lr = optimizers.learning_rate(config.lr, env_steps, config.lr_anneal_steps)

    def step(state: ModelState, key: Array) -> tuple[ModelState, dict[str, Array]]:
        with jax.numpy_rank_promotion("allow"):
            sampled = buffer.sample(replay_state, key).experience
        # as the networks take them: time first, observations normalized
        steps = tree_math.map_leaves(lambda x: jnp.moveaxis(x, 0, 1), sampled.steps)
        steps = actor_critic.normalize_transitions(obs_normalizer, steps)
        data = replay_buffer.Sequence(steps, sampled.hidden_state)

        def loss(params: QMIXParams) -> tuple[Array, dict[str, Array]]:
            return temporal_difference_loss(params, networks, learner.target_params, data, config)

        result = gradient_update.gradient_step(loss, state, lr, config)
        info = result.info | {"value_loss": result.loss, "critic_grad_norm": result.grad_norm}
        # `where` and not `cond`: the step is computed from an unfilled buffer too, and discarded.
        return tree_math.where(can_learn, result.state, state), tree_math.where(
            can_learn, info, tree_math.map_leaves(jnp.zeros_like, info)
        )

    state = ModelState(learner.params, learner.opt_state)
    keys = jax.random.split(key, config.gradient_steps)
    (params, opt_state), info = jax.lax.scan(step, state, keys)
    num_updates = learner.num_updates + 1
    learner = learner._replace(
        params=params,
        opt_state=opt_state,
        target_params=tree_math.where(
            num_updates % config.target_update_interval == 0, params, learner.target_params
        ),
        replay_state=replay_state,
        obs_normalizer=obs_normalizer,
        env_steps=env_steps,
        num_updates=num_updates,
    )
    info = tree_math.map_leaves(lambda x: x.mean(0), info)
    info |= gradient_update.lr_metric(config, lr)
    return learner, info | {
        "epsilon": epsilon_schedule(config, env_steps),
        "gradient_steps": can_learn * float(keys.size),
    }


def check_sizes(config: QMIXConfig, num_envs: int, num_steps: int) -> None:
    """Checks that a rollout fits the replay buffer.

    Args:
        config: settings; it reads ``sequence_length`` and ``buffer_size``.
        num_envs: B, the number of environments.
        num_steps: T, the number of steps of a rollout.

    Raises:
        ValueError: the rollout is not a whole number of sequences, or it is larger than the buffer.
    """
    if num_steps % config.sequence_length:
        raise ValueError(
            f"num_steps is {num_steps} and sequence_length is {config.sequence_length}; allowed "
            "is a num_steps "
            "that is a multiple"
        )
    num_sequences = num_envs * (num_steps // config.sequence_length)
    if config.buffer_size < num_sequences:
        raise ValueError(
            f"QMIXConfig.buffer_size is {config.buffer_size}; allowed is {num_sequences}, a "
            "rollout, or more"
        )


def make_qmix(
    name: str, spec: EnvSpec, config: QMIXConfig, networks: Networks | None = None
) -> Algorithm:
    """Returns QMIX, or VDN, for one environment.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `QMIXState`.

    Raises:
        ValueError: the environment has continuous actions.
        ImportError: flashbax is missing.
    """
    bodies = bodies_of(name, networks, ("actor",), config.network_spec)
    actor_critic.check_discrete(name, spec)
    nets = make_qmix_networks(spec, config, bodies.actor)
    buffer: replay_buffer.ReplayBuffer = replay_buffer.import_flashbax(name).make_item_buffer(
        config.buffer_size, config.batch_size, config.batch_size, add_batches=True
    )

    def init(key: Array, num_envs: int, config: QMIXConfig = config) -> QMIXState:
        config = base_config.as_arrays(config)
        params = nets.init(key, spec)
        return QMIXState(
            config=config,
            params=params,
            opt_state=gradient_update.optimizer_of(config).init(params),
            target_params=params,
            replay_state=buffer.init(
                replay_buffer.example_sequence(spec, config.sequence_length, nets.net)
            ),
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: QMIXState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        q, hidden_state = nets.net.step(
            learner.params.agents,
            hidden_state,
            actor_critic.normalize_obs(learner.obs_normalizer, obs).agents_view,
        )
        action = (
            greedy_action(q, obs.action_mask)
            if greedy
            else epsilon_greedy(
                key, q, obs.action_mask, epsilon_schedule(learner.config, learner.env_steps)
            )
        )
        # no update of QMIX reads log-probabilities
        return action, jnp.zeros(action.shape, q.dtype), hidden_state

    def update(
        key: Array, learner: QMIXState, batch: Rollout
    ) -> tuple[QMIXState, dict[str, Array]]:
        return _update(nets, buffer, key, learner, batch)

    def check(num_envs: int, num_steps: int) -> None:
        check_sizes(config, num_envs, num_steps)

    def first_learning_update(num_envs: int, num_steps: int) -> int:
        return math.ceil(config.batch_size / (num_envs * (num_steps // config.sequence_length)))

    return Algorithm(
        name,
        config,
        init,
        nets.net.init_hidden_state,
        act,
        update,
        check,
        spec,
        first_learning_update,
    )
