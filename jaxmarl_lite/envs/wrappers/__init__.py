"""Wrappers that change an environment's rewards or costs."""
