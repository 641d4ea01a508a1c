"""The adapter from JaxMARL's environments to the library's protocol, and videos of SMAX."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.base import (
    AdaptedEnvironment,
    cast_like,
    check_video,
    make_timestep,
    strong_dtypes,
)
from jaxmarl_lite.types import Array, Observation, PyTree, TimeStep

_ALLIES, _ENEMIES, _HEALTH = "#0072B2", "#D55E00", "#009E73"

_RGBA = tuple[float, float, float, float]


class JaxMARLState(NamedTuple):
    """The state of an episode between two steps.

    Attributes:
        inner: JaxMARL's own state.
        time: [] int, steps of the episode taken so far.
        key: typed key of the steps to come: JaxMARL draws random numbers in some of them.
    """

    inner: PyTree
    time: Array
    key: Array


@dataclasses.dataclass(frozen=True)
class AdapterSpec:
    """The adapter's description of one kind of JaxMARL environment.

    In the functions below the first argument is the JaxMARL environment, and the second its state.
    """

    return_description: str
    """The meaning of the return, in words."""
    global_state: Callable[[Any, PyTree, dict[str, Array]], Array]
    """``(env, state, observations) -> [S]``, the state for a central critic."""
    team_reward_only: bool
    """JaxMARL gives every agent one reward, that of the team."""
    action_mask: Callable[[Any, PyTree], Array] | None = None
    """Legal actions ``[N, A]`` bool, among the actions that the agents have at all."""
    alive: Callable[[Any, PyTree], Array] | None = None
    """Agents that still act, ``[N]`` bool; None: all of them, always."""
    is_terminal: Callable[[Any, PyTree], Array] | None = None
    """Whether the episode is truly over, [] bool; None: only the time limit ends it."""
    is_win: Callable[[Any, PyTree], Array] | None = None
    """Whether an episode that is over was won, [] bool."""
    win_condition: str = ""
    """The meaning of a win, in words."""
    action_names: Callable[[Any], tuple[str, ...]] | None = None
    """Words for the discrete actions of the agent that has most."""
    shaped_reward: Callable[[dict[str, Any]], Array] | None = None
    """A shaped reward ``[N]`` from JaxMARL's infos."""


