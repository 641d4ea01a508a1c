"""Random problems of any size for `constrained_step.py`, and those of policies in training."""

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

ENV_IDS = ("jumanji/lbf-2s-8x8-2p-2f-coop", "jumanji/rware-tiny-2ag", "toy/reach")
"""Environments to train in: discrete actions, the same with rare rewards, continuous actions."""
CONFIG = hatrpo.HATRPOConfig()
"""Settings of that training."""
LAST_UPDATES = 3  # problems are those of the last updates of a training
ITERATIONS = (5, 10, 20, 40)
EXACT_ITERATIONS = 200  # iterations after which a solution counts as exact


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


def random_case(sizes: tuple[int, int, int, int], hidden: tuple[int, ...], costs: int) -> Case:
    """Returns random observations and advantages, and actions of a new policy.

    Every cost is a little below its limit.

    Args:
        sizes: steps, environments, observation size, continuous actions.
        hidden: widths of the layers.
        costs: number of costs.
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
    advantages = jax.random.normal(keys[3], lead), jax.random.normal(keys[4], (costs, *lead))
    return Case(
        actor,
        theta,
        trust_region_update.TrustRegionProblem(data, (), *advantages, jnp.full(costs, -0.005)),
        pi.params(),
    )


def trained(env_id: str, updates: int, num_envs: int = 32, num_steps: int = 128) -> list[Case]:
    """Returns every agent's problems in the last updates of a training by HATRPO, in time order."""
    env = jml.make(env_id)
    algorithm = registry.make_algorithm("hatrpo", env.spec, CONFIG)
    actor = actor_critic.single_agent_actor(env.spec, CONFIG.network_spec)
    critic = actor_critic.make_critic(
        env.spec, CONFIG.network_spec, CONFIG.critic_input, shared=False
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
    _, estimate, _ = ppo.estimate(_Critics(critic), learner, steps)  # type: ignore[arg-type]
    every = sequential_update.split_by_agent(ppo.to_policy_batch(steps))
    cases = []
    for agent in range(spec.num_agents):
        theta, data = jax.tree.map(lambda x, agent=agent: x[agent], (learner.actor_params, every))
        advantage = actor_critic.standardize_advantages(
            estimate.advantage[..., agent], data.obs.alive, shared=False
        )
        problem = trust_region_update.TrustRegionProblem(
            data, (), advantage, jnp.zeros((0, *advantage.shape)), jnp.zeros(0)
        )
        cases.append(
            Case(actor, theta, problem, actor.unroll(theta, (), data.obs, data.is_first).params())
        )
    return cases


class _Critics(NamedTuple):
    critic: actor_critic.Critic


# ---------------------------------------------------------------------------------------------
# residuals


def residuals(env_id: str, updates: int) -> list[dict[str, Any]]:
    """Returns a row for each damping and method: medians over the problems of a training."""
    cases = trained(env_id, updates)
    agents = len(cases) // LAST_UPDATES
    rows = []
    for damping in (0.01, 0.1):
        solvers = {
            name: _solver(cases[0].actor, damping, make) for name, make in PRECONDITIONERS.items()
        }
        results: dict[tuple[str, int], list[tuple[float, float]]] = {}
        solutions: dict[int, Any] = {}
        for number, case in enumerate(cases):
            outcomes, solution = _outcomes(solvers, case, solutions.get(number % agents))
            solutions[number % agents] = solution
            for key, outcome in outcomes.items():
                results.setdefault(key, []).append(outcome)
        for (method, products), outcomes in results.items():
            residual, gain = (statistics.median(values) for values in zip(*outcomes, strict=True))
            row = {"world": env_id, "damping": damping, "method": method, "products": products}
            rows.append(row | {"residual": residual, "gain": gain})
    return rows


def _outcomes(
    solvers: Mapping[str, Callable[..., Any]], case: Case, warm_start: Any
) -> tuple[dict[tuple[str, int], tuple[float, float]], Any]:
    """Returns residual and share of the best gain by method and products, and the plain solution.

    The plain solution is that of ten iterations.
    """
    inputs = case.theta, case.problem
    zero = jax.tree.map(jnp.zeros_like, case.theta)
    plain = solvers["plain"]
    best = plain(*inputs, zero, EXACT_ITERATIONS)[2]
    results, ten = {}, None
    for method, solve in solvers.items():
        for iterations in ITERATIONS:
            x, residual, gain = solve(*inputs, zero, iterations)
            results[method, iterations] = float(residual), float(gain / best)
            ten = x if (method, iterations) == ("plain", 10) else ten
    if warm_start is not None:
        for iterations in (10, 20):
            _, residual, gain = plain(*inputs, warm_start, iterations)
            results["warm", iterations + 1] = float(residual), float(gain / best)
    return results, ten


def _solver(
    actor: actor_critic.Actor, damping: float, make: Callable[..., Any]
) -> Callable[..., Any]:
    """Returns ``(theta, problem, start, iterations) -> (x, relative residual, gain)``.

    The gain is that of the step along x of length 1.
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
        x, residual = jax.tree.map(lambda x: x[0], (solved.x, solved.residual))
        curvature = tree_math.vdot(x, jax.tree.map(jnp.subtract, g, residual))
        return (
            x,
            solved.relative_residual[0],
            tree_math.vdot(g, x) / jnp.sqrt(jnp.maximum(curvature, 1e-30)),
        )

    return jax.jit(solve)


def _inside(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch
) -> dict[str, tuple[Any, Any]]:
    """Returns each layer's inputs ``[n, i]`` and slopes ``[n, o]``.

    Slopes are gradients of each sample's log-probability by the layer's output before its
    activation, times the root of the sample's weight.
    """
    names = [*sorted(name for name in theta if name.startswith("layers_")), "head"]
    obs, action = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (data.obs, data.action))
    count = obs.alive.size
    weight = jnp.sqrt(obs.alive / jnp.maximum(obs.alive.sum(), 1))[:, None]

    def log_prob(shifts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        x, inputs = obs.agents_view, {}
        for name in names:
            inputs[name] = x
            x = x @ theta[name]["kernel"] + theta[name]["bias"] + shifts[name]
            x = x if name == "head" else jax.nn.relu(x)
        head = (x, theta["log_std"]) if "log_std" in theta else x
        return actor.to_distribution(head, obs).log_prob(action).sum(), inputs

    nothing = {name: jnp.zeros((count, theta[name]["bias"].size)) for name in names}
    slopes, inputs = jax.grad(log_prob, has_aux=True)(nothing)
    return {name: (inputs[name], weight * slopes[name]) for name in names}


def _none(actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float) -> None:
    return None


def _jacobi(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float
) -> Callable[[Any], Any]:
    """Inverts the diagonal of the Fisher matrix, from each sample's squared gradients."""
    diagonal = {
        name: {"kernel": (inputs**2).T @ slope**2, "bias": (slope**2).sum(0)}
        for name, (inputs, slope) in _inside(actor, theta, data).items()
    }
    if "log_std" in theta:
        diagonal["log_std"] = jnp.full_like(theta["log_std"], 2.0)  # type: ignore[assignment]
    return lambda v: jax.tree.map(lambda x, d: x / (d + damping), v, diagonal)


def _kronecker(
    actor: actor_critic.Actor, theta: Any, data: ppo.PolicyBatch, damping: float
) -> Callable[[Any], Any]:
    """Inverts each layer's ``A⊗G``, second moments of inputs and slopes; both are damped."""
    alive = data.obs.alive.reshape(-1)
    weight = (alive / jnp.maximum(alive.sum(), 1))[:, None]
    factors = {}
    for name, (inputs, slope) in _inside(actor, theta, data).items():
        inputs = jnp.concatenate([inputs, jnp.ones_like(inputs[:, :1])], 1)
        a, g = inputs.T @ (weight * inputs), slope.T @ slope
        balance = jnp.sqrt((jnp.trace(a) / len(a)) / jnp.maximum(jnp.trace(g) / len(g), 1e-12))
        root = jnp.sqrt(damping)
        factors[name] = (
            jnp.linalg.inv(a + balance * root * jnp.eye(len(a))),
            jnp.linalg.inv(g + root / balance * jnp.eye(len(g))),
        )

    def inverse(v: Any) -> Any:
        result = {}
        for name, (a, g) in factors.items():
            both = a @ jnp.concatenate([v[name]["kernel"], v[name]["bias"][None]]) @ g
            result[name] = {"kernel": both[:-1], "bias": both[-1]}
        if "log_std" in v:
            result["log_std"] = v["log_std"] / (2.0 + damping)
        return result

    return inverse


PRECONDITIONERS: dict[str, Callable[..., Any]] = {
    "plain": _none,
    "Jacobi": _jacobi,
    "Kronecker": _kronecker,
}
