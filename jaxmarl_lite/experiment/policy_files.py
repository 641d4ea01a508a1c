"""Files of weights: arrays of a policy in a safetensors file, with its description in the header.

Such a file holds no code. Loading it imports nothing but the algorithm and the networks that it
names as module:name, if any.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxmarl_lite import __version__, references, validation
from jaxmarl_lite.algorithms import registry
from jaxmarl_lite.algorithms.cost_limits import CostLimits
from jaxmarl_lite.envs import checker
from jaxmarl_lite.report import atomic_io
from jaxmarl_lite.types import Array, EnvSpec
from jaxmarl_lite.validation import check_path, invalid, one_line

_FORMAT, _FORMAT_VERSION = "jaxmarl_lite policy", 1
_FIELDS: dict[str, Any] = {
    "algorithm": str,
    "config": dict,
    "spec": dict,
    "networks": (dict, str),
    "greedy": bool,
}
SUFFIXES = (".safetensors", ".zip", ".onnx")
"""Suffixes of all formats of a policy."""
_ALLOWED = 'a file that policy.save("NAME.safetensors") wrote'


def check_target(path: object, suffixes: tuple[str, ...]) -> Path:
    """Returns the path of a file to write.

    Args:
        path: the path.
        suffixes: suffixes that are allowed.

    Raises:
        ValueError: it is no path, has another suffix, or is a folder.
    """
    target = check_path("path", path)
    if target.suffix not in suffixes or target.is_dir():
        names = " or ".join(f"NAME{suffix}" for suffix in suffixes)
        raise invalid("path", str(target), f"a file, {names}")
    return target


def replace(path: Path, content: bytes) -> Path:
    """Writes a file at once, with its folder where that is missing.

    Args:
        path: the file.
        content: its content.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_io.replace_bytes(path, content)
    return path


