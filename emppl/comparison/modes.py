"""Modes: did NUTS find a higher point than EM, how many modes are there, and how much of the posterior is in each."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import softmax

from emppl.ascent.atlas import Atlas, affordable, atlas
from emppl.ascent.search import fit as fit_again
from emppl.comparison.evidence import (
    Evidence,
    Heights,
    Verdict,
    in_words,
    is_degenerate,
    listed,
    status_name,
    verdict,
)
from emppl.comparison.members import spread
from emppl.comparison.mixing import residence
from emppl.labels.draws import Theta, at, sampler_record, shape_of, stacked, theta_draws
from emppl.limits import as_printed
from emppl.planner import Plan
from emppl.structure.symmetry import axes_of

HEIGHT_LIMIT = 1e-3  # nats by which a draw may pass EM: a fit stops with about 1e-6 left
DRAWS_EVALUATED = 200
BEST_EVALUATED = 20  # besides those: the draws that are highest on NUTS's own scale
CELLS_EVALUATED = 2e7  # members × values × draws: large data get fewer draws
ELSEWHERE_LIMIT = 0.05  # of the draws may climb to another mode than EM's
STARTS = 10  # random starts of the atlas, besides the draws
MODES_NAMED = 4
HEIGHTS_NAMED = 12  # more are told by the highest and the lowest


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


def survey(
    fit: Any,
    draws: xr.DataTree,
    found: Heights,
    ascents: int | None = None,
    others: Sequence[Theta] = (),
    told: Callable[[int, int], None] | None = None,
) -> Atlas | None:
    """The modes that EM reaches from thinned draws and from random starts; None where there is nothing to climb with.

    `atlas.known[0]` is the mode of the fit, `atlas.known[1]` that of the highest draw, then those of `others`;
    components are named as in the fit. `ascents`: from how many draws (`affordable` says where None is given), 0 for
    no atlas. told: as `atlas` has it.
    """
    plan = fit.plan
    climbs = isinstance(plan, Plan) and plan.sample is None and plan.method == "em" and plan.structure.parameters
    number = 0 if not climbs else affordable(plan) if ascents is None else ascents
    if number <= 0:
        return None
    theta = theta_draws(draws, plan, fit.point)
    chains, length = shape_of(draws)
    picked = spread(chains * length, number)
    points = {name: values[picked] for name, values in theta.items()}
    starts = min(STARTS, max(number // 6, 2))
    known = [fit.point, found.best, *others]
    return atlas(plan, points, chains=picked // length, known=known, starts=starts, told=told)


def go_on(fit: Any, found: Heights, modes: Atlas | None) -> Any:
    """The fit that goes on from the best draw and from the best mode of the atlas, where one of them is higher.

    None where EM's own point is the highest known, or where the fit that goes on ends no higher.
    """
    if not isinstance(fit.plan, Plan) or fit.plan.method != "em" or fit.plan.sample is not None:
        return None
    starts = [found.best] if found.gap > HEIGHT_LIMIT else []
    if modes is not None and modes.modes and _lead(fit, modes) > HEIGHT_LIMIT:
        starts.append(modes.modes[0].theta)
    if not starts:
        return None
    again = fit_again(fit.plan, start=starts, starts=0, seed=fit.seed, progress=False)
    usable = status_name(again.status) in ("CONVERGED", "MAX_ITER")
    return again if usable and again.log_posterior > fit.log_posterior + HEIGHT_LIMIT else None


def _lead(fit: Any, modes: Atlas) -> float:
    """By how many nats the best mode of the atlas is above the fit."""
    return modes.modes[0].log_posterior - fit.log_posterior


@verdict
def modes(evidence: Evidence) -> Verdict:
    """Is EM's point the highest that is known: higher than all draws, and than all modes found from them?"""
    found, fit = evidence.heights, evidence.fit
    lead = _lead(fit, evidence.atlas) if evidence.atlas is not None and evidence.atlas.modes else -np.inf
    drawn, lead = (as_printed(nats, HEIGHT_LIMIT, 4) for nats in (found.gap, lead))
    gap = max(drawn, lead)
    number = _how_many(evidence)
    where = (
        f"best of {found.evaluated} draws looked at: {abs(found.gap):.2g} nats {'below' if found.gap <= 0 else 'above'}"
    )
    measure = "highest draw or mode found from draws minus EM, in nats"
    if fit.plan.method == "hard":
        text = (
            f"hard EM climbs another objective (every member all in one component), so its point need not be the "
            f"highest by this one ({where})"
        )
        holds = gap <= HEIGHT_LIMIT
        advice = "" if holds else "compare the EM fit as well: emppl.fit(model, start=fit)"
        return Verdict("modes", gap, HEIGHT_LIMIT, holds, text, measure, False, advice)
    if is_degenerate(fit):
        text = f"{number}; the {found.of} grows without bound, so that no height says which point is best"
        return Verdict("modes", np.nan, HEIGHT_LIMIT, False, text, measure, True)
    if gap <= HEIGHT_LIMIT:
        text = f"{number}; NUTS found no higher {found.of} than EM ({where})"
        return Verdict("modes", gap, HEIGHT_LIMIT, True, text, measure, True)
    if drawn > HEIGHT_LIMIT:
        text = f"NUTS found a higher {found.of} than EM ({where}): EM stopped short of the best mode; {number}"
    else:
        from_draws = evidence.atlas is not None and bool((evidence.atlas.reached == 0).any())
        whence = "from NUTS's draws" if from_draws else "from other starts"
        text = f"EM missed a mode that is {lead:.2g} nats higher, found by EM itself {whence}; {number}"
    better = evidence.better
    if better is not None:
        text += (
            f"; EM went on from there to a {found.of} of {better.log_posterior:.2f}, "
            f"{better.log_posterior - fit.log_posterior:.2g} nats above this fit"
        )
        advice = "emppl.compare(comparison.better, draws): comparison.better is the fit that went on"
    else:
        advice = "emppl.fit(model, start=comparison.best_draw, starts=50): go on from the best draw, with more starts"
    return Verdict("modes", gap, HEIGHT_LIMIT, False, text, measure, True, advice)


