"""The report: a Comparison as one HTML page with its pictures inside, in the order of questions a reader asks."""

import base64
import importlib.metadata
import io
import os
import platform
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from emppl import plots
from emppl.comparison.members import changes, member_names
from emppl.comparison.table import HDI
from emppl.comparison.verdicts import status_name

ROWS_SHOWN = 40  # of the table, at once
ROWS_FOLDED = 400  # more, behind a click; the rest is counted
MEMBERS_SHOWN = 20
R_HAT_ROWS = 12
MODES_SHOWN = 12
SVG_LIMIT = 300_000  # bytes; a denser picture is stored as pixels
PACKAGES = ("emppl", "pymc", "pytensor", "nutpie", "arviz", "xarray", "numpy", "scipy")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

# key: (what a reader meets in the text, one line of explanation)
TERMS = {
    "em": ("EM", "expectation–maximisation: climbs to the parameters under which the data are most probable, "
           "averaging over the hidden variables at every step"),
    "nuts": ("NUTS", "a sampler that draws parameters in proportion to how probable they are given the data"),
    "posterior": ("posterior", "how probable each value of the parameters is, given the data and the priors"),
    "log-posterior": ("log posterior", "log-likelihood plus log prior; EM's estimate is where it is highest (on the "
                      "parameters' own scale, no Jacobian added)"),
    "se": ("standard error", "how far the estimate would move with other data of the same kind, judged from how "
           "sharply the objective bends at its top; written se"),
    "hdi": ("HDI", f"highest-density interval: the shortest interval that holds {HDI:.0%} of the posterior"),
    "sd": ("sd", "standard deviation: the usual distance from the mean"),
    "r-hat": ("R-hat", "compares chains with each other: 1 when they agree; above 1.01 they do not yet"),
    "ess": ("effective draws", "how many independent draws the correlated ones are worth (ESS)"),
    "alignment": ("alignment", "giving every draw the component names of the EM fit, since a mixture does not care "
                  "which component is called which"),
    "responsibilities": ("responsibilities", "the probabilities that a member belongs to each of the components"),
    "mode": ("mode", "a top of the posterior; several tops that differ only in names count as one"),
    "nats": ("nats", "the unit of natural logarithms: one nat higher is 2.7 times as probable"),
    "skewed": ("skewed", "leaning to one side, so that an interval of equal arms misses on the other"),
    "divergences": ("divergences", "places where NUTS's steps went astray: the region there may be under-sampled"),
    "certificate": ("certificate", "checks that every fit carries: that the derived formulas are the model's, and "
                    "that the point found is a top"),
}  # fmt: skip


def write_page(comparison: Any, path: Path, title: str | None = None, command: str | None = None) -> Path:
    """Render and write aside, then rename: a reader never meets half a page."""
    html = render(comparison, title, command)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(html)
        Path(aside).chmod(0o644)  # mkstemp's files are for their owner alone
        Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)
    return path


def render(comparison: Any, title: str | None = None, command: str | None = None) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("emppl.comparison", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"terms": link_terms, "number": number, "height": height, "picture": picture, "short": short}
    return environment.get_template("report.html.jinja").render(
        c=comparison,
        fit=comparison.fit,
        title=title or comparison.fit.plan.structure.name,
        model=model_line(comparison.fit.plan),
        objective="log-likelihood" if comparison.fit.plan.estimate == "ml" else "log posterior",
        table=table_rows(comparison),
        marginals=marginal_pictures(comparison),
        forest=described(plots.forest, comparison, alt=forest_alt(comparison)),
        labels=labels_section(comparison),
        ascent=described(plots.ascent, comparison.fit, alt=ascent_alt(comparison.fit)),
        modes=modes_table(comparison.fit.starts),
        unfinished=unfinished_starts(comparison.fit.starts),
        members=[member_section(comparison, name) for name in comparison.members],
        data=data_picture(comparison),
        blocks=comparison.fit.plan.blocks,
        plan=str(comparison.fit.plan),
        versions=versions(),
        command=command,
        source=getattr(comparison.fit.plan.structure, "source", None),
        terms=TERMS,
        hdi=f"{HDI:.0%}",
    )


def described(draw: Any, *arguments: Any, alt: str) -> tuple[Figure, str]:
    """A picture and its alternative text."""
    return draw(*arguments), alt


