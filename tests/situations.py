"""Made situations with known truth: what must a comparison say of them?

`python -m tests.situations --seeds 0 200` varies them at random and counts wrong verdicts. Draws are exact (inverse
distribution functions on a grid, independent draws) or from a Gibbs sampler of the same posterior that EM climbs; what
a verdict must say follows from how the situation was made, or from quadrature, never from the code under test.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
from scipy import stats
from scipy.special import gammaln, logsumexp

sys.path.insert(0, str(Path(__file__).parent))

import emppl

CHAINS, DRAWS = 4, 300
Theta = dict[str, np.ndarray]


@dataclass(frozen=True)
class Situation:
    """Fit and draws, and what must be said: whether verdicts hold, and statements that return a complaint or ""."""

    fit: Any
    draws: Any
    holds: dict[str, bool]
    statements: list[Callable[[Any], str]] = field(default_factory=list)
    recipe: str = ""


SITUATIONS: dict[str, Callable[[np.random.Generator], Situation]] = {}


def situation(function: Callable[[np.random.Generator], Situation]) -> Callable[[np.random.Generator], Situation]:
    """Enter a situation in the table under its function's name."""
    SITUATIONS[function.__name__.replace("_", " ")] = function
    return function


def wrong(made: Situation) -> list[str]:
    """What the comparison says that is not so, or does not say that must be said; empty where all is right."""
    comparison = emppl.compare(made.fit, made.draws)
    said = {verdict.name: verdict for verdict in comparison.verdicts}
    found = []
    for name, holds in made.holds.items():
        if name not in said:
            found.append(f"{name} is not judged")
        elif said[name].holds != holds:
            found.append(f"{name} should {'hold' if holds else 'fail'}: {said[name].text}")
    found += [complaint for statement in made.statements if (complaint := statement(comparison))]
    for verdict in comparison.verdicts:
        if verdict.name == "labels" or not np.isfinite(verdict.value):
            continue
        inside = verdict.value <= verdict.limit if verdict.bound == "at most" else verdict.value >= verdict.limit
        if inside != verdict.holds and verdict.holds:
            found.append(f"{verdict.name} holds at {verdict.value}, limit {verdict.limit}")
        if "nan" in verdict.text.split() or "inf" in verdict.text.split():
            found.append(f"{verdict.name} speaks of no number: {verdict.text}")
    return found


def says(name: str, *words: str) -> Callable[[Any], str]:
    """The text of a verdict holds these words."""

    def check(comparison: Any) -> str:
        text = next((verdict.text for verdict in comparison.verdicts if verdict.name == name), "")
        missing = [word for word in words if word not in text]
        return f"{name} does not say {missing}: {text}" if missing else ""

    return check


def near(name: str, value: float, within: float) -> Callable[[Any], str]:
    """The number of a verdict is this one."""

    def check(comparison: Any) -> str:
        found = next((verdict.value for verdict in comparison.verdicts if verdict.name == name), np.nan)
        return "" if abs(found - value) <= within else f"{name} rests on {found:.3f}, truth {value:.3f} ± {within:.3f}"

    return check


def state(*names: str) -> Callable[[Any], str]:
    """The diagnosis of labels is one of these."""
    return lambda comparison: (
        "" if comparison.switching.state.name in names else f"labels are {comparison.switching.state.name}, not {names}"
    )


