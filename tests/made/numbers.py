"""One number or two, with a posterior known by quadrature: intervals, scales, priors, orderings; and a collapse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
from scipy import stats
from scipy.special import logsumexp

import emppl
from made.situation import CHAINS, DRAWS, Situation, near, says, situation, state


@dataclass(frozen=True)
class OneNumber:
    """A model with one parameter: its log posterior density on a grid, its prior, the scale PyMC samples it on."""

    model: pm.Model
    grid: np.ndarray
    log_density: np.ndarray
    prior: Any  # scipy distribution
    to_real: Callable[[np.ndarray], np.ndarray]
    log_jacobian: Callable[[np.ndarray], np.ndarray]  # of theta by u, at theta

    @property
    def mass(self) -> np.ndarray:
        widths = np.gradient(self.grid)
        p = np.exp(self.log_density - self.log_density.max()) * widths
        return p / p.sum()

    def draws(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent draws, by the inverse of the distribution function."""
        below = np.cumsum(self.mass)
        return np.interp(rng.random((CHAINS, count)), below, self.grid)

    def quantile(self, q: Any) -> np.ndarray:
        return np.interp(q, np.cumsum(self.mass), self.grid)


def judged_by_quadrature(one: OneNumber, fit: Any, rng: np.random.Generator, count: int = 1000) -> Situation:
    """Place, shape, laplace, scale and priors as quadrature says, where that is clearly on one side of the limit."""
    estimate = float(fit.point["x"])
    error = float(fit.standard_errors()["x"])
    mass, grid = one.mass, one.grid
    sd = float(np.sqrt((mass * grid**2).sum() - (mass * grid).sum() ** 2))
    holds: dict[str, bool] = {"modes": True, "fit": True, "convergence": True}
    statements: list[Callable[[Any], str]] = []

    def expect(name: str, value: float, limit: float, margin: float, least: bool = False) -> None:
        statements.append(near(name, value, margin))
        if abs(value - limit) > margin:
            holds[name] = value >= limit if least else value <= limit

    if np.isfinite(error):
        below = float(mass[grid < estimate].sum())
        expect("place", min(below, 1 - below), 0.01, 0.02, least=True)
        arm = 1.959964 * error / np.exp(one.log_jacobian(np.array(estimate)))
        inside = float(mass[np.abs(one.to_real(grid) - one.to_real(estimate)) <= arm].sum())
        expect("shape", inside, 0.85, 0.03, least=True)
        u, log_u = one.to_real(grid), one.log_density + one.log_jacobian(grid)
        top = int(log_u.argmax())
        if 3 < top < len(grid) - 4:
            near_top = slice(max(top - 3, 0), top + 4)
            bend = np.polyfit(u[near_top] - u[top], log_u[near_top], 2)
            mode_u, width = u[top] - bend[1] / (2 * bend[0]), np.sqrt(-0.5 / bend[0])
            expect("scale", abs(estimate - np.interp(mode_u, u, grid)) / sd, 0.5, 0.06)
            q = (np.arange(2000) + 0.5) / 2000
            approximate = np.interp(stats.norm(mode_u, width).ppf(q), u, grid)
            expect("laplace", float(np.abs(approximate - one.quantile(q)).mean() / sd), 0.25, 0.09)
    else:
        holds["shape"] = False
        statements.append(says("shape", "on a border"))
    spread = np.diff(one.quantile([0.15865525, 0.84134475]))[0] / 2
    before = np.diff(one.prior.ppf([0.15865525, 0.84134475]))[0] / 2
    share = float(min((spread / before) ** 2, 1.0))
    expect("priors", share, 0.25, 0.03 + 0.2 * share)
    return Situation(fit, az.from_dict({"posterior": {"x": one.draws(rng, count)}}), holds, statements)


@situation
def skewed_scale(rng: np.random.Generator) -> Situation:
    """The spread of a handful of numbers: skewed, and its mode moves with the scale it is asked on."""
    n, wide = int(rng.integers(3, 30)), float(rng.uniform(3, 12))
    y = rng.normal(0, rng.uniform(0.5, 2.0), n)
    with pm.Model() as model:
        x = pm.HalfNormal("x", np.float64(wide))
        pm.Normal("y", np.float64(0.0), x, observed=y)
    grid = np.exp(np.linspace(np.log(y.std()) - 4, np.log(y.std()) + 4, 20001))
    density = stats.halfnorm(scale=wide).logpdf(grid) - n * np.log(grid) - 0.5 * (y**2).sum() / grid**2
    one = OneNumber(model, grid, density, stats.halfnorm(scale=wide), np.log, np.log)
    return judged_by_quadrature(one, emppl.fit(model, starts=1, seed=0), rng)


