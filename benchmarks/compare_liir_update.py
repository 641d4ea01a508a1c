"""Compares LIIR's full update with the reference implementation at its shapes, in turns on one
machine.

    python benchmarks/compare_liir_update.py --liir CHECKOUT --liir-python PYTHON

CHECKOUT is a clone of https://github.com/yalidu/liir; PYTHON is an interpreter with ``torch numpy
pyyaml``. Both get 32 full episodes of random data: 60 steps of 3 agents (the map 3m) and 120 of 8
agents (8m). Ours is one update at `LIIRConfig.reference` with the exact meta-gradient: one step of
the policy, the gradient through it, one step of the intrinsic reward, and one of each critic.
Theirs is ``learner.train``: one step of the policy, their one scalar, one step of the intrinsic
reward, and for the critic one step per time step; the time without that loop is reported as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import bench_utils
import command_line
import interleave
import jax
import jax.numpy as jnp

import jaxmarl_lite as jml
from jaxmarl_lite.types import EnvSpec, EpisodeStats, Observation, Rollout, Transition

HERE = Path(__file__).parent
CASES = {"3m": (3, 48, 30, 9, 60), "8m": (8, 168, 80, 14, 120)}
"""Map -> agents, state size, view size, actions, episode steps, as in the authors' battles."""
NUM_ENVS = 32


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument(
        "--liir", type=Path, required=True, help="a checkout of the reference implementation"
    )
    parser.add_argument(
        "--liir-python", required=True, help="an interpreter with torch, numpy and pyyaml"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="of torch; the fastest is compared"
    )
    parser.add_argument("--updates", type=int, default=5, help="updates of a turn")
    command_line.add_numbers(parser, rounds=5)
    args = parser.parse_args(argv)
    command_line.check_checkout(parser, "liir", args.liir, "src/learners")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs all comparisons and writes the table after each."""
    args = options(argv)
    path = args.out / f"compare-liir-update-{bench_utils.device_name()}.json"
    result: dict[str, Any] = {
        "facts": bench_utils.facts(),
        "machine": bench_utils.machine(),
        "commit": bench_utils.commit(args.liir),
        "settings": {name: getattr(args, name) for name in ("rounds", "updates", "threads")},
        "rows": [],
    }
    for name in args.cases:
        print(f"{name} ...", flush=True)
        result["rows"].append(compare(name, args, result["machine"]))
        bench_utils.write(path, result, text(result))
    print(f"\n{text(result)}\n{path}")
    return 0


def problem(name: str) -> tuple[Any, Any, Rollout]:
    """Returns LIIR, its state, and a batch of random full episodes at the authors' shapes."""
    agents, state, view, actions, steps = CASES[name]
    obs_size = view + actions + agents  # theirs see their last action and their number as well
    spec = EnvSpec(name, agents, obs_size, state, "discrete", actions, steps)
    algorithm = jml.make_algorithm(
        "liir", spec, jml.LIIRConfig.reference(meta_gradient="exact", outer_ratio="agent")
    )
    lead, key = (steps, NUM_ENVS), iter(jax.random.split(jax.random.key(0), 8))
    mask = jax.random.uniform(next(key), (*lead, agents, actions)) < 0.7
    mask = mask.at[..., 0].set(False).at[..., 1].set(True)
    action = jax.random.categorical(next(key), jnp.where(mask, 0.0, -jnp.inf))
    observations, states = (
        jax.random.normal(next(key), (*lead, *shape)) for shape in ((agents, obs_size), (state,))
    )
    obs = Observation(observations, states, mask, jnp.ones((*lead, agents), bool))
    following = jax.tree.map(lambda x: jnp.roll(x, -1, 0), obs)
    last = jnp.zeros(lead, bool).at[-1].set(True)
    reward = jnp.broadcast_to(jax.random.normal(next(key), (*lead, 1)), (*lead, agents))
    log_prob = -jnp.log(mask.sum(-1).astype(float))
    cost = jnp.zeros((*lead, agents, 0))
    moves = Transition(
        obs, action, log_prob, reward, cost, 1.0 - last.astype(float), last, following
    )
    ended = EpisodeStats(
        jnp.zeros(()), jnp.zeros(agents), jnp.zeros((agents, 0)), jnp.zeros(()), jnp.zeros(agents)
    )
    learner = algorithm.init(next(key), NUM_ENVS)
    return algorithm, learner, Rollout(moves, algorithm.init_hidden_state(NUM_ENVS), ended)


