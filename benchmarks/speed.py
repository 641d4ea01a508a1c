"""Measures the speed of training, the share of each part, and the machine's own rates.

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
CASES = [f"{name}:{cell}:{env}" for env in ENVIRONMENTS for cell in CELLS for name in ALGORITHMS]
CHUNK_SECONDS = 1.0  # between two reads of the metrics by `run`


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument(
        "--cases", nargs="+", default=CASES, help="algorithm:{none,gru}:environment; default: all"
    )
    bench_utils.add_numbers(parser, num_envs=32, num_steps=128, hidden_sizes=[128, 128])
    bench_utils.add_numbers(parser, rnn_hidden_size=128, num_epochs=4, num_minibatches=2)
    parser.add_argument("--repeats", type=int, default=7, help="timed repeats of everything")
    args = parser.parse_args(argv)
    for case in args.cases:
        if case.count(":") != 2 or case.split(":")[1] not in CELLS:
            parser.error(
                f"--cases: {case!r}; allowed is ALGORITHM:{{none,gru}}:ENVIRONMENT, such as "
                f"{CASES[0]}"
            )
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs all cases and writes the table after each; returns 1 if a case failed."""
    args = options(argv)
    settings = {name: value for name, value in vars(args).items() if name not in ("cases", "out")}
    path = args.out / f"speed-{bench_utils.device_name()}.json"
    facts = bench_utils.facts()
    result = {
        "settings": settings,
        "facts": facts,
        "machine": bench_utils.machine(),
        "rows": bench_utils.comparable_rows(path, settings, facts),
        "failed": {},
    }
    for case in args.cases:
        print(f"{case} ...", flush=True)
        result["rows"].pop(case, None)
        try:
            result["rows"][case] = measure(case, args)
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


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures a case: seconds of each part, and rates and shares from them."""
    name, cell, env_id = case.split(":")
    recurrent = cell == "gru"
    config = registry.config_of(name)(
        hidden_sizes=tuple(args.hidden_sizes),
        **({"recurrent": True, "rnn_hidden_size": args.rnn_hidden_size} if recurrent else {}),
        num_epochs=args.num_epochs,
        num_minibatches=args.num_minibatches,
    )
    planned, env = experiment_config.make_run_config(
        name,
        env_id,
        config=config,
        seeds=1,
        num_envs=args.num_envs,
        num_steps=args.num_steps,
        total_steps=1,
        num_evaluations=1,
        eval_episodes=32,
    )
    row: dict[str, Any] = {"algorithm": name, "recurrent": recurrent, "env": env_id}
    row["agents"] = env.spec.num_agents
    row |= time_training(planned, env, args.repeats)
    row |= time_parts(planned, env, args.repeats, row["updates_timed"] // args.repeats)
    return row | derived(row, planned.batch_steps, env.spec.num_agents)


def time_training(
    planned: experiment_config.RunConfig, env: Environment, repeats: int
) -> dict[str, Any]:
    """Times an update as `run` trains, the host's part in a chunk, and compiling."""
    compiled, compiling = compilation.compile_run(planned, env)
    state = compiled.init(
        np.asarray(planned.seeds, np.uint32), base_config.as_arrays(planned.learner_config)
    )

    def chunk_of(updates: int) -> Callable[[Any], Any]:
        def call(carry: Any) -> Any:
            states, tally = compiled.train_chunk(*carry, np.int32(updates))
            sharding.fetch(tally)  # as `run` does after every chunk
            return states, tally

        return call

    first, carry = bench_utils.repeated(chunk_of(1), (state, compiled.empty), 2, warm=2)
    # one call makes many updates, so that the host does not slow a fast device
    chunk = max(1, min(50, int(CHUNK_SECONDS / 4 / min(first))))
    durations, carry = bench_utils.repeated(chunk_of(chunk), carry, repeats)
    host_seconds, carry = bench_utils.repeated(chunk_of(0), carry, max(repeats, 20), warm=2)
    seconds = [duration / chunk for duration in durations]
    return {
        "compile_seconds": compiling,
        "update_seconds": statistics.median(seconds),
        "update_seconds_range": [min(seconds), max(seconds)],
        "updates_timed": chunk * repeats,
        "host_seconds_per_chunk": statistics.median(host_seconds),
    }


