"""Environments: built-in suites and adapters, wrappers that add costs, and a protocol checker.

``make`` builds an environment by name: small ones with known answers, Jumanji's, JaxMARL's and
MuJoCo's. ``with_costs`` puts costs on any of them, and ``check_environment`` checks one of your
own.
"""

from jaxmarl_lite.envs.checker import check_environment
from jaxmarl_lite.envs.registry import keywords_of, list_environments, make
from jaxmarl_lite.envs.wrappers import Cost, with_costs

__all__ = ["Cost", "check_environment", "keywords_of", "list_environments", "make", "with_costs"]
