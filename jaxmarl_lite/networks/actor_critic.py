"""Actors and critics: networks with the choice of their input and the reading of their output.

The module also has the functions that every algorithm with an actor or a critic needs: rewards,
episode bounds, masked means, and the normalization of observations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp

from jaxmarl_lite import platforms
from jaxmarl_lite.networks import distributions
from jaxmarl_lite.networks.distributions import Distribution
from jaxmarl_lite.networks.recurrent import NetworkSpec, make_network
from jaxmarl_lite.networks.torsos import Network, Sharing, Torso
from jaxmarl_lite.ops import jax_types, running_statistics, tree_math
from jaxmarl_lite.ops.running_statistics import RunningStatistics
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, Transition


class Actor(NamedTuple):
    """The policies of all agents.

    Attributes:
        net: the network, from observations to the output that `distributions.make_distribution`
            reads.
        bounds: ``(low, high)``, ``[A]`` each, of continuous actions; None when they are unbounded.
    """

    net: Network
    bounds: tuple[Array, Array] | None

    def act(
        self, params: PyTree, key: Array, obs: Observation, hidden_state: PyTree, greedy: bool
    ) -> tuple[Array, Array, PyTree]:
        """Chooses the actions of one time step.

        Args:
            params: weights of the network.
            key: a key of `jax.random`, unused when ``greedy``.
            obs: the observations, ``[B, ...]``.
            hidden_state: the hidden state before the step, ``[B, N, H]``; () without one.
            greedy: whether to take the mode instead of a sample.

        Returns:
            The actions (``[B, N]`` int or ``[B, N, A]`` float), their log-probabilities ``[B, N]``
            in nats, and the hidden state after the step.
        """
        head, hidden_state = self.net.step(params, hidden_state, obs.agents_view)
        pi = distributions.make_distribution(head, obs, self.bounds)
        action = pi.mode() if greedy else pi.sample(key)
        return action, pi.log_prob(action), hidden_state

    def unroll(
        self, params: PyTree, hidden_state: PyTree, obs: Observation, first: Array
    ) -> Distribution:
        """Computes the distributions of a whole rollout.

        Args:
            params: weights of the network.
            hidden_state: the hidden state before the rollout, ``[B, N, H]``; () without one.
            obs: the observations, ``[T, B, ...]``.
            first: ``[T, B]`` bool, the step begins an episode.

        Returns:
            The distributions, with batch axes ``[T, B, N]``.
        """
        head, _ = self.net.unroll(params, hidden_state, obs.agents_view, first)
        return distributions.make_distribution(head, obs, self.bounds)


def make_actor(spec: EnvSpec, network_spec: NetworkSpec | Torso, shared: Sharing | None) -> Actor:
    """Returns policies from observations to the distributions that the environment's actions need.

    These are categorical for discrete actions; for continuous ones Gaussians, bounded if the
    environment's actions are.

    Args:
        spec: the environment's sizes, action type and bounds.
        network_spec: sizes of the layers.
        shared: one set of weights for all agents, or (False) one for each, or one for each group;
            None: there is no agents' axis.

    Returns:
        The `Actor`.

    Example:
        Three agents in two environments, each with four actions, which are nearly equally probable
        before any training:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import actor_critic, recurrent
        >>> from jaxmarl_lite.types import EnvSpec, Observation
        >>> spec = EnvSpec("example", num_agents=3, obs_size=7, global_state_size=5,
        ...                action_type="discrete", action_size=4, max_episode_steps=10)
        >>> network_spec = recurrent.NetworkSpec(hidden_sizes=(8,))
        >>> actor = actor_critic.make_actor(spec, network_spec, shared=True)
        >>> params = actor.net.init(jax.random.key(0))
        >>> obs = Observation(
        ...     agents_view=jnp.ones((2, 3, 7)), global_state=jnp.ones((2, 5)),
        ...     action_mask=jnp.ones((2, 3, 4), bool), alive=jnp.ones((2, 3), bool),
        ... )
        >>> action, log_prob, hidden_state = actor.act(
        ...     params, jax.random.key(1), obs, actor.net.init_hidden_state(2), greedy=False
        ... )
        >>> print(action.shape, log_prob.shape, hidden_state)
        (2, 3) (2, 3) ()
        >>> bool(jnp.allclose(jnp.exp(log_prob), 0.25, atol=0.02))
        True
    """
    return Actor(_policy_network(spec, network_spec, shared), _bounds(spec))


def _policy_network(
    spec: EnvSpec, network_spec: NetworkSpec | Torso, shared: Sharing | None, num_values: int = 0
) -> Network:
    """Returns the network of the policies, with ``num_values`` values from a second head."""
    return make_network(
        network_spec,
        spec.obs_size,
        spec.action_size,
        num_agents=None if shared is None else spec.num_agents,
        shared=False if shared is None else shared,
        head_init_scale=0.01,
        gaussian_head=spec.action_type == "continuous",
        num_values=num_values,
    )


def _bounds(spec: EnvSpec) -> tuple[Array, Array] | None:
    """Returns the environment's bounds of continuous actions."""
    if spec.action_low is None or spec.action_high is None:
        return None
    return jnp.asarray(spec.action_low), jnp.asarray(spec.action_high)


