"""The records and protocols that all modules of the library share.

Letters in shapes, everywhere in the library:

    T  time steps of a rollout          B  parallel environments (copies of one environment)
    N  agents                           K  costs per agent (0 when nothing is constrained)
    O  entries of an observation        S  entries of the state that a central critic sees
    A  discrete actions, or dimensions of a continuous action

Everything an agent has is an array with an axis ``N``, never a dictionary of agents. Shapes below
are those of one environment at one time step unless a leading ``T``, ``B`` or ``E`` (episodes) is
written; ``[]`` is a scalar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jax import export

Array = jax.Array
PyTree = Any
"""Nested tuples, dicts and records whose leaves are arrays."""
Number = jax.Array | float
"""A scalar, traced or not."""
EnvState = TypeVar("EnvState")


class Observation(NamedTuple):
    """The inputs of the policies and of a central critic at one time step.

    Attributes:
        agents_view: ``[N, O]`` float, the observation of each agent.
        global_state: ``[S]`` float, the state that a central critic may see.
        action_mask: ``[N, A]`` bool, the legal actions; for continuous actions the dimensions
            that exist.
        alive: ``[N]`` bool, the agents that act at all, as the environment defines it.
    """

    agents_view: Array
    global_state: Array
    action_mask: Array
    alive: Array


class TimeStep(NamedTuple):
    """The answer of an environment to a joint action.

    ``discount`` 0 means that the episode is truly over; ``last`` with discount 1 means that a time
    limit cut it off, so that a critic still looks beyond it.

    Attributes:
        obs: Observation after the action, `Observation`.
        reward: ``[N]`` float, reward of each agent.
        cost: ``[N, K]`` float, by agent and constraint.
        discount: ``[]`` float, 0 or 1.
        last: ``[]`` bool, whether this is the final time step of the episode.
    """

    obs: Observation
    reward: Array
    cost: Array
    discount: Array
    last: Array


class Transition(NamedTuple):
    """One step of every environment; a rollout stacks them to ``[T, B, ...]``.

    Attributes:
        obs: Observation that the action was chosen from.
        action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.
        log_prob: ``[N]``, log-probability of the action under the policy that took it, in nats.
        reward: ``[N]``, reward of each agent.
        cost: ``[N, K]``, by agent and constraint.
        discount: ``[]``, 0 where the episode is truly over, else 1.
        last: ``[]`` bool, whether the step ends the episode.
        next_obs: The true successor of ``obs``, before any reset.
    """

    obs: Observation
    action: Array
    log_prob: Array
    reward: Array
    cost: Array
    discount: Array
    last: Array
    next_obs: Observation


class EpisodeStats(NamedTuple):
    """Undiscounted sums over the episodes that ended during a rollout.

    Attributes:
        count: ``[]``, number of episodes.
        returns: ``[N]``, sum of rewards.
        costs: ``[N, K]``, sum of costs.
        lengths: ``[]``, sum of time steps.
        living_steps: ``[N]``, steps in which the agent was in play.
        non_finite: ``[]``, episodes that ended because the numbers of the environment itself were
            no longer finite.
        wins: ``[]``, episodes that ended in a win, as the environment defines it.
        squared_costs: ``[N, K]``, sum over the episodes of the square of an episode's cost.
    """

    count: Array
    returns: Array
    costs: Array
    lengths: Array
    living_steps: Array
    non_finite: Array | float = 0.0
    wins: Array | float = 0.0
    squared_costs: Array | float = 0.0


class Rollout(NamedTuple):
    """The batch that an algorithm learns from.

    Attributes:
        transitions: ``[T, B, ...]``, a `Transition` for each step and environment.
        initial_hidden_state: ``[B, ...]``, hidden state of the policy before the first step; ``()``
            for a feed-forward policy.
        episode_stats: Sums over the episodes that ended.
        env_faults: ``[]`` int, which numbers of the environment were wrong, see
            `rollout.env_faults`.
        first_episodes: Sums over the first episodes so far, ended or not, while ``episode_stats``
            waits for the last of them to end.
    """

    transitions: Transition
    initial_hidden_state: PyTree
    episode_stats: EpisodeStats
    env_faults: Array | int = 0
    first_episodes: EpisodeStats | None = None


class RolloutState(NamedTuple):
    """The state of the environments between two rollouts; leaves lead with ``[B]``.

    Attributes:
        env_state: ``[B, ...]``, states of the environments.
        timestep: ``[B, ...]``, their latest `TimeStep`.
        hidden_state: ``[B, ...]``, hidden state of the policy; ``()`` for a feed-forward policy.
        reset_key: ``[B]`` typed keys; the n-th episode of an environment starts from
            ``fold_in(reset_key, n)``.
        episode_index: ``[B]`` int, episodes begun so far.
        episode_stats: ``[B, ...]``, sums of the running episode; ``count`` stays 0.
        unreported: Sums over the first episode of each environment, held back until every
            environment has finished it; the only leaves without ``[B]``.
    """

    env_state: PyTree
    timestep: TimeStep
    hidden_state: PyTree
    reset_key: Array
    episode_index: Array
    episode_stats: EpisodeStats
    unreported: EpisodeStats


class TrainState(NamedTuple):
    """The complete state of a training run: saving it saves all that a resumed run needs.

    Attributes:
        learner_state: Parameters, optimizers, normalizers and hyperparameters of the algorithm.
        rollout_state: State of the environments, `RolloutState`.
        key: A typed random key.
        num_updates: ``[]`` int, updates done so far.
    """

    learner_state: PyTree
    rollout_state: RolloutState
    key: Array
    num_updates: Array


for _record in (Observation, TimeStep, Transition, EpisodeStats, Rollout, RolloutState, TrainState):
    # so that functions of these records, such as a policy, survive `jax.export`
    export.register_namedtuple_serialization(
        _record, serialized_name=f"jaxmarl_lite.{_record.__name__}"
    )


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """The sizes and meanings of an environment, known before anything is compiled.

    Attributes:
        name: Name of the environment.
        num_agents: N, number of agents.
        obs_size: O, entries of the observation of one agent.
        global_state_size: S, entries of the state that a central critic sees.
        action_type: Whether actions are ``discrete`` or ``continuous``.
        action_size: A, number of discrete actions, or of dimensions of a continuous action.
        max_episode_steps: Most steps of an episode.
        reward_type: ``team``: every agent receives the same number; ``individual``: every agent
            receives its own.
        return_description: Meaning of the reported return, in words, for tables and axes.
        max_return: The highest return that can be reached, where it is known.
        action_low: Lower bound of each continuous dimension, length A; None, together with
            ``action_high``, where actions are unbounded.
        action_high: Upper bound of each continuous dimension, length A.
        cost_names: A word for each of the K costs, as ``--cost-limit`` takes it.
        cost_descriptions: The quantity that each cost counts, in words with its unit, for tables
            and axes; ``()`` or one per cost.
        cost_limits: The limit of the environment itself for each cost, one number or one per
            agent: expected undiscounted cost per episode. Runs are measured against these limits,
            and constrained algorithms keep them, unless other limits are set.
        can_diverge: Whether the environment has a method ``is_non_finite(state)``; rows then count
            the episodes for which it returns True.
        action_names: A word, or a few, for each discrete action, for figures; ``()`` where the
            actions have no names.
        win_condition: The meaning of winning an episode, in words, where it can be won: the
            environment then has a method ``is_win(state)``, and the share of won episodes is
            reported.
    """

    name: str
    num_agents: int
    obs_size: int
    global_state_size: int
    action_type: Literal["discrete", "continuous"]
    action_size: int
    max_episode_steps: int
    reward_type: Literal["team", "individual"] = "team"
    return_description: str = "undiscounted team return per episode"
    max_return: float | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    cost_names: tuple[str, ...] = ()
    cost_descriptions: tuple[str, ...] = ()
    cost_limits: tuple[float | tuple[float, ...], ...] | None = None
    can_diverge: bool = False
    action_names: tuple[str, ...] = ()
    win_condition: str = ""

    @property
    def num_costs(self) -> int:
        """K, the number of costs per agent."""
        return len(self.cost_names)

    def team_return(self, returns: Array) -> Array:
        """Computes the reported return of the team, whichever the reward type.

        It is the mean over the agents when all of them receive the team's reward, and the sum when
        every agent receives its own.

        Args:
            returns: ``[..., N]``, return of each agent.

        Returns:
            ``[...]``, return of the team.
        """
        return returns.mean(-1) if self.reward_type == "team" else returns.sum(-1)


@runtime_checkable
class Environment(Protocol):
    """The interface of an environment; any object with these three members will do.

    ``step`` never resets: it returns the true last time step, and the rollout begins the next
    episode. Both functions are pure and may be transformed by ``jit`` and ``vmap``.

    Optional methods:

    - ``animate(states, path)`` writes a GIF of a list of states.
    - ``is_non_finite(state)``, with ``spec.can_diverge``: whether the episode ended because the
      numbers of the environment were no longer finite.
    - ``is_win(state)``, with ``spec.win_condition``: whether an episode with this last state was
      won.
    """

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        ...

    def reset(self, key: Array) -> tuple[PyTree, TimeStep]:
        """Begins an episode.

        Args:
            key: A random key.

        Returns:
            The state, and a time step whose reward and cost are zero, discount one and last False.
        """
        ...

    def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """Takes one joint action.

        Args:
            state: The state that ``reset`` or the previous ``step`` returned.
            action: ``[N]`` int when discrete, ``[N, A]`` float when continuous.

        Returns:
            The next state and its time step.
        """
        ...


class Algorithm(NamedTuple):
    """A learning algorithm as a record of pure functions.

    Attributes:
        name: Name of the algorithm.
        config: Config that the algorithm was made with.
        init: ``init(key, num_envs, config) -> learner``, the state of the learner. It carries the
            floats of the config, so that changing them, or ``vmap`` over them, compiles nothing
            anew.
        init_hidden_state: ``init_hidden_state(num_envs) -> hidden_state``, the hidden state of the
            policy at the start of an episode, with a leading ``B``.
        act: ``act(learner, key, obs, hidden_state, greedy=False) -> (action, log_prob,
            hidden_state)``, all with a leading ``B``.
        update: ``update(key, learner, batch) -> (learner, info)``, where ``info`` is a dict of
            numbers to look at.
        check_sizes: ``check_sizes(num_envs, num_steps)`` raises ValueError when the algorithm
            cannot train on these sizes.
        spec: Sizes of the environment that the algorithm was made for; None when it fits any.
        first_learning_update: ``first_learning_update(num_envs, num_steps)``, the number of the
            first update that can learn: 1, except where a replay has to fill.
        intrinsic_reward: ``intrinsic_reward(learner, obs, action) -> [T, N]``, the reward that the
            algorithm has learned for each agent in the steps of one episode, from ``obs``
            ``[T, ...]`` and ``action`` ``[T, N]`` or ``[T, N, A]``; None where it learns none.
    """

    name: str
    config: Any
    init: Callable[..., PyTree]
    init_hidden_state: Callable[[int], PyTree]
    act: Callable[..., tuple[Array, Array, PyTree]]
    update: Callable[[Array, PyTree, Rollout], tuple[PyTree, dict[str, Array]]]
    check_sizes: Callable[[int, int], None]
    spec: EnvSpec | None = None
    first_learning_update: Callable[[int, int], int] = lambda num_envs, num_steps: 1
    intrinsic_reward: Callable[[PyTree, Observation, Array], Array] | None = None
