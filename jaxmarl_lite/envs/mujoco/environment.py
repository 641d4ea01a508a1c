"""A robot whose joints belong to several agents, on MJX: pure functions that compile for a CPU or a
GPU.

Between steps a world keeps positions, velocities and the solver's warm start; MJX's own record is
rebuilt from them inside each step, so that a rollout carries little.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite.envs.mujoco import models, partitions, rendering
from jaxmarl_lite.envs.mujoco._import import mjx, mujoco, tracing
from jaxmarl_lite.envs.mujoco.cost_functions import CostFunction
from jaxmarl_lite.envs.mujoco.tasks import ROBOTS
from jaxmarl_lite.types import Array, EnvSpec, Observation, TimeStep

_MAX_QVEL = 1e4
"""A speed (m/s, rad/s) at which the physics broke, though its numbers are finite still. Random play
of ant, cheetahs, hopper and walker stays below 60."""


class RobotState(NamedTuple):
    """A world between two steps."""

    qpos: Array
    qvel: Array
    warmstart: Array
    place: Array  # [M] what the reward's speed is of: x of the roots, or of the centre of mass (m)
    speed: Array  # [2] of the first body over the last step (m/s)
    hazard: Any  # the danger's
    time: Array  # [] int steps
    has_fallen: Array  # [] bool
    non_finite: Array  # [] bool: the physics answered numbers that are not finite, or ran away, and the episode ended


class RobotFeatures(NamedTuple):
    """What a danger sees of a world."""

    roots: Array
    parts: Array
    speed: Array
    time: Array
    hazard: Any


@dataclasses.dataclass(frozen=True)
class MujocoEnvironment:
    """A robot of several agents; built by ``jaxmarl_lite.make``, which says what the keywords
    mean.
    """

    name: str
    robot: str
    agents: partitions.Agents
    segments: int = 0
    danger: CostFunction | None = None
    limit: Any = None
    observation: Literal["all", "near"] = "all"
    distance: int = 1
    standardize: bool = False
    agent_id: bool = True
    costs: Literal["team", "own"] = "team"
    physics: models.Physics = "fast"
    max_episode_steps: int = 1000

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        agents = len(self.agents)
        widest = max(map(len, self.agents))
        _, timestep = jax.eval_shape(self.reset, jax.eval_shape(jax.random.key, 0))
        view, state = timestep.obs.agents_view.shape[-1], timestep.obs.global_state.shape[-1]
        danger = self.danger
        return EnvSpec(
            name=self.name,
            num_agents=agents,
            obs_size=view,
            global_state_size=state,
            action_type="continuous",
            action_size=widest,
            max_episode_steps=self.max_episode_steps,
            return_description="reward of the robot per episode",
            action_low=(-1.0,) * widest,
            action_high=(1.0,) * widest,
            can_diverge=True,
            cost_names=() if danger is None else (danger.name,),
            cost_descriptions=() if danger is None else (danger.description,),
            cost_limits=None
            if danger is None
            else (danger.limit if self.limit is None else self.limit,),
        )

    @functools.cached_property
    def _body(self) -> models.Body:
        return models.build(self.robot, self.segments, self.physics)

    @functools.cached_property
    def _physics(self) -> tuple[Any, Any]:
        description = copy.copy(self._body.model)
        if jax.default_backend() == "cpu":
            # jaxlib's batched Cholesky waits for ever where two run at once in a pool of two
            # threads; the sparse form of the mass matrix does without, and is as fast
            description.opt.jacobian = mujoco.mjtJacobian.mjJAC_SPARSE
        with jax.ensure_compile_time_eval():
            model = mjx.put_model(description)
            return model, mjx.make_data(model)

    @functools.cached_property
    def _actuator_index(self) -> tuple[np.ndarray, np.ndarray]:
        """The actuator that each agent's each action drives, ``[N, A]``, and which of them there
        are.
        """
        order = {joint: i for i, joint in enumerate(self._body.actuated)}
        widest = max(map(len, self.agents))
        index = np.full((len(self.agents), widest), self._body.model.nu)
        for i, own in enumerate(self.agents):
            index[i, : len(own)] = [order[joint] for joint in own]
        return index, index < self._body.model.nu

    def reset(self, key: Array) -> tuple[RobotState, TimeStep]:
        """Begin an episode near the model's first pose."""
        body, robot = self._body, ROBOTS[self.robot]
        pose, danger = jax.random.split(key)
        qpos, qvel = robot.begin(pose, jnp.asarray(body.model.qpos0, float), body.model.nv)
        hazard = () if self.danger is None else self.danger.init(danger)
        none = jnp.zeros((), bool)
        state = RobotState(
            qpos,
            qvel,
            jnp.zeros_like(qvel),
            self._position(qpos),
            jnp.zeros(2),
            hazard,
            jnp.zeros((), jnp.int32),
            none,
            none,
        )
        agents = len(self.agents)
        zero = jnp.zeros((agents,)), jnp.zeros((agents, 0 if self.danger is None else 1))
        return state, TimeStep(self._observe(state), *zero, jnp.ones(()), none)

    def step(self, state: RobotState, action: Array) -> tuple[RobotState, TimeStep]:
        """Drive the joints for one step, ``action`` ``[N, A]`` in [-1, 1]; beyond that it is
        clipped.

        Where it is NaN, or the physics breaks, the episode ends in its last sound state, and
        `is_non_finite` says so. Raises ValueError for an action of another shape.
        """
        body, robot = self._body, ROBOTS[self.robot]
        driven = self.to_ctrl(action)
        low, high = jnp.asarray(body.model.actuator_ctrlrange, float).T
        signal = low + (driven + 1.0) * 0.5 * (high - low)
        data = self._physics_step(state, signal)
        forces = (
            mjx.rne_postconstraint(self._physics[0], data)._impl.cfrc_ext
            if robot.forces
            else jnp.zeros((0, 6))
        )
        found = data.qpos, data.qvel, data.qacc_warmstart, forces
        finite = (
            jnp.stack([jnp.isfinite(x).all() for x in found]).all()
            & (jnp.abs(data.qvel) < _MAX_QVEL).all()
        )
        # where the physics broke, the last sound state stays, and nothing is paid for the step
        qpos, qvel, warmstart = (
            jnp.where(finite, new, old)
            for new, old in zip(
                (data.qpos, data.qvel, data.qacc_warmstart),
                (state.qpos, state.qvel, state.warmstart),
                strict=True,
            )
        )
        place, seconds = self._position(qpos), body.step_seconds
        hazard = state.hazard
        if self.danger is not None:
            hazard = self.danger.step(
                hazard, self.seconds(state), float(body.model.opt.timestep), body.frame_skip
            )
        fell = ~robot.is_healthy(qpos, qvel)
        after = RobotState(
            qpos,
            qvel,
            warmstart,
            place,
            (qpos[:2] - state.qpos[:2]) / seconds,
            hazard,
            state.time + 1,
            fell,
            ~finite,
        )
        reward = robot.reward(
            (place - state.place) / seconds, driven, signal, jnp.where(finite, forces, 0.0)
        )
        over = fell | ~finite
        agents = len(self.agents)
        return after, TimeStep(
            self._observe(after),
            jnp.full((agents,), jnp.where(finite, reward, 0.0)),
            self.cost_of(after),
            1.0 - over.astype(float),
            over | (after.time >= self.max_episode_steps),
        )

    def to_ctrl(self, action: Array) -> Array:
        """Each actuator's action, ``[U]`` in [-1, 1], from the agents' ``[N, A]``; what only pads
        is dropped.
        """
        index, _ = self._actuator_index
        if jnp.shape(action) != index.shape:
            raise ValueError(
                f"action of {self.name} has shape {jnp.shape(action)}; allowed is {index.shape}, "
                "[N, A]"
            )
        unused = jnp.zeros(self._body.model.nu + 1)
        return unused.at[index.ravel()].set(jnp.clip(action, -1.0, 1.0).ravel())[:-1]

    @functools.cached_property
    def _physics_step(self) -> Callable[[RobotState, Array], Any]:
        """MJX's record after a step of the environment; compiled apart, so that it is traced
        once.
        """
        model, blank = self._physics
        frame_skip = self._body.frame_skip

        def simulated(state: RobotState, signal: Array) -> Any:
            data = blank.replace(
                qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=signal
            )
            with tracing():
                return jax.lax.scan(
                    lambda d, _: (mjx.step(model, d), None), data, length=frame_skip
                )[0]

        return jax.jit(simulated)

    def _position(self, qpos: Array) -> Array:
        robot = ROBOTS[self.robot]
        if not robot.use_com_velocity:
            return qpos[jnp.array(robot.roots)]
        mass = jnp.asarray(self._body.model.body_mass, float)
        return ((mass @ self._centres(qpos)[:, 0]) / mass.sum())[None]

    def _centres(self, qpos: Array) -> Array:
        """The centre of mass of every body, ``[bodies, 3]``."""
        model, blank = self._physics
        with tracing():
            return mjx.kinematics(model, blank.replace(qpos=qpos)).xipos

    def seconds(self, state: RobotState) -> Array:
        """Time since the episode began."""
        return state.time * self._body.step_seconds

    def is_non_finite(self, state: RobotState) -> Array:
        """Whether the physics answered numbers that are not finite."""
        return state.non_finite

    def animate(self, states: Sequence[RobotState], path: str | Path) -> Path:
        """Film an episode, as `drawing.write_video` says."""
        return rendering.write_video(self, states, path)

    def cost_of(self, state: RobotState) -> Array:
        """What the step that led to a state cost each agent, ``[N, K]``."""
        agents = len(self.agents)
        if self.danger is None:
            return jnp.zeros((agents, 0))
        parts = self.danger.cost(self._seen(state), state.has_fallen)
        if self.costs == "own":
            return jnp.stack([parts[jnp.array(own)].max() for own in self._agent_bodies])[:, None]
        return jnp.broadcast_to(parts.max(), (agents, 1))

    def _seen(self, state: RobotState) -> RobotFeatures:
        """Its parts are the roots, or with ``costs="own"`` every body, as far as that tells agents
        apart.
        """
        roots = jnp.stack([state.place, jnp.broadcast_to(state.qpos[1], state.place.shape)], -1)
        parts = roots
        if self.costs == "own" and self.danger is not None and self.danger.per_agent:
            parts = self._centres(state.qpos)[:, :2]
        return RobotFeatures(roots, parts, state.speed, self.seconds(state), state.hazard)

    @functools.cached_property
    def _agent_bodies(self) -> list[list[int]]:
        """The parts that belong to each agent: bodies that its joints move first, or one of two
        robots.
        """
        model = self._body.model
        if self.danger is not None and self.danger.per_agent:
            return [[int(model.joint(joint).bodyid[0]) for joint in own] for own in self.agents]
        return [[i] for i in range(len(self.agents))]

    def _observe(self, state: RobotState) -> Observation:
        robot, agents = ROBOTS[self.robot], len(self.agents)
        beside = (
            jnp.zeros((0,)) if self.danger is None else self.danger.extra_obs(self._seen(state))
        )
        speeds = jnp.clip(state.qvel, -robot.max_obs_velocity, robot.max_obs_velocity)
        shown = np.delete(np.arange(self._body.model.nq), robot.excluded_qpos)
        apart = state.place[1:] - state.place[0] if len(robot.roots) > 1 else jnp.zeros((0,))
        whole = jnp.concatenate([state.qpos[shown], speeds, apart, beside])
        if self.observation == "all":
            view = jnp.broadcast_to(whole, (agents, len(whole)))
        else:
            index, there = self._visible_joints
            view = jnp.concatenate([state.qpos, speeds])[index] * there
            view = jnp.concatenate([view, jnp.broadcast_to(beside, (agents, len(beside)))], -1)
        if self.agent_id:
            view = jnp.concatenate([view, jnp.eye(agents)], -1)
        if self.standardize:
            view = (view - view.mean(-1, keepdims=True)) / view.std(-1, keepdims=True)
        return Observation(
            view, whole, jnp.asarray(self._actuator_index[1]), jnp.ones((agents,), bool)
        )

    @functools.cached_property
    def _visible_joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of positions and velocities that each agent sees, ``[N, O]``, and which of them
        there are.

        The root's first, then those of its own joints and of joints up to `distance` edges away.
        """
        model, robot = self._body.model, ROBOTS[self.robot]
        linked = partitions.edges(self.robot, self._body.joints)
        joint_places = {int(model.joint(name).qposadr[0]) for name in self._body.actuated}
        joint_speeds = {int(model.joint(name).dofadr[0]) for name in self._body.actuated}
        root = [
            i for i in range(model.nq) if i not in joint_places and i not in robot.excluded_qpos
        ]
        root += [model.nq + i for i in range(model.nv) if i not in joint_speeds]
        rows = []
        for own in self.agents:
            near = [model.joint(name) for name in partitions.within(own, linked, self.distance)]
            rows.append(
                root
                + [
                    int(at)
                    for joint in near
                    for at in (joint.qposadr[0], model.nq + joint.dofadr[0])
                ]
            )
        widest = max(map(len, rows))
        index = np.array([row + [0] * (widest - len(row)) for row in rows])
        return index, np.arange(widest) < np.array([[len(row)] for row in rows])
