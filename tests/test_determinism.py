"""Deterministic operations are asked for before JAX starts, or refused in one sentence."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import pytest
import tiny_runs

import jaxmarl_lite as jml
from jaxmarl_lite.cli.main import main

COMMAND = (
    "train ippo --env toy/counter --hidden-sizes 4 --num-envs 4 --num-steps 4 --eval-episodes 4 "
    f"--seeds 1 --total-steps {tiny_runs.updates(1)} --num-evaluations 1 --quiet --deterministic"
)


def test_the_option_reaches_xla_and_is_kept_with_the_run(tmp_path):
    command = [sys.executable, "-m", "jaxmarl_lite", *COMMAND.split(), "--out", str(tmp_path)]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    subprocess.run(command, check=True, env=environment)
    assert json.loads((tmp_path / "versions.json").read_text())["deterministic_ops"] is True


def test_it_is_refused_after_jax_has_started(monkeypatch, capsys):
    assert jnp.ones(()) == 1.0
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    with pytest.raises(ValueError, match="JAX has started its devices already; allowed is to"):
        jml.use_deterministic_ops()
    assert main([*COMMAND.split()]) == 2  # one line, and no traceback
    assert capsys.readouterr().err.startswith("jaxmarl-lite: deterministic operations are asked")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    jml.use_deterministic_ops()  # it is in use already
