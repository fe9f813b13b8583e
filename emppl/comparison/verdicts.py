"""What EM and NUTS agree on and what they do not: one function a verdict, each with the number that shows it."""

import numpy as np
import pandas as pd

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
    pooled,
    status_name,
    unnameable,
    verdict,
)
from emppl.comparison.members import changes, member_names
from emppl.comparison.table import ESS_LIMIT, R_HAT_LIMIT, SKEW_LIMIT, TAIL_LIMIT
from emppl.labels.diagnose import LabelState, SwitchingReport
from emppl.labels.draws import sampler_record
from emppl.labels.switching import AMBIGUOUS_SHARE, BLURRED, R_HAT_ALIGNED
from emppl.limits import as_printed

__all__ = ["VERDICTS", "Evidence", "Heights", "Verdict", "headline", "judge", "status_name", "verdict"]

COVERAGE_LIMIT = 0.85  # of the posterior inside EM's 95 % interval
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
    limit, bound, measure = R_HAT_ALIGNED, "at most", "largest R-hat after alignment"
    r_hat = report.r_hat_after
    if not report.state.cured:
        r_hat, measure = np.fmax(r_hat, report.r_hat_invariant), f"{measure} or of what no renaming changes"
    value = as_printed(float(r_hat), R_HAT_ALIGNED, 3)
    if report.state is LabelState.OVERLAPPING:  # the number that shows it, of the three that may
        share = as_printed(report.ambiguous, AMBIGUOUS_SHARE, 2)
        if share > AMBIGUOUS_SHARE:
            value, limit, measure = share, AMBIGUOUS_SHARE, "share of draws that could be labelled either way"
        elif report.least_distance < BLURRED:
            value, limit, bound = report.least_distance, BLURRED, AT_LEAST
            measure = "distance of the members of two components, least over aligned draws"
    advice = {
        LabelState.OVERLAPPING: "read results that do not depend on names (overall mean, density, who is with whom), "
        "or fit fewer components",
        LabelState.DIFFERENT_MODES: "see the verdict on convergence",
    }.get(report.state, "")
    return Verdict("labels", value, limit, report.state.cured, report.verdict, measure, True, advice, bound)


@verdict
@pooled
def place(evidence: Evidence) -> Verdict | None:
    """Does EM's estimate lie where the posterior is?"""
    rows = free_rows(evidence)
    border = rows[evidence.table.loc[rows.index, "standard_error"].isna()]
    rows = rows.drop(border.index)
    if rows.empty:
        return None
    tail = np.minimum(rows["quantile"], 1 - rows["quantile"])
    tail = pd.Series(as_printed(tail, TAIL_LIMIT, 3), tail.index)
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
@pooled
def shape(evidence: Evidence) -> Verdict | None:
    """Is the posterior near enough to normal for EM's standard errors to describe it?"""
    rows = free_rows(evidence)
    if rows.empty or is_degenerate(evidence.fit):
        return None
    border = rows.index[evidence.table.loc[rows.index, "standard_error"].isna()]
    known = rows.drop(border)
    parts, measure = [], "posterior share inside EM's 95% interval, least over parameters"
    least, skewed = np.nan, False
    if len(known):
        worst = known["coverage"].idxmin()
        least = as_printed(known.loc[worst, "coverage"], COVERAGE_LIMIT, 2)
        bend = known.loc[worst, "skewness"]
        skewed = as_printed(abs(bend), SKEW_LIMIT, 2) > SKEW_LIMIT
        kind = f"{worst} is skewed ({bend:.2f}): " if skewed else f"furthest from normal is {worst}: "
        parts.append(f"{kind}EM's 95% interval covers {least:.0%} of its posterior")
    if len(border):
        parts.append(
            f"{listed(border)} {'is' if len(border) == 1 else 'are'} on a border or at a corner of the density, "
            "where no standard error exists"
        )
    holds = not len(border) and bool(least >= COVERAGE_LIMIT)
    advice = "" if holds else "take the intervals of these parameters from NUTS, not from the standard errors"
    return Verdict("shape", float(least), COVERAGE_LIMIT, holds, "; ".join(parts), measure, False, advice, AT_LEAST)


