"""A normal mixture written out in numpy, with the interface of a plan, a fit and draws: no model, no compiler.

The posterior draws come from a Gibbs sampler of the same posterior that `em` climbs, so statements about the two can
be checked. Prior: weights ~ Dirichlet(2), mu ~ Normal(m, s), p(sigma) ∝ sigma^-2a exp(-b/sigma²).
"""

from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from types import SimpleNamespace

import arviz as az
import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import expit, gammaln, logit, logsumexp
from scipy.stats import norm

from emppl.mstep.problem import Refusal, Update
from emppl.planner import Block

A, B = 2.0, 1.0


class Status(Enum):
    CONVERGED = "gain below tol"
    MAX_ITER = "iterations exhausted: raise max_iter or use accelerate='squarem'"
    DEGENERATE = "a component collapsed"


@dataclass(frozen=True)
class Axis:
    latent: str
    size: int
    dim: str | None
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    symmetric_likelihood: bool
    symmetric_prior: bool
    exchangeable: tuple[tuple[int, ...], ...]
    ordered: bool = False

    def permute_draws(self, theta, perms):
        """new[t, j] = old[t, perm[t, j]], along the first axis after the draws."""
        rows = np.arange(len(perms))[:, None]
        return {name: values[rows, perms] if name in self.variables else values for name, values in theta.items()}

    def permute(self, theta, perm):
        return {name: value[list(perm)] if name in self.variables else value for name, value in theta.items()}


@dataclass(frozen=True)
class MixturePlan:
    """p(y | theta) = prod_n sum_k weights_k Normal(y_n | mu_k, sigma_k)."""

    y: np.ndarray
    k: int
    exchangeable: tuple[tuple[int, ...], ...] | None = None
    estimate: str = "map"
    method: str = "em"
    estep: str = "independent members, enumerated"
    is_exact: bool = True
    centre: np.ndarray | None = None  # prior means of mu; unequal ones break the symmetry of the prior
    ordered: bool = False  # says of itself that it orders mu

    @property
    def labels(self):
        return tuple("ABCDEFGH"[: self.k])

    @property
    def prior_means(self):
        return np.full(self.k, self.y.mean()) if self.centre is None else self.centre

    @property
    def prior_sd(self):
        return 2 * np.ptp(self.y)

    @property
    def structure(self):
        def node(name, dims, shape, **more):
            return SimpleNamespace(name=name, dims=dims, shape=shape, **more)

        return SimpleNamespace(
            name="fake_mixture",
            parameters=tuple(node(name, ("component",), (self.k,)) for name in ("weights", "mu", "sigma")),
            latents=(
                node("component_of_row", ("row",), (len(self.y),), support=np.arange(self.k), labels=self.labels),
            ),
            observed=(node("y", ("row",), (len(self.y),)),),
            deterministics=(node("overall_mean", (), ()), node("odds", ("component",), (self.k,))),
            coords={"component": np.array(self.labels), "row": np.arange(len(self.y))},
        )

    @property
    def blocks(self):
        def unused(theta, posterior):
            raise AssertionError("no step is made")

        refused = (Refusal("closed form", "sigma's prior is not conjugate"),)
        return (
            Block(("weights",), Update("closed form", unused, "2 sums", is_exact=True), ()),
            Block(("mu", "sigma"), Update("Newton", unused, "6 sums"), refused),
        )

    @property
    def axes(self):
        groups = self.exchangeable
        if groups is None:
            symmetric = self.centre is None and not self.ordered
            groups = (tuple(range(self.k)),) if symmetric else tuple((k,) for k in range(self.k))
        names = ("weights", "mu", "sigma")
        axis = Axis(
            "component_of_row", self.k, "component", self.labels, names, True, self.centre is None, groups, self.ordered
        )
        return (axis,)

    def __str__(self):
        return "fake_mixture · exact\n\n  weights    closed form\n  mu, sigma  Newton"

    def _log_joint(self, theta, y=None):
        z = ((self.y if y is None else y)[:, None] - theta["mu"]) / theta["sigma"]
        with np.errstate(divide="ignore"):
            return np.log(theta["weights"]) - np.log(theta["sigma"]) - 0.5 * np.log(2 * np.pi) - 0.5 * z**2

    def log_likelihood(self, theta):
        return float(logsumexp(self._log_joint(theta), axis=1).sum())

    def log_prior(self, theta):
        z = (theta["mu"] - self.prior_means) / self.prior_sd
        mu = -0.5 * (z**2).sum() - self.k * np.log(self.prior_sd * np.sqrt(2 * np.pi))
        sigma = (-2 * A * np.log(theta["sigma"]) - B / theta["sigma"] ** 2).sum()
        return float(mu + sigma + np.log(theta["weights"]).sum() + gammaln(2 * self.k))

    def log_posterior(self, theta):
        return self.log_likelihood(theta) + self.log_prior(theta)

    def responsibilities(self, theta):
        joint = self._log_joint(theta)
        return {"component_of_row": np.exp(joint - logsumexp(joint, axis=1, keepdims=True))}

    def deterministics(self, theta):
        return {
            "overall_mean": np.asarray((theta["weights"] * theta["mu"]).sum()),
            "odds": theta["weights"] / (1 - theta["weights"]),
        }

    def m_step(self, theta):
        r = self.responsibilities(theta)["component_of_row"]
        n = r.sum(axis=0)
        weights = (n + 1) / (n + 1).sum()
        precision = n / theta["sigma"] ** 2 + 1 / self.prior_sd**2
        mu = (r.T @ self.y / theta["sigma"] ** 2 + self.prior_means / self.prior_sd**2) / precision
        squares = (r * (self.y[:, None] - mu) ** 2).sum(axis=0)
        return {"weights": weights, "mu": mu, "sigma": np.sqrt((squares + 2 * B) / (n + 2 * A))}


