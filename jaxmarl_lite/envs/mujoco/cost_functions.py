"""Costs of the tasks, as functions of a robot's state, and the observations of their hazards."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.mujoco import hazards
from jaxmarl_lite.types import Array, PyTree


class CostInputs(Protocol):
    """Features of a robot after a step, from which a cost is computed."""

    @property
    def roots(self) -> Array:
        """[R, 2] x and y of the first body, or of each of two robots (m)."""
        ...

    @property
    def parts(self) -> Array:
        """[M, 2] x and y of the parts that may cost: the roots, or every body (m)."""
        ...

    @property
    def speed(self) -> Array:
        """[2] velocity of the first body over the step (m/s)."""
        ...

    @property
    def time(self) -> Array:
        """[] time since the episode began (s)."""
        ...

    @property
    def hazard(self) -> PyTree:
        """State of the hazard."""
        ...


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
        return f"steps nearer than {hazards.WALL_NEAR:g} m to a wall, along y{fall}"

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """
        x, y = inputs.parts[:, 0], inputs.parts[:, 1]
        costs = hazards.wall_cost(x, y, self.half_width, self.outside, self.level)
        return jnp.maximum(costs, has_fallen.astype(float)) if self.falls else costs

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the distance covered (5 m), and the offset from the corridor's middle (m).

        Args:
            inputs: Features of the robot.

        Returns:
            ``[2]``.
        """
        x, y = inputs.roots[0]
        return jnp.stack([x / 5.0, y - hazards.centre_line(x, self.level)])


@dataclasses.dataclass(frozen=True)
class BombCost(CostFunction):
    """Cost of a bomb on a rail."""

    name: ClassVar[str] = "bomb"
    distance: float = hazards.BOMB_NEAR
    """Distance along x below which a step costs (m)."""
    start: float = hazards.BOMB_START
    """First position of the bomb, plus up to 0.1 to either side (m)."""
    furthest: float = float("inf")
    """End of the rail (m)."""

    @property
    def description(self) -> str:
        """Meaning of the cost, with its unit."""
        return f"steps nearer than {self.distance:g} m to the bomb"

    def init(self, key: Array) -> hazards.Bomb:
        """Draws the bomb's state at the start of an episode.

        Args:
            key: Typed key.

        Returns:
            The bomb.
        """
        position_key, speed_key = jax.random.split(key)
        x = self.start + jax.random.uniform(position_key, (), minval=-0.1, maxval=0.1)
        return hazards.Bomb(x, 0.1 * jax.random.normal(speed_key, ()))

    def step(self, hazard: hazards.Bomb, time: Array, timestep: float, steps: int) -> hazards.Bomb:
        """Returns the bomb after some steps of the physics; it stops at the rail's end.

        Args:
            hazard: State before the steps.
            time: Time since the episode began (s).
            timestep: Length of a step of the physics (s).
            steps: Number of steps.

        Returns:
            The bomb after the steps.
        """
        bomb = hazards.bomb_after(hazard, hazards.bomb_drive(time), timestep, steps)
        stopped = bomb.x > self.furthest
        return hazards.Bomb(
            jnp.where(stopped, self.furthest, bomb.x), jnp.where(stopped, 0.0, bomb.v)
        )

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """
        return hazards.is_near(inputs.parts[:, 0], inputs.hazard.x, self.distance)

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the bomb's speed, its drive, and its distance ahead of each robot.

        Args:
            inputs: Features of the robot.

        Returns:
            ``[2 + R]``: speed (m/s), drive, and distances (10 m), clipped to [-5, 5].
        """
        ahead = jnp.clip((inputs.hazard.x - inputs.roots[:, 0]) / 10.0, -5.0, 5.0)
        return jnp.concatenate(
            [inputs.hazard.v[None], hazards.bomb_drive(inputs.time)[None], ahead]
        )


@dataclasses.dataclass(frozen=True)
class BoxCost(CostFunction):
    """Cost of a box that moves on before the hopper."""

    name: ClassVar[str] = "box"
    distance: float = hazards.BOX_NEAR
    """Distance along x below which a step costs (m)."""

    @property
    def description(self) -> str:
        """Meaning of the cost, with its unit."""
        return f"steps nearer than {self.distance:g} m to the box"

    def cost(self, inputs: CostInputs, has_fallen: Array) -> Array:
        """Computes the cost of a step, by part.

        Args:
            inputs: Features of the robot after the step.
            has_fallen: Whether the robot fell at this step, [] bool.

        Returns:
            Costs ``[M]``, 0 or 1.
        """
        return hazards.is_near(inputs.parts[:, 0], hazards.box_place(inputs.time), self.distance)

    def extra_obs(self, inputs: CostInputs) -> Array:
        """Returns the box's speed, acceleration, and distance ahead.

        Args:
            inputs: Features of the robot.

        Returns:
            ``[3]``: speed (m/s), acceleration (m/s²) and distance (m).
        """
        t = inputs.time
        return jnp.stack([1.0 + jnp.cos(t), -jnp.sin(t), hazards.box_place(t) - inputs.roots[0, 0]])


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
