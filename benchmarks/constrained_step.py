"""Measures speed, parts and convergence of one agent's constrained trust-region step.

    python benchmarks/constrained_step.py                      all but the reference implementation
    python benchmarks/constrained_step.py --macpo CHECKOUT --macpo-python PYTHON    beside it
    python benchmarks/constrained_step.py --sections costs stride                   some sections

CHECKOUT is a clone of https://github.com/chauncygu/Multi-Agent-Constrained-Policy-Optimisation;
PYTHON is an interpreter with ``torch numpy``. The step (`trust_region_update.policy_step`) is on
random data: 16 environments x 1,000 steps, observations of 31, two layers of 128, four continuous
actions, ten conjugate-gradient iterations for both right-hand sides, and the line search. Sections
that are not asked for stay in the result file.

peers       both programs in turns, with the same work
parts       operations, their rate, and the share of each part of the step
costs       time by the number of costs, beside one conjugate gradient of one right-hand side
stride      time and direction by `fvp_stride`, on random data and on policies in training
memory      peak temporary memory by iterations, with the samples in chunks and in one piece
residuals   the residual by iterations, warm start and preconditioner, on policies in training
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import bench_utils
import command_line
import constrained_step_problems
import interleave
import jax
import jax.numpy as jnp

from jaxmarl_lite.algorithms import trust_region_update
from jaxmarl_lite.ops import constrained_optimization, running_statistics, tree_math, trust_region

HERE = Path(__file__).parent
COSTS, STRIDES, ITERATIONS = (0, 1, 2, 4), (1, 2, 4, 8), (5, 10, 20, 40)
MANY = 200  # iterations by which the vectors' work is timed
GEMM = "gemm_4096x128x128_gflops"
SIZES = ("num_steps", "num_envs", "view", "actions", "hidden_sizes", "iterations", "repeats")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=None)
    parser.add_argument("--macpo", type=Path, help="a checkout of the reference implementation")
    parser.add_argument("--macpo-python", help="an interpreter that has torch and numpy")
    command_line.add_numbers(
        parser,
        threads=([1], "threads of the reference implementation"),
        minibatches=(40, "also time the reference implementation with so many; 1: do not"),
        rounds=(3, "turns of both programs"),
        num_steps=1000,
        num_envs=16,
        view=(31, "size of an observation"),
        actions=(4, "size of an action"),
        hidden_sizes=[128, 128],
        iterations=(10, "conjugate gradients of each right-hand side"),
        repeats=(5, "timed repeats of everything of ours"),
        updates=(20, "updates of the training in --envs"),
    )
    parser.add_argument(
        "--envs",
        nargs="+",
        default=constrained_step_problems.ENV_IDS,
        help="environments to train a policy in",
    )
    args = parser.parse_args(argv)
    if (args.macpo is None) != (args.macpo_python is None):
        parser.error("--macpo and --macpo-python: one was given; allowed are both or neither")
    if args.macpo:
        command_line.check_checkout(parser, "macpo", args.macpo, "MACPO/macpo")
    if args.sections is None:
        args.sections = [name for name in SECTIONS if name != "peers" or args.macpo]
    if "peers" in args.sections and not args.macpo:
        parser.error("--sections: peers needs --macpo and --macpo-python")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs the requested sections and writes the files after each."""
    args = options(argv)
    path = args.out / f"constrained-step-{bench_utils.device_name()}.json"
    settings = {name: getattr(args, name) for name in SIZES}
    earlier = bench_utils.read(path)
    sections = earlier.get("sections", {}) if earlier.get("settings") == settings else {}
    result = {"settings": settings, "facts": bench_utils.facts(), "sections": sections}
    for name in args.sections:
        print(f"{name} ...", flush=True)
        result["sections"][name] = SECTIONS[name](args) | {"facts": bench_utils.facts()}
        bench_utils.write(path, result, text(result))
        jax.clear_caches()
    print(f"\n{text(result)}\n{path}")
    return 0


def settings_of(args: argparse.Namespace, **other: Any) -> trust_region_update.TrustRegionConfig:
    """Returns the settings of the timed step: all iterations run; damping and first try are the
    authors'.
    """
    fields = dict(cg_iters=args.iterations, cg_tol=0.0, cg_damping=0.1, target_kl=0.0065)
    fields |= dict(hidden_sizes=tuple(args.hidden_sizes))
    return trust_region_update.TrustRegionConfig(**fields | other)