def _how_many(evidence: Evidence) -> str:
    """How many modes are known, and from where."""
    found = evidence.atlas
    if found is None:
        return _by_starts(evidence.fit.starts)
    number = len(found.modes)
    if not number:
        return f"EM ends in no proper mode from any of {len(found.reached)} draws and {_starts(found)}"
    kinds = "one mode" if number == 1 else f"{number} modes"
    return f"{kinds}{_beyond(evidence)} found from {len(found.reached)} draws and {_starts(found)}"


def _starts(found: Atlas) -> str:
    """Random starts of an atlas that came to an end, and how many did not."""
    without = f" (and {found.starts_lost} that came to no end)" if found.starts_lost else ""
    return f"{found.n_starts} starts{without}"


def _beyond(evidence: Evidence) -> str:
    """How modes are counted, where names may be exchanged."""
    return " up to names" if any(len(axis.exchangeable) < axis.size for axis in axes_of(evidence.fit.plan)) else ""


def _by_starts(starts: pd.DataFrame) -> str:
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
def other_modes(evidence: Evidence) -> Verdict | None:
    """How much of the posterior lies on the hills of other modes than EM's?"""
    found = evidence.atlas
    if found is None or not len(found.reached):
        return None
    n, own = len(found.reached), found.known[0]
    lost = int((found.reached < 0).sum())
    elsewhere = float((found.reached != own).mean())
    if own < 0:  # the fit's own point is no mode: other verdicts say why
        return None
    aside = f"; from {lost} of {n} draws EM ends in no proper mode ({_why(found)})" if lost else ""
    if len(found.modes) == 1:
        if not lost:
            return None
        text = f"all draws that climb to a mode climb to EM's{aside}"
        return _bounded(elsewhere, text)
    objective = "log-likelihood" if evidence.fit.plan.estimate == "ml" else "log posterior"
    shares = np.array([mode.share for mode in found.modes])
    heights = np.array([mode.log_posterior for mode in found.modes])
    idle = [int(i) for i in np.flatnonzero(shares == 0) if i != own]
    unseen = _unseen(found, own, idle)
    if elsewhere == 0:
        text = f"none of {n} draws looked at climbs to {_described(heights, idle, heights[own])}"
        if unseen > ELSEWHERE_LIMIT:
            text += f"; Laplace's approximation gives {unseen:.0%} of the posterior to what the draws have not seen"
        return _bounded(max(elsewhere, unseen), text)
    order = sorted(map(int, np.flatnonzero(shares > 0)), key=lambda i: (i != own, -shares[i]))
    named, rest = order[:MODES_NAMED], order[MODES_NAMED:]
    said = [
        f"{shares[i]:.0%} {'of the draws climb to EM’s' if i == own else 'to one'} at {heights[i]:.2f}" for i in named
    ]
    if not shares[own]:
        said = ["none of the draws climbs to EM's", *said]
    if rest:
        said.append(f"{shares[rest].sum():.0%} to {_described(heights, rest)}")
    if idle:
        said.append(f"none to {_described(heights, idle)}")
    text = (
        f"the {objective} has {len(found.modes)} modes{_beyond(evidence)}: {in_words(said)}{_homes(found, own)}{aside}"
    )
    return _bounded(elsewhere, text)


