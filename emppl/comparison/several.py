"""Several fits of one model beside one posterior: ML against MAP against hard EM, in the names of the first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl.ascent.atlas import Atlas
from emppl.ascent.result import fingerprint
from emppl.comparison.evidence import Verdict, listed
from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import assign, forbidden_pairs
from emppl.labels.draws import Theta
from emppl.limits import as_printed
from emppl.structure.prior import whole_log_prior
from emppl.structure.symmetry import axes_of

SAME_HEIGHT = 1e-3  # nats by which another fit's point may pass a fit on the fit's own objective
APART = 0.5  # posterior sds between two estimates of one number from which on they differ


@dataclass(frozen=True)
class Other:
    """A further fit, renamed as the first: its point, and log-likelihood and log posterior there (priors of all)."""

    name: str
    fit: Any
    point: Theta
    log_likelihood: float
    log_posterior: float

    @property
    def kind(self) -> str:
        """What it maximises: "ml", "map", "hard" (the classification likelihood) or "hard map" (that and the prior)."""
        return kind(self.fit.plan)


def kind(plan: Any) -> str:
    """What fits of this plan maximise."""
    if plan.method == "hard":
        return "hard map" if plan.estimate == "map" else "hard"
    return str(plan.estimate)


def first_and_others(fits: Any) -> tuple[str, Any, dict[str, Any]]:
    """(name of the first fit, the first fit, the others by name), from a Fit or from {name: Fit}.

    Raises InvalidArgumentError where a mapping is empty or holds fits of different models.
    """
    if not isinstance(fits, Mapping) or isinstance(fits, xr.DataTree):
        return "EM", fits, {}
    if not fits:
        raise InvalidArgumentError("no fit is given", "the argument `fit`", ('emppl.compare({"EM": fit}, draws)',))
    names = [str(name) for name in fits]
    first, *rest = fits.values()
    for name, other in zip(names[1:], rest, strict=True):
        if not hasattr(other, "point"):
            raise InvalidArgumentError(f"{name} is a {type(other).__name__}, no Fit", "the argument `fit`")
        if fingerprint(other.plan.structure) != fingerprint(first.plan.structure):
            raise InvalidArgumentError(
                f"{name} is a fit of another model than {names[0]}", "the argument `fit`",
                ("fit one model in several ways: emppl.fit(model, estimate='ml'), emppl.fit(model, method='hard')",),
            )  # fmt: skip
    return names[0], first, dict(zip(names[1:], rest, strict=True))


def renamed(first: Any, others: Mapping[str, Any]) -> tuple[Other, ...]:
    """The other fits with components named as in the first, by whom they hold."""
    plan, found = first.plan, []
    for name, fit in others.items():
        point = {key: np.asarray(value, float) for key, value in fit.point.items()}
        for axis in axes_of(plan):
            groups = tuple(tuple(group) for group in axis.exchangeable)
            if fit.plan.estimate == "ml" and axis.symmetric_likelihood and not axis.ordered:
                groups = (tuple(range(axis.size)),)  # without its prior nothing tells the components apart
            ours = np.asarray(plan.responsibilities(first.point)[axis.latent]).reshape(-1, axis.size)
            theirs = np.asarray(plan.responsibilities(point)[axis.latent]).reshape(-1, axis.size)
            (perm,) = assign(-(ours.T @ theirs)[None], forbidden_pairs(axis.size, groups))
            point = point | axis.permute(point, perm)
        found.append(Other(name, fit, point, *_heights(plan, point)))
    return tuple(found)


def _heights(plan: Any, point: Theta) -> tuple[float, float]:
    likelihood = plan.log_likelihood(point)
    prior = plan.log_prior(point) if plan.estimate == "map" else whole_log_prior(plan.structure)(point)
    return float(likelihood), float(likelihood + prior)


def estimates(
    name: str, first: Any, others: tuple[Other, ...], table: pd.DataFrame, details: pd.DataFrame
) -> pd.DataFrame | None:
    """A row for each row of the table, a column for each fit, then the posterior's mean and sd; None for one fit."""
    if not others:
        return None
    columns = {name: table["estimate"].to_numpy()}
    order = list(details["variable"].unique())
    for other in others:
        values = other.point | first.plan.deterministics(other.point)
        columns[other.name] = np.concatenate([np.ravel(values[variable]) for variable in order])
    return pd.DataFrame(columns | {"mean": table["mean"], "sd": table["sd"]}, index=table.index)


