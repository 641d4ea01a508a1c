"""Whether one device, eight devices, and two processes with four devices each compute the same
numbers.

    python benchmarks/devices.py
    python benchmarks/devices.py --cases liir:gru:envs --updates 4

For each case (algorithm : recurrent layer : what is spread over the devices) the same run is made
on one device, on 8 forced host devices, and by two processes that join on loopback. Compared with
one device: the training state after one update in float32 and after twenty in float64; and after
twenty in float64 of which the first ten were made, and saved, by the other. An error is the largest
difference in an array over the largest number in it, the worst of all arrays; what is no real
number (actions, time steps, keys) must be equal. Also lists what the devices exchange in one update
of the compiled program.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CASES = ["liir:gru:envs", "liir:none:seeds", "mappo:none:envs", "ippo:gru:seeds"]
SETUPS = {"one": 1, "eight": 8, "two": 4}
"""Setup -> host devices of each process; ``two`` has two processes."""
LIMITS = {"float32": 1e-5, "float64": 1e-9, "continued": 1e-9, "handed_back": 1e-9}
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def options(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", nargs="+", default=CASES, help="algorithm:{none,gru}:{envs,seeds}"
    )
    parser.add_argument("--env", default="jumanji/lbf-2s-8x8-2p-2f-coop")
    parser.add_argument(
        "--updates", type=int, default=20, help="of the comparison in float64; even"
    )
    parser.add_argument("--num-envs", type=int, default=16)
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument(
        "--hidden-sizes", type=int, default=32, help="width of the dense layer and of the GRU"
    )
    parser.add_argument(
        "--seeds", type=int, default=2, help="of cases spread over envs; of the others there are 8"
    )
    parser.add_argument("--setups", nargs="+", choices=("eight", "two"), default=["eight", "two"])
    parser.add_argument(
        "--fast-compile", action="store_true", help="leave out most of XLA's optimizations"
    )
    parser.add_argument(
        "--patience", type=float, default=1800, help="seconds that one process may take"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", help="folder of the result files"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> int:
    """All runs and comparisons; 1 when one is beyond its limit."""
    chosen = options(words)
    if chosen.worker:
        work(json.loads(chosen.worker))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as place:
        launch("one", jobs("one", chosen, place), chosen)
        for setup in chosen.setups:
            launch(setup, jobs(setup, chosen, place), chosen)
        launch(
            "one",
            [job for setup in chosen.setups for job in handing_back(setup, chosen, place)],
            chosen,
        )
        for case in chosen.cases:
            rows += [
                {"case": case, "setup": setup, **compare(case, setup, place)}
                for setup in chosen.setups
            ]
    return report(chosen, rows)


def arguments(case: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """What `run` is given, the same everywhere."""
    algorithm, cell, shard_over = case.split(":")
    config = {"hidden_sizes": [chosen.hidden_sizes], "normalize_observations": True}
    config |= {"recurrent": True, "rnn_hidden_size": chosen.hidden_sizes} if cell == "gru" else {}
    return {
        "algorithm": algorithm,
        "config": config,
        "env": chosen.env,
        "shard_over": shard_over,
        "seeds": 8 if shard_over == "seeds" else chosen.seeds,
        "num_envs": chosen.num_envs,
        "num_steps": chosen.num_steps,
    }


def jobs(setup: str, chosen: argparse.Namespace, place: str) -> list[dict[str, Any]]:
    """The runs of one setup; all but that of one device also continue what that began."""
    found = []
    for case in chosen.cases:
        given, batch = arguments(case, chosen), chosen.num_envs * chosen.num_steps
        at = f"{place}/{setup}/{case.replace(':', '-')}"
        found.append(
            given
            | {"x64": False, "total_steps": batch, "num_evaluations": 1, "out": f"{at}/float32"}
        )
        whole = {
            "x64": True,
            "total_steps": chosen.updates * batch,
            "num_evaluations": 2,
            "out": f"{at}/float64",
        }
        found.append(given | whole)
        if setup != "one":
            found[-1]["exchanges"] = f"{at}/exchanges.json"
            found.append(
                continuing(given, at.replace(f"/{setup}/", "/one/") + "/float64", f"{at}/continued")
            )
    return found


def handing_back(setup: str, chosen: argparse.Namespace, place: str) -> list[dict[str, Any]]:
    """One device continues what others began."""
    found = []
    for case in chosen.cases:
        at = f"{place}/{setup}/{case.replace(':', '-')}"
        found.append(continuing(arguments(case, chosen), f"{at}/float64", f"{at}/handed_back"))
    return found


def continuing(given: dict[str, Any], began: str, out: str) -> dict[str, Any]:
    """A job that goes on from the middle of another's run, in a copy of its folder."""
    return {"x64": True, "copy": began, "resume": out, "shard_over": given["shard_over"]}