def compare(name: str, args: argparse.Namespace, machine: dict[str, float]) -> dict[str, Any]:
    """Times both programs in turns on one map and returns a row of results."""
    agents, state, view, actions, steps = CASES[name]
    algorithm, learner, batch = problem(name)
    began = time.perf_counter()
    update = jax.jit(algorithm.update).lower(jax.random.key(1), learner, batch).compile()
    compiling = time.perf_counter() - began
    operations = bench_utils.product_operations(algorithm.update, jax.random.key(1), learner, batch)
    sizes = dict(
        agents=agents, state=state, view=view, actions=actions, steps=steps, num_envs=NUM_ENVS
    )
    command = [args.liir_python, str(HERE / "drivers" / "liir_driver.py")]
    command += command_line.to_words({"checkout": args.liir.absolute(), **sizes})
    programs = {n: interleave.Program([*command, "--threads", str(n)]) for n in args.threads}

    def ours() -> Any:
        nonlocal learner
        learner, info = update(jax.random.key(1), learner, batch)
        return learner, info

    turns: dict[Any, list[Any]] = {"own": [], **{n: [] for n in programs}}
    try:
        for program in programs.values():
            program.updates(2)
        bench_utils.seconds(ours, 2)
        for _ in range(args.rounds):
            for n, program in programs.items():
                time.sleep(0.2)  # the other's threads come to rest
                turns[n].append(program.updates(args.updates))
            time.sleep(0.2)
            turns["own"].append(bench_utils.seconds(ours, 4 * args.updates, warm=0))
        versions = next(iter(programs.values())).facts["versions"]
    finally:
        for program in programs.values():
            program.end()
    ours_seconds = [statistics.median(turn) for turn in turns["own"]]
    theirs = {
        n: [statistics.median(total for total, _ in turn) for turn in turns[n]] for n in programs
    }
    without_loop = {
        n: [statistics.median(total - loop for total, loop in turn) for turn in turns[n]]
        for n in programs
    }
    best = min(theirs, key=lambda n: statistics.median(theirs[n]))
    ratios = [a / b for a, b in zip(theirs[best], ours_seconds, strict=True)]
    rate = operations / statistics.median(ours_seconds) / 1e9

    def medians(by_threads: dict[int, list[float]]) -> dict[int, float]:
        return {n: statistics.median(values) for n, values in by_threads.items()}

    return {
        "map": name,
        "sizes": sizes,
        "versions": versions,
        "compile_seconds": compiling,
        "threads": best,
        "own_seconds": statistics.median(ours_seconds),
        "their_seconds": medians(theirs),
        "their_seconds_without_critic_loop": medians(without_loop),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "ratio_without_critic_loop": statistics.median(
            a / b for a, b in zip(without_loop[best], ours_seconds, strict=True)
        ),
        "gflop": operations / 1e9,
        "gflops": rate,
        "share_of_product_rate": rate / machine["gemm_4096x128x128_gflops"],
    }


def text(result: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    rows = [
        {
            "map": row["map"],
            "ours, ms": 1e3 * row["own_seconds"],
            "theirs, ms": 1e3 * row["their_seconds"][row["threads"]],
            "their threads": row["threads"],
            "ratio": "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_range"]),
            "ratio without their critic loop": row["ratio_without_critic_loop"],
            "GFLOP of ours in products": row["gflop"],
            "% of the machine's product rate": 100 * row["share_of_product_rate"],
            "ours, compile s": row["compile_seconds"],
        }
        for row in result["rows"]
    ]
    s, versions = result["settings"], result["rows"][0]["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"# LIIR's update beside the reference implementation\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n"
        f"Theirs: commit {result['commit'][:9]}, {packages}. Ours: "
        '`LIIRConfig.reference(meta_gradient="exact", outer_ratio="agent")`.\n\n'
        f"The machine: {bench_utils.machine_text(result['machine'])}\n\n"
        f"{s['rounds']} rounds in turns, {s['updates']} updates of theirs and "
        f"{4 * s['updates']} of ours each; medians over rounds, least and greatest in brackets; "
        f"of torch's threads {s['threads']} the fastest.\n\n{bench_utils.table(rows)}\n{NUM_ENVS} "
        "episodes of 60 steps and 3 agents (3m), of 120 steps and 8 agents (8m). The "
        "product rate is that of 4096x128x128. Their critic is two dense layers of 128 for "
        "rewards and values, and takes a step per time step; ours are four networks of a dense "
        "layer and a GRU of 64, one step each.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
