"""Problems for `constrained_step.py`: random ones of any size, those of policies in training, and how
well conjugate gradients solve the latter.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxmarl_lite as jml
from jaxmarl_lite import rollout
from jaxmarl_lite.algorithms import hatrpo, ppo, registry, sequential_update, trust_region_update
from jaxmarl_lite.networks import actor_critic
from jaxmarl_lite.networks.recurrent import NetworkSpec
from jaxmarl_lite.ops import running_statistics, tree_math, trust_region
from jaxmarl_lite.types import EnvSpec, Observation

WORLDS = ("jumanji/lbf-2s-8x8-2p-2f-coop", "jumanji/rware-tiny-2ag", "toy/reach")
"""Environments in which a policy is trained: choices, choices with rare rewards, continuous
actions."""
USUAL = hatrpo.HATRPOConfig()
"""Settings of that training."""
KEPT = 3  # last updates of a training whose problems are looked at
ITERATIONS = (5, 10, 20, 40)
ENOUGH = 200  # iterations after which a solution counts as exact


class Case(NamedTuple):
    """One agent's problem."""

    actor: actor_critic.Actor
    theta: Any
    problem: trust_region_update.TrustRegionProblem
    parameters: Any  # of the old policy's distributions


def random_case(sizes: tuple[int, int, int, int], hidden: tuple[int, ...], costs: int) -> Case:
    """Normal views and advantages, and actions of a fresh policy; every cost a little below its
    limit.

    Args:
        sizes: steps, worlds, view, continuous actions.
        hidden: widths of the layers.
        costs: how many.
    """
    steps, envs, view, actions = sizes
    spec = EnvSpec("random", 1, view, 1, "continuous", actions, steps)
    actor = actor_critic.single_agent_actor(spec, NetworkSpec(hidden))
    keys = jax.random.split(jax.random.key(0), 5)
    theta, lead = actor.net.init(keys[0]), (steps, envs)
    obs = Observation(
        jax.random.normal(keys[1], (*lead, view)),
        jnp.zeros((*lead, 1)),
        jnp.ones((*lead, actions), bool),
        jnp.ones(lead, bool),
    )
    first = jnp.zeros(lead, bool)
    pi = actor.unroll(theta, (), obs, first)
    action = pi.sample(keys[2])
    data = ppo.PolicyBatch(obs, action, pi.log_prob(action), first)
    wanted = jax.random.normal(keys[3], lead), jax.random.normal(keys[4], (costs, *lead))
    return Case(
        actor,
        theta,
        trust_region_update.TrustRegionProblem(data, (), *wanted, jnp.full(costs, -0.005)),
        pi.params(),
    )


def trained(world: str, updates: int, num_envs: int = 32, num_steps: int = 128) -> list[Case]:
    """The problems of a training by HATRPO: of the last few updates, each agent's of each, in the
    order of time.
    """
    env = jml.make(world)
    algorithm = registry.make_algorithm("hatrpo", env.spec, USUAL)
    actor = actor_critic.single_agent_actor(env.spec, USUAL.network_spec)
    critic = actor_critic.make_critic(
        env.spec, USUAL.network_spec, USUAL.critic_input, shared=False
    )

    @jax.jit
    def collect(learner: Any, acting: Any, key: Any) -> Any:
        return rollout.rollout(
            env, lambda *given: algorithm.act(learner, *given), acting, key, num_steps
        )

    learn = jax.jit(algorithm.update)
    keys = jax.random.split(jax.random.key(0), 2 + updates)
    learner = jax.jit(lambda key: algorithm.init(key, num_envs, algorithm.config))(keys[0])
    begin = jax.jit(
        lambda key: rollout.init_rollout_state(
            env, key, num_envs, algorithm.init_hidden_state(num_envs)
        )
    )
    acting, found = begin(keys[1]), []
    for number, key in enumerate(keys[2:]):
        acting, batch = collect(learner, acting, key)
        if number >= updates - KEPT:
            found += _cases(actor, critic, env.spec, learner, batch)
        learner, _ = learn(key, learner, batch)
    return found


