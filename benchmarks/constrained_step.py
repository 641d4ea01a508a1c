"""Measures speed, parts and convergence of one agent's constrained trust-region step.

    python benchmarks/constrained_step.py                           everything
    python benchmarks/constrained_step.py --sections costs stride   some sections

The step (`trust_region_update.policy_step`) is on random data: 16 environments x 1,000 steps,
observations of 31, two layers of 128, four continuous actions, ten conjugate-gradient iterations
for both right-hand sides, and the line search. Sections that are not asked for stay in the result
file. `compare_speed.py` times the step beside the reference implementation of MACPO.

parts       operations, their rate, and the share of each part of the step
costs       time by the number of costs, beside one conjugate gradient of one right-hand side
stride      time and direction by `fvp_stride`, on random data and on policies in training
memory      peak temporary memory by iterations, with the samples in chunks and in one piece
residuals   the residual by iterations, on policies in training
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest import mock

import bench_utils
import jax
import jax.numpy as jnp

import jaxmarl_lite as jml
from jaxmarl_lite import rollout
from jaxmarl_lite.algorithms import (
    gradient_update,
    hatrpo,
    registry,
    sequential_update,
    trust_region_update,
)
from jaxmarl_lite.networks import actor_critic, distributions
from jaxmarl_lite.networks.recurrent import NetworkSpec
from jaxmarl_lite.ops import constrained_optimization, running_statistics, tree_math, trust_region
from jaxmarl_lite.types import EnvSpec, Observation

ENV_IDS = ("jumanji/lbf-2s-8x8-2p-2f-coop", "jumanji/rware-tiny-2ag", "toy/reach")
"""Environments to train in: discrete actions, the same with rare rewards, continuous actions."""
COSTS, STRIDES, ITERATIONS, DAMPINGS = (0, 1, 2, 4), (1, 2, 4, 8), (5, 10, 20, 40), (0.01, 0.1)
MANY = 200  # iterations by which the vectors' work is timed, and after which a solution is exact
LAST_UPDATES = 3  # problems are those of the last updates of a training
GEMM = "gemm_4096x128x128_gflops"
SIZES = ("num_steps", "num_envs", "view", "actions", "hidden_sizes", "iterations", "repeats")


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = bench_utils.make_parser(__doc__)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    bench_utils.add_numbers(
        parser,
        num_steps=1000,
        num_envs=16,
        view=(31, "size of an observation"),
        actions=(4, "size of an action"),
        hidden_sizes=[128, 128],
        iterations=(10, "conjugate gradients of each right-hand side"),
        repeats=(5, "timed repeats"),
        updates=(20, "updates of the training in --envs"),
    )
    parser.add_argument("--envs", nargs="+", default=ENV_IDS, help="to train a policy in")
    return parser.parse_args(argv)


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
        result["sections"][name] = SECTIONS[name][1](args) | {"facts": bench_utils.facts()}
        bench_utils.write(path, result, text(result))
        jax.clear_caches()
    print(f"\n{text(result)}\n{path}")
    return 0


class Case(NamedTuple):
    """One agent's problem.

    Attributes:
        actor: the policy network.
        theta: its parameters.
        problem: batch, advantages and violations.
        parameters: those of the old policy's distributions.
    """

    actor: actor_critic.Actor
    theta: Any
    problem: trust_region_update.TrustRegionProblem
    parameters: Any


def random_case(args: argparse.Namespace, costs: int = 1) -> Case:
    """Returns random observations and advantages, and actions of a new policy.

    Every cost is a little below its limit.
    """
    lead, view, actions = (args.num_steps, args.num_envs), args.view, args.actions
    spec = EnvSpec("random", 1, view, 1, "continuous", actions, args.num_steps)
    actor = actor_critic.single_agent_actor(spec, NetworkSpec(tuple(args.hidden_sizes)))
    keys = jax.random.split(jax.random.key(0), 5)
    theta = actor.net.init(keys[0])
    obs = Observation(
        jax.random.normal(keys[1], (*lead, view)),
        jnp.zeros((*lead, 1)),
        jnp.ones((*lead, actions), bool),
        jnp.ones(lead, bool),
    )
    first = jnp.zeros(lead, bool)
    pi = actor.unroll(theta, (), obs, first)
    action = pi.sample(keys[2])
    data = gradient_update.PolicyBatch(obs, action, pi.log_prob(action), first)
    advantages = jax.random.normal(keys[3], lead), jax.random.normal(keys[4], (costs, *lead))
    limits = jnp.full(costs, -0.005)
    problem = trust_region_update.TrustRegionProblem(data, (), *advantages, limits)
    return Case(actor, theta, problem, pi.params())


def trained(env_id: str, updates: int, num_envs: int = 32, num_steps: int = 128) -> list[Case]:
    """Returns every agent's problems in the last updates of a training by HATRPO, in time order."""
    env, config = jml.make(env_id), hatrpo.HATRPOConfig()
    algorithm = registry.make_algorithm("hatrpo", env.spec, config)
    actor = actor_critic.single_agent_actor(env.spec, config.network_spec)
    critic = actor_critic.make_critic(
        env.spec, config.network_spec, config.critic_input, shared=False
    )

    @jax.jit
    def collect(learner: Any, rollout_state: Any, key: Any) -> Any:
        return rollout.rollout(
            env, lambda *inputs: algorithm.act(learner, *inputs), rollout_state, key, num_steps
        )

    learn = jax.jit(algorithm.update)
    keys = jax.random.split(jax.random.key(0), 2 + updates)
    learner = jax.jit(lambda key: algorithm.init(key, num_envs, algorithm.config))(keys[0])
    begin = jax.jit(
        lambda key: rollout.init_rollout_state(
            env, key, num_envs, algorithm.init_hidden_state(num_envs)
        )
    )
    rollout_state, cases = begin(keys[1]), []
    for number, key in enumerate(keys[2:]):
        rollout_state, batch = collect(learner, rollout_state, key)
        if number >= updates - LAST_UPDATES:
            cases += _cases(actor, critic, env.spec, learner, batch)
        learner, _ = learn(key, learner, batch)
    return cases


