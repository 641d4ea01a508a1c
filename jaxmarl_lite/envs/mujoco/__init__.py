"""Robots whose joints belong to several agents, on MuJoCo's MJX.

The names begin with ``safe-mujoco/``, ``safe-velocity/`` and ``mujoco/``.
``safe-mujoco/<robot>-<partition>`` are the tasks of Gu et al. 2021 (Safe MAMuJoCo): ant, many-agent
ant, humanoid and many-agent swimmer in a corridor that folds, the half-cheetah behind a bomb, two
coupled half-cheetahs before one, the hopper behind a box. ``safe-velocity/...`` are the velocity
tasks of Safety-Gymnasium's multi-agent suite, and ``mujoco/...`` the same robots without costs.
Keywords of `jaxmarl_lite.make`:

    partition     "paper" (default): the joints that the paper gives each agent. "authors": the
                  consecutive slices of the actuators that the reference implementation really cuts.
    observation   "all" (default): every agent sees the whole robot, as published. "near": its own
                  joints, those up to ``distance`` (default 1) edges away, and the root, as the
                  benchmark meant it.
    agent_id      True (default): a one-hot number at the observation's end.
    standardize   True: each observation is scaled by its own mean and deviation, as the reference
                  implementation does. Default: False.
    costs         "team" (default): every agent pays for the robot, as published. "own": an agent
                  pays where a body that its own joints move is too near to a wall, or where its own
                  cheetah is to the bomb (in corridors and for the coupled cheetahs alone: elsewhere
                  the agents' costs cannot be separated). The corridor then runs level behind the
                  start, where long robots lie at first; published, its slope goes on there. The
                  swimmer's corridor is so narrow, and its first pose so crooked, that beyond six
                  segments most of its rear agents begin at a wall.
    outside       True: beyond a wall costs as well. Default: as published, only the strip around a
                  wall does.
    threshold     of ``safe-velocity``: the speed (m/s) above which a step costs 1.
    cost_limit    expected cost per episode, one number or one per agent (or a mapping from the
                  cost's name to it).
    physics       "fast" (default) or "reference": see `models`.
    impl          "jax" (default): MJX's own code, on any chip. "warp": MJX-Warp's kernels, made for
                  NVIDIA GPUs (CUDA); slow on a CPU, and not available on a TPU. It needs the extra
                  ``warp``, and has not been measured on a GPU yet: see `warp_physics`.
    max_episode_steps
                  steps, 1000 by default.
    segments      of a robot of any size, to check a partition against.

Errors of the published programs are corrected: the hopper's reward, height and angle read the
hopper and not its box (there every episode ends at its first step); the many-agent ant sees its
joints; the coupled cheetahs' cost counts the bomb and not walls that are always near; diagonal legs
are diagonal. Walls and bombs are no bodies (`hazards`).
"""