def single_agent_actor(spec: EnvSpec, network_spec: NetworkSpec | Torso) -> Actor:
    """Returns the policy of one agent, without the agents' axis.

    Its weights are one entry of those of `make_actor` that are not shared.

    Args:
        spec: the environment's sizes, action type and bounds.
        network_spec: sizes of the layers.

    Returns:
        The `Actor`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import actor_critic, recurrent
        >>> from jaxmarl_lite.types import EnvSpec
        >>> spec = EnvSpec("example", num_agents=3, obs_size=7, global_state_size=5,
        ...                action_type="discrete", action_size=4, max_episode_steps=10)
        >>> network_spec = recurrent.NetworkSpec(hidden_sizes=(8,))
        >>> every_agent = actor_critic.make_actor(spec, network_spec, shared=False)
        >>> one_agent = actor_critic.single_agent_actor(spec, network_spec)
        >>> params = every_agent.net.init(jax.random.key(0))
        >>> params_of_agent_1 = jax.tree.map(lambda x: x[1], params)
        >>> logits, _ = one_agent.net.step(params_of_agent_1, (), jnp.ones((2, 7)))
        >>> all_logits, _ = every_agent.net.step(params, (), jnp.ones((2, 3, 7)))
        >>> bool(jnp.allclose(logits, all_logits[:, 1], atol=1e-5))
        True
    """
    return make_actor(dataclasses.replace(spec, num_agents=1), network_spec, None)


_STEPS_AT_ONCE = 32
"""Most time steps whose successors' values an accelerator computes at once."""


class Critic(NamedTuple):
    """A value function of every agent: of its reward, or of its K costs.

    With costs, all values have a further axis ``[K]``.

    Attributes:
        net: the network.
        select_input: ``obs -> input of net``, the part of an observation that the critic sees.
        to_values: ``output of net -> values``.
    """

    net: Network
    select_input: Callable[[Observation], Array]
    to_values: Callable[[Array], Array]

    def unroll(
        self, params: PyTree, hidden_state: PyTree, obs: Observation, first: Array
    ) -> tuple[Array, PyTree]:
        """Computes the values of a rollout.

        Args:
            params: weights of the network.
            hidden_state: the hidden state before the rollout, ``[B, ...]``; () without one.
            obs: the observations, ``[T, B, ...]``.
            first: ``[T, B]`` bool, the step begins an episode.

        Returns:
            The values ``[T, B, N]``, and the hidden state after each step, ``[T, B, ...]``.
        """
        out, hidden_states = self.net.unroll(params, hidden_state, self.select_input(obs), first)
        return self.to_values(out), hidden_states

    def values_and_bootstrap(
        self, params: PyTree, hidden_state: PyTree, steps: Transition
    ) -> tuple[Array, Array, PyTree]:
        """Computes the values of every step of a rollout and of its true successor.

        Args:
            params: weights of the network.
            hidden_state: the hidden state before the rollout, ``[B, ...]``; () without one.
            steps: the rollout, ``[T, B, ...]``.

        Returns:
            The values ``[T, B, N]``, those of the successors ``[T, B, N]``, and the hidden state
            with which the next rollout continues, ``[B, ...]``.
        """
        value, hidden_states = self.unroll(
            params, hidden_state, steps.obs, is_first_step(steps.last)
        )
        # The successor of the episode's end is not in the rollout: each is one step from the hidden
        # state after its predecessor.
        next_value = self._step_values(params, hidden_states, self.select_input(steps.next_obs))
        return value, next_value, final_hidden_state(hidden_states, steps.last)

    def _step_values(self, params: PyTree, hidden_states: PyTree, x: Array) -> Array:
        """Returns the values one step after hidden states, of inputs ``[T, B, ...]``."""

        def values(inputs: tuple[PyTree, Array]) -> Array:
            return self.to_values(self.net.step(params, *inputs)[0])

        if platforms.current() == "cpu" or len(x) <= _STEPS_AT_ONCE:
            return values((hidden_states, x))
        # All steps at once would hold the outputs of all their layers in memory. The barrier keeps
        # XLA from computing them beside those of the rollout itself.
        inputs = jax_types.optimization_barrier((hidden_states, x))
        return jax_types.lax_map(values, inputs, batch_size=_STEPS_AT_ONCE)