def write(path: Path, params: Mapping[str, Array], metadata: Mapping[str, Any]) -> Path:
    """Writes arrays with a description.

    Args:
        path: the file.
        params: arrays by name.
        metadata: description in plain data.

    Returns:
        The path.

    Raises:
        ValueError: an array is a typed random key.
    """
    arrays = {}
    for name, value in params.items():
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise invalid(f"params[{name!r}]", value, "an array of numbers: files hold no keys")
        arrays[name] = np.asarray(value, order="C")
    header = {name: atomic_io.to_json(value) for name, value in metadata.items()}
    header |= {
        "format": _FORMAT,
        "format_version": str(_FORMAT_VERSION),
        "versions": atomic_io.to_json({"jaxmarl_lite": __version__, "jax": jax.__version__}),
    }
    header["sha256"] = _digest(arrays, header)
    return replace(path, safetensors.numpy.save(arrays, header))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `write` wrote.

    Args:
        path: the file.

    Returns:
        Arrays by name, and the description.

    Raises:
        ValueError: the file is damaged, or of another kind.
        OSError: there is no such file.
    """
    content = atomic_io.read_bytes(path)
    if content[:4] == b"PK\x03\x04":
        raise ValueError(
            f"{path} is a zip archive; allowed is {_ALLOWED}. An exported policy is loaded by "
            "jaxmarl_lite.exported_policy.load"
        )
    try:
        arrays = safetensors.numpy.load(content)
        with safetensors.safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
    except Exception as error:  # safetensors raises its own kind, and KeyError for a dtype
        raise ValueError(
            f"{path} is damaged, or no safetensors file ({one_line(error)}); allowed is {_ALLOWED}"
        ) from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"{path} is a safetensors file of something else; allowed is {_ALLOWED}")
    if header.get("format_version") != str(_FORMAT_VERSION):
        raise ValueError(
            f"{path} is of format version {header.get('format_version')}; allowed is version "
            f"{_FORMAT_VERSION}, which jaxmarl_lite {__version__} reads"
        )
    if header.pop("sha256", None) != _digest(arrays, header):
        raise ValueError(f"{path} is damaged: its checksum differs; allowed is {_ALLOWED}")
    metadata = {name: atomic_io.from_json(header.get(name, "null")) for name in _FIELDS}
    for name, kind in _FIELDS.items():
        if not isinstance(metadata[name], kind):
            raise ValueError(f"{path} has no valid {name} in its header; allowed is {_ALLOWED}")
    return arrays, metadata


def _digest(arrays: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """Returns a checksum of arrays and description."""
    digest = hashlib.sha256(atomic_io.to_json(sorted(header.items())).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_params(
    path: Path, params: Mapping[str, np.ndarray], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
    """Checks that the arrays of a file are those that a policy expects.

    Args:
        path: the file, for messages.
        params: its arrays by name.
        expected: shapes and dtypes by name.

    Raises:
        ValueError: an array is missing, is there in vain, or has another shape or dtype.
    """
    for name in [*expected, *params]:
        if (name in params) != (name in expected):
            has, lack = ("lacks", "expect") if name in expected else ("has", "lack")
            raise ValueError(
                f"{path} {has} the array {name}, which the policy's networks {lack}; allowed is a "
                "file of the same networks"
            )
    for name, form in expected.items():
        array = params[name]
        if array.shape != form.shape:
            raise ValueError(
                f"{name} in {path} has the shape {array.shape}; allowed is {form.shape}, that of "
                "the policy's networks"
            )
        if array.dtype != form.dtype:
            precision = "jax_enable_x64 as it was when the policy was saved"
            raise ValueError(
                f"{name} in {path} has the dtype {array.dtype}; allowed is {form.dtype}, or "
                f"{precision}"
            )


def config_to_dict(config: Any) -> dict[str, Any]:
    """Returns the settings of an algorithm as plain data.

    Args:
        config: the config, a dataclass.

    Returns:
        Values by the name of the field; a user's objects as references or descriptions.
    """
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    """Returns a setting as plain data."""
    if isinstance(value, CostLimits):
        return value.to_dict()
    plain = validation.to_plain(value)
    return plain if _is_plain(plain) else references.describe(value)


def _is_plain(value: Any) -> bool:
    """Returns whether a value is plain data; an optimizer of optax is a tuple, and is not."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str))


def without_objects(config: Any) -> Any:
    """Returns a config with defaults in place of a user's objects, and of texts that name some.

    These are optimizers and schedules, on which no action depends.

    Args:
        config: the config.
    """
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        is_known = isinstance(value, CostLimits) or _is_plain(validation.to_plain(value))
        if not is_known or references.is_reference(value):
            changes[field.name] = field.default
    return dataclasses.replace(config, **changes) if changes else config


def config_from_dict(path: Path, algorithm: Any, data: Mapping[str, Any]) -> Any:
    """Returns the settings of an algorithm from plain data.

    Args:
        path: the file, for messages.
        algorithm: the algorithm, as for `make_algorithm`.
        data: result of `config_to_dict`.

    Returns:
        The config.

    Raises:
        ValueError: a field is unknown or invalid, or there is no such algorithm.
    """
    try:
        kind = registry.config_of(algorithm)
        return kind(**{name: _revive(value) for name, value in data.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error


def _revive(value: Any) -> Any:
    """Returns a setting from plain data."""
    return (
        references.from_description(value)
        if isinstance(value, str)
        else (validation.to_plain(value))
    )


def spec_from_dict(path: Path, data: Mapping[str, Any]) -> EnvSpec:
    """Returns the spec of an environment from plain data.

    Args:
        path: the file, for messages.
        data: fields of the spec.

    Returns:
        The spec.

    Raises:
        ValueError: a field is unknown or invalid.
    """
    try:
        spec = EnvSpec(**{name: validation.to_plain(value) for name, value in data.items()})
        checker.check_spec(spec)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error)}") from error
    return spec
