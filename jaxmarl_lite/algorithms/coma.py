"""COMA: actors with a central critic that asks what each agent's other actions would have been
worth.

    ∇_θ J = E[ ∇_θ log π_θ(u_i|o_i) A_i ] + c ∇_θ E[ H(π_θ) ],   A_i = Q_i(s, u) - b_i(s, u_-i)

Foerster et al. 2018, equations 2 to 4. Q_i(s, (u_-i, ·)) comes out of one pass for all own actions
at once, from the state, the agent's view, its number and the actions of the others. b_i is the mean
of Q_i over the own actions (``baseline="mean"``), or the baseline of least variance (``"optimal"``,
Kuba et al. 2021). The critic is fitted to TD(λ) targets from a copy of itself that is renewed every
``target_update_interval`` updates:

    G_t = Q'(s_t, u_t) + Σ_k (γλ)^k δ_{t+k},   δ_t = r_t + γ d_t Q'(s'_t, u'_t) - Q'(s_t, u_t)

u'_t is the action that was taken next; where an episode or the rollout ends it is drawn from the
policy. The critic learns first, and the policy from what it says then, as in the authors' program.
The critic has no memory, whatever ``recurrent`` gives the actors; r is the team's, or the sum of
what each agent receives. Exploration comes from the entropy bonus and not from a floor under the
probabilities, as for the algorithms beside it.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config, iac, minibatch, ppo, settings
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import orthogonal
from jaxmarl_lite.ops import baselines, returns, surrogates, tree_math
from jaxmarl_lite.types import Algorithm, Array, EnvSpec, Observation, PyTree, Rollout, Transition


@base_config.config_record
class COMAConfig(settings.AgentConfig):
    """Settings of COMA."""

    gae_lambda: float = 0.8
    """λ of the critic's TD(λ) targets: 0 is one step, 1 the whole return."""
    normalize_advantages: bool = False
    """Standardise the advantages of each batch."""
    baseline: Literal["mean", "optimal"] = "mean"
    """What Q is compared with: its mean over the own actions, or the baseline of least variance."""
    critic_epochs: int = 4
    """Passes of the critic over each batch; the policy takes one step."""
    target_update_interval: int = 20
    """Updates between two copies of the critic into the one that makes its targets."""


class COMAState(NamedTuple):
    """What COMA carries from update to update."""

    config: COMAConfig
    actor_params: PyTree
    actor_opt_state: PyTree
    critic_params: PyTree
    critic_opt_state: PyTree
    target_params: PyTree  # the critic that makes the targets
    obs_normalizer: Any
    env_steps: Array  # [] environment steps
    num_updates: Array  # [] int


class JointCritic(nn.Module):
    """Q of every own action of every agent, ``[..., N, A]``, from the state, the views and the
    others' actions.

    The first layer adds up what it is given, so that the others' part is the joint one less the
    own: no array of all pairs of agents is made.
    """

    hidden: tuple[int, ...]
    actions: int
    activation: Literal["relu", "tanh"]

    @nn.compact
    def __call__(self, obs: Observation, action: Array) -> Array:
        dtype, width = jnp.result_type(float), self.hidden[0]
        agents = obs.agents_view.shape[-2]
        dense = functools.partial(nn.Dense, param_dtype=dtype)
        activate = {"relu": nn.relu, "tanh": nn.tanh}[self.activation]
        table = self.param("actions", orthogonal(1.0), (agents * self.actions, width), dtype)
        number = self.param("number", nn.initializers.zeros, (agents, width), dtype)
        given = table.reshape(agents, self.actions, width)[
            jnp.arange(agents), action
        ]  # [..., N, H]
        others = given.sum(-2, keepdims=True) - given
        state = dense(width, kernel_init=orthogonal(2.0**0.5), name="state")(obs.global_state)[
            ..., None, :
        ]
        view = dense(width, kernel_init=orthogonal(2.0**0.5), name="view")(obs.agents_view)
        x = activate(state + view + others + jnp.broadcast_to(number, view.shape))
        for size in self.hidden[1:]:
            x = activate(dense(size, kernel_init=orthogonal(2.0**0.5))(x))
        return dense(self.actions, kernel_init=orthogonal(1.0), name="head")(x)