def _cases(
    actor: actor_critic.Actor, critic: actor_critic.Critic, spec: EnvSpec, learner: Any, batch: Any
) -> list[Case]:
    """The problem of every agent, as if each were the first to move."""
    steps = batch.transitions._replace(
        reward=actor_critic.to_team_reward(spec.reward_type, batch.transitions.reward)
    )
    _, estimate, _ = ppo.estimate(_Critics(critic), learner, steps)  # type: ignore[arg-type]
    every = sequential_update.split_by_agent(ppo.to_policy_batch(steps))
    found = []
    for agent in range(spec.num_agents):
        theta, data = jax.tree.map(lambda x, agent=agent: x[agent], (learner.actor_params, every))
        advantage = actor_critic.standardize_advantages(
            estimate.advantage[..., agent], data.obs.alive, shared=False
        )
        problem = trust_region_update.TrustRegionProblem(
            data, (), advantage, jnp.zeros((0, *advantage.shape)), jnp.zeros(0)
        )
        found.append(
            Case(actor, theta, problem, actor.unroll(theta, (), data.obs, data.is_first).params())
        )
    return found


class _Critics(NamedTuple):
    critic: actor_critic.Critic


# ---------------------------------------------------------------------------------------------
# residuals


def residuals(world: str, updates: int) -> list[dict[str, Any]]:
    """A row for each damping and method: medians over the problems of a training."""
    cases = trained(world, updates)
    agents = len(cases) // KEPT
    rows = []
    for damping in (0.01, 0.1):
        solvers = {
            name: _solver(cases[0].actor, damping, make) for name, make in PRECONDITIONERS.items()
        }
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        before: dict[int, Any] = {}
        for number, case in enumerate(cases):
            outcomes, solution = _outcomes(solvers, case, before.get(number % agents))
            before[number % agents] = solution
            for key, outcome in outcomes.items():
                found.setdefault(key, []).append(outcome)
        for (method, products), outcomes in found.items():
            residual, gain = (statistics.median(each) for each in zip(*outcomes, strict=True))
            row = {"world": world, "damping": damping, "method": method, "products": products}
            rows.append(row | {"residual": residual, "gain": gain})
    return rows


def _outcomes(
    solvers: Mapping[str, Callable[..., Any]], case: Case, before: Any
) -> tuple[dict[tuple[str, int], tuple[float, float]], Any]:
    """Residual and share of the best gain for each method and number of products; and the plain
    solution after ten.
    """
    given = case.theta, case.problem
    zero = jax.tree.map(jnp.zeros_like, case.theta)
    plain = solvers["plain"]
    best = plain(*given, zero, ENOUGH)[2]
    found, ten = {}, None
    for method, solve in solvers.items():
        for iterations in ITERATIONS:
            x, residual, gain = solve(*given, zero, iterations)
            found[method, iterations] = float(residual), float(gain / best)
            ten = x if (method, iterations) == ("plain", 10) else ten
    if before is not None:
        for iterations in (10, 20):
            _, residual, gain = plain(*given, before, iterations)
            found["warm", iterations + 1] = float(residual), float(gain / best)
    return found, ten


def _solver(
    actor: actor_critic.Actor, damping: float, make: Callable[..., Any]
) -> Callable[..., Any]:
    """``(theta, problem, start, iterations) -> (x, relative residual, gain of the step along x of
    length 1)``.
    """
    config = trust_region_update.TrustRegionConfig(cg_damping=damping)

    def solve(
        theta: Any, problem: trust_region_update.TrustRegionProblem, start: Any, iterations: Any
    ) -> Any:
        data = problem.data

        def surrogate(theta: Any) -> Any:
            ratio = jnp.exp(
                actor.unroll(theta, (), data.obs, data.is_first).log_prob(data.action)
                - data.log_prob
            )
            return running_statistics.masked_mean(ratio * problem.advantage, data.obs.alive)

        g = jax.grad(surrogate)(theta)
        product = trust_region_update.fisher(actor, theta, data, (), config)
        right, first = (jax.tree.map(lambda x: x[None], tree) for tree in (g, start))
        inverse = make(actor, theta, data, damping)
        # the least tolerance that there is: all iterations run, and the first residual is b where
        # the start is zero
        solved = trust_region.conjugate_gradient(product, right, iterations, 0.0, first, inverse)
        x, left = jax.tree.map(lambda x: x[0], (solved.x, solved.residual))
        curvature = tree_math.vdot(x, jax.tree.map(jnp.subtract, g, left))
        return (
            x,
            solved.relative_residual[0],
            tree_math.vdot(g, x) / jnp.sqrt(jnp.maximum(curvature, 1e-30)),
        )

    return jax.jit(solve)


