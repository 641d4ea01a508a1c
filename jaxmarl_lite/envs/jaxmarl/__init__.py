"""JaxMARL's cooperative environments behind our own protocol: ``smax/``, ``mpe/``, ``safe-mpe/``,
``overcooked/``.

``smax/<map>`` is StarCraft micromanagement without StarCraft (SMAX), against the heuristic enemy:
each unit is an agent, alive while the environment says so. ``mpe/spread-<agents>a``,
``mpe/reference`` and ``mpe/speaker-listener`` are particles; in ``safe-mpe/spread-<agents>a``
collisions are a cost and leave the reward. ``overcooked/<kitchen>`` is Overcooked with two cooks.
Keywords of `jaxmarl_lite.make`, beside those of the JaxMARL class itself:

    reward        "team" (default): every agent gets the team's number, the sum over agents where they differ;
                  "individual": each its own, where JaxMARL tells them apart (``mpe/spread``, ``mpe/reference``).
    agent_id      True (default): a one-hot number at the view's end.
    action_type   of ``smax`` and ``mpe``: "discrete" (default) or "continuous", numbers in [0, 1].
    max_steps     the time limit. It is a truncation here: last, with discount 1.
    shaping       of ``overcooked``: weight of JaxMARL's shaped reward, 0 by default. What it adds is in the return.
    local_ratio   of ``mpe/spread`` and ``mpe/reference``: the agents' own part in the reward, 0.5 by default.
    cost_limit    of ``safe-mpe``: collisions per episode and agent, 1 by default.
    Of ``smax`` also those of JaxMARL's class: enemy_shoots, attack_mode, see_enemy_actions, walls_cause_death,
    won_battle_bonus, observation_type, world_steps_per_env_step, time_per_step, map_width, map_height; of
    ``overcooked`` random_reset.

Works with JaxMARL 0.2 (its extra here is ``smax``), whose own dependencies hold JAX below 0.12.
Before 0.2 the states' fields have other names and SMAX's observations another scale. Where JaxMARL
departs from what it stands for: particles play one step more than ``max_steps`` there, and as many
as it says here; the state of a battle has places up to 32 and cooldowns that fall without end
there, and is scaled as the views are here.
"""
