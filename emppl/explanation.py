"""What a plan says of itself: the E-step in words, a row a variable, refusals, symmetry and cost."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from emppl.kernels.threads import threads
from emppl.structure.symmetry import unnamed
from emppl.structure.variables import is_masked_part
from emppl.text import visible


def estep(plan: Any) -> str:
    """The E-step in words."""
    if not plan.structure.plates:
        return "none: the model has no latent variable"
    kinds = {f.engine for f in plan.factors if f.plates}
    text = (
        "natural form"
        if kinds == {"natural form"}
        else "graph enumeration"
        if kinds == {"graph"}
        else "natural form and graph enumeration"
    )
    return f"{text}, {plan.engine.sentence}"


def rows(plan: Any) -> list[dict[str, str]]:
    """One row a variable: name, role, dims, prior or support, how it is treated."""
    table = []
    block_of = {name: block for block in plan.blocks for name in block.parameters}
    for node in plan.structure.parameters:
        block = block_of.get(node.name)
        how = f"{block.rule}" if block else "not needed"
        if block and len(block.parameters) > 1:
            how += f", together with {', '.join(n for n in block.parameters if n != node.name)}"
        prior = node.distribution if plan.estimate == "map" else f"{node.distribution}, dropped"
        table.append(
            {"name": node.name, "role": "parameter", "dims": _dims(node), "prior / support": prior, "how": how}
        )
    for name, value in plan.frozen.items():
        table.append(
            {
                "name": name,
                "role": "frozen",
                "dims": "",
                "prior / support": f"{np.asarray(value)}",
                "how": "kept at its value",
            }
        )
    for node in plan.structure.latents:
        labels = plan.value_labels(node.name)
        values = ", ".join(labels[:6]) + (", …" if len(labels) > 6 else "")
        table.append(
            {
                "name": node.name, "role": "latent (implicit)" if node.implicit else "latent", "dims": _dims(node),
                "prior / support": f"{{{values}}}", "how": plan.engine.how(node),
            }
        )  # fmt: skip
    plans = {f.factor.name: f for f in plan.factors}
    for node in plan.structure.observed:
        entry = plans[node.name]
        text = entry.engine
        if entry.form is not None:
            text += f", {entry.form.features.shape[1]} statistics, free of N after one pass"
        table.append(
            {
                "name": node.name,
                "role": "observed",
                "dims": _dims(node),
                "prior / support": node.distribution,
                "how": text,
            }
        )
    return table


def text(plan: Any) -> str:
    """`print(plan)`."""
    s = plan.structure
    n = sum(node.shape[0] if node.shape else 1 for node in s.observed[:1])
    n = plan.engine.sizes[0] if plan.sample is not None else n
    head = (
        f"{s.name} · {n:,} observations · {len(s.latents)} latent{'' if len(s.latents) == 1 else 's'} · "
        f"{len(plan.blocks)} parameter block{'' if len(plan.blocks) == 1 else 's'} · "
        f"estimate {plan.estimate} · {'exact' if plan.is_exact else 'approximate'}"
    )
    table = rows(plan)
    keys = ("name", "role", "dims", "prior / support", "how")
    widths = {k: max(len(k), *(len(r[k]) for r in table)) for k in keys}
    lines = [head, "", "  " + "  ".join(k.ljust(widths[k]) for k in keys).rstrip()]
    lines += ["  " + "  ".join(r[k].ljust(widths[k]) for k in keys).rstrip() for r in table]
    lines += ["", *(f"  {line}" for line in remarks(plan))]
    return visible("\n".join(lines))


def missing(structure: Any) -> list[str]:
    """What becomes of missing data, which PyMC makes variables of, a line each."""
    lines, model = [], structure.model
    parameters = {node.name for node in structure.parameters}
    for rv in model.free_RVs:
        if not is_masked_part(model, rv):
            continue
        name = rv.name.removesuffix("_unobserved")
        shape = rv.type.shape  # a length is not known before the model runs where data may be set anew
        number = "" if None in shape else f"{np.prod(shape):,} "
        what = f"{name}: {number}{'value is' if shape == (1,) else 'values are'} missing, imputed by PyMC as {rv.name}"
        if rv.name in structure.dropped:
            lines.append(f"{what}: left out, as nothing else depends on what was there (its density integrates to one)")
        elif rv.name in parameters:
            lines.append(f"{what}: estimated with the parameters, not integrated out; otherwise leave these rows out")
        else:
            lines.append(f"{what}: summed out")
    return lines


def remarks(plan: Any) -> list[str]:
    """E-step, refusals and symmetry, a line each."""
    lines = [f"E-step: {estep(plan)}"]
    if plan.sample is not None:
        sizes = ", ".join(f"{plate.size:,}" for plate in plan.structure.plates)
        lines.append(f"rows are streamed, block by block; lengths above are those of a sample of {sizes}")
    for entry in plan.factors:
        if entry.reason and entry.form is not None:
            lines.append(
                f"{entry.factor.name}: natural form of a family refused: {entry.reason} "
                f"→ natural form over its {entry.form.features.shape[1]} distinct rows"
            )
        elif entry.reason:
            lines.append(f"{entry.factor.name}: natural form refused: {entry.reason} → {entry.engine}")
    for block in plan.blocks:
        for rule, reason in block.refused:
            lines.append(f"{', '.join(block.parameters)}: {rule} refused: {reason} → {block.rule}, {block.cost}")
    lines += missing(plan.structure)
    if not plan.structure.latents:
        lines.append("no latent variable: this is plain maximum a posteriori estimation, and EM has nothing to sum out")
    for node in plan.structure.latents:
        if node.window:
            lines.append(
                f"{node.name} has no upper end: summed up to {int(node.support[-1])} at first; what lies beyond is "
                "measured at the mode, and more is summed where that matters"
            )
    for axis in plan.axes:
        lines.append(axis.sentence())
    for family in unnamed(plan.structure, plan.axes):
        names = ", ".join(node.name for node in family)
        lines.append(f"labels of {names}: not exchanged by permuting parameters; the fit looks further")
    lines.append(f"cost of one iteration: {plan.engine.numbers:,} densities → {_code(plan)}")
    return lines


def html(plan: Any) -> str:
    """The same as a table and a list, for notebooks."""
    table = rows(plan)
    head = "".join(f"<th>{escape(k)}</th>" for k in table[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(visible(v))}</td>" for v in row.values()) + "</tr>" for row in table)
    notes = "".join(f"<li>{escape(visible(line))}</li>" for line in remarks(plan))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{notes}</ul>"


def _code(plan: Any) -> str:
    if plan.engine.is_compiled:
        return f"numba, {threads()} thread{'s' if threads() > 1 else ''}"
    return "numpy, no compiler"


def _dims(node: Any) -> str:
    return ", ".join(f"{d} ({n})" for d, n in zip(node.dims, node.shape))