def _unseen(found: Atlas, own: int, idle: Sequence[int]) -> float:
    """Share of the posterior in modes to which no draw climbs, by Laplace; 0 where it is not known of EM's mode."""
    evidence = np.array([mode.log_evidence for mode in found.modes])
    if not np.isfinite(evidence[own]):
        return 0.0
    share = softmax(np.where(np.isfinite(evidence), evidence, -np.inf))[list(idle)].sum()
    return float(as_printed(float(share), ELSEWHERE_LIMIT, 2))


def _described(heights: np.ndarray, which: Sequence[int], own: float | None = None) -> str:
    """Modes `which` by number and height, and by whether they are below, beside or above one of height `own`."""
    some = heights[list(which)]
    number = "a further mode" if len(some) == 1 else f"{len(some)} further modes"
    listing = in_words([f"{height:.2f}" for height in some])
    if len(some) > HEIGHTS_NAMED:
        listing = f"{some.max():.2f} down to {some.min():.2f}"
    text = f"{number} at {listing}"
    if own is None:
        return text
    below, above = (some < own - HEIGHT_LIMIT).sum(), (some > own + HEIGHT_LIMIT).sum()
    sides = {"lower": below, "as high": len(some) - below - above, "higher": above}
    if len(some) in sides.values():
        return f"{text}, which {'lies' if len(some) == 1 else 'lie'} {max(sides, key=lambda side: sides[side])}"
    return f"{text} ({', '.join(f'{count} {side}' for side, count in sides.items() if count)})"


def _bounded(elsewhere: float, text: str) -> Verdict:
    elsewhere = as_printed(elsewhere, ELSEWHERE_LIMIT, 2)
    holds = elsewhere <= ELSEWHERE_LIMIT
    advice = "" if holds else "an estimate with standard errors describes one hill: read the posterior instead"
    measure = "share of draws from which EM climbs to anything but the fit's mode, or of the posterior that none is in"
    return Verdict("other modes", elsewhere, ELSEWHERE_LIMIT, holds, text, measure, False, advice)


def _why(found: Atlas) -> str:
    words = {
        "DEGENERATE": "a component collapses or a parameter runs off",
        "SPURIOUS": "a component on a handful of observations",
        "SADDLE": "a saddle",
        "MAX_ITER": "still climbing after many steps",
    }
    return listed([words.get(name, name.lower()) for name in found.lost])


def _homes(found: Atlas, own: int) -> str:
    """Which chains stay in which mode, and what their shares are then worth."""
    homes = residence(found)
    chains = np.unique(found.chains)
    away = [str(chain) for chain, home in zip(chains, homes, strict=True) if home not in (-1, own)]
    if not away:
        return ""
    kind = "chain" if len(away) == 1 else "chains"
    verb = "stays" if len(away) == 1 else "stay"
    text = f"; {kind} {listed(away)} {verb} in another mode than EM's"
    if (homes >= 0).all():
        text += ". No chain moves between modes, so these shares say where the chains began, not how probable modes are"
        held = sorted({int(home) for home in homes})
        weights = np.array([found.modes[mode].log_evidence for mode in held])
        if np.isfinite(weights).all() and own in held and len(held) > 1:
            weights = np.exp(weights - weights.max())
            weights /= weights.sum()
            text += f"; Laplace's approximation gives EM's {weights[held.index(own)]:.0%} of what these modes hold"
    return text


@verdict
def components(evidence: Evidence) -> Verdict | None:
    """Are all components of EM's mode in use, and different from each other?"""
    found = evidence.atlas
    symmetric = any(len(axis.exchangeable) < axis.size for axis in axes_of(evidence.fit.plan))
    if found is None or not symmetric or found.known[0] < 0:
        return None
    own = found.modes[found.known[0]]
    spare = len(own.empty) + len(own.coincident)
    measure = "components of EM's mode that are empty, or the same as another"
    if not spare:
        text = "all components of EM's mode hold members and differ"
        return Verdict("components", 0.0, 0.0, True, text, measure, False)
    parts = []
    if own.empty:
        parts.append(f"{listed(own.empty)} hold{'s' if len(own.empty) == 1 else ''} less than half a member")
    if own.coincident:
        pairs = [f"{a} and {b}" for a, b in own.coincident]
        parts.append(f"{listed(pairs)} hold the same members")
    text = f"there are more components than EM's mode uses: {'; '.join(parts)}"
    advice = "fewer components fit the data as well: emppl.fit of the model with one less"
    return Verdict("components", float(spare), 0.0, False, text, measure, False, advice)
