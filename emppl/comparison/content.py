"""What a report says, gathered once as a plain record: the page, the markdown and the JSON are renderings of it."""

import importlib.metadata
import platform
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from emppl.comparison.evidence import status_name, unnameable
from emppl.comparison.members import changes, member_names
from emppl.comparison.table import INTERVAL

MEMBERS_SHOWN = 20
R_HAT_ROWS = 12
MODES_SHOWN = 12
PACKAGES = ("emppl", "pymc", "pytensor", "nutpie", "arviz", "xarray", "numpy", "scipy")
FURTHER = ("quantile", "skewness", "coverage", "mcse")  # columns of the second table


def gather(comparison: Any, title: str | None = None, command: str | None = None) -> dict[str, Any]:
    """The content of a report: names, texts and unrounded numbers only.

    Keys: title, model_line, estimate, objective, hdi, reliable, converged (whether the draws of all chains are one
    sample: else nothing is here that compares EM with all of them), headline, verdicts, cost, timing, table, left_out,
    estimates (of several fits), laplace, priors, labels, ascent, modes (the atlas), points (that it climbed from),
    members, prediction, plan, certificate, reproduce. None where there is nothing to tell: labels without a symmetry,
    estimates of a single fit, and what a comparison leaves out.
    """
    fit, plan, converged = comparison.fit, comparison.fit.plan, comparison.mixing.holds
    return {
        "title": title or plan.structure.name,
        "model_line": model_line(plan),
        "estimate": plan.estimate,
        "objective": "log-likelihood" if plan.estimate == "ml" else "log posterior",
        "hdi": INTERVAL,
        "reliable": comparison.reliable,
        "converged": converged,
        "headline": comparison.headline,
        "verdicts": [asdict(verdict) | {"state": verdict_state(verdict)} for verdict in comparison.verdicts],
        "cost": comparison.cost,
        "timing": dict(comparison.timing),
        "table": table(comparison),
        "left_out": list(comparison.left_out),
        "estimates": records(comparison.estimates),
        "laplace": records(comparison.laplace if converged else alone(comparison.laplace)),
        "priors": records(comparison.priors) if converged else None,
        "labels": labels(comparison.switching),
        "ascent": ascent(fit),
        "modes": None if comparison.atlas is None else modes(comparison.atlas),
        "points": 0 if comparison.atlas is None else len(comparison.atlas.reached),
        "members": [member(comparison, latent) for latent in comparison.members],
        "prediction": prediction(comparison.prediction, converged),
        "plan": plan_section(comparison),
        "certificate": {
            "holds": bool(fit.certificate.holds),
            "points": [
                {key: getattr(point, key) for key in ("name", "holds", "value", "limit", "text")}
                for point in fit.certificate.points
            ],
            "notes": list(getattr(fit.certificate, "notes", ())),
        },
        "reproduce": reproduce(comparison, command),
    }


def verdict_state(verdict: Any) -> str:
    """ "holds", "fails" for a check that does, "differs" where mode and posterior do."""
    return "holds" if verdict.holds else "fails" if verdict.check else "differs"


def model_line(plan: Any) -> str:
    """The model in one line: its data, its hidden variables, its parameters."""
    structure = plan.structure

    def shape(node: Any) -> str:
        return f" [{', '.join(f'{dim} {size}' for dim, size in zip(node.dims, node.shape, strict=True))}]" * bool(
            node.dims
        )

    def part(title: str, nodes: Any) -> str:
        return f"{title} {', '.join(node.name + shape(node) for node in nodes) or 'none'}"

    parts = [
        part("observed", structure.observed),
        part("hidden", structure.latents),
        part("parameters", structure.parameters),
    ]
    how = "summed out exactly" if plan.is_exact else "hidden variables approximated"
    return " · ".join([*parts, *([how] if structure.latents else [])])


def table(comparison: Any) -> list[dict[str, Any]]:
    """Rows of the comparison table and of its details, a record each."""
    details = comparison.details[[name for name in (*FURTHER, "derived") if name in comparison.details]]
    joined = comparison.table.join(details).rename_axis("parameter").reset_index()
    return joined.to_dict(orient="records")


def labels(report: Any) -> dict[str, Any] | None:
    """What was found about labels, R-hat before and after alignment; None for a model without symmetry."""
    if not report.axes:
        return None
    axis = report.axes[0]
    r_hat = report.r_hat.sort_values("r_hat_before", ascending=False, kind="stable")
    return {
        "verdict": report.verdict,
        "state": report.state,
        "noun": axis.noun,
        "weak": bool(axis.weak),
        "aligned": any(not axis.weak for axis in report.axes),
        "variables": list(axis.variables),
        "groups": [[axis.labels[k] for k in group] for group in axis.exchangeable],
        "switches": [int(count) for count in report.switches],
        "ambiguous": float(report.ambiguous),
        "r_hat": r_hat.drop(columns="variable").rename_axis("parameter").reset_index().to_dict(orient="records"),
    }


