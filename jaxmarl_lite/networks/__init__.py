"""Distributions, networks, actors and critics: everything with weights, and nothing that learns.

Modules:
    actor_critic: actors and critics, and the normalization of observations.
    distributions: action distributions.
    products: matrix products with operands rounded to bfloat16.
    recurrent: networks as pure functions, feed-forward or recurrent.
"""