# -- mixtures of Poisson counts, with a Gibbs sampler ----------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """y_n ~ Poisson(rate[z_n]), z ~ weights, weights ~ Dirichlet(2), rate_k ~ Gamma(shape_k, speed_k)."""

    y: np.ndarray
    shape: np.ndarray
    speed: np.ndarray

    @property
    def k(self) -> int:
        return len(self.shape)

    def model(self) -> pm.Model:
        with pm.Model() as model:
            weights = pm.Dirichlet("weights", np.full(self.k, 2.0))
            rate = pm.Gamma("rate", self.shape, self.speed, shape=self.k)
            z = pm.Categorical("z", p=weights, shape=len(self.y))
            pm.Poisson("y", rate[z], observed=self.y)
        return model

    def log_joint(self, weights: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """[..., n, K] of parameters [..., K]."""
        y = self.y[:, None]
        rate = rate[..., None, :]
        return np.log(weights)[..., None, :] + y * np.log(rate) - rate - gammaln(y + 1)

    def em(self, rate: np.ndarray, iterations: int = 2000) -> tuple[Theta, float]:
        """Textbook EM from these rates: the mode and the log posterior there, up to the constants of the priors."""
        weights = np.full(self.k, 1 / self.k)
        for _ in range(iterations):
            joint = self.log_joint(weights, rate)
            r = np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))
            n = r.sum(axis=0)
            weights = (n + 1) / (n + 1).sum()
            rate = (r.T @ self.y + self.shape - 1) / (n + self.speed)
        value = logsumexp(self.log_joint(weights, rate), axis=-1).sum() + np.log(weights).sum()
        value += ((self.shape - 1) * np.log(rate) - self.speed * rate).sum()
        return {"weights": weights, "rate": rate}, float(value)

    def gibbs(self, starts: list[Theta], rng: np.random.Generator, draws: int = DRAWS, thin: int = 1) -> Theta:
        """{name: [chain, draw, K]}, a chain from each start."""
        weights, rate = (np.stack([start[name] for start in starts]) for name in ("weights", "rate"))
        kept = {name: np.empty((len(starts), draws, self.k)) for name in ("weights", "rate")}
        for t in range(-30, draws * thin):
            joint = self.log_joint(weights, rate)
            noisy = joint + rng.gumbel(size=joint.shape)
            z = np.eye(self.k)[noisy.argmax(axis=-1)]
            n = z.sum(axis=1)
            gammas = rng.gamma(2 + n)
            weights = gammas / gammas.sum(axis=-1, keepdims=True)
            rate = rng.gamma(self.shape + np.einsum("cnk,n->ck", z, self.y)) / (self.speed + n)
            if t >= 0 and t % thin == 0:
                kept["weights"][:, t // thin], kept["rate"][:, t // thin] = weights, rate
        return kept

    def tree(self, kept: Theta) -> Any:
        joint = self.log_joint(kept["weights"], kept["rate"])
        total = logsumexp(joint, axis=-1)
        posterior = {"posterior": kept, "log_likelihood": {"y": total}, "observed_data": {"y": self.y}}
        posterior["latent"] = {"z": np.exp(joint - total[..., None])}
        return az.from_dict(posterior)


def alike(y: np.ndarray, k: int) -> Counts:
    return Counts(y, np.full(k, 2.0), np.full(k, 2.0 / y.mean()))


def renamed(kept: Theta, rng: np.random.Generator) -> tuple[Theta, list[np.ndarray]]:
    """Every chain under names of its own."""
    perms = [rng.permutation(kept["rate"].shape[-1]) for _ in kept["rate"]]
    return {name: np.stack([chain[:, p] for chain, p in zip(values, perms)]) for name, values in kept.items()}, perms


def apart(rng: np.random.Generator, k: int, least: int = 40, most: int = 90) -> np.ndarray:
    """Counts of k groups far from each other."""
    rates = np.cumsum(rng.uniform(25, 40, k)) * np.arange(1, k + 1) - 20
    return np.concatenate([rng.poisson(rate, rng.integers(least, most)) for rate in rates])


@situation
def well_separated(rng: np.random.Generator) -> Situation:
    """Components far apart, every chain in names of its own: all agrees, up to names."""
    k = int(rng.integers(2, 4))
    made = alike(apart(rng, k), k)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept, perms = renamed(made.gibbs([fit.point] * CHAINS, rng), rng)
    differ = any((perm != perms[0]).any() for perm in perms)
    good = ("modes", "fit", "labels", "convergence", "place", "shape", "laplace", "members", "components", "loo")
    return Situation(
        fit, made.tree(kept), dict.fromkeys(good, True),
        [
            state("BETWEEN_CHAINS" if differ else "NO_SWITCHING"),
            lambda c: "" if c.reliable else "not reliable",
            lambda c: "" if c.headline.startswith("EM and NUTS agree") else c.headline,
            lambda c: "" if c.better is None else "a better fit is claimed",
            lambda c: "" if any(v.name == "stacking" for v in c.verdicts) is False else "chains are said not to mix",
        ],
        f"K={k}",
    )  # fmt: skip


@situation
def switching_within_chains(rng: np.random.Generator) -> Situation:
    """Every draw under random names: the symmetric posterior. Aligned, all is well."""
    k = int(rng.integers(2, 4))
    made = alike(apart(rng, k), k)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng)
    perms = rng.permuted(np.broadcast_to(np.arange(k), (CHAINS, DRAWS, k)), axis=-1)
    kept = {name: np.take_along_axis(values, perms, axis=-1) for name, values in kept.items()}
    good = ("modes", "labels", "convergence", "place", "shape", "members", "components")
    return Situation(fit, made.tree(kept), dict.fromkeys(good, True), [state("WITHIN_CHAINS")], f"K={k}")