def launch(setup: str, todo: list[dict[str, Any]], chosen: argparse.Namespace) -> None:
    """Make the runs of ``todo`` in one process, or in two that join."""
    copies = [(Path(job["copy"]), Path(job["resume"])) for job in todo if "copy" in job]
    for began, out in copies:
        shutil.copytree(began, out)
        shutil.rmtree(
            max((out / "checkpoints").glob("step_*"))
        )  # the later half is to be done again
    count = 2 if setup == "two" else 1
    order = {
        "jobs": todo,
        "count": count,
        "port": _free_port(),
        "fast_compile": chosen.fast_compile,
    }
    flags = (
        os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={SETUPS[setup]}"
    )
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).absolute()), "--worker"]
    running = [
        subprocess.Popen([*command, json.dumps(order | {"rank": rank})], env=environment)
        for rank in range(count)
    ]
    try:
        codes = [process.wait(chosen.patience) for process in running]
    finally:
        for process in running:
            process.kill()
    if any(codes):
        raise RuntimeError(f"setup {setup}: processes ended with {codes}; their words are above")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def work(order: dict[str, Any]) -> None:
    """What a process does."""
    import jax

    import jaxmarl_lite as jml

    if order["fast_compile"]:
        jax.config.update("jax_disable_most_optimizations", True)
    if order["count"] > 1:
        jml.sharding.initialize_distributed(
            f"localhost:{order['port']}", order["count"], order["rank"]
        )
    for job in order["jobs"]:
        with jax.enable_x64(job.pop("x64")):
            devices = jax.device_count()
            if "resume" in job:
                jml.resume_run(
                    job["resume"], devices=devices, shard_over=job["shard_over"], quiet=True
                )
                continue
            _run(job, devices)


def _run(job: dict[str, Any], devices: int) -> None:
    import jaxmarl_lite as jml
    from jaxmarl_lite import sharding
    from jaxmarl_lite.algorithms import registry
    from jaxmarl_lite.experiment import compilation
    from jaxmarl_lite.experiment import config as experiment_config

    listed = job.pop("exchanges", None)
    job["config"] = registry.config_of(job["algorithm"])(
        **job["config"] | {"hidden_sizes": tuple(job["config"]["hidden_sizes"])}
    )
    result = jml.run(**job, eval_episodes=8, devices=devices, quiet=True)
    if listed and sharding.is_primary():
        env = experiment_config.env_of_run(result.plan, job["out"], None)
        compiled, _ = compilation.compile_run(result.plan, env)
        Path(listed).write_text(json.dumps(exchanges(compiled.train_chunk.as_text())))  # type: ignore[attr-defined]


def exchanges(program: str) -> list[dict[str, Any]]:
    """What devices exchange, from the text of a compiled program: each kind and size, how often it
    is written there.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for match in re.finditer(
        rf"^ *(?:ROOT )?\S+ = (.*?) ({COLLECTIVES})(?:-start)?\(.*$", program, re.MULTILINE
    ):
        arrays = re.findall(r"[a-z]+\d*\[[\d,]*\]", match.group(1))
        where = re.search(r'op_name="([^"]*)"', match.group(0))
        entry = {
            "kind": match.group(2),
            "arrays": arrays,
            "numbers": sum(map(_volume, arrays)),
            "times": 0,
        }
        entry = found.setdefault(
            (match.group(2), str(arrays)), entry | {"from": where.group(1) if where else ""}
        )
        entry["times"] += 1
    return sorted(found.values(), key=lambda entry: -entry["numbers"])


def _volume(array: str) -> int:
    """Numbers in ``f32[4,2]``."""
    return math.prod(int(size) for size in re.findall(r"\d+", array[array.index("[") :]))


def compare(case: str, setup: str, place: str) -> dict[str, Any]:
    """Errors of one setup against one device."""
    import jax

    one, other = (Path(place, name, case.replace(":", "-")) for name in ("one", setup))
    found: dict[str, Any] = {}
    for name in LIMITS:
        with jax.enable_x64(name != "float32"):
            reference = one / ("float32" if name == "float32" else "float64")
            states = [saved(path) for path in (reference, other / name)]
            found[name] = difference(*states)
    return found | {"exchanges": json.loads((other / "exchanges.json").read_text())}


def saved(path: Path) -> Any:
    """The last state of a run, all of it on this process's device."""
    from jaxmarl_lite.experiment import compilation
    from jaxmarl_lite.experiment import config as experiment_config
    from jaxmarl_lite.report import checkpoint, run_dir

    stored = dataclasses.replace(experiment_config.read(path), devices=None)
    template = compilation.abstract_states(stored, experiment_config.env_of_run(stored, path, None))
    return checkpoint.restore(run_dir.find(path).checkpoints, template).state