def time_parts(
    planned: experiment_config.RunConfig, env: Environment, repeats: int, group: int
) -> dict[str, Any]:
    """Times the rollout, the update, and the bare environment; counts the update's operations."""
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
    # donated: the new batch takes the memory of the old one
    again = jax.jit(collect, donate_argnums=(1, 3), keep_unused=True)
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
    """Times ``num_steps`` steps of the environments alone, under random legal actions."""
    random = random_policy.random_policy(env.spec)

    def play(rollout_state: RolloutState, key: Any) -> RolloutState:
        act = functools.partial(random.act, ())
        return rollout.rollout(env, act, rollout_state, key, num_steps)[0]

    step, key = jax.jit(play, donate_argnums=0), jax.random.key(2)
    durations, _ = timed(
        lambda rollout_state: step(rollout_state, key), _begin(random, env, num_envs, key)
    )
    return statistics.median(durations)


def derived(row: dict[str, Any], batch: int, agents: int) -> dict[str, Any]:
    """Returns rates, and each part's share of the three parts' sum."""
    per_chunk = max(1, int(CHUNK_SECONDS / row["update_seconds"]))
    host = row["host_seconds_per_chunk"] / per_chunk
    total = row["rollout_seconds"] + row["learning_seconds"] + host
    return {
        "steps_per_second": batch / row["update_seconds"],
        "agent_steps_per_second": batch * agents / row["update_seconds"],
        "environment_steps_per_second": batch / row["environment_seconds"],
        "share_rollout": row["rollout_seconds"] / total,
        "share_learning": row["learning_seconds"] / total,
        "share_host": host / total,
        "parts_over_whole": total / row["update_seconds"],
        "learning_gflops": row["learning_gflop"] / row["learning_seconds"],
    }


def text(result: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    s, rates = result["settings"], result["machine"]
    small = rates["gemm_4096x128x128_gflops"]
    rows = [
        {
            "algorithm": r["algorithm"],
            "recurrent": "yes" if r["recurrent"] else "no",
            "environment": r["env"],
            "env steps/s": r["steps_per_second"],
            "bare env steps/s": r["environment_steps_per_second"],
            "rollout %": 100 * r["share_rollout"],
            "update %": 100 * r["share_learning"],
            "host %": 100 * r["share_host"],
            "parts/whole": r["parts_over_whole"],
            "update GFLOP": r["learning_gflop"],
            "GFLOP/s": r["learning_gflops"],
            "of GEMM %": 100 * r["learning_gflops"] / small,
            "compile s": r["compile_seconds"],
        }
        for r in _ordered(result["rows"])
    ]
    head = (
        f"# Speed on {result['facts']['device_kind']}\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n{s['num_envs']} environments x "
        f"{s['num_steps']} steps, {s['num_epochs']} epochs x {s['num_minibatches']} minibatches, "
        f"dense {'-'.join(map(str, s['hidden_sizes']))}, GRU {s['rnn_hidden_size']}; medians of "
        f"{s['repeats']} repeats.\n\nThe machine: {bench_utils.machine_text(rates)}\n\n"
    )
    foot = (
        "\nEnv steps are steps of the joint environment. Rollout, update (learning) and host are "
        "shares of the sum of the three, each timed on its own; parts/whole is that sum over the "
        "time of a real update (below 1: the parts alone run faster than together). Bare env: "
        "random legal actions, episodes renewed, no transition kept. GFLOP: matrix products alone, "
        "2mkn each times the lengths of the scans around it, counted in the traced update; of "
        "GEMM: against the 4096x128x128 product. Compile: all programs of a run, side by side.\n"
    )
    failed = "".join(f"\nFailed: {case}: {why}\n" for case, why in result["failed"].items())
    return head + bench_utils.table(rows) + foot + failed


def _ordered(rows: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        rows[case]
        for case in sorted(rows, key=lambda c: (CASES.index(c) if c in CASES else len(CASES), c))
    ]


if __name__ == "__main__":
    sys.exit(main())