def _cases(
    actor: actor_critic.Actor, critic: actor_critic.Critic, spec: EnvSpec, learner: Any, batch: Any
) -> list[Case]:
    """Returns the problem of every agent, as if it were the first to be updated."""
    steps = batch.transitions._replace(
        reward=actor_critic.to_team_reward(spec.reward_type, batch.transitions.reward)
    )
    estimate = gradient_update.reward_advantages(critic, learner, steps)
    every = sequential_update.split_by_agent(gradient_update.to_policy_batch(steps))
    cases = []
    for agent in range(spec.num_agents):
        theta, data = jax.tree.map(lambda x, agent=agent: x[agent], (learner.actor_params, every))
        advantage = actor_critic.standardize_advantages(
            estimate.advantage[..., agent], data.obs.alive, shared=False
        )
        no_costs = jnp.zeros((0, *advantage.shape)), jnp.zeros(0)
        problem = trust_region_update.TrustRegionProblem(data, (), advantage, *no_costs)
        pi = actor.unroll(theta, (), data.obs, data.is_first)
        cases.append(Case(actor, theta, problem, pi.params()))
    return cases


def settings_of(args: argparse.Namespace, **other: Any) -> trust_region_update.TrustRegionConfig:
    """Returns the settings of the timed step: all iterations run; damping and first try are those
    of the reference implementation.
    """
    fields = dict(cg_iters=args.iterations, cg_tol=0.0, cg_damping=0.1, target_kl=0.0065)
    fields |= dict(hidden_sizes=tuple(args.hidden_sizes))
    return trust_region_update.TrustRegionConfig(**fields | other)


