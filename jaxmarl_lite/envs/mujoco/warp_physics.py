"""Steps of the physics by MJX-Warp: MuJoCo Warp's kernels in place of MJX's own JAX code.

Its kernels are written for NVIDIA GPUs (CUDA). On a CPU they run one environment after the other,
enough to test with; on a TPU there are none. The engine is never the default: it has not been
measured on a GPU here.

Warp keeps the contacts of all environments in one buffer. Its size is fixed before the number of
environments is known, and contacts beyond it are dropped: MJX's default is one environment's. The
step is therefore batched by a rule of its own, which sees how many environments there are and makes
room for every contact that each of them can have.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.extend import backend

from jaxmarl_lite import platforms
from jaxmarl_lite.envs._import import load
from jaxmarl_lite.envs.mujoco.models import mjx, mujoco
from jaxmarl_lite.types import Array
from jaxmarl_lite.validation import invalid

_ITERATIONS = 20
"""Fewest iterations that Warp's solver is allowed. It stops sooner where it has converged, which in
one step of a hundred takes more than the few that suffice MJX's: with those, coupled cheetahs end
such a step up to 0.02 (m or rad) from where MJX and the C engine agree that they are."""
_UNREPORTED = ("ITERATIONS", "LS_ITERATIONS")
"""Warp's reports that are turned off: they are lines on the standard output, one per step."""


class StepResult(NamedTuple):
    """State of the physics after a step of the environment.

    Attributes:
        qpos: Generalized positions, [nq].
        qvel: Generalized velocities, [nv].
        qacc_warmstart: Warm start of the solver, [nv].
        cfrc_ext: External forces on all bodies, [bodies, 6]; [0, 6] where they are not asked for.
    """

    qpos: Array
    qvel: Array
    qacc_warmstart: Array
    cfrc_ext: Array


def check_platform(env_id: str) -> None:
    """Checks that programs are traced for a chip that Warp has kernels for.

    Args:
        env_id: Name of the environment, for the message.

    Raises:
        ValueError: The platform is a TPU, or a GPU that is not NVIDIA's.
    """
    platform = platforms.current()
    if platform == "tpu" or (platform == "gpu" and "rocm" in backend.backends()):
        chip = "a TPU" if platform == "tpu" else "this GPU"
        raise invalid(
            f"impl of {env_id}", "warp", f"'jax' on {chip}: Warp's kernels are for NVIDIA GPUs"
        )


