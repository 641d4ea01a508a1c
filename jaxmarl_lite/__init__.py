"""Cooperative and safe multi-agent reinforcement learning in JAX, compiled end to end."""
