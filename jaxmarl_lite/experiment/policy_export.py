"""Policies for programs without this library: StableHLO in a zip archive, or ONNX."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.extend
import numpy as np

from jaxmarl_lite import __version__, exported_policy, platforms, references
from jaxmarl_lite.experiment import liveness, policy_files
from jaxmarl_lite.report import atomic_io
from jaxmarl_lite.types import Array, EnvSpec
from jaxmarl_lite.validation import check_int, one_line

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that a StableHLO program is lowered for."""
_BATCH = "B"
_MAIN = """\
import os
import sys

import load_policy

try:
    print(load_policy.describe(os.path.dirname(os.path.abspath(__file__))))
except ValueError as error:
    sys.exit(str(error))
"""


class FlatPolicy(NamedTuple):
    """A policy as a function of arrays, with what describes it.

    Attributes:
        algorithm: name of the algorithm.
        spec: spec of the environment.
        greedy: whether it takes the likeliest actions.
        uses_key: whether ``function`` uses its key.
        function: ``function(key, arrays) -> [action, *hidden_state]`` of the fields of ``obs`` and
            the arrays of the hidden state, all ``[B, ...]``.
        obs: shapes and dtypes of the observation's fields with a leading ``[1]``, by name.
        hidden_state: arrays of the hidden state at the start of an episode, ``[1, ...]``.
    """

    algorithm: str
    spec: EnvSpec
    greedy: bool
    uses_key: bool
    function: Callable[[Array, Sequence[Array]], list[Array]]
    obs: dict[str, jax.ShapeDtypeStruct]
    hidden_state: tuple[Array, ...]

    @property
    def arrays(self) -> dict[str, Any]:
        """Shapes and dtypes of the arrays with a leading ``[1]``, by name."""
        return self.obs | {f"hidden_state_{i}": x for i, x in enumerate(self.hidden_state)}


def export(policy: FlatPolicy, path: Path, batch_size: int | None) -> Path:
    """Writes a policy in the format that the suffix of the path names.

    Args:
        policy: the policy.
        path: NAME.zip or NAME.onnx.
        batch_size: B, the number of environments; None: any number.

    Returns:
        The path.

    Raises:
        ValueError: the policy cannot be exported to this format.
        ImportError: a package is missing; the message names the extra to install.
    """
    batch_size = None if batch_size is None else check_int("batch_size", batch_size)
    write = _to_onnx if path.suffix == ".onnx" else _to_zip
    return policy_files.replace(path, write(policy, batch_size))


