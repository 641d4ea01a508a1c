# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The mathematics alone
#
# `jml.ops` has the equations of the algorithms as functions of arrays and trees of arrays. They
# know no network, no environment and no algorithm of this library, so they serve in a program of
# your own: with Equinox, Flax, or plain dictionaries. This page uses Equinox, which the library
# does not need: `pip install equinox`.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import jaxmarl_lite as jml

# %% [markdown]
# ## The gradient through an update
#
# LIIR changes the weights $\eta$ of an intrinsic reward by the gradient of the team's objective
# *after* a policy step that used them:
# $\nabla_\eta J(\theta + \alpha \nabla_\theta L(\theta, \eta))$.
# `meta_gradient` computes it for any update and any objective.
#
# A target that we can check by hand: one step of gradient ascent on
# $L = -\tfrac12(\theta - \eta)^2$ gives $\theta' = \theta + \alpha(\eta - \theta)$. With
# $J = -\tfrac12(\theta' - 3)^2$ the gradient is $\alpha\,(3 - \theta')$.

# %%
alpha = 0.1
theta, eta = jnp.array(1.0), jnp.array(2.0)


def inner_update(eta, theta):
    """Returns the parameters after one step of gradient ascent."""
    return theta + alpha * jax.grad(lambda x: -0.5 * (x - eta) ** 2)(theta)


def outer_objective(theta):
    """Returns the objective of the parameters after the step."""
    return -0.5 * (theta - 3.0) ** 2


result = jml.ops.meta_gradient(eta, theta, inner_update, outer_objective)
print("after the step:", result.params, "  gradient:", result.gradient)
print(
    "by hand:       ", theta + alpha * (eta - theta), "           ", alpha * (3.0 - result.params)
)

# %% [markdown]
# $\eta$ and $\theta$ may be any trees of arrays. Here they are an Equinox network that pays a
# reward to a linear policy's output, and one step of Adam is what the gradient passes through.

# %%
import equinox as eqx
import optax

net = eqx.nn.MLP(2, 1, width_size=8, depth=1, key=jax.random.key(0))
reward_params, reward_static = eqx.partition(net, eqx.is_array)
x = jax.random.normal(jax.random.key(1), (16, 2))
optimizer = optax.adam(1e-2)


def adam_step(reward_params, policy):
    """Returns the policy after a step of Adam on the learned reward."""
    reward = eqx.combine(reward_params, reward_static)
    grads = jax.grad(lambda policy: -jax.vmap(reward)(x * policy).mean())(policy)
    updates, _ = optimizer.update(grads, optimizer.init(policy))
    return optax.apply_updates(policy, updates)


result = jml.ops.meta_gradient(
    reward_params, jnp.ones(2), adam_step, lambda policy: -((policy - 2.0) ** 2).sum()
)
print(jax.tree.map(jnp.shape, result.gradient))

# %% [markdown]
# ## A step in a trust region, under limits
#
# MACPO maximizes $g \cdot x$ subject to $c_k + b_k \cdot x \le 0$ and
# $\tfrac12\, x \cdot H x \le \delta$. `constrained_step` solves that exactly for up to four limits.
# In two dimensions with $H = I$ we can draw it: the disc is the trust region, the shaded half-plane
# breaks the limit, and the step is the point of the rest that lies farthest along $g$. The black
# arrow is the step, and the blue arrow is $g$, drawn shorter.

# %%
g, b = jnp.array([2.0, 1.0]), jnp.array([[1.0, 0.0]])
steps = {
    c: jml.ops.constrained_step(
        g=g, b=b, c=jnp.array([c]), inverse_fisher=lambda v: v, target_kl=0.5
    )
    for c in (-1.5, -0.5, 0.5, 1.5)
}
for c, step in steps.items():
    print(f"c = {c:4}: step {np.round(step.direction, 2)}, gain {float(step.predicted_gain):.2f}")

# %% [markdown]
# `c` is how far the cost is beyond its limit before the step. At -1.5 the limit does not matter, at
# -0.5 it cuts the step, at 0.5 the step has to lower the cost, and at 1.5 no step in the trust
# region can meet the limit: the step lowers the cost as far as it can.

# %%
import matplotlib.pyplot as plt

angle = np.linspace(0, 2 * np.pi, 200)
fig, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained", sharey=True)
for ax, (c, step) in zip(axes, steps.items(), strict=True):
    ax.plot(np.cos(angle), np.sin(angle), color="#5B5B5B")  # |x|^2 = 2 delta = 1
    ax.axvspan(np.clip(-c, -1.6, 1.6), 1.6, color="#e4e4e4")
    ax.annotate("", np.asarray(step.direction), (0, 0), arrowprops={"arrowstyle": "->", "lw": 2})
    ax.annotate(
        "", np.asarray(g) / 2.5, (0, 0), arrowprops={"arrowstyle": "->", "color": "#0072B2"}
    )
    ax.set(title=f"c = {c}", xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
plt.close(fig)  # else a notebook shows it twice
fig

# %% [markdown]
# ## Without forming H
#
# In a network $H$ is never formed. `fisher_vector_product` gives its products, and
# `conjugate_gradient` solves $H x = b$ for all right-hand sides at once.

# %%
h = jnp.array([[2.0, 0.5], [0.5, 1.0]])
solution = jml.ops.conjugate_gradient(lambda v: h @ v, jnp.stack([g, b[0]]), max_iterations=10)
print(solution.x, solution.relative_residual)

# %% [markdown]
# ## Advantages
#
# Arrays have time first: `[T, ...]`. Two arrays distinguish a time limit from a true end:
# `discount` is 0 where the episode is over, and `last` marks its final step.

# %%
advantages = jml.ops.generalized_advantage_estimation(
    reward=jnp.array([1.0, 1.0, 1.0]),
    value=jnp.zeros(3),
    next_value=jnp.array([0.0, 4.0, 0.0]),
    discount=jnp.array([1.0, 1.0, 0.0]),
    last=jnp.array([False, True, True]),
    gamma=0.5,
    gae_lambda=0.5,
)
print(advantages)
