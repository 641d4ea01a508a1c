"""The host loop: train a chunk, report, evaluate, save; and the same again from where a run was cut off."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxmarl_lite import parallel, plan, programs, record, result
from jaxmarl_lite.algorithms import configs
from jaxmarl_lite.plan import Plan
from jaxmarl_lite.programs import Programs, Tally
from jaxmarl_lite.progress import Display
from jaxmarl_lite.report import checkpoint, metrics, runfolder
from jaxmarl_lite.result import Result, Timings
from jaxmarl_lite.types import Environment, TrainState

_CHUNK_SECONDS = 1.0  # between two movements of the progress bar


class RunError(RuntimeError):
    """A run cannot go on: a fault of its environment, or no seed left. Its folder and checkpoints are kept."""


def run(
    algorithm: str,
    env: str | Environment,
    *,
    config: Any = None,
    seeds: int | Sequence[int] = 3,
    total_steps: int = 1_000_000,
    out: str | Path | None = None,
    num_envs: int | None = None,
    num_steps: int | None = None,
    evaluations: int = 20,
    eval_episodes: int = 32,
    greedy: bool = False,
    env_args: Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    seeds_at_once: int | None = None,
    devices: int | None = None,
    layout: Literal["worlds", "seeds"] = "worlds",
    keep: int = 2,
    wandb: str | None = None,
    quiet: bool = False,
) -> Result:
    """Train an algorithm in an environment with several seeds, evaluating and saving on the way.

    Args:
        algorithm: its name: ``liir``, ``mappo``, ``ippo``.
        env: an id for `make`, or any object that follows the `Environment` protocol.
        config: settings of the algorithm; those tuned for this environment, or the defaults, when None.
        seeds: how many (0 .. n-1), or which.
        total_steps: environment steps of each seed, rounded up to whole updates.
        out: a folder for everything that is to be kept; None writes nothing.
        num_envs, num_steps: worlds and steps of a rollout; tuned for this environment, or 64 and 64, when None.
        evaluations: how often every seed is evaluated and saved, after the evaluation at the start.
        eval_episodes: episodes of an evaluation.
        greedy: evaluate the likeliest actions instead of sampled ones.
        env_args: keywords of `make`.
        resume: folder of a run to continue, bit for bit, from its newest checkpoint; all else must be as it was,
            except for a larger ``total_steps`` (evaluations then go on at the same distance).
        seeds_at_once: seeds that train side by side, the others after them; None: one on a CPU, else all.
        devices, layout: how many devices, and what is spread over them; see `jaxmarl_lite.parallel`.
        keep: checkpoints to keep.
        wandb: a W&B project to write to as well.
        quiet: print nothing.

    Raises:
        ValueError: for a setting that cannot be, before anything is compiled; names it and what is allowed.
        RunFolderError: ``out`` holds a run already, or ``resume`` holds none.
        RunError: rewards that are not finite, or every seed has diverged.
    """
    began = time.perf_counter()
    if out is not None and resume is not None and Path(out).absolute() != Path(resume).absolute():
        raise ValueError(f"out is {str(out)!r} and resume is {str(resume)!r}; allowed is one of them: a run stays put")
    given, world = plan.make_plan(
        algorithm, env, env_args=env_args, config=_config_of(config, resume), seeds=seeds, total_steps=total_steps,
        evaluations=evaluations, eval_episodes=eval_episodes, greedy=greedy, seeds_at_once=seeds_at_once,
        devices=devices, layout=layout, **_sizes_of(num_envs, num_steps, resume),
    )  # fmt: skip
    options = _Options(keep, wandb, quiet, began)
    if resume is not None:
        stored = plan.read(resume)
        plan.check_same(given, stored, resume)
        return _continue(_moved(plan.prolonged(stored, total_steps), given), world, runfolder.find(resume), options)
    with parallel_check(given):
        folder = None if out is None else _create(out, given)
    return _go(given, world, folder, options, None)
