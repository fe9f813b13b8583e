"""Mixtures of Poisson counts whose posterior a Gibbs sampler draws from: labels, modes, chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
from scipy.special import gammaln, logsumexp

import emppl
from made.situation import CHAINS, DRAWS, Situation, Theta, near, says, situation, state


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
        [lambda c: "" if c.headline.startswith("The draws of NUTS cannot be relied on yet") else c.headline],
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
