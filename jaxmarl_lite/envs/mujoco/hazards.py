"""Hazards that the robots must avoid: the walls of a corridor, a moving bomb, a moving box.

Pure functions of positions and times; the physics knows nothing of them. In the published models
the walls and the bomb are bodies as well, so light that a robot pushes them away; here robots pass
through, and only the cost remains.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.types import Array

SLOPE = math.tan(math.radians(30.0))
"""Slope of the corridor's parts that lie across, in metres of y per metre of x."""
_LAST_Y = 20.0 * SLOPE
"""Y of the corridor's last, straight part (m)."""
WALL_NEAR = 1.8
"""Distance to a wall, along y, below which it costs (m)."""
BOMB_START = 10.0
"""X at which the cheetah's bomb starts (m)."""
BOMB_NEAR, BOX_NEAR = 9.0, 1.0
"""Distances along x below which the cheetah's bomb and the hopper's box cost (m)."""
_GEAR = 120.0
"""Force of the bomb's motor (N per unit of drive)."""
_MASS = 0.1 + 2.392e-4
"""Armature and box of the bomb (kg)."""
_DAMPING = 0.2
"""Damping of the bomb's rail (N s/m)."""


def centre_line(x: Array, level: bool = False) -> Array:
    """Returns y of the corridor's middle (m).

    It runs out at 30 degrees to x = 20, back to 60, out to 100, then straight on.

    Args:
        x: Position along the corridor (m), any shape.
        level: Whether the corridor runs along x up to x = 0, so that a long robot, which lies there
            at first, lies within it.

    Returns:
        The y of each ``x`` (m).
    """
    far_y = jnp.where(x < 100, (x - 80) * SLOPE, _LAST_Y)
    start_x = jnp.maximum(x, 0.0) if level else x
    return jnp.where(x < 20, start_x * SLOPE, jnp.where(x < 60, (40 - x) * SLOPE, far_y))


def wall_distance(x: Array, y: Array, half_width: float, level: bool = False) -> Array:
    """Returns the distance to the nearer wall along y.

    The reference implementation measures it so; the perpendicular distance is 0.866 of it. The
    walls stand at ``centre_line(x, level) ± half_width``.

    Args:
        x: Position along the corridor (m), any shape.
        y: Position across it (m), likewise.
        half_width: Distance from the middle to a wall, along y (m).
        level: See `centre_line`.

    Returns:
        The distances (m), not negative.
    """
    offset = y - centre_line(x, level)
    return jnp.minimum(jnp.abs(offset - half_width), jnp.abs(offset + half_width))


def wall_cost(
    x: Array, y: Array, half_width: float, outside: bool = False, level: bool = False
) -> Array:
    """Returns 1 where a wall is nearer than `WALL_NEAR`, else 0.

    Args:
        x: Position along the corridor (m), any shape.
        y: Position across it (m), likewise.
        half_width: Distance from the middle to a wall, along y (m).
        outside: Whether positions beyond a wall cost too; the reference implementation's cost ends
            there.
        level: See `centre_line`.

    Returns:
        The costs, 0.0 or 1.0.
    """
    costs = wall_distance(x, y, half_width, level) < WALL_NEAR
    if outside:
        costs |= jnp.abs(y - centre_line(x, level)) > half_width
    return costs.astype(float)


class Bomb(NamedTuple):
    """Box on a rail, which a slow push drives on and on: 3.6 m/s on average.

    Attributes:
        x: Position (m), [] float.
        v: Velocity (m/s), [] float.
    """

    x: Array
    v: Array


def bomb_drive(time: Array) -> Array:
    """Returns the signal of the bomb's motor: ``0.02 sin²(t/3) - 0.004``.

    Args:
        time: Time since the episode began (s).

    Returns:
        The signal, dimensionless.
    """
    return 0.02 * jnp.sin(time / 3.0) ** 2 - 0.004


def bomb_after(bomb: Bomb, drive: Array, timestep: float, steps: int) -> Bomb:
    """Returns the bomb after some steps of the physics under one drive.

    The equation is ``m v' = 120 u - 0.2 v``, in MuJoCo's Euler step. That is implicit in the
    damping, ``v <- v + h (F - d v)/(m + h d)``, and then ``x <- x + h v``; this is the closed form
    of the steps.

    Args:
        bomb: Bomb before the steps.
        drive: Signal u of its motor, from `bomb_drive`.
        timestep: Length h of a step of the physics (s).
        steps: Number of steps.

    Returns:
        The bomb after the steps.
    """
    step_decay = _MASS / (_MASS + timestep * _DAMPING)
    final_speed = _GEAR * drive / _DAMPING
    total_decay = step_decay**steps
    v = final_speed + (bomb.v - final_speed) * total_decay
    distance = final_speed * steps + (bomb.v - final_speed) * step_decay * (1.0 - total_decay) / (
        1.0 - step_decay
    )
    return Bomb(bomb.x + timestep * distance, v)


def box_place(time: Array) -> Array:
    """Returns x of the box before the hopper: ``t + sin t + 3``.

    Args:
        time: Time since the episode began (s).

    Returns:
        The position (m).
    """
    return time + jnp.sin(time) + 3.0


def is_near(x: Array, hazard_x: Array, distance: float) -> Array:
    """Returns 1 where a hazard is nearer than a distance along x, else 0.

    Args:
        x: Positions (m), any shape.
        hazard_x: Position of the hazard (m), likewise.
        distance: Distance below which it is 1 (m).

    Returns:
        0.0 or 1.0 for each position.
    """
    return (jnp.abs(x - hazard_x) < distance).astype(float)
