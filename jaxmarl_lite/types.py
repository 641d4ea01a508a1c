"""The records that every room of the library shares.

Letters in shape comments, everywhere in the library:

    T  time steps of a rollout          B  parallel worlds (copies of the environment)
    N  agents                           K  costs per agent (0 when nothing is constrained)
    O  entries of one agent's view      S  entries of the state that a central critic sees
    A  discrete actions, or dimensions of a continuous action

Everything an agent has is an array with an axis ``N``, never a dictionary of agents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jax import export

Array = jax.Array
PyTree = Any
Number = jax.Array | float
EnvState = TypeVar("EnvState")


class Observation(NamedTuple):
    """What the agents, and a central critic, see at one moment."""

    agents_view: Array  # [N, O] float: each agent's own observation
    global_state: Array  # [S] float: what a central critic may see
    action_mask: (
        Array  # [N, A] bool: legal actions; for continuous actions the dimensions that exist
    )
    alive: Array  # [N] bool: agents that act at all, by the environment's word


class TimeStep(NamedTuple):
    """What an environment answers to a joint action.

    ``discount`` 0 means that the episode is truly over; ``last`` with discount 1 means that a time
    limit cut it off, so that a critic still looks beyond it.
    """

    obs: Observation
    reward: Array  # [N] float
    cost: Array  # [N, K] float: [agent, constraint]
    discount: Array  # [] float, 0 or 1
    last: Array  # [] bool: this is the final time step of the episode


class Transition(NamedTuple):
    """One step of every world; a rollout stacks them to ``[T, B, ...]``."""

    obs: Observation
    action: Array  # [N] int or [N, A] float
    log_prob: Array  # [N]: log-probability of the action under the policy that took it, in nats
    reward: Array  # [N]
    cost: Array  # [N, K]
    discount: Array  # []
    last: Array  # []
    next_obs: Observation  # the true successor, before any reset


class EpisodeStats(NamedTuple):
    """Sums over the episodes that ended during a rollout (undiscounted)."""

    count: Array  # []
    returns: Array  # [N]
    costs: Array  # [N, K]
    lengths: Array  # []
    living_steps: Array  # [N] steps in which the agent was in play
    non_finite: Array | float = (
        0.0  # [] episodes that ended because the world's own numbers were no longer finite
    )
    wins: Array | float = 0.0  # [] episodes that ended in a win, by the environment's word


class Rollout(NamedTuple):
    """What an algorithm learns from."""

    transitions: Transition  # [T, B, ...]
    initial_hidden_state: (
        PyTree  # the policy's memory before the first step, [B, ...]; () when feed-forward
    )
    episode_stats: EpisodeStats
    env_faults: Array | int = (
        0  # [] int: which of the environment's numbers were wrong, see `rollout.env_faults`
    )
    first_episodes: EpisodeStats | None = None
    """Sums over the first episodes so far, ended or not, while `episode_stats` waits for the last
    of them to end."""


class RolloutState(NamedTuple):
    """What the worlds carry from one rollout to the next; every leaf leads with ``[B]``."""

    env_state: PyTree
    timestep: TimeStep
    hidden_state: PyTree  # the policy's memory; () when feed-forward
    reset_key: (
        Array  # [B] typed keys: the n-th episode of a world starts from fold_in(reset_key, n)
    )
    episode_index: Array  # [B] int: episodes begun so far
    episode_stats: EpisodeStats  # [B, ...] sums of the episode under way; `count` stays 0
    unreported: EpisodeStats  # sums over each environment's first episode, until every environment has finished it


class TrainState(NamedTuple):
    """All that a resumed run needs; saving it saves everything."""

    learner_state: PyTree  # parameters, optimizers, normalizers, hyperparameters
    rollout_state: RolloutState
    key: Array  # typed key
    num_updates: Array  # [] int: updates done so far


for _record in (Observation, TimeStep, Transition, EpisodeStats, Rollout, RolloutState, TrainState):
    # so that functions of these records, such as a policy, survive `jax.export`
    export.register_namedtuple_serialization(
        _record, serialized_name=f"jaxmarl_lite.{_record.__name__}"
    )


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """The sizes and meanings of an environment, known before anything is compiled."""

    name: str
    num_agents: int
    obs_size: int
    global_state_size: int
    action_type: Literal["discrete", "continuous"]
    action_size: int
    """Number of discrete actions, or of dimensions of a continuous action."""
    max_episode_steps: int
    """Most steps of an episode."""
    reward_type: Literal["team", "individual"] = "team"
    """``team``: every agent receives the same number; ``individual``: each its own."""
    return_description: str = "undiscounted team return per episode"
    """What the reported return is, in words, for tables and axes."""
    max_return: float | None = None
    """The highest return that can be reached, where it is known."""
    action_low: tuple[float, ...] | None = None
    """Lower bound of each continuous dimension; None, together with `action_high`, where actions
    are unbounded."""
    action_high: tuple[float, ...] | None = None
    cost_names: tuple[str, ...] = ()
    """A word for each cost, as ``--cost-limit`` takes it."""
    cost_descriptions: tuple[str, ...] = ()
    """What each cost counts, in words with its unit, for tables and axes; () or one per cost."""
    cost_limits: tuple[float | tuple[float, ...], ...] | None = None
    """The environment's own limit for each cost, one number or one per agent: expected undiscounted
    cost per episode. Runs are measured against them, and constrained algorithms keep them, unless
    they are given others."""

    can_diverge: bool = False
    """The world has a method ``is_non_finite(state)``, and rows count the episodes that it tells
    of."""

    action_names: tuple[str, ...] = ()
    """A word, or a few, for each discrete action, for pictures; ``()`` where they have none."""

    win_condition: str = ""
    """What winning an episode means, in words, where it can be won: the world then has a method
    ``is_win(state)``, and the share of won episodes is reported."""

    @property
    def num_costs(self) -> int:
        """K, the number of costs per agent."""
        return len(self.cost_names)

    def team_return(self, returns: Array) -> Array:
        """The reported return from per-agent returns ``[..., N]``: the team's, whichever the reward
        kind.
        """
        return returns.mean(-1) if self.reward_type == "team" else returns.sum(-1)


@runtime_checkable
class Environment(Protocol):
    """What a world must offer; any object with these three will do.

    ``step`` never resets: it answers the true last time step, and the rollout begins the next
    episode. Both functions are pure and may be transformed by ``jit`` and ``vmap``. A method
    ``animate(states, path)``, if there is one, writes a GIF of a list of states; with
    ``spec.can_diverge``, ``is_non_finite(state)`` tells whether the episode ended because the
    world's numbers were no longer finite; with ``spec.win_condition``, ``is_win(state)`` tells of
    an episode's last state whether it was won.
    """

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        ...

    def reset(self, key: Array) -> tuple[Any, TimeStep]:
        """Begin an episode; its reward and cost are zero, its discount one, its last False."""
        ...

    def step(self, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Take one joint action: ``[N]`` int when discrete, ``[N, A]`` float when continuous."""
        ...


class Algorithm(NamedTuple):
    """A learning algorithm as a record of pure functions.

    ``init(key, num_envs, config) -> learner``, the learner's state, which carries the config's
        floats, so that changing them, or ``vmap`` over them, compiles nothing anew;
    ``init_hidden_state(num_envs) -> hidden_state``, the policy's memory at the start of an episode;
    ``act(learner, key, obs, hidden_state, greedy=False) -> (action, log_prob, hidden_state)``, all
    with a leading
        ``B``; ``update(key, learner, batch) -> (learner, info)``; info is a dict of numbers one may
    look at; ``check_sizes(num_envs, num_steps)`` raises ValueError when these sizes cannot be
    trained on; ``spec``: the environment's sizes that it was made for, None when it fits any;
    ``first_learning_update(num_envs, num_steps)``: the number of the first update that can learn, 1
    but for a replay to
        fill.
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
