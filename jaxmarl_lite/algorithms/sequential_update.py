"""Sequential policy updates: the agents update one after the other (Kuba et al., ICLR 2022).

    M^{i_1:m} = Π_{l<m} π_new(u_{i_l} | o_{i_l}) / π_old(u_{i_l} | o_{i_l}) · Â(s, u)

In each update the agents take their turns in a random order ``i_1 .. i_N``. Each agent learns from
the advantage times the factor by which the agents before it in the order have made their actions
more or less likely: the advantage itself is not estimated anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import base_config
from jaxmarl_lite.algorithms.gradient_update import ActingLearner, PolicyBatch
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import NetworkSpec
from jaxmarl_lite.networks.torsos import Bodies, Torso
from jaxmarl_lite.ops import tree_math
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Rollout, Transition


@base_config.config_record
class SequentialConfig(
    base_config.CentralCriticConfig, base_config.ValueNormalizationConfig, base_config.CriticConfig
):
    """Settings of algorithms whose agents update in turn, with one set of weights each."""


class AgentBatch(NamedTuple):
    """The data that one agent learns from in its turn.

    Attributes:
        data: the agent's rollout, ``[T, B, ...]``.
        hidden_state: its policy's hidden state before the rollout, ``[B, ...]``.
        advantage: ``[T, B]``, the advantage of the team, in the unit of reward.
        constraints: the agent's limits, in an algorithm that has any.
    """

    data: PolicyBatch
    hidden_state: PyTree
    advantage: Array
    constraints: PyTree = ()


class Turn(NamedTuple):
    """The turn of one agent.

    Attributes:
        key: random key.
        state: the state that the turn changes: weights and optimizer of the agent's policy.
        batch: the data that the agent learns from, such as an `AgentBatch`.
        factor: ``[T, B]``, product of the probability ratios of the agents that updated before;
            with the ``ratio_axes`` of `sequential_update` as further axes.
    """

    key: Array
    state: PyTree
    batch: PyTree
    factor: Array


TurnFn = Callable[[Turn], tuple[PyTree, Array, dict[str, Array]]]
"""``turn -> (state, log_ratio, metrics)``; the log-ratio is log π_new - log π_old of the actions
that the agent took, of the shape of ``factor``."""


@jax.named_scope("turn")
def sequential_update(
    key: Array,
    states: PyTree,
    batches: PyTree,
    alive: Array,
    turn_fn: TurnFn,
    ratio_axes: tuple[int, ...] = (),
) -> tuple[PyTree, dict[str, Array]]:
    """Runs the turn of every agent, one after the other in a random order.

    Args:
        key: random key of the order and of the turns.
        states: the state that each agent's turn changes, every leaf ``[N, ...]``.
        batches: the data that each agent learns from, every leaf ``[N, ...]``.
        alive: ``[N, T, B]`` bool; where an agent is dead, its ratio counts as one.
        turn_fn: the turn of one agent.
        ratio_axes: sizes of the axes that ratios have after ``[T, B]``: () unless they are separate
            for each dimension of the action.

    Returns:
        The agents' new state, and the info of every agent, ``[N, ...]``, with two further entries:
        ``update_order``, the agent's place in the order from 0, and ``ratio_product_mean``, the
        mean of the product of ratios at the agent's turn.
    """
    num_agents = alive.shape[0]
    order_key, key = jax.random.split(key)
    order = jax.random.permutation(order_key, num_agents)

    def step(
        carry: tuple[PyTree, Array], agent_and_key: tuple[Array, Array]
    ) -> tuple[tuple[PyTree, Array], dict[str, Array]]:
        states, factor = carry
        agent, key = agent_and_key
        state, batch = tree_math.map_leaves(lambda x: x[agent], (states, batches))
        state, log_ratio, info = turn_fn(Turn(key, state, batch, factor))
        states = tree_math.map_leaves(lambda x, entry: x.at[agent].set(entry), states, state)
        info |= {"ratio_product_mean": factor.mean()}
        acted = jnp.broadcast_to(
            jnp.expand_dims(alive[agent], tuple(range(2, 2 + len(ratio_axes)))), factor.shape
        )
        return (states, factor * jnp.where(acted, jnp.exp(log_ratio), 1.0)), info

    start = (states, jnp.ones((*alive.shape[1:], *ratio_axes), jnp.result_type(float)))
    (states, _), info = jax.lax.scan(step, start, (order, jax.random.split(key, num_agents)))
    # The scan's info is in the order of turns; its inverse permutation sorts by agent.
    position = jnp.argsort(order)
    info = tree_math.map_leaves(lambda x: x[position], info)
    return states, info | {"update_order": position.astype(jnp.result_type(float))}


@jax.named_scope("turn")
def simultaneous_update(
    key: Array, states: PyTree, batches: PyTree, alive: Array, turn_fn: TurnFn
) -> tuple[PyTree, dict[str, Array]]:
    """Runs the turns of all agents at the same time, so that no agent meets another's ratios.

    Args:
        key: random key of the turns.
        states: as in `sequential_update`.
        batches: as in `sequential_update`.
        alive: as in `sequential_update`; only its shape is used.
        turn_fn: as in `sequential_update`.

    Returns:
        As `sequential_update`, with every ``update_order`` 0 and every ``ratio_product_mean`` 1.
    """
    num_agents = alive.shape[0]
    factor = jnp.ones(alive.shape, jnp.result_type(float))
    turns = Turn(jax.random.split(key, num_agents), states, batches, factor)
    states, _, info = jax.vmap(turn_fn)(turns)
    return states, info | {
        "ratio_product_mean": factor.mean((1, 2)),
        "update_order": jnp.zeros(num_agents, factor.dtype),
    }


def team_transitions(spec: EnvSpec, learner: ActingLearner, batch: Rollout) -> Transition:
    """Returns a rollout with the observations that the networks see and the team's reward.

    Args:
        spec: the environment's sizes.
        learner: the state of the learner.
        batch: the rollout.

    Returns:
        The transitions, ``[T, B, ...]``.
    """
    steps = actor_critic.normalize_transitions(learner.obs_normalizer, batch.transitions)
    return steps._replace(reward=actor_critic.to_team_reward(spec.reward_type, steps.reward))


def split_by_agent(data: PolicyBatch) -> PolicyBatch:
    """Returns the data of all agents with the agents' axis first.

    Args:
        data: leaves ``[T, B, N, ...]``; the state and the marks of first steps are without N.

    Returns:
        Leaves ``[N, T, B, ...]``, where the data that all agents share is repeated N times.
    """
    obs, num_agents = data.obs, data.log_prob.shape[-1]
    view, mask, alive, action, log_prob = tree_math.map_leaves(
        lambda x: jnp.moveaxis(x, 2, 0),
        (obs.agents_view, obs.action_mask, obs.alive, data.action, data.log_prob),
    )
    global_state, is_first = tree_math.map_leaves(
        lambda x: jnp.broadcast_to(x[None], (num_agents, *x.shape)),
        (obs.global_state, data.is_first),
    )
    return PolicyBatch(Observation(view, global_state, mask, alive), action, log_prob, is_first)


def agent_batches(
    data: PolicyBatch, hidden_state: PyTree, advantage: Array, constraints: PyTree = ()
) -> AgentBatch:
    """Returns the data of all agents as their turns take it, every leaf ``[N, ...]``.

    Args:
        data: the rollout, ``[T, B, N, ...]``.
        hidden_state: the policies' hidden state before the rollout, ``[B, N, H]``; () without one.
        advantage: ``[T, B, N]``, the advantage of the team.
        constraints: the agents' limits, ``[N, ...]``.

    Returns:
        The batches.
    """
    return AgentBatch(
        split_by_agent(data),
        tree_math.map_leaves(lambda x: jnp.moveaxis(x, 1, 0), hidden_state),
        jnp.moveaxis(advantage, 2, 0),
        constraints,
    )


def log_ratio(
    actor: actor_critic.Actor, actor_params: PyTree, hidden_state: PyTree, data: PolicyBatch
) -> Array:
    """Computes log π(u|o) - log π_old(u|o) of the actions that one agent took.

    Args:
        actor: the policy of one agent.
        actor_params: its weights, for π.
        hidden_state: its hidden state before the rollout, ``[B, ...]``.
        data: the agent's rollout ``[T, B, ...]``, with the log-probabilities under π_old.

    Returns:
        ``[T, B]``, in nats.
    """
    return (
        actor.unroll(actor_params, hidden_state, data.obs, data.is_first).log_prob(data.action)
        - data.log_prob
    )


class SequentialNetworks(NamedTuple):
    """The networks of an algorithm with sequential updates.

    Attributes:
        actor: the policies of all agents, by which they act.
        critic: the critics of the reward.
        agent_actor: the policy of one agent, without the agents' axis, by which it learns.
    """

    actor: actor_critic.Actor
    critic: actor_critic.Critic
    agent_actor: actor_critic.Actor


def make_networks(
    spec: EnvSpec, config: SequentialConfig, bodies: Bodies[NetworkSpec | Torso]
) -> SequentialNetworks:
    """Returns the networks that the static fields of the config describe.

    Args:
        spec: the environment's sizes.
        config: settings.
        bodies: layers or torsos of actor and critic.

    Returns:
        The networks; every agent has its own weights.
    """
    return SequentialNetworks(
        actor_critic.make_actor(spec, bodies.actor, shared=False),
        actor_critic.make_critic(spec, bodies.critic, config.critic_input, shared=False),
        actor_critic.single_agent_actor(spec, bodies.actor),
    )
