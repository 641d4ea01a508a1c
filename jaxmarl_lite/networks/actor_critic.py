"""Actors and critics: networks together with what they look at and how their output is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.networks import distributions
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.networks.recurrent import Network, NetworkSpec, make_network
from jaxmarl_lite.ops import running_statistics, tree_math
from jaxmarl_lite.ops.running_statistics import RunningStatistics
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Transition


class Actor(NamedTuple):
    """The policies of all agents."""

    net: Network
    to_distribution: Callable[[Any, Observation], Distribution]
    from_params: Callable[[Any, Observation], Distribution]
    """The distributions that have these `params`."""

    def act(
        self, params: PyTree, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool
    ) -> tuple[Array, Array, PyTree]:
        """Actions of one moment, their log-probabilities ``[B, N]``, and the memory after it."""
        head, hidden_state = self.net.step(params, hidden_state, obs.agents_view)
        pi = self.to_distribution(head, obs)
        action = pi.mode() if greedy else pi.sample(key)
        return action, pi.log_prob(action), hidden_state

    def unroll(
        self, params: PyTree, hidden_state: PyTree, obs: Observation, first: Array
    ) -> Distribution:
        """The distributions of a whole rollout, with batch axes ``[T, B, N]``."""
        head, _ = self.net.unroll(params, hidden_state, obs.agents_view, first)
        return self.to_distribution(head, obs)


def make_actor(spec: EnvSpec, form: NetworkSpec, shared: bool | None) -> Actor:
    """Policies from views to logits, or to bounded or unbounded Gaussians, as the environment's
    actions are.

    ``shared``: one set of weights for all agents, or one each; None: there is no agents' axis.
    """
    return _actor(spec, _policy_network(spec, form, shared))


def _policy_network(
    spec: EnvSpec, form: NetworkSpec, shared: bool | None, values: int = 0
) -> Network:
    return make_network(
        form,
        spec.obs_size,
        spec.action_size,
        num_agents=None if shared is None else spec.num_agents,
        shared=bool(shared),
        head_init_scale=0.01,
        gaussian_head=spec.action_type == "continuous",
        num_values=values,
    )


def _actor(spec: EnvSpec, net: Network) -> Actor:
    bounds = None
    if spec.action_low is not None and spec.action_high is not None:
        bounds = (jnp.asarray(spec.action_low), jnp.asarray(spec.action_high))
    return Actor(
        net,
        lambda head, obs: distributions.make_distribution(head, obs, bounds),
        lambda values, obs: distributions.from_params(values, obs, bounds),
    )


def single_agent_actor(spec: EnvSpec, form: NetworkSpec) -> Actor:
    """The policy of one agent, without the agents' axis; its weights are one entry of those of
    `make_actor` that are not shared.
    """
    return make_actor(dataclasses.replace(spec, num_agents=1), form, None)


class Critic(NamedTuple):
    """A value function of every agent, seeing what ``select_input`` picks of an observation; of its
    reward, or of K
    costs: then all values have a further axis ``[K]``.
    """

    net: Network
    select_input: Callable[[Observation], Array]
    to_values: Callable[[Array], Array]

    def unroll(
        self, params: PyTree, hidden_state: PyTree, obs: Observation, first: Array
    ) -> tuple[Array, PyTree]:
        """Values ``[T, B, N]`` and the memory after each step."""
        out, hidden_states = self.net.unroll(params, hidden_state, self.select_input(obs), first)
        return self.to_values(out), hidden_states

    def values_and_bootstrap(
        self, params: PyTree, hidden_state: PyTree, steps: Transition
    ) -> tuple[Array, Array, PyTree]:
        """Values ``[T, B, N]`` of every step and of its true successor, and the memory to go on
        with ``[B, ...]``.
        """
        value, hidden_states = self.unroll(
            params, hidden_state, steps.obs, is_first_step(steps.last)
        )
        successor, _ = self.net.step(params, hidden_states, self.select_input(steps.next_obs))
        return value, self.to_values(successor), final_hidden_state(hidden_states, steps.last)


def make_critic(
    spec: EnvSpec,
    form: NetworkSpec,
    view: Literal["local", "global_state"],
    shared: bool,
    costs: int | None = None,
) -> Critic:
    """A critic of all agents.

    Args:
        spec: the environment's sizes.
        form: layers and memory.
        view: ``local``: each agent's own observation. ``global_state``: the state of the world;
            shared weights then evaluate it once and give one value an agent.
        shared: one set of weights, or one an agent.
        costs: K, for a critic of costs instead of the reward.
    """
    agents, values = spec.num_agents, 1 if costs is None else costs

    def read(out: Array) -> Array:
        return out[..., 0] if costs is None else out

    if view == "local":
        net = make_network(form, spec.obs_size, values, num_agents=agents, shared=shared)
        return Critic(net, lambda obs: obs.agents_view, read)
    if shared:
        net = make_network(form, spec.global_state_size, agents * values, num_agents=None)
        return Critic(
            net,
            lambda obs: obs.global_state,
            lambda out: read(out.reshape(*out.shape[:-1], agents, values)),
        )

    def tiled(obs: Observation) -> Array:
        return jnp.broadcast_to(
            obs.global_state[..., None, :],
            (*obs.global_state.shape[:-1], agents, obs.global_state.shape[-1]),
        )

    return Critic(
        make_network(form, spec.global_state_size, values, num_agents=agents, shared=False),
        tiled,
        read,
    )


class SharedActorCritic(NamedTuple):
    """Policy and critic as one network with two heads; the weights of both are the actor's."""

    actor: Actor
    critic: Critic
    net: Network
    """Gives ``(what the actor reads, values [..., N, 1])``."""


