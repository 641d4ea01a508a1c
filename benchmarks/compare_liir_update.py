"""LIIR's full update beside the authors' program at its own shapes, in turns on one machine.

    python benchmarks/compare_liir_update.py --liir CHECKOUT --liir-python PYTHON

CHECKOUT is a clone of https://github.com/yalidu/liir; PYTHON is an interpreter with ``torch numpy
pyyaml``. Both get 32 whole episodes of random data: 60 steps of 3 agents (the map 3m) and 120 of 8
agents (8m). Ours is one update at `LIIRConfig.reference` with the exact meta-gradient: one step of
the policy, the gradient through it, one step of the intrinsic reward, and one of each critic.
Theirs is ``learner.train``: one step of the policy, their one scalar, one step of the intrinsic
reward, and for the critic one step per time step; the time without that loop is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import bench_utils
import interleave
import jax
import jax.numpy as jnp

import jaxmarl_lite as jml
from jaxmarl_lite.types import EnvSpec, EpisodeStats, Observation, Rollout, Transition

HERE = Path(__file__).parent
CASES = {"3m": (3, 48, 30, 9, 60), "8m": (8, 168, 80, 14, 120)}
"""Map -> agents, entries of the state and of a view, actions, steps of an episode, as in the
authors' battles."""
WORLDS = 32


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--liir", type=Path, required=True, help="a checkout of the authors' program"
    )
    parser.add_argument(
        "--liir-python", required=True, help="an interpreter with torch, numpy and pyyaml"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="of torch; the fastest is compared"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=5, help="updates of a turn")
    parser.add_argument(
        "--out", type=Path, default=bench_utils.RESULTS, help="folder of the result files"
    )
    found = parser.parse_args(words)
    if not (found.liir / "src" / "learners").is_dir():
        parser.error(f"--liir: {found.liir} is no checkout of LIIR: it has no src/learners")
    return found


def main(words: list[str] | None = None) -> int:
    """All comparisons; the table is written after each."""
    chosen = options(words)
    path = chosen.out / f"compare-liir-update-{bench_utils.device_name()}.json"
    result: dict[str, Any] = {
        "facts": bench_utils.facts(),
        "machine": bench_utils.machine(),
        "commit": bench_utils.commit(chosen.liir),
        "settings": {name: getattr(chosen, name) for name in ("rounds", "updates", "threads")},
        "rows": [],
    }
    for name in chosen.cases:
        print(f"{name} ...", flush=True)
        result["rows"].append(compare(name, chosen, result["machine"]))
        bench_utils.write(path, result, text(result))
    print(f"\n{text(result)}\n{path}")
    return 0


def problem(name: str) -> tuple[Any, Any, Rollout]:
    """LIIR, its state, and a batch of random whole episodes at the authors' shapes."""
    agents, state, view, actions, steps = CASES[name]
    seen = view + actions + agents  # theirs see their last action and their number as well
    spec = EnvSpec(name, agents, seen, state, "discrete", actions, steps)
    algorithm = jml.make_algorithm(
        "liir", spec, jml.LIIRConfig.reference(meta_gradient="exact", outer_ratio="agent")
    )
    lead, key = (steps, WORLDS), iter(jax.random.split(jax.random.key(0), 8))
    mask = jax.random.uniform(next(key), (*lead, agents, actions)) < 0.7
    mask = mask.at[..., 0].set(False).at[..., 1].set(True)
    action = jax.random.categorical(next(key), jnp.where(mask, 0.0, -jnp.inf))
    views, whole = (
        jax.random.normal(next(key), (*lead, *shape)) for shape in ((agents, seen), (state,))
    )
    obs = Observation(views, whole, mask, jnp.ones((*lead, agents), bool))
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
    learner = algorithm.init(next(key), WORLDS)
    return algorithm, learner, Rollout(moves, algorithm.init_hidden_state(WORLDS), ended)


