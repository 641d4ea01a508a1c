"""Adapters that give JaxMARL's cooperative environments the library's own protocol.

Four suites:

- ``smax/<map>``: StarCraft micromanagement without StarCraft (SMAX), against the heuristic enemy.
  Each unit is an agent, alive while the environment marks it as alive.
- ``mpe/spread-<agents>a``, ``mpe/reference``, ``mpe/speaker-listener``: particles.
- ``safe-mpe/spread-<agents>a``: particles whose collisions are a cost instead of a part of the
  reward.
- ``overcooked/<kitchen>``: Overcooked with two cooks.

Keywords of `jaxmarl_lite.make`, in addition to those of the JaxMARL class itself:

- ``reward``: "team" (default): every agent gets the team's reward, the sum over agents where they
  differ; "individual": each agent its own, where JaxMARL distinguishes them (``mpe/spread``,
  ``mpe/reference``).
- ``agent_id``: True (default): a one-hot number at the end of the observation.
- ``action_type`` of ``smax`` and ``mpe``: "discrete" (default) or "continuous", numbers in [0, 1].
- ``max_steps``: the time limit. It is a truncation here: last, with discount 1.
- ``shaping`` of ``overcooked``: weight of JaxMARL's shaped reward, 0 by default. The return
  includes it.
- ``local_ratio`` of ``mpe/spread`` and ``mpe/reference``: weight of the agents' own part in the
  reward, 0.5 by default.
- ``cost_limit`` of ``safe-mpe``: collisions per episode and agent, 1 by default.
- ``smax`` also takes those of JaxMARL's class: ``enemy_shoots``, ``attack_mode``,
  ``see_enemy_actions``, ``walls_cause_death``, ``won_battle_bonus``, ``observation_type``,
  ``world_steps_per_env_step``, ``time_per_step``, ``map_width``, ``map_height``; and
  ``overcooked`` takes ``random_reset``.

The adapters work with JaxMARL 0.2 (its extra here is ``smax``), whose own dependencies hold JAX
below 0.12. Before 0.2 the states' fields have other names and SMAX's observations another scale.

Departures from JaxMARL: in JaxMARL particles play one step more than ``max_steps``, and here
exactly ``max_steps``; in JaxMARL the state of a battle has positions up to 32 and cooldowns that
fall without end, and here it is scaled like the observations.
"""
