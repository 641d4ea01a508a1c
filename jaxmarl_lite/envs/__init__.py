"""Worlds: small ones with known answers, Jumanji's, and a check for your own."""

from jaxmarl_lite.envs.check import check_environment
from jaxmarl_lite.envs.registry import list_environments, make

__all__ = ["check_environment", "list_environments", "make"]
