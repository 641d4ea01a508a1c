"""Saves for ever, each state filled with its step, and says which steps are saved: ``python
saving.py FOLDER``."""

import sys

import jax.numpy as jnp

from jaxmarl_lite.report import checkpoint


def state_of(step):
    return {f"leaf {i}": jnp.full((500 + i,), step, jnp.int32) for i in range(30)}


def main(folder):
    step = checkpoint.latest(folder) or 0
    while True:
        step += 1
        checkpoint.save(folder, step, state_of(step), {"step": step})
        print(step, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
