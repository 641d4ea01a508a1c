"""Accelerators that programs can be compiled for without one, and the options that this needs.

XLA compiles for a chip from a description of it. For NVIDIA's chips the description is a text with
the numbers of their data sheets; TPUs have a name that libtpu knows. No autotuning is possible
without the chip, so that products of matrices are cuBLAS's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any, NamedTuple


class Chip(NamedTuple):
    """One kind of accelerator.

    Attributes:
        platform: ``gpu`` or ``tpu``, as JAX calls it.
        memory: bytes of memory of one device.
        facts: numbers of a GPU that XLA's description of it has.
        topology: beginning of a TPU's name in libtpu.
        accelerator: kind and number of devices of one host, as libtpu reads it.
    """

    platform: str
    memory: int
    facts: Mapping[str, Any] = MappingProxyType({})
    topology: str = ""
    accelerator: str = ""


_CUDA = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "threads_per_core_limit": 2048,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
}
_HOPPER = _CUDA | {
    "shared_memory_per_core": 233472,
    "shared_memory_per_block_optin": 232448,
    "core_count": 132,
    "fpus_per_core": 128,
    "l2_cache_size": 52428800,
    "clock_rate_ghz": 1.98,
    "major": 9,
}
CHIPS = {
    "a100": Chip(
        "gpu",
        85_100_068_864,
        _CUDA
        | {
            "shared_memory_per_core": 167936,
            "shared_memory_per_block_optin": 166912,
            "core_count": 108,
            "fpus_per_core": 64,
            "l2_cache_size": 41943040,
            "clock_rate_ghz": 1.41,
            "memory_bandwidth": 2_039_040_000_000,
            "major": 8,
        },
    ),
    "h100": Chip("gpu", 84_942_979_072, _HOPPER | {"memory_bandwidth": 3_352_320_000_000}),
    "h200": Chip("gpu", 151_397_597_184, _HOPPER | {"memory_bandwidth": 4_800_000_000_000}),
    "b200": Chip(
        "gpu",
        191_514_411_008,
        _HOPPER
        | {
            "core_count": 148,
            "l2_cache_size": 132644864,
            "clock_rate_ghz": 1.965,
            "memory_bandwidth": 7_672_320_000_000,
            "major": 10,
        },
    ),
    "v5e": Chip("tpu", 16 * 2**30, topology="v5e", accelerator="v5litepod"),
    "v6e": Chip("tpu", 32 * 2**30, topology="v6e", accelerator="v6e"),
}
"""Name -> chip."""

_GPU_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
_PLUGINS = {"gpu": "jax-cuda12-plugin", "tpu": "libtpu"}


class ChipError(ValueError):
    """A chip is unknown, or this interpreter cannot compile for it."""


def find(name: str) -> Chip:
    """Returns a chip by name; raises ChipError for an unknown one."""
    if name not in CHIPS:
        raise ChipError(f"chip is {name!r}; allowed is one of {', '.join(CHIPS)}")
    return CHIPS[name]


def variables(name: str) -> dict[str, str]:
    """Returns the environment variables of a process that compiles for a chip.

    Raises:
        ChipError: the chip is unknown.
    """
    chip = find(name)
    common = {"JAX_PLATFORMS": "cpu"}  # what runs there runs on the CPU
    if chip.platform == "gpu":
        flags = f"{os.environ.get('XLA_FLAGS', '')} {_GPU_FLAGS}".strip()
        return common | {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": flags}
    return common | {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{chip.accelerator}-4",
        # libtpu lets one process in at a time, as a chip does; programs that are only compiled may
        # be many
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def check_plugin(name: str) -> None:
    """Checks that this interpreter can compile for a chip.

    Raises:
        ChipError: the chip is unknown, or its plugin is missing or of another version than JAX.
    """
    chip = find(name)
    plugin = _PLUGINS[chip.platform]
    try:
        version = metadata.version(plugin)
    except metadata.PackageNotFoundError:
        raise ChipError(
            f"chip is {name!r}, for which this interpreter needs {plugin}; --plugin-python names "
            "one that has it"
        ) from None
    jax_version = metadata.version("jax")
    if chip.platform == "gpu" and version != jax_version:
        raise ChipError(f"{plugin} is {version} and jax {jax_version}; allowed is one version")


def devices(name: str, count: int = 1) -> list[Any]:
    """Returns devices of a chip that need not be there, in a process with its `variables`.

    Args:
        name: name of the chip.
        count: number of devices: of one host for GPUs; of TPUs 1, 4, 16 or 256.

    Raises:
        ChipError: there is no such number.
    """
    from jax.experimental import topologies

    chip = find(name)
    if chip.platform == "gpu":
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=_target_config(chip), topology=f"1x1x{count}"
        )
        return list(topology.devices)
    shapes = {1: "2x2", 4: "2x2", 16: "4x4", 256: "16x16"}
    if count not in shapes:
        raise ChipError(f"devices is {count} of {name}; allowed is one of {list(shapes)}")
    topology = topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip.topology}:{shapes[count]}"
    )
    return list(topology.devices)[:count]


def _target_config(chip: Chip) -> str:
    """Returns XLA's description of a GPU as text."""
    facts = dict(chip.facts)
    major = facts.pop("major")
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += [
        f"device_memory_size: {chip.memory}",
        f"cuda_compute_capability {{ major: {major} minor: 0 }}",
    ]
    return (
        f"gpu_device_info {{ {' '.join(lines)} }}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 8 patch: 0 }\n"
    )