class JaxMARLEnvironment(AdaptedEnvironment):
    """A JaxMARL environment as the library's ``Environment``; built by ``jaxmarl_lite.make``.

    Observations and actions of heterogeneous agents are padded with zeros; the action mask marks
    the actions that exist.

    Args:
        env: the JaxMARL environment.
        adapter_spec: the description of its kind.
        name: its name in ``spec``.
        reward: ``team`` or ``individual``; see the package's docstring.
        agent_id: append the agent's one-hot number to its observation.
        shaping: weight of the shaped reward, 0 or more.
    """

    def __init__(
        self,
        env: Any,
        adapter_spec: AdapterSpec,
        name: str,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
        shaping: float = 0.0,
    ):
        individual = not adapter_spec.team_reward_only
        super().__init__(env, name, len(env.agents), individual, reward, agent_id)
        self._adapter_spec, self._shaping = adapter_spec, shaping
        spaces = [env.action_spaces[agent] for agent in env.agents]
        self._discrete = hasattr(spaces[0], "n")
        self._action_sizes = [int(x.n if self._discrete else x.shape[0]) for x in spaces]
        sizes = np.array(self._action_sizes)
        self._action_exists = np.arange(sizes.max()) < sizes[:, None]  # [N, A]

    def _spec_fields(self) -> dict[str, Any]:
        adapter_spec, action_size = self._adapter_spec, max(self._action_sizes)
        if self._discrete:
            get_names = adapter_spec.action_names
            actions = dict(
                action_type="discrete", action_names=get_names(self._env) if get_names else ()
            )
        else:
            low, high = (0.0,) * action_size, (1.0,) * action_size
            actions = dict(action_type="continuous", action_low=low, action_high=high)
        return dict(
            max_episode_steps=int(self._env.max_steps),
            return_description=adapter_spec.return_description,
            win_condition=adapter_spec.win_condition,
            **actions,
        )

    def reset(self, key: Array) -> tuple[JaxMARLState, TimeStep]:
        """Begins an episode.

        Args:
            key: typed random key.

        Returns:
            The state and the first time step.
        """
        reset_key, next_key = jax.random.split(key)
        obs, inner = self._env.reset(reset_key)
        inner = strong_dtypes(inner)
        state = JaxMARLState(inner, jnp.zeros((), jnp.int32), next_key)
        return state, make_timestep(self._observe(inner, obs))

    def step(self, state: JaxMARLState, action: Array) -> tuple[JaxMARLState, TimeStep]:
        """Takes one joint action.

        Args:
            state: the state of the episode.
            action: ``[N]`` int when discrete, ``[N, A]`` float in [0, 1] when continuous; numbers
                outside are clipped.

        Returns:
            The next state and the time step, without costs (K = 0).
        """
        adapter_spec, env = self._adapter_spec, self._env
        step_key, next_key = jax.random.split(state.key)
        # `step_env` and not `step`, which would reset an episode that is over
        obs, inner, rewards, _, infos = env.step_env(
            step_key, state.inner, self._to_native_actions(action)
        )
        inner = cast_like(state.inner, inner)
        reward = jnp.stack([jnp.asarray(rewards[agent], float) for agent in env.agents])
        if self._reward == "team":
            reward = reward[0] if adapter_spec.team_reward_only else reward.sum()
        if adapter_spec.shaped_reward is not None and self._shaping:
            reward = reward + self._shaping * adapter_spec.shaped_reward(infos).sum()
        next_state = JaxMARLState(inner, state.time + 1, next_key)
        # JaxMARL's own flags are not used: they make a time limit look like an end
        return next_state, make_timestep(
            self._observe(inner, obs),
            reward,
            False if adapter_spec.is_terminal is None else adapter_spec.is_terminal(env, inner),
            next_state.time >= env.max_steps,
        )

    def is_win(self, state: JaxMARLState) -> Array:
        """Returns whether the episode that ended in a state was won.

        Args:
            state: the last state of an episode.

        Returns:
            [] bool.
        """
        assert self._adapter_spec.is_win is not None
        return self._adapter_spec.is_win(self._env, state.inner)

    def _to_native_actions(self, action: Array) -> dict[str, Array]:
        """Returns JaxMARL's actions by agent, without the padded dimensions."""
        if self._discrete:
            return dict(zip(self._env.agents, action.astype(jnp.int32), strict=True))
        clipped = jnp.clip(action, 0.0, 1.0)
        return {
            agent: clipped[i, : self._action_sizes[i]] for i, agent in enumerate(self._env.agents)
        }

    def _observe(self, inner: PyTree, obs: dict[str, Array]) -> Observation:
        adapter_spec, env = self._adapter_spec, self._env
        views = [jnp.asarray(obs[agent], float).reshape(-1) for agent in env.agents]
        obs_size = max(map(len, views))
        mask = jnp.asarray(self._action_exists)
        if adapter_spec.action_mask is not None and self._discrete:
            mask = mask & adapter_spec.action_mask(env, inner)
        return self._observation(
            jnp.stack([jnp.pad(view, (0, obs_size - len(view))) for view in views]),
            jnp.asarray(adapter_spec.global_state(env, inner, obs), float),
            mask,
            None if adapter_spec.alive is None else adapter_spec.alive(env, inner),
        )