def make_critic(
    spec: EnvSpec,
    network_spec: NetworkSpec | Torso,
    critic_input: Literal["local", "global_state"],
    shared: Sharing,
    costs: int | None = None,
) -> Critic:
    """Returns a critic of all agents.

    Args:
        spec: the environment's sizes.
        network_spec: sizes of the layers.
        critic_input: ``local``: each agent's own observation. ``global_state``: the state of the
            environment; shared weights then evaluate it once and give one value for each agent.
        shared: one set of weights for all agents, or (False) one for each, or one for each group.
        costs: K, for a critic of costs; None for a critic of the reward.

    Returns:
        The `Critic`.

    Example:
        Values of one time step of two environments, of the reward and of two costs:

        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import actor_critic, recurrent
        >>> from jaxmarl_lite.types import EnvSpec, Observation
        >>> spec = EnvSpec("example", num_agents=3, obs_size=7, global_state_size=5,
        ...                action_type="discrete", action_size=4, max_episode_steps=10)
        >>> network_spec = recurrent.NetworkSpec(hidden_sizes=(8,))
        >>> obs = Observation(
        ...     agents_view=jnp.ones((1, 2, 3, 7)), global_state=jnp.ones((1, 2, 5)),
        ...     action_mask=jnp.ones((1, 2, 3, 4), bool), alive=jnp.ones((1, 2, 3), bool),
        ... )
        >>> first = jnp.zeros((1, 2), bool)
        >>> for costs in (None, 2):
        ...     critic = actor_critic.make_critic(
        ...         spec, network_spec, "global_state", shared=True, costs=costs
        ...     )
        ...     params = critic.net.init(jax.random.key(0))
        ...     values, _ = critic.unroll(params, (), obs, first)
        ...     print(values.shape)
        (1, 2, 3)
        (1, 2, 3, 2)
    """
    num_agents, num_values = spec.num_agents, 1 if costs is None else costs
    local = critic_input == "local"
    joint = not local and shared is not False
    groups = shared if joint and isinstance(shared, tuple) else ()
    # with groups, one network for each evaluates the state once, and each agent reads its group's
    num_networks = None if joint and not groups else len(set(groups)) or num_agents
    net = make_network(
        network_spec,
        spec.obs_size if local else spec.global_state_size,
        num_agents * num_values if joint else num_values,
        num_agents=num_networks,
        shared=False if groups else shared,
    )

    def select_input(obs: Observation) -> Array:
        if local:
            return obs.agents_view
        state = obs.global_state
        if num_networks is None:
            return state
        return jnp.broadcast_to(  # [..., N, S], for every agent's network, or [..., G, S]
            state[..., None, :], (*state.shape[:-1], num_networks, state.shape[-1])
        )

    def to_values(out: Array) -> Array:
        if joint:
            out = out.reshape(*out.shape[:-1], num_agents, num_values)
        if groups:  # [..., G, N, K] to [..., N, K]
            out = out[..., jnp.array(groups), jnp.arange(num_agents), :]
        return out[..., 0] if costs is None else out

    return Critic(net, select_input, to_values)


class SharedActorCritic(NamedTuple):
    """Policy and critic as one network with two heads; the weights of both are the actor's.

    Attributes:
        actor: the policies.
        critic: the critic, whose own weights and hidden state are () at the start.
        net: the network, whose output is the pair of the policies' output and the values
            ``[..., N, 1]``.
    """

    actor: Actor
    critic: Critic
    net: Network


