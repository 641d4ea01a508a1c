"""Compares the numbers of one device, eight devices, and two processes with four devices each.

    python benchmarks/devices.py
    python benchmarks/devices.py --cases liir:gru:envs --updates 4

For each case (algorithm : recurrent layer : axis sharded over the devices) the same run is made on
one device, on 8 forced host devices, and by two processes that join on loopback. Compared with
one device: the training state after one update in float32 and after twenty in float64; and after
twenty in float64 of which the first ten were made, and saved, by the other. An error is the largest
difference in an array over the largest number in it, the worst of all arrays; what is no real
number (actions, time steps, keys) must be equal. Also lists what the devices exchange in one update
of the compiled program.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
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

import command_line

HERE = Path(__file__).parent
CASES = ["liir:gru:envs", "liir:none:seeds", "mappo:none:envs", "ippo:gru:seeds"]
SETUPS = {"one": 1, "eight": 8, "two": 4}
"""Setup -> host devices of each process; ``two`` has two processes."""
LIMITS = {"float32": 1e-5, "float64": 1e-9, "continued": 1e-9, "handed_back": 1e-9}
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def options(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.make_parser(__doc__)
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
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Makes all runs and comparisons; returns 1 if an error is beyond its limit."""
    args = options(argv)
    if args.worker:
        work(json.loads(args.worker))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        launch("one", jobs("one", args, folder), args)
        for setup in args.setups:
            launch(setup, jobs(setup, args, folder), args)
        back = [job for setup in args.setups for job in handing_back(setup, args, folder)]
        launch("one", back, args)
        for case, setup in itertools.product(args.cases, args.setups):
            rows.append({"case": case, "setup": setup, **compare(case, setup, folder)})
    return report(args, rows)


