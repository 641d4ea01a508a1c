"""How fast training is, where its time goes, and how that compares with what the machine can do.

    python benchmarks/speed.py                                   everything, at Mava's sizes
    python benchmarks/speed.py --cases liir:gru:jumanji/lbf-2s-8x8-2p-2f-coop --repeats 3

For each case (algorithm : recurrent layer : environment) it times, after a warm-up and as medians
of several repeats,

- training: the compiled program that `jaxmarl_lite.run` itself advances, of one seed, its state
  donated;
- its rollout alone, and its update alone on one fixed batch, as compiled functions of their own;
- the host's part: the same compiled program asked for no update at all, with the transfer of the
  metrics that `run` makes after each chunk of about a second;
- the bare environment under random legal actions, episodes renewed as in the rollout.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_utils
import jax
import jax.numpy as jnp
import numpy as np

from jaxmarl_lite import rollout, sharding
from jaxmarl_lite.algorithms import base_config, random_policy, registry
from jaxmarl_lite.experiment import compilation
from jaxmarl_lite.experiment import config as experiment_config
from jaxmarl_lite.types import Algorithm, Environment, Rollout, RolloutState

ENVIRONMENTS = ("jumanji/lbf-2s-8x8-2p-2f-coop", "jumanji/rware-tiny-2ag")
ALGORITHMS, CELLS = ("liir", "mappo", "ippo"), ("none", "gru")
CASES = [
    f"{algorithm}:{cell}:{env}"
    for env in ENVIRONMENTS
    for cell in CELLS
    for algorithm in ALGORITHMS
]
CHUNK_SECONDS = 1.0  # between two looks of `run` at the device


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", default=CASES, help="algorithm:{none,gru}:environment; default: all"
    )
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--rnn-hidden-size", type=int, default=128)
    parser.add_argument("--num-epochs", type=int, default=4)
    parser.add_argument("--num-minibatches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of everything")
    parser.add_argument(
        "--out", type=Path, default=bench_utils.RESULTS, help="folder of the result files"
    )
    found = parser.parse_args(words)
    for case in found.cases:
        if case.count(":") != 2 or case.split(":")[1] not in CELLS:
            parser.error(
                f"--cases: {case!r}; allowed is ALGORITHM:{{none,gru}}:ENVIRONMENT, such as "
                f"{CASES[0]}"
            )
    return found


def main(words: list[str] | None = None) -> int:
    """Run all cases and write the table after each; 1 when one of them failed."""
    chosen = options(words)
    settings = {name: value for name, value in vars(chosen).items() if name not in ("cases", "out")}
    path = chosen.out / f"speed-{bench_utils.device_name()}.json"
    where = bench_utils.facts()
    result = {
        "settings": settings,
        "facts": where,
        "machine": bench_utils.machine(),
        "rows": {},
        "failed": {},
    }
    earlier = bench_utils.read(path)
    if earlier.get("settings") == settings and _same_place(earlier["facts"], where):
        result["rows"] = earlier["rows"]  # of cases that are not asked for now
    for case in chosen.cases:
        print(f"{case} ...", flush=True)
        result["rows"].pop(case, None)
        try:
            result["rows"][case] = measure(case, chosen)
        except Exception as error:  # the other cases are worth having
            traceback.print_exc()
            result["failed"][case] = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
        bench_utils.write(path, result, text(result))
        compilation._compile.cache_clear()
        jax.clear_caches()
        gc.collect()
    print(f"\n{text(result)}\n{path}")
    return 1 if result["failed"] else 0


def _same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results may stand in one table."""
    return {**one, "date": 0} == {**other, "date": 0}


