"""SMAX beside JaxMARL: its own recurrent IPPO and MAPPO, and the bare environment, in turns on one
machine.

    python benchmarks/beside_jaxmarl.py --jaxmarl CHECKOUT --jaxmarl-python PYTHON

CHECKOUT is a clone of https://github.com/FLAIROx/JaxMARL; PYTHON is an interpreter with
``jaxmarl[algs]`` (README.md here says which versions were used). Sizes are JaxMARL's: 128 worlds x
128 steps, 4 epochs of 4 minibatches, and its networks: a dense layer, a GRU, and a dense layer
before each head, all of 128. IPPO is one such network with two heads.

Training is timed as `side_by_side.py` says. The bare environment is stepped with random legal
actions, through JaxMARL's own ``step`` and through ours, and both keep what the agents see.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
from pathlib import Path
from typing import Any

import measuring
import side_by_side

HERE = Path(__file__).parent


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jaxmarl", type=Path, required=True, help="a checkout of JaxMARL")
    parser.add_argument(
        "--jaxmarl-python", required=True, help="an interpreter that has what its baselines need"
    )
    parser.add_argument("--maps", nargs="+", default=["3m"])
    parser.add_argument(
        "--systems", nargs="+", choices=("ippo", "mappo"), default=["ippo", "mappo"]
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=3, help="updates of a turn")
    parser.add_argument(
        "--worlds", type=int, nargs="+", default=[128, 1024], help="of the bare environment"
    )
    parser.add_argument(
        "--out", type=Path, default=measuring.RESULTS, help="folder of the result files"
    )
    found = parser.parse_args(words)
    if not (found.jaxmarl / "baselines").is_dir():
        parser.error(f"--jaxmarl: {found.jaxmarl} is no checkout of JaxMARL: it has no baselines")
    return found


def main(words: list[str] | None = None) -> int:
    """All comparisons; the table is written after each."""
    chosen = options(words)
    path = chosen.out / f"beside-jaxmarl-{measuring.device_name()}.json"
    result: dict[str, Any] = {
        "facts": measuring.facts(),
        "machine": measuring.machine(),
        "commit": measuring.commit(chosen.jaxmarl),
        "settings": {name: getattr(chosen, name) for name in ("rounds", "updates")},
        "rows": [],
        "bare": [
            bare(name, worlds, chosen.rounds) for name in chosen.maps for worlds in chosen.worlds
        ],
    }
    for name in chosen.maps:
        for system in chosen.systems:
            print(f"{system} on {name} ...", flush=True)
            result["rows"].append(compare(system, name, chosen))
            measuring.write(path, result, text(result))
    print(f"\n{text(result)}\n{path}")
    return 0


def compare(system: str, name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row of training."""
    theirs = [
        chosen.jaxmarl_python,
        str(HERE / "peers" / "jaxmarl_driver.py"),
        "--system",
        system,
        "--map",
        name,
    ]
    theirs += ["--checkout", str(chosen.jaxmarl.absolute()), "--updates", str(chosen.updates)]
    ours = [
        sys.executable,
        str(HERE / "peers" / "own_driver.py"),
        "--algorithm",
        system,
        "--env",
        f"smax/{name}",
    ]
    ours += ["--num-envs", "128", "--num-steps", "128", "--num-minibatches", "4"]
    ours += ["--recurrent", "--hidden-sizes", "128", "--head-hidden-sizes", "128"]
    ours += ["--shared-torso"] if system == "ippo" else []
    row = side_by_side.in_turns({"jaxmarl": theirs, "own": ours}, chosen.rounds, chosen.updates, 1)
    return {"system": system, "map": name} | row


