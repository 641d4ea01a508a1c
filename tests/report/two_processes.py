"""One of two processes that share a checkpoint: ``python two_processes.py RANK PORT FOLDER
{save,restore}``."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmarl_lite.report import checkpoint


def state_on(mesh):
    spread, same = NamedSharding(mesh, P("b")), NamedSharding(mesh, P())
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    keys = jax.jit(lambda: jax.random.split(jax.random.key(5), 8), out_shardings=spread)()
    return {
        "spread": jax.make_array_from_callback(values.shape, spread, lambda index: values[index]),
        "same": jax.make_array_from_callback((3,), same, lambda index: values[0][index]),
        "keys": keys,
        "local": jnp.array(7, jnp.int32),
    }


def main(rank, port, folder, what):
    jax.distributed.initialize(f"localhost:{port}", 2, rank)
    assert jax.process_count() == 2 and jax.device_count() == 8
    state = state_on(jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,)))
    if what == "save":
        for step in (1, 2, 3):
            checkpoint.save(folder, step, state, {"by": "two processes"})
            assert checkpoint.latest(folder) == step
    got = checkpoint.restore(folder, state)
    for name, value in state.items():
        back = got.state[name]
        assert back.sharding == value.sharding and back.dtype == value.dtype, name
        if name == "keys":
            back, value = jax.random.key_data(back), jax.random.key_data(value)
        for mine, other in zip(back.addressable_shards, value.addressable_shards, strict=True):
            assert np.array_equal(mine.data, other.data), name
    Path(folder, f"done_{rank}").write_text(str(got.step))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
