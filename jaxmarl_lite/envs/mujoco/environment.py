"""Robot whose joints belong to several agents, on MJX.

Its functions are pure and compile for a CPU or a GPU. Between steps an environment keeps positions,
velocities and the solver's warm start; MJX's own record is rebuilt from them inside each step, so
that a rollout carries little.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import platforms
from jaxmarl_lite.envs.base import check_video, make_timestep
from jaxmarl_lite.envs.mujoco import models, rendering, tasks
from jaxmarl_lite.envs.mujoco.cost_functions import CostFunction, CostInputs, MovingHazardCost
from jaxmarl_lite.envs.mujoco.models import mjx, mujoco
from jaxmarl_lite.envs.mujoco.tasks import ROBOTS
from jaxmarl_lite.types import Array, EnvSpec, Observation, PyTree, TimeStep

_MAX_QVEL = 1e4
"""Speed (m/s, rad/s) from which on the physics counts as broken, though its numbers are still
finite. Random play of ant, cheetahs, hopper and walker stays below 60."""


class RobotState(NamedTuple):
    """State of an environment between two steps.

    Attributes:
        qpos: Generalized positions, [nq].
        qvel: Generalized velocities, [nv].
        warmstart: Warm start of the solver, [nv].
        position: Position whose change is the reward's speed, [M]: x of the roots, or of the centre
            of mass (m).
        speed: Velocity of the first body over the last step, [2] (m/s).
        hazard: State of the hazard.
        time: Number of steps since the episode began, [] int.
        has_fallen: Whether the robot fell at the last step, [] bool.
        non_finite: Whether the physics returned non-finite or unreasonably large numbers, which
            ends the episode, [] bool.
    """

    qpos: Array
    qvel: Array
    warmstart: Array
    position: Array
    speed: Array
    hazard: PyTree
    time: Array
    has_fallen: Array
    non_finite: Array


@dataclasses.dataclass(frozen=True)
class MujocoEnvironment:
    """Robot of several agents, built by ``jaxmarl_lite.make``.

    The module `jaxmarl_lite.envs.mujoco` describes the keywords.

    Attributes:
        name: Name of the environment.
        robot: Name of the robot.
        agents: Joints of each agent.
        segments: Number of segments of a robot of any size; 0 for others.
        danger: Cost of the hazard; None without costs.
        limit: Limit of the cost per episode, one number or one per agent; None for its default.
        observation: "all" or "near".
        distance: Number of edges of the joint graph that an agent sees with "near".
        standardize: Whether each observation is scaled by its own mean and deviation.
        agent_id: Whether a one-hot agent number is appended to the observation.
        costs: "team" or "own".
        physics: Settings of the physics; see `models`.
        max_episode_steps: Most steps of an episode.
        impl: Engine of the physics: MJX's own JAX code, or MJX-Warp's kernels; see `warp_physics`.
    """

    name: str
    robot: str
    agents: tasks.Agents
    segments: int = 0
    danger: CostFunction | None = None
    limit: float | tuple[float, ...] | None = None
    observation: Literal["all", "near"] = "all"
    distance: int = 1
    standardize: bool = False
    agent_id: bool = True
    costs: Literal["team", "own"] = "team"
    physics: models.Physics = "fast"
    max_episode_steps: int = 1000
    impl: models.Impl = "jax"

    @property
    def spec(self) -> EnvSpec:
        """Sizes and meanings of the environment."""
        return self._spec

    @functools.cached_property
    def _spec(self) -> EnvSpec:
        """Sizes and meanings, computed once."""
        obs = jax.eval_shape(self.reset, jax.eval_shape(jax.random.key, 0))[1].obs
        action_size, danger = max(map(len, self.agents)), self.danger
        costs: dict[str, Any] = {}
        if danger is not None:
            costs = dict(
                cost_names=(danger.name,),
                cost_descriptions=(danger.description,),
                cost_limits=(danger.limit if self.limit is None else self.limit,),
            )
        return EnvSpec(
            name=self.name,
            num_agents=len(self.agents),
            obs_size=obs.agents_view.shape[-1],
            global_state_size=obs.global_state.shape[-1],
            action_type="continuous",
            action_size=action_size,
            max_episode_steps=self.max_episode_steps,
            return_description="reward of the robot per episode",
            action_low=(-1.0,) * action_size,
            action_high=(1.0,) * action_size,
            can_diverge=True,
            **costs,
        )

    @functools.cached_property
    def _body(self) -> models.Body:
        """Robot's model."""
        return models.build(self.robot, self.segments, self.physics)

    @property
    def _physics(self) -> tuple[Any, Any]:
        """MJX's model, and a blank record of its data."""
        return self._cpu_physics if platforms.current() == "cpu" else self._accelerator_physics

    @functools.cached_property
    def _cpu_physics(self) -> tuple[Any, Any]:
        """The model with a sparse mass matrix.

        Jaxlib's batched Cholesky waits for ever where two run at once in a pool of two threads; the
        sparse form does without, and is as fast.
        """
        return self._put_model(mujoco.mjtJacobian.mjJAC_SPARSE)

    @functools.cached_property
    def _accelerator_physics(self) -> tuple[Any, Any]:
        """The model as MuJoCo chooses its form."""
        return self._put_model(self._body.model.opt.jacobian)

    def _put_model(self, jacobian: Any) -> tuple[Any, Any]:
        """Returns the model with a form of its matrices, and a blank record of its data."""
        description = copy.copy(self._body.model)
        description.opt.jacobian = jacobian
        with jax.ensure_compile_time_eval():
            model = mjx.put_model(description, impl="jax")
            return model, mjx.make_data(model, impl="jax")

    @functools.cached_property
    def _actuator_index(self) -> tuple[np.ndarray, np.ndarray]:
        """Actuator that each agent's each action drives, ``[N, A]``, and which of them exist."""
        actuator_of = {joint: i for i, joint in enumerate(self._body.actuated)}
        max_joints = max(map(len, self.agents))
        index = np.full((len(self.agents), max_joints), self._body.model.nu)
        for i, joints in enumerate(self.agents):
            index[i, : len(joints)] = [actuator_of[joint] for joint in joints]
        return index, index < self._body.model.nu

    def reset(self, key: Array) -> tuple[RobotState, TimeStep]:
        """Begins an episode near the model's first pose.

        Args:
            key: Typed key.

        Returns:
            ``(state, timestep)``: the first state and time step.
        """
        body, robot = self._body, ROBOTS[self.robot]
        pose_key, hazard_key = jax.random.split(key)
        qpos, qvel = robot.begin(pose_key, jnp.asarray(body.model.qpos0, float), body.model.nv)
        hazard = () if self.danger is None else self.danger.init(hazard_key)
        false = jnp.zeros((), bool)
        state = RobotState(
            qpos,
            qvel,
            jnp.zeros_like(qvel),
            self._position(qpos),
            jnp.zeros(2),
            hazard,
            jnp.zeros((), jnp.int32),
            false,
            false,
        )
        return state, make_timestep(self._observe(state), num_costs=int(self.danger is not None))

    def step(self, state: RobotState, action: Array) -> tuple[RobotState, TimeStep]:
        """Drives the joints for one step.

        If an action is NaN or the physics returns non-finite numbers, the episode ends in the last
        finite state, and `is_non_finite` returns True for it.

        Args:
            state: State before the step.
            action: Actions ``[N, A]`` in [-1, 1]; beyond that they are clipped.

        Returns:
            ``(state, timestep)`` after the step.

        Raises:
            ValueError: The action has another shape.
        """
        body, robot = self._body, ROBOTS[self.robot]
        actuator_action = self.to_ctrl(action)
        low, high = jnp.asarray(body.model.actuator_ctrlrange, float).T
        signal = low + (actuator_action + 1.0) * 0.5 * (high - low)
        data = self._physics_step(state, signal)
        forces = self._external_forces(data) if robot.forces else jnp.zeros((0, 6))
        outputs = data.qpos, data.qvel, data.qacc_warmstart, forces
        finite = (
            jnp.stack([jnp.isfinite(x).all() for x in outputs]).all()
            & (jnp.abs(data.qvel) < _MAX_QVEL).all()
        )
        # where the physics broke, the last sound state stays, and the step has no reward
        qpos, qvel, warmstart = (
            jnp.where(finite, new, old)
            for new, old in zip(
                (data.qpos, data.qvel, data.qacc_warmstart),
                (state.qpos, state.qvel, state.warmstart),
                strict=True,
            )
        )
        position, step_seconds = self._position(qpos), body.step_seconds
        hazard = state.hazard
        if self.danger is not None:
            hazard = self.danger.step(
                hazard, self.seconds(state), float(body.model.opt.timestep), body.frame_skip
            )
        has_fallen = ~robot.is_healthy(qpos, qvel)
        new_state = RobotState(
            qpos,
            qvel,
            warmstart,
            position,
            (qpos[:2] - state.qpos[:2]) / step_seconds,
            hazard,
            state.time + 1,
            has_fallen,
            ~finite,
        )
        reward = robot.reward(
            (position - state.position) / step_seconds,
            actuator_action,
            signal,
            jnp.where(finite, forces, 0.0),
        )
        return new_state, make_timestep(
            self._observe(new_state),
            jnp.where(finite, reward, 0.0),
            has_fallen | ~finite,
            new_state.time >= self.max_episode_steps,
            self.cost_of(new_state),
        )

    def to_ctrl(self, action: Array) -> Array:
        """Returns each actuator's action from the agents' actions; padding is dropped.

        Args:
            action: Actions ``[N, A]``; clipped to [-1, 1].

        Returns:
            ``[U]`` in [-1, 1], in the order of the model's actuators.

        Raises:
            ValueError: The action has another shape.
        """
        index, _ = self._actuator_index
        if jnp.shape(action) != index.shape:
            raise ValueError(
                f"action of {self.name} has shape {jnp.shape(action)}; allowed is {index.shape}, "
                "[N, A]"
            )
        # one entry more, to which the padding of shorter agents is written
        ctrl = jnp.zeros(self._body.model.nu + 1)
        return ctrl.at[index.ravel()].set(jnp.clip(action, -1.0, 1.0).ravel())[:-1]

    @functools.cached_property
    def _physics_step(self) -> Callable[[RobotState, Array], Any]:
        """Function of a state and the motors' signals that simulates one step of the environment.

        It returns MJX's data, or Warp's result with the same names. It is compiled separately, so
        that it is traced once.
        """
        if self.impl == "warp":
            return self._warp_step
        model, blank = self._physics
        frame_skip = self._body.frame_skip

        def simulate(state: RobotState, signal: Array) -> Any:
            """Returns MJX's data after ``frame_skip`` steps of the physics."""
            data = blank.replace(
                qpos=state.qpos, qvel=state.qvel, qacc_warmstart=state.warmstart, ctrl=signal
            )
            with _tracing():
                return jax.lax.scan(
                    lambda d, _: (mjx.step(model, d), None), data, length=frame_skip
                )[0]

        return jax.jit(simulate)

    @property
    def _warp_step(self) -> Callable[[RobotState, Array], Any]:
        """`_physics_step` by MJX-Warp."""
        # only here, because it needs the extra `warp`
        from jaxmarl_lite.envs.mujoco import warp_physics

        body = self._body
        step = warp_physics.make_step(body.model, body.frame_skip, ROBOTS[self.robot].forces)

        def simulate(state: RobotState, signal: Array) -> Any:
            """Returns Warp's result of ``frame_skip`` steps of the physics."""
            warp_physics.check_platform(self.name)
            return step(state.qpos, state.qvel, state.warmstart, signal)

        return jax.jit(simulate)

    def _external_forces(self, data: Any) -> Array:
        """Returns the external forces on all bodies after a step, ``[bodies, 6]``."""
        if self.impl == "warp":
            return data.cfrc_ext
        return mjx.rne_postconstraint(self._physics[0], data)._impl.cfrc_ext

    def _position(self, qpos: Array) -> Array:
        """Returns the position whose change is the reward's speed, ``[M]`` (m)."""
        robot = ROBOTS[self.robot]
        if not robot.use_com_velocity:
            return qpos[jnp.array(robot.roots)]
        mass = jnp.asarray(self._body.model.body_mass, float)
        return ((mass @ self._centres(qpos)[:, 0]) / mass.sum())[None]

    def _centres(self, qpos: Array) -> Array:
        """Returns the centre of mass of every body, ``[bodies, 3]`` (m)."""
        model, blank = self._physics
        with _tracing():
            return mjx.kinematics(model, blank.replace(qpos=qpos)).xipos

    def seconds(self, state: RobotState) -> Array:
        """Returns the time since the episode began.

        Args:
            state: State of the environment.

        Returns:
            The time (s), [] float.
        """
        return state.time * self._body.step_seconds

    def is_non_finite(self, state: RobotState) -> Array:
        """Returns whether the physics answered numbers that are not finite, or ran away.

        Args:
            state: State of the environment.

        Returns:
            [] bool.
        """
        return state.non_finite

    def animate(self, states: Sequence[RobotState], path: str | Path) -> Path:
        """Writes a video of an episode; see `rendering.write_video`.

        Args:
            states: States of the episode, in order; at least one.
            path: File to write, ``.gif`` or ``.mp4``.

        Returns:
            The file that was written: where no OpenGL is available a ``.png``.

        Raises:
            ValueError: ``states`` is empty, the suffix is another one, or the file cannot be
                written.
        """
        path = check_video(states, path, (".gif", ".mp4"))
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
        seconds, hazard_x = self.seconds(stacked), jnp.zeros(len(states))
        if isinstance(self.danger, MovingHazardCost):
            hazard_x = self.danger.hazard_x(stacked.hazard, seconds)
        episode = rendering.Episode(
            np.asarray(stacked.qpos, float),
            np.stack([stacked.position[:, 0], stacked.qpos[:, 1]], -1),
            np.asarray(seconds),
            np.asarray(hazard_x),
            np.asarray(jax.jit(jax.vmap(self.cost_of))(stacked)).sum((1, 2)) > 0,
        )
        model_spec = models.specification(self.robot, self.segments, self.physics)
        return rendering.write_video(
            self.name, model_spec, self.danger, episode, self._body.step_seconds, path
        )

    def cost_of(self, state: RobotState) -> Array:
        """Computes each agent's cost of the step that led to a state.

        Args:
            state: State after the step.

        Returns:
            Costs ``[N, K]``, 0 or 1.
        """
        num_agents = len(self.agents)
        if self.danger is None:
            return jnp.zeros((num_agents, 0))
        part_costs = self.danger.cost(self._features(state), state.has_fallen)
        if self.costs == "own":
            return jnp.stack(
                [part_costs[jnp.array(bodies)].max() for bodies in self._agent_bodies]
            )[:, None]
        return jnp.broadcast_to(part_costs.max(), (num_agents, 1))

    def _features(self, state: RobotState) -> CostInputs:
        """Returns the features from which the cost is computed.

        The parts are the roots; with ``costs="own"`` they are every body, where the hazard
        distinguishes agents by their bodies.
        """
        x = state.position
        roots = jnp.stack([x, jnp.broadcast_to(state.qpos[1], x.shape)], -1)
        parts = roots
        if self.costs == "own" and self.danger is not None and self.danger.per_agent:
            parts = self._centres(state.qpos)[:, :2]
        return CostInputs(roots, parts, state.speed, self.seconds(state), state.hazard)

    @functools.cached_property
    def _agent_bodies(self) -> list[list[int]]:
        """Parts that belong to each agent.

        They are the bodies that its joints move first, or one of two robots.
        """
        model = self._body.model
        if self.danger is not None and self.danger.per_agent:
            return [
                [int(model.joint(joint).bodyid[0]) for joint in joints] for joints in self.agents
            ]
        return [[i] for i in range(len(self.agents))]

    def _observe(self, state: RobotState) -> Observation:
        """Returns the observation of a state."""
        robot, num_agents = ROBOTS[self.robot], len(self.agents)
        hazard_obs = (
            jnp.zeros((0,)) if self.danger is None else self.danger.extra_obs(self._features(state))
        )
        qvel = jnp.clip(state.qvel, -robot.max_obs_velocity, robot.max_obs_velocity)
        observed_qpos = np.delete(np.arange(self._body.model.nq), robot.excluded_qpos)
        root_offsets = (
            state.position[1:] - state.position[0] if len(robot.roots) > 1 else jnp.zeros((0,))
        )
        global_state = jnp.concatenate([state.qpos[observed_qpos], qvel, root_offsets, hazard_obs])
        if self.observation == "all":
            view = jnp.broadcast_to(global_state, (num_agents, len(global_state)))
        else:
            index, exists = self._visible_joints
            view = jnp.concatenate([state.qpos, qvel])[index] * exists
            view = jnp.concatenate(
                [view, jnp.broadcast_to(hazard_obs, (num_agents, len(hazard_obs)))], -1
            )
        if self.agent_id:
            view = jnp.concatenate([view, jnp.eye(num_agents)], -1)
        if self.standardize:
            view = (view - view.mean(-1, keepdims=True)) / view.std(-1, keepdims=True)
        return Observation(
            view, global_state, jnp.asarray(self._actuator_index[1]), jnp.ones((num_agents,), bool)
        )

    @functools.cached_property
    def _visible_joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of positions and velocities that each agent sees, ``[N, O]``, and which exist.

        The root's come first, then those of its own joints and of joints up to `distance` edges
        away.
        """
        model, robot = self._body.model, ROBOTS[self.robot]
        joint_edges = tasks.edges(self.robot, self._body.joints)
        joint_qpos = {int(model.joint(name).qposadr[0]) for name in self._body.actuated}
        joint_qvel = {int(model.joint(name).dofadr[0]) for name in self._body.actuated}
        root_entries = [
            i for i in range(model.nq) if i not in joint_qpos and i not in robot.excluded_qpos
        ]
        root_entries += [model.nq + i for i in range(model.nv) if i not in joint_qvel]
        rows = []
        for agent_joints in self.agents:
            joints = [
                model.joint(name)
                for name in tasks.joints_within(agent_joints, joint_edges, self.distance)
            ]
            rows.append(
                root_entries
                + [
                    int(entry)
                    for joint in joints
                    for entry in (joint.qposadr[0], model.nq + joint.dofadr[0])
                ]
            )
        max_entries = max(map(len, rows))
        index = np.array([row + [0] * (max_entries - len(row)) for row in rows])
        return index, np.arange(max_entries) < np.array([[len(row)] for row in rows])


_lock = threading.RLock()


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Context for tracing MJX: on a CPU, every product of quaternions ends in a barrier.

    XLA fuses the products along a chain of bodies, and its code for a CPU computes each anew for
    every entry of the next one that asks for it: six links in a row take some 500 times as long as
    they should, ten more than a thousand.

    Yields:
        None.
    """
    try:
        math: Any = importlib.import_module("mujoco.mjx._src.math")
        original_product = math.quat_mul
    except (ImportError, AttributeError):  # another version of MJX: slow at worst
        original_product = None
    if original_product is None or platforms.current() != "cpu":
        yield
        return
    with _lock:
        math.quat_mul = lambda u, v: jax.lax.optimization_barrier(original_product(u, v))
        try:
            yield
        finally:
            math.quat_mul = original_product
