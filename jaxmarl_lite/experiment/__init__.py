"""A run from its plan to its last row: what is compiled, the host loop, and what is kept and
shown.
"""
