"""One agent's step in a trust region under one limit (`constrained_step.policy_step`): its speed, its
parts, its convergence.

    python benchmarks/constrained_step.py                                        all but the authors' program
    python benchmarks/constrained_step.py --macpo CHECKOUT --macpo-python PYTHON       beside it, in turns
    python benchmarks/constrained_step.py --sections costs stride                only these; the others stay in the file

CHECKOUT is a clone of https://github.com/chauncygu/Multi-Agent-Constrained-Policy-Optimisation;
PYTHON is an interpreter with ``torch numpy``. The step is on random data: 16 worlds x 1,000 steps,
views of 31, two layers of 128, four continuous actions, ten conjugate gradients for both right-hand
sides, and the line search.

peers       both programs in turns, with the same work
parts       operations, their rate, and where the time goes
costs       time by the number of costs, beside one conjugate gradient of one right-hand side
stride      time and direction by `fvp_stride`, on random data and on policies in training
memory      greatest temporary memory by iterations of conjugate gradients, samples in parts and whole
residuals   what iterations, a warm start and a preconditioner do to the residual, on policies in training
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


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=None)
    parser.add_argument("--macpo", type=Path, help="a checkout of the authors' program")
    parser.add_argument("--macpo-python", help="an interpreter that has torch and numpy")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1], help="threads of the authors' program"
    )
    parser.add_argument(
        "--minibatches", type=int, default=40, help="theirs once more with so many; 1 leaves it out"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds in turns with the authors' program"
    )
    parser.add_argument("--num-steps", type=int, default=1000)
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--view", type=int, default=31)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 128])
    parser.add_argument(
        "--iterations", type=int, default=10, help="conjugate gradients of each right-hand side"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed repeats of everything of ours"
    )
    parser.add_argument(
        "--worlds",
        nargs="+",
        default=constrained_step_problems.WORLDS,
        help="environments to train a policy in",
    )
    parser.add_argument("--updates", type=int, default=20, help="updates of that training")
    parser.add_argument(
        "--out", type=Path, default=bench_utils.RESULTS, help="folder of the result files"
    )
    found = parser.parse_args(words)
    if (found.macpo is None) != (found.macpo_python is None):
        parser.error("--macpo and --macpo-python: one was given; allowed are both or neither")
    if found.macpo and not (found.macpo / "MACPO" / "macpo").is_dir():
        parser.error(
            f"--macpo: {found.macpo} is no checkout of the authors' program: it has no MACPO/macpo"
        )
    if found.sections is None:
        found.sections = [name for name in SECTIONS if name != "drivers" or found.macpo]
    if "drivers" in found.sections and not found.macpo:
        parser.error("--sections: peers needs --macpo and --macpo-python")
    return found


def main(words: list[str] | None = None) -> int:
    """Every section asked for; the files are written after each."""
    chosen = options(words)
    path = chosen.out / f"constrained-step-{bench_utils.device_name()}.json"
    settings = {name: getattr(chosen, name) for name in SIZES}
    earlier = bench_utils.read(path)
    kept = earlier.get("sections", {}) if earlier.get("settings") == settings else {}
    result = {"settings": settings, "facts": bench_utils.facts(), "sections": kept}
    for name in chosen.sections:
        print(f"{name} ...", flush=True)
        result["sections"][name] = SECTIONS[name](chosen) | {"facts": bench_utils.facts()}
        bench_utils.write(path, result, text(result))
        jax.clear_caches()
    print(f"\n{text(result)}\n{path}")
    return 0


def settings_of(chosen: argparse.Namespace, **other: Any) -> trust_region_update.TrustRegionConfig:
    """The settings of the timed step: all iterations run, and the damping and first try are the
    authors'.
    """
    usual: dict[str, Any] = {
        "cg_iters": chosen.iterations,
        "cg_tol": 0.0,
        "cg_damping": 0.1,
        "target_kl": 0.0065,
    }
    return trust_region_update.TrustRegionConfig(
        **{"hidden_sizes": tuple(chosen.hidden_sizes), **usual, **other}
    )


def random_case(chosen: argparse.Namespace, costs: int = 1) -> constrained_step_problems.Case:
    """The timed problem."""
    sizes = chosen.num_steps, chosen.num_envs, chosen.view, chosen.actions
    return constrained_step_problems.random_case(sizes, tuple(chosen.hidden_sizes), costs)


def compiled(
    case: constrained_step_problems.Case, config: trust_region_update.TrustRegionConfig
) -> tuple[Callable[[], Any], dict[str, Any], float]:
    """The compiled step as a call without arguments, its info, and the seconds that compiling
    took.
    """
    step = jax.jit(
        lambda theta, problem: trust_region_update.policy_step(case.actor, theta, problem, config)
    )
    began = time.perf_counter()
    program = step.lower(case.theta, case.problem).compile()
    compiling = time.perf_counter() - began
    info = {name: value.tolist() for name, value in program(case.theta, case.problem)[-1].items()}
    return lambda: program(case.theta, case.problem), info, compiling


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each call; one of each in turn, so that what slows the machine slows all of
    them.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name] += bench_utils.seconds(call, 1, warm=0)
    return {name: statistics.median(each) for name, each in taken.items()}


# ---------------------------------------------------------------------------------------------
# beside the authors


def peers(chosen: argparse.Namespace) -> dict[str, Any]:
    """Both programs in turns."""
    own, info, compiling = compiled(
        random_case(chosen), settings_of(chosen, initial_step_size=0.27)
    )
    workers: dict[str, interleave.Program] = {}
    try:
        for name, words in _programs(chosen).items():
            workers[name] = interleave.Program([chosen.macpo_python, *words])
            workers[name].updates(1)
        jax.block_until_ready(own())
        turns: dict[str, list[Any]] = {name: [] for name in ("own", *workers)}
        for _ in range(chosen.rounds):
            turns["own"].append(statistics.median(bench_utils.seconds(own, 3, warm=1)))
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
        "commit": bench_utils.commit(chosen.macpo),
        "programs": facts,
        "turns": turns,
    } | compared(turns)


def _programs(chosen: argparse.Namespace) -> dict[str, list[str]]:
    driver = [str(HERE / "drivers" / "macpo_driver.py"), "--checkout", str(chosen.macpo.absolute())]
    for name in ("num_steps", "num_envs", "view", "actions"):
        driver += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    driver += ["--hidden-sizes", str(chosen.hidden_sizes[0])]
    found = {}
    for threads in chosen.threads:
        words = [*driver, "--threads", str(threads)]
        found[f"policy alone, {threads} threads"] = [*words, "--alone"]
        found[f"as it is, {threads} threads"] = words
        if chosen.minibatches > 1:
            name = f"policy alone, {chosen.minibatches} minibatches, {threads} threads"
            found[name] = [*words, "--alone", "--minibatches", str(chosen.minibatches)]
    return found


def compared(turns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Medians, and theirs over ours round by round."""
    rows = {
        "own": {
            "seconds": statistics.median(turns["own"]),
            "range": [min(turns["own"]), max(turns["own"])],
        }
    }
    for name, each in turns.items():
        if name == "own":
            continue
        seconds = [turn["seconds"] for turn in each]
        ratios = [theirs / ours for theirs, ours in zip(seconds, turns["own"], strict=True)]
        rows[name] = {
            "seconds": statistics.median(seconds),
            "range": [min(seconds), max(seconds)],
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
            "products": each[0]["products"],
            "tries": each[0]["tries"],
        }
    return {"rows": rows}