@situation
def overlapping(rng: np.random.Generator) -> Situation:
    """Rates so near each other that no relabelling can say which is which."""
    rate, n = rng.uniform(3, 8), int(rng.integers(40, 90))
    y = np.concatenate([rng.poisson(rate, n), rng.poisson(rate * rng.uniform(1.0, 1.15), n)])
    made = alike(y, 2)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng, thin=4)
    return Situation(fit, made.tree(kept), {"labels": False, "modes": True}, [state("OVERLAPPING")], f"n={2 * n}")


@situation
def too_many_components(rng: np.random.Generator) -> Situation:
    """One group, fitted with three."""
    made = alike(rng.poisson(rng.uniform(3, 20), int(rng.integers(60, 160))), 3)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng, thin=4)
    return Situation(fit, made.tree(kept), {"labels": False, "modes": True}, [state("OVERLAPPING")])


def two_hills(rng: np.random.Generator) -> tuple[Counts, list[Theta], list[float]]:
    """Three groups and two components: either the upper two are one or the lower two are. The higher mode first."""
    for _ in range(100):
        low, middle, high = 5.0, rng.uniform(30, 42), rng.uniform(70, 90)
        y = np.concatenate([rng.poisson(rate, rng.integers(30, 45)) for rate in (low, middle, high)])
        made = alike(y, 2)
        ends = [made.em(np.array(rates)) for rates in ([low, (middle + high) / 2], [(low + middle) / 2, high])]
        if abs(ends[0][0]["rate"] - ends[1][0]["rate"]).max() > 5 and abs(ends[0][1] - ends[1][1]) > 0.5:
            ends.sort(key=lambda end: -end[1])
            return made, [end[0] for end in ends], [end[1] for end in ends]
    raise AssertionError("no data with two modes were found")


@situation
def two_genuine_modes(rng: np.random.Generator) -> Situation:
    """Some chains on one hill and some on the other, for good."""
    made, ends, heights = two_hills(rng)
    fit = emppl.fit(made.model(), start=ends[0], starts=0, seed=0)
    away = int(rng.integers(1, CHAINS))
    kept = made.gibbs([ends[0]] * (CHAINS - away) + [ends[1]] * away, rng)
    kept, _ = renamed(kept, rng)
    lost = abs(kept["rate"].max(axis=-1) - ends[0]["rate"].max()) > abs(
        kept["rate"].max(axis=-1) - ends[1]["rate"].max()
    )
    if (lost.mean(axis=1) > 0).sum() != away or lost.mean() not in (away / CHAINS,):  # a chain crossed: others know
        return two_genuine_modes(rng)
    homes = [*range(CHAINS - away, CHAINS)]
    return Situation(
        fit, made.tree(kept),
        {"modes": True, "other modes": False, "convergence": False, "stacking": False},
        [
            near("other modes", away / CHAINS, 1e-9),
            says("other modes", "No chain moves between modes", str(homes[-1])),
            lambda c: "" if len(c.prediction.groups) == 2 else f"{len(c.prediction.groups)} groups of chains",
            lambda c: "" if tuple(homes) in list(c.prediction.groups["chains"]) else str(c.prediction.groups),
            lambda c: "" if abs(c.atlas.modes[0].log_posterior - c.atlas.modes[c.atlas.reached.max()].log_posterior
                                - (heights[0] - heights[1])) < 1e-3 else "the modes' heights differ from EM's",
        ],
        f"{away} of {CHAINS} chains away",
    )  # fmt: skip


