"""Robots' models, with settings of the physics that a compiled program can bear.

They are Gymnasium's files, or built here.

``physics="reference"`` keeps a model as its file has it: Runge-Kutta's fourth order in most, up to
100 iterations of Newton's solver, every pair of geoms that may touch. ``physics="fast"``, the
default, takes Euler's step with the damping implicit, few iterations, and only the contacts with
the floor that a living robot makes; each robot below says what it leaves out. Rewards, costs and
sizes are the same. After one step of the environment, positions differ from the reference's by a
median of 0 (halfcheetah), 0.4 to 1.1 % (swimmer, hopper, humanoid, walker2d) and 1.8 % (ant), as
``benchmarks/physics.py --sections settings`` measures; where feet touch, single trajectories
diverge soon.

In float32 a step on MJX differs from the C engine's, on the same model, by a median of 4e-8 to 2e-7
(positions) and 1e-7 to 1e-6 (velocities; ``--sections accuracy``). The many-agent swimmer of twenty
links is worse, 8e-6 and 3e-4: its mass matrix has a condition of 4e5, and in float64 the same step
agrees to 1e-12. Returns of 50 steps agree within 0.4 %, and the ant's, whose trajectories diverge
where its feet touch, within what chance explains (-1.0 % ± 0.8 %).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxmarl_lite.envs._import import load_mujoco

mujoco, mjx = load_mujoco()
MjSpec = MjsBody = MjModel = Any
"""Types of `mujoco`, which has no stubs."""

Physics = Literal["fast", "reference"]
"""Settings of the physics; see above."""
Impl = Literal["jax", "warp"]
"""Engine of the physics, as MJX names them."""
_Vector = Sequence[float]


@dataclasses.dataclass(frozen=True)
class Body:
    """Robot's model and the way it is driven."""

    model: MjModel
    """Compiled model, a `mujoco.MjModel`."""
    frame_skip: int
    """Number of steps of the physics per step of the environment."""
    joints: tuple[tuple[str, ...], ...]
    """Joints of each segment, for robots of any size; else ()."""

    @property
    def step_seconds(self) -> float:
        """Duration of a step of the environment (s)."""
        return self.frame_skip * float(self.model.opt.timestep)

    @property
    def actuated(self) -> tuple[str, ...]:
        """Joint that each actuator drives, in the model's order."""
        return tuple(self.model.joint(int(i)).name for i in self.model.actuator_trnid[:, 0])