class COMANetworks(NamedTuple):
    """COMA's networks, for an environment's sizes."""

    actor: actor_critic.Actor
    critic: JointCritic

    def q(self, phi: PyTree, obs: Observation, action: Array) -> Array:
        """``[..., N, A]``."""
        return self.critic.apply({"params": phi}, obs, action)  # type: ignore[return-value]


def make_coma(name: str, spec: EnvSpec, config: COMAConfig) -> Algorithm:
    """COMA for an environment of these sizes.

    Raises:
        ValueError: for continuous actions, or without a hidden layer.
    """
    actor_critic.check_discrete(name, spec)
    if not config.hidden_sizes:
        raise ValueError("COMAConfig.hidden_sizes is (); allowed is at least one layer")
    of = COMANetworks(
        actor_critic.make_actor(spec, config.network_spec, config.parameter_sharing),
        JointCritic(
            (*config.hidden_sizes, *config.head_hidden_sizes), spec.action_size, config.activation
        ),
    )

    def init(key: Array, num_envs: int, config: COMAConfig = config) -> COMAState:
        config = base_config.as_arrays(config)
        policy_key, critic_key = jax.random.split(key)
        theta = of.actor.net.init(policy_key)
        numbers = jnp.result_type(float)
        views = jnp.zeros((1, spec.num_agents, spec.obs_size), numbers)
        blank = Observation(views, jnp.zeros((1, spec.global_state_size), numbers), (), ())  # type: ignore[arg-type]
        phi = of.critic.init(critic_key, blank, jnp.zeros((1, spec.num_agents), jnp.int32))[
            "params"
        ]
        return COMAState(
            config=config,
            actor_params=theta,
            actor_opt_state=ppo.optimizer_of(config).init(theta),
            critic_params=phi,
            critic_opt_state=_optimizer_of(config).init(phi),
            target_params=phi,
            obs_normalizer=actor_critic.init_obs_normalizer(spec, config.normalize_observations),
            env_steps=jnp.zeros((), numbers),
            num_updates=jnp.zeros((), jnp.int32),
        )

    def act(
        learner: COMAState, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool = False
    ) -> tuple[Array, Array, PyTree]:
        return of.actor.act(
            learner.actor_params,
            key,
            actor_critic.normalize_obs(learner.obs_normalizer, obs),
            hidden_state,
            greedy,
        )

    def update(
        key: Array, learner: COMAState, batch: Rollout
    ) -> tuple[COMAState, dict[str, Array]]:
        return _update(of, spec.reward_type, key, learner, batch)

    def check_sizes(num_envs: int, num_steps: int) -> None:
        minibatch.check_minibatches(num_envs, config.num_minibatches)

    return Algorithm(
        name, config, init, of.actor.net.init_hidden_state, act, update, check_sizes, spec
    )


def _optimizer_of(config: COMAConfig) -> minibatch.Optimizer:
    """The critic's optimizer: all agents have one."""
    return minibatch.make_optimizer(config.optimizer, config.eps_root)


