"""Worlds: small ones with known answers, Jumanji's, costs put on either, and a check for your
own.
"""

from jaxmarl_lite.envs.checker import check_environment
from jaxmarl_lite.envs.registry import keywords_of, list_environments, make
from jaxmarl_lite.envs.wrappers.costs import Cost, with_costs

__all__ = ["Cost", "check_environment", "keywords_of", "list_environments", "make", "with_costs"]