def compare(name: str, chosen: argparse.Namespace, machine: dict[str, float]) -> dict[str, Any]:
    """One row."""
    agents, state, view, actions, steps = CASES[name]
    algorithm, learner, batch = problem(name)
    began = time.perf_counter()
    update = jax.jit(algorithm.update).lower(jax.random.key(1), learner, batch).compile()
    compiling = time.perf_counter() - began
    operations = bench_utils.product_operations(algorithm.update, jax.random.key(1), learner, batch)
    sizes = dict(agents=agents, state=state, view=view, actions=actions, steps=steps, worlds=WORLDS)
    command = [
        chosen.liir_python,
        str(HERE / "drivers" / "liir_driver.py"),
        "--checkout",
        str(chosen.liir.absolute()),
    ]
    command += [word for key, value in sizes.items() for word in (f"--{key}", str(value))]
    programs = {n: interleave.Program([*command, "--threads", str(n)]) for n in chosen.threads}
    held = [learner]

    def ours() -> Any:
        held[0], info = update(jax.random.key(1), held[0], batch)
        return held[0], info

    turns: dict[Any, list[Any]] = {"own": [], **{n: [] for n in programs}}
    try:
        for program in programs.values():
            program.updates(2)
        bench_utils.seconds(ours, 2)
        for _ in range(chosen.rounds):
            for n, program in programs.items():
                time.sleep(0.2)  # the other's threads come to rest
                turns[n].append(program.updates(chosen.updates))
            time.sleep(0.2)
            turns["own"].append(bench_utils.seconds(ours, 4 * chosen.updates, warm=0))
        versions = next(iter(programs.values())).facts["versions"]
    finally:
        for program in programs.values():
            program.end()
    own = [statistics.median(turn) for turn in turns["own"]]
    theirs = {
        n: [statistics.median(whole for whole, _ in turn) for turn in turns[n]] for n in programs
    }
    apart = {
        n: [statistics.median(whole - loop for whole, loop in turn) for turn in turns[n]]
        for n in programs
    }
    best = min(theirs, key=lambda n: statistics.median(theirs[n]))
    ratios = [a / b for a, b in zip(theirs[best], own, strict=True)]
    rate = operations / statistics.median(own) / 1e9
    return {
        "map": name,
        "sizes": sizes,
        "versions": versions,
        "compile_seconds": compiling,
        "threads": best,
        "own_seconds": statistics.median(own),
        "their_seconds": {n: statistics.median(each) for n, each in theirs.items()},
        "their_seconds_without_critic_loop": {
            n: statistics.median(each) for n, each in apart.items()
        },
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "ratio_without_critic_loop": statistics.median(
            a / b for a, b in zip(apart[best], own, strict=True)
        ),
        "gflop": operations / 1e9,
        "gflops": rate,
        "share_of_product_rate": rate / machine["gemm_4096x128x128_gflops"],
    }


def text(result: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    rows = [
        [
            row["map"],
            1e3 * row["own_seconds"],
            1e3 * row["their_seconds"][row["threads"]],
            row["threads"],
            f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})",
            row["ratio_without_critic_loop"],
            row["gflop"],
            100 * row["share_of_product_rate"],
            row["compile_seconds"],
        ]
        for row in result["rows"]
    ]
    columns = [
        "map",
        "ours, ms",
        "theirs, ms",
        "their threads",
        "ratio",
        "ratio without their critic loop",
        "GFLOP of ours in products",
        "% of the machine's product rate",
        "ours, compile s",
    ]
    s, versions = result["settings"], result["rows"][0]["versions"]
    of = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        "# LIIR's update beside the authors' "
        f"program\n\n{bench_utils.facts_text(result['facts'])}\n\n"
        f"Theirs: commit {result['commit'][:9]}, {of}. Ours: "
        '`LIIRConfig.reference(meta_gradient="exact", '
        'outer_ratio="agent")`.\n\n'
        "The machine: "
        + ", ".join(f"{k} {bench_utils.cell_text(v)}" for k, v in result["machine"].items())
        + "\n\n"
        f"{s['rounds']} rounds in turns, {s['updates']} updates of theirs and {4 * s['updates']} "
        "of ours each; medians "
        f"over rounds, least and greatest in brackets; of torch's threads {s['threads']} the "
        "fastest.\n\n"
        f"{bench_utils.table(columns, rows)}\n"
        f"{WORLDS} episodes of 60 steps and 3 agents (3m), of 120 steps and 8 agents (8m). The "
        "product rate is that of "
        "4096x128x128. Their critic is two dense layers of 128 for rewards and values, and takes "
        "a step per time step; "
        "ours are four networks of a dense layer and a GRU of 64, one step each.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