@functools.lru_cache(maxsize=32)
def build(robot: str, number_of_segments: int = 0, physics: Physics = "fast") -> Body:
    """Builds the model of a robot.

    Args:
        robot: Name of the robot.
        number_of_segments: Number of segments of a robot of any size; 0 for others.
        physics: Settings of the physics; see the module's docstring.

    Returns:
        The model; the same object for the same arguments.
    """
    spec = specification(robot, number_of_segments, physics)
    frame_skip = _FRAME_SKIPS[robot]
    joints: tuple[tuple[str, ...], ...] = ()
    if number_of_segments:
        actuator_names = [actuator.name for actuator in spec.actuators]
        joints_each = len(actuator_names) // number_of_segments
        joints = tuple(
            tuple(actuator_names[i : i + joints_each])
            for i in range(0, len(actuator_names), joints_each)
        )
    # the compiler's total mass is deprecated in files, so it is set after the compilation
    mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    if mass > 0:
        mujoco.mj_setTotalmass(model, mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    if robot == "coupled-halfcheetah":
        _soften_band(model)
    return Body(model, frame_skip, joints)


def specification(robot: str, number_of_segments: int = 0, physics: Physics = "fast") -> MjSpec:
    """Returns the robot's `mujoco.MjSpec`, before it is compiled.

    Args:
        robot: Name of the robot.
        number_of_segments: Number of segments of a robot of any size; 0 for others.
        physics: Settings of the physics; see the module's docstring.

    Returns:
        A new specification.
    """
    if robot in _FILES:
        spec = _load_gymnasium_model(_FILES[robot])
    else:
        spec = (
            _coupled_cheetah()
            if robot == "coupled-halfcheetah"
            else _SEGMENTED_MODELS[robot](number_of_segments)
        )
    # the humanoid's file asks for a solver that MJX lacks
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    if physics == "fast":
        _FAST_SETTINGS[robot](spec)
    return spec


_FILES = {
    "ant": "ant.xml",
    "halfcheetah": "half_cheetah.xml",
    "hopper": "hopper.xml",
    "humanoid": "humanoid.xml",
    "swimmer": "swimmer.xml",
    "walker2d": "walker2d_v5.xml",
}
"""Robot -> its model file in Gymnasium."""
_FRAME_SKIPS = {
    "ant": 5,
    "halfcheetah": 5,
    "coupled-halfcheetah": 5,
    "humanoid": 5,
    "hopper": 4,
    "swimmer": 4,
    "walker2d": 4,
    "manyagent-ant": 4,
    "manyagent-swimmer": 4,
}
"""Robot -> number of steps of the physics per step of the environment."""


def _load_gymnasium_model(file: str) -> MjSpec:
    """Reads one of Gymnasium's model files."""
    package = importlib.util.find_spec("gymnasium")
    assert package is not None and package.origin is not None
    return mujoco.MjSpec.from_file(
        str(Path(package.origin).parent / "envs" / "mujoco" / "assets" / file)
    )


def _set_euler(spec: MjSpec, iterations: int, ls_iterations: int) -> None:
    """Sets Euler's step and the numbers of iterations of the solver."""
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    spec.option.iterations = iterations
    spec.option.ls_iterations = ls_iterations


def _set_floor_contacts(spec: MjSpec, names: Sequence[str], by_ends: bool = False) -> None:
    """Lets only these geoms touch the floor, and none another.

    With ``by_ends``, a ball at either end of a capsule touches in place of the capsule. A capsule
    touches a plane with its ends alone. MJX turns the friction of a capsule that stands upright
    otherwise than the C engine does; that of a ball is the same in both.
    """
    for geom in list(spec.geoms):
        is_floor = geom.name == "floor"
        touches = not is_floor and geom.name in names
        use_ends = by_ends and touches and geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE
        geom.contype, geom.conaffinity = int(touches and not use_ends), int(is_floor)
        for k in range(2 if use_ends else 0):
            geom.parent.add_geom(
                name=f"{geom.name}_end_{k}",
                type=mujoco.mjtGeom.mjGEOM_SPHERE,
                pos=geom.fromto[3 * k : 3 * k + 3],
                size=geom.size,
                mass=0,
                contype=1,
                conaffinity=0,
                condim=geom.condim,
                friction=geom.friction,
                margin=geom.margin,
                solref=geom.solref,
                solimp=geom.solimp,
                rgba=geom.rgba,
            )


def _fast_ant(spec: MjSpec) -> None:
    """Lets feet, lower legs and torso touch the floor.

    The thighs' ends would do so only where the ant lies on its side.
    """
    _set_euler(spec, 8 if len(spec.actuators) > 8 else 6, 8)
    _set_floor_contacts(
        spec, ("torso_geom", *(g.name for g in spec.geoms if "ankle" in g.name)), by_ends=True
    )


def _fast_cheetah(spec: MjSpec) -> None:
    """Lets every part but the thighs touch the floor: these end at the torso and the shins."""
    _set_euler(spec, 4, 6)
    parts = ("torso", "head", "bshin", "bfoot", "fshin", "ffoot")
    _set_floor_contacts(spec, (*parts, *(f"second_{part}" for part in parts)))


def _fast_hopper(spec: MjSpec) -> None:
    """Lets the foot and the leg touch the floor.

    The episode of a hopper that falls ends before more of it does.
    """
    _set_euler(spec, 4, 6)
    _set_floor_contacts(spec, ("foot_geom", "leg_geom"))


def _fast_humanoid(spec: MjSpec) -> None:
    """Lets feet and shins touch the floor, and no part another.

    The episode ends when the torso sinks below 1 m.
    """
    _set_euler(spec, 6, 8)
    _set_floor_contacts(
        spec, ("left_foot", "right_foot", "left_shin1", "right_shin1"), by_ends=True
    )


def _fast_walker(spec: MjSpec) -> None:
    """Lets feet and legs touch the floor: an episode ends before more of the walker does."""
    _set_euler(spec, 6, 8)
    _set_floor_contacts(spec, ("foot_geom", "leg_geom", "foot_left_geom", "leg_left_geom"))


def _fast_swimmer(spec: MjSpec) -> None:
    """Sets the solver only: nothing touches anything, as in the file."""
    _set_euler(spec, 4, 6)


_FAST_SETTINGS: dict[str, Callable[[MjSpec], None]] = {
    "ant": _fast_ant,
    "manyagent-ant": _fast_ant,
    "halfcheetah": _fast_cheetah,
    "coupled-halfcheetah": _fast_cheetah,
    "hopper": _fast_hopper,
    "humanoid": _fast_humanoid,
    "walker2d": _fast_walker,
    "swimmer": _fast_swimmer,
    "manyagent-swimmer": _fast_swimmer,
}


def _coupled_cheetah() -> MjSpec:
    """Builds two cheetahs, bound by an elastic band between their torsos.

    They stand a metre to either side of the middle.
    """
    spec = _load_gymnasium_model("half_cheetah.xml")
    other_spec = _load_gymnasium_model("half_cheetah.xml")
    first = spec.body("torso")
    frame = spec.worldbody.add_frame()
    second = frame.attach_body(other_spec.body("torso"), "second_", "")
    spec.compiler.settotalmass = 28
    first.pos[1], second.pos[1] = -1.0, 1.0
    for body, site in ((first, "band_1"), (second, "band_2")):
        body.add_site(name=site, size=[0.1, 0.1, 0.1])
    band = spec.add_tendon(
        name="band",
        limited=True,
        range=[1.5, 3.5],
        stiffness=[0.1, 0, 0],
        width=0.05,
        rgba=[0.95, 0.3, 0.3, 1],
    )
    for site in ("band_1", "band_2"):
        band.wrap_site(site)
    return spec


def _soften_band(model: MjModel) -> None:
    """Computes the stiffness of the band's end from a stretched band.

    At the first pose the band lies across the direction in which the cheetahs can move, nothing
    seems to yield to it, and MuJoCo makes its end 1e15 times too stiff: float32 answers NaN as soon
    as it is reached.
    """
    data = mujoco.MjData(model)
    slide_index = int(model.joint("second_rootx").qposadr[0])
    data.qpos[:] = model.qpos0
    data.qpos[slide_index] += math.sqrt(
        model.tendon_range[0, 1] ** 2 - model.tendon_length0[0] ** 2
    )
    mujoco.mj_forward(model, data)
    # w = J M^-1 J^T, with J the derivative of the band's length by the joints
    jacobian, solved = np.zeros(model.nv), np.zeros(model.nv)
    cosine = math.sqrt(1.0 - (model.tendon_length0[0] / model.tendon_range[0, 1]) ** 2)
    jacobian[model.joint("second_rootx").dofadr[0]], jacobian[model.joint("rootx").dofadr[0]] = (
        cosine,
        -cosine,
    )
    mujoco.mj_solveM(model, data, solved[None], jacobian[None])
    model.tendon_invweight0[0] = jacobian @ solved


_HINGE, _FREE, _SLIDE = (
    mujoco.mjtJoint.mjJNT_HINGE,
    mujoco.mjtJoint.mjJNT_FREE,
    mujoco.mjtJoint.mjJNT_SLIDE,
)
_CAPSULE, _PLANE = mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_PLANE


def _empty_model(timestep: float) -> MjSpec:
    """Returns an empty specification with a floor and light."""
    spec = mujoco.MjSpec()
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_RK4
    spec.compiler.degree = True
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_TRUE
    spec.worldbody.add_light(
        pos=[0, 0, 3], dir=[0, 0, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
    )
    spec.worldbody.add_geom(
        name="floor",
        type=_PLANE,
        size=[40, 40, 40],
        contype=1,
        conaffinity=1,
        condim=3,
        rgba=[0.8, 0.9, 0.8, 1],
    )
    return spec


def _manyagent_ant(num_segments: int) -> MjSpec:
    """Builds a rigid spine of segments a metre apart, each with two legs of hip and ankle.

    The first segment carries the head. Sizes, masses, axes and gears are those of Gu et al. 2021's
    model; its walls are left out.
    """
    spec = _empty_model(0.005)
    joints: list[str] = []
    parent = spec.worldbody
    for i in range(num_segments):
        torso = parent.add_body(name=f"torso_{i}", pos=[0, 0, 0.75] if i == 0 else [-1, 0, 0])
        if i == 0:
            torso.add_joint(name="root", type=_FREE, armature=0, damping=[0, 0, 0], limited=False)
            legs = (
                ((0.2, 0.2), (0.2, 0.2), (-1, 1), (30, 70)),
                ((0.2, -0.2), (0.2, -0.2), (1, 1), (30, 70)),
            )
        else:
            _add_capsule(torso, f"spine_{i}", (1, 0, 0), 0.1, density=100)
            legs = (
                ((0.0, 0.2), (-0.2, 0.2), (1, 1), (-70, -30)),
                ((0.0, -0.2), (-0.2, -0.2), (-1, 1), (-70, -30)),
            )
        for k, leg in enumerate(legs, start=1):
            joints += _add_leg(torso, f"{k}_{i}", *leg)
        parent = torso
    _add_motors(spec, joints)
    return spec


def _add_motors(spec: MjSpec, joints: Sequence[str]) -> None:
    """Adds a motor of 150 N m at full signal for each joint."""
    for name in joints:
        spec.add_actuator(
            name=name,
            target=name,
            trntype=mujoco.mjtTrn.mjTRN_JOINT,
            gear=[150, 0, 0, 0, 0, 0],
            ctrllimited=True,
            ctrlrange=[-1, 1],
        )


def _add_leg(
    torso: MjsBody, name: str, hip: _Vector, thigh: _Vector, axis: _Vector, bounds: _Vector
) -> list[str]:
    """Adds a leg to a segment: a fixed piece to the hip, a thigh and a longer lower leg.

    The lower leg is twice as long as the thigh.

    Returns:
        Names of its two joints.
    """
    _add_capsule(torso, f"aux{name}", (*hip, 0.0), 0.08)
    upper = torso.add_body(name=f"thigh{name}", pos=[*hip, 0])
    _add_hinge(upper, f"hip{name}", (0, 0, 1), (-30, 30))
    _add_capsule(upper, f"leg{name}", (*thigh, 0.0), 0.08)
    lower = upper.add_body(name=f"shin{name}", pos=[*thigh, 0])
    _add_hinge(lower, f"ankle{name}", (*axis, 0), bounds)
    _add_capsule(lower, f"ankle{name}", (2 * thigh[0], 2 * thigh[1], 0.0), 0.08)
    return [f"hip{name}", f"ankle{name}"]


def _add_hinge(body: MjsBody, name: str, axis: _Vector, bounds: _Vector) -> None:
    """Adds a limited hinge to a body."""
    body.add_joint(
        name=name,
        type=_HINGE,
        axis=list(axis),
        range=list(bounds),
        limited=True,
        armature=1,
        damping=[1, 0, 0],
    )


def _add_capsule(
    body: MjsBody, name: str, end: _Vector, radius: float, density: float = 5.0
) -> None:
    """Adds a capsule to a body, from its origin to ``end``."""
    body.add_geom(
        name=name,
        type=_CAPSULE,
        fromto=[0, 0, 0, *end],
        size=[radius, 0, 0],
        density=density,
        condim=3,
        contype=1,
        conaffinity=0,
        margin=0.01,
        friction=[1, 0.5, 0.5],
        rgba=[0.8, 0.6, 0.4, 1],
    )


def _manyagent_swimmer(num_links: int) -> MjSpec:
    """Builds a chain of links in a viscous plane, as in Gu et al. 2021's model.

    There is one motor at each link's joint.
    """
    spec = _empty_model(0.005)
    spec.option.density, spec.option.viscosity = 4000, 0.1
    spec.geom("floor").contype = spec.geom("floor").conaffinity = 0
    body = spec.worldbody.add_body(name="torso")
    roots = (
        ("slider1", _SLIDE, (1, 0, 0)),
        ("slider2", _SLIDE, (0, 1, 0)),
        ("rot", _HINGE, (0, 0, 1)),
    )
    for name, kind, axis in roots:
        body.add_joint(name=name, type=kind, axis=list(axis), armature=0.1)
    _add_link(body, "head", (1.5, 0, 0, 0.5, 0, 0))
    names = []
    for i in range(num_links):
        body = body.add_body(name=f"link_{i}", pos=[0.5 if i == 0 else -1.0, 0, 0])
        sign = -1 if 0 < i < num_links - 1 and i % 2 == 0 else 1
        body.add_joint(
            name=f"rot{i}",
            type=_HINGE,
            axis=[0, 0, sign],
            range=[-100, 100],
            limited=True,
            armature=0.1,
        )
        _add_link(body, f"link_{i}", (0, 0, 0, -1, 0, 0))
        names.append(f"rot{i}")
    _add_motors(spec, names)
    return spec


def _add_link(body: MjsBody, name: str, ends: _Vector) -> None:
    """Adds the capsule of a link, which touches nothing, to a body."""
    body.add_geom(
        name=name,
        type=_CAPSULE,
        fromto=list(ends),
        size=[0.1, 0, 0],
        density=1000,
        condim=1,
        contype=0,
        conaffinity=0,
        rgba=[0.8, 0.6, 0.4, 1],
    )


_SEGMENTED_MODELS: dict[str, Callable[[int], MjSpec]] = {
    "manyagent-ant": _manyagent_ant,
    "manyagent-swimmer": _manyagent_swimmer,
}
