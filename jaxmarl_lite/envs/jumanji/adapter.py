"""The adapter from Jumanji's environments to the library's protocol, and GIFs without a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

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
from jaxmarl_lite.envs.jumanji.env_specs import ADAPTER_SPECS, NativeObs
from jaxmarl_lite.types import Array, Observation, PyTree, TimeStep


class JumanjiEnvironment(AdaptedEnvironment):
    """A Jumanji environment as the library's ``Environment``.

    The states are Jumanji's own. Time limits are truncations here (last, with discount 1), even
    where Jumanji calls them terminations. With 64-bit numbers Connector and MMST do not run:
    branches inside Jumanji then differ in dtype.

    Args:
        env: an instance of one of the classes in ``ADAPTER_SPECS``.
        name: its name in ``spec``; by default the class's name.
        reward: ``team``: every agent gets the team's reward (Jumanji's scalar, or the sum over its
            agents); ``individual``: each agent its own, where Jumanji gives one per agent.
        agent_id: append the agent's one-hot number to its observation (never to the state).

    Raises:
        ValueError: that names the argument, where the environment or the reward form is not
            available.
    """

    def __init__(
        self,
        env: Any,
        name: str | None = None,
        reward: Literal["team", "individual"] = "team",
        agent_id: bool = True,
    ):
        name = name or type(env).__name__
        specs = [spec for env_class, spec in ADAPTER_SPECS.items() if isinstance(env, env_class)]
        if not specs:
            allowed = ", ".join(env_class.__name__ for env_class in ADAPTER_SPECS)
            raise ValueError(
                f"env: {type(env).__name__} is not one of Jumanji's multi-agent environments; "
                f"allowed: {allowed}"
            )
        self._adapter_spec = specs[0]
        complaint = self._adapter_spec.validate(env)
        if complaint:
            raise ValueError(f"{name}: {complaint}")
        num_agents = self._adapter_spec.num_agents(env)
        super().__init__(env, name, num_agents, self._adapter_spec.individual, reward, agent_id)
        self._bounds = self._adapter_spec.bounds(env)

    def _spec_fields(self) -> dict[str, Any]:
        fields = dict(
            action_type="discrete" if self._bounds is None else "continuous",
            max_episode_steps=self._adapter_spec.limit(self._env),
            return_description=self._adapter_spec.return_description(self._env),
            max_return=self._adapter_spec.max_return(self._env),
            action_names=self._adapter_spec.action_names,
        )
        if self._bounds is not None:
            low, high = (tuple(map(float, bound)) for bound in self._bounds)
            fields |= dict(action_low=low, action_high=high)
        return fields

    def reset(self, key: Array) -> tuple[PyTree, TimeStep]:
        """Begins an episode.

        Args:
            key: typed random key.

        Returns:
            Jumanji's state and the first time step.
        """
        state, native_timestep = self._env.reset(key)
        state = strong_dtypes(state)
        return state, make_timestep(self._observe(state, native_timestep.observation))

    def step(self, state: PyTree, action: Array) -> tuple[PyTree, TimeStep]:
        """Takes one joint action.

        Args:
            state: Jumanji's state.
            action: ``[N]`` int when discrete, ``[N, A]`` float inside the bounds when continuous.

        Returns:
            Jumanji's next state and the time step, without costs (K = 0).
        """
        if self._bounds is None:
            action = action.astype(int)
        next_state, native_timestep = self._env.step(state, action)
        next_state = cast_like(state, next_state)
        reward = jnp.asarray(native_timestep.reward, float)
        # not Jumanji's own discount: several of its environments set that to 0 at a time limit
        return next_state, make_timestep(
            self._observe(next_state, native_timestep.observation),
            reward.sum() if self._reward == "team" else reward,
            self._adapter_spec.is_terminal(self._env, state, action, next_state),
            native_timestep.last(),
        )

    def _observe(self, state: PyTree, native_obs: NativeObs) -> Observation:
        adapter_spec, arguments = self._adapter_spec, (self._env, state, native_obs)
        view = adapter_spec.agents_view(*arguments)
        return self._observation(
            view,
            view.reshape(-1)
            if adapter_spec.global_state is None
            else adapter_spec.global_state(*arguments),
            adapter_spec.action_mask(*arguments),
            adapter_spec.alive(*arguments),
        )

    def animate(
        self,
        states: Sequence[PyTree],
        path: str | Path,
        fps: int = 5,
        circles: Sequence[tuple[float, ...]] = (),
    ) -> Path:
        """Writes a GIF of a list of states with Jumanji's own viewer, without opening a window.

        Args:
            states: Jumanji's states of one environment (one of the B copies), in order.
            path: the file to write, ending in ``.gif``.
            fps: frames per second.
            circles: regions ``(x, y, radius)`` to mark, in the axes of Jumanji's viewer.

        Returns:
            The path.

        Raises:
            ValueError: for an empty list, or a path that is not ``.gif``.
        """
        path = check_video(states, path)
        limits = self._adapter_spec.video_limits
        with _agg_backend():
            from matplotlib.animation import PillowWriter
            from matplotlib.patches import Circle

            host_states = [_to_host(state) for state in states]
            if len(host_states) == 1:  # MMST's viewer draws pairs, and would draw nothing
                host_states *= 2
            video = self._env.animate(host_states, interval=round(1000 / fps))
            if limits is not None:
                for axes in video._fig.axes:
                    axes.set(xlim=limits, ylim=limits)
            for x, y, radius in circles:
                video._fig.axes[0].add_patch(
                    Circle((x, y), radius, facecolor="#D55E00", alpha=0.2, zorder=0)
                )
            video.save(str(path), writer=PillowWriter(fps=fps), dpi=50)
        return path


@contextmanager
def _agg_backend() -> Iterator[ModuleType]:
    """Draws with Agg, and restores matplotlib's backend, interactive mode and open figures."""
    import matplotlib
    import matplotlib.pyplot as plt

    backend, interactive = matplotlib.get_backend(), plt.isinteractive()
    open_figures = set(plt.get_fignums())
    plt.switch_backend("agg")
    try:
        yield plt
    finally:
        for number in set(plt.get_fignums()) - open_figures:
            plt.close(number)
        plt.switch_backend(backend)
        (plt.ion if interactive else plt.ioff)()


def _to_host(state: PyTree) -> PyTree:
    """Returns arrays as numpy, and typed keys unchanged.

    A viewer reads cell by cell, which is slow on JAX's arrays.
    """
    return jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x), state
    )