def random_case(args: argparse.Namespace, costs: int = 1) -> constrained_step_problems.Case:
    """Returns the timed problem."""
    sizes = args.num_steps, args.num_envs, args.view, args.actions
    return constrained_step_problems.random_case(sizes, tuple(args.hidden_sizes), costs)


def compiled(
    case: constrained_step_problems.Case, config: trust_region_update.TrustRegionConfig
) -> tuple[Callable[[], Any], dict[str, Any], float]:
    """Returns the compiled step as a call without arguments, its info, and its compile time."""
    step = jax.jit(
        lambda theta, problem: trust_region_update.policy_step(case.actor, theta, problem, config)
    )
    began = time.perf_counter()
    program = step.lower(case.theta, case.problem).compile()
    compiling = time.perf_counter() - began
    info = {name: value.tolist() for name, value in program(case.theta, case.problem)[-1].items()}
    return lambda: program(case.theta, case.problem), info, compiling


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Returns the median seconds of calls made in turns, so that a slow moment slows them all."""
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            durations[name] += bench_utils.seconds(call, 1, warm=0)
    return {name: statistics.median(values) for name, values in durations.items()}


# ---------------------------------------------------------------------------------------------
# beside the reference implementation


def peers(args: argparse.Namespace) -> dict[str, Any]:
    """Times both programs in turns."""
    ours, info, compiling = compiled(random_case(args), settings_of(args, initial_step_size=0.27))
    workers: dict[str, interleave.Program] = {}
    try:
        for name, command in _programs(args).items():
            workers[name] = interleave.Program([args.macpo_python, *command])
            workers[name].updates(1)
        jax.block_until_ready(ours())
        turns: dict[str, list[Any]] = {name: [] for name in ("own", *workers)}
        for _ in range(args.rounds):
            turns["own"].append(statistics.median(bench_utils.seconds(ours, 3, warm=1)))
            for name, worker in workers.items():
                time.sleep(0.2)  # the other's threads come to rest
                turns[name] += worker.updates(1)
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.end()
    return {
        "compile_seconds": compiling,
        "info": info,
        "commit": bench_utils.commit(args.macpo),
        "programs": facts,
        "turns": turns,
    } | compared(turns)


def _programs(args: argparse.Namespace) -> dict[str, list[str]]:
    driver = [str(HERE / "drivers" / "macpo_driver.py"), "--checkout", str(args.macpo.absolute())]
    for name in ("num_steps", "num_envs", "view", "actions"):
        driver += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    driver += ["--hidden-sizes", str(args.hidden_sizes[0])]
    programs = {}
    for threads in args.threads:
        command = [*driver, "--threads", str(threads)]
        programs[f"policy alone, {threads} threads"] = [*command, "--alone"]
        programs[f"as it is, {threads} threads"] = command
        if args.minibatches > 1:
            name = f"policy alone, {args.minibatches} minibatches, {threads} threads"
            programs[name] = [*command, "--alone", "--minibatches", str(args.minibatches)]
    return programs


def compared(turns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Returns medians of each program, and the ratios of theirs over ours round by round."""
    rows = {
        "own": {
            "seconds": statistics.median(turns["own"]),
            "range": [min(turns["own"]), max(turns["own"])],
        }
    }
    for name, answers in turns.items():
        if name == "own":
            continue
        seconds = [turn["seconds"] for turn in answers]
        ratios = [theirs / ours for theirs, ours in zip(seconds, turns["own"], strict=True)]
        rows[name] = {
            "seconds": statistics.median(seconds),
            "range": [min(seconds), max(seconds)],
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "products": answers[0]["products"],
            "tries": answers[0]["tries"],
        }
    return {"rows": rows}


