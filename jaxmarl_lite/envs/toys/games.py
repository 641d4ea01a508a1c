"""Games without costs, whose best return is known.

A matrix game, a memory task, a counter with both kinds of end; a pursuit on a line; a relay of two
agents, one whose choice shows in the reward at once, one whose choice shows long after; and
heterogeneous agents: continuous reaching, and different numbers of actions.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.base import make_timestep
from jaxmarl_lite.envs.errors import at_least, one_of
from jaxmarl_lite.envs.toys.base import Toy, full_observation, numbered_view, two_sizes
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep
from jaxmarl_lite.validation import check_bool, check_number, check_table


@dataclasses.dataclass(frozen=True)
class MatrixGame(Toy):
    """Matrix game of one step: the team receives ``payoff[a0][a1]``.

    The best return is the largest entry of the table. The observation is constant, so softmax
    policies p0 and p1 have the expected return ``p0 @ payoff @ p1`` exactly, and every derivative
    of it, LIIR's meta-gradient among them, can be written down.

    Attributes:
        payoff: Table with a row per action of agent 0 and a column per action of agent 1, as many
            rows as columns.
        agent_id: Whether to append the one-hot agent number to the observation, so that agents with
            shared weights can differ.
        name: Name of the environment.
    """

    payoff: tuple[tuple[float, ...], ...]
    agent_id: bool = False
    name: str = "toy/matrix"

    def __post_init__(self):
        self._check_fields(payoff=check_table, agent_id=check_bool)
        if len(self.payoff[0]) != len(self.payoff):
            raise ValueError(
                f"{self.name}: payoff must have as many columns in every row as rows, not "
                f"{self.payoff}"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        best = max(max(row) for row in self.payoff)
        sizes = (2, 3 if self.agent_id else 1, 1, "discrete", len(self.payoff), 1)
        return EnvSpec(self.name, *sizes, "team", "payoff of the game", best)

    def _observe(self, state: Array) -> Observation:
        """Returns the constant observation."""
        view = numbered_view(2) if self.agent_id else jnp.ones((2, 1), float)
        return full_observation(view, jnp.ones(1, float), len(self.payoff))

    def step(self, state: Array, action: Array) -> tuple[Array, TimeStep]:
        """Plays once.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        reward = jnp.asarray(self.payoff, float)[action[0], action[1]]
        return state + 1, make_timestep(self._observe(state), reward, terminated=True)


class MemoryState(NamedTuple):
    """State of `Memory`.

    Attributes:
        cue: Cue of each agent, ``[2]`` int.
        time: Number of steps taken, [] int.
    """

    cue: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Memory(Toy):
    """Memory task: each agent sees a cue at first only, and names it after ``delay`` steps.

    The team receives the share of agents that are right, at the last step; the best return is 1.
    Without memory the expected return is at most ``1 / cues``. The observation is the one-hot cue
    (zeros later), and 1 when it is time to answer.

    Attributes:
        cues: Number of cues, and of actions, at least 2.
        delay: Number of steps before the answer, at least 1.
        name: Name of the environment.
    """

    cues: int = 2
    delay: int = 3
    name: str = "toy/memory"

    def __post_init__(self):
        self._check_fields(cues=at_least(2), delay=at_least(1))

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        sizes = (2, self.cues + 1, 2 * self.cues + 1, "discrete", self.cues, self.delay + 1)
        return EnvSpec(self.name, *sizes, "team", "share of agents that recall their cue", 1.0)

    def _observe(self, state: MemoryState) -> Observation:
        """Returns the observation: the cue is visible at time 0 only."""
        cue = jax.nn.one_hot(state.cue, self.cues, dtype=float)
        visible_cue = jnp.where(state.time == 0, cue, 0.0)
        is_answer_time = jnp.full((2, 1), state.time == self.delay).astype(float)
        global_state = jnp.append(cue.reshape(-1), state.time / self.delay)
        view = jnp.concatenate([visible_cue, is_answer_time], -1)
        return full_observation(view, global_state, self.cues)

    def _first_state(self, key: Array) -> MemoryState:
        """Draws fresh cues."""
        cue = jax.random.randint(key, (2,), 0, self.cues, jnp.int32)
        return MemoryState(cue, jnp.zeros((), jnp.int32))

    def step(self, state: MemoryState, action: Array) -> tuple[MemoryState, TimeStep]:
        """Waits, or at the last step answers.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int; only the last one counts.

        Returns:
            ``(state, timestep)`` after the step.
        """
        terminated = state.time == self.delay
        reward = jnp.where(terminated, (action == state.cue).astype(float).mean(), 0.0)
        state = state._replace(time=state.time + 1)
        return state, make_timestep(self._observe(state), reward, terminated)