@dataclass(frozen=True)
class MixtureFit:
    """The interface of a Fit, filled by plain EM."""

    plan: MixturePlan
    point: dict
    traces: list
    starts: pd.DataFrame
    status: Status = Status.CONVERGED
    seconds: float = 0.02
    seed: int = 1
    n_iter: int = 40
    n_passes: int = 41
    certificate: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            points=(
                SimpleNamespace(name="joint", holds=True, value=1e-13, limit=1e-9, text="equals the model's density"),
                SimpleNamespace(name="ascent", holds=True, value=0.0, limit=1e-9, text="no step fell"),
            ),
            holds=True,
        )
    )
    errors: dict | None = None

    log_likelihood = property(lambda self: self.plan.log_likelihood(self.point))
    log_prior = property(lambda self: self.plan.log_prior(self.point))
    log_posterior = property(lambda self: self.plan.log_posterior(self.point))

    @property
    def theta(self):
        values = self.point | self.plan.deterministics(self.point)
        nodes = (*self.plan.structure.parameters, *self.plan.structure.deterministics)
        return xr.Dataset(
            {node.name: (node.dims, values[node.name]) for node in nodes},
            coords={"component": self.plan.structure.coords["component"]},
        )

    def density(self, data, theta=None):
        values = np.exp(self.plan._log_joint(self.point if theta is None else theta, data["y"]))
        return xr.Dataset({"component_of_row": (("member", "component_of_row_value"), values)})

    def standard_errors(self):
        errors = self._errors if self.errors is None else self.errors
        return xr.Dataset({name: (("component",) if np.ndim(v) else (), v) for name, v in errors.items()})

    def intervals(self, level=0.95):
        """Wald's, on the log scale of sigma and the logit scale of weights."""
        half, found = norm.ppf(0.5 + level / 2) * self.standard_errors(), {}
        scales = {"weights": (logit, expit), "sigma": (np.log, np.exp)}
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, arm in half.items():
                there, back = scales.get(name, (lambda v: v, lambda v: v))
                value = np.asarray(self.theta[name].values)
                slope = {"weights": value * (1 - value), "sigma": value}.get(name, 1.0)
                ends = np.stack([back(there(value) + sign * arm.values / slope) for sign in (-1, 1)])
                found[name] = (("interval_end", *arm.dims), ends)
        return xr.Dataset(found)

    @cached_property
    def _errors(self):
        """Delta method from the Hessian in (log ratios of weights, mu, log sigma), by finite differences."""
        k = self.plan.k

        def unpack(x):
            logits = np.append(x[: k - 1], 0.0)
            weights = np.exp(logits - logsumexp(logits))
            return {"weights": weights, "mu": x[k - 1 : 2 * k - 1], "sigma": np.exp(x[2 * k - 1 :])}

        w, mu, sigma = (self.point[name] for name in ("weights", "mu", "sigma"))
        x = np.concatenate([np.log(w[:-1] / w[-1]), mu, np.log(sigma)])
        steps = 1e-4 * np.maximum(1, np.abs(x))
        basis = np.diag(steps)

        def f(v):
            return self.plan.log_posterior(unpack(v))

        hessian = np.array(
            [
                [(f(x + a + b) - f(x + a - b) - f(x - a + b) + f(x - a - b)) / (4 * a.max() * b.max()) for b in basis]
                for a in basis
            ]
        )
        covariance = np.linalg.inv(-hessian)

        def g(v):
            theta = unpack(v)
            return np.concatenate(
                [theta["weights"], theta["mu"], theta["sigma"], [self.plan.deterministics(theta)["overall_mean"]]]
            )

        jacobian = np.array([(g(x + a) - g(x - a)) / (2 * a.max()) for a in basis])
        se = np.sqrt(np.diag(jacobian.T @ covariance @ jacobian))
        return {"weights": se[:k], "mu": se[k : 2 * k], "sigma": se[2 * k : 3 * k], "overall_mean": se[-1]}