@situation
def probability_near_its_border(rng: np.random.Generator) -> Situation:
    """Successes in all, or nearly all, of a few trials: the mode is at one, where no standard error exists."""
    n = int(rng.integers(5, 40))
    hits = n - int(rng.integers(0, 3))
    with pm.Model() as model:
        x = pm.Beta("x", np.float64(1.0), np.float64(1.0))
        pm.Binomial("y", n=np.int64(n), p=x, observed=np.array([hits]))
    grid = 1 / (1 + np.exp(-np.linspace(-14, 14, 40001)))
    density = stats.binom.logpmf(hits, n, grid)
    logit, jacobian = lambda p: np.log(p / (1 - p)), lambda p: np.log(p * (1 - p))
    return judged_by_quadrature(
        OneNumber(model, grid, density, stats.beta(1, 1), logit, jacobian), emppl.fit(model, starts=1, seed=0), rng
    )


@situation
def prior_that_matters(rng: np.random.Generator) -> Situation:
    """A mean with a prior that is now tight, now wide."""
    n, tight = int(rng.integers(2, 30)), float(np.exp(rng.uniform(-3, 2)))
    y = rng.normal(0.5, 1.0, n)
    with pm.Model() as model:
        x = pm.Normal("x", np.float64(0.0), np.float64(tight))
        pm.Normal("y", x, np.float64(1.0), observed=y)
    precision = n + tight**-2
    grid = np.linspace(-12, 12, 40001) / np.sqrt(precision) + y.sum() / precision
    density = stats.norm(y.sum() / precision, precision**-0.5).logpdf(grid)
    one = OneNumber(model, grid, density, stats.norm(0, tight), lambda v: v, np.zeros_like)
    return judged_by_quadrature(one, emppl.fit(model, starts=1, seed=0), rng)


@situation
def likelihood_against_a_tight_prior(rng: np.random.Generator) -> Situation:
    """Maximum likelihood leaves out a prior that NUTS keeps: how far that puts it is known."""
    n, tight = int(rng.integers(3, 20)), float(np.exp(rng.uniform(-2.5, 1)))
    y = rng.normal(1.0, 1.0, n)
    with pm.Model() as model:
        x = pm.Normal("x", np.float64(0.0), np.float64(tight))
        pm.Normal("y", x, np.float64(1.0), observed=y)
    precision = n + tight**-2
    centre, sd = y.sum() / precision, precision**-0.5
    kept = {"x": rng.normal(centre, sd, (CHAINS, 1000))}
    fits = {
        "MAP": emppl.fit(model, starts=1, seed=0), "ML": emppl.fit(model, starts=1, seed=0, estimate="ml")
    }  # fmt: skip
    shift = abs(y.mean() - centre) / sd
    holds = {"modes": True} | ({"ML": shift <= 0.5} if abs(shift - 0.5) > 0.04 else {})
    return Situation(fits, az.from_dict({"posterior": kept}), holds, [near("ML", shift, 0.03 + 0.05 * shift)])


@situation
def a_mode_for_each_sign(rng: np.random.Generator) -> Situation:
    """A share of the members from x, the rest from -x: two hills of known mass, visited by all chains."""
    share, n = float(rng.uniform(0.5, 0.7)), int(rng.integers(8, 30))
    place = rng.uniform(1.5, 3.0)
    y = np.where(rng.random(n) < rng.uniform(0.4, 0.75), 1, -1) * rng.normal(place, 1.0, n)
    with pm.Model() as model:
        x = pm.Normal("x", np.float64(0.0), np.float64(5.0))
        z = pm.Categorical("z", p=np.array([share, 1 - share]), shape=n)
        pm.Normal("y", pm.math.stack([x, -x])[z], np.float64(1.0), observed=y)
    grid = np.linspace(-8, 8, 16001)
    each = [np.log(p) + stats.norm(s * grid[:, None], 1).logpdf(y) for s, p in ((1, share), (-1, 1 - share))]
    density = logsumexp(each, axis=0).sum(axis=1) + stats.norm(0, 5).logpdf(grid)
    tops = [int(i) for i in np.flatnonzero((density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])) + 1]
    if len(tops) != 2:
        return a_mode_for_each_sign(rng)
    valley = tops[0] + int(density[tops[0] : tops[1]].argmin())
    one = OneNumber(model, grid, density, stats.norm(0, 5), lambda v: v, np.zeros_like)
    fit = emppl.fit(model, starts=8, seed=int(rng.integers(1000)))
    best = max(tops, key=lambda i: density[i])
    above = float(one.mass[valley:].sum())
    elsewhere = 1 - above if grid[best] > 0 else above
    noise = 3.5 * np.sqrt(max(elsewhere * (1 - elsewhere), 0.005) / 60) + 0.02
    holds = {"modes": True, "convergence": True}
    if abs(elsewhere - 0.05) > noise:
        holds["other modes"] = elsewhere <= 0.05
    masses = [1 - above, above] if grid[best] < 0 else [above, 1 - above]

    def evidence(c: Any) -> str:
        if len(c.atlas.modes) != 2:
            return f"{len(c.atlas.modes)} modes, not 2"
        ratio = c.atlas.modes[0].log_evidence - c.atlas.modes[1].log_evidence
        exact = np.log(masses[0] / masses[1])
        return "" if abs(ratio - exact) < 0.3 + 0.1 * abs(exact) else f"evidence ratio {ratio:.2f}, truth {exact:.2f}"

    return Situation(
        fit, az.from_dict({"posterior": {"x": one.draws(rng, DRAWS)}}), holds,
        [near("other modes", elsewhere, noise), evidence, lambda c: "" if not c.prediction else "loo of nothing"],
        f"{elsewhere:.0%} elsewhere",
    )  # fmt: skip