def bare(name: str, worlds: int, rounds: int, steps: int = 64) -> dict[str, Any]:
    """Steps per second of the environment alone, theirs and ours in turns, with random legal
    actions and resets.
    """
    import jax
    import jax.numpy as jnp

    import jaxmarl_lite as jml
    from jaxmarl_lite import rollout
    from jaxmarl_lite.algorithms.random_policy import random_policy

    env = jml.make(f"smax/{name}")
    inner = env.unwrapped  # type: ignore[attr-defined]
    policy = random_policy(env.spec)

    @jax.jit
    def ours(carry: Any) -> Any:
        acting, key = carry
        key, now = jax.random.split(key)
        return rollout.rollout(env, functools.partial(policy.act, ()), acting, now, steps)[0], key

    def one(key: Any, state: Any, _: Any) -> Any:
        act_key, step_key = jax.random.split(key)
        legal = inner.get_avail_actions(state)
        keys = jax.random.split(act_key, len(inner.agents))
        action = {
            agent: jax.random.categorical(keys[i], jnp.where(legal[agent] == 1, 0.0, -jnp.inf))
            for i, agent in enumerate(inner.agents)
        }
        obs, state, *_ = inner.step(step_key, state, action)
        return state, obs

    @jax.jit
    def theirs(carry: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            held, key = carry
            key, now = jax.random.split(key)
            return (jax.vmap(one)(jax.random.split(now, worlds), *held), key), None

        return jax.lax.scan(step, carry, None, steps)[0]

    key = jax.random.key(0)
    began = rollout.init_rollout_state(env, key, worlds, ())
    obs, state = jax.vmap(inner.reset)(jax.random.split(key, worlds))
    starts = {"own": (ours, (began, key)), "jaxmarl": (theirs, ((state, obs), key))}
    rates: dict[str, list[float]] = {name: [] for name in starts}
    held = {who: function(carry) for who, (function, carry) in starts.items()}
    for _ in range(max(rounds, 3)):
        for who, (function, _) in starts.items():
            taken, held[who] = measuring.repeated(function, held[who], 3)
            rates[who].append(worlds * steps / statistics.median(taken))
    ratios = [own / theirs for own, theirs in zip(rates["own"], rates["jaxmarl"], strict=True)]
    return {
        "map": name,
        "worlds": worlds,
        "steps_per_second": {who: statistics.median(each) for who, each in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def text(result: dict[str, Any]) -> str:
    """The tables, with everything needed to read them."""
    rows = [
        [
            row["system"],
            row["map"],
            side_by_side.rate_text(row, "own"),
            side_by_side.rate_text(row, "jaxmarl"),
            side_by_side.ratio_text(row),
            row["facts"]["own"]["compile_seconds"],
            row["facts"]["jaxmarl"]["compile_seconds"],
        ]
        for row in result["rows"]
    ]
    columns = [
        "system",
        "map",
        "ours, env steps/s",
        "JaxMARL, env steps/s",
        "ratio",
        "ours, compile s",
        "JaxMARL's",
    ]
    alone = [
        [row["map"], row["worlds"], *row["steps_per_second"].values(), side_by_side.ratio_text(row)]
        for row in result["bare"]
    ]
    s, first = result["settings"], result["rows"][0]["facts"]
    of = {name: ", ".join(f"{k} {v}" for k, v in first[name]["versions"].items()) for name in first}
    return (
        f"# SMAX beside JaxMARL\n\n{measuring.facts_text(result['facts'])}\n\n"
        f"Ours: {first['own']['sizes']}; {of['own']}.\n\n"
        f"JaxMARL {result['commit'][:9]}: {first['jaxmarl']['sizes']}; {of['jaxmarl']}.\n\n"
        "The machine: "
        + ", ".join(f"{k} {measuring.cell_text(v)}" for k, v in result["machine"].items())
        + "\n\n"
        f"{s['rounds']} rounds in turns, {s['updates']} updates each; medians over rounds, least "
        "and greatest in "
        f"brackets.\n\n{measuring.table(columns, rows)}\n"
        "The networks are JaxMARL's in both: a dense layer, a GRU, a dense layer, a head; IPPO is "
        "one network with two "
        "heads. JaxMARL's MAPPO evaluates the critic once per agent, ours once per world.\n\n"
        "The environment alone, with random legal actions, what the agents then see, and the "
        "resets that end episodes; "
        "ours calls JaxMARL's own step, which is most of either's time:\n\n"
        + measuring.table(
            ["map", "worlds", "ours, env steps/s", "JaxMARL, env steps/s", "ratio"], alone
        )
    )


if __name__ == "__main__":
    sys.exit(main())
