"""The mathematics of one MACPO step against vectors recorded from its authors' program (see
`golden/README.md`).

Their network, their ratio per action dimension and their KL divergence, whose log-deviation term
has the wrong sign, are written out here; what is ours is everything after the gradients: conjugate
gradients, the case, the multipliers, the step and the search. Theirs minimise: their g is minus
ours, and their step is subtracted."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmarl_lite.ops import constrained_optimization, trust_region

LENIENT_RANKS = True  # the recorded network is written as its authors' library broadcasts
FILES = sorted((Path(__file__).parent / "golden").glob("*.npz"))


def _unflatten(data, vector):
    """Weights by name; the file keeps the order of the vector."""
    result, at = {}, 0
    for name in (key for key in data.files if key.startswith("param/")):
        shape = data[name].shape
        size = int(np.prod(shape))
        result[name.removeprefix("param/")] = vector[at : at + size].reshape(shape)
        at += size
    return result


def _layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)
    return weight * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + bias


class Recorded:
    """One recorded call: its inputs, and their losses as functions of the flat weights."""

    def __init__(self, path):
        self.data = np.load(path)
        for name in (
            "obs",
            "actions",
            "old_log_probs",
            "adv",
            "cost_adv",
            "factor",
            "active_masks",
            "params",
        ):
            setattr(self, name, jnp.asarray(self.data[name]))
        self.constant = {
            name.removeprefix("const/"): float(self.data[name])
            for name in self.data.files
            if "const/" in name
        }

    def normal(self, vector):
        w = _unflatten(self.data, vector)
        x = _layer_norm(self.obs, w["base.feature_norm.weight"], w["base.feature_norm.bias"])
        for dense, norm in (
            ("base.mlp.fc1.0", "base.mlp.fc1.2"),
            ("base.mlp.fc2.0.0", "base.mlp.fc2.0.2"),
        ):
            x = jax.nn.relu(x @ w[f"{dense}.weight"].T + w[f"{dense}.bias"])
            x = _layer_norm(x, w[f"{norm}.weight"], w[f"{norm}.bias"])
        mean = x @ w["act.action_out.fc_mean.weight"].T + w["act.action_out.fc_mean.bias"]
        scale = self.constant["std_x_coef"], self.constant["std_y_coef"]
        std = scale[1] * jax.nn.sigmoid(w["act.action_out.log_std"] / scale[0])
        return mean, jnp.broadcast_to(std, mean.shape)

    def ratio(self, vector):
        mean, std = self.normal(vector)
        log_prob = (
            -0.5 * ((self.actions - mean) / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi)
        )
        return jnp.exp(log_prob - self.old_log_probs)

    def surrogate(self, vector, advantage):
        """The mean over active samples of the sum over action dimensions."""
        total = (self.ratio(vector) * self.factor * advantage).sum(-1, keepdims=True)
        return (total * self.active_masks).sum() / self.active_masks.sum()

    def kl(self, vector):
        (mean, std), (old_mean, old_std) = self.normal(vector), self.normal(self.params)
        spread = (old_std**2 + (old_mean - mean) ** 2) / (self.constant["eps"] + 2.0 * std**2)
        return (jnp.log(old_std) - jnp.log(std) + spread - 0.5).sum(-1).mean()


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def recorded(request, float64):
    return Recorded(request.param)


def _close(result, expected):
    np.testing.assert_allclose(
        np.squeeze(result), np.squeeze(expected), rtol=1e-6, atol=1e-9 * np.abs(expected).max()
    )


def test_the_step_of_the_authors(recorded):
    data, constant, theta = recorded.data, recorded.constant, recorded.params
    g = jax.grad(recorded.surrogate)(theta, recorded.adv)
    b = jax.grad(recorded.surrogate)(theta, recorded.cost_adv)
    _close(-g, data["reward_loss_grad"])
    _close(b, data["B_cost_loss_grad"])

    h = jax.jit(jax.hessian(recorded.kl))(theta) + constant["damping"] * jnp.eye(len(theta))
    iterations = int(constant["cg_iters"])
    solved = trust_region.conjugate_gradient(lambda v: h @ v, jnp.stack([g, b]), iterations)
    _close(-solved.x[0], data["g_step_dir"])
    _close(solved.x[1], data["b_step_dir"])
    assert (solved.iterations == iterations).all()
    assert (solved.relative_residual > 0.01).all()  # ten iterations are far from enough

    q, r, s = g @ solved.x[0], g @ solved.x[1], b @ solved.x[1]
    _close(q, data["q_coef"])
    _close(-r, data["r_coef"])
    _close(s, data["s_coef"])
    c = (data["episode_cost_mean"] - constant["safety_bound"]) * (1.0 - constant["gamma"])
    _close(c, data["rescale_constraint_val"])

    result = constrained_optimization.solve_dual(
        q, r[None], s[None, None], jnp.asarray(c)[None], constant["delta"]
    )
    case = int(data["optim_case"])
    assert result.case == case
    _close(result.kl_dual, data["lam"])
    _close(result.cost_duals, data["nu"])
    x = result.alpha * solved.x[0] + result.beta[0] * solved.x[1]
    _close(-x, data["x"])

    capped = x * jnp.minimum(1.0, constant["max_step_norm"] / jnp.linalg.norm(x))
    _close(-capped, data["x_clipped"])
    previous = recorded.surrogate(theta, recorded.adv), recorded.surrogate(theta, recorded.cost_adv)

    def judge(vector):
        gained = recorded.surrogate(vector, recorded.adv) - previous[0]
        grown = recorded.surrogate(vector, recorded.cost_adv) - previous[1]
        kl = recorded.kl(vector)
        fine = (kl < constant["delta"]) & ((gained > 0) | (case <= 1)) & (grown <= max(-c, 0.0))
        return fine, (kl, -gained)

    ended = trust_region.backtracking_line_search(
        judge,
        theta,
        capped,
        constant["line_search_fraction"],
        int(constant["ls_step"]),
        constant["fraction_coef"],
    )
    assert ended.accepted
    _close(ended.params, data["params_after"])
    _close(ended.aux[0], data["kl_last"])
    _close(ended.aux[1], data["loss_improve_last"])


def test_all_four_cases_are_there():
    assert sorted(int(np.load(path)["optim_case"]) for path in FILES) == [0, 1, 2, 3]