def _update(
    of: COMANetworks, reward_type: str, key: Array, learner: COMAState, batch: Rollout
) -> tuple[COMAState, dict[str, Array]]:
    config = learner.config
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    steps = steps._replace(reward=actor_critic.to_team_reward(reward_type, steps.reward))
    next_key, epoch_key = jax.random.split(key)
    data = ppo.to_policy_batch(steps)
    following = next_actions(
        of.actor, learner.actor_params, batch.initial_hidden_state, steps, next_key
    )
    target = targets(of, learner.target_params, steps, following, config)
    value = _chosen(of.q(learner.critic_params, data.obs, data.action), data.action)
    explained = surrogates.explained_variance(value, target, data.obs.alive)
    learner, fit = minibatch.run_epochs(
        epoch_key,
        learner,
        minibatch.SequenceBatch((data, target), ()),
        functools.partial(_critic_step, of),
        config.critic_epochs,
        config.num_minibatches,
    )
    q = of.q(learner.critic_params, data.obs, data.action)
    pi: Any = of.actor.unroll(
        learner.actor_params, batch.initial_hidden_state, data.obs, data.is_first
    )
    of_own = (
        baselines.counterfactual_baseline
        if config.baseline == "mean"
        else baselines.optimal_baseline
    )
    learner, moved = iac.policy_step(
        of.actor,
        learner,
        data,
        batch.initial_hidden_state,
        _chosen(q, data.action) - of_own(q, jnp.exp(pi.logits)),
    )
    updates = learner.num_updates + 1
    renewed = tree_math.where(
        updates % config.target_update_interval == 0, learner.critic_params, learner.target_params
    )
    return learner._replace(
        target_params=renewed,
        obs_normalizer=actor_critic.update_obs_normalizer(
            learner.obs_normalizer, batch.transitions.obs
        ),
        env_steps=learner.env_steps + batch.transitions.last.size,
        num_updates=updates,
    ), {"explained_variance": explained} | moved | fit | minibatch.learning_rate_metric(
        learner.config, learner.env_steps
    )


def next_actions(
    actor: actor_critic.Actor, theta: PyTree, hidden_state: PyTree, steps: Transition, key: Array
) -> Array:
    """What was done after each step, ``[T, B, N]``; drawn from the policy where an episode or the
    rollout ended.
    """
    _, hidden_states = actor.net.unroll(
        theta, hidden_state, steps.obs.agents_view, actor_critic.is_first_step(steps.last)
    )
    head, _ = actor.net.step(theta, hidden_states, steps.next_obs.agents_view)
    drawn = actor.to_distribution(head, steps.next_obs).sample(key)
    done = jnp.concatenate([steps.action[1:], drawn[-1:]])
    return jnp.where(steps.last[..., None], drawn, done)


def targets(
    of: COMANetworks, phi: PyTree, steps: Transition, following: Array, config: COMAConfig
) -> Array:
    """TD(λ) targets ``[T, B, N]`` of the Q of what was done, by the critic ``phi``."""
    value = _chosen(of.q(phi, steps.obs, steps.action), steps.action)
    next_value = _chosen(of.q(phi, steps.next_obs, following), following)
    return value + returns.generalized_advantage_estimation(
        steps.reward,
        value,
        next_value,
        steps.discount[..., None],
        steps.last[..., None],
        config.gamma,
        config.gae_lambda,
    )


def _chosen(q: Array, action: Array) -> Array:
    """The entry of each agent's action: ``[..., A]`` and ``[...]`` to ``[...]``."""
    return jnp.take_along_axis(q, action[..., None], -1)[..., 0]


def q_loss(phi: PyTree, of: COMANetworks, data: ppo.PolicyBatch, target: Array) -> Array:
    """Half the mean squared error of the Q of what was done against its targets ``[T, b, N]``."""
    return ppo.value_loss_from_values(
        _chosen(of.q(phi, data.obs, data.action), data.action), target, True
    )


def _critic_step(
    of: COMANetworks, learner: COMAState, batch: minibatch.SequenceBatch
) -> tuple[COMAState, dict[str, Array]]:
    config, (data, target) = learner.config, batch.steps
    error, grads = jax.value_and_grad(q_loss)(learner.critic_params, of, data, target)
    lr = minibatch.linear_schedule(config.critic_lr, learner.env_steps, config.lr_anneal_steps)
    phi, opt = _optimizer_of(config).step(
        learner.critic_params, learner.critic_opt_state, grads, lr, config.max_grad_norm
    )
    return learner._replace(critic_params=phi, critic_opt_state=opt), {
        "value_loss": error,
        "critic_grad_norm": tree_math.norm(grads),
    }