def compiled(
    case: Case, config: trust_region_update.TrustRegionConfig
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


def _objectives(case: Case, theta: Any) -> tuple[Any, Any]:
    """Returns the surrogates of return and costs, and the policy."""
    problem = case.problem
    pi = case.actor.unroll(theta, problem.hidden_state, problem.data.obs, problem.data.is_first)
    ratio = jnp.exp(pi.log_prob(problem.data.action) - problem.data.log_prob)
    every = jnp.concatenate([problem.advantage[None], problem.cost_advantage])
    return jax.vmap(lambda a: running_statistics.masked_mean(ratio * a, problem.data.obs.alive))(
        every
    ), pi


def _gradients(case: Case, theta: Any) -> Any:
    """Returns the gradients of all surrogates, stacked."""
    start, pull, _ = jax.vjp(lambda theta: _objectives(case, theta), theta, has_aux=True)
    return jax.vmap(pull)(jnp.eye(len(start)))[0]


def _attempt(case: Case, theta: Any) -> Any:
    """Computes one try of the line search, but for a few sums, with a stored old policy."""
    obs = case.problem.data.obs
    reached, pi = _objectives(case, theta)
    old = distributions.from_params(
        jax.tree.map(jax.lax.stop_gradient, case.parameters), obs, case.actor.bounds
    )
    return reached, running_statistics.masked_mean(old.kl(pi), obs.alive)


def _solver(case: Case, config: Any) -> Callable[..., Any]:
    """Returns ``(theta, right, iterations) -> CGResult``, for any number of iterations."""
    data, hidden_state = case.problem.data, case.problem.hidden_state

    def solve(theta: Any, right: Any, iterations: Any) -> Any:
        product = trust_region_update.fisher(case.actor, theta, data, hidden_state, config)
        return trust_region.conjugate_gradient(product, right, iterations, 0.0)

    return jax.jit(solve)


# ---------------------------------------------------------------------------------------------
# where the time goes


def parts(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the operations, their rate, and the time of each part alone."""
    case, config = random_case(args), settings_of(args)
    full_step, info, compiling = compiled(case, config)
    solving, vector = _solver(case, config), _vector_work(case)
    gradients = jax.jit(lambda theta: _gradients(case, theta))
    right = gradients(case.theta)
    solved = solving(case.theta, right, args.iterations)
    attempt = jax.jit(lambda theta: _attempt(case, theta))
    g, b = tree_math.split_first(right)
    images = jax.tree.map(jnp.subtract, right, solved.residual)
    constrained = jax.jit(constrained_optimization.subspace_constrained_step)
    durations = in_turns(
        {
            "whole": full_step,
            "gradients": lambda: gradients(case.theta),
            "begin": lambda: solving(case.theta, right, 0),
            "solve": lambda: solving(case.theta, right, args.iterations),
            "vector_0": lambda: vector(right, 0),
            "vector_many": lambda: vector(right, MANY),
            "constrained": lambda: constrained(
                g, b, case.problem.violation, solved.x, images, 0.01
            ),
            "try": lambda: attempt(case.theta),
        },
        args.repeats,
    )
    vectors = (durations["vector_many"] - durations["vector_0"]) / MANY * args.iterations
    seconds = {
        "gradients of both surrogates": durations["gradients"],
        "linearizing the policy": durations["begin"],
        "Fisher products": durations["solve"] - durations["begin"] - vectors,
        "vectors of conjugate gradients": vectors,
        "constrained solve": durations["constrained"],
        "line search": durations["try"] * info["line_search_steps"],
    }
    seconds |= {"rest": durations["whole"] - sum(seconds.values()), "whole": durations["whole"]}
    counted = operations(case, config, right, info)
    return {
        "compile_seconds": compiling,
        "info": info,
        "machine": bench_utils.machine(),
        "seconds": seconds,
        "gflop": counted,
        "gflops": counted["whole"] / durations["whole"],
    }


def _vector_work(case: Case) -> Callable[..., Any]:
    """Returns conjugate gradients of a diagonal matrix, for any number of iterations."""
    key = jax.random.key(5)  # so wide a spectrum that the iterations do not end early
    diagonal = jax.tree.map(lambda x: 10.0 ** (-8.0 * jax.random.uniform(key, x.shape)), case.theta)

    def solve(right: Any, iterations: Any) -> Any:
        return trust_region.conjugate_gradient(
            lambda v: jax.tree.map(jnp.multiply, diagonal, v), right, iterations, 0.0
        ).x

    return jax.jit(solve)


def operations(case: Case, config: Any, right: Any, info: Mapping[str, Any]) -> dict[str, float]:
    """Counts GFLOP in the traced programs.

    A loop without a fixed length counts once there, so that its other iterations are added here.
    """
    count, theta, problem = bench_utils.product_operations, case.theta, case.problem

    def fisher() -> Any:
        return trust_region_update.fisher(case.actor, theta, problem.data, (), config)

    once = count(
        lambda theta, problem: trust_region_update.policy_step(case.actor, theta, problem, config),
        theta,
        problem,
    )
    two = count(lambda v: jax.vmap(fisher())(jax.vmap(fisher())(v)), right)
    # two products and two linearizations, less one of each, less one linearization; a Gaussian's
    # Fisher matrix, equal at every mean, needs no product of the head
    head = 2.0 * problem.data.obs.alive.size * theta["head"]["kernel"].size
    forward = count(lambda theta: _objectives(case, theta)[0], theta)
    product = two - count(lambda v: jax.vmap(fisher())(v), right) - forward + head
    attempt = count(lambda theta: _attempt(case, theta), theta)
    loops = (info["cg_iters"] - 1) * product + (info["line_search_steps"] - 1) * attempt
    return {"whole": (once + loops) / 1e9, "product": product / 1e9, "try": attempt / 1e9}


def parts_text(result: Mapping[str, Any]) -> str:
    """Formats the tables of `parts`."""
    seconds, rates, info = result["seconds"], result["machine"], result["info"]
    rows = [
        {"part": name, "ms": 1000 * s, "%": 100 * s / seconds["whole"]}
        for name, s in seconds.items()
    ]
    return (
        f"{bench_utils.table(rows)}\nEach part compiled and timed alone, in turns with the whole; "
        f"the rest is what is left. The products are the time of {int(info['cg_iters'])} "
        "iterations for both right-hand sides less that of none, and less the vectors' work. "
        f"Tries of the line search: {int(info['line_search_steps'])}.\n\nGFLOP in the traced "
        f"programs: {bench_utils.cell_text(result['gflop']['whole'])} in all, "
        f"{bench_utils.cell_text(result['gflop']['product'])} in a Fisher product of both "
        f"right-hand sides, {bench_utils.cell_text(result['gflop']['try'])} in a try. "
        f"{result['gflops']:.1f} GFLOP/s, {100 * result['gflops'] / rates[GEMM]:.0f} % of the "
        f"machine's own product of 4096x128x128. The machine: {bench_utils.machine_text(rates)}. "
        f"Compiled in {result['compile_seconds']:.1f} s.\n"
    )


# ---------------------------------------------------------------------------------------------
# by settings


def costs(args: argparse.Namespace) -> dict[str, Any]:
    """Times the step by number of costs, and a conjugate gradient of one right-hand side."""
    cases = {number: random_case(args, number) for number in COSTS}
    calls = {str(n): compiled(case, settings_of(args))[0] for n, case in cases.items()}
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
    rows = [{"costs": number, "ms": 1000 * s} for number, s in result["seconds"].items()]
    return (
        f"{bench_utils.table(rows)}\nConjugate gradients of one right-hand side alone: "
        f"{1000 * result['one_solve_seconds']:.0f} ms; without linearizing "
        f"{1000 * result['one_solve_without_linearizing_seconds']:.0f} ms.\n"
    )


def stride(args: argparse.Namespace) -> dict[str, Any]:
    """Measures time and direction of the step by `fvp_stride`."""
    cases = {"random": (random_case(args), settings_of(args))}
    for env_id in args.envs:
        cases[env_id] = trained(env_id, args.updates)[-1], hatrpo.HATRPOConfig()
    rows = []
    for name, (case, config) in cases.items():
        calls, infos, steps = {}, {}, {}
        for n in STRIDES:
            calls[str(n)], infos[n], _ = compiled(case, dataclasses.replace(config, fvp_stride=n))
            steps[n] = jax.tree.map(jnp.subtract, calls[str(n)]()[0], case.theta)
        durations = in_turns(calls, args.repeats)
        rows += [
            {
                "problem": name,
                "stride": n,
                "ms": 1000 * durations[str(n)],
                "cosine": float(tree_math.cosine(steps[n], steps[1])),
                "length": float(tree_math.norm(steps[n]) / tree_math.norm(steps[1])),
                "KL reached": infos[n]["kl"],
                "gain": infos[n]["surrogate_improvement"],
                "tries": int(infos[n]["line_search_steps"]),
            }
            for n in STRIDES
        ]
    return {"rows": rows}


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the bytes of temporaries of the compiled step."""
    case, rows = random_case(args), []
    chunks = trust_region_update.num_chunks(args.num_steps, args.num_envs)
    for number in (chunks, 1):
        for iterations in ITERATIONS:
            step = lambda theta, problem, n=iterations: trust_region_update.policy_step(  # noqa: E731
                case.actor, theta, problem, settings_of(args, cg_iters=n)
            )
            with mock.patch.object(trust_region_update, "num_chunks", lambda *_, n=number: n):
                program = jax.jit(step).lower(case.theta, case.problem).compile()
            analysis: Any = program.memory_analysis()
            row = {
                "chunks": number,
                "most iterations": iterations,
                "temporaries, MB": analysis.temp_size_in_bytes / 1e6,
                "ms": "",
            }
            if iterations == args.iterations:
                row["ms"] = 1000 * bench_utils.median(
                    lambda p=program: p(case.theta, case.problem), args.repeats
                )
            rows.append(row)
    return {"rows": rows}


def residuals(args: argparse.Namespace) -> dict[str, Any]:
    """Measures relative residuals, and the share of the best gain, on policies in training."""
    rows = []
    for env_id in args.envs:
        cases = trained(env_id, args.updates)
        for damping in DAMPINGS:
            solve = _gain_solver(cases[0].actor, damping)
            best = [solve(case.theta, case.problem, MANY)[1] for case in cases]
            for iterations in ITERATIONS:
                pairs = [solve(case.theta, case.problem, iterations) for case in cases]
                shares = [gain / most for (_, gain), most in zip(pairs, best, strict=True)]
                rows.append(
                    {
                        "environment": env_id,
                        "damping": damping,
                        "Fisher products": iterations,
                        "residual": float(statistics.median(residual for residual, _ in pairs)),
                        "share of best gain, %": 100 * float(statistics.median(shares)),
                    }
                )
    return {"rows": rows}


def _gain_solver(actor: actor_critic.Actor, damping: float) -> Callable[..., Any]:
    """Returns ``(theta, problem, iterations) -> (relative residual, gain)``.

    The gain is that of the step along the solution x of length 1.
    """
    config = trust_region_update.TrustRegionConfig(cg_damping=damping)

    def solve(theta: Any, problem: trust_region_update.TrustRegionProblem, iterations: Any) -> Any:
        case = Case(actor, theta, problem, ())
        right = jax.grad(lambda theta: _objectives(case, theta)[0][0])(theta)
        product = trust_region_update.fisher(actor, theta, problem.data, (), config)
        stacked = jax.tree.map(lambda x: x[None], right)
        solved = trust_region.conjugate_gradient(product, stacked, iterations, 0.0)
        x, residual = jax.tree.map(lambda leaf: leaf[0], (solved.x, solved.residual))
        curvature = tree_math.vdot(x, jax.tree.map(jnp.subtract, right, residual))
        gain = tree_math.vdot(right, x) / jnp.sqrt(jnp.maximum(curvature, 1e-30))
        return solved.relative_residual[0], gain

    return jax.jit(solve)


def _rows_text(note: str) -> Callable[[Mapping[str, Any]], str]:
    """Returns a function that formats the rows of a section, with a note below."""
    return lambda result: f"{bench_utils.table(result['rows'])}\n{note}\n"


SECTIONS: dict[str, tuple[str, Callable[..., dict[str, Any]], Callable[..., str]]] = {
    "parts": ("Where the time goes", parts, parts_text),
    "costs": ("Number of costs", costs, costs_text),
    "stride": (
        "Fisher products over every n-th environment",
        stride,
        _rows_text("Cosine and relative length of the accepted step against that of stride 1."),
    ),
    "memory": ("Memory", memory, _rows_text("By the compiler's own account.")),
    "residuals": (
        "Conjugate gradients on policies in training",
        residuals,
        _rows_text(
            "Medians over the agents and the last updates of a training by HATRPO. Residual: |g - "
            "Hx| / |g|. Share of best gain: g·x of the step along x to the radius δ over that "
            f"along H⁻¹g ({MANY} iterations)."
        ),
    ),
}
"""Section -> title, function that measures it, and function that formats it."""


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
        for name, (title, _, write) in SECTIONS.items()
        if name in sections
    )


if __name__ == "__main__":
    sys.exit(main())