@verdict
@pooled
def assignments(evidence: Evidence) -> Verdict | None:
    """Do members keep their most probable value when parameters are uncertain?"""
    arbitrary, shares = unnameable(evidence.switching), {}
    for name, table in evidence.members.items():
        if name not in arbitrary and table["em"].shape[-1] > 1:
            before, after, _ = changes(table)
            shares[name] = as_printed(float((before != after).mean()), CHANGED_LIMIT, 4)
    if not shares:
        return None
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
    """Do the chains agree with each other, after alignment, so that their draws may be read as one sample?"""
    found, chains = evidence.mixing, evidence.switching.chains
    measure = "largest R-hat"
    r_hat = found.r_hat.dropna()
    largest = float(r_hat.max()) if len(r_hat) else np.nan
    if found.holds:
        if r_hat.empty:
            return None
        who = "chains agree" if chains > 1 else "the two halves of the one chain agree"
        text = f"{who}: R-hat at most {largest:.3f} ({r_hat.idxmax()})"
        if evidence.draws.attrs.get("init") == "modes":
            text += "; they started at the modes that EM found, so that R-hat sees less: not a mode that EM missed"
        return Verdict("convergence", largest, R_HAT_LIMIT, True, text, measure, True)
    value, limit = largest, R_HAT_LIMIT
    if not largest > R_HAT_LIMIT:
        value, limit, measure = float(len(found.reasons)), 0.0, "signs that the draws have not converged"
    text = (
        f"the draws have not converged, so that they bear no comparison with EM: {'; '.join(found.reasons)}; nothing "
        "is said that would rest on all draws together"
    )
    advice = "sample longer (draws=, tune=)"
    if found.apart and chains > 1:
        advice = (
            "read each chain by itself, emppl.compare(fit, draws.isel(chain=[0])), or sample longer (tune=, draws=)"
        )
    elif not largest <= R_HAT_ALIGNED:
        advice += "; if that does not help, look at the model: a flat direction, scales far apart"
    if evidence.draws.attrs.get("init") != "modes" and (found.apart or largest > R_HAT_ALIGNED):
        advice += "; emppl.sample(fit, init='modes') starts chains at the modes that EM finds"
    return Verdict("convergence", value, limit, False, text, measure, True, advice)


@verdict
def precision(evidence: Evidence) -> Verdict | None:
    """Are there enough effectively independent draws?"""
    ess = evidence.mixing.ess.dropna()
    if ess.empty:
        return None
    least, name = float(ess.min()), ess.idxmin()
    holds = least >= ESS_LIMIT
    measure = "smallest effective sample size"
    if holds:
        text = (
            f"at least {least:.0f} effective draws ({name}), so means are known to {1 / np.sqrt(least):.2f} posterior "
            "sds or better (Monte Carlo error)"
        )
        return Verdict("precision", least, ESS_LIMIT, True, text, measure, True, "", AT_LEAST)
    text = f"only {least:.0f} effective draws of {name}, where {ESS_LIMIT} are asked for"
    advice = f"about {np.ceil(ESS_LIMIT / max(least, 1)):.0f} times as many draws would do"
    if evidence.mixing.holds:
        text += f": its mean is known to {1 / np.sqrt(max(least, 1)):.2f} posterior sds (Monte Carlo error)"
    elif evidence.mixing.r_hat.max() > R_HAT_ALIGNED:
        advice = "see convergence first: while chains sit apart, more draws alone do not help"
    return Verdict("precision", least, ESS_LIMIT, False, text, measure, True, advice, AT_LEAST)


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
    elif "convergence" in failed:
        start = "The draws of NUTS cannot be relied on yet: they have not converged, so nothing is compared"
    elif failed & {"labels", "precision"}:
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