def shared_actor_critic(
    spec: EnvSpec, network_spec: NetworkSpec | Torso, shared: Sharing
) -> SharedActorCritic:
    """Returns the policies of `make_actor`, and a critic of each observation on the same layers.

    Args:
        spec: the environment's sizes, action type and bounds.
        network_spec: sizes of the layers.
        shared: one set of weights for all agents, or (False) one for each, or one for each group.

    Returns:
        The `SharedActorCritic`.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from jaxmarl_lite.networks import actor_critic, recurrent
        >>> from jaxmarl_lite.types import EnvSpec
        >>> spec = EnvSpec("example", num_agents=3, obs_size=7, global_state_size=5,
        ...                action_type="discrete", action_size=4, max_episode_steps=10)
        >>> network_spec = recurrent.NetworkSpec(hidden_sizes=(8,))
        >>> networks = actor_critic.shared_actor_critic(spec, network_spec, shared=True)
        >>> params = networks.actor.net.init(jax.random.key(0))
        >>> (logits, values), _ = networks.net.step(params, (), jnp.ones((2, 3, 7)))
        >>> print(logits.shape, values.shape)
        (2, 3, 4) (2, 3, 1)
    """
    shared_net = _policy_network(spec, network_spec, shared, num_values=1)

    def select_output(index: int) -> Network:
        """Returns the network with one of its two outputs: 0 the policy's, 1 the values."""

        def step(params: PyTree, hidden_state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
            out, hidden_state = shared_net.step(params, hidden_state, x)
            return out[index], hidden_state

        def unroll(
            params: PyTree, hidden_state: PyTree, x: Array, first: Array
        ) -> tuple[PyTree, PyTree]:
            out, hidden_states = shared_net.unroll(params, hidden_state, x, first)
            return out[index], hidden_states

        return shared_net._replace(step=step, unroll=unroll)

    def nothing(_: object) -> PyTree:
        return ()

    local_critic = make_critic(spec, network_spec, "local", shared)
    # The critic starts with neither weights nor a hidden state of its own.
    value_net = select_output(1)._replace(init=nothing, init_hidden_state=nothing)
    return SharedActorCritic(
        Actor(select_output(0), _bounds(spec)), local_critic._replace(net=value_net), shared_net
    )


def check_discrete(name: str, spec: EnvSpec) -> None:
    """Raises an error for an environment whose actions are not discrete.

    Args:
        name: the algorithm's name, for the message.
        spec: the environment's sizes and meanings.

    Raises:
        ValueError: when the actions are not discrete.
    """
    if spec.action_type != "discrete":
        raise ValueError(
            f"algorithm {name!r} compares every action with every other, but the actions of "
            f"{spec.name} are "
            f"{spec.action_type}; allowed is an environment with discrete actions, or another "
            "algorithm"
        )


def to_team_reward(reward_type: str, reward: Array) -> Array:
    """Computes the reward that all agents work for: the team's, or the sum over the agents.

    Args:
        reward_type: ``team``, when every agent already receives the team's reward, or
            ``individual``.
        reward: ``[T, B, N]`` the reward that each agent receives.

    Returns:
        ``[T, B, N]``, the same number for every agent.
    """
    if reward_type == "team":
        return reward
    return jnp.broadcast_to(reward.sum(-1, keepdims=True), reward.shape)


def is_first_step(last: Array) -> Array:
    """Returns whether a step begins an episode, from whether the step before it ended one.

    The first step of the rollout is False: a rollout's hidden state is already reset.

    Args:
        last: ``[T, B]`` bool, the step ends an episode.

    Returns:
        ``[T, B]`` bool.
    """
    return jnp.concatenate([jnp.zeros_like(last[:1]), last[:-1]])


def final_hidden_state(hidden_states: PyTree, last: Array) -> PyTree:
    """Returns the hidden state after a rollout, zero where an episode ended.

    Args:
        hidden_states: the hidden state after each step, ``[T, B, ...]``.
        last: ``[T, B]`` bool, the step ends an episode.

    Returns:
        The hidden state ``[B, ...]``.
    """
    final = tree_math.map_leaves(lambda m: m[-1], hidden_states)
    return tree_math.where(last[-1], tree_math.map_leaves(jnp.zeros_like, final), final)


def masked_agent_mean(x: Array, alive: Array, shared: Sharing) -> Array:
    """Computes the mean over the living samples, or with one model for each agent a sum of means.

    With one model for each agent it is the sum of each agent's own mean, so that no agent's
    gradient depends on how many others there are.

    Args:
        x: ``[T, B, N]``.
        alive: ``[T, B, N]`` bool.
        shared: whether all agents share one model; with groups it is the sum of the groups' means.

    Returns:
        A scalar.
    """
    if shared is True:
        return running_statistics.masked_mean(x, alive)
    if shared is False:
        return running_statistics.masked_mean(x, alive, (0, 1)).sum()
    means = [
        running_statistics.masked_mean(x[:, :, group], alive[:, :, group])
        for group in _members(shared)
    ]
    return jnp.stack(means).sum()


def _members(groups: tuple[int, ...]) -> list[Array]:
    """Returns the agents of every group."""
    return [
        jnp.array([agent for agent, other in enumerate(groups) if other == group])
        for group in range(max(groups) + 1)
    ]


def standardize_advantages(advantage: Array, alive: Array, shared: Sharing) -> Array:
    """Standardizes advantages to mean 0 and deviation 1, over all agents or each agent's alone.

    Args:
        advantage: ``[T, B, N]``, or with an axis of costs at the end.
        alive: ``[T, B, N]`` bool.
        shared: one mean and deviation for all, or (False) one for each agent (and cost), or one
            for each group.

    Returns:
        An array of the shape of ``advantage``.
    """
    if isinstance(shared, bool):
        return running_statistics.standardize(advantage, alive, None if shared else (0, 1))
    members = _members(shared)
    parts = [
        running_statistics.standardize(advantage[:, :, group], alive[:, :, group], (0, 1, 2))
        for group in members
    ]
    back = jnp.argsort(jnp.concatenate(members))
    return jnp.concatenate(parts, 2)[:, :, back]


class ObsNormalizer(NamedTuple):
    """Running statistics of observations and states, with which these are standardized.

    Attributes:
        agents_view: statistics of the agents' observations, ``[O]``.
        global_state: statistics of the states, ``[S]``.
    """

    agents_view: RunningStatistics
    global_state: RunningStatistics


def init_obs_normalizer(spec: EnvSpec, enabled: bool) -> ObsNormalizer | tuple[()]:
    """Returns the statistics of no observations, or () when observations are not standardized.

    Args:
        spec: the environment's sizes.
        enabled: whether observations are standardized.

    Returns:
        The `ObsNormalizer`, or ().
    """
    if not enabled:
        return ()
    return ObsNormalizer(
        running_statistics.init_running_statistics((spec.obs_size,)),
        running_statistics.init_running_statistics((spec.global_state_size,)),
    )


def normalize_obs(obs_normalizer: ObsNormalizer | tuple[()], obs: Observation) -> Observation:
    """Returns the observation that the networks see; standardized entries are kept within ±10.

    Args:
        obs_normalizer: the statistics, or () when observations are not standardized.
        obs: the environment's observation, any leading axes.

    Returns:
        The observation with standardized ``agents_view`` and ``global_state``, or ``obs``.
    """
    if not isinstance(obs_normalizer, ObsNormalizer):
        return obs
    agents_view = jnp.clip(
        running_statistics.normalize(obs_normalizer.agents_view, obs.agents_view), -10.0, 10.0
    )
    return obs._replace(
        agents_view=agents_view,
        global_state=jnp.clip(
            running_statistics.normalize(obs_normalizer.global_state, obs.global_state),
            -10.0,
            10.0,
        ),
    )


def normalize_transitions(
    obs_normalizer: ObsNormalizer | tuple[()], steps: Transition
) -> Transition:
    """Returns a rollout with the observations that the networks see.

    Args:
        obs_normalizer: the statistics, or () when observations are not standardized.
        steps: the rollout, any leading axes.

    Returns:
        The rollout with `normalize_obs` of its observations and of their successors.
    """
    return steps._replace(
        obs=normalize_obs(obs_normalizer, steps.obs),
        next_obs=normalize_obs(obs_normalizer, steps.next_obs),
    )


def update_obs_normalizer(
    obs_normalizer: ObsNormalizer | tuple[()], obs: Observation
) -> ObsNormalizer | tuple[()]:
    """Merges a batch of observations into the statistics, without those of agents out of play.

    Args:
        obs_normalizer: the statistics, or () when observations are not standardized.
        obs: the environment's observations, any leading axes.

    Returns:
        The new statistics, or ().
    """
    if not isinstance(obs_normalizer, ObsNormalizer):
        return obs_normalizer
    return ObsNormalizer(
        running_statistics.update_running_statistics(
            obs_normalizer.agents_view, obs.agents_view, obs.alive
        ),
        running_statistics.update_running_statistics(obs_normalizer.global_state, obs.global_state),
    )
