"""Times a program of this library on request. Started by `compare_speed.py`; `serving.py` has the
protocol.

    python jaxmarl_lite_driver.py --algorithm ippo --env jumanji/lbf-2s-8x8-2p-2f-coop
    python jaxmarl_lite_driver.py --only-env --env smax/3m
    python jaxmarl_lite_driver.py --liir-update 3m
    python jaxmarl_lite_driver.py --macpo-step

``--only-env`` steps the environment alone with random legal actions. ``--liir-update`` is one
update of LIIR at `LIIRConfig.reference` with the exact meta-gradient, on random full episodes at
the shapes of the reference implementation: one step of the policy, the gradient through it, one
step of the intrinsic reward, and one of each critic. ``--macpo-step`` is one agent's policy step of
MACPO on random data, see `constrained_step.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chips
import jax
import jax.numpy as jnp
import serving

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import bench_utils
import constrained_step

import jaxmarl_lite as jml
from jaxmarl_lite import platforms, rollout
from jaxmarl_lite.algorithms import random_policy, registry, trust_region_update
from jaxmarl_lite.types import EnvSpec, EpisodeStats, Observation, Rollout, Transition


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", default="ippo")
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--num-steps", type=int, default=128)
    parser.add_argument("--num-minibatches", type=int, default=2)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--recurrent", action="store_true", help="a GRU after the dense layers")
    parser.add_argument(
        "--head-hidden-sizes", type=int, nargs="*", default=[], help="dense layers before each head"
    )
    parser.add_argument(
        "--plain", action="store_true", help="default settings, except for the networks"
    )
    parser.add_argument(
        "--shared-torso", action="store_true", help="one network with two heads (IPPO)"
    )
    parser.add_argument("--only-env", action="store_true", help="random legal actions, no learning")
    parser.add_argument("--liir-update", choices=serving.LIIR_MAPS, metavar="MAP")
    parser.add_argument("--macpo-step", action="store_true")
    return parser.parse_args()


def training(env: Any, args: argparse.Namespace) -> tuple[Callable[[Any], Any], Any]:
    """Returns one update, ``state -> (state, metrics)``, and the first state."""
    rates: dict[str, Any] = {"lr": 2.5e-4, "num_epochs": 4}
    rates |= {} if args.shared_torso else {"critic_lr": 2.5e-4}
    config = registry.config_of(args.algorithm)(
        hidden_sizes=tuple(args.hidden_sizes),
        recurrent=args.recurrent,
        head_hidden_sizes=tuple(args.head_hidden_sizes),
        **({} if args.plain else rates | {"num_minibatches": args.num_minibatches}),
        **({"shared_torso": True} if args.shared_torso else {}),
    )
    algorithm = jml.make_algorithm(args.algorithm, env.spec, config)
    init, train = jml.make_train(algorithm, env, args.num_envs, args.num_steps)
    return lambda state: train(state, 1), jax.jit(init)(jax.random.key(0))


def environment(env: Any, args: argparse.Namespace) -> tuple[Callable[[Any], Any], Any]:
    """Returns a rollout of random legal actions, ``state -> (state, ())``, and its first state."""
    policy = random_policy.random_policy(env.spec)

    def play(state: Any) -> tuple[Any, tuple[()]]:
        rollout_state, key = state
        key, rollout_key = jax.random.split(key)
        act = functools.partial(policy.act, ())
        played, _ = rollout.rollout(env, act, rollout_state, rollout_key, args.num_steps)
        return (played, key), ()

    key = jax.random.key(0)
    return play, (rollout.init_rollout_state(env, key, args.num_envs, ()), key)


def liir_update(name: str) -> tuple[Callable[[Any, Any], Any], Any, Any, dict[str, Any]]:
    """Returns an update of LIIR, ``(state, batch) -> (state, metrics)``, its arguments, and facts.

    Args:
        name: one of `serving.LIIR_MAPS`.
    """
    agents, state, view, actions, steps = serving.LIIR_MAPS[name]
    num_envs = serving.LIIR_EPISODES
    obs_size = view + actions + agents  # theirs see their last action and their number as well
    spec = EnvSpec(name, agents, obs_size, state, "discrete", actions, steps)
    algorithm = jml.make_algorithm(
        "liir", spec, jml.LIIRConfig.reference(meta_gradient="exact", outer_ratio="agent")
    )
    lead, key = (steps, num_envs), iter(jax.random.split(jax.random.key(0), 8))
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
    learner = algorithm.init(next(key), num_envs)
    batch = Rollout(moves, algorithm.init_hidden_state(num_envs), ended)

    update = functools.partial(algorithm.update, jax.random.key(1))
    gflop = bench_utils.product_operations(update, learner, batch) / 1e9
    facts = {"env_steps_per_update": steps * num_envs, "work": f"{gflop:.3g} GFLOP in products"}
    return update, learner, batch, facts


def macpo_step() -> tuple[Callable[[Any, Any], Any], Any, Any, dict[str, Any]]:
    """Returns a policy step of MACPO, ``(theta, problem) -> (theta, results)``, its arguments, and
    facts.
    """
    args = constrained_step.options([])
    case = constrained_step.random_case(args)
    config = constrained_step.settings_of(args, initial_step_size=0.27)

    def step(theta: Any, problem: Any) -> Any:
        return theta, trust_region_update.policy_step(case.actor, theta, problem, config)

    info = constrained_step.compiled(case, config)[1]
    tries = f"{int(info['line_search_steps'])} tries"
    work = f"{int(2 * info['cg_iters'])} Fisher products, {tries}"
    facts = {"env_steps_per_update": args.num_steps * args.num_envs, "work": work}
    return step, case.theta, case.problem, facts


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    chip = os.environ.get(serving.CHIP)
    with platforms.compile_for(chips.find(chip).platform) if chip else contextlib.nullcontext():
        answer(options())


def answer(args: argparse.Namespace) -> None:
    """Builds, compiles, then answers requests until the input ends."""
    donated: tuple[int, ...] = ()
    if args.liir_update:
        update, state, data, facts = liir_update(args.liir_update)
    elif args.macpo_step:
        update, state, data, facts = macpo_step()
    else:
        one, state = (environment if args.only_env else training)(jml.make(args.env), args)
        update, data = (lambda state, _: one(state)), ()
        donated = () if args.only_env else (0,)
        facts = {"env_steps_per_update": args.num_envs * args.num_steps, "options": vars(args)}
    compiled, compiled_facts = serving.compile_program(
        jax.jit(update, donate_argnums=donated), state, data, donated=donated
    )
    facts |= compiled_facts
    facts |= {"versions": serving.versions("jax", "flax", "jumanji", "jaxmarl-lite")}
    measure = serving.timed_steps(lambda carry: compiled(carry[0], data), (state, None))
    serving.serve(sys.stdout, facts, measure)


if __name__ == "__main__":
    main()