def verdicts(
    name: str, first: Any, others: tuple[Other, ...], found: pd.DataFrame | None, atlas: Atlas | None,
    details: pd.DataFrame, pooled: bool = True,
) -> tuple[Verdict, ...]:  # fmt: skip
    """One verdict for each further fit: how far it is from the first, and why.

    `pooled`: whether posterior sds are known. Where they are not, a fit is only judged that is not at its own maximum.
    """
    if found is None:
        return ()
    here = Other(name, first, dict(first.point), *_heights(first.plan, first.point))
    free = found[~details["derived"].astype(bool) & (found["sd"] > 0)]
    modes = atlas.known[2:] if atlas is not None else ()
    judged = []
    for i, other in enumerate(others):
        why = _why(here, other, atlas, modes[i] if i < len(modes) else None)
        beaten = _beaten(here, other)
        if pooled:
            judged.append(_against(here, other, free, why, beaten))
        elif beaten:
            nats, text, advice = beaten
            measure = f"nats by which one of {other.name} and {name} is beaten on its own objective"
            judged.append(Verdict(other.name, nats, SAME_HEIGHT, False, f"{text}; {why}", measure, True, advice))
    return tuple(judged)


def _against(
    first: Other, other: Other, table: pd.DataFrame, why: str, beaten: tuple[float, str, str] | None
) -> Verdict:
    apart = ((table[other.name] - table[first.name]) / table["sd"]).abs()
    apart = pd.Series(as_printed(apart, APART, 2), apart.index)
    worst, largest = (str(apart.idxmax()), float(apart.max())) if len(apart) else ("", 0.0)
    beyond = apart[apart > APART].sort_values(ascending=False)
    measure = f"largest difference between {other.name} and {first.name}, in posterior sds"
    holds = largest <= APART
    if holds:
        within = (
            f"within {largest:.2f} posterior sds ({worst})" if largest >= 0.005 else "to less than 0.01 posterior sds"
        )
        text = f"{other.name} and {first.name} agree {within}"
    else:
        row, most = table.loc[worst], f", most {worst}" if len(beyond) > 1 else ""
        text = (
            f"{listed(beyond.index)} differ{'' if len(beyond) > 1 else 's'} between {other.name} and {first.name}"
            f"{most}: {row[other.name]:.3g} against {row[first.name]:.3g} ({largest:.2f} posterior sds; "
            f"posterior mean {row['mean']:.3g})"
        )
    text += f"; {why}"
    if beaten:
        return Verdict(other.name, largest, APART, False, f"{text}; {beaten[1]}", measure, True, beaten[2])
    advice = "" if holds else f"say which of them is reported, and that {_maximises(other)}"
    return Verdict(other.name, largest, APART, holds, text, measure, False, advice)


def _why(first: Other, other: Other, atlas: Atlas | None, mode: int | None) -> str:
    """What makes the difference, or could: another hill, or another objective on the same one."""
    same = ""
    if atlas is not None and mode is not None and atlas.known[0] >= 0:
        if mode < 0:
            return f"from {other.name}'s point {first.name}'s ascent ends in no proper mode"
        if mode != atlas.known[0]:
            above = atlas.modes[mode].log_posterior - atlas.modes[atlas.known[0]].log_posterior
            side = f"{abs(above):.2g} nats {'above' if above > 0 else 'below'}"
            if abs(above) <= SAME_HEIGHT:
                side = "as high as"
            return f"{other.name} lies on the hill of another mode, {side} {first.name}'s"
        same = "both lie on the same hill; "
    if first.kind == other.kind:
        return f"{same}both maximise the same"
    return f"{same}{_maximises(other)}, and {_maximises(first)}"


def _maximises(one: Other) -> str:
    wholly = f"{one.name} counts every member wholly to one component, as k-means does"
    return {
        "ml": f"{one.name} maximises the likelihood, without priors",
        "map": f"{one.name} maximises likelihood times prior",
        "hard": wholly,
        "hard map": f"{wholly}, priors included",
    }[one.kind]


def _beaten(first: Other, other: Other) -> tuple[float, str, str] | None:
    """Is one of two fits beaten on its own objective by the other's point? Then it stopped short of its maximum.

    By how many nats, in words, and what to do.
    """
    for loser, winner in ((first, other), (other, first)):
        if loser.kind not in ("ml", "map"):
            continue
        ml = loser.kind == "ml"
        lead = (winner.log_likelihood - loser.log_likelihood) if ml else (winner.log_posterior - loser.log_posterior)
        if as_printed(lead, SAME_HEIGHT, 4) > SAME_HEIGHT:
            what = "log-likelihood" if ml else "log posterior"
            text = f"{loser.name} is to maximise the {what}, and {winner.name}'s point has {lead:.2g} nats more of it"
            return (
                lead,
                text,
                f"{loser.name} stopped short: emppl.fit(model, start={winner.name}'s fit) with its own options",
            )
    return None