def _inside(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch
) -> dict[str, tuple[Any, Any]]:
    """What comes into each layer ``[n, i]``, and the gradient of each sample's log-probability by
    what leaves it before its activation ``[n, o]``, both times the root of the sample's weight.
    """
    names = [*sorted(name for name in theta if name.startswith("layers_")), "head"]
    obs, action = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (data.obs, data.action))
    count = obs.alive.size
    weight = jnp.sqrt(obs.alive / jnp.maximum(obs.alive.sum(), 1))[:, None]

    def log_prob(shifts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        x, came = obs.agents_view, {}
        for name in names:
            came[name] = x
            x = x @ theta[name]["kernel"] + theta[name]["bias"] + shifts[name]
            x = x if name == "head" else jax.nn.relu(x)
        head = (x, theta["log_std"]) if "log_std" in theta else x
        return actor.to_distribution(head, obs).log_prob(action).sum(), came

    nothing = {name: jnp.zeros((count, theta[name]["bias"].size)) for name in names}
    slopes, came = jax.grad(log_prob, has_aux=True)(nothing)
    return {name: (came[name], weight * slopes[name]) for name in names}


def _none(actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float) -> None:
    return None


def _jacobi(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float
) -> Callable[[Any], Any]:
    """By the diagonal of the Fisher matrix, from the squared gradients of each sample's
    log-probability.
    """
    diagonal = {
        name: {"kernel": (came**2).T @ slope**2, "bias": (slope**2).sum(0)}
        for name, (came, slope) in _inside(actor, theta, data).items()
    }
    if "log_std" in theta:
        diagonal["log_std"] = jnp.full_like(theta["log_std"], 2.0)  # type: ignore[assignment]
    return lambda v: jax.tree.map(lambda x, d: x / (d + damping), v, diagonal)


def _kronecker(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float
) -> Callable[[Any], Any]:
    """Each layer by ``A⊗G``, the second moments of what comes in and of the slopes; the damping is
    dealt to both.
    """
    alive = data.obs.alive.reshape(-1)
    weight = (alive / jnp.maximum(alive.sum(), 1))[:, None]
    factors = {}
    for name, (came, slope) in _inside(actor, theta, data).items():
        came = jnp.concatenate([came, jnp.ones_like(came[:, :1])], 1)
        a, g = came.T @ (weight * came), slope.T @ slope
        balance = jnp.sqrt((jnp.trace(a) / len(a)) / jnp.maximum(jnp.trace(g) / len(g), 1e-12))
        share = jnp.sqrt(damping)
        factors[name] = (
            jnp.linalg.inv(a + balance * share * jnp.eye(len(a))),
            jnp.linalg.inv(g + share / balance * jnp.eye(len(g))),
        )

    def inverse(v: Any) -> Any:
        found = {}
        for name, (a, g) in factors.items():
            both = a @ jnp.concatenate([v[name]["kernel"], v[name]["bias"][None]]) @ g
            found[name] = {"kernel": both[:-1], "bias": both[-1]}
        if "log_std" in v:
            found["log_std"] = v["log_std"] / (2.0 + damping)
        return found

    return inverse


PRECONDITIONERS: dict[str, Callable[..., Any]] = {
    "plain": _none,
    "Jacobi": _jacobi,
    "Kronecker": _kronecker,
}
