"""Results as JSON documents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emppl import storage
from emppl.console import advice, value_labels
from emppl.errors import InvalidArgumentError
from emppl.plain import plain

MEMBERS_WRITTEN = 100_000  # probabilities in a document; of a larger latent it has the counts alone


def to_json(content: Mapping[str, Any]) -> str:
    """One JSON document, ASCII only; what is not a finite number is null."""
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def records(table: pd.DataFrame, index: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table; `index`: the key under which a row's name goes."""
    return (table if index is None else table.rename_axis(index).reset_index()).to_dict(orient="records")


def plan_document(plan: Any) -> dict[str, Any]:
    """What `emppl explain --json` says of a plan."""
    blocks = [
        {
            "parameters": block.parameters, "rule": block.rule, "cost": block.cost,
            "refused": [{"rule": rule, "reason": reason} for rule, reason in block.refused],
        }
        for block in plan.blocks
    ]  # fmt: skip
    keys = ("latent", "dim", "labels", "variables", "exchangeable")
    return {
        "estimate": plan.estimate, "method": plan.method, "exact": plan.is_exact, "e_step": plan.estep,
        "variables": plan.rows(), "blocks": blocks, "remarks": plan.remarks(),
        "component_axes": [{key: getattr(axis, key) for key in keys} for axis in plan.axes],
    }  # fmt: skip


def fit_document(fit: Any) -> dict[str, Any]:
    """What `emppl fit --json` says of a fit."""
    members = {}
    for node in fit.plan.structure.latents:
        r = fit.responsibilities()[node.name]
        flat = r.values.reshape(-1, r.shape[-1])
        members[node.name] = {
            "values": value_labels(fit.plan, node)[1],
            "expected": flat.sum(axis=0),
            "assigned": np.bincount(flat.argmax(axis=1), minlength=flat.shape[1]),
            "dims": r.dims,
            "probabilities": r.values if r.size <= MEMBERS_WRITTEN else None,
        }
    points = [
        {key: getattr(p, key) for key in ("name", "holds", "value", "limit", "text")} for p in fit.certificate.points
    ]
    return {
        "status": fit.status, "status_text": fit.status.value, "estimate": fit.plan.estimate, "method": fit.plan.method,
        "log_posterior": fit.log_posterior, "log_likelihood": fit.log_likelihood, "log_prior": fit.log_prior,
        "n_iter": fit.n_iter, "n_passes": fit.n_passes, "seconds": fit.seconds, "seed": fit.seed,
        "theta": {name: {"dims": v.dims, "values": v.values} for name, v in fit.theta.data_vars.items()},
        "parameters": records(fit.summary()), "responsibilities": members,
        "certificate": {"holds": fit.certificate.holds, "points": points, "notes": fit.certificate.notes},
        "starts": records(fit.starts), "advice": advice(fit),
    }  # fmt: skip


def verdict_records(verdicts: Iterable[Any]) -> list[dict[str, Any]]:
    """Verdicts of a comparison."""
    keys = ("name", "holds", "check", "value", "bound", "limit", "measure", "text", "advice")
    return [{key: getattr(verdict, key) for key in keys} for verdict in verdicts]


def comparison_document(comparison: Any) -> dict[str, Any]:
    """What `emppl compare --json` says of a comparison: the content of its report, and the fit's document."""
    from emppl.comparison.content import gather

    keys = ("state", "verdict", "symmetric", "r_hat_before", "r_hat_after", "switches")
    return gather(comparison) | {
        "switching": {key: getattr(comparison.switching, key) for key in keys},
        "fit": fit_document(comparison.fit),
    }


def labels_document(report: Any, methods: Iterable[Any]) -> dict[str, Any]:
    """What `emppl labels --json` says of a diagnosis and of methods side by side, one a component axis."""
    keys = (
        "state", "verdict", "caveat", "symmetric", "switches", "ambiguous", "r_hat_before", "r_hat_after",
        "r_hat_invariant", "ess_invariant",
    )  # fmt: skip
    about = (
        "latent", "dim", "labels", "variables", "exchangeable", "sentence", "method", "why", "switches",
        "clear_switches", "chain_labellings", "distance", "weak",
    )  # fmt: skip
    axes = []
    for axis in report.axes:
        numbers, counts = np.unique([] if axis.occupied is None else axis.occupied, return_counts=True)
        occupied = {int(number): int(count) for number, count in zip(numbers, counts)}
        margin = float(np.median(axis.margins))
        axes.append({**{key: getattr(axis, key) for key in about}, "median_margin": margin, "occupied": occupied})
    return {
        **{key: getattr(report, key) for key in keys}, "axes": axes, "parameters": records(report.r_hat, "parameter"),
        "invariants": records(report.invariants, "quantity"),
        "methods": [
            {
                "latent": found.latent, "objective": found.measure, "auto": found.auto.method, "why": found.auto.why,
                "table": records(found.table, "method"), "agreement": found.agreement.to_dict(),
                "not_run": found.skipped,
            }
            for found in methods
        ],
    }  # fmt: skip


def read_tree(path: Path) -> Any:
    """A DataTree from netCDF, all of it in memory. InvalidArgumentError where the file is none, or cannot be read."""
    try:
        return storage.read_tree(path)
    except (OSError, ValueError) as problem:
        raise InvalidArgumentError(
            f"{path} cannot be read as draws: {' '.join(str(problem).split())[:200]}",
            str(path),
            ("draws.to_netcdf(…) of an ArviZ DataTree writes such a file, and so does emppl sample --out",),
        ) from None