def ascent(fit: Any) -> dict[str, Any]:
    """How the starts ended: the modes that they found, best first, and those that did not converge."""
    return {
        "status": fit.status.value,
        "log_likelihood": float(fit.log_likelihood),
        "log_prior": float(fit.log_prior),
        "log_posterior": float(fit.log_posterior),
        "starts": len(fit.starts),
        "iterations": int(fit.n_iter),
        "ends": ends(fit.starts),
        "unfinished": unfinished(fit.starts),
    }


def modes(atlas: Any) -> list[dict[str, Any]]:
    """The modes of the atlas, best first; `known`: whether it is the reported fit's."""
    keys = ("log_posterior", "log_likelihood", "share", "starts", "labellings", "coincident", "empty", "border")
    best = max((mode.log_posterior for mode in atlas.modes), default=0.0)
    return [
        {
            "mode": i + 1, "reported": i == atlas.known[0] if atlas.known else False,
            "below": best - mode.log_posterior, "by_chain": mode.draws,
            **{key: getattr(mode, key) for key in (*keys, "definite", "log_evidence")},
        }
        for i, mode in enumerate(atlas.modes)
    ]  # fmt: skip


def prediction(found: Any, converged: bool) -> dict[str, Any] | None:
    """Leave-one-out prediction, and stacking weights of chains that do not mix; no score of draws not converged."""
    if found is None:
        return None
    score = {key: getattr(found, key) if converged else None for key in ("elpd", "error", "effective", "unreliable")}
    return score | {"rows": found.rows, "total": found.total, "groups": found.groups.to_dict(orient="records")}


def alone(laplace: pd.DataFrame | None) -> pd.DataFrame | None:
    """The normal approximation by itself: what sets it beside the draws is left empty."""
    return None if laplace is None else laplace.assign(distance=np.nan, ks=np.nan, coverage=np.nan, shift=np.nan)


