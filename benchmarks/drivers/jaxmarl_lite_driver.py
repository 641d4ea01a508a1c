"""Times training with this library on request. Started by `compare_speed.py`.

    python jaxmarl_lite_driver.py --algorithm ippo --env jumanji/lbf-2s-8x8-2p-2f-coop

After compiling, prints one JSON line of facts; then, for every number on its standard input, times
so many updates and prints their seconds as a JSON list. ``--only-env`` steps the environment alone
with random legal actions.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import serving

import jaxmarl_lite as jml
from jaxmarl_lite import rollout
from jaxmarl_lite.algorithms import random_policy, registry


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


def main() -> None:
    """Builds, compiles, then answers requests until the input ends."""
    args = options()
    env = jml.make(args.env)
    update, state = (environment if args.only_env else training)(env, args)
    jitted = jax.jit(update, donate_argnums=() if args.only_env else (0,))
    compiled, facts = serving.compile_program(jitted, state)
    facts |= {"env_steps_per_update": args.num_envs * args.num_steps, "options": vars(args)}
    facts |= {"versions": serving.versions("jax", "flax", "jumanji", "jaxmarl-lite")}
    measure = serving.timed_steps(lambda carry: compiled(carry[0]), (state, None))
    serving.serve(sys.stdout, facts, measure)


if __name__ == "__main__":
    main()