def difference(one: Any, other: Any) -> dict[str, Any]:
    """Worst relative error of the real numbers of two states, in which array, and which other
    arrays differ at all.
    """
    import jax
    import numpy as np

    worst, where, unequal = 0.0, "", []
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in (one, other)]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        name = jax.tree_util.keystr(path)
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype != b.dtype or a.shape != b.shape:
            raise RuntimeError(
                f"{name} is {a.dtype}{a.shape} in one and {b.dtype}{b.shape} in the other"
            )
        if not np.issubdtype(a.dtype, np.floating):
            unequal += [] if np.array_equal(a, b) else [name]
        elif (
            a.size
            and (error := float(np.abs(a - b).max() / max(np.abs(a).max(), np.finfo(a.dtype).tiny)))
            > worst
        ):
            worst, where = error, name
    return {"error": worst, "where": where, "unequal": unequal}


def report(chosen: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    """Write the result files; 1 when an error is beyond its limit."""
    import bench_utils

    for row in rows:
        row["agrees"] = all(
            row[name]["error"] <= limit and not row[name]["unequal"]
            for name, limit in LIMITS.items()
        )
    settings = {
        key: value
        for key, value in vars(chosen).items()
        if key not in ("out", "worker", "patience")
    }
    path = chosen.out / "devices.json"
    data = {"settings": settings, "limits": LIMITS, "facts": bench_utils.facts(), "rows": rows}
    bench_utils.write(path, data, text(data))
    print(f"\n{text(data)}\n{path}")
    return 0 if all(row["agrees"] for row in rows) else 1


def text(data: dict[str, Any]) -> str:
    """The table, with everything needed to read it."""
    import bench_utils

    def words(found: dict[str, Any]) -> str:
        flips = f", {len(found['unequal'])} arrays unequal" if found["unequal"] else ""
        return f"{found['error']:.1e}{flips}"

    def sent(found: Sequence[dict[str, Any]]) -> str:
        return (
            ", ".join(f"{kind} of at most {size:,}" for kind, size in _largest(found).items())
            or "nothing"
        )

    s = data["settings"]
    names = {"eight": "8 devices", "two": "2 processes x 4"}
    columns = [
        "case",
        "setup",
        "float32, 1 update",
        f"float64, {s['updates']}",
        "continued",
        "handed back",
        "agrees",
    ]
    rows = [
        [
            row["case"],
            names[row["setup"]],
            *(words(row[name]) for name in LIMITS),
            "yes" if row["agrees"] else "NO",
        ]
        for row in data["rows"]
    ]
    exchanged = "".join(
        f"- {row['case']}, {names[row['setup']]}: {sent(row['exchanges'])}\n"
        for row in data["rows"]
    )
    return (
        f"# One device, eight, and two processes\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"{s['env']}, {s['num_envs']} worlds x {s['num_steps']} steps, width {s['hidden_sizes']}; "
        "against one device, "
        f"relative to the largest number of each array. Limits: "
        + ", ".join(f"{name} {limit:g}" for name, limit in data["limits"].items())
        + f".\n\n{bench_utils.table(columns, rows)}\nContinued: the first half by one device, "
        "saved, the second half "
        "here. Handed back: the first half here, the second by one device.\n\n"
        "Collective operations in the compiled training program, and the most numbers of "
        f"one:\n\n{exchanged}"
    )


def _largest(found: Sequence[dict[str, Any]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entry in found:
        sizes[entry["kind"]] = max(sizes.get(entry["kind"], 0), entry["numbers"])
    return sizes


if __name__ == "__main__":
    sys.exit(main())