def _specs(policy: FlatPolicy, batch_size: int | None) -> list[jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a program's arrays, with a symbol for any number of rows."""
    batch: Any = batch_size
    if batch is None:
        (batch,) = jax.export.symbolic_shape(_BATCH)
    return [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in policy.arrays.values()]


def _cannot(policy: FlatPolicy, form: str, error: Exception, batch_size: int | None) -> ValueError:
    """Returns the error for a policy whose functions a converter refuses."""
    hint = "" if batch_size is not None else "; with batch_size it may be possible"
    return ValueError(
        f"the networks of this {policy.algorithm} policy cannot be exported to {form} "
        f"({one_line(error)}); allowed are functions that {form} has{hint}"
    )


def _to_zip(policy: FlatPolicy, batch_size: int | None) -> bytes:
    """Returns an archive with the program, its description, and the code that loads it."""
    flatbuffers = references.import_extra(
        "flatbuffers", "a policy as a zip archive needs", "export"
    )

    key_impl = str(jax.random.key_impl(jax.random.key(0)))

    def program(*inputs: Array) -> list[Array]:
        if not policy.uses_key:
            return policy.function(jax.random.key(0), inputs)
        key_data, *arrays = inputs
        return policy.function(jax.random.wrap_key_data(key_data, impl=key_impl), arrays)

    specs, names = _specs(policy, batch_size), list(policy.arrays)
    if policy.uses_key:
        data = jax.random.key_data(jax.random.key(0))
        specs, names = [jax.ShapeDtypeStruct(data.shape, data.dtype), *specs], ["key", *names]
    try:
        # as for a CPU, whose programs run everywhere: it has no product in bfloat16 of its own
        with platforms.compile_for("cpu"):
            exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(*specs)
        serialized = bytes(exported.serialize())
    except Exception as error:  # JAX raises many kinds, a user's network any
        raise _cannot(policy, "StableHLO", error, batch_size) from error
    outputs = ["action", *(f"hidden_state_{i}" for i in range(len(policy.hidden_state)))]
    files = {exported_policy.PROGRAM: serialized, exported_policy.HIDDEN_STATE: _start(policy)}
    manifest = {
        "format": exported_policy.FORMAT,
        "format_version": exported_policy.FORMAT_VERSION,
        "algorithm": policy.algorithm,
        "greedy": policy.greedy,
        "key_impl": key_impl if policy.uses_key else None,
        "spec": dataclasses.asdict(policy.spec),
        "inputs": _describe(names, exported.in_avals),
        "outputs": _describe(outputs, exported.out_avals),
        "platforms": PLATFORMS,
        "versions": {"jaxmarl_lite": __version__, "jax": jax.__version__},
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    files |= {
        exported_policy.MANIFEST: atomic_io.to_json(manifest, indent=2).encode(),
        "load_policy.py": Path(exported_policy.__file__).read_bytes(),
        "__main__.py": _MAIN.encode(),
    }
    for source in sorted(Path(flatbuffers.__file__).parent.glob("*.py")):
        files[f"flatbuffers/{source.name}"] = source.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _start(policy: FlatPolicy) -> bytes:
    """Returns the hidden state at the start of an episode as a file of NumPy."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"{i}": np.asarray(x) for i, x in enumerate(policy.hidden_state)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _describe(names: Sequence[str], avals: Sequence[Any]) -> list[dict[str, Any]]:
    """Returns names, shapes and dtypes of a program's arrays as plain data."""
    return [
        {
            "name": name,
            "shape": [size if isinstance(size, int) else str(size) for size in aval.shape],
            "dtype": str(aval.dtype),
        }
        for name, aval in zip(names, avals, strict=True)
    ]


def _to_onnx(policy: FlatPolicy, batch_size: int | None) -> bytes:
    """Returns a model of ONNX."""
    if not policy.greedy:
        raise ValueError(
            "greedy is False; allowed for ONNX, which has no random keys, is a policy of the "
            "likeliest actions, such as result.policy(greedy=True)"
        )
    jax2onnx = references.import_extra("jax2onnx", "a policy as an ONNX model needs", "onnx")
    specs = _specs(policy, batch_size)
    # The converter has its own versions of functions of Flax and JAX, some without a rule for vmap;
    # a traced function has none of them left.
    try:
        traced = jax.make_jaxpr(lambda *arrays: policy.function(jax.random.key(0), arrays))(*specs)
        with _quiet_converter():
            model = jax2onnx.to_onnx(
                jax.extend.core.jaxpr_as_fun(liveness.without_dead_code(traced)),
                specs,
                model_name=policy.algorithm,
                enable_double_precision=any(x.dtype == np.float64 for x in specs),
                input_names=list(policy.arrays),
                output_names=[
                    "action",
                    *(f"next_hidden_state_{i}" for i in range(len(policy.hidden_state))),
                ],
            )
    except Exception as error:  # the converter raises many kinds
        raise _cannot(policy, "ONNX", error, batch_size) from error
    facts = {
        "algorithm": policy.algorithm,
        "spec": atomic_io.to_json(dataclasses.asdict(policy.spec)),
        "jaxmarl_lite": __version__,
    }
    for name, text in facts.items():
        model.metadata_props.add(key=name, value=text)
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet_converter() -> Iterator[None]:
    """Keeps the converter from logging each of its steps."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