def measure(case: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row: seconds of each part, and what follows from them."""
    name, cell, env_id = case.split(":")
    recurrent = cell == "gru"
    config = registry.config_of(name)(
        hidden_sizes=tuple(chosen.hidden_sizes),
        **({"recurrent": True, "rnn_hidden_size": chosen.rnn_hidden_size} if recurrent else {}),
        num_epochs=chosen.num_epochs,
        num_minibatches=chosen.num_minibatches,
    )
    planned, env = experiment_config.make_run_config(
        name,
        env_id,
        config=config,
        seeds=1,
        num_envs=chosen.num_envs,
        num_steps=chosen.num_steps,
        total_steps=1,
        num_evaluations=1,
        eval_episodes=32,
    )
    row: dict[str, Any] = {
        "algorithm": name,
        "recurrent": recurrent,
        "env": env_id,
        "agents": env.spec.num_agents,
    }
    row |= time_training(planned, env, chosen.repeats)
    row |= time_parts(planned, env, chosen.repeats, row["updates_timed"] // chosen.repeats)
    return row | derived(row, planned.batch_steps, env.spec.num_agents)


def time_training(
    planned: experiment_config.RunConfig, env: Environment, repeats: int
) -> dict[str, Any]:
    """Seconds of an update as `run` trains, of the host's part in a chunk, and of compiling."""
    compiled, compiling = compilation.compile_run(planned, env)
    state = compiled.init(
        np.asarray(planned.seeds, np.uint32), base_config.as_arrays(planned.learner_config)
    )

    def go(updates: int) -> Callable[[Any], Any]:
        def call(carry: Any) -> Any:
            states, tally = compiled.train_chunk(*carry, np.int32(updates))
            sharding.fetch(
                (
                    tally.diverged,
                    tally.env_fault_update,
                    tally.total["return"],
                    tally.count["return"],
                )
            )
            return states, tally

        return call

    first, carry = bench_utils.repeated(go(1), (state, compiled.empty), 2, warm=2)
    chunk = max(
        1, min(50, int(CHUNK_SECONDS / 4 / min(first)))
    )  # so that a fast device is not asked one by one
    taken, carry = bench_utils.repeated(go(chunk), carry, repeats)
    idle, carry = bench_utils.repeated(go(0), carry, max(repeats, 20), warm=2)
    each = [t / chunk for t in taken]
    return {
        "compile_seconds": compiling,
        "update_seconds": statistics.median(each),
        "update_seconds_range": [min(each), max(each)],
        "updates_timed": chunk * repeats,
        "host_seconds_per_chunk": statistics.median(idle),
    }


def time_parts(
    planned: experiment_config.RunConfig, env: Environment, repeats: int, group: int
) -> dict[str, Any]:
    """Seconds of the rollout alone, of the update alone, and of the bare environment; operations of
    the update.
    """
    timed = functools.partial(bench_utils.repeated, repeats=repeats, warm=2, group=group)
    algorithm = registry.make_algorithm(planned.algorithm, env.spec, planned.config)
    key = jax.random.key(1)
    learner = jax.jit(lambda key: algorithm.init(key, planned.num_envs, planned.config))(key)
    collect = _rollout(algorithm, env, planned.num_steps)
    acting = _begin(algorithm, env, planned.num_envs, key)
    batch = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(collect, learner, acting, key, None)[1],
    )
    again = jax.jit(
        collect, donate_argnums=(1, 3), keep_unused=True
    )  # the old batch's memory holds the new one
    rolled, (acting, batch) = timed(lambda c: again(learner, c[0], key, c[1]), (acting, batch))
    operations = bench_utils.product_operations(algorithm.update, key, learner, batch)
    update = jax.jit(algorithm.update, donate_argnums=1)
    updated, _ = timed(lambda c: update(key, c[0], batch), (learner, None))
    return {
        "rollout_seconds": statistics.median(rolled),
        "learning_seconds": statistics.median(updated),
        "learning_gflop": operations / 1e9,
        "environment_seconds": time_environment(env, planned.num_envs, planned.num_steps, timed),
    }


def _begin(algorithm: Algorithm, env: Environment, num_envs: int, key: Any) -> RolloutState:
    begin = jax.jit(
        lambda key: rollout.init_rollout_state(
            env, key, num_envs, algorithm.init_hidden_state(num_envs)
        )
    )
    return begin(key)


def _rollout(
    algorithm: Algorithm, env: Environment, num_steps: int
) -> Callable[..., tuple[RolloutState, Rollout]]:
    def collect(
        learner: Any, acting: RolloutState, key: Any, old: Rollout | None
    ) -> tuple[RolloutState, Rollout]:
        def act(key: Any, obs: Any, hidden_state: Any) -> Any:
            return algorithm.act(learner, key, obs, hidden_state)

        return rollout.rollout(env, act, acting, key, num_steps)

    return collect