# -- normal mixtures ---------------------------------------------------------------------------------------------------


def known_spread(y: np.ndarray, transform: Any = None) -> pm.Model:
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0), shape=2, transform=transform)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(y))
        pm.Normal("y", mu[z], np.float64(1.0), observed=y)
    return model


@situation
def ordered_means(rng: np.random.Generator) -> Situation:
    """The model orders the means: names cannot switch, and the order pushes means apart where they overlap."""
    gap = float(rng.choice([0.5, 6.0])) * rng.uniform(0.8, 1.2)
    y = np.concatenate([rng.normal(0, 1, 25), rng.normal(gap, 1, 25)])
    fit = emppl.fit(known_spread(y, pm.distributions.transforms.ordered), starts=4, seed=0)
    grid = np.linspace(y.mean() - gap - 3, y.mean() + gap + 3, 301)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    density = stats.norm(0, 10).logpdf(a) + stats.norm(0, 10).logpdf(b)
    for value in y:
        density += np.logaddexp(stats.norm(a, 1).logpdf(value), stats.norm(b, 1).logpdf(value))
    density = np.where(b > a, density, -np.inf)
    p = np.exp(density - density.max()).ravel()
    p /= p.sum()
    difference = (b - a).ravel()
    mean = (p * difference).sum()
    apart_by = mean / np.sqrt((p * difference**2).sum() - mean**2)
    picked = rng.choice(len(p), size=(CHAINS, DRAWS), p=p)
    centres = np.stack([a.ravel()[picked], b.ravel()[picked]], axis=-1)
    kept = {"mu": np.sort(centres + rng.uniform(-0.5, 0.5, centres.shape) * (grid[1] - grid[0]))}
    holds = {"labels": True, "convergence": True}
    if abs(apart_by - 2.0) > 0.25:
        holds["ordering"] = bool(apart_by >= 2.0)
    return Situation(
        fit, az.from_dict({"posterior": kept}), holds,
        [state("NO_SYMMETRY"), says("labels", "orders"), near("ordering", float(apart_by), 0.1 * apart_by)],
        f"gap {gap:.1f}",
    )  # fmt: skip


@situation
def collapsed_component(rng: np.random.Generator) -> Situation:
    """Maximum likelihood on a spike: the fit is no estimate, and nothing that follows may be relied on."""
    y = rng.normal(size=int(rng.integers(30, 60)))
    with pm.Model() as model:
        mu = pm.Normal("mu", np.float64(0.0), np.float64(10.0), shape=2)
        sigma = pm.HalfNormal("sigma", np.float64(2.0), shape=2)
        z = pm.Categorical("z", p=np.array([0.5, 0.5]), shape=len(y))
        pm.Normal("y", mu[z], sigma[z], observed=y)
    spike = {"mu": np.array([y[0], y.mean()]), "sigma": np.array([1e-3, y.std()])}
    fit = emppl.fit(model, start=spike, starts=0, seed=0, estimate="ml")
    kept = {"mu": rng.normal(y.mean(), 0.2, (CHAINS, DRAWS, 2))}
    kept["sigma"] = y.std() * np.exp(rng.normal(0, 0.1, (CHAINS, DRAWS, 2)))
    return Situation(
        fit, az.from_dict({"posterior": kept}), {"fit": False},
        [lambda c: "" if c.headline == "EM's result cannot be relied on." else c.headline,
         lambda c: "" if not c.reliable else "reliable"],
        fit.status.name,
    )  # fmt: skip
