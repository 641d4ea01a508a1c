"""Training speed beside Mava's feed-forward IPPO and MAPPO, in turns on one machine, at Mava's own
sizes.

    python benchmarks/beside_mava.py --mava CHECKOUT --mava-python PYTHON

CHECKOUT is a clone of https://github.com/instadeepai/Mava; PYTHON is an interpreter with ``jax flax
jumanji hydra-core omegaconf colorama jaxmarl brax distrax optax flashbax rich`` (README.md here
says which versions were used).

Every system in every environment is timed as `side_by_side.py` says.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import measuring
import side_by_side

HERE = Path(__file__).parent
ENVIRONMENTS = {"lbf": "jumanji/lbf-2s-8x8-2p-2f-coop", "rware": "jumanji/rware-tiny-2ag"}
SYSTEMS = {"ippo": "ff_ippo", "mappo": "ff_mappo"}


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mava", type=Path, required=True, help="a checkout of Mava")
    parser.add_argument(
        "--mava-python", required=True, help="an interpreter that has what Mava needs"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument(
        "--warmup", type=int, default=4, help="untimed updates of each before the first round"
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--envs", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument(
        "--out", type=Path, default=measuring.RESULTS, help="folder of the result files"
    )
    found = parser.parse_args(words)
    if not (found.mava / "mava" / "systems").is_dir():
        parser.error(f"--mava: {found.mava} is no checkout of Mava: it has no mava/systems")
    return found


def main(words: list[str] | None = None) -> int:
    """All comparisons; the table is written after each."""
    chosen = options(words)
    where = measuring.facts()
    path = chosen.out / f"beside-mava-{measuring.device_name()}.json"
    result: dict[str, Any] = {
        "facts": where,
        "machine": measuring.machine(),
        "mava_commit": measuring.commit(chosen.mava),
        "settings": {name: getattr(chosen, name) for name in ("rounds", "updates", "warmup")},
        "rows": [],
    }
    for env in chosen.envs:
        for system in chosen.systems:
            print(f"{system} on {ENVIRONMENTS[env]} ...", flush=True)
            result["rows"].append(compare(system, env, chosen))
            measuring.write(path, result, text(result))
    print(f"\n{text(result)}\n{path}")
    return 0


def compare(system: str, env: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    theirs = [
        chosen.mava_python,
        str(HERE / "peers" / "mava_driver.py"),
        "--checkout",
        str(chosen.mava.absolute()),
    ]
    ours = [
        sys.executable,
        str(HERE / "peers" / "own_driver.py"),
        "--algorithm",
        system,
        "--env",
        ENVIRONMENTS[env],
    ]
    commands = {"mava": [*theirs, "--system", SYSTEMS[system], "--env", env], "own": ours}
    row = side_by_side.in_turns(commands, chosen.rounds, chosen.updates, chosen.warmup)
    return {"system": system, "env": ENVIRONMENTS[env]} | row


def text(result: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    rows = [
        [
            row["system"],
            row["env"],
            side_by_side.rate_text(row, "own"),
            side_by_side.rate_text(row, "mava"),
            side_by_side.ratio_text(row),
            row["facts"]["own"]["compile_seconds"],
            row["facts"]["mava"]["compile_seconds"],
        ]
        for row in result["rows"]
    ]
    columns = [
        "system",
        "environment",
        "ours, env steps/s",
        "Mava, env steps/s",
        "ratio",
        "ours, compile s",
        "Mava's",
    ]
    s, first = result["settings"], result["rows"][0]["facts"]
    of = {name: ", ".join(f"{k} {v}" for k, v in first[name]["versions"].items()) for name in first}
    sizes = "".join(
        f"- {row['system']} on {row['env']}: view {row['facts']['own']['view']} against "
        f"{row['facts']['mava']['view']}"
        f", time limit {row['facts']['own']['time_limit']} against "
        f"{row['facts']['mava']['time_limit']}\n"
        for row in result["rows"]
    )
    return (
        f"# Training speed beside Mava\n\n{measuring.facts_text(result['facts'])}\n\n"
        f"Ours: {first['own']['sizes']}; {of['own']}.\n\n"
        f"Mava {result['mava_commit'][:9]}: {first['mava']['sizes']}; {of['mava']}.\n\n"
        "The machine: "
        + ", ".join(f"{k} {measuring.cell_text(v)}" for k, v in result["machine"].items())
        + "\n\n"
        f"{s['rounds']} rounds in turns, {s['updates']} updates each; medians over rounds, least "
        "and greatest in "
        f"brackets.\n\n{measuring.table(columns, rows)}\n"
        "Ours against Mava's, of one agent's view and of the episodes:\n\n" + sizes + "\n"
        "Both take 8 gradient steps on 2,048 environment steps each per update. Mava runs two "
        "batches of 16 worlds "
        "side by side and averages their gradients, shuffles single time steps, and evaluates "
        "MAPPO's critic once per "
        "agent; we deal whole sequences of worlds, and evaluate it once per world. Only learners "
        "are timed.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