def peers_text(result: Mapping[str, Any]) -> str:
    """Formats the table of `peers`."""
    rows = []
    for name, row in result["rows"].items():
        is_ours, info = name == "own", result["info"]
        low, high = row.get("ratio_range", (0, 0))
        rows.append(
            {
                "program": "ours" if is_ours else f"theirs, {name}",
                "s": row["seconds"],
                "least to greatest": f"{row['range'][0]:.3g} to {row['range'][1]:.3g}",
                "times ours": "" if is_ours else f"{row['ratio']:.1f} ({low:.1f} to {high:.1f})",
                "Fisher products": int(2 * info["cg_iters"]) if is_ours else row["products"],
                "tries": int(info["line_search_steps"]) if is_ours else row["tries"],
            }
        )
    program = next(iter(result["programs"].values()))
    versions = ", ".join(f"{name} {version}" for name, version in program["versions"].items())
    return (
        f"{bench_utils.table(rows)}\nIn turns, {len(result['turns']['own'])} rounds, a round's "
        f"ratio from its own two times. Ours compiled in {result['compile_seconds']:.1f} s. "
        f"Theirs: commit {result['commit'][:9]}, {versions}, {program['weights']:,} weights "
        "(theirs have a normalization after each layer, ours none). Theirs as it is also fits its "
        "two critics in the same function; alone, without. Their first try is at 0.27 of the "
        "step, here ours too. Minibatches: so many steps, each on its share of the samples.\n"
    )


# ---------------------------------------------------------------------------------------------
# where the time goes


