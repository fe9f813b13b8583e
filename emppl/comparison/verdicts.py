"""What EM and NUTS agree on and what they do not: one function a verdict, each with the number that shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.comparison.members import changes, member_names, spread
from emppl.comparison.table import ESS_LIMIT, R_HAT_LIMIT, SKEW_LIMIT, TAIL_LIMIT
from emppl.labels.diagnose import AMBIGUOUS_SHARE, R_HAT_ALIGNED, LabelState, SwitchingReport
from emppl.labels.draws import Theta, at, sampler_record, stacked, theta_draws

HEIGHT_LIMIT = 1e-3  # nats by which a draw may pass EM: a fit stops with about 1e-6 left
COVERAGE_LIMIT = 0.85  # of the posterior inside estimate ± 1.96 standard errors; 0.95 if it were normal
CHANGED_LIMIT = 0.05  # of the members may change their most probable value
DRAWS_EVALUATED = 200
BEST_EVALUATED = 20  # besides those: the draws that are highest on NUTS's own scale
CELLS_EVALUATED = 2e7  # members × values × draws: large data get fewer draws
NAMED = 3  # items named in a sentence
AT_LEAST = "at least"


@dataclass(frozen=True)
class Verdict:
    """One statement about fit and draws.

    `value` is the number it rests on, `measure` says of what, and it holds while that is `bound` ("at most" or "at
    least") the `limit`. `check` is True where a failure means that a result cannot be relied on, False where it says
    that mode and posterior differ, which they may do rightly. `advice`: what to do next, empty when it holds.
    """

    name: str
    value: float
    limit: float
    holds: bool
    text: str
    measure: str
    check: bool
    advice: str = ""
    bound: str = "at most"


@dataclass(frozen=True)
class Heights:
    """Objective of EM against that of draws, on EM's own scale: gap = best draw - EM, in nats."""

    gap: float
    evaluated: int
    best: Theta
    of: str  # "log posterior" | "log-likelihood"


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may look at."""

    fit: Any
    draws: xr.DataTree
    table: pd.DataFrame
    details: pd.DataFrame
    switching: SwitchingReport
    members: Mapping[str, xr.Dataset]
    heights: Heights


VERDICTS: list[Callable[[Evidence], Verdict | None]] = []


def verdict(function: Callable[[Evidence], Verdict | None]) -> Callable[[Evidence], Verdict | None]:
    """Enter a verdict in the table. It returns None where it does not apply."""
    VERDICTS.append(function)
    return function


def judge(evidence: Evidence) -> tuple[Verdict, ...]:
    """All verdicts: failed checks first, then differences between mode and posterior, then what holds."""
    found = [result for function in VERDICTS if (result := function(evidence)) is not None]
    return tuple(sorted(found, key=lambda v: (v.holds, not v.check)))


def heights(fit: Any, draws: xr.DataTree) -> Heights:
    """EM's objective recomputed at draws spread over all chains, and at those highest on NUTS's own scale.

    NUTS's `lp` holds the Jacobian of its transforms, so its order is a guide only. Draws where the objective is not
    finite are passed over.
    """
    plan = fit.plan
    ml = plan.estimate == "ml"
    objective = plan.log_likelihood if ml else plan.log_posterior
    theta = theta_draws(draws, plan, fit.point)
    n_draws = len(next(iter(theta.values())))
    cells = sum(np.prod(latent.shape) * len(latent.support) for latent in plan.structure.latents)
    wanted = int(np.clip(CELLS_EVALUATED / max(cells, 1), 20, DRAWS_EVALUATED))
    picked = [spread(n_draws, wanted)]
    for order in _guides(draws, n_draws):
        picked.append(np.argsort(-order, kind="stable")[:BEST_EVALUATED])
    indices = np.unique(np.concatenate(picked))
    values = np.array([objective(at(theta, t)) for t in indices])
    values = np.where(np.isfinite(values), values, -np.inf)
    best = int(values.argmax())
    here = fit.log_likelihood if ml else fit.log_posterior
    point = {name: np.array(value) for name, value in at(theta, int(indices[best])).items()}
    return Heights(float(values[best] - here), len(indices), point, "log-likelihood" if ml else "log posterior")


def _guides(draws: xr.DataTree, n_draws: int) -> list[np.ndarray]:
    """Cheap numbers of every draw by which the highest ones may be found: [T] each."""
    guides = [record for name in ("lp", "log_posterior") if (record := sampler_record(draws, name)) is not None]
    if "log_likelihood" in draws.children:
        group = draws["log_likelihood"].to_dataset()
        parts = [stacked(group[name]).reshape(n_draws, -1).sum(axis=1) for name in group.data_vars]
        guides += [np.sum(parts, axis=0)] if parts else []
    return [np.where(np.isfinite(order), order, -np.inf) for order in guides]


@verdict
def labels(evidence: Evidence) -> Verdict:
    """Do the components keep their names, after alignment?"""
    report = evidence.switching
    if report.state is LabelState.OVERLAPPING:
        value, limit, measure = report.ambiguous, AMBIGUOUS_SHARE, "share of draws that could be labelled either way"
    else:
        value, limit, measure = report.r_hat_after, R_HAT_ALIGNED, "largest R-hat after alignment"
    advice = {
        LabelState.OVERLAPPING: "read results that do not depend on names (overall mean, density, who is with whom), "
        "or fit fewer components",
        LabelState.DIFFERENT_MODES: "look at each chain by itself; sample longer, or start from fit.starts",
    }.get(report.state, "")
    return Verdict("labels", value, limit, report.state.cured, report.verdict, measure, True, advice)


@verdict
def modes(evidence: Evidence) -> Verdict:
    """Did NUTS find a higher point than EM?"""
    found, starts = evidence.heights, evidence.fit.starts
    holds = found.gap <= HEIGHT_LIMIT
    number = _modes(starts)
    where = (
        f"best of {found.evaluated} draws looked at: {abs(found.gap):.2g} nats {'below' if found.gap <= 0 else 'above'}"
    )
    if holds:
        text = f"{number}; NUTS found no higher {found.of} than EM ({where})"
        return Verdict("modes", found.gap, HEIGHT_LIMIT, True, text, "best draw minus EM, in nats", True)
    text = f"NUTS found a higher {found.of} than EM ({where}): EM stopped short of the best mode; {number}"
    advice = "emppl.fit(model, start=comparison.best_draw, starts=50): go on from the best draw, with more starts"
    return Verdict("modes", found.gap, HEIGHT_LIMIT, False, text, "best draw minus EM, in nats", True, advice)


def status_name(status: Any) -> str:
    """Name of a status, whether it is stored as the Enum or as text."""
    return getattr(status, "name", str(status))


def _modes(starts: pd.DataFrame) -> str:
    """How many modes the starts ended in, and how many starts found the best one."""
    finished = starts[[status_name(status) == "CONVERGED" for status in starts["status"]]]
    if finished.empty:
        return "no start ran to the end"
    best = finished.loc[finished["log_posterior"].idxmax(), "mode"]
    reached = int((finished["mode"] == best).sum())
    number = int(finished["mode"].nunique())
    kinds = "one mode" if number == 1 else f"{number} modes"
    return f"{kinds} up to names, the best found by {reached} of {len(starts)} starts"


@verdict
def place(evidence: Evidence) -> Verdict | None:
    """Does EM's estimate lie where the posterior is?"""
    rows = _free(evidence)
    border = rows[evidence.table.loc[rows.index, "standard_error"].isna()]
    rows = rows.drop(border.index)
    if rows.empty:
        return None
    tail = np.minimum(rows["quantile"], 1 - rows["quantile"])
    name = tail.idxmin()
    far = tail[tail < TAIL_LIMIT].sort_values()
    position = f"{rows.loc[name, 'quantile']:.1%}"
    measure = "posterior share beyond the estimate, least over parameters"
    if far.empty:
        text = f"EM's estimates lie inside the posterior (furthest out: {name}, with {position} of the draws below it)"
        return Verdict("place", float(tail.min()), TAIL_LIMIT, True, text, measure, True, "", AT_LEAST)
    text = (
        f"EM's {_list(far.index)} lie{'s' if len(far) == 1 else ''} in the outer 1% of the posterior: "
        f"{position} of the draws are below {name}"
    )
    advice = "the mode is no good summary of these; use NUTS's mean and interval, and check that both saw the same mode"
    return Verdict("place", float(tail.min()), TAIL_LIMIT, False, text, measure, True, advice, AT_LEAST)


def _free(evidence: Evidence) -> pd.DataFrame:
    """Rows of the second table that are parameters and move."""
    rows = evidence.details
    return rows[~rows["derived"].astype(bool) & ~rows["constant"].astype(bool)]


@verdict
def shape(evidence: Evidence) -> Verdict | None:
    """Is the posterior near enough to normal for EM's standard errors to describe it?"""
    rows = _free(evidence)
    if rows.empty:
        return None
    border = rows.index[evidence.table.loc[rows.index, "standard_error"].isna()]
    known = rows.drop(border)
    parts, measure = [], "posterior share inside estimate ± 1.96 standard errors, least over parameters"
    least, skewed = np.nan, False
    if len(known):
        worst = known["coverage"].idxmin()
        least, bend = known.loc[worst, "coverage"], known.loc[worst, "skewness"]
        skewed = abs(bend) > SKEW_LIMIT
        kind = f"{worst} is skewed ({bend:.1f}): " if skewed else f"furthest from normal is {worst}: "
        parts.append(f"{kind}its interval of ±1.96 se covers {least:.0%} of the posterior (95% if normal)")
    if len(border):
        parts.append(
            f"{_list(border)} {'is' if len(border) == 1 else 'are'} on a border, where no standard error exists"
        )
    holds = not len(border) and bool(least >= COVERAGE_LIMIT)
    advice = "" if holds else "take the intervals of these parameters from NUTS, not from the standard errors"
    return Verdict("shape", float(least), COVERAGE_LIMIT, holds, "; ".join(parts), measure, False, advice, AT_LEAST)


@verdict
def assignments(evidence: Evidence) -> Verdict | None:
    """Do members keep their most probable value when parameters are uncertain?"""
    if not evidence.members:
        return None
    shares = {}
    for name, table in evidence.members.items():
        before, after, _ = changes(table)
        shares[name] = float((before != after).mean())
    name = max(shares, key=lambda latent: shares[latent])
    table = evidence.members[name]
    before, after, largest = changes(table)
    mean = float(np.abs(table["em"].values - table["posterior"].values).mean())
    names, changed = member_names(table), np.flatnonzero(before != after)
    at_most = f"at most {largest.max():.2f} ({names[int(largest.argmax())]})"
    text = f"probabilities of {name} differ by {mean:.3f} on average, {at_most}; "
    if len(changed):
        text += f"{len(changed)} of {len(before)} members change their most probable value: "
        text += _list([names[i] for i in changed])
    else:
        text += f"none of {len(before)} members changes its most probable value"
    holds = shares[name] <= CHANGED_LIMIT
    advice = "" if holds else "use the posterior averages for these members: EM's ignore the doubt about the parameters"
    measure = f"share of members whose most probable {name} changes"
    return Verdict("members", shares[name], CHANGED_LIMIT, holds, text, measure, False, advice)


@verdict
def convergence(evidence: Evidence) -> Verdict | None:
    """Do the chains agree with each other, after alignment?"""
    r_hat = evidence.table.loc[_free(evidence).index, "r_hat"].dropna()
    if r_hat.empty:
        return None
    worst, high = r_hat.idxmax(), r_hat[r_hat > R_HAT_LIMIT].sort_values(ascending=False)
    holds = high.empty
    text = f"chains agree: R-hat at most {r_hat.max():.3f} ({worst})"
    if not holds:
        text = f"chains do not agree yet: R-hat of {_list(high.index)} up to {r_hat.max():.2f}, above {R_HAT_LIMIT}"
    advice = (
        ""
        if holds
        else "sample longer (draws=, tune=), and read the labels verdict: the chains may sit in different modes"
    )
    return Verdict("convergence", float(r_hat.max()), R_HAT_LIMIT, holds, text, "largest R-hat", True, advice)


@verdict
def precision(evidence: Evidence) -> Verdict | None:
    """Are there enough effectively independent draws?"""
    ess = evidence.table.loc[_free(evidence).index, "ess_bulk"].dropna()
    if ess.empty:
        return None
    holds = bool(ess.min() >= ESS_LIMIT)
    text = f"at least {ess.min():.0f} effective draws ({ess.idxmin()}); {ESS_LIMIT} are enough for means and intervals"
    if not holds:
        text = f"only {ess.min():.0f} effective draws of {ess.idxmin()}, where {ESS_LIMIT} are asked for"
    advice = "" if holds else f"about {np.ceil(ESS_LIMIT / max(ess.min(), 1)):.0f} times as many draws would do"
    return Verdict(
        "precision", float(ess.min()), ESS_LIMIT, holds, text, "smallest effective sample size", True, advice, AT_LEAST
    )


@verdict
def divergences(evidence: Evidence) -> Verdict | None:
    """Did NUTS meet places it could not follow?"""
    diverging = sampler_record(evidence.draws, "diverging")
    if diverging is None:
        return None
    count = int(diverging.sum())
    text = f"no divergences in {diverging.size} draws"
    if count:
        text = f"{count} of {diverging.size} draws diverged: there is a narrow region that NUTS could not follow"
    advice = "emppl.sample(model, target_accept=0.95); if they stay, the model is hard there (a variance near 0?)"
    return Verdict("divergences", count, 0, count == 0, text, "divergent draws", True, advice if count else "")


@verdict
def status(evidence: Evidence) -> Verdict:
    """Did EM run to the end?"""
    fit = evidence.fit
    names = [status_name(one) for one in fit.starts["status"]]
    spoiled = sum(name != "CONVERGED" for name in names)
    holds = status_name(fit.status) == "CONVERGED"
    text = f"EM converged in {fit.n_iter} iterations" if holds else f"EM did not converge: {fit.status.value}"
    if spoiled:
        kinds = ", ".join(sorted({name.lower().replace("_", " ") for name in names if name != "CONVERGED"}))
        text += f"; {spoiled} of {len(names)} starts ended otherwise ({kinds}) and are listed, not used"
    advice = (
        "" if holds else "the estimate is where EM stopped, not a mode: read the status, and fit again with start=fit"
    )
    return Verdict("fit", float(holds), 1.0, holds, text, "1 where EM converged, 0 where not", True, advice, AT_LEAST)


@verdict
def certificate(evidence: Evidence) -> Verdict:
    """Do the checks that every fit carries hold?"""
    found = evidence.fit.certificate
    failed = [point for point in found.points if not point.holds]
    total = len(found.points)
    text = f"{total - len(failed)} of {total} points of the fit's certificate hold"
    if failed:
        text += ": " + "; ".join(f"{point.name} does not ({point.text})" for point in failed)
    advice = "print(fit.certificate) says what each point compares" if failed else ""
    holds = bool(found.holds) and not failed
    return Verdict("certificate", float(len(failed)), 0.0, holds, text, "points that fail", True, advice)


def _list(names: Any) -> str:
    """ "a, b and c", or the first few "and 7 more"."""
    names = [str(name) for name in names]
    if len(names) > NAMED + 1:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def headline(verdicts: tuple[Verdict, ...], switching: SwitchingReport) -> str:
    """The answer in one or two sentences, before all numbers."""
    failed = {v.name for v in verdicts if v.check and not v.holds}
    differing = {v.name for v in verdicts if not v.check and not v.holds}
    if failed & {"fit", "certificate"}:
        start = "EM's result cannot be relied on"
    elif "modes" in failed:
        start = "EM missed a better mode: NUTS found a higher point"
    elif failed & {"labels", "convergence", "precision"}:
        start = "The draws of NUTS cannot be relied on yet"
    elif "place" in failed:
        start = "EM and NUTS disagree: the mode lies outside the bulk of the posterior"
    elif "divergences" in failed:
        start = "EM and NUTS agree as far as NUTS could go, but it met places that it could not follow"
    else:
        moved = [axis for axis in switching.axes if not axis.weak and switching.state.name.endswith("CHAINS")]
        names = " and ".join(f"which {axis.noun} is called which" for axis in moved)
        start = f"EM and NUTS agree{', up to ' + names if names else ''}"
    ends = {
        "shape": "the posterior is not normal, so take intervals from NUTS",
        "members": "some members are less certain than EM says",
    }
    more = [sentence for name, sentence in ends.items() if name in differing]
    if not failed and more:
        return f"{start}; {', and '.join(more)}."
    return f"{start}."
