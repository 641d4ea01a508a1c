"""Reads a checkpoint of one device on eight, changes it, saves it: ``python eight_devices.py
FOLDER``."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmarl_lite.report import checkpoint


def main(folder):
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("b",), axis_types=(AxisType.Auto,))
    spread, same = NamedSharding(mesh, P("b")), NamedSharding(mesh, P())
    key_type = jax.eval_shape(lambda: jax.random.key(0)).dtype
    template = {
        "keys": jax.ShapeDtypeStruct((8,), key_type, sharding=spread),
        "x": jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=spread),
        "w": jax.ShapeDtypeStruct((5,), jnp.bfloat16, sharding=same),
    }
    state = checkpoint.restore(folder, template).state
    assert {name: leaf.sharding for name, leaf in state.items()} == {
        "keys": spread,
        "x": spread,
        "w": same,
    }
    assert len({shard.device for shard in state["x"].addressable_shards}) == 8
    assert np.array_equal(state["x"], np.arange(48).reshape(16, 3))
    assert np.array_equal(
        jax.random.key_data(state["keys"]),
        jax.random.key_data(jax.random.split(jax.random.key(1), 8)),
    )
    checkpoint.save(folder, 2, state | {"x": state["x"] * 2})


if __name__ == "__main__":
    main(sys.argv[1])
