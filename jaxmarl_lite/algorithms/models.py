"""Actors and critics: networks together with what they look at and how their output is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.maths import moments as moments_of
from jaxmarl_lite.maths import trees
from jaxmarl_lite.maths.moments import RunningMoments
from jaxmarl_lite.nets import distributions
from jaxmarl_lite.nets.actor_critic import Network, NetworkSpec, network
from jaxmarl_lite.nets.distributions import Distribution
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Transition


class Actor(NamedTuple):
    """The policies of all agents."""

    net: Network
    read: Callable[[Any, Observation], Distribution]
    of_parameters: Callable[[Any, Observation], Distribution]
    """The distributions that have these `parameters`."""

    def act(
        self, params: PyTree, key: Array, obs: Observation, memory: PyTree, greedy: bool
    ) -> tuple[Array, Array, PyTree]:
        """Actions of one moment, their log-probabilities ``[B, N]``, and the memory after it."""
        head, memory = self.net.step(params, memory, obs.view)
        pi = self.read(head, obs)
        action = pi.mode() if greedy else pi.sample(key)
        return action, pi.log_prob(action), memory

    def unroll(self, params: PyTree, memory: PyTree, obs: Observation, first: Array) -> Distribution:
        """The distributions of a whole rollout, with batch axes ``[T, B, N]``."""
        head, _ = self.net.unroll(params, memory, obs.view, first)
        return self.read(head, obs)


def actor(spec: EnvSpec, form: NetworkSpec, shared: bool | None) -> Actor:
    """Policies from views to logits, or to bounded or unbounded Gaussians, as the environment's actions are.

    ``shared``: one set of weights for all agents, or one each; None: there is no agents' axis.
    """
    return _actor(spec, _policy_network(spec, form, shared))


def _policy_network(spec: EnvSpec, form: NetworkSpec, shared: bool | None, values: int = 0) -> Network:
    return network(
        form,
        spec.view_size,
        spec.action_size,
        agents=None if shared is None else spec.num_agents,
        shared=bool(shared),
        head_scale=0.01,
        gaussian=spec.action_kind == "continuous",
        values=values,
    )


def _actor(spec: EnvSpec, net: Network) -> Actor:
    bounds = None
    if spec.action_low is not None and spec.action_high is not None:
        bounds = (jnp.asarray(spec.action_low), jnp.asarray(spec.action_high))
    return Actor(
        net,
        lambda head, obs: distributions.from_head(head, obs, bounds),
        lambda values, obs: distributions.from_parameters(values, obs, bounds),
    )


def lone_actor(spec: EnvSpec, form: NetworkSpec) -> Actor:
    """The policy of one agent, without the agents' axis; its weights are one entry of those of `actor` that are
    not shared."""
    return actor(dataclasses.replace(spec, num_agents=1), form, None)


class Critic(NamedTuple):
    """A value function of every agent, seeing what ``look`` picks of an observation; of its reward, or of K costs:
    then all values have a further axis ``[K]``."""

    net: Network
    look: Callable[[Observation], Array]
    read: Callable[[Array], Array]

    def unroll(self, params: PyTree, memory: PyTree, obs: Observation, first: Array) -> tuple[Array, PyTree]:
        """Values ``[T, B, N]`` and the memory after each step."""
        out, memories = self.net.unroll(params, memory, self.look(obs), first)
        return self.read(out), memories

    def evaluate(self, params: PyTree, memory: PyTree, steps: Transition) -> tuple[Array, Array, PyTree]:
        """Values ``[T, B, N]`` of every step and of its true successor, and the memory to go on with ``[B, ...]``."""
        value, memories = self.unroll(params, memory, steps.obs, episode_starts(steps.last))
        successor, _ = self.net.step(params, memories, self.look(steps.next_obs))
        return value, self.read(successor), carried(memories, steps.last)


def critic(
    spec: EnvSpec, form: NetworkSpec, view: Literal["own", "state"], shared: bool, costs: int | None = None
) -> Critic:
    """A critic of all agents.

    Args:
        spec: the environment's sizes.
        form: layers and memory.
        view: ``own``: each agent's own observation. ``state``: the state of the world; shared weights then
            evaluate it once and give one value an agent.
        shared: one set of weights, or one an agent.
        costs: K, for a critic of costs instead of the reward.
    """
    agents, values = spec.num_agents, 1 if costs is None else costs

    def read(out: Array) -> Array:
        return out[..., 0] if costs is None else out

    if view == "own":
        net = network(form, spec.view_size, values, agents=agents, shared=shared)
        return Critic(net, lambda obs: obs.view, read)
    if shared:
        net = network(form, spec.state_size, agents * values, agents=None)
        return Critic(net, lambda obs: obs.state, lambda out: read(out.reshape(*out.shape[:-1], agents, values)))

    def tiled(obs: Observation) -> Array:
        return jnp.broadcast_to(obs.state[..., None, :], (*obs.state.shape[:-1], agents, obs.state.shape[-1]))

    return Critic(network(form, spec.state_size, values, agents=agents, shared=False), tiled, read)


class TwoHeads(NamedTuple):
    """Policy and critic as one network with two heads; the weights of both are the actor's."""

    actor: Actor
    critic: Critic
    net: Network
    """Gives ``(what the actor reads, values [..., N, 1])``."""


