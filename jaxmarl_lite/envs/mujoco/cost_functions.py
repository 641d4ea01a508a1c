"""Costs of the tasks, and the hazards that the robots must avoid, with their observations.

The hazards are the walls of a corridor, a moving bomb, a moving box: pure functions of positions
and times; the physics knows nothing of them. In the published models the walls and the bomb are
bodies as well, so light that a robot pushes them away; here robots pass through, and only the cost
remains.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxmarl_lite.types import Array, PyTree

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
    """A box on a rail that a slow push drives at 3.6 m/s on average.

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


class CostInputs(NamedTuple):
    """Features of a robot after a step, from which a cost is computed.

    Attributes:
        roots: [R, 2] x and y of the first body, or of each of two robots (m).
        parts: [M, 2] x and y of the parts that may cost: the roots, or every body (m).
        speed: [2] velocity of the first body over the step (m/s).
        time: [] time since the episode began (s).
        hazard: State of the hazard.
    """

    roots: Array
    parts: Array
    speed: Array
    time: Array
    hazard: PyTree


@dataclasses.dataclass(frozen=True)
class CostFunction(abc.ABC):
    """Cost per step, 0 or 1, of every agent.

    Where the hazard moves it has a state of its own.
    """

    name: ClassVar[str]
    """Name of the cost."""
    limit: float
    """Expected cost per episode that is allowed by default."""
    per_agent: ClassVar[bool] = False
    """Whether an agent can be nearer to the hazard than another, by the bodies its joints move."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """Meaning of the cost, with its unit."""

    def init(self, key: Array) -> PyTree:
        """Returns the hazard's state at the start of an episode.

        Args:
            key: Typed key.

        Returns:
            The state; () where there is none.
        """
        return ()

    def step(self, hazard: PyTree, time: Array, timestep: float, steps: int) -> PyTree:
        """Returns the hazard's state after some steps of the physics.

        Args:
            hazard: State before the steps.
            time: Time since the episode began (s).
            timestep: Length of a step of the physics (s).
            steps: Number of steps.

        Returns:
            The state after the steps.
        """
        return hazard

    @abc.abstractmethod
    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the observation of the hazard, beside the robot's own state.

        Args:
            inputs: Features of the robot.

        Returns:
            Entries appended to the observation, possibly none.
        """
        return jnp.zeros((0,))


@dataclasses.dataclass(frozen=True)
class CorridorCost(CostFunction):
    """Cost of walls that fold at 30 degrees; falling costs as well where a robot can fall.

    It is never more than 1 per step.
    """

    name: ClassVar[str] = "wall"
    half_width: float
    """Distance from the middle to a wall, along y (m)."""
    outside: bool = False
    """Whether positions beyond a wall cost, too."""
    falls: bool = True
    """Whether the step at which the robot falls costs."""
    level: bool = False
    """Whether the corridor runs along x behind the start, as the robot lies: published, its slope
    goes on there."""
    per_agent: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """Meaning of the cost, with its unit."""
        fall = ", or at which it fell" if self.falls else ""
        return f"steps nearer than {WALL_NEAR:g} m to a wall, along y{fall}"

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """
        x, y = inputs.parts[:, 0], inputs.parts[:, 1]
        costs = wall_cost(x, y, self.half_width, self.outside, self.level)
        return jnp.maximum(costs, has_fallen.astype(float)) if self.falls else costs

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the distance covered (5 m), and the offset from the corridor's middle (m).

        Args:
            inputs: Features of the robot.

        Returns:
            ``[2]``.
        """
        x, y = inputs.roots[0]
        return jnp.stack([x / 5.0, y - centre_line(x, self.level)])