def records(table: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    """Rows of a table that has a row for each number of the model."""
    if table is None:
        return None
    return table.drop(columns="variable", errors="ignore").rename_axis("parameter").reset_index().to_dict("records")


def ends(starts: pd.DataFrame) -> list[dict[str, Any]]:
    """Modes that starts ended in, best first: height, nats below the best, how many starts found each."""
    finished = starts[[status_name(status) == "CONVERGED" for status in starts["status"]]]
    if finished.empty:
        return []
    groups = finished.groupby("mode")["log_posterior"].agg(["max", "size"]).sort_values("max", ascending=False)
    best = groups["max"].iloc[0]
    return [
        {"mode": i + 1, "height": float(row["max"]), "below": float(best - row["max"]), "starts": int(row["size"])}
        for i, (_, row) in enumerate(groups.iterrows())
    ]


def unfinished(starts: pd.DataFrame) -> list[dict[str, Any]]:
    """Starts that did not converge, by status and reason, with their number."""
    names = pd.Series([status_name(status) for status in starts["status"]], index=starts.index)
    rest = starts[names != "CONVERGED"].assign(status=names[names != "CONVERGED"])
    counts = rest.groupby(["status", "reason"], dropna=False).size()
    return [
        {"status": str(status), "reason": "" if pd.isna(reason) else str(reason), "starts": int(count)}
        for (status, reason), count in counts.items()
    ]


def member(comparison: Any, latent: str) -> dict[str, Any]:
    """Responsibilities of one latent: how far EM's and the posterior's are apart, and the members that change."""
    found, comparable = comparison.members[latent], latent not in unnameable(comparison.switching)
    before, after, largest = changes(found)
    names, changed = member_names(found), np.flatnonzero(before != after)
    if not (comparable and comparison.mixing.holds):
        why = "the draws have not converged" if comparable else "which component is which cannot be told in the draws"
        return {
            "latent": latent, "members": len(names), "mean_difference": None, "largest_difference": None,
            "largest_at": None, "changed": [],
            "summary": f"EM's probabilities of {latent} are not compared with the posterior's, since {why}.",
        }  # fmt: skip
    values = [str(value) for value in found[found["em"].dims[-1]].values]
    em = found["em"].values.reshape(-1, len(values))
    posterior = found["posterior"].values.reshape(em.shape)
    order = changed[np.argsort(-largest[changed], kind="stable")]
    mean, most, where = float(np.abs(em - posterior).mean()), float(largest.max()), names[int(largest.argmax())]
    return {
        "latent": latent,
        "members": len(names),
        "mean_difference": mean,
        "largest_difference": most,
        "largest_at": where,
        "summary": f"EM's and the posterior's probabilities of {latent} differ by {mean:.3f} on average and "
        f"{most:.3f} at most ({where}); {len(changed)} of {len(names)} members change.",
        "changed": [
            {
                "member": names[i], "em": values[before[i]], "em_probability": float(em[i, before[i]]),
                "posterior": values[after[i]], "posterior_probability": float(posterior[i, after[i]]),
            }
            for i in order
        ],
    }  # fmt: skip


def plan_section(comparison: Any) -> dict[str, Any]:
    """What was done to the model and why: in sentences, block by block, and as the plan prints itself."""
    plan = comparison.fit.plan
    return {
        "steps": steps(comparison),
        "blocks": [
            {
                "parameters": list(block.parameters), "rule": block.rule, "meaning": block.update.meaning,
                "refused": [{"rule": rule, "reason": reason} for rule, reason in block.refused], "cost": block.cost,
            }
            for block in plan.blocks
        ],
        "text": str(plan),
    }  # fmt: skip


def steps(comparison: Any) -> list[str]:
    """The whole computation in a few sentences, in the order in which it was done."""
    plan, report = comparison.fit.plan, comparison.switching
    names = ", ".join(node.name for node in plan.structure.latents)
    hard = getattr(plan, "method", "em") == "hard"
    found = []
    if names and hard:
        found.append(
            f"In each iteration every member was given the most probable value of {names} and held to it, as k-means "
            "does: quicker than EM, and biased, since it does not say how sure it is."
        )
    elif names:
        found.append(
            f"The hidden {names} {'were' if ', ' in names else 'was'} summed out: in each iteration every possible "
            f"value was weighed by its probability given the data ({plan.estep})."
        )
    else:
        found.append("The model has no hidden variables, so there was nothing to sum out.")
    if plan.estimate == "ml":
        found.append(
            "EM sought the highest log-likelihood: priors were dropped. NUTS kept them, so that the two answer "
            "different questions where priors matter."
        )
    else:
        found.append(
            "EM sought the highest log posterior, that is log-likelihood plus log prior, on the parameters' own scale "
            "with no Jacobian: on another scale (log of an sd, say) the highest point may be another."
        )
    found.append(
        f"It did so from {len(comparison.fit.starts)} starts, since an ascent may end on a lower hill, and the best "
        "end is reported. Standard errors come from how sharply the objective bends there."
    )
    found.append(
        "NUTS drew parameters from the posterior of the same model"
        + (f", {names} summed out there too." if names else ".")
    )
    if any(not axis.weak for axis in report.axes):
        found.append("Then every draw was given the names of the EM fit, and only then were the two compared.")
    return found


def reproduce(comparison: Any, command: str | None) -> dict[str, Any]:
    """Versions, seeds, the code and the command that make the report again, and the model's source."""
    fit, attrs, report = comparison.fit, comparison.draws.attrs, comparison.switching
    seed = str(attrs.get("seed", "None"))
    seeds = {"em": fit.seed, "nuts": int(seed) if seed.isdecimal() else None}
    drawn = {"draws": report.draws, "chains": report.chains, "seed": seeds["nuts"]}
    if "tune" in attrs:
        drawn |= {"tune": int(attrs["tune"])}
    if attrs.get("init") == "modes":
        drawn |= {"init": "modes"}
    name, *further = comparison.fits or {"EM": fit}
    others = {other: f"fit_{i}" for i, other in enumerate(further, start=2)}
    compared = "{" + ", ".join(f"{key!r}: {value}" for key, value in {name: "fit", **others}.items()) + "}"
    code = [
        "import emppl",
        "",
        f"fit = emppl.fit(model, {_arguments(_fitted(fit))})",
        *(f"{value} = emppl.fit(model, {_arguments(_fitted(comparison.fits[key]))})" for key, value in others.items()),
        f"draws = emppl.sample(model, fit=fit, {_arguments(drawn)})",
        f'emppl.compare({compared if others else "fit"}, draws).to_html("report.html")',
    ]
    return {
        "command": command,
        "code": "\n".join(code),
        "sampler": str(attrs.get("sampler", "not recorded")),
        "chains": int(report.chains),
        "draws": int(report.draws),
        "seeds": seeds,
        "versions": dict(versions()),
        "source": getattr(fit.plan.structure, "source", None),
    }


def _fitted(fit: Any) -> dict[str, Any]:
    """The arguments of `emppl.fit` that made a fit."""
    options = {"starts": len(fit.starts), "seed": fit.seed}
    if fit.plan.estimate != "map":
        options["estimate"] = fit.plan.estimate
    if getattr(fit.plan, "method", "em") != "em":
        options["method"] = fit.plan.method
    return options


def _arguments(options: dict[str, Any]) -> str:
    plain = {key: value.item() if hasattr(value, "item") else value for key, value in options.items()}
    return ", ".join(f"{key}={value!r}" for key, value in plain.items())


def versions() -> list[tuple[str, str]]:
    """Versions of what computed the report."""
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue  # nutpie may be absent; emppl itself is when run from a checkout
    return found