def peers_text(found: Mapping[str, Any]) -> str:
    """The table of `peers`."""
    rows = []
    for name, row in found["rows"].items():
        own = name == "own"
        low, high = row.get("ratio_range", (0, 0))
        rows.append(
            [
                "ours" if own else f"theirs, {name}",
                row["seconds"],
                f"{row['range'][0]:.3g} to {row['range'][1]:.3g}",
                "" if own else f"{row['ratio']:.1f} ({low:.1f} to {high:.1f})",
                int(2 * found["info"]["cg_iters"]) if own else row["products"],
                int(found["info"]["line_search_steps"]) if own else row["tries"],
            ]
        )
    versions = next(iter(found["programs"].values()))["versions"]
    return (
        bench_utils.table(
            ["program", "s", "least to greatest", "times ours", "Fisher products", "tries"], rows
        )
        + f"\nIn turns, {len(found['turns']['own'])} rounds, a round's ratio from its own two "
        "times. Ours compiled in "
        f"{found['compile_seconds']:.1f} s. Theirs: commit {found['commit'][:9]}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", {next(iter(found['programs'].values()))['weights']:,} weights (theirs have a "
        "normalization after each "
        "layer, ours none). Theirs as it is also fits its two critics in the same function; "
        "alone, without. Their "
        "first try is at 0.27 of the step, here ours too. Minibatches: so many steps, each on its "
        "share of the "
        "samples.\n"
    )


# ---------------------------------------------------------------------------------------------
# where the time goes


def parts(chosen: argparse.Namespace) -> dict[str, Any]:
    """Operations, their rate, and the time of each part measured alone."""
    case, config = random_case(chosen), settings_of(chosen)
    whole, info, compiling = compiled(case, config)
    solving = _solver(case, config)
    vector = _vector_work(case)
    gradients = jax.jit(lambda theta: _gradients(case, theta))
    right = gradients(case.theta)
    solved = solving(case.theta, right, chosen.iterations)
    attempt = jax.jit(lambda theta: _attempt(case, theta))
    calls: dict[str, Callable[[], Any]] = {
        "whole": whole,
        "gradients": lambda: gradients(case.theta),
        "begin": lambda: solving(case.theta, right, 0),
        "solve": lambda: solving(case.theta, right, chosen.iterations),
        "vector_0": lambda: vector(right, 0),
        "vector_many": lambda: vector(right, MANY),
        "constrained": _constrained(case, right, solved),
        "try": lambda: attempt(case.theta),
    }
    taken = in_turns(calls, chosen.repeats)
    rates = bench_utils.machine()
    counted = operations(case, config, right, info)
    return {
        "compile_seconds": compiling,
        "info": info,
        "machine": rates,
        "raw_seconds": taken,
        "seconds": _breakdown(taken, chosen.iterations, info),
        "gflop": counted,
        "gflop_by_hand": by_hand(chosen, 1, info),
        "gflops": counted["whole"] / taken["whole"],
        "share_of_gemm": counted["whole"] / taken["whole"] / rates[GEMM],
        "product_share_of_gemm": counted["product"]
        * chosen.iterations
        / (taken["solve"] - taken["begin"])
        / rates[GEMM],
    }


def _breakdown(
    taken: Mapping[str, float], iterations: int, info: Mapping[str, Any]
) -> dict[str, float]:
    """Seconds of each part of one step."""
    vector = (taken["vector_many"] - taken["vector_0"]) / MANY * iterations
    found = {
        "gradients of both surrogates": taken["gradients"],
        "linearizing the policy": taken["begin"],
        "Fisher products": taken["solve"] - taken["begin"] - vector,
        "vectors of conjugate gradients": vector,
        "constrained solve": taken["constrained"],
        "line search": taken["try"] * info["line_search_steps"],
    }
    return found | {"rest": taken["whole"] - sum(found.values()), "whole": taken["whole"]}


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
    """What one try of the line search computes, but for a few sums; the old policy is at hand."""
    obs = case.problem.data.obs
    reached, pi = _objectives(case, theta)
    old = case.actor.from_params(jax.tree.map(jax.lax.stop_gradient, case.parameters), obs)
    return reached, running_statistics.masked_mean(old.kl(pi), obs.alive)


def _solver(case: constrained_step_problems.Case, config: Any) -> Callable[..., Any]:
    """``(theta, right, iterations) -> Solutions``, compiled once for any number of iterations."""
    data, hidden_state = case.problem.data, case.problem.hidden_state

    def solve(theta: Any, right: Any, iterations: Any) -> Any:
        product = trust_region_update.fisher(case.actor, theta, data, hidden_state, config)
        return trust_region.conjugate_gradient(product, right, iterations, 0.0)

    return jax.jit(solve)


def _vector_work(case: constrained_step_problems.Case) -> Callable[..., Any]:
    """Conjugate gradients of a diagonal matrix, compiled for any number of iterations."""
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
    """GFLOP counted in the traced programs; a loop without a fixed length is counted once there, so
    that what it adds is counted apart.
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
    """Operations of the head, which a Gaussian's Fisher matrix does not need: it is the same at
    every mean.
    """
    samples = case.problem.data.obs.alive.size
    return 2.0 * samples * case.theta["head"]["kernel"].size


def by_hand(chosen: argparse.Namespace, costs: int, info: Mapping[str, Any]) -> dict[str, float]:
    """GFLOP by formula, a product ``[n, i] [i, o]`` being 2 n i o.

    Forwards a layer has one product, backwards two, and a Fisher product four (the tangent's, of
    what comes in and of the weights; the same two transposed); in the first layer nothing comes in
    that depends on the weights.
    """
    widths = [chosen.view, *chosen.hidden_sizes, chosen.actions]
    each = [i * o for i, o in itertools.pairwise(widths)]
    unit = 2 * chosen.num_steps * chosen.num_envs / 1e9
    forward, backward = unit * sum(each), unit * (2 * sum(each) - each[0])
    product = 2 * backward
    # the old policy, the surrogates, what is linearized, and every try
    forwards = 3 + info["line_search_steps"]
    whole = forwards * forward + (1 + costs) * (backward + info["cg_iters"] * product)
    return {"whole": whole, "product": (1 + costs) * product, "try": forward}


def parts_text(found: Mapping[str, Any]) -> str:
    """The tables of `parts`."""
    seconds, rates = found["seconds"], found["machine"]
    rows = [[name, 1000 * s, 100 * s / seconds["whole"]] for name, s in seconds.items()]
    counts = [
        [name, found["gflop"][name], found["gflop_by_hand"][name]]
        for name in ("whole", "product", "try")
    ]
    counts[1][0], counts[2][0] = "one Fisher product of both right-hand sides", "one try"
    return (
        bench_utils.table(["part", "ms", "%"], rows)
        + "\nEach part compiled and timed alone, in turns with the whole; the rest is what is "
        "left. The products are "
        f"the time of {int(found['info']['cg_iters'])} iterations for both right-hand sides less "
        "that of none, "
        "and less the vectors' work. Tries of the line search: "
        f"{int(found['info']['line_search_steps'])}.\n\n"
        + bench_utils.table(["operations", "GFLOP, traced", "GFLOP, by hand"], counts)
        + f"\n{found['gflops']:.1f} GFLOP/s, {100 * found['share_of_gemm']:.0f} % of the "
        "machine's own product of "
        f"4096x128x128 ({rates[GEMM]:.0f} GFLOP/s; of 2048^3: "
        f"{rates['gemm_2048x2048x2048_gflops']:.0f}); the Fisher "
        f"products alone {100 * found['product_share_of_gemm']:.0f} %. Memory: "
        f"{rates['memory_gbytes_per_second']:.0f} GB/s. Compiled in "
        f"{found['compile_seconds']:.1f} s. Traced counts "
        "the inner products of vectors too; by hand counts the policy's layers alone. Both count "
        "the old policy "
        "and the surrogates at it as two passes.\n"
    )


# --------------------------------------------------------------------------------------------- by
# settings


def costs(chosen: argparse.Namespace) -> dict[str, Any]:
    """Time by the number of costs, and that of one conjugate gradient of one right-hand side."""
    calls, cases = {}, {}
    for number in COSTS:
        cases[number] = random_case(chosen, number)
        calls[str(number)] = compiled(cases[number], settings_of(chosen))[0]
    case, solve = cases[0], _solver(cases[0], settings_of(chosen))
    one = jax.jit(lambda theta: _gradients(case, theta))(case.theta)
    calls["one"] = lambda: solve(case.theta, one, chosen.iterations)
    calls["begin"] = lambda: solve(case.theta, one, 0)
    taken = in_turns(calls, chosen.repeats)
    return {
        "seconds": {name: taken[name] for name in map(str, COSTS)},
        "one_solve_seconds": taken["one"],
        "one_solve_without_linearizing_seconds": taken["one"] - taken["begin"],
    }


def costs_text(found: Mapping[str, Any]) -> str:
    """The table of `costs`."""
    rows, before = [], None
    for number, seconds in ((int(name), s) for name, s in found["seconds"].items()):
        added = None if before is None else 1000 * (seconds - before[1]) / (number - before[0])
        rows.append([number, 1000 * seconds, added if added is not None else ""])
        before = number, seconds
    return (
        bench_utils.table(["costs", "ms", "ms more for each further cost"], rows)
        + "\nConjugate gradients of one right-hand side alone: "
        f"{1000 * found['one_solve_seconds']:.0f} ms; without "
        f"linearizing {1000 * found['one_solve_without_linearizing_seconds']:.0f} ms.\n"
    )


def stride(chosen: argparse.Namespace) -> dict[str, Any]:
    """Time and direction of the step by `fvp_stride`."""
    cases = {"random": (random_case(chosen), settings_of(chosen))}
    for world in chosen.worlds:
        cases[world] = (
            constrained_step_problems.trained(world, chosen.updates)[-1],
            constrained_step_problems.USUAL,
        )
    rows = []
    for name, (case, config) in cases.items():
        calls, infos, moved = {}, {}, {}
        for n in STRIDES:
            calls[str(n)], infos[n], _ = compiled(case, dataclasses.replace(config, fvp_stride=n))
            moved[n] = jax.tree.map(jnp.subtract, calls[str(n)]()[0], case.theta)
        taken = in_turns(calls, chosen.repeats)
        for n in STRIDES:
            cosine = float(tree_math.cosine(moved[n], moved[1]))
            length = float(tree_math.norm(moved[n]) / tree_math.norm(moved[1]))
            info = {
                key: infos[n][key]
                for key in ("kl", "surrogate_improvement", "line_search_steps", "cg_residual")
            }
            row = {
                "case": name,
                "stride": n,
                "seconds": taken[str(n)],
                "cosine": cosine,
                "length": length,
            }
            rows.append(row | info)
    return {"rows": rows}


def stride_text(found: Mapping[str, Any]) -> str:
    """The table of `stride`."""
    columns = ["problem", "stride", "ms", "cosine", "length", "KL reached", "gain", "tries"]
    rows = [
        [
            r["case"],
            r["stride"],
            1000 * r["seconds"],
            r["cosine"],
            r["length"],
            r["kl"],
            r["surrogate_improvement"],
            int(r["line_search_steps"]),
        ]
        for r in found["rows"]
    ]
    return (
        bench_utils.table(columns, rows)
        + "\nCosine and relative length of the accepted step against that of stride 1.\n"
    )


def memory(chosen: argparse.Namespace) -> dict[str, Any]:
    """Bytes of temporaries of the compiled step."""
    case, rows = random_case(chosen), []
    for whole in (False, True):
        for iterations in ITERATIONS:
            step = lambda theta, problem, n=iterations: trust_region_update.policy_step(  # noqa: E731
                case.actor, theta, problem, settings_of(chosen, cg_iters=n)
            )
            num_chunks = (lambda *sizes: 1) if whole else trust_region_update.num_chunks
            with mock.patch.object(trust_region_update, "num_chunks", num_chunks):
                program = jax.jit(step).lower(case.theta, case.problem).compile()
            analysis: Any = program.memory_analysis()
            row = {"whole": whole, "iterations": iterations, "bytes": analysis.temp_size_in_bytes}
            if iterations == chosen.iterations:
                row["seconds"] = bench_utils.median(
                    lambda p=program: p(case.theta, case.problem), chosen.repeats
                )
            rows.append(row)
    return {
        "rows": rows,
        "parts": trust_region_update.num_chunks(chosen.num_steps, chosen.num_envs),
    }


def memory_text(found: Mapping[str, Any]) -> str:
    """The table of `memory`."""
    rows = [
        [
            "whole" if r["whole"] else f"in {found['parts']} parts",
            r["iterations"],
            r["bytes"] / 1e6,
            1000 * r["seconds"] if "seconds" in r else "",
        ]
        for r in found["rows"]
    ]
    columns = ["samples", "most iterations", "temporaries, MB", "ms"]
    return bench_utils.table(columns, rows) + "\nBy the compiler's own account.\n"


def residuals(chosen: argparse.Namespace) -> dict[str, Any]:
    """Relative residuals on policies in training."""
    rows = []
    for world in chosen.worlds:
        rows += constrained_step_problems.residuals(world, chosen.updates)
    return {"rows": rows}


def residuals_text(found: Mapping[str, Any]) -> str:
    """The table of `residuals`."""
    columns = ["world", "damping", "method", "Fisher products", "residual", "share of best gain, %"]
    rows = [
        [r["world"], r["damping"], r["method"], r["products"], r["residual"], 100 * r["gain"]]
        for r in found["rows"]
    ]
    return (
        bench_utils.table(columns, rows)
        + "\nMedians over the agents and the last updates of a training by HATRPO. Residual: |g - "
        "Hx| / |g|. Share of "
        "best gain: g·x of the step along x to the radius δ over that along H⁻¹g (200 "
        "iterations). Warm: begun at the "
        "last update's solution, at the price of one product. Jacobi: by the diagonal of H, from "
        "squared gradients of "
        "each sample's log-probability; Kronecker: by the product of two factors a layer (Martens "
        "and Grosse 2015).\n"
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
    "peers": ("Beside the authors' program", peers_text),
    "parts": ("Where the time goes", parts_text),
    "costs": ("Number of costs", costs_text),
    "stride": ("Fisher products over every n-th world", stride_text),
    "memory": ("Memory", memory_text),
    "residuals": ("Conjugate gradients on policies in training", residuals_text),
}


def text(result: Mapping[str, Any]) -> str:
    """All sections that there are, with everything needed to read them."""
    s = result["settings"]
    head = (
        f"# A constrained step in a trust region on {result['facts']['device_kind']}\n\n"
        f"{bench_utils.facts_text(result['facts'])}\n\n"
        f"{s['num_steps']} steps x {s['num_envs']} worlds, views of {s['view']}, "
        f"dense {'-'.join(map(str, s['hidden_sizes']))}, {s['actions']} continuous actions, one "
        "cost unless said "
        f"otherwise, {s['iterations']} conjugate gradients; medians of {s['repeats']} repeats.\n"
    )
    made = result["sections"]
    return head + "".join(
        f"\n## {title}\n\n{write(made[name])}"
        for name, (title, write) in TEXTS.items()
        if name in made
    )


if __name__ == "__main__":
    sys.exit(main())
