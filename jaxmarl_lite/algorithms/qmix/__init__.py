"""QMIX: values of agents that are mixed to one of the team, learned from a replay.

    L = E[ ( r + γ d Q'_tot(s', q'_1, ..., q'_N) - Q_tot(s, q_1(o_1, u_1), ..., q_N(o_N, u_N)) )² ]

Rashid et al. 2018, equations 5 and 6. Q_tot is `ops.monotonic_mixing.mix`, whose weights
hypernetworks make from the state; it grows with every q_i, so that each agent's own best action is
the team's. The primes are a copy of the networks, made every ``target_update_interval`` updates;
with ``double_q`` (van Hasselt et al. 2016) it values what the live networks would do.
``mixer="vdn"`` adds the values up instead.

What is replayed are ``sequence_length`` steps of one world, with the memory at their start (the
"stored state" of Kapturowski et al. 2019), so that they need not be an episode. The reward is the
mean over the agents of what they receive. Agents that are out of play add nothing. Actions are
drawn uniformly with a probability that falls from ``epsilon_start`` to ``epsilon_end``, else they
are the best.
"""

from jaxmarl_lite.algorithms.qmix.config import QMIXConfig
from jaxmarl_lite.algorithms.qmix.learner import QMIXState, epsilon_schedule, make_qmix
from jaxmarl_lite.algorithms.qmix.networks import (
    Hypernetworks,
    QMIXNetworks,
    QMIXParams,
    make_qmix_networks,
)
from jaxmarl_lite.algorithms.qmix.temporal_difference import targets, temporal_difference_loss

__all__ = [
    "Hypernetworks",
    "QMIXConfig",
    "QMIXNetworks",
    "QMIXParams",
    "QMIXState",
    "epsilon_schedule",
    "make_qmix",
    "make_qmix_networks",
    "targets",
    "temporal_difference_loss",
]