def picture(drawn: tuple[Figure, str]) -> Markup:
    """An <img> that carries its picture: SVG, or PNG where the SVG would be large."""
    figure, alt = drawn
    buffer = io.BytesIO()
    # a fixed salt and no date: the same comparison gives the same page
    with matplotlib.rc_context({"svg.hashsalt": "emppl"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    kind, content = "svg+xml", buffer.getvalue()
    if len(content) > SVG_LIMIT:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=170)
        kind, content = "png", buffer.getvalue()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    encoded = base64.b64encode(content).decode("ascii")
    return Markup('<img src="data:image/{};base64,{}" width="{}" height="{}" alt="{}">').format(
        kind, encoded, width, height, alt
    )


def height(value: float) -> str:
    """A log density: four decimals, whatever its size, since differences of a nat matter."""
    return f"{value:,.4f}".replace(",", "\u202f").replace("-", "−")


def fixed(value: float) -> str:
    """Two decimals: differences in posterior sds need no more."""
    return "–" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def link_terms(text: str) -> Markup:
    """Text with the first mention of each term linked to its line of explanation."""
    html = str(escape(text))
    for key, (word, _) in sorted(TERMS.items(), key=lambda item: -len(item[1][0])):
        pattern = rf"(?<![\w>#-])({re.escape(word)})(?![\w-])(?![^<]*</a>)"
        html = re.sub(pattern, rf'<a class="term" href="#term-{key}">\1</a>', html, count=1)
    return Markup(html)


def number(value: float, digits: int = 3) -> str:
    """A number to read: some decimals, powers of ten for the very small and large, an en dash where there is none."""
    value = float(value)
    if np.isnan(value):
        return "–"
    size = abs(value)
    if np.isfinite(value) and (0 < size < 5 * 10.0 ** (-1 - digits) or size >= 1e7):
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    else:
        text = f"{value:,.{digits}f}" if size < 1000 else f"{value:,.{min(digits, 1)}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def short(value: float) -> str:
    """A number with no more digits than it needs: 400, 1.05, 0.001."""
    return "–" if np.isnan(value) else f"{value:.4g}".replace("-", "−")


def model_line(plan: Any) -> str:
    """The model in one line: its data, its hidden variables, its parameters."""
    structure = plan.structure

    def shape(node: Any) -> str:
        return f" [{', '.join(f'{dim} {size}' for dim, size in zip(node.dims, node.shape, strict=True))}]" * bool(
            node.dims
        )

    def part(title: str, nodes: Any) -> str:
        return f"{title} {', '.join(node.name + shape(node) for node in nodes)}"

    parts = [
        part("observed", structure.observed),
        part("hidden", structure.latents),
        part("parameters", structure.parameters),
    ]
    return " · ".join([*parts, "summed out exactly" if plan.is_exact else "hidden variables approximated"])


def table_rows(comparison: Any) -> dict[str, Any]:
    """Rows of the comparison table as text: shown at once, folded away, and how many are left out of the page."""
    rows = []
    for name, row in comparison.table.iterrows():
        cells = [number(row[column]) for column in ("estimate", "standard_error", "mean", "sd", "hdi_low", "hdi_high")]
        cells += [number(row["r_hat"]), number(row["ess_bulk"], 0), fixed(row["difference"])]
        rows.append(
            {"name": name, "cells": cells, "flag": row["flag"], "derived": comparison.details.loc[name, "derived"]}
        )
    left = max(0, len(rows) - ROWS_SHOWN - ROWS_FOLDED)
    return {"shown": rows[:ROWS_SHOWN], "folded": rows[ROWS_SHOWN : ROWS_SHOWN + ROWS_FOLDED], "left": left}


def marginal_pictures(comparison: Any) -> dict[str, Any]:
    """One small picture for each parameter, so that they flow with the width of the page."""
    names = plots.shown_rows(comparison, plots.PANELS)
    limits = plots.shared_limits(comparison, names)
    pictures = []
    for name in names:
        row = comparison.table.loc[name]
        alt = (
            f"{name}: posterior mean {row['mean']:.4g}, {HDI:.0%} HDI {row['hdi_low']:.4g} to {row['hdi_high']:.4g}; "
            f"EM estimate {row['estimate']:.4g}, {_error_words(row['standard_error'])}"
        )
        pictures.append(described(plots.marginal, comparison, name, limits[name], alt=alt))
    total = len(plots.shown_rows(comparison, len(comparison.table)))
    return {"pictures": pictures, "left": total - len(names)}


def _error_words(error: float) -> str:
    return "no standard error" if np.isnan(error) else f"standard error {error:.4g}"


def forest_alt(comparison: Any) -> str:
    """What the forest shows, in words."""
    differences = comparison.table.loc[plots.shown_rows(comparison, plots.FOREST_ROWS), "difference"].dropna()
    if differences.empty:
        return "EM's estimates in units of the posterior: none to show"
    worst = differences.abs().idxmax()
    return (
        f"EM's estimates and intervals of {len(differences)} parameters beside the posterior's, in posterior standard "
        f"deviations; largest difference {differences[worst]:.2f} ({worst})"
    )


def ascent_alt(fit: Any) -> str:
    """What the ascent shows, in words."""
    return f"{len(fit.traces)} starts climbing; the best ends at {fit.log_posterior:.4f} after {fit.n_iter} iterations"


def labels_section(comparison: Any) -> dict[str, Any] | None:
    """Permutations by draw and R-hat before and after; None for a model without symmetry."""
    report = comparison.switching
    if not report.axes:
        return None
    r_hat = report.r_hat.sort_values("r_hat_before", ascending=False)
    axis = report.axes[0]
    groups = [", ".join(axis.labels[k] for k in group) for group in axis.exchangeable]
    return {
        "drawn": described(plots.permutations, report, alt=f"Labelling of every draw by chain: {report.verdict}"),
        "rows": list(r_hat.head(R_HAT_ROWS).itertuples()),
        "left": max(0, len(r_hat) - R_HAT_ROWS),
        "variables": ", ".join(axis.variables),
        "groups": "; ".join(groups),
        "noun": axis.noun,
        "weak": axis.weak,
        "switches": ", ".join(map(str, report.switches)),
    }


def modes_table(starts: pd.DataFrame) -> dict[str, Any]:
    """Modes that starts ended in, best first: height, nats below the best, how many starts found each."""
    finished = starts[[status_name(status) == "CONVERGED" for status in starts["status"]]]
    if finished.empty:
        return {"rows": [], "left": 0}
    groups = finished.groupby("mode")["log_posterior"].agg(["max", "size"]).sort_values("max", ascending=False)
    best = groups["max"].iloc[0]
    rows = [(i + 1, row["max"], best - row["max"], int(row["size"])) for i, (_, row) in enumerate(groups.iterrows())]
    return {"rows": rows[:MODES_SHOWN], "left": max(0, len(rows) - MODES_SHOWN)}


def unfinished_starts(starts: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Starts that did not converge, by status and reason, with their number."""
    names = pd.Series([status_name(status) for status in starts["status"]], index=starts.index)
    rest = starts[names != "CONVERGED"].assign(status=names[names != "CONVERGED"])
    counts = rest.groupby(["status", "reason"], dropna=False).size()
    return [(str(status), str(reason), int(count)) for (status, reason), count in counts.items()]


def member_section(comparison: Any, latent: str) -> dict[str, Any]:
    """Responsibilities of one latent: picture, summary, and the members that change."""
    table = comparison.members[latent]
    before, after, largest = changes(table)
    names, changed = member_names(table), np.flatnonzero(before != after)
    values = [str(value) for value in table[table["em"].dims[-1]].values]
    em = table["em"].values.reshape(-1, len(values))
    posterior = table["posterior"].values.reshape(em.shape)
    order = changed[np.argsort(-largest[changed], kind="stable")]
    rows = [
        (names[i], values[before[i]], em[i, before[i]], values[after[i]], posterior[i, after[i]])
        for i in order[:MEMBERS_SHOWN]
    ]
    mean = float(np.abs(em - posterior).mean())
    summary = (
        f"EM's and the posterior's probabilities of {latent} differ by {mean:.3f} on average and {largest.max():.3f} "
        f"at most ({names[int(largest.argmax())]}); {len(changed)} of {len(names)} members change."
    )
    draw = partial(plots.responsibilities, comparison, latent)
    return {
        "latent": latent,
        "summary": summary,
        "drawn": described(draw, alt=summary),
        "rows": rows,
        "left": max(0, len(changed) - MEMBERS_SHOWN),
    }


def data_picture(comparison: Any) -> tuple[Figure, str] | None:
    """The data by component, where there is a way to draw them."""
    figure = plots.data(comparison)
    if figure is None:
        return None
    names = ", ".join(dict.fromkeys(panel.name for panel in plots.observed_panels(comparison)))
    return figure, f"Observed {names}, each member shared out among the components by its responsibilities"


def versions() -> list[tuple[str, str]]:
    """Versions of what computed the page."""
    found = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue  # nutpie may be absent; emppl itself is when run from a checkout
    return found
