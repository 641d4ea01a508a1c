"""Wrappers that change what an environment pays or costs."""