def make_step(
    model: Any, frame_skip: int, with_forces: bool
) -> Callable[[Array, Array, Array, Array], StepResult]:
    """Returns the function that simulates one step of an environment.

    Args:
        model: Compiled model, a `mujoco.MjModel`.
        frame_skip: Number of steps of the physics per step of the environment.
        with_forces: Whether the external forces are needed.

    Returns:
        Function of ``(qpos, qvel, warmstart, ctrl)`` of one environment. `jax.vmap` of it, nested
        or not, runs the kernels once for all environments.
    """
    _silence()
    model = copy.copy(model)
    model.opt.iterations = max(model.opt.iterations, _ITERATIONS)
    num_contacts, num_constraints = _capacity(model)
    with jax.ensure_compile_time_eval():
        warp_model = mjx.put_model(model, impl="warp")
    reports = load("mujoco.mjx.third_party.mujoco_warp").OverflowType
    reported = int(reports.ALL) & ~sum(int(reports[name]) for name in _UNREPORTED)
    warp_model = warp_model.tree_replace(
        {"opt._impl.run_rne_postconstraint": with_forces, "opt._impl.warn_overflow": reported}
    )

    @functools.lru_cache(maxsize=8)
    def blank_data(num_envs: int) -> Any:
        """Returns the host's copy of a blank record for one environment among ``num_envs``."""
        with jax.ensure_compile_time_eval():
            data = mjx.make_data(
                model, impl="warp", naconmax=num_contacts * num_envs, njmax=num_constraints
            )
            return jax.tree.map(np.asarray, data)

    @custom_vmap
    def step_many(qpos: Array, qvel: Array, warmstart: Array, ctrl: Array) -> StepResult:
        """Simulates a step of ``[B]`` environments."""
        blank = jax.tree.map(_constant, blank_data(len(qpos)))

        def simulate(qpos: Array, qvel: Array, warmstart: Array, ctrl: Array) -> StepResult:
            data = blank.replace(qpos=qpos, qvel=qvel, qacc_warmstart=warmstart, ctrl=ctrl)
            data = jax.lax.scan(
                lambda d, _: (mjx.step(warp_model, d), None), data, length=frame_skip
            )[0]
            forces = data._impl.cfrc_ext if with_forces else jnp.zeros((0, 6), jnp.float32)
            return StepResult(data.qpos, data.qvel, data.qacc_warmstart, forces)

        # the kernels know float32 only
        arguments = (x.astype(jnp.float32) for x in (qpos, qvel, warmstart, ctrl))
        result = jax.vmap(simulate)(*arguments)
        return jax.tree.map(lambda x: x.astype(qpos.dtype), result)

    @step_many.def_vmap
    def step_nested(
        axis_size: int, is_batched: list[bool], *arguments: Array
    ) -> tuple[StepResult, StepResult]:
        """Simulates ``[S, B]`` environments as ``[S * B]``."""
        arguments = _broadcast(axis_size, is_batched, arguments)
        sizes = arguments[0].shape[:2]
        result = step_many(*(x.reshape(math.prod(sizes), *x.shape[2:]) for x in arguments))
        return _batched(jax.tree.map(lambda x: x.reshape(*sizes, *x.shape[1:]), result))

    @custom_vmap
    def step(qpos: Array, qvel: Array, warmstart: Array, ctrl: Array) -> StepResult:
        """Simulates a step of one environment."""
        result = step_many(*(x[None] for x in (qpos, qvel, warmstart, ctrl)))
        return jax.tree.map(lambda x: x[0], result)

    @step.def_vmap
    def step_batch(
        axis_size: int, is_batched: list[bool], *arguments: Array
    ) -> tuple[StepResult, StepResult]:
        """Simulates a step of ``[B]`` environments."""
        return _batched(step_many(*_broadcast(axis_size, is_batched, arguments)))

    return step


def _silence() -> None:
    """Turns off Warp's lines on each kernel that it compiles: they go to the standard output."""
    warp = load("warp")
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)


def _capacity(model: Any) -> tuple[int, int]:
    """Returns the most contacts, and the most rows of constraints, that an environment can have.

    MJX's own record has an entry for each that is possible. Two capsules that lie side by side
    touch at two points in Warp and at one in MJX.
    """
    with jax.ensure_compile_time_eval():
        record = mjx.make_data(mjx.put_model(model, impl="jax"), impl="jax")._impl
    solid = model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE
    touches = (model.geom_contype[solid, None] & model.geom_conaffinity[solid]).any()
    factor = 2 if touches else 1
    return max(factor * int(record.ncon), 1), max(factor * int(record.nefc), 1)


def _constant(leaf: np.ndarray) -> Array:
    """Returns an array as a constant of a program, as small as it can be written there."""
    if leaf.size > 1 and (leaf == leaf.flat[0]).all():
        return jnp.full(leaf.shape, leaf.flat[0], leaf.dtype)
    return jnp.asarray(leaf)


def _broadcast(
    axis_size: int, is_batched: list[bool], arguments: tuple[Array, ...]
) -> tuple[Array, ...]:
    """Returns the arguments, all with a leading axis."""
    return tuple(
        x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
        for x, batched in zip(arguments, is_batched, strict=True)
    )


def _batched(result: StepResult) -> tuple[StepResult, StepResult]:
    """Returns a result, and that all of it has the leading axis."""
    return result, jax.tree.map(lambda _: True, result)
