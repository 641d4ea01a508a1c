"""COMA: actors with a central critic that values each agent's alternative actions.

    ∇_θ J = E[ ∇_θ log π_θ(u_i|o_i) A_i ] + c ∇_θ E[ H(π_θ) ],   A_i = Q_i(s, u) - b_i(s, u_-i)

Foerster et al. 2018, equations 2 to 4. One pass gives Q_i(s, (u_-i, ·)) of all of an agent's own
actions, from the global state, the agent's observation, its index and the actions of the others.
b_i is the mean of Q_i over the agent's own actions (``baseline="mean"``), or the baseline of least
variance (``"optimal"``, Kuba et al. 2021). The critic is fitted to TD(λ) targets from a copy of
itself, the target critic, which is renewed every ``target_update_interval`` updates:

    G_t = Q'(s_t, u_t) + Σ_k (γλ)^k δ_{t+k},   δ_t = r_t + γ d_t Q'(s'_t, u'_t) - Q'(s_t, u_t)

u'_t is the action that was taken next; where an episode or the rollout ends, it is sampled from the
policy. The critic learns first, and the policy then learns from the updated critic, as in the
reference implementation. The critic has no hidden state, whatever ``recurrent`` gives the actors; r
is the team's reward, or the sum of the agents' rewards. Exploration comes from the entropy bonus
and not from a lower bound on the probabilities, as in the other algorithms of the package.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, gradient_update, iac, optimizers
from jaxmarl_lite.algorithms.gradient_update import ModelState, SequenceBatch
from jaxmarl_lite.networks import actor_critic, distributions, products
from jaxmarl_lite.networks.products import Precision
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.networks.torsos import (
    Bodies,
    Network,
    Networks,
    Torso,
    bodies_of,
    orthogonal,
    typed,
)
from jaxmarl_lite.ops import baselines, jax_types, returns, surrogates, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree, Rollout, Transition


@base_config.config_record
class COMAConfig(iac.PolicyStepConfig):
    """Settings of COMA.

    Example:
        >>> import jaxmarl_lite as jml
        >>> env = jml.make("toy/relay")
        >>> config = jml.COMAConfig(baseline="optimal", hidden_sizes=(64,))
        >>> jml.make_algorithm("coma", env.spec, config).config.baseline
        'optimal'
    """

    normalize_advantages: bool = False
    """Standardize the advantages of each batch."""
    baseline: Literal["mean", "optimal"] = "mean"
    """Number that Q is compared with: its mean over the own actions, or the baseline of least
    variance."""
    target_update_interval: int = 20
    """Updates between two copies of the critic into the target critic."""


class COMAState(NamedTuple):
    """State of a COMA learner, carried from update to update.

    Attributes:
        config: the config with its floats as arrays.
        actor_params: parameters of the policy network.
        actor_opt_state: state of the policy's optimizer.
        critic_params: parameters of the critic.
        critic_opt_state: state of the critic's optimizer.
        target_params: parameters of the target critic, which makes the targets.
        obs_normalizer: running moments of observations and global states, or ().
        env_steps: ``[]``, environment steps so far.
        num_updates: ``[]`` int, updates so far.
    """

    config: COMAConfig
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    target_params: PyTree
    obs_normalizer: actor_critic.ObsNormalizer | tuple[()]
    env_steps: Array
    num_updates: Array


class JointCritic(nn.Module):
    """Q of every own action of every agent, given the actions of the other agents.

    The first layer adds up its inputs, so that the others' part is the joint part less the agent's
    own: no array over all pairs of agents is made.

    Attributes:
        hidden: widths of the dense layers, at least one.
        actions: A, the number of discrete actions.
        activation: activation after each layer.
        precision: to what the operands of matrix products are rounded; the head's stay float32.
    """

    hidden: tuple[int, ...]
    actions: int
    activation: Literal["relu", "tanh"]
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, obs: Observation, action: Array) -> Array:
        """Computes Q of every own action of every agent.

        Args:
            obs: observations and global states, with any leading axes.
            action: ``[..., N]`` int, the actions that were taken.

        Returns:
            ``[..., N, A]``, in the unit of the discounted return.
        """
        dtype, width = jnp.result_type(float), self.hidden[0]
        num_agents = obs.agents_view.shape[-2]
        dense = products.dense_layer(self.precision)
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        # A row per agent and action: a dense layer of the one-hot joint action.
        table = typed(self).param(
            "actions", orthogonal(1.0), (num_agents * self.actions, width), dtype
        )
        index = typed(self).param("number", nn.initializers.zeros, (num_agents, width), dtype)
        taken = table.reshape(num_agents, self.actions, width)[
            jnp.arange(num_agents), action
        ]  # [..., N, H]
        others = taken.sum(-2, keepdims=True) - taken
        state = dense(width, kernel_init=orthogonal(2.0**0.5), name="state")(obs.global_state)[
            ..., None, :
        ]
        view = dense(width, kernel_init=orthogonal(2.0**0.5), name="view")(obs.agents_view)
        x = activate(state + view + others + jnp.broadcast_to(index, view.shape))
        for size in self.hidden[1:]:
            x = activate(dense(size, kernel_init=orthogonal(2.0**0.5))(x))
        head = products.dense_layer("float32")
        return head(self.actions, kernel_init=orthogonal(1.0), name="head")(x)


def joint_input(obs: Observation, action: Array, num_actions: int) -> Array:
    """Returns the input of a critic whose layers are a user's: a row for each agent.

    A row is the global state, the agent's observation, its number (one-hot) and the actions of all
    agents (one-hot), where its own are zeros. It has N A entries for the actions, so that N agents
    have N² A of them.

    Args:
        obs: observations and global states, with any leading axes.
        action: ``[..., N]`` int, the actions that were taken.
        num_actions: number of actions, A.

    Returns:
        ``[..., N, S + O + N + N A]``.
    """
    view = obs.agents_view
    *lead, num_agents, _ = view.shape
    number = jnp.eye(num_agents, dtype=view.dtype)
    taken = jax.nn.one_hot(action, num_actions, dtype=view.dtype)
    others = jax_types.einsum("ij,...ja->...ija", 1.0 - number, taken)
    state = jnp.broadcast_to(
        obs.global_state[..., None, :], (*lead, num_agents, obs.global_state.shape[-1])
    )
    number = jnp.broadcast_to(number, (*lead, num_agents, num_agents))
    return jnp.concatenate([state, view, number, others.reshape(*lead, num_agents, -1)], -1)


class COMANetworks(NamedTuple):
    """COMA's networks, built for the sizes of one environment.

    Attributes:
        actor: the policies.
        critic: the central critic; a `Network` of `joint_input` where its torso is a user's.
        num_actions: number of actions, A.
    """

    actor: actor_critic.Actor
    critic: JointCritic | Network
    num_actions: int = 0

    def init_critic(self, key: Array, spec: EnvSpec) -> PyTree:
        """Returns random parameters of the critic.

        Args:
            key: typed PRNG key.
            spec: the environment's sizes.

        Returns:
            The parameters.
        """
        if isinstance(self.critic, Network):
            return self.critic.init(key)
        dtype = jnp.result_type(float)
        observations = jnp.zeros((1, spec.num_agents, spec.obs_size), dtype)
        states = jnp.zeros((1, spec.global_state_size), dtype)
        obs = Observation(observations, states, (), ())  # type: ignore[arg-type]
        actions = jnp.zeros((1, spec.num_agents), jnp.int32)
        return typed(self.critic).init(key, obs, actions)["params"]

    def q(self, critic_params: PyTree, obs: Observation, action: Array) -> Array:
        """Computes Q of every own action of every agent.

        Args:
            critic_params: parameters of the critic.
            obs: observations and global states, with any leading axes.
            action: ``[..., N]`` int, the actions that were taken.

        Returns:
            ``[..., N, A]``, in the unit of the discounted return.
        """
        if isinstance(self.critic, Network):
            rows = joint_input(obs, action, self.num_actions)
            return self.critic.step(critic_params, (), rows)[0]
        return typed(self.critic).apply({"params": critic_params}, obs, action)


def _make_networks(
    spec: EnvSpec, config: COMAConfig, bodies: Bodies[NetworkSpec | Torso]
) -> COMANetworks:
    """Returns the networks that the config, or the user's torsos, describe."""
    actor = actor_critic.make_actor(spec, bodies.actor, config.sharing)
    body = bodies.critic
    if isinstance(body, Torso):
        if jax.tree.leaves(body.initial_state(1)):
            raise ValueError(
                f"{body.name} has a hidden state; allowed for coma is a torso without "
                "one, since its critic values every step by itself"
            )
        row_size = spec.global_state_size + spec.obs_size + spec.num_agents * (1 + spec.action_size)
        critic = make_network(body, row_size, spec.action_size, num_agents=None)
        return COMANetworks(actor, critic, spec.action_size)
    if not config.hidden_sizes:
        raise ValueError("COMAConfig.hidden_sizes is (); allowed is at least one layer")
    widths = (*config.hidden_sizes, *config.head_hidden_sizes)
    critic = JointCritic(widths, spec.action_size, config.activation, config.precision)
    return COMANetworks(actor, critic)


