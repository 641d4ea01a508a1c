"""Distributions and networks: everything with weights, and nothing that learns."""