def modes_hold(comparison: Any) -> bool:
    return next(verdict.holds for verdict in comparison.verdicts if verdict.name == "modes")


@situation
def wrong_mode_given(rng: np.random.Generator) -> Situation:
    """The fit sits on the lower hill, the draws on the higher: said, and mended."""
    made, ends, heights = two_hills(rng)
    fit = emppl.fit(made.model(), start=ends[1], starts=0, seed=0)
    kept, _ = renamed(made.gibbs([ends[0]] * CHAINS, rng), rng)
    lead = heights[0] - heights[1]
    return Situation(
        fit, made.tree(kept), {"modes": False, "other modes": False},
        [
            lambda c: "" if c.better is not None else "no better fit is given",
            lambda c: "" if abs(c.better.log_posterior - fit.log_posterior - lead) < 1e-3 else "not the better mode",
            lambda c: "" if not c.reliable and c.headline.startswith("EM missed") else c.headline,
            lambda c: "" if modes_hold(emppl.compare(c.better, c.draws, ascents=10)) else "there is a better one",
        ],
        f"{lead:.1f} nats",
    )  # fmt: skip


@situation
def one_chain_stuck(rng: np.random.Generator) -> Situation:
    """One chain never moves."""
    made = alike(apart(rng, 2), 2)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng)
    stuck = int(rng.integers(CHAINS))
    for values in kept.values():
        values[stuck] = values[stuck, :1]
    return Situation(
        fit, made.tree(kept), {"convergence": False, "modes": True},
        [lambda c: "" if not c.reliable else "reliable", says("convergence", f"chain {stuck} stands still")],
    )  # fmt: skip


@situation
def prior_breaks_symmetry(rng: np.random.Generator) -> Situation:
    """The likelihood does not care about names, the priors of the rates do; sometimes a chain has the other names."""
    y = apart(rng, 2)
    centres = np.array([y[y < y.mean()].mean(), y[y > y.mean()].mean()]) * rng.uniform(0.9, 1.1, 2)
    shape = rng.uniform(3.0, 6.0)
    made = Counts(y, np.full(2, shape), shape / centres)
    fit = emppl.fit(made.model(), starts=8, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng)
    swapped = bool(rng.integers(2))
    if swapped:  # the other naming is a mode of its own here, lower by what the priors say
        other = made.em(fit.point["rate"][::-1])[0]
        away = made.gibbs([other], rng)
        for name, values in kept.items():
            values[0] = away[name][0]
    expected = {"modes": True, "convergence": not swapped}
    if swapped:
        expected["other modes"] = False
    return Situation(
        fit, made.tree(kept), expected,
        [state("NO_SYMMETRY"), says("labels", "prior alone"), *([near("other modes", 0.25, 1e-9)] if swapped else [])],
        "one chain in the other names" if swapped else "all in the prior's names",
    )  # fmt: skip


@situation
def draws_without_the_model(rng: np.random.Generator) -> Situation:
    """What a Stan user has: parameters alone, by name. What is not there is not judged; all else is."""
    k = int(rng.integers(2, 4))
    made = alike(apart(rng, k), k)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept, perms = renamed(made.gibbs([fit.point] * CHAINS, rng), rng)
    good = ("modes", "labels", "convergence", "place", "shape", "members")
    absent = {"loo", "stacking", "divergences"}
    bare = az.from_dict({"posterior": kept}, dims={"weights": ["component"], "rate": ["component"]})

    def diagnosed(_: Any) -> str:
        """Nothing but the draws, and the name of the dim that the components lie along."""
        report = emppl.diagnose(bare, component_dims="component")
        expected = "BETWEEN_CHAINS" if any((perm != perms[0]).any() for perm in perms) else "NO_SWITCHING"
        aligned = emppl.relabel(bare, component_dims="component")["posterior"]["rate"].values
        order = np.argsort(aligned, axis=-1)
        named = "" if (order == order[0, 0]).all() else "components change their names"
        return named or ("" if report.state.name == expected else f"diagnosed as {report.state.name}, not {expected}")

    return Situation(
        fit, az.from_dict({"posterior": kept}), dict.fromkeys(good, True),
        [
            lambda c: ", ".join(v.name + " is judged without evidence" for v in c.verdicts if v.name in absent),
            diagnosed,
        ],
        f"K={k}",
    )  # fmt: skip


