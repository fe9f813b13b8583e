"""The posterior beside what is said of it cheaply: the normal approximation at the mode, and the priors."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import ks_2samp, wasserstein_distance

from emppl.comparison.evidence import AT_LEAST, Evidence, Verdict, free_rows, is_degenerate, listed, pooled, verdict
from emppl.inference.laplace import laplace_centre, normal_draws
from emppl.labels.draws import posterior_of, stacked
from emppl.limits import as_printed
from emppl.planner import Plan
from emppl.sampling import prior_draws

DRAWS = 4000  # of the normal approximation
PRIOR_DRAWS = 1000
COORDINATES = 250  # beyond so many the curvature costs too much to be had in passing
DISTANCE_LIMIT = 0.25  # Wasserstein distance in posterior sds
ENOUGH = 0.9  # of the posterior inside a 95 % interval that is still of use
SHIFT_LIMIT = 0.5  # posterior sds between the modes on the two scales
PRIOR_LIMIT = 0.25  # share of the precision that is the prior's: a posterior half as wide as the prior
GAP_LIMIT = 2.0  # means that are ordered lie so many sds of their gap apart where the ordering does not push
LAPLACE_COLUMNS = [
    "variable", "mean", "sd", "low", "high", "distance", "ks", "coverage", "unconstrained_mode", "shift",
]  # fmt: skip


def laplace_table(fit: Any, draws: xr.DataTree, details: pd.DataFrame) -> pd.DataFrame | None:
    """The Laplace approximation beside the aligned draws: a row for each row of the table, columns LAPLACE_COLUMNS.

    mean, sd, low, high: of the approximation, its 95 % interval. distance: Wasserstein distance of its marginal from
    the posterior's, in posterior sds; ks: largest difference of the two distribution functions; coverage: share of the
    posterior inside that interval. unconstrained_mode: the mode of the density that NUTS sees, Jacobian included
    (nan for maximum likelihood); shift: estimate minus that, in posterior sds. None where there is no model to ask.
    """
    plan = fit.plan
    if not isinstance(plan, Plan) or plan.sample is not None or plan.method != "em" or not plan.structure.parameters:
        return None
    if plan.structure.coordinates.size > COORDINATES or is_degenerate(fit):  # where nothing bends as a normal does
        return None
    u, information = laplace_centre(plan, fit.point, fit.curvature)
    sample = normal_draws(plan, u, information, DRAWS, seed=0)
    centre = plan.structure.coordinates.constrain(u)
    centre = centre | plan.deterministics(centre)
    posterior, pieces = posterior_of(draws), []
    for name in details["variable"].unique():
        approximate = sample[name].reshape(DRAWS, -1)
        exact = stacked(posterior[name]).astype(float).reshape(-1, approximate.shape[1])
        estimate = np.ravel(fit.theta[name].values)
        mode = np.ravel(centre[name]) if plan.estimate == "map" else np.full(estimate.shape, np.nan)
        pieces.append(_beside(name, approximate, exact, estimate, mode))
    table = pd.concat(pieces) if pieces else pd.DataFrame(columns=LAPLACE_COLUMNS)
    return table.set_axis(details.index)


def _beside(
    name: str, approximate: np.ndarray, exact: np.ndarray, estimate: np.ndarray, mode: np.ndarray
) -> pd.DataFrame:
    low, high = np.quantile(approximate, [0.025, 0.975], axis=0)
    sd = exact.std(axis=0)
    still = ~(sd > 1e-12 * np.maximum(np.abs(exact).max(axis=0), 1e-300))
    rows = []
    for i in range(exact.shape[1]):
        a, b = approximate[:, i], exact[:, i]
        distance, ks, inside, shift = (np.nan,) * 4
        if not still[i] and np.ptp(a) > 0:  # it stays at the mode where no curvature is known: on a border
            distance = wasserstein_distance(a, b) / sd[i]
            ks = ks_2samp(a, b, method="asymp").statistic
            inside = ((b >= low[i]) & (b <= high[i])).mean()
            shift = (estimate[i] - mode[i]) / sd[i]
        rows.append((name, a.mean(), a.std(), low[i], high[i], distance, ks, inside, mode[i], shift))
    return pd.DataFrame(rows, columns=LAPLACE_COLUMNS)


def prior_table(fit: Any, draws: xr.DataTree, details: pd.DataFrame) -> pd.DataFrame | None:
    """Prior beside posterior: a row for each parameter of the table that its prior can be drawn for.

    Columns: variable, prior and posterior (half of the central 68 % of each: the sd, where it is normal), share (of
    the precision that is the prior's, the squared ratio of the two). None where there is no model to ask.
    """
    plan = fit.plan
    if not isinstance(plan, Plan) or not plan.structure.parameters:
        return None
    drawn, posterior, pieces = prior_draws(plan, PRIOR_DRAWS), posterior_of(draws), []
    parameters = details[~details["derived"].astype(bool)]
    for name, rows in parameters.groupby("variable", sort=False):
        if name not in drawn:
            continue
        before = _spread(drawn[name].reshape(PRIOR_DRAWS, -1))
        after = _spread(stacked(posterior[name]).astype(float).reshape(-1, before.size))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.minimum((after / before) ** 2, 1.0)
        columns = {"variable": name, "prior": before, "posterior": after, "share": share}
        pieces.append(pd.DataFrame(columns, index=rows.index))
    return pd.concat(pieces) if pieces else None


def _spread(values: np.ndarray) -> np.ndarray:
    """Half of the central 68 % of [n, m]: the sd of a normal, and finite whatever the tails."""
    low, high = np.quantile(values, [0.15865525, 0.84134475], axis=0)
    return np.asarray(high - low) / 2


@verdict
@pooled
def laplace(evidence: Evidence) -> Verdict | None:
    """Is the normal approximation on the unconstrained scale near the posterior?"""
    table = _moving(evidence, evidence.laplace, "distance")
    if table is None:
        return None
    worst = table["distance"].idxmax()
    distance, row = as_printed(float(table["distance"].max()), DISTANCE_LIMIT, 2), table.loc[worst]
    holds = distance <= DISTANCE_LIMIT
    ml = evidence.fit.plan.estimate == "ml"
    what = "the normal approximation of EM's estimator" if ml else "the Laplace approximation"
    how = "" if ml else " (normal on the unconstrained scale, Jacobian included)"
    least = as_printed(float(table["coverage"].min()), ENOUGH, 2)
    inside = f"its 95% intervals hold at least {least:.0%} of it ({table['coverage'].idxmin()})"
    if holds:
        text = f"{what}{how} is within {distance:.2f} posterior sds of the posterior (furthest: {worst}); {inside}"
    else:
        far = f"{distance:.2f} posterior sds away from the posterior of {worst} (KS {row['ks']:.2f})"
        text = f"{what}{how} is {far}; {inside}"
    advice = "take means and intervals of these parameters from NUTS"
    if least >= ENOUGH:
        advice = "its intervals serve, its means do not: take those from NUTS"
    advice = "" if holds else advice
    measure = "Wasserstein distance of the normal approximation from the posterior, in posterior sds"
    return Verdict("laplace", distance, DISTANCE_LIMIT, holds, text, measure, False, advice)


@verdict
@pooled
def scale(evidence: Evidence) -> Verdict | None:
    """On which scale is the estimate a mode, and does it matter?"""
    plan = evidence.fit.plan
    measure = "largest difference between EM's mode and the mode on the unconstrained scale, in posterior sds"
    if evidence.laplace is None:
        return None
    if plan.estimate == "ml":
        text = "EM's estimate is the maximum likelihood: the same on every scale of the parameters, and without priors"
        return Verdict("scale", 0.0, SHIFT_LIMIT, True, text, measure, False)
    table = _moving(evidence, evidence.laplace, "shift")
    if table is None:
        return None
    shift = table["shift"].abs()
    worst, largest = shift.idxmax(), as_printed(float(shift.max()), SHIFT_LIMIT, 2)
    row, here = table.loc[worst], evidence.table.loc[worst, "estimate"]
    holds = largest <= SHIFT_LIMIT
    text = (
        "EM's estimate is the mode on the parameters' own scale (no Jacobian); on the unconstrained scale, where NUTS "
        f"works, the mode lies at most {largest:.2f} posterior sds away"
    )
    if largest >= 0.005:
        text += f" ({worst}: {here:.3g} against {row['unconstrained_mode']:.3g})"
    advice = ""
    if not holds:
        advice = (
            "a mode moves with the scale, the posterior does not: quote the scale with the estimate, or NUTS's mean"
        )
    return Verdict("scale", largest, SHIFT_LIMIT, holds, text, measure, False, advice)


@verdict
@pooled
def priors(evidence: Evidence) -> Verdict | None:
    """Which parameters does the prior say more about than the data?"""
    table = _moving(evidence, evidence.priors, "share")
    if table is None:
        return None
    share = table["share"].sort_values(ascending=False)
    share = pd.Series(as_printed(share, PRIOR_LIMIT, 2), share.index)
    worst, largest = share.index[0], float(share.iloc[0])
    ratio = np.sqrt(largest)
    heavy = share[share > PRIOR_LIMIT]
    measure = "share of a parameter's precision that is its prior's, largest over parameters"
    if heavy.empty:
        text = f"the data outweigh the priors: the posterior is at most {ratio:.0%} as wide as the prior ({worst})"
        return Verdict("priors", largest, PRIOR_LIMIT, True, text, measure, False)
    wide = "as wide as its prior" if ratio > 0.995 else f"{ratio:.0%} as wide as its prior"
    text = f"the priors matter for {listed(heavy.index)}: the posterior of {worst} is {wide}"
    if evidence.fit.plan.estimate == "ml":
        text += ", and EM's estimate leaves priors out"
    advice = "another prior would change these numbers: try one, or say in the report that they rest on it"
    return Verdict("priors", largest, PRIOR_LIMIT, False, text, measure, False, advice)


@verdict
@pooled
def ordering(evidence: Evidence) -> Verdict | None:
    """Where the model orders a parameter: does the order push the numbers apart?"""
    found: list[tuple[float, str, str]] = []
    posterior = posterior_of(evidence.draws)
    for node in evidence.fit.plan.structure.parameters:
        if getattr(getattr(node, "transform", None), "name", None) != "ordered" or node.name not in posterior:
            continue
        rows = evidence.details.index[evidence.details["variable"] == node.name]
        values = stacked(posterior[node.name]).reshape(-1, node.shape[-1])
        gaps = np.diff(values, axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            apart = gaps.mean(axis=0) / gaps.std(axis=0)
        found += [
            (float(z), str(rows[i]), str(rows[i + 1])) for i, z in enumerate(apart) if len(rows) == len(apart) + 1
        ]
    if not found:
        return None
    least, low, high = min(found)
    least = as_printed(least, GAP_LIMIT, 1)
    holds = least >= GAP_LIMIT
    text = f"{low} and {high}, which the model orders, lie {least:.1f} sds of their gap apart"
    if not holds:
        text += ": the order itself pushes them apart, so their posterior is not that of two free components"
    advice = "" if holds else "leave the order out and align the draws to the fit instead: emppl.relabel(draws, to=fit)"
    measure = "mean gap of neighbours that the model orders, in its own sds"
    return Verdict("ordering", least, GAP_LIMIT, holds, text, measure, False, advice, AT_LEAST)


def _moving(evidence: Evidence, table: pd.DataFrame | None, column: str) -> pd.DataFrame | None:
    """The rows of a table that are parameters, move, and have a number in this column; None where there are none."""
    if table is None:
        return None
    rows = table.loc[table.index.intersection(free_rows(evidence).index, sort=False)]
    rows = rows[np.isfinite(rows[column].astype(float))]
    return None if rows.empty else rows
