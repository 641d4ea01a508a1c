"""The robots' tasks but for their costs: reward, end of an episode, first states, and what is
observed.

Rewards and ends are those of Gu et al. 2021's environments, which are Gymnasium's. Reward terms per
step, with a the actions in [-1, 1], u the motors' signals, f the external forces on all bodies, and
x' the speed over the step:

    ant, manyagent-ant    x' - 0.5 Σ a² - 5e-4 Σ clip(f, -1, 1)² + 1     ends: height outside [0.2, 1], or toppled
    halfcheetah           x' - 0.1 Σ a²                                   never ends
    hopper, walker2d      x' - 1e-3 Σ a² + 1                              ends: height, angle or speeds out of range
    humanoid              1.25 x' - 0.1 Σ u² - min(5e-7 Σ f², 10) + 5     ends: height outside [1, 2]
    swimmers              x' - 1e-4 Σ a²                                  never ends
    coupled-halfcheetah   the mean of the two cheetahs'                   never ends

``x'`` is of the first body; for the humanoid of the centre of mass; each of the two cheetahs has
its own. Positions are those at the step's end, where MuJoCo's ``xpos``, which the authors' programs
read, is a physics step older.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array


def _always(qpos: Array, qvel: Array) -> Array:
    return jnp.ones((), bool)


def _ant_stands(qpos: Array, qvel: Array) -> Array:
    upright = 1.0 - 2.0 * (qpos[4] ** 2 + qpos[5] ** 2)
    return (qpos[2] >= 0.2) & (qpos[2] <= 1.0) & (upright >= -0.7)


def _hopper_stands(qpos: Array, qvel: Array) -> Array:
    # the published hopper reads the box's joints here, by which every episode ends at its first
    # step
    calm = (jnp.abs(qpos[2:]) < 100).all() & (jnp.abs(qvel) < 100).all()
    return calm & (qpos[1] > 0.7) & (jnp.abs(qpos[2]) < 0.2)


def _walker_stands(qpos: Array, qvel: Array) -> Array:
    return (qpos[1] > 0.8) & (qpos[1] < 2.0) & (jnp.abs(qpos[2]) < 1.0)


def _humanoid_stands(qpos: Array, qvel: Array) -> Array:
    return (qpos[2] >= 1.0) & (qpos[2] <= 2.0)


@dataclasses.dataclass(frozen=True)
class Robot:
    """What a robot is rewarded for, when it is at its end, and how it begins."""

    reward: Callable[[Array, Array, Array, Array], Array]
    """``(speeds [M], a [U], u [U], forces [bodies, 6])`` to a number."""
    is_healthy: Callable[[Array, Array], Array] = _always
    """``(qpos, qvel)`` to a bool: the episode goes on."""
    reset_noise_qpos: float = 0.1
    """First positions: the model's, and up to this to either side."""
    reset_noise_qvel: float = 0.1
    """First velocities: normal with this deviation, or up to this to either side."""
    normal_speeds: bool = True
    roots: tuple[int, ...] = (0,)
    """Entries of qpos whose speeds are rewarded."""
    use_com_velocity: bool = False
    """The speed is the centre of mass's instead."""
    excluded_qpos: tuple[int, ...] = (0, 1)
    """Entries of qpos that are not observed: how far the robot has come."""
    max_obs_velocity: float = float("inf")
    """Observed velocities are cut to this."""
    forces: bool = False
    """The reward needs the external forces."""

    def begin(self, key: Array, start: Array, num_speeds: int) -> tuple[Array, Array]:
        """First positions and velocities of an episode."""
        places, speeds = jax.random.split(key)
        qpos = start + jax.random.uniform(
            places, start.shape, start.dtype, -self.reset_noise_qpos, self.reset_noise_qpos
        )
        if self.normal_speeds:
            return qpos, self.reset_noise_qvel * jax.random.normal(
                speeds, (num_speeds,), start.dtype
            )
        return qpos, self.reset_noise_qvel * jax.random.uniform(
            speeds, (num_speeds,), start.dtype, -1.0, 1.0
        )


def _ant_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    contact = jnp.square(jnp.clip(forces, -1.0, 1.0)).sum()
    return speed[0] - 0.5 * jnp.square(action).sum() - 5e-4 * contact + 1.0


def _cheetah_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    return speed.mean() - 0.1 * jnp.square(action).sum() / speed.shape[0]


def _hopper_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    return speed[0] - 1e-3 * jnp.square(action).sum() + 1.0


def _humanoid_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    impact = jnp.minimum(5e-7 * jnp.square(forces).sum(), 10.0)
    return 1.25 * speed[0] - 0.1 * jnp.square(signal).sum() - impact + 5.0


def _swimmer_reward(speed: Array, action: Array, signal: Array, forces: Array) -> Array:
    return speed[0] - 1e-4 * jnp.square(action).sum()


_ANT = Robot(_ant_reward, _ant_stands, forces=True)
_SWIMMER = Robot(_swimmer_reward, normal_speeds=False)
_HOPPER = Robot(
    _hopper_reward, _hopper_stands, 0.005, 0.005, False, excluded_qpos=(0,), max_obs_velocity=10.0
)
ROBOTS: dict[str, Robot] = {
    "ant": _ANT,
    "manyagent-ant": _ANT,
    "halfcheetah": Robot(_cheetah_reward, excluded_qpos=(0,)),
    "hopper": _HOPPER,
    "walker2d": dataclasses.replace(_HOPPER, is_healthy=_walker_stands),
    "humanoid": Robot(
        _humanoid_reward, _humanoid_stands, 0.01, 0.01, False, use_com_velocity=True, forces=True
    ),
    "swimmer": _SWIMMER,
    "manyagent-swimmer": _SWIMMER,
    "coupled-halfcheetah": Robot(_cheetah_reward, roots=(0, 9), excluded_qpos=(0, 9)),
}
