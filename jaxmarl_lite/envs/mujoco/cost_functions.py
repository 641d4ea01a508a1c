"""Costs of the tasks, as functions of a robot's state: what counts, for whom, and what of it can be
seen.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from jaxmarl_lite.envs.mujoco import hazards
from jaxmarl_lite.types import Array


class CostInputs(Protocol):
    """What a danger knows of a robot after a step."""

    @property
    def roots(self) -> Array:
        """[R, 2] x and y of the first body, or of each of two robots (m)."""
        ...

    @property
    def parts(self) -> Array:
        """[M, 2] x and y of what may cost: the roots, or every body (m)."""
        ...

    @property
    def speed(self) -> Array:
        """[2] velocity of the first body over the step (m/s)."""
        ...

    @property
    def time(self) -> Array:
        """[] seconds."""
        ...

    @property
    def hazard(self) -> Any:
        """The danger's own state."""
        ...


@dataclasses.dataclass(frozen=True)
class CostFunction(abc.ABC):
    """One cost per step, 0 or 1, of every agent; a state of its own, where it moves."""

    name: ClassVar[str]
    """The cost's name."""
    limit: float
    """Expected cost per episode that is allowed by default."""
    per_agent: ClassVar[bool] = False
    """An agent can be nearer to it than another, by the bodies that its joints move."""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """What is counted, with its unit."""

    def init(self, key: Array) -> Any:
        """Its state at the start of an episode."""
        return ()

    def step(self, hazard: Any, time: Array, timestep: float, steps: int) -> Any:
        """Its state after some steps of the physics, from a time on (s)."""
        return hazard

    @abc.abstractmethod
    def cost(self, seen: CostInputs, fell: Array) -> Array:
        """What the step cost, by part: ``[M]``."""

    def extra_obs(self, seen: CostInputs) -> Array:
        """What is seen of it beside the robot's own state."""
        return jnp.zeros((0,))


@dataclasses.dataclass(frozen=True)
class CorridorCost(CostFunction):
    """Walls that fold at 30 degrees; falling costs as well where a robot can fall. Never more than
    1 per step.
    """

    name: ClassVar[str] = "wall"
    half_width: float
    """From the middle to a wall, along y (m)."""
    outside: bool = False
    """Beyond a wall costs, too."""
    falls: bool = True
    """The step at which the robot falls costs."""
    level: bool = False
    """Behind the start it runs along x, as the robot lies: published, its slope goes on there."""
    per_agent: ClassVar[bool] = True

    @property
    def description(self) -> str:
        """What is counted, with its unit."""
        fell = ", or at which it fell" if self.falls else ""
        return f"steps nearer than {hazards.WALL_NEAR:g} m to a wall, along y{fell}"

    def cost(self, seen: CostInputs, fell: Array) -> Array:
        """What the step cost, by part: ``[M]``."""
        x, y = seen.parts[:, 0], seen.parts[:, 1]
        near = hazards.wall_cost(x, y, self.half_width, self.outside, self.level)
        return jnp.maximum(near, fell.astype(float)) if self.falls else near

    def extra_obs(self, seen: CostInputs) -> Array:
        """How far it has come (5 m), and how far it is from the middle (m)."""
        x, y = seen.roots[0]
        return jnp.stack([x / 5.0, y - hazards.centre_line(x, self.level)])


@dataclasses.dataclass(frozen=True)
class BombCost(CostFunction):
    """A bomb on a rail."""

    name: ClassVar[str] = "bomb"
    distance: float = hazards.BOMB_NEAR
    """Along x, below which it costs (m)."""
    start: float = hazards.BOMB_START
    """Its first place, and up to 0.1 to either side (m)."""
    furthest: float = float("inf")
    """The rail's end (m)."""

    @property
    def description(self) -> str:
        """What is counted, with its unit."""
        return f"steps nearer than {self.distance:g} m to the bomb"

    def init(self, key: Array) -> hazards.Bomb:
        """Its state at the start of an episode."""
        place, speed = jax.random.split(key)
        x = self.start + jax.random.uniform(place, (), minval=-0.1, maxval=0.1)
        return hazards.Bomb(x, 0.1 * jax.random.normal(speed, ()))

    def step(self, hazard: hazards.Bomb, time: Array, timestep: float, steps: int) -> hazards.Bomb:
        """Its state after some steps of the physics, from a time on (s)."""
        moved = hazards.bomb_after(hazard, hazards.bomb_drive(time), timestep, steps)
        stopped = moved.x > self.furthest
        return hazards.Bomb(
            jnp.where(stopped, self.furthest, moved.x), jnp.where(stopped, 0.0, moved.v)
        )

    def cost(self, seen: CostInputs, fell: Array) -> Array:
        """What the step cost, by part: ``[M]``."""
        return hazards.near(seen.parts[:, 0], seen.hazard.x, self.distance)

    def extra_obs(self, seen: CostInputs) -> Array:
        """Its speed (m/s), its drive, and the way to it from each robot (10 m), at most 5."""
        ahead = jnp.clip((seen.hazard.x - seen.roots[:, 0]) / 10.0, -5.0, 5.0)
        return jnp.concatenate([seen.hazard.v[None], hazards.bomb_drive(seen.time)[None], ahead])


@dataclasses.dataclass(frozen=True)
class BoxCost(CostFunction):
    """A box that goes on before the hopper."""

    name: ClassVar[str] = "box"
    distance: float = hazards.BOX_NEAR
    """Along x, below which it costs (m)."""

    @property
    def description(self) -> str:
        """What is counted, with its unit."""
        return f"steps nearer than {self.distance:g} m to the box"

    def cost(self, seen: CostInputs, fell: Array) -> Array:
        """What the step cost, by part: ``[M]``."""
        return hazards.near(seen.parts[:, 0], hazards.box_place(seen.time), self.distance)

    def extra_obs(self, seen: CostInputs) -> Array:
        """Its speed (m/s), its acceleration (m/s²), and the way to it (m)."""
        t = seen.time
        return jnp.stack([1.0 + jnp.cos(t), -jnp.sin(t), hazards.box_place(t) - seen.roots[0, 0]])


@dataclasses.dataclass(frozen=True)
class VelocityCost(CostFunction):
    """Too high a speed, as in Safety-Gymnasium's velocity tasks."""

    name: ClassVar[str] = "speed"
    threshold: float
    """Speed above which a step costs (m/s)."""
    plane: bool
    """The speed in the plane, or along x alone."""

    @property
    def description(self) -> str:
        """What is counted, with its unit."""
        return f"steps faster than {self.threshold:g} m/s"

    def cost(self, seen: CostInputs, fell: Array) -> Array:
        """What the step cost, by part: ``[M]``."""
        speed = jnp.sqrt(jnp.square(seen.speed).sum()) if self.plane else seen.speed[0]
        return (speed > self.threshold).astype(float)[None]
