"""What the robots must keep away from: the walls of a corridor, a bomb that moves along, a moving
box.

Pure functions of places and times; the physics knows nothing of them. In the authors' models the
walls and the bomb are bodies as well, so light that a robot pushes them away; here robots pass
through, and only the cost remains.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp

from jaxmarl_lite.types import Array

SLOPE = math.tan(math.radians(30.0))
"""Of the corridor's parts that lie across, in metres of y per metre of x."""
_LAST = 20.0 * SLOPE
WALL_NEAR = 1.8
"""Distance to a wall, along y, below which it costs (m)."""
BOMB_START = 10.0
"""Where the cheetah's bomb starts (m)."""
BOMB_NEAR, BOX_NEAR = 9.0, 1.0
"""Distances along x below which the cheetah's bomb and the hopper's box cost (m)."""
_GEAR, _MASS, _DAMPING = (
    120.0,
    0.1 + 2.392e-4,
    0.2,
)  # N per unit of drive; armature and box, kg; N s/m


def centre_line(x: Array, level: bool = False) -> Array:
    """Y of the corridor's middle (m): out at 30 degrees to x = 20, back to 60, out to 100, then
    straight on.

    ``level``: up to x = 0 it runs along x, so that a long robot, which lies there at first, lies
    within it.
    """
    far = jnp.where(x < 100, (x - 80) * SLOPE, _LAST)
    near = jnp.maximum(x, 0.0) if level else x
    return jnp.where(x < 20, near * SLOPE, jnp.where(x < 60, (40 - x) * SLOPE, far))


def wall_distance(x: Array, y: Array, half_width: float, level: bool = False) -> Array:
    """Distance to the nearer wall along y (m), as the authors measure it; 0.866 of it is the
    perpendicular one.

    The walls stand at ``centre_line(x, level) ± half_width``.
    """
    off = y - centre_line(x, level)
    return jnp.minimum(jnp.abs(off - half_width), jnp.abs(off + half_width))


def wall_cost(
    x: Array, y: Array, half_width: float, outside: bool = False, level: bool = False
) -> Array:
    """1 where a wall is nearer than `WALL_NEAR`, else 0; ``outside``: also beyond a wall, where the
    authors' ends.
    """
    near = wall_distance(x, y, half_width, level) < WALL_NEAR
    if outside:
        near |= jnp.abs(y - centre_line(x, level)) > half_width
    return near.astype(float)


class Bomb(NamedTuple):
    """A box on a rail, which a slow push drives on and on: 3.6 m/s on average."""

    x: Array  # m
    v: Array  # m/s


def bomb_drive(time: Array) -> Array:
    """``0.02 sin²(t/3) - 0.004``, the signal of its motor at a time (s)."""
    return 0.02 * jnp.sin(time / 3.0) ** 2 - 0.004


def bomb_after(bomb: Bomb, drive: Array, timestep: float, steps: int) -> Bomb:
    """The bomb after some steps of the physics under one drive: ``m v' = 120 u - 0.2 v``, as
    MuJoCo's Euler step.

    That is implicit in the damping, ``v <- v + h (F - d v)/(m + h d)``, and then ``x <- x + h v``;
    the closed form of the steps.
    """
    keep = _MASS / (_MASS + timestep * _DAMPING)
    rest = _GEAR * drive / _DAMPING
    decay = keep**steps
    v = rest + (bomb.v - rest) * decay
    moved = rest * steps + (bomb.v - rest) * keep * (1.0 - decay) / (1.0 - keep)
    return Bomb(bomb.x + timestep * moved, v)


def box_place(time: Array) -> Array:
    """X of the box before the hopper (m) at a time (s): ``t + sin t + 3``."""
    return time + jnp.sin(time) + 3.0


def near(x: Array, other: Array, distance: float) -> Array:
    """1 where ``|x - other|`` is below a distance, else 0."""
    return (jnp.abs(x - other) < distance).astype(float)