def shared_actor_critic(spec: EnvSpec, form: NetworkSpec, shared: bool) -> SharedActorCritic:
    """The policies of `make_actor`, and behind the same layers a critic of the own view."""
    both = _policy_network(spec, form, shared, values=1)

    def one(place: int) -> Network:
        def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            out, hidden_state = both.step(params, hidden_state, x)
            return out[place], hidden_state

        def unroll(
            params: PyTree, hidden_state: PyTree, x: Array, first: Array
        ) -> tuple[PyTree, PyTree]:
            out, hidden_states = both.unroll(params, hidden_state, x, first)
            return out[place], hidden_states

        return both._replace(step=step, unroll=unroll)

    # the critic has neither weights nor a memory of its own to begin with
    value = one(1)._replace(init=lambda key: (), init_hidden_state=lambda num_envs: ())
    return SharedActorCritic(
        _actor(spec, one(0)),
        Critic(value, lambda obs: obs.agents_view, lambda out: out[..., 0]),
        both,
    )


def check_discrete(name: str, spec: EnvSpec) -> None:
    """Raise ValueError for an environment whose actions are not discrete."""
    if spec.action_type != "discrete":
        raise ValueError(
            f"algorithm {name!r} compares every action with every other, but the actions of "
            f"{spec.name} are "
            f"{spec.action_type}; allowed is an environment with discrete actions, or another "
            "algorithm"
        )


def to_team_reward(reward_type: str, reward: Array) -> Array:
    """The reward that all agents work for, ``[T, B, N]``: the team's, or the sum of what each
    receives.
    """
    if reward_type == "team":
        return reward
    return jnp.broadcast_to(reward.sum(-1, keepdims=True), reward.shape)


def is_first_step(last: Array) -> Array:
    """``[T, B]`` bool: the step begins an episode. The first is False: a rollout's memory is
    already reset.
    """
    return jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])


def final_hidden_state(hidden_states: PyTree, last: Array) -> PyTree:
    """The memory after a rollout ``[B, ...]`` from those after each step ``[T, ...]``; zero where
    an episode ended.
    """
    final = jax.tree.map(lambda m: m[-1], hidden_states)
    return tree_math.where(last[-1], jax.tree.map(jnp.zeros_like, final), final)


def masked_agent_mean(x: Array, alive: Array, shared: bool) -> Array:
    """Mean of ``[T, B, N]`` over the living samples. With one model an agent, the sum of each
    agent's own mean, so that no agent's gradient depends on how many others there are. Scalar.
    """
    if shared:
        return running_statistics.masked_mean(x, alive)
    return running_statistics.masked_mean(x, alive, (0, 1)).sum()


def expand_mask(alive: Array, x: Array) -> Array:
    """``alive [T, B, N]`` as a weight for every entry of ``x``, which may have an axis of costs
    behind.
    """
    return jnp.broadcast_to(jnp.expand_dims(alive, tuple(range(alive.ndim, x.ndim))), x.shape)


def standardize_advantages(advantage: Array, alive: Array, shared: bool) -> Array:
    """Advantages ``[T, B, N]`` with mean 0 and deviation 1: over all agents, or each agent's on its
    own.
    """
    return running_statistics.standardize(advantage, alive, None if shared else (0, 1))


class ObsNormalizer(NamedTuple):
    """Running moments of what is seen, for views and states that are to be standardized."""

    agents_view: RunningStatistics  # [O]
    global_state: RunningStatistics  # [S]


def init_obs_normalizer(spec: EnvSpec, wanted: bool) -> ObsNormalizer | tuple[()]:
    """Moments of nothing seen yet, or () when nothing is to be standardized."""
    if not wanted:
        return ()
    return ObsNormalizer(
        running_statistics.init_running_statistics((spec.obs_size,)),
        running_statistics.init_running_statistics((spec.global_state_size,)),
    )


def normalize_obs(sight: ObsNormalizer | tuple[()], obs: Observation) -> Observation:
    """The observation as the networks are to see it; standardized entries are kept within ±10."""
    if not isinstance(sight, ObsNormalizer):
        return obs
    view = jnp.clip(running_statistics.normalize(sight.agents_view, obs.agents_view), -10.0, 10.0)
    return obs._replace(
        agents_view=view,
        global_state=jnp.clip(
            running_statistics.normalize(sight.global_state, obs.global_state), -10.0, 10.0
        ),
    )


def normalize_transitions(sight: ObsNormalizer | tuple[()], steps: Transition) -> Transition:
    """A rollout as the networks are to see it."""
    return steps._replace(
        obs=normalize_obs(sight, steps.obs), next_obs=normalize_obs(sight, steps.next_obs)
    )


def update_obs_normalizer(
    sight: ObsNormalizer | tuple[()], obs: Observation
) -> ObsNormalizer | tuple[()]:
    """The moments with the observations of a batch taken in; the views of agents out of play are
    left out.
    """
    if not isinstance(sight, ObsNormalizer):
        return sight
    return ObsNormalizer(
        running_statistics.update_running_statistics(sight.agents_view, obs.agents_view, obs.alive),
        running_statistics.update_running_statistics(sight.global_state, obs.global_state),
    )
