"""What EM and NUTS agree on and what they do not: one function a verdict, each with the number that shows it."""

import numpy as np
import xarray as xr

from emppl.comparison.evidence import (
    AT_LEAST,
    VERDICTS,
    Evidence,
    Heights,
    Verdict,
    free_rows,
    is_degenerate,
    judge,
    listed,
    status_name,
    verdict,
)
from emppl.comparison.members import changes, member_names
from emppl.comparison.table import ESS_LIMIT, R_HAT_LIMIT, SKEW_LIMIT, TAIL_LIMIT
from emppl.labels.diagnose import AMBIGUOUS_SHARE, R_HAT_ALIGNED, LabelState, SwitchingReport
from emppl.labels.draws import posterior_of, sampler_record

__all__ = ["VERDICTS", "Evidence", "Heights", "Verdict", "headline", "judge", "status_name", "verdict"]

COVERAGE_LIMIT = 0.85  # of the posterior inside estimate ± 1.96 standard errors; 0.95 if it were normal
CHANGED_LIMIT = 0.05  # of the members may change their most probable value


@verdict
def labels(evidence: Evidence) -> Verdict:
    """Do the components keep their names, after alignment?"""
    report = evidence.switching
    if report.state is LabelState.NO_SYMMETRY:  # draws were left as they are, so R-hat says nothing about names
        settled = [len(np.unique(axis.chain_labellings, axis=0)) for axis in report.axes if axis.weak]
        count, measure = max(settled, default=1), "different labellings in which chains settled"
        advice = "see the verdicts on convergence and modes: naming differs with the mode here" if count > 1 else ""
        return Verdict("labels", float(count), 1.0, count == 1, report.verdict, measure, False, advice)
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
def place(evidence: Evidence) -> Verdict | None:
    """Does EM's estimate lie where the posterior is?"""
    rows = free_rows(evidence)
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
        f"EM's {listed(far.index)} lie{'s' if len(far) == 1 else ''} in the outer 1% of the posterior: "
        f"{position} of the draws are below {name}"
    )
    advice = "the mode is no good summary of these; use NUTS's mean and interval, and check that both saw the same mode"
    return Verdict("place", float(tail.min()), TAIL_LIMIT, False, text, measure, True, advice, AT_LEAST)


@verdict
def shape(evidence: Evidence) -> Verdict | None:
    """Is the posterior near enough to normal for EM's standard errors to describe it?"""
    rows = free_rows(evidence)
    if rows.empty or is_degenerate(evidence.fit):
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
            f"{listed(border)} {'is' if len(border) == 1 else 'are'} on a border, where no standard error exists"
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
        text += listed([names[i] for i in changed])
    else:
        text += f"none of {len(before)} members changes its most probable value"
    holds = shares[name] <= CHANGED_LIMIT
    advice = "" if holds else "use the posterior averages for these members: EM's ignore the doubt about the parameters"
    measure = f"share of members whose most probable {name} changes"
    return Verdict("members", shares[name], CHANGED_LIMIT, holds, text, measure, False, advice)


@verdict
def convergence(evidence: Evidence) -> Verdict | None:
    """Do the chains agree with each other, after alignment?"""
    r_hat = evidence.table.loc[free_rows(evidence).index, "r_hat"].dropna()
    if r_hat.empty:
        return None
    worst, high = r_hat.idxmax(), r_hat[r_hat > R_HAT_LIMIT].sort_values(ascending=False)
    holds = high.empty
    text = f"chains agree: R-hat at most {r_hat.max():.3f} ({worst})"
    if not holds:
        text = f"chains do not agree yet: R-hat of {listed(high.index)} up to {r_hat.max():.3f}, above {R_HAT_LIMIT}"
        still = _standing(evidence.draws)
        if still:
            one = len(still) == 1
            text += f"; chain{'' if one else 's'} {listed(still)} stand{'s' if one else ''} still"
    advice = (
        ""
        if holds
        else "sample longer (draws=, tune=); the verdicts on labels and modes say whether chains sit in different modes"
    )
    return Verdict("convergence", float(r_hat.max()), R_HAT_LIMIT, holds, text, "largest R-hat", True, advice)


def _standing(draws: xr.DataTree) -> list[int]:
    """Chains in which no parameter moves, of several."""
    posterior = posterior_of(draws)
    moves = np.zeros(posterior.sizes["chain"], dtype=bool)
    for name in posterior.data_vars:
        values = posterior[name].transpose("chain", "draw", ...).values
        moves |= (values != values[:, :1]).reshape(len(values), -1).any(axis=1)
    return [int(chain) for chain in np.flatnonzero(~moves)] if len(moves) > 1 and moves.any() else []


@verdict
def precision(evidence: Evidence) -> Verdict | None:
    """Are there enough effectively independent draws?"""
    ess = evidence.table.loc[free_rows(evidence).index, "ess_bulk"].dropna()
    if ess.empty:
        return None
    holds = bool(ess.min() >= ESS_LIMIT)
    known = f"means are known to {1 / np.sqrt(ess.min()):.2f} posterior sds or better"
    text = f"at least {ess.min():.0f} effective draws ({ess.idxmin()}), so {known} (Monte Carlo error)"
    if not holds:
        text = (
            f"only {ess.min():.0f} effective draws of {ess.idxmin()}, where {ESS_LIMIT} are asked for: its mean is "
            f"known to {1 / np.sqrt(max(ess.min(), 1)):.2f} posterior sds (Monte Carlo error)"
        )
    mixed = evidence.table.loc[ess.index, "r_hat"].max() <= R_HAT_ALIGNED
    advice = f"about {np.ceil(ESS_LIMIT / max(ess.min(), 1)):.0f} times as many draws would do"
    if not mixed:
        advice = "see convergence first: while chains sit apart, more draws alone do not help"
    advice = "" if holds else advice
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
    how = "EM's result is not of this model" if status_name(fit.status) == "DISAGREES" else "EM did not converge"
    text = f"EM converged in {fit.n_iter} iterations" if holds else f"{how}: {fit.status.value}"
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


def headline(verdicts: tuple[Verdict, ...], switching: SwitchingReport) -> str:
    """The answer in one or two sentences, before all numbers."""
    failed = {v.name for v in verdicts if v.check and not v.holds}
    differing = {v.name for v in verdicts if not v.check and not v.holds}
    if failed & {"fit", "certificate"}:
        start = "EM's result cannot be relied on"
    elif "modes" in failed:
        start = "EM missed a better mode"
    elif failed & {"labels", "convergence", "precision"} == {"labels"} and switching.state is LabelState.OVERLAPPING:
        start = "The components overlap so far that only what does not depend on their names can be compared"
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
        "other modes": "the posterior has other modes, which one estimate does not describe",
        "shape": "the posterior is not normal, so take intervals from NUTS",
        "members": "some members are less certain than EM says",
    }
    more = [sentence for name, sentence in ends.items() if name in differing]
    if not failed and more:
        return f"{start}; {', and '.join(more)}."
    return f"{start}."