def time_environment(
    env: Environment, num_envs: int, num_steps: int, timed: Callable[..., Any]
) -> float:
    """Seconds of ``num_steps`` steps of all worlds under random legal actions; no transition is
    kept.
    """
    random = random_policy.random_policy(env.spec)

    def play(acting: RolloutState, key: Any) -> RolloutState:
        return rollout.rollout(env, lambda *given: random.act((), *given), acting, key, num_steps)[
            0
        ]

    step, key = jax.jit(play, donate_argnums=0), jax.random.key(2)
    taken, _ = timed(lambda acting: step(acting, key), _begin(random, env, num_envs, key))
    return statistics.median(taken)


def derived(row: dict[str, Any], batch: int, agents: int) -> dict[str, Any]:
    """Rates, and each part's share of the three parts' sum."""
    per_chunk = max(1, int(CHUNK_SECONDS / row["update_seconds"]))
    host = row["host_seconds_per_chunk"] / per_chunk
    whole = row["rollout_seconds"] + row["learning_seconds"] + host
    return {
        "steps_per_second": batch / row["update_seconds"],
        "agent_steps_per_second": batch * agents / row["update_seconds"],
        "environment_steps_per_second": batch / row["environment_seconds"],
        "share_rollout": row["rollout_seconds"] / whole,
        "share_learning": row["learning_seconds"] / whole,
        "share_host": host / whole,
        "parts_over_whole": whole / row["update_seconds"],
        "learning_gflops": row["learning_gflop"] / row["learning_seconds"],
    }


def text(result: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    s, rates = result["settings"], result["machine"]
    columns = [
        "algorithm",
        "recurrent",
        "environment",
        "env steps/s",
        "bare env steps/s",
        "rollout %",
        "update %",
        "host %",
        "parts/whole",
        "update GFLOP",
        "GFLOP/s",
        "of GEMM %",
        "compile s",
    ]
    small = rates["gemm_4096x128x128_gflops"]
    rows = [
        [
            r["algorithm"],
            "yes" if r["recurrent"] else "no",
            r["env"],
            r["steps_per_second"],
            r["environment_steps_per_second"],
            100 * r["share_rollout"],
            100 * r["share_learning"],
            100 * r["share_host"],
            r["parts_over_whole"],
            r["learning_gflop"],
            r["learning_gflops"],
            100 * r["learning_gflops"] / small,
            r["compile_seconds"],
        ]
        for r in _ordered(result["rows"])
    ]
    head = (
        "# Speed on "
        f"{result['facts']['device_kind']}\n\n{bench_utils.facts_text(result['facts'])}\n\n"
        f"{s['num_envs']} worlds x {s['num_steps']} steps, {s['num_epochs']} epochs x "
        f"{s['num_minibatches']} "
        f"minibatches, dense {'-'.join(map(str, s['hidden_sizes']))}, GRU {s['rnn_hidden_size']}; "
        f"medians of {s['repeats']} repeats.\n\n"
        "The machine: "
        + ", ".join(f"{name} {bench_utils.cell_text(rate)}" for name, rate in rates.items())
        + "\n\n"
    )
    foot = (
        "\nEnv steps are steps of the joint environment. Rollout, update (learning) and host are "
        "shares of the sum of "
        "the three, each timed on its own; parts/whole is that sum over the time of a real update "
        "(below 1: the parts "
        "alone run faster than together). Bare env: random legal actions, episodes renewed, no "
        "transition kept. "
        "GFLOP: matrix products alone, 2mkn each times the lengths of the scans around it, "
        "counted in the traced "
        "update; of GEMM: against the 4096x128x128 product. Compile: all programs of a run, side "
        "by side.\n"
    )
    failed = "".join(f"\nFailed: {case}: {why}\n" for case, why in result["failed"].items())
    return head + bench_utils.table(columns, rows) + foot + failed


def _ordered(rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        rows[case]
        for case in sorted(rows, key=lambda c: (CASES.index(c) if c in CASES else len(CASES), c))
    ]


if __name__ == "__main__":
    sys.exit(main())