def two_heads(spec: EnvSpec, form: NetworkSpec, shared: bool) -> TwoHeads:
    """The policies of `actor`, and behind the same layers a critic of the own view."""
    both = _policy_network(spec, form, shared, values=1)

    def one(place: int) -> Network:
        def step(params: PyTree, memory: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            out, memory = both.step(params, memory, x)
            return out[place], memory

        def unroll(params: PyTree, memory: PyTree, x: Array, first: Array) -> tuple[PyTree, PyTree]:
            out, memories = both.unroll(params, memory, x, first)
            return out[place], memories

        return both._replace(step=step, unroll=unroll)

    # the critic has neither weights nor a memory of its own to begin with
    value = one(1)._replace(init=lambda key: (), initial_memory=lambda num_envs: ())
    return TwoHeads(_actor(spec, one(0)), Critic(value, lambda obs: obs.view, lambda out: out[..., 0]), both)


def check_discrete(name: str, spec: EnvSpec) -> None:
    """Raise ValueError for an environment whose actions are not discrete."""
    if spec.action_kind != "discrete":
        raise ValueError(
            f"algorithm {name!r} compares every action with every other, but the actions of {spec.name} are "
            f"{spec.action_kind}; allowed is an environment with discrete actions, or another algorithm"
        )


def team_reward(reward_kind: str, reward: Array) -> Array:
    """The reward that all agents work for, ``[T, B, N]``: the team's, or the sum of what each receives."""
    if reward_kind == "team":
        return reward
    return jnp.broadcast_to(reward.sum(-1, keepdims=True), reward.shape)


def episode_starts(last: Array) -> Array:
    """``[T, B]`` bool: the step begins an episode. The first is False: a rollout's memory is already reset."""
    return jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])


def carried(memories: PyTree, last: Array) -> PyTree:
    """The memory after a rollout ``[B, ...]`` from those after each step ``[T, ...]``; zero where an episode ended."""
    final = jax.tree.map(lambda m: m[-1], memories)
    return trees.select(last[-1], jax.tree.map(jnp.zeros_like, final), final)


def agent_mean(x: Array, alive: Array, shared: bool) -> Array:
    """Mean of ``[T, B, N]`` over the living samples. With one model an agent, the sum of each agent's own mean,
    so that no agent's gradient depends on how many others there are. Scalar."""
    if shared:
        return moments_of.masked_mean(x, alive)
    return moments_of.masked_mean(x, alive, (0, 1)).sum()


def like(alive: Array, x: Array) -> Array:
    """``alive [T, B, N]`` as a weight for every entry of ``x``, which may have an axis of costs behind."""
    return jnp.broadcast_to(jnp.expand_dims(alive, tuple(range(alive.ndim, x.ndim))), x.shape)


def standardised(advantage: Array, alive: Array, shared: bool) -> Array:
    """Advantages ``[T, B, N]`` with mean 0 and deviation 1: over all agents, or each agent's on its own."""
    return moments_of.standardise(advantage, alive, None if shared else (0, 1))


class Sight(NamedTuple):
    """Running moments of what is seen, for views and states that are to be standardised."""

    view: RunningMoments  # [O]
    state: RunningMoments  # [S]


def initial_sight(spec: EnvSpec, wanted: bool) -> Sight | tuple[()]:
    """Moments of nothing seen yet, or () when nothing is to be standardised."""
    if not wanted:
        return ()
    return Sight(moments_of.initial_moments((spec.view_size,)), moments_of.initial_moments((spec.state_size,)))


def through(sight: Sight | tuple[()], obs: Observation) -> Observation:
    """The observation as the networks are to see it; standardised entries are kept within ±10."""
    if not isinstance(sight, Sight):
        return obs
    view = jnp.clip(moments_of.normalise(sight.view, obs.view), -10.0, 10.0)
    return obs._replace(view=view, state=jnp.clip(moments_of.normalise(sight.state, obs.state), -10.0, 10.0))


def seen_through(sight: Sight | tuple[()], steps: Transition) -> Transition:
    """A rollout as the networks are to see it."""
    return steps._replace(obs=through(sight, steps.obs), next_obs=through(sight, steps.next_obs))


def widen(sight: Sight | tuple[()], obs: Observation) -> Sight | tuple[()]:
    """The moments with the observations of a batch taken in; the views of agents out of play are left out."""
    if not isinstance(sight, Sight):
        return sight
    return Sight(
        moments_of.update_moments(sight.view, obs.view, obs.alive), moments_of.update_moments(sight.state, obs.state)
    )