@situation
def few_draws(rng: np.random.Generator) -> Situation:
    """Enough chains, too few draws."""
    made = alike(apart(rng, 2), 2)
    fit = emppl.fit(made.model(), starts=6, seed=int(rng.integers(1000)))
    kept = made.gibbs([fit.point] * CHAINS, rng, draws=int(rng.integers(12, 40)))
    return Situation(
        fit, made.tree(kept), {"precision": False, "modes": True},
        [lambda c: "" if c.headline == "The draws of NUTS cannot be relied on yet." else c.headline],
    )  # fmt: skip


@situation
def several_fits(rng: np.random.Generator) -> Situation:
    """MAP, maximum likelihood and a MAP fit left on the lower hill, in one table and in the names of the first."""
    made, ends, heights = two_hills(rng)
    model = made.model()
    fit = emppl.fit(model, start=ends[0], starts=0, seed=0)
    flat = Counts(made.y, np.ones(2), np.zeros(2))
    turned = {name: values[::-1] for name, values in ends[0].items()}
    fits = {
        "MAP": fit,
        "ML": emppl.fit(model, start=turned, starts=0, seed=0, estimate="ml"),
        "low": emppl.fit(model, start=ends[1], starts=0, seed=0),
    }
    kept, _ = renamed(made.gibbs([ends[0]] * CHAINS, rng), rng)
    weights, rate = np.full(2, 0.5), ends[0]["rate"]
    for _ in range(3000):  # textbook EM without priors
        joint = flat.log_joint(weights, rate)
        r = np.exp(joint - logsumexp(joint, axis=-1, keepdims=True))
        weights, rate = r.mean(axis=0), (r.T @ made.y) / r.sum(axis=0)
    largest = abs(ends[0]["rate"] - rate) / kept["rate"].std(axis=(0, 1)).clip(1e-9)

    def side_by_side(c: Any) -> str:
        ours = c.estimates.loc[["rate[0]", "rate[1]"]]
        exact = np.array([ends[0]["rate"], rate, ends[1]["rate"]]).T
        found = ours[["MAP", "ML", "low"]].to_numpy()
        best = min(abs(found - exact).max(), abs(found - exact[::-1]).max())
        return "" if best < 1e-3 else f"estimates are {found.tolist()}, truth {exact.tolist()}"

    return Situation(
        fits, made.tree(kept), {"modes": True, "low": False} | ({"ML": True} if largest.max() < 0.2 else {}),
        [
            side_by_side,
            says("low", "another mode", f"{heights[0] - heights[1]:.2g} nats", "below MAP's"),
            says("ML", "same hill", "without priors"),
            lambda c: "" if "start=MAP" in next(v for v in c.verdicts if v.name == "low").advice else "no advice",
        ],
    )  # fmt: skip


# -- one number, and its posterior by quadrature ----------------------------------------------------------------------


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
        inside = float(mass[np.abs(grid - estimate) <= 1.959964 * error].sum())
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


def check(seed: int) -> tuple[str, str, list[str]]:
    """(name, recipe, what is wrong) of the situation that a seed stands for."""
    name = list(SITUATIONS)[seed % len(SITUATIONS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SITUATIONS[name](np.random.default_rng([seed, 6]))
        try:
            return name, made.recipe, wrong(made)
        except Exception as problem:  # reported with its seed; the others go on
            return name, made.recipe, [f"crash: {problem!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 2 * len(SITUATIONS)), metavar=("FROM", "TO"))
    arguments = parser.parse_args()
    began, counts = time.perf_counter(), Counter()
    for seed in range(*arguments.seeds):
        name, recipe, found = check(seed)
        counts["wrong" if found else "right"] += 1
        for complaint in found:
            print(f"seed {seed}, {name} ({recipe}): {complaint}", flush=True)
    print(f"{sum(counts.values())} situations in {time.perf_counter() - began:.0f} s: {dict(counts)}")
    return int(bool(counts["wrong"]))


if __name__ == "__main__":
    sys.exit(main())