def make_coma(
    name: str, spec: EnvSpec, config: COMAConfig, networks: Networks | None = None
) -> Algorithm:
    """Returns COMA for one environment.

    Args:
        name: name of the algorithm.
        spec: the environment's sizes.
        config: settings.
        networks: A user's own networks by role; None: the layers of the config.

    Returns:
        The algorithm, whose learner's state is a `COMAState`.

    Raises:
        ValueError: the environment has continuous actions, ``hidden_sizes`` is empty, or a
            user's critic has a hidden state.
    """
    bodies = bodies_of(name, networks, ("actor", "critic"), config.network_spec)
    actor_critic.check_discrete(name, spec)
    nets = _make_networks(spec, config, bodies)

    def init(key: Array, num_envs: int, config: COMAConfig = config) -> COMAState:
        config = base_config.as_arrays(config)
        policy_key, critic_key = jax.random.split(key)
        actor_params = nets.actor.net.init(policy_key)
        critic_params = nets.init_critic(critic_key, spec)
        return COMAState(
            config=config,
            actor_params=actor_params,
            actor_opt_state=gradient_update.optimizer_of(
                config, per_agent=config.sharing is not True
            ).init(actor_params),
            critic_params=critic_params,
            # one critic for all agents, even without shared policies
            critic_opt_state=gradient_update.optimizer_of(config, "critic_optimizer").init(
                critic_params
            ),
            target_params=critic_params,
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), jnp.result_type(float)),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def update(
        key: Array, learner: COMAState, batch: Rollout
    ) -> tuple[COMAState, dict[str, Array]]:
        return _update(nets, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        gradient_update.check_minibatches(num_envs, config.num_minibatches)

    act = functools.partial(gradient_update.act, nets.actor)
    return Algorithm(
        name, config, init, nets.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _update(
    networks: COMANetworks, reward_type: str, key: Array, learner: COMAState, batch: Rollout
) -> tuple[COMAState, dict[str, Array]]:
    """Learns from a rollout: epochs of the critic, then one step of the policy."""
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    steps = steps._replace(reward=actor_critic.to_team_reward(reward_type, steps.reward))
    next_key, epoch_key = jax.random.split(key)
    data = gradient_update.to_policy_batch(steps)
    next_action = next_actions(
        networks.actor, learner.actor_params, batch.initial_hidden_state, steps, next_key
    )
    target = targets(networks, learner.target_params, steps, next_action, config)
    value = _select_action(networks.q(learner.critic_params, data.obs, data.action), data.action)
    explained_variance = surrogates.explained_variance(value, target, data.obs.alive)
    lr, critic_lr = (
        optimizers.learning_rate(rate, learner.env_steps, config.lr_anneal_steps)
        for rate in (config.lr, config.critic_lr)
    )

    def critic_step(state: ModelState, batch: SequenceBatch) -> tuple[ModelState, dict[str, Array]]:
        data, target = batch.steps
        step = gradient_update.gradient_step(
            lambda params: (q_loss(params, networks, data, target), {}),
            state,
            critic_lr,
            config,
            optimizer_field="critic_optimizer",
        )
        return step.state, {"value_loss": step.loss, "critic_grad_norm": step.grad_norm}

    critic, critic_info = gradient_update.run_epochs(
        epoch_key,
        ModelState(learner.critic_params, learner.critic_opt_state),
        SequenceBatch((data, target), ()),
        critic_step,
        config.critic_epochs,
        config.num_minibatches,
    )
    # The policy's advantages come from the critic after its epochs.
    q = networks.q(critic.params, data.obs, data.action)
    pi = cast(
        distributions.Categorical,  # `make_coma` admits discrete actions only
        networks.actor.unroll(
            learner.actor_params, batch.initial_hidden_state, data.obs, data.is_first
        ),
    )
    baseline = (
        baselines.counterfactual_baseline
        if config.baseline == "mean"
        else baselines.optimal_baseline
    )
    advantage = _select_action(q, data.action) - baseline(q, jnp.exp(pi.logits))
    actor, policy_info = iac.policy_step(
        networks.actor,
        ModelState(learner.actor_params, learner.actor_opt_state),
        iac.PolicyGradientBatch(data, batch.initial_hidden_state, advantage),
        lr,
        config,
    )
    num_updates = learner.num_updates + 1
    target_params = tree_math.where(
        num_updates % config.target_update_interval == 0, critic.params, learner.target_params
    )
    return learner._replace(
        actor_params=actor.params,
        actor_opt_state=actor.opt_state,
        critic_params=critic.params,
        critic_opt_state=critic.opt_state,
        target_params=target_params,
        num_updates=num_updates,
        **gradient_update.end_of_update(learner, batch),
    ), policy_info | critic_info | gradient_update.lr_metric(config, lr) | {
        "explained_variance": explained_variance
    }


def next_actions(
    actor: actor_critic.Actor,
    actor_params: PyTree,
    hidden_state: PyTree,
    steps: Transition,
    key: Array,
) -> Array:
    """Returns the action that follows each step.

    It is the action of the next step of the rollout; where an episode or the rollout ended, it is
    sampled from the policy in the step's true successor.

    Args:
        actor: the policies, of discrete actions.
        actor_params: parameters of the policy network.
        hidden_state: the policy's hidden state at the start of the rollout, ``[B, ...]``.
        steps: transitions ``[T, B, ...]`` with normalized observations.
        key: typed PRNG key of the samples.

    Returns:
        ``[T, B, N]`` int.
    """
    _, hidden_states = actor.net.unroll(
        actor_params, hidden_state, steps.obs.agents_view, actor_critic.is_first_step(steps.last)
    )
    head, _ = actor.net.step(actor_params, hidden_states, steps.next_obs.agents_view)
    pi = distributions.make_distribution(head, steps.next_obs, actor.bounds)
    sampled = pi.sample(key)
    recorded = jnp.concatenate([steps.action[1:], sampled[-1:]])
    return jnp.where(steps.last[..., None], sampled, recorded)


def targets(
    networks: COMANetworks,
    critic_params: PyTree,
    steps: Transition,
    next_action: Array,
    config: COMAConfig,
) -> Array:
    """Computes the TD(λ) targets of the Q of the actions that were taken.

    Args:
        networks: the networks; it reads ``q``.
        critic_params: parameters of the target critic.
        steps: transitions ``[T, B, ...]`` with normalized observations and the team's reward.
        next_action: ``[T, B, N]`` int, see `next_actions`.
        config: settings; it reads ``gamma`` and ``gae_lambda``.

    Returns:
        ``[T, B, N]``, in the unit of the discounted return.
    """
    value = _select_action(networks.q(critic_params, steps.obs, steps.action), steps.action)
    next_value = _select_action(networks.q(critic_params, steps.next_obs, next_action), next_action)
    return value + returns.generalized_advantage_estimation(
        steps.reward,
        value,
        next_value,
        steps.discount[..., None],
        steps.last[..., None],
        config.gamma,
        config.gae_lambda,
    )


def _select_action(q: Array, action: Array) -> Array:
    """Returns the entry of each agent's action: ``[..., A]`` and ``[...]`` to ``[...]``."""
    return jnp.take_along_axis(q, action[..., None], -1)[..., 0]


def q_loss(
    critic_params: PyTree, networks: COMANetworks, data: gradient_update.PolicyBatch, target: Array
) -> Array:
    """Computes half the mean squared error of the Q of the actions that were taken.

    Args:
        critic_params: parameters of the critic.
        networks: the networks; it reads ``q``.
        data: a minibatch ``[T, b, ...]``.
        target: ``[T, b, N]``, see `targets`.

    Returns:
        The loss, scalar.
    """
    return gradient_update.value_loss(
        _select_action(networks.q(critic_params, data.obs, data.action), data.action), target, True
    )
