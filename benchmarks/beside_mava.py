"""Training speed beside Mava's feed-forward IPPO and MAPPO, in turns on one machine, at Mava's own sizes.

    python benchmarks/beside_mava.py --mava CHECKOUT --mava-python PYTHON

CHECKOUT is a clone of https://github.com/instadeepai/Mava; PYTHON is an interpreter with ``jax flax jumanji hydra-core
omegaconf colorama jaxmarl brax distrax optax flashbax rich`` (README.md here says which versions were used).

For every system and environment both programs are compiled, each in a process that then waits; in turns A B A B ...
each is asked for a few updates, so that only one computes at a time and nothing is compiled twice. A round's ratio is
that of its two turns' medians: whatever else slows the machine down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring

HERE = Path(__file__).parent
ENVIRONMENTS = {"lbf": "jumanji/lbf-2s-8x8-2p-2f-coop", "rware": "jumanji/rware-tiny-2ag"}
SYSTEMS = {"ippo": "ff_ippo", "mappo": "ff_mappo"}


class Worker:
    """A process that compiles one learner and then makes updates on request."""

    def __init__(self, command: Sequence[str], patience: float):
        self._process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._patience, self._command = patience, command
        self.facts: dict[str, Any] = self._answer()

    def updates(self, number: int) -> list[float]:
        """Seconds of each of ``number`` updates."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} ended with code {self._process.wait()}; its words are above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mava", type=Path, required=True, help="a checkout of Mava")
    parser.add_argument("--mava-python", required=True, help="an interpreter that has what Mava needs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=10, help="updates of a turn")
    parser.add_argument("--warmup", type=int, default=4, help="untimed updates of each before the first round")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--envs", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--out", type=Path, default=measuring.RESULTS, help="folder of the result files")
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
    theirs = [chosen.mava_python, str(HERE / "peers" / "mava_driver.py"), "--checkout", str(chosen.mava.absolute())]
    ours = [sys.executable, str(HERE / "peers" / "own_driver.py"), "--algorithm", system, "--env", ENVIRONMENTS[env]]
    workers: dict[str, Worker] = {}
    try:
        workers["mava"] = Worker([*theirs, "--system", SYSTEMS[system], "--env", env], 10)
        workers["own"] = Worker(ours, 10)
        for worker in workers.values():
            worker.updates(chosen.warmup)
        turns: dict[str, list[list[float]]] = {"mava": [], "own": []}
        for _ in range(chosen.rounds):
            for name, worker in workers.items():
                time.sleep(0.2)  # the other's threads come to rest
                turns[name].append(worker.updates(chosen.updates))
        facts = {name: worker.facts for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return {"system": system, "env": ENVIRONMENTS[env], "facts": facts, "seconds": turns} | compared(facts, turns)


def compared(facts: dict[str, Any], turns: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Medians and the ratio of speeds, ours over theirs."""
    rates = {
        name: [facts[name]["steps_per_update"] / statistics.median(turn) for turn in turns[name]] for name in turns
    }
    (peer,) = (name for name in rates if name != "own")
    ratios = [own / theirs for own, theirs in zip(rates["own"], rates[peer], strict=True)]
    return {
        "steps_per_second": {name: statistics.median(each) for name, each in rates.items()},
        "steps_per_second_range": {name: [min(each), max(each)] for name, each in rates.items()},
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def text(result: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""

    def rate(row: dict[str, Any], name: str) -> str:
        low, high = row["steps_per_second_range"][name]
        return f"{row['steps_per_second'][name]:,.0f} ({low:,.0f} to {high:,.0f})"

    rows = [
        [
            row["system"], row["env"], rate(row, "own"), rate(row, "mava"),
            f"{row['ratio']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})",
            row["facts"]["own"]["compile_seconds"], row["facts"]["mava"]["compile_seconds"],
        ]
        for row in result["rows"]
    ]  # fmt: skip
    columns = ["system", "environment", "ours, env steps/s", "Mava, env steps/s", "ratio", "ours, compile s", "Mava's"]
    s, first = result["settings"], result["rows"][0]["facts"]
    of = {name: ", ".join(f"{k} {v}" for k, v in first[name]["versions"].items()) for name in first}
    sizes = "".join(
        f"- {row['system']} on {row['env']}: view {row['facts']['own']['view']} against {row['facts']['mava']['view']}"
        f", time limit {row['facts']['own']['time_limit']} against {row['facts']['mava']['time_limit']}\n"
        for row in result["rows"]
    )
    return (
        f"# Training speed beside Mava\n\n{measuring.facts_text(result['facts'])}\n\n"
        f"Ours: {first['own']['sizes']}; {of['own']}.\n\n"
        f"Mava {result['mava_commit'][:9]}: {first['mava']['sizes']}; {of['mava']}.\n\n"
        "The machine: " + ", ".join(f"{k} {measuring.cell_text(v)}" for k, v in result["machine"].items()) + "\n\n"
        f"{s['rounds']} rounds in turns, {s['updates']} updates each; medians over rounds, least and greatest in "
        f"brackets.\n\n{measuring.table(columns, rows)}\n"
        "Ours against Mava's, of one agent's view and of the episodes:\n\n" + sizes + "\n"
        "Both take 8 gradient steps on 2,048 environment steps each per update. Mava runs two batches of 16 worlds "
        "side by side and averages their gradients, shuffles single time steps, and evaluates MAPPO's critic once per "
        "agent; we deal whole sequences of worlds, and evaluate it once per world. Only learners are timed.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