def arguments(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `run` that all setups share."""
    algorithm, cell, shard_over = case.split(":")
    config = {"hidden_sizes": [args.hidden_sizes], "normalize_observations": True}
    config |= {"recurrent": True, "rnn_hidden_size": args.hidden_sizes} if cell == "gru" else {}
    return {
        "algorithm": algorithm,
        "config": config,
        "env": args.env,
        "shard_over": shard_over,
        "seeds": 8 if shard_over == "seeds" else args.seeds,
        "num_envs": args.num_envs,
        "num_steps": args.num_steps,
    }


def jobs(setup: str, args: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Returns the runs of a setup; eight and two also continue the runs of one device."""
    result = []
    for case in args.cases:
        common, batch = arguments(case, args), args.num_envs * args.num_steps
        at = f"{folder}/{setup}/{case.replace(':', '-')}"
        for name, updates, evaluations in (("float32", 1, 1), ("float64", args.updates, 2)):
            sizes = dict(total_steps=updates * batch, num_evaluations=evaluations)
            result.append(common | {"x64": name == "float64", **sizes, "out": f"{at}/{name}"})
        if setup != "one":
            result[-1]["exchanges"] = f"{at}/exchanges.json"
            began = at.replace(f"/{setup}/", "/one/") + "/float64"
            result.append(continuing(common, began, f"{at}/continued"))
    return result


def handing_back(setup: str, args: argparse.Namespace, folder: str) -> list[dict[str, Any]]:
    """Returns the jobs with which one device continues the runs of a setup."""
    paths = {case: f"{folder}/{setup}/{case.replace(':', '-')}" for case in args.cases}
    return [
        continuing(arguments(case, args), f"{path}/float64", f"{path}/handed_back")
        for case, path in paths.items()
    ]


def continuing(common: dict[str, Any], began: str, out: str) -> dict[str, Any]:
    """Returns a job that resumes from the middle of another's run, in a copy of its folder."""
    return {"x64": True, "copy": began, "resume": out, "shard_over": common["shard_over"]}


def launch(setup: str, jobs: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Makes the runs of ``jobs`` in one process, or in two that join."""
    copies = [(Path(job["copy"]), Path(job["resume"])) for job in jobs if "copy" in job]
    for began, out in copies:
        shutil.copytree(began, out)
        # without the last checkpoint the second half is computed again
        shutil.rmtree(max((out / "checkpoints").glob("step_*")))
    count = 2 if setup == "two" else 1
    order = {"jobs": jobs, "count": count, "port": _free_port()}
    order["fast_compile"] = args.fast_compile
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
        codes = [process.wait(args.patience) for process in running]
    finally:
        for process in running:
            process.kill()
    if any(codes):
        raise RuntimeError(f"setup {setup}: processes ended with {codes}; their messages are above")


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def work(order: dict[str, Any]) -> None:
    """Makes the runs of a process."""
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
    """Lists the collective operations in a compiled program's text: kind, size, occurrences."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
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
        entry = entries.setdefault(
            (match.group(2), str(arrays)), entry | {"from": where.group(1) if where else ""}
        )
        entry["times"] += 1
    return sorted(entries.values(), key=lambda entry: -entry["numbers"])


def _volume(array: str) -> int:
    """Numbers in ``f32[4,2]``."""
    return math.prod(int(size) for size in re.findall(r"\d+", array[array.index("[") :]))


def compare(case: str, setup: str, folder: str) -> dict[str, Any]:
    """Returns the errors of a setup against one device."""
    import jax

    one, other = (Path(folder, name, case.replace(":", "-")) for name in ("one", setup))
    errors: dict[str, Any] = {}
    for name in LIMITS:
        with jax.enable_x64(name != "float32"):
            reference = one / ("float32" if name == "float32" else "float64")
            states = [saved(path) for path in (reference, other / name)]
            errors[name] = difference(*states)
    return errors | {"exchanges": json.loads((other / "exchanges.json").read_text())}


def saved(path: Path) -> Any:
    """Returns the last state of a run, all of it on this process's device."""
    from jaxmarl_lite.experiment import compilation
    from jaxmarl_lite.experiment import config as experiment_config
    from jaxmarl_lite.report import checkpoint, run_dir

    stored = dataclasses.replace(experiment_config.read(path), devices=None)
    template = compilation.abstract_states(stored, experiment_config.env_of_run(stored, path, None))
    return checkpoint.restore(run_dir.find(path).checkpoints, template).state


def difference(one: Any, other: Any) -> dict[str, Any]:
    """Returns the worst relative error of two states' floats, its array, and unequal arrays."""
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


def report(args: argparse.Namespace, rows: list[dict[str, Any]]) -> int:
    """Writes the result files; returns 1 if an error is beyond its limit."""
    import bench_utils

    for row in rows:
        row["agrees"] = all(
            row[name]["error"] <= limit and not row[name]["unequal"]
            for name, limit in LIMITS.items()
        )
    settings = {
        key: value for key, value in vars(args).items() if key not in ("out", "worker", "patience")
    }
    path = args.out / "devices.json"
    data = {"settings": settings, "limits": LIMITS, "facts": bench_utils.facts(), "rows": rows}
    bench_utils.write(path, data, text(data))
    print(f"\n{text(data)}\n{path}")
    return 0 if all(row["agrees"] for row in rows) else 1


def text(data: dict[str, Any]) -> str:
    """Formats the result as Markdown."""
    import bench_utils

    def error_text(error: dict[str, Any]) -> str:
        flips = f", {len(error['unequal'])} arrays unequal" if error["unequal"] else ""
        return f"{error['error']:.1e}{flips}"

    def sent(exchanges: Sequence[dict[str, Any]]) -> str:
        return (
            ", ".join(f"{kind} of at most {size:,}" for kind, size in _largest(exchanges).items())
            or "nothing"
        )

    s = data["settings"]
    names = {"eight": "8 devices", "two": "2 processes x 4"}
    titles = ["float32, 1 update", f"float64, {s['updates']}", "continued", "handed back"]
    rows = []
    for row in data["rows"]:
        errors = [error_text(row[name]) for name in LIMITS]
        rows.append({"case": row["case"], "setup": names[row["setup"]]})
        rows[-1] |= dict(zip(titles, errors, strict=True))
        rows[-1]["agrees"] = "yes" if row["agrees"] else "NO"
    exchanged = "".join(
        f"- {row['case']}, {names[row['setup']]}: {sent(row['exchanges'])}\n"
        for row in data["rows"]
    )
    return (
        f"# One device, eight, and two processes\n\n{bench_utils.facts_text(data['facts'])}\n\n"
        f"{s['env']}, {s['num_envs']} environments x {s['num_steps']} steps, width "
        f"{s['hidden_sizes']}; against one device, relative to the largest number of each array. "
        "Limits: "
        + ", ".join(f"{name} {limit:g}" for name, limit in data["limits"].items())
        + f".\n\n{bench_utils.table(rows)}\nContinued: the first half by one device, "
        "saved, the second half here. Handed back: the first half here, the second by one "
        "device.\n\nCollective operations in the compiled training program, and the most "
        f"numbers of one:\n\n{exchanged}"
    )


def _largest(exchanges: Sequence[dict[str, Any]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for entry in exchanges:
        sizes[entry["kind"]] = max(sizes.get(entry["kind"], 0), entry["numbers"])
    return sizes


if __name__ == "__main__":
    sys.exit(main())