@dataclasses.dataclass(frozen=True)
class MovingHazardCost(CostFunction):
    """Cost of a bomb or a box that moves before the robot."""

    distance: float
    """Distance along x below which a step costs (m)."""

    @property
    def description(self) -> str:
        """Meaning of the cost, with its unit."""
        return f"steps nearer than {self.distance:g} m to the {self.name}"

    @abc.abstractmethod
    def hazard_x(self, hazard: PyTree, time: Array) -> Array:
        """Returns the hazard's position along x.

        Args:
            hazard: State of the hazard.
            time: Time since the episode began (s).

        Returns:
            The position (m), [] float.
        """

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """
        hazard_x = self.hazard_x(inputs.hazard, inputs.time)
        return is_near(inputs.parts[:, 0], hazard_x, self.distance)


@dataclasses.dataclass(frozen=True)
class BombCost(MovingHazardCost):
    """Cost of a bomb on a rail."""

    name: ClassVar[str] = "bomb"
    distance: float = BOMB_NEAR
    """Distance along x below which a step costs (m)."""
    start: float = BOMB_START
    """First position of the bomb, plus up to 0.1 to either side (m)."""
    furthest: float = float("inf")
    """End of the rail (m)."""

    def init(self, key: Array) -> Bomb:
        """Draws the bomb's state at the start of an episode.

        Args:
            key: Typed key.

        Returns:
            The bomb.
        """
        position_key, speed_key = jax.random.split(key)
        x = self.start + jax.random.uniform(position_key, (), minval=-0.1, maxval=0.1)
        return Bomb(x, 0.1 * jax.random.normal(speed_key, ()))

    def step(self, hazard: Bomb, time: Array, timestep: float, steps: int) -> Bomb:
        """Returns the bomb after some steps of the physics; it stops at the rail's end.

        Args:
            hazard: State before the steps.
            time: Time since the episode began (s).
            timestep: Length of a step of the physics (s).
            steps: Number of steps.

        Returns:
            The bomb after the steps.
        """
        bomb = bomb_after(hazard, bomb_drive(time), timestep, steps)
        stopped = bomb.x > self.furthest
        return Bomb(jnp.where(stopped, self.furthest, bomb.x), jnp.where(stopped, 0.0, bomb.v))

    def hazard_x(self, hazard: Bomb, time: Array) -> Array:
        """Returns the hazard's position along x.

        Args:
            hazard: State of the hazard.
            time: Time since the episode began (s).

        Returns:
            The position (m), [] float.
        """
        return hazard.x

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the bomb's speed, its drive, and its distance ahead of each robot.

        Args:
            inputs: Features of the robot.

        Returns:
            ``[2 + R]``: speed (m/s), drive, and distances (10 m), clipped to [-5, 5].
        """
        ahead = jnp.clip((inputs.hazard.x - inputs.roots[:, 0]) / 10.0, -5.0, 5.0)
        return jnp.concatenate([inputs.hazard.v[None], bomb_drive(inputs.time)[None], ahead])


@dataclasses.dataclass(frozen=True)
class BoxCost(MovingHazardCost):
    """Cost of a box that moves on before the hopper."""

    name: ClassVar[str] = "box"
    distance: float = BOX_NEAR
    """Distance along x below which a step costs (m)."""

    def hazard_x(self, hazard: PyTree, time: Array) -> Array:
        """Returns the hazard's position along x.

        Args:
            hazard: State of the hazard.
            time: Time since the episode began (s).

        Returns:
            The position (m), [] float.
        """
        return box_place(time)

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the box's speed, acceleration, and distance ahead.

        Args:
            inputs: Features of the robot.

        Returns:
            ``[3]``: speed (m/s), acceleration (m/s²) and distance (m).
        """
        t = inputs.time
        return jnp.stack([1.0 + jnp.cos(t), -jnp.sin(t), box_place(t) - inputs.roots[0, 0]])


@dataclasses.dataclass(frozen=True)
class VelocityCost(CostFunction):
    """Cost of too high a speed, as in Safety-Gymnasium's velocity tasks."""

    name: ClassVar[str] = "speed"
    threshold: float
    """Speed above which a step costs (m/s)."""
    plane: bool
    """Whether the speed in the plane counts, or that along x alone."""

    @property
    def description(self) -> str:
        """Meaning of the cost, with its unit."""
        return f"steps faster than {self.threshold:g} m/s"

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Cost ``[1]``, 0 or 1, of the whole robot.
        """
        speed = jnp.sqrt(jnp.square(inputs.speed).sum()) if self.plane else inputs.speed[0]
        return (speed > self.threshold).astype(float)[None]
