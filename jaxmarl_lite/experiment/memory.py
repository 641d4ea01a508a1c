"""The memory that the programs of a run need, held against what the device has."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.experiment.compilation import CompiledRun
from jaxmarl_lite.experiment.config import RunConfig
from jaxmarl_lite.types import Environment

_CGROUP = Path("/sys/fs/cgroup/memory.max")


class DeviceMemoryError(MemoryError):
    """The programs of a run need more memory than the device has."""


class ProgramMemory(NamedTuple):
    """Bytes of one device that a compiled program needs, as XLA states them.

    Attributes:
        arguments: arrays that it is given.
        results: arrays that it returns, without those that take the place of arguments.
        temporaries: arrays that live while it runs.
        code: the program itself.
    """

    arguments: int
    results: int
    temporaries: int
    code: int


def of_program(compiled: Any) -> ProgramMemory:
    """Returns the memory of a compiled program.

    Args:
        compiled: a result of ``jax.stages.Lowered.compile``.
    """
    analysis = compiled.memory_analysis()
    return ProgramMemory(
        int(analysis.argument_size_in_bytes),
        int(analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
        int(analysis.temp_size_in_bytes),
        int(analysis.generated_code_size_in_bytes),
    )


def of_run(compiled: CompiledRun) -> dict[str, ProgramMemory]:
    """Returns the memory of every program of a run, by its name in `CompiledRun`.

    Args:
        compiled: the programs.
    """
    return {name: of_program(getattr(compiled, name)) for name in compilation.PROGRAMS}


def peak(programs: dict[str, ProgramMemory]) -> int:
    """Returns the most bytes of one device that a run needs at one time.

    The states of all seeds stay on the device while episodes are played, and training replaces them
    in place.

    Args:
        programs: the programs, as `of_run` returns them.
    """
    states = programs["init"].results
    code = sum(program.code for program in programs.values())

    def while_it_runs(name: str, program: ProgramMemory) -> int:
        resident = program.arguments if name == "train_chunk" else 0 if name == "init" else states
        return resident + program.results + program.temporaries

    return code + max(while_it_runs(name, program) for name, program in programs.items())


def device_bytes(device: Any = None) -> int | None:
    """Returns the memory of a device in bytes; of a CPU that of the machine or the container.

    Args:
        device: one of JAX's devices; None: the first.

    Returns:
        Bytes; None where they cannot be found out.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform != "cpu":
        with contextlib.suppress(Exception):  # some platforms have no such statistics
            return int(device.memory_stats()["bytes_limit"])
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        total = min(total, int(_CGROUP.read_text()))
    return total


def check(plan: RunConfig, env: Environment, compiled: CompiledRun) -> None:
    """Checks that the programs of a run fit the device.

    Args:
        plan: plan of the run.
        env: its environment.
        compiled: its programs.

    Raises:
        DeviceMemoryError: they do not; the message names the largest ``num_envs`` that does.
    """
    available, needed = device_bytes(), peak(of_run(compiled))
    if available is None or needed <= available:
        return
    largest = None if plan.lanes is not None else _largest_num_envs(plan, env, needed, available)
    allowed = "fewer seeds in parallel, environments or steps"
    if largest is not None:
        allowed = f"about {largest} at most" if largest else "none; a smaller num_steps may fit"
    raise DeviceMemoryError(
        f"num_envs is {plan.num_envs}, with which the run needs {in_words(needed)} of memory, and "
        f"{jax.devices()[0].device_kind} has {in_words(available)}; allowed is {allowed}"
    )


@contextlib.contextmanager
def exhaustion_explained() -> Iterator[None]:
    """Raises DeviceMemoryError in place of XLA's error that the device's memory is used up.

    `check` knows what the programs of a run need, but not what else is on the device.

    Yields:
        None.

    Raises:
        DeviceMemoryError: XLA found no memory inside the ``with`` statement.
    """
    try:
        yield
    except RuntimeError as error:  # the disk's RESOURCE_EXHAUSTED is a ValueError
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:300]
        raise DeviceMemoryError(
            f"{jax.devices()[0].device_kind} has no memory left for the run ({reason}); allowed "
            "are fewer environments, steps or seeds in parallel"
        ) from error


def _largest_num_envs(plan: RunConfig, env: Environment, needed: int, available: int) -> int | None:
    """Returns the largest number of environments that fits, by the memory of half as many.

    What a run needs is linear in the number: the weights do not depend on it, all else does.

    Returns:
        The number, 0 where none fits; None where half as many are no run.
    """
    multiple = max(1, getattr(plan.config, "num_minibatches", 1))
    multiple *= (plan.devices or 1) if plan.shard_over == "envs" else 1
    fewer = plan.num_envs // 2 // multiple * multiple
    if not fewer:
        return None
    try:
        smaller, _ = compilation.compile_run(dataclasses.replace(plan, num_envs=fewer), env)
    except ValueError:
        return None
    per_env = (needed - peak(of_run(smaller))) / (plan.num_envs - fewer)
    if per_env <= 0.0:
        return None
    fits = plan.num_envs - (needed - available) / per_env
    return max(0, int(fits) // multiple * multiple)


def in_words(count: float) -> str:
    """Returns a number of bytes with its unit, such as ``1.5 GB``.

    Args:
        count: bytes.

    Example:
        >>> in_words(1_500_000_000), in_words(20), in_words(1.234e12)
        ('1.5 GB', '20 bytes', '1.23 TB')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
