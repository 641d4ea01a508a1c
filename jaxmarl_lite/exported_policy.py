"""A policy from a file that `TrainedPolicy.export` wrote: needs this file, JAX and NumPy alone.

The file of a policy is a zip archive that contains this module as ``load_policy.py``:

    python policy.zip                     prints what the policy expects and returns

    import sys
    sys.path.insert(0, "policy.zip")
    import load_policy

    policy = load_policy.load("policy.zip")
    hidden_state = policy.init_hidden_state(batch_size=4)
    action, hidden_state = policy.act(agents_view, hidden_state, key)

It must import nothing else of the library that trained the policy.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = "jaxmarl_lite exported policy"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
PROGRAM = "policy.stablehlo"
HIDDEN_STATE = "hidden_state.npz"


def load(path: Any) -> ExportedPolicy:
    """Loads an exported policy.

    Args:
        path: file that ``policy.export("NAME.zip")`` wrote.

    Returns:
        The policy.

    Raises:
        ValueError: the file is damaged, or no exported policy.
        OSError: there is no such file.
    """
    return ExportedPolicy(Path(path))


def read_manifest(path: Any) -> dict[str, Any]:
    """Reads what a file says about its policy, without JAX.

    Args:
        path: file that ``policy.export("NAME.zip")`` wrote.

    Returns:
        Algorithm, spec of the environment, inputs, outputs, versions, and checksums.

    Raises:
        ValueError: the file is damaged, or no exported policy.
        OSError: there is no such file.
    """
    return _read(Path(path))[0]


def describe(path: Any) -> str:
    """Returns what a policy expects and returns, as text.

    Args:
        path: file that ``policy.export("NAME.zip")`` wrote.

    Returns:
        Several lines.

    Raises:
        ValueError: the file is damaged, or no exported policy.
        OSError: there is no such file.
    """
    manifest = read_manifest(path)
    spec, versions = manifest["spec"], manifest["versions"]
    played = "likeliest" if manifest["greedy"] else "sampled"
    versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines = [
        f"{manifest['algorithm']} on {spec['name']}, {played} actions",
        f"exported by {versions}, for {', '.join(manifest['platforms'])}",
    ]
    for kind in ("inputs", "outputs"):
        lines += ["", f"{kind}:"]
        for array in manifest[kind]:
            shape = ", ".join(map(str, array["shape"]))
            lines.append(f"  {array['name']:<20} {array['dtype']:<8} [{shape}]")
    if spec["action_low"] is not None:
        lines += ["", f"actions from {spec['action_low']} to {spec['action_high']}"]
    if spec["action_names"]:
        lines += ["", f"actions: {', '.join(spec['action_names'])}"]
    lines += ["", "spec:", *(f"  {name}: {value}" for name, value in spec.items())]
    lines += [
        "",
        "load it in Python, with JAX and NumPy alone:",
        f"  import sys; sys.path.insert(0, {str(path)!r})",
        f"  import load_policy; policy = load_policy.load({str(path)!r})",
    ]
    return "\n".join(lines)


class ExportedPolicy:
    """An exported policy, with the same functions as the policy that it was exported from.

    `act` is pure and may be called inside of ``jit``; calling the policy itself acts in one
    environment and keeps the hidden state from step to step.

    Args:
        path: the file.

    Attributes:
        manifest: the content of `read_manifest`.
        spec: sizes, names and action bounds of the environment.
        greedy: whether it takes the likeliest actions; otherwise it samples, and needs keys.

    Raises:
        ValueError: the file is damaged, or no exported policy.
        OSError: there is no such file.
    """

    def __init__(self, path: Path):
        import jax
        import jax.numpy as jnp
        import numpy as np

        self.manifest, files = _read(path)
        self.spec: dict[str, Any] = self.manifest["spec"]
        self.greedy: bool = self.manifest["greedy"]
        _find_flatbuffers(path)
        from jax import export

        self._dtypes = {x["name"]: np.dtype(x["dtype"]) for x in self.manifest["inputs"]}
        if np.dtype("float64") in {*self._dtypes.values()} - {jnp.result_type(float)}:
            raise ValueError(
                f"{path} computes in float64, and JAX is set to float32; allowed is "
                'jax.config.update("jax_enable_x64", True) first'
            )
        self._program = jax.jit(export.deserialize(bytearray(files[PROGRAM])).call)
        with np.load(io.BytesIO(files[HIDDEN_STATE])) as arrays:
            self._start = tuple(arrays[f"{i}"] for i in range(len(arrays.files)))
        self.reset(jax.random.key(0))

    def init_hidden_state(self, batch_size: int) -> tuple[Any, ...]:
        """Returns the hidden state at the start of episodes.

        Args:
            batch_size: B, the number of environments.

        Returns:
            Arrays ``[B, ...]``; () for a policy without memory.
        """
        import jax.numpy as jnp

        return tuple(jnp.repeat(jnp.asarray(x), batch_size, axis=0) for x in self._start)

    def act(self, obs: Any, hidden_state: Any = (), key: Any = None) -> tuple[Any, tuple[Any, ...]]:
        """Chooses the actions of all agents in a batch of environments.

        Args:
            obs: observations ``[B, N, O]``, with which every action is legal; or a mapping or
                record with ``agents_view`` ``[B, N, O]`` and ``action_mask`` ``[B, N, A]``, and
                what else the manifest lists.
            hidden_state: that of `init_hidden_state`, or of the step before.
            key: random key of JAX, or its data, for sampled actions.

        Returns:
            Actions, ``[B, N]`` int or ``[B, N, A]`` float, and the hidden state after the step.

        Raises:
            ValueError: an input is missing or has another shape.
        """
        hidden_state = tuple(hidden_state)
        if len(hidden_state) != len(self._start):
            raise ValueError(
                f"hidden_state has {len(hidden_state)} arrays; allowed are {len(self._start)}, as "
                "init_hidden_state returns them"
            )
        inputs = self._arrays(obs) | {f"hidden_state_{i}": x for i, x in enumerate(hidden_state)}
        if "key" in self._dtypes:
            inputs["key"] = self._key_data(key)
        self._check_shapes(inputs)
        action, *hidden_state = self._program(*(inputs[name] for name in self._dtypes))
        return action, tuple(hidden_state)

    def __call__(self, obs: Any) -> Any:
        """Chooses the actions in one environment, and advances the hidden state.

        Args:
            obs: as for `act`, without the batch axis.

        Returns:
            ``[N]`` int or ``[N, A]`` float.

        Raises:
            ValueError: an input is missing or has another shape.
        """
        import jax

        self._key, key = jax.random.split(self._key)
        arrays = {name: x[None] for name, x in self._fields(obs).items()}
        action, self._hidden_state = self.act(arrays, self._hidden_state, key)
        return action[0]

    def reset(self, key: Any = None) -> None:
        """Resets the hidden state for a new episode of one environment.

        Args:
            key: random key of the actions that follow; None continues with the present one.
        """
        self._key = self._key if key is None else key
        self._hidden_state = self.init_hidden_state(1)

    def _fields(self, obs: Any) -> dict[str, Any]:
        """Returns the arrays of an observation that are present, by name."""
        import jax.numpy as jnp

        names = ("agents_view", "action_mask", "global_state", "alive")
        if isinstance(obs, Mapping):
            values = {name: obs.get(name) for name in names}
        elif hasattr(obs, "agents_view"):
            values = {name: getattr(obs, name, None) for name in names}
        else:
            values = {"agents_view": obs}
        return {
            name: jnp.asarray(value, self._dtypes[name])
            for name, value in values.items()
            if value is not None and name in self._dtypes
        }

    def _arrays(self, obs: Any) -> dict[str, Any]:
        """Returns the inputs that an observation gives; all actions are legal by default."""
        import jax.numpy as jnp

        arrays = self._fields(obs)
        if "agents_view" in arrays and arrays["agents_view"].ndim == 3:
            batch = arrays["agents_view"].shape[0]
            agents, actions = self.spec["num_agents"], self.spec["action_size"]
            defaults = {"action_mask": (batch, agents, actions), "alive": (batch, agents)}
            for name, shape in defaults.items():
                if name in self._dtypes:
                    arrays.setdefault(name, jnp.ones(shape, bool))
        return arrays

    def _key_data(self, key: Any) -> Any:
        """Returns a random key as integers."""
        import jax
        import jax.numpy as jnp

        if key is None:
            raise ValueError(
                "key is None; allowed is a random key, such as jax.random.key(0): this policy "
                "samples its actions"
            )
        if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(key)
        return jnp.asarray(key, jnp.uint32)

    def _check_shapes(self, inputs: dict[str, Any]) -> None:
        """Checks that every input is present and has its shape, with one number of environments."""
        batch = None
        for array in self.manifest["inputs"]:
            name, shape = array["name"], array["shape"]
            form = f"[{', '.join(map(str, shape))}]"
            if name not in inputs:
                raise ValueError(f"obs has no {name}; allowed is one with {name} {form}")
            actual = tuple(inputs[name].shape)
            if "B" in shape and batch is None:
                batch = actual[:1]
            if actual != tuple(batch[0] if size == "B" and batch else size for size in shape):
                rows = f", B being {batch[0]}" if "B" in shape and batch else ""
                raise ValueError(f"{name} has the shape {actual}; allowed is {form}{rows}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns the manifest and the other files of an archive, after checking them."""
    allowed = 'allowed is a file that policy.export("NAME.zip") wrote'
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if MANIFEST not in names:
                raise ValueError(f"{path} is a zip archive without a policy; {allowed}")
            manifest = json.loads(archive.read(MANIFEST))
            kind = manifest.get("format"), manifest.get("format_version")
            if kind != (FORMAT, FORMAT_VERSION):
                raise ValueError(
                    f"{path} is of format {kind[0]!r}, version {kind[1]!r}; allowed is "
                    f"{FORMAT!r}, version {FORMAT_VERSION}"
                )
            files = {name: archive.read(name) for name in manifest["files"]}
    except (zipfile.BadZipFile, zlib.error, json.JSONDecodeError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no zip archive, or a damaged one ({error}); {allowed}") from (
            error
        )
    for name, digest in manifest["files"].items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ValueError(f"{path} is damaged: {name} has another checksum; {allowed}")
    return manifest, files


def _find_flatbuffers(path: Path) -> None:
    """Makes the package by which JAX reads programs importable: the installed one, or the file's.

    It is pure Python, and the archive contains a copy.
    """
    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        sys.path.append(str(path))
        importlib.invalidate_caches()
        importlib.import_module("flatbuffers")


if __name__ == "__main__":
    print(describe(sys.argv[1]))
