"""Compiles the programs of a run for a chip that need not be there, and prints what is in them.
Started by `device_programs.py`.

    python device_driver.py --chip h100 --algorithm mappo --env toy/budget --num-envs 64
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from typing import Any

import chips
import serving

PROGRAMS = ("train_chunk", "evaluate", "init")


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chip", required=True)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--shard-over", choices=("envs", "seeds"), default="envs")
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--env", required=True)
    parser.add_argument("--num-envs", type=int)
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--config", default="{}", help="settings of the algorithm, as JSON")
    parser.add_argument(
        "--largest",
        type=float,
        help="find the largest num_envs that trains in this share of the chip's memory",
    )
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    return parser.parse_args()


def gradient_bytes(algorithm: str, config: Any, learner: Any) -> int | None:
    """Returns the bytes of the gradients of one update, which devices add up over environments.

    They follow from the sizes of the weights; None for an algorithm whose steps are not known here.
    Of the conjugate gradient one iteration is counted, as `serving.count` counts a loop of unknown
    length.

    Args:
        algorithm: its name.
        config: its settings.
        learner: shapes of the learner's state of one seed.
    """
    import jax

    def size(tree: Any) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    if algorithm not in ("mappo", "liir", "macpo"):
        return None
    actor, steps = size(learner.actor_params), config.num_epochs * config.num_minibatches
    if algorithm == "mappo":
        return steps * (actor + size(learner.critic_params))
    if algorithm == "liir":  # the policy's step, the outer gradient at its end, and the rest
        others = ("intrinsic_params", "proxy_critic_params", "extrinsic_critic_params")
        return steps * (2 * actor + sum(size(getattr(learner, name)) for name in others))
    # each agent's turn: the gradients of reward and costs, and a Fisher product for each of them
    surrogates = 1 + learner.costs.episode_cost.shape[-1]
    critics = size(learner.critic_params) + size(learner.costs.critic_params)
    return steps * critics + 2 * surrogates * actor


def make_plan(args: argparse.Namespace, num_envs: int | None) -> tuple[Any, Any]:
    """Returns plan and environment of the options, with a number of environments."""
    from jaxmarl_lite.experiment import config as experiment_config

    return experiment_config.make_run_config(
        args.algorithm,
        args.env,
        config={
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(args.config).items()
        },
        num_envs=num_envs,
        num_steps=args.num_steps,
        seeds=args.num_seeds,
        shard_over=args.shard_over,
        total_steps=10**9,
    )


def largest(args: argparse.Namespace, devices: list[Any]) -> dict[str, Any]:
    """Returns the largest number of environments that fits, and the memory of its training.

    Memory is nearly linear in it: two sizes give the line, and the number that the line gives is
    compiled too.
    """
    from jaxmarl_lite.experiment import compilation, memory

    limit = args.largest * chips.find(args.chip).memory

    def needed(count: int) -> int:
        plan, env = make_plan(args, count)
        ((_, compiled),) = compilation.compile_for(plan, env, devices, ("train_chunk",))
        return sum(memory.of_program(compiled))

    unit = args.devices * math.lcm(
        256, getattr(make_plan(args, None)[0].config, "num_minibatches", 1)
    )
    sizes = [(count, needed(count)) for count in (4 * unit, 8 * unit)]
    while True:
        (few, less), (many, more) = sizes[-2:]
        slope = (more - less) / (many - few)
        count = int((many + (limit - more) / slope) // unit) * unit
        fitting = [size for size in sizes if size[1] <= limit]
        if not fitting or any(size[0] == count for size in sizes) or len(sizes) > 6:
            break
        sizes.append((count, needed(count)))
    count, used = max(fitting, default=(0, 0))
    return {"largest": count, "memory": used, "limit": int(limit), "tried": sizes}


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the facts of every program by its name, and sizes of the run."""
    import jax

    from jaxmarl_lite.experiment import compilation, memory

    plan, env = make_plan(args, args.num_envs)
    devices = chips.devices(args.chip, args.devices)
    weights = compilation.abstract_states(plan, env).learner_state
    result: dict[str, Any] = {
        "num_envs": plan.num_envs,
        "num_steps": plan.num_steps,
        "learner_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(weights)),
        "versions": serving.versions("jax", "jaxmarl-lite"),
        "programs": {},
    }
    if args.largest:
        return result | largest(args, devices)
    if args.devices > 1 and args.shard_over == "envs":
        result["gradient_bytes"] = gradient_bytes(args.algorithm, plan.config, weights)
    began = time.perf_counter()
    for name, compiled in compilation.compile_for(plan, env, devices, tuple(args.programs)):
        facts: dict[str, Any] = serving.program_facts(compiled)
        text = compiled.as_text()
        facts |= {"collectives": serving.collectives(text)}
        facts |= {"memory_bytes": sum(memory.of_program(compiled))}
        with contextlib.suppress(Exception):  # XLA has no such analysis for every chip
            costs = compiled.cost_analysis()
            facts |= {"flops": costs["flops"], "bytes_accessed": costs["bytes accessed"]}
        result["programs"][name] = facts | {"compile_seconds": time.perf_counter() - began}
        began = time.perf_counter()
    return result


def main() -> None:
    """Prints the facts, or why there are none, as one line of JSON."""
    args, answers = options(), serving.take_stdout()
    try:
        chips.check_plugin(args.chip)
        result = facts_of(args)
    except Exception as error:
        if not isinstance(error, (chips.ChipError, ValueError)):
            import traceback

            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        result = {"error": text if len(text) < 600 else f"{text[:600]} ..."}
    print(json.dumps(result), file=answers, flush=True)
    sys.exit(1 if "error" in result else 0)


if __name__ == "__main__":
    main()