class SMAXEnvironment(JaxMARLEnvironment):
    """A battle of SMAX; built by ``jaxmarl_lite.make``."""

    def animate(
        self,
        states: Sequence[JaxMARLState],
        path: str | Path,
        fps: int = 5,
        rewards: Array | np.ndarray | None = None,
    ) -> Path:
        """Writes a GIF of a list of states: units with their health, and who shoots at whom.

        Args:
            states: T states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second; the last frame stays for 1.5 seconds.
            rewards: ``[T - 1, N]`` numbers of the steps from each state to the next, such as
                intrinsic rewards, for rings around the allies, green where positive, pink where
                negative, with the agent's number. Like the shots they are those of the step that
                led to the state in the frame. Further rows are ignored.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, a path that is not ``.gif``, or too few rewards.
        """
        from PIL import Image

        path = check_video(states, path)
        if rewards is not None and len(rewards) < len(states) - 1:
            raise ValueError(
                f"animate: rewards are of {len(rewards)} steps, states of {len(states) - 1}"
            )
        window, rings = self._window(states), self._rings(rewards)
        frames = [
            Image.open(io.BytesIO(self._frame(state, step, window, rings))).convert("P")
            for step, state in enumerate(states)
        ]
        durations = [round(1000 / fps)] * (len(frames) - 1) + [1500]  # milliseconds
        frames[0].save(
            path, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )
        return path

    def _window(self, states: Sequence[JaxMARLState]) -> tuple[float, float, float]:
        """Returns left, bottom and width of the smallest square that shows every living unit.

        The square has a margin, and is the same for all states.
        """
        living_positions = [
            np.asarray(s.inner.state.unit_positions)[np.asarray(s.inner.state.unit_alive)]
            for s in states
        ]
        positions = np.concatenate(living_positions)
        low, high = (
            (positions.min(0), positions.max(0)) if len(positions) else (np.zeros(2), np.ones(2))
        )
        width = float((high - low).max()) + 4.0
        x_min, y_min = ((low + high - width) / 2).tolist()
        return x_min, y_min, width

    def _rings(self, rewards: Array | np.ndarray | None) -> list[list[tuple[_RGBA, str]]]:
        """Returns the colour and label of each ally in each step: its number and its reward."""
        if rewards is None:
            return []
        from matplotlib import colormaps

        rewards = np.asarray(rewards, float)
        # one scale for the video, symmetric about 0, which is the middle of the colour map
        scale = float(np.abs(rewards).max(initial=0.0)) or 1.0
        return [
            [
                (colormaps["PiYG"](0.5 + 0.5 * x / scale), f"{i}: {x:+.2g}")
                for i, x in enumerate(row)
            ]
            for row in rewards.tolist()
        ]

    def _frame(
        self,
        state: JaxMARLState,
        step: int,
        window: tuple[float, float, float],
        rings: list[list[tuple[_RGBA, str]]],
    ) -> bytes:
        """Returns one frame as a PNG file."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle

        env = self.unwrapped
        battle = jax.tree.map(np.asarray, state.inner.state)
        radii = np.asarray(env.unit_type_radiuses)[battle.unit_types]
        health = battle.unit_health / np.asarray(env.unit_type_health)[battle.unit_types]
        figure = Figure(figsize=(4.6, 4.6), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        x_min, y_min, width = window
        axes.set(
            xlim=(x_min, x_min + width),
            ylim=(y_min, y_min + width),
            xticks=[],
            yticks=[],
            aspect="equal",
        )
        axes.set_title(f"step {step}: {self._score(battle)}", fontsize=9, loc="left")
        for i, target in self._shots(battle):
            ends = battle.unit_positions[[i, target]].T
            axes.plot(*ends, color=self._colour(i), linewidth=1.0, alpha=0.7, zorder=1)
        for i in map(int, np.flatnonzero(battle.unit_alive)):
            (x, y), name = battle.unit_positions[i], env.unit_type_shorthands[battle.unit_types[i]]
            if i < env.num_allies and 0 < step <= len(rings):
                # the rewards of the step that led to this state
                color, label = rings[step - 1][i]
                axes.add_patch(Circle((x, y), 2.2 * radii[i], color=color, zorder=1.5))
                axes.text(x, y - 2.4 * radii[i], label, fontsize=7, ha="center", va="top", zorder=3)
            axes.add_patch(Circle((x, y), radii[i], color=self._colour(i), zorder=2))
            axes.text(x, y, name, color="white", fontsize=6, ha="center", va="center", zorder=3)
            bar = x - 0.6, x - 0.6 + 1.2 * health[i]
            axes.plot(bar, [y + radii[i] + 0.35] * 2, color=_HEALTH, linewidth=2, zorder=3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _colour(self, unit: int) -> str:
        return _ALLIES if unit < self.unwrapped.num_allies else _ENEMIES

    def _score(self, battle: PyTree) -> str:
        allies = self.unwrapped.num_allies
        return (
            f"{battle.unit_alive[:allies].sum()} allies, {battle.unit_alive[allies:].sum()} enemies"
        )

    def _shots(self, battle: PyTree) -> list[tuple[int, int]]:
        """Returns pairs (shooter, target) of the step that led to this state.

        A shooter is alive, and its target within its range.
        """
        env = self.unwrapped
        shots = []
        for i in np.flatnonzero(battle.unit_alive):
            aim = int(battle.prev_attack_actions[i]) - env.num_movement_actions
            if aim < 0:
                continue
            # enemies number their targets from the last ally backwards
            target = env.num_allies + aim if i < env.num_allies else env.num_allies - 1 - aim
            distance = np.linalg.norm(battle.unit_positions[i] - battle.unit_positions[target])
            if distance < float(env.unit_type_attack_ranges[battle.unit_types[i]]):
                shots.append((int(i), int(target)))
        return shots
