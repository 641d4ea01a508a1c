"""Checks of a user's algorithm.

Modules:
    algorithm: `check_algorithm`, which runs the checks and reports.
    battery: the checks.
    case: the compiled programs that the checks share.
"""
