"""The command ``export``: the trained policy of a run as a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from jaxmarl_lite.cli.train import REGISTRY
from jaxmarl_lite.experiment import policy_files
from jaxmarl_lite.experiment.result import load_run
from jaxmarl_lite.report.tables import printable


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the trained policy of a run to a file, in the format of the file's suffix.

    NAME.safetensors holds weights, for jaxmarl_lite.load_policy; NAME.zip a StableHLO program and
    the code that loads it with JAX and NumPy alone (python NAME.zip describes it); NAME.onnx an
    ONNX model of the likeliest actions.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    file: Annotated[Path, tyro.conf.Positional]
    """File to write: NAME.safetensors, NAME.zip or NAME.onnx."""
    seed: int | None = None
    """Seed of the run whose policy is written; by default the first that did not diverge."""
    greedy: bool = False
    """Take the likeliest actions; by default as in the run's own evaluations."""
    sampled: bool = False
    """Take sampled actions; by default as in the run's own evaluations."""
    batch_size: int | None = None
    """Number of environments that the program acts in; None: any number."""


def export(args: list[str]) -> None:
    """Runs the command ``export RUN FILE``.

    Args:
        args: arguments of the command.

    Raises:
        ValueError: an argument is invalid, or the policy cannot be exported to this format.
        ImportError: a package is missing.
    """
    options = tyro.cli(Export, prog="jaxmarl-lite export", args=args, registry=REGISTRY)
    if options.greedy and options.sampled:
        raise ValueError("--greedy and --sampled are both given; allowed is one of them")
    policy_files.check_target(options.file, policy_files.SUFFIXES)
    saves = options.file.suffix == ".safetensors"
    if saves and options.batch_size is not None:
        raise ValueError(
            "--batch-size is given, but a file of weights fits any; allowed with it are NAME.zip "
            "and NAME.onnx"
        )
    result = load_run(options.run)
    greedy = options.greedy or (result.plan.greedy and not options.sampled)
    policy = result.policy(options.seed, greedy)
    path = policy.save(options.file) if saves else policy.export(options.file, options.batch_size)
    played = "greedy" if greedy else "sampled"
    print(printable(path), f"({played} actions, {path.stat().st_size / 1000:,.0f} kB)")
