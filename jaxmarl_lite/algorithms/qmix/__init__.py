"""QMIX: values of agents, mixed into one value of the team, learned from a replay buffer.

    L = E[ ( r + γ d Q'_tot(s', q'_1, ..., q'_N) - Q_tot(s, q_1(o_1, u_1), ..., q_N(o_N, u_N)) )² ]

Rashid et al. 2018, equations 5 and 6. Q_tot is `ops.monotonic_mixing.mix`, whose weights are the
output of hypernetworks of the global state; it grows with every q_i, so that each agent's own best
action is the team's. The primes are target networks, copied from the online networks every
``target_update_interval`` updates; with ``double_q`` (van Hasselt et al. 2016) they value the
actions that the online networks would take. ``mixer="vdn"`` adds the values up instead.

The replay buffer holds pieces of ``sequence_length`` steps of one environment, with the hidden
state at their start (the "stored state" of Kapturowski et al. 2019), so that a piece need not be an
episode. The reward is the mean over the agents of their rewards. Agents that are not alive add
nothing. Actions are drawn uniformly with a probability that falls from ``epsilon_start`` to
``epsilon_end``, else they are the best actions.
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