def parts(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the operations, their rate, and the time of each part alone."""
    case, config = random_case(args), settings_of(args)
    full_step, info, compiling = compiled(case, config)
    solving = _solver(case, config)
    vector = _vector_work(case)
    gradients = jax.jit(lambda theta: _gradients(case, theta))
    right = gradients(case.theta)
    solved = solving(case.theta, right, args.iterations)
    attempt = jax.jit(lambda theta: _attempt(case, theta))
    calls: dict[str, Callable[[], Any]] = {
        "whole": full_step,
        "gradients": lambda: gradients(case.theta),
        "begin": lambda: solving(case.theta, right, 0),
        "solve": lambda: solving(case.theta, right, args.iterations),
        "vector_0": lambda: vector(right, 0),
        "vector_many": lambda: vector(right, MANY),
        "constrained": _constrained(case, right, solved),
        "try": lambda: attempt(case.theta),
    }
    durations = in_turns(calls, args.repeats)
    rates = bench_utils.machine()
    counted = operations(case, config, right, info)
    return {
        "compile_seconds": compiling,
        "info": info,
        "machine": rates,
        "raw_seconds": durations,
        "seconds": _breakdown(durations, args.iterations, info),
        "gflop": counted,
        "gflop_by_hand": by_hand(args, 1, info),
        "gflops": counted["whole"] / durations["whole"],
        "share_of_gemm": counted["whole"] / durations["whole"] / rates[GEMM],
        "product_share_of_gemm": counted["product"]
        * args.iterations
        / (durations["solve"] - durations["begin"])
        / rates[GEMM],
    }


def _breakdown(
    durations: Mapping[str, float], iterations: int, info: Mapping[str, Any]
) -> dict[str, float]:
    """Returns the seconds of each part of one step."""
    vector = (durations["vector_many"] - durations["vector_0"]) / MANY * iterations
    seconds = {
        "gradients of both surrogates": durations["gradients"],
        "linearizing the policy": durations["begin"],
        "Fisher products": durations["solve"] - durations["begin"] - vector,
        "vectors of conjugate gradients": vector,
        "constrained solve": durations["constrained"],
        "line search": durations["try"] * info["line_search_steps"],
    }
    return seconds | {
        "rest": durations["whole"] - sum(seconds.values()),
        "whole": durations["whole"],
    }


def _objectives(case: constrained_step_problems.Case, theta: Any) -> tuple[Any, Any]:
    problem = case.problem
    pi = case.actor.unroll(theta, problem.hidden_state, problem.data.obs, problem.data.is_first)
    ratio = jnp.exp(pi.log_prob(problem.data.action) - problem.data.log_prob)
    every = jnp.concatenate([problem.advantage[None], problem.cost_advantage])
    return jax.vmap(lambda a: running_statistics.masked_mean(ratio * a, problem.data.obs.alive))(
        every
    ), pi


def _gradients(case: constrained_step_problems.Case, theta: Any) -> Any:
    start, pull, _ = jax.vjp(lambda theta: _objectives(case, theta), theta, has_aux=True)
    return jax.vmap(pull)(jnp.eye(len(start)))[0]


def _attempt(case: constrained_step_problems.Case, theta: Any) -> Any:
    """Computes one try of the line search, but for a few sums, with a stored old policy."""
    obs = case.problem.data.obs
    reached, pi = _objectives(case, theta)
    old = case.actor.from_params(jax.tree.map(jax.lax.stop_gradient, case.parameters), obs)
    return reached, running_statistics.masked_mean(old.kl(pi), obs.alive)


def _solver(case: constrained_step_problems.Case, config: Any) -> Callable[..., Any]:
    """Returns ``(theta, right, iterations) -> Solutions``, for any number of iterations."""
    data, hidden_state = case.problem.data, case.problem.hidden_state

    def solve(theta: Any, right: Any, iterations: Any) -> Any:
        product = trust_region_update.fisher(case.actor, theta, data, hidden_state, config)
        return trust_region.conjugate_gradient(product, right, iterations, 0.0)

    return jax.jit(solve)


def _vector_work(case: constrained_step_problems.Case) -> Callable[..., Any]:
    """Returns conjugate gradients of a diagonal matrix, for any number of iterations."""
    key = jax.random.key(5)  # so wide a spectrum that the iterations do not end early
    diagonal = jax.tree.map(lambda x: 10.0 ** (-8.0 * jax.random.uniform(key, x.shape)), case.theta)

    def solve(right: Any, iterations: Any) -> Any:
        return trust_region.conjugate_gradient(
            lambda v: jax.tree.map(jnp.multiply, diagonal, v), right, iterations, 0.0
        ).x

    return jax.jit(solve)


def _constrained(
    case: constrained_step_problems.Case, right: Any, solved: Any
) -> Callable[[], Any]:
    g, b = tree_math.split_first(right)
    images = jax.tree.map(jnp.subtract, right, solved.residual)
    step = jax.jit(constrained_optimization.subspace_constrained_step)
    return lambda: step(g, b, case.problem.violation, solved.x, images, 0.01)


def operations(
    case: constrained_step_problems.Case, config: Any, right: Any, info: Mapping[str, Any]
) -> dict[str, float]:
    """Counts GFLOP in the traced programs.

    A loop without a fixed length counts once there, so that its other iterations are added here.
    """
    count, theta = bench_utils.product_operations, case.theta

    def fisher() -> Any:
        return trust_region_update.fisher(
            case.actor, theta, case.problem.data, case.problem.hidden_state, config
        )

    once = count(
        lambda theta, problem: trust_region_update.policy_step(case.actor, theta, problem, config),
        theta,
        case.problem,
    )
    two = count(lambda v: jax.vmap(fisher())(jax.vmap(fisher())(v)), right)
    begun = count(lambda v: jax.vmap(fisher())(v), right)
    product = two - begun  # two products and two linearizations, less one of each
    forward = count(lambda theta: _objectives(case, theta)[0], theta)
    product -= forward - _head(case)
    attempt = count(lambda theta: _attempt(case, theta), theta)
    loops = (info["cg_iters"] - 1) * product + (info["line_search_steps"] - 1) * attempt
    return {
        "whole": (once + loops) / 1e9,
        "product": product / 1e9,
        "try": attempt / 1e9,
        "traced_once": once / 1e9,
    }


def _head(case: constrained_step_problems.Case) -> float:
    """Operations of the head; a Gaussian's Fisher matrix, equal at every mean, needs none."""
    samples = case.problem.data.obs.alive.size
    return 2.0 * samples * case.theta["head"]["kernel"].size


def by_hand(args: argparse.Namespace, costs: int, info: Mapping[str, Any]) -> dict[str, float]:
    """Computes GFLOP by formula, a product ``[n, i] [i, o]`` being 2 n i o.

    Forwards a layer has one product, backwards two, and a Fisher product four (the tangent's, of
    what comes in and of the weights; the same two transposed); in the first layer nothing comes in
    that depends on the weights.
    """
    widths = [args.view, *args.hidden_sizes, args.actions]
    products = [i * o for i, o in itertools.pairwise(widths)]
    unit = 2 * args.num_steps * args.num_envs / 1e9
    forward, backward = unit * sum(products), unit * (2 * sum(products) - products[0])
    product = 2 * backward
    # the old policy, the surrogates, what is linearized, and every try
    forwards = 3 + info["line_search_steps"]
    total = forwards * forward + (1 + costs) * (backward + info["cg_iters"] * product)
    return {"whole": total, "product": (1 + costs) * product, "try": forward}


def parts_text(result: Mapping[str, Any]) -> str:
    """Formats the tables of `parts`."""
    seconds, rates, info = result["seconds"], result["machine"], result["info"]
    rows = [
        {"part": name, "ms": 1000 * s, "%": 100 * s / seconds["whole"]}
        for name, s in seconds.items()
    ]
    names = {"whole": "whole", "product": "one Fisher product of both right-hand sides"}
    counts = [
        {
            "operations": title,
            "GFLOP, traced": result["gflop"][name],
            "GFLOP, by hand": result["gflop_by_hand"][name],
        }
        for name, title in (names | {"try": "one try"}).items()
    ]
    return (
        f"{bench_utils.table(rows)}\nEach part compiled and timed alone, in turns with the whole; "
        f"the rest is what is left. The products are the time of {int(info['cg_iters'])} "
        "iterations for both right-hand sides less that of none, and less the vectors' work. "
        f"Tries of the line search: {int(info['line_search_steps'])}.\n\n"
        f"{bench_utils.table(counts)}\n{result['gflops']:.1f} GFLOP/s, "
        f"{100 * result['share_of_gemm']:.0f} % of the machine's own product of 4096x128x128 "
        f"({rates[GEMM]:.0f} GFLOP/s; of 2048^3: {rates['gemm_2048x2048x2048_gflops']:.0f}); the "
        f"Fisher products alone {100 * result['product_share_of_gemm']:.0f} %. Memory: "
        f"{rates['memory_gbytes_per_second']:.0f} GB/s. Compiled in "
        f"{result['compile_seconds']:.1f} s. Traced counts the inner products of vectors too; by "
        "hand counts the policy's layers alone. Both count the old policy and the surrogates at "
        "it as two passes.\n"
    )


# ---------------------------------------------------------------------------------------------
# by settings


def costs(args: argparse.Namespace) -> dict[str, Any]:
    """Times the step by number of costs, and a conjugate gradient of one right-hand side."""
    calls, cases = {}, {}
    for number in COSTS:
        cases[number] = random_case(args, number)
        calls[str(number)] = compiled(cases[number], settings_of(args))[0]
    case, solve = cases[0], _solver(cases[0], settings_of(args))
    one = jax.jit(lambda theta: _gradients(case, theta))(case.theta)
    calls["one"] = lambda: solve(case.theta, one, args.iterations)
    calls["begin"] = lambda: solve(case.theta, one, 0)
    durations = in_turns(calls, args.repeats)
    return {
        "seconds": {name: durations[name] for name in map(str, COSTS)},
        "one_solve_seconds": durations["one"],
        "one_solve_without_linearizing_seconds": durations["one"] - durations["begin"],
    }


def costs_text(result: Mapping[str, Any]) -> str:
    """Formats the table of `costs`."""
    rows, previous = [], None
    for number, seconds in ((int(name), s) for name, s in result["seconds"].items()):
        added = (
            None if previous is None else 1000 * (seconds - previous[1]) / (number - previous[0])
        )
        rows.append({"costs": number, "ms": 1000 * seconds, "ms more for each further cost": added})
        previous = number, seconds
    return (
        f"{bench_utils.table(rows)}\nConjugate gradients of one right-hand side alone: "
        f"{1000 * result['one_solve_seconds']:.0f} ms; without "
        f"linearizing {1000 * result['one_solve_without_linearizing_seconds']:.0f} ms.\n"
    )


def stride(args: argparse.Namespace) -> dict[str, Any]:
    """Measures time and direction of the step by `fvp_stride`."""
    cases = {"random": (random_case(args), settings_of(args))}
    for env_id in args.envs:
        cases[env_id] = (
            constrained_step_problems.trained(env_id, args.updates)[-1],
            constrained_step_problems.CONFIG,
        )
    rows = []
    for name, (case, config) in cases.items():
        calls, infos, steps = {}, {}, {}
        for n in STRIDES:
            calls[str(n)], infos[n], _ = compiled(case, dataclasses.replace(config, fvp_stride=n))
            steps[n] = jax.tree.map(jnp.subtract, calls[str(n)]()[0], case.theta)
        durations = in_turns(calls, args.repeats)
        for n in STRIDES:
            row = {"case": name, "stride": n, "seconds": durations[str(n)]}
            row["cosine"] = float(tree_math.cosine(steps[n], steps[1]))
            row["length"] = float(tree_math.norm(steps[n]) / tree_math.norm(steps[1]))
            info = ("kl", "surrogate_improvement", "line_search_steps", "cg_residual")
            rows.append(row | {key: infos[n][key] for key in info})
    return {"rows": rows}


def stride_text(result: Mapping[str, Any]) -> str:
    """Formats the table of `stride`."""
    rows = [
        {
            "problem": r["case"],
            "stride": r["stride"],
            "ms": 1000 * r["seconds"],
            "cosine": r["cosine"],
            "length": r["length"],
            "KL reached": r["kl"],
            "gain": r["surrogate_improvement"],
            "tries": int(r["line_search_steps"]),
        }
        for r in result["rows"]
    ]
    note = "Cosine and relative length of the accepted step against that of stride 1."
    return f"{bench_utils.table(rows)}\n{note}\n"


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the bytes of temporaries of the compiled step."""
    case, rows = random_case(args), []
    for in_one_piece in (False, True):
        for iterations in ITERATIONS:
            step = lambda theta, problem, n=iterations: trust_region_update.policy_step(  # noqa: E731
                case.actor, theta, problem, settings_of(args, cg_iters=n)
            )
            num_chunks = (lambda *sizes: 1) if in_one_piece else trust_region_update.num_chunks
            with mock.patch.object(trust_region_update, "num_chunks", num_chunks):
                program = jax.jit(step).lower(case.theta, case.problem).compile()
            analysis: Any = program.memory_analysis()
            row = {
                "whole": in_one_piece,
                "iterations": iterations,
                "bytes": analysis.temp_size_in_bytes,
            }
            if iterations == args.iterations:
                row["seconds"] = bench_utils.median(
                    lambda p=program: p(case.theta, case.problem), args.repeats
                )
            rows.append(row)
    parts = trust_region_update.num_chunks(args.num_steps, args.num_envs)
    return {"rows": rows, "parts": parts}


def memory_text(result: Mapping[str, Any]) -> str:
    """Formats the table of `memory`."""
    rows = [
        {
            "samples": "whole" if r["whole"] else f"in {result['parts']} parts",
            "most iterations": r["iterations"],
            "temporaries, MB": r["bytes"] / 1e6,
            "ms": 1000 * r["seconds"] if "seconds" in r else "",
        }
        for r in result["rows"]
    ]
    return bench_utils.table(rows) + "\nBy the compiler's own account.\n"


def residuals(args: argparse.Namespace) -> dict[str, Any]:
    """Measures relative residuals on policies in training."""
    rows = []
    for env_id in args.envs:
        rows += constrained_step_problems.residuals(env_id, args.updates)
    return {"rows": rows}


def residuals_text(result: Mapping[str, Any]) -> str:
    """Formats the table of `residuals`."""
    rows = [
        {
            "world": r["world"],
            "damping": r["damping"],
            "method": r["method"],
            "Fisher products": r["products"],
            "residual": r["residual"],
            "share of best gain, %": 100 * r["gain"],
        }
        for r in result["rows"]
    ]
    return (
        bench_utils.table(rows)
        + "\nMedians over the agents and the last updates of a training by HATRPO. Residual: |g - "
        "Hx| / |g|. Share of best gain: g·x of the step along x to the radius δ over that along "
        "H⁻¹g (200 iterations). Warm: begun at the last update's solution, at the price of one "
        "product. Jacobi: by the diagonal of H, from squared gradients of each sample's "
        "log-probability; Kronecker: by the product of two factors a layer (Martens and Grosse "
        "2015).\n"
    )


SECTIONS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "peers": peers,
    "parts": parts,
    "costs": costs,
    "stride": stride,
    "memory": memory,
    "residuals": residuals,
}
TEXTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "peers": ("Beside the reference implementation", peers_text),
    "parts": ("Where the time goes", parts_text),
    "costs": ("Number of costs", costs_text),
    "stride": ("Fisher products over every n-th environment", stride_text),
    "memory": ("Memory", memory_text),
    "residuals": ("Conjugate gradients on policies in training", residuals_text),
}


def text(result: Mapping[str, Any]) -> str:
    """Formats all sections of the result as Markdown."""
    s = result["settings"]
    head = (
        f"# A constrained step in a trust region on {result['facts']['device_kind']}\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n{s['num_steps']} steps x {s['num_envs']} "
        f"environments, views of {s['view']}, dense {'-'.join(map(str, s['hidden_sizes']))}, "
        f"{s['actions']} continuous actions, one cost unless said otherwise, {s['iterations']} "
        f"conjugate gradients; medians of {s['repeats']} repeats.\n"
    )
    sections = result["sections"]
    return head + "".join(
        f"\n## {title}\n\n{write(sections[name])}"
        for name, (title, write) in TEXTS.items()
        if name in sections
    )


if __name__ == "__main__":
    sys.exit(main())