def em(plan, starts=4, seed=0, iterations=3000):
    """The best of several plain EM runs, components in the order of mu."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(starts):
        theta = {
            "weights": np.full(plan.k, 1 / plan.k),
            "mu": rng.choice(plan.y, plan.k, replace=False),
            "sigma": np.full(plan.k, plan.y.std()),
        }
        trace = [plan.log_posterior(theta)]
        for _ in range(iterations):
            theta = plan.m_step(theta)
            trace.append(plan.log_posterior(theta))
            if trace[-1] - trace[-2] < 1e-12:
                break
        runs.append((trace[-1], theta, np.array(trace)))
    order = np.argsort([-run[0] for run in runs], kind="stable")
    theta = runs[order[0]][1]
    if plan.centre is None:
        theta = {name: value[np.argsort(runs[order[0]][1]["mu"])] for name, value in theta.items()}
    heights = np.array([run[0] for run in runs])
    table = pd.DataFrame(
        {
            "start": range(starts),
            "kind": "random",
            "status": [Status.CONVERGED.name] * starts,
            "reason": [""] * starts,
            "log_posterior": heights,
            "n_iter": [len(run[2]) for run in runs],
            "n_passes": [len(run[2]) for run in runs],
            "mode": np.unique(-heights.round(6), return_inverse=True)[1],
        }
    )
    return MixtureFit(plan, theta, [run[2] for run in runs], table, n_iter=len(runs[order[0]][2]))


def gibbs(fit, chains=4, draws=300, seed=0, latent=True):
    """Draws of the posterior, every chain started at the fit's labels: a DataTree as `emppl.sample` gives it."""
    plan, rng = fit.plan, np.random.default_rng(seed)
    y, k = plan.y, plan.k
    kept = {name: np.empty((chains, draws, k)) for name in ("weights", "mu", "sigma")}
    derived = {"overall_mean": np.empty((chains, draws)), "odds": np.empty((chains, draws, k))}
    p, lp, ll = np.empty((chains, draws, len(y), k)), np.empty((chains, draws)), np.empty((chains, draws, len(y)))
    for c in range(chains):
        theta = {name: value.copy() for name, value in fit.point.items()}
        for t in range(-50, draws):
            r = plan.responsibilities(theta)["component_of_row"]
            z = np.eye(k)[(rng.random(len(y))[:, None] > r.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)]
            n = z.sum(axis=0)
            theta["weights"] = rng.dirichlet(2 + n)
            precision = n / theta["sigma"] ** 2 + 1 / plan.prior_sd**2
            mean = (z.T @ y / theta["sigma"] ** 2 + plan.prior_means / plan.prior_sd**2) / precision
            theta["mu"] = rng.normal(mean, 1 / np.sqrt(precision))
            squares = (z * (y[:, None] - theta["mu"]) ** 2).sum(axis=0)
            theta["sigma"] = np.sqrt((B + squares / 2) / rng.gamma(A - 0.5 + n / 2))
            if t < 0:
                continue
            for name, values in (kept | derived).items():
                values[c, t] = (theta | plan.deterministics(theta))[name]
            p[c, t] = plan.responsibilities(theta)["component_of_row"]
            lp[c, t] = plan.log_posterior(theta) + np.log(theta["sigma"]).sum() + np.log(theta["weights"]).sum()
            ll[c, t] = logsumexp(plan._log_joint(theta), axis=1)
    return tree(plan, kept | derived, p if latent else None, lp, ll)