class CounterState(NamedTuple):
    """State of `Counter`.

    Attributes:
        count: Number of steps at which both agents chose 1, [] int.
        time: Number of steps taken, [] int.
    """

    count: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Counter(Toy):
    """Counter that rises when both agents choose 1.

    Reaching the goal truly ends the episode, and the time limit cuts it off. The team receives 1 on
    reaching the goal, so the best return is 1. When both happen at the same step, the episode is
    truly over. Observation and state are the count over the goal.

    Attributes:
        goal: Count that ends the episode, from 1 to ``limit``.
        limit: Most steps of an episode.
        name: Name of the environment.
    """

    goal: int = 3
    limit: int = 6
    name: str = "toy/counter"

    def __post_init__(self):
        self._check_fields(goal=at_least(1), limit=at_least(1))
        if self.goal > self.limit:
            raise ValueError(
                f"{self.name}: goal must be between 1 and limit={self.limit}, not {self.goal}"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        return EnvSpec(
            self.name, 2, 1, 1, "discrete", 2, self.limit, "team", "1 when the goal is reached", 1.0
        )

    def _observe(self, state: CounterState) -> Observation:
        """Returns the observation: the count over the goal."""
        share = state.count / self.goal
        view = jnp.broadcast_to(share, (2, 1))
        return full_observation(view, share[None], 2)

    def _first_state(self, key: Array) -> CounterState:
        """Returns a count of 0; nothing is drawn."""
        return CounterState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def step(self, state: CounterState, action: Array) -> tuple[CounterState, TimeStep]:
        """Counts, or waits.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int; both 1 to count.

        Returns:
            ``(state, timestep)`` after the step.
        """
        state = CounterState(state.count + (action == 1).all().astype(jnp.int32), state.time + 1)
        terminated = state.count >= self.goal
        return state, make_timestep(
            self._observe(state),
            terminated.astype(float),
            terminated,
            last=state.time >= self.limit,
        )


class PursuitState(NamedTuple):
    """State of `Pursuit`.

    Attributes:
        offset: Target's position less each agent's, ``[N]`` int.
        time: Number of steps taken, [] int.
    """

    offset: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Pursuit(Toy):
    """All agents must come to a target that stands still; LIIR's first study (Du et al. 2019).

    The actions are -1, 0 and +1 along a line. The team receives ``approach_reward`` for a step in
    which all agents approach the target, or wait on it, and minus ``approach_reward`` for every
    other, and ``catch_reward`` when all are on the target, which ends the episode; a time limit
    cuts it off. An agent's own action shows in the reward only through the actions of the others.
    The paper describes the game of two in words; the numbers are ours. The observation is the
    agent's own offset of the target over ``reach``.

    Attributes:
        agents: N, the number of agents.
        reach: Largest distance, at which an agent cannot go on; agents start at 1 to ``reach``, on
            either side.
        limit: Most steps of an episode, at least ``reach``.
        approach_reward: Reward of a step, as above.
        catch_reward: Reward of the catch, as above.
        name: Name of the environment.
    """

    agents: int = 2
    reach: int = 5
    limit: int = 20
    approach_reward: float = 0.01
    catch_reward: float = 1.0
    name: str = "toy/pursuit"

    def __post_init__(self):
        self._check_fields(agents=at_least(1), reach=at_least(1), limit=at_least(1))
        self._check_fields(approach_reward=check_number, catch_reward=check_number)
        if self.limit < self.reach:
            raise ValueError(
                f"{self.name}: limit is {self.limit}; allowed is reach, {self.reach}, or more"
            )

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        # the mean of the largest of N distances: the sum over d of P(it is at least d)
        longest = sum(1.0 - ((d - 1) / self.reach) ** self.agents for d in range(1, self.reach + 1))
        catch_meaning = f"{self.catch_reward:g} when the target is caught"
        meaning = (
            f"{catch_meaning}; {self.approach_reward:g} for a step of all towards it, else minus"
        )
        best_return = self.catch_reward + self.approach_reward * longest
        sizes = (self.agents, 1, self.agents, "discrete", 3, self.limit)
        return EnvSpec(
            self.name, *sizes, "team", meaning, best_return, action_names=("left", "stay", "right")
        )

    def _observe(self, state: PursuitState) -> Observation:
        """Returns the observation: offsets over ``reach``."""
        share = state.offset / self.reach
        return full_observation(share[:, None].astype(float), share.astype(float), 3)

    def _first_state(self, key: Array) -> PursuitState:
        """Draws the offsets; all agents are away from the target."""
        distance_key, side_key = jax.random.split(key)
        distance = jax.random.randint(distance_key, (self.agents,), 1, self.reach + 1, jnp.int32)
        is_ahead = jax.random.bernoulli(side_key, shape=(self.agents,))
        return PursuitState(jnp.where(is_ahead, distance, -distance), jnp.zeros((), jnp.int32))

    def step(self, state: PursuitState, action: Array) -> tuple[PursuitState, TimeStep]:
        """Moves each agent by ``action - 1``.

        Args:
            state: State before the step.
            action: Actions ``[N]`` int, 0 to 2.

        Returns:
            ``(state, timestep)`` after the step.
        """
        offset = jnp.clip(state.offset - (action - 1), -self.reach, self.reach)
        is_closer = (jnp.abs(offset) < jnp.abs(state.offset)) | (
            (offset == 0) & (state.offset == 0)
        )
        terminated = (offset == 0).all()
        reward = (
            jnp.where(is_closer.all(), self.approach_reward, -self.approach_reward)
            + self.catch_reward * terminated
        )
        state = PursuitState(offset, state.time + 1)
        return state, make_timestep(
            self._observe(state), reward, terminated, last=state.time >= self.limit
        )


class RelayState(NamedTuple):
    """State of `Relay`.

    Attributes:
        target: Right action of each agent, ``[2]`` int.
        is_correct: Whether the first agent chose it, [] bool.
        time: Number of steps taken, [] int.
        key: Typed key of later draws.
    """

    target: Array
    is_correct: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class Relay(Toy):
    """The first agent chooses once and is paid at the end; the second is paid at every step.

    At the first step the first agent sees its right action; the team receives ``delayed_reward``
    for it at the last step. Then it has action 0 left, and is out of play. The second agent sees a
    new right action at every step, and the team receives ``immediate_reward`` for each that it
    chooses. After ``steps`` steps the episode is truly over. The observation is the one-hot right
    action, and 1 for the second agent.

    Attributes:
        choices: Number of actions, at least 2.
        steps: Steps of an episode, at least 2.
        delayed_reward: Reward for the first agent's choice.
        immediate_reward: Reward for each choice of the second agent.
        name: Name of the environment.
    """

    choices: int = 4
    steps: int = 16
    delayed_reward: float = 1.0
    immediate_reward: float = 0.25
    name: str = "toy/relay"

    def __post_init__(self):
        self._check_fields(choices=at_least(2), steps=at_least(2))
        self._check_fields(delayed_reward=check_number, immediate_reward=check_number)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        best_return = self.delayed_reward + self.immediate_reward * self.steps
        meaning = (
            f"{self.immediate_reward:g} for each right action, and {self.delayed_reward:g} for "
            "the first choice"
        )
        sizes = (2, self.choices + 1, 2 * self.choices + 2, "discrete", self.choices, self.steps)
        return EnvSpec(self.name, *sizes, "team", meaning, best_return)

    def _observe(self, state: RelayState) -> Observation:
        """Returns the observation; the first agent sees its right action at time 0 only."""
        alive = jnp.stack([state.time == 0, jnp.ones((), bool)])
        target = jax.nn.one_hot(state.target, self.choices, dtype=float) * alive[:, None]
        view = jnp.concatenate([target, jnp.array([[0.0], [1.0]], target.dtype)], -1)
        global_state = jnp.append(
            target.reshape(-1), jnp.stack([state.is_correct.astype(float), state.time / self.steps])
        )
        mask = jnp.where(alive[:, None], True, jnp.arange(self.choices)[None] == 0)
        return Observation(view, global_state, mask, alive)

    def _draw(self, key: Array, is_correct: Array, time: Array) -> RelayState:
        """Returns a state with newly drawn correct actions."""
        key, draw_key = jax.random.split(key)
        return RelayState(
            jax.random.randint(draw_key, (2,), 0, self.choices, jnp.int32), is_correct, time, key
        )

    def _first_state(self, key: Array) -> RelayState:
        """Draws fresh right actions."""
        return self._draw(key, jnp.zeros((), bool), jnp.zeros((), jnp.int32))

    def step(self, state: RelayState, action: Array) -> tuple[RelayState, TimeStep]:
        """Compares the choices with the right actions, and draws new ones.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        is_met = action == state.target
        is_correct = jnp.where(state.time == 0, is_met[0], state.is_correct)
        time = state.time + 1
        terminated = time >= self.steps
        reward = self.immediate_reward * is_met[1] + self.delayed_reward * (terminated & is_correct)
        state = self._draw(state.key, is_correct, time)
        return state, make_timestep(self._observe(state), reward, terminated)


class ReachState(NamedTuple):
    """State of `Reach`, with D the dimensions.

    Attributes:
        position: Positions ``[2, D]``.
        target: Targets ``[2, D]``.
        time: Number of steps taken, [] int.
    """

    position: Array
    target: Array
    time: Array


@dataclasses.dataclass(frozen=True)
class Reach(Toy):
    """Each agent moves to its own target by continuous actions; best return 0.

    Actions are between -1 and 1, ``position += action / 2`` from 0, and targets are within 1/2 in
    every dimension, so that the action ``2 (target - position)`` is allowed and arrives at once. An
    agent's own reward is minus its squared distance over the number of agents; the team's is the
    sum. A time limit of ``steps`` cuts the episode off. The observation is target less position.

    Attributes:
        dims: Number of dimensions of each agent; the smaller ones are padded, and their padded
            action dimensions do nothing.
        steps: Steps of an episode.
        reward: "team" or "individual".
        name: Name of the environment.
    """

    dims: tuple[int, int] = (2, 2)
    steps: int = 4
    reward: Literal["team", "individual"] = "team"
    name: str = "toy/reach"

    def __post_init__(self):
        reward = one_of("team", "individual")
        self._check_fields(reward=reward, dims=two_sizes, steps=at_least(1))

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        max_dims = max(self.dims)
        sizes = (2, max_dims, 2 * max_dims, "continuous", max_dims, self.steps)
        meaning = "minus the squared distances to the targets, mean over agents, summed over steps"
        return EnvSpec(
            self.name, *sizes, self.reward, meaning, 0.0, (-1.0,) * max_dims, (1.0,) * max_dims
        )

    def _mask(self) -> np.ndarray:
        """Returns the dimensions that exist, ``[2, D]`` bool."""
        return np.arange(max(self.dims)) < np.array(self.dims)[:, None]

    def _observe(self, state: ReachState) -> Observation:
        """Returns the observation: target less position."""
        offset = state.target - state.position
        return Observation(offset, offset.reshape(-1), jnp.asarray(self._mask()), jnp.ones(2, bool))

    def _first_state(self, key: Array) -> ReachState:
        """Draws fresh targets; the agents begin at 0."""
        mask = self._mask()
        target = jax.random.uniform(key, mask.shape, float, -0.5, 0.5) * mask
        return ReachState(jnp.zeros_like(target), target, jnp.zeros((), jnp.int32))

    def step(self, state: ReachState, action: Array) -> tuple[ReachState, TimeStep]:
        """Moves the agents.

        Args:
            state: State before the step.
            action: Actions ``[2, D]`` float between -1 and 1.

        Returns:
            ``(state, timestep)`` after the step.
        """
        position = state.position + 0.5 * action.astype(float) * self._mask()
        state = ReachState(position, state.target, state.time + 1)
        agent_reward = -jnp.square(position - state.target).sum(-1) / 2
        reward = agent_reward if self.reward == "individual" else agent_reward.sum()
        return state, make_timestep(self._observe(state), reward, last=state.time >= self.steps)


class HeterogeneousState(NamedTuple):
    """State of `HeterogeneousActions`.

    Attributes:
        target: Right action of each agent, ``[2]`` int.
        time: Number of steps taken, [] int.
        key: Typed key of later draws.
    """

    target: Array
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class HeterogeneousActions(Toy):
    """Agents with different numbers of actions, and different lives, name what they see.

    The team receives, per step, the number of living agents that are right over the sum of all
    lives, so the best return is 1. Actions beyond an agent's own number are illegal, and wrong. A
    dead agent sees zeros and has action 0 left. The episode is truly over after the longest life.
    The observation is the one-hot right action.

    Attributes:
        sizes: Number of actions of each agent.
        lifetimes: Number of steps that each agent acts.
        name: Name of the environment.
    """

    sizes: tuple[int, int] = (2, 4)
    lifetimes: tuple[int, int] = (4, 4)
    name: str = "toy/heterogeneous"

    def __post_init__(self):
        self._check_fields(sizes=two_sizes, lifetimes=two_sizes)

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        max_actions = max(self.sizes)
        sizes = (2, max_actions, 2 * max_actions, "discrete", max_actions, max(self.lifetimes))
        return EnvSpec(self.name, *sizes, "team", "share of right choices", 1.0)

    def _alive(self, time: Array) -> Array:
        """Returns the agents that act at a time, ``[2]`` bool."""
        return time < jnp.asarray(self.lifetimes)

    def _observe(self, state: HeterogeneousState) -> Observation:
        """Returns the observation; a dead agent sees zeros."""
        alive = self._alive(state.time)
        actions = jnp.arange(max(self.sizes))
        view = jax.nn.one_hot(state.target, actions.size, dtype=float) * alive[:, None]
        is_legal = actions[None] < jnp.asarray(self.sizes)[:, None]
        return Observation(
            view, view.reshape(-1), jnp.where(alive[:, None], is_legal, actions[None] == 0), alive
        )

    def _draw(self, key: Array, time: Array) -> HeterogeneousState:
        """Returns a state with newly drawn correct actions."""
        key, draw_key = jax.random.split(key)
        return HeterogeneousState(
            jax.random.randint(draw_key, (2,), 0, jnp.asarray(self.sizes), jnp.int32), time, key
        )

    def _first_state(self, key: Array) -> HeterogeneousState:
        """Draws fresh right actions."""
        return self._draw(key, jnp.zeros((), jnp.int32))

    def step(self, state: HeterogeneousState, action: Array) -> tuple[HeterogeneousState, TimeStep]:
        """Compares the choices with the right actions, and draws new ones.

        Args:
            state: State before the step.
            action: Actions ``[2]`` int.

        Returns:
            ``(state, timestep)`` after the step.
        """
        is_right = (action == state.target) & self._alive(state.time)
        state = self._draw(state.key, state.time + 1)
        terminated = state.time >= max(self.lifetimes)
        return state, make_timestep(
            self._observe(state), is_right.astype(float).sum() / sum(self.lifetimes), terminated
        )