def tree(plan, posterior, p, lp, ll):
    groups = {
        "posterior": posterior,
        "sample_stats": {"lp": lp, "diverging": np.zeros(lp.shape, dtype=bool)},
        "log_likelihood": {"y": ll},
        "observed_data": {"y": plan.y},
    }
    component = ["component"]
    dims = {"weights": component, "mu": component, "sigma": component, "odds": component, "y": ["row"]}
    if p is not None:
        groups["latent"] = {"component_of_row": p}
        dims["component_of_row"] = ["row", "component_of_row_value"]
    labels = list(plan.labels)
    coords = {"component": labels, "row": np.arange(len(plan.y)), "component_of_row_value": labels}
    draws = az.from_dict(groups, coords=coords, dims=dims)
    draws.attrs |= {"sampling_seconds": 2.5, "compile_seconds": 4.0, "sampler": "gibbs"}
    return draws


def switch(draws, perms, plan):
    """The same draws under other names: perms [chain, draw, K], new[j] = old[perm[j]] in every group."""
    out = draws.copy()
    posterior = draws["posterior"].to_dataset()
    shuffled = {}
    for name in ("weights", "mu", "sigma", "odds"):
        shuffled[name] = posterior[name].copy(data=np.take_along_axis(posterior[name].values, perms, axis=-1))
    out["posterior"] = xr.DataTree(posterior.assign(shuffled))
    if "latent" in draws.children:
        latent = draws["latent"].to_dataset()
        p = latent["component_of_row"]
        moved = np.take_along_axis(p.values, perms[:, :, None, :], axis=-1)
        out["latent"] = xr.DataTree(latent.assign(component_of_row=p.copy(data=moved)))
    return out


def data(k=2, n=60, gap=6.0, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.multinomial(n, np.arange(k, 0, -1) / np.arange(1, k + 1).sum())
    return np.concatenate([rng.normal(gap * j, 1 + 0.3 * j, size) for j, size in enumerate(sizes)])


def case(k=2, n=60, gap=6.0, seed=0, chains=4, draws=300, **options):
    """(fit, draws), labels unswitched."""
    fit = em(MixturePlan(data(k, n, gap, seed), k, **options), seed=seed)
    return fit, gibbs(fit, chains, draws, seed)


def with_status(fit, status):
    return replace(fit, status=status)
