"""Pictures of fits and comparisons. They take results and compute nothing beyond histograms, densities and moments.

Every figure says what it shows without colour too (line styles, markers, hatching, labels), has its own light
background, so that it can stand on a dark page, and is drawn for about half a page's width.
"""

import io
import textwrap
from collections.abc import Callable
from functools import partial, wraps
from itertools import combinations
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from arviz_stats.base import array_stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from emppl.errors import InvalidArgumentError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#8C6D00")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
EM, NUTS, QUIET = "#D55E00", "#0072B2", "#6B7280"
PAPER, INK = "#FBFBF8", "#1F2430"

PANELS = 24  # marginals drawn at once
FOREST_ROWS = 40
STARTS_DRAWN = 200
POINTS = 2000  # of a scatter plot
MEMBERS_NAMED = 30  # up to here every member has its own line
PERMUTATIONS_NAMED = 8
NORMAL_95 = 1.96

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9AA0AC",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}


class Picture(Figure):
    """A figure that shows itself in a notebook without pyplot, which would keep every figure of a report open."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=120)
        return buffer.getvalue()


def styled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Draw with this module's style, whatever the user's settings are, and leave those alone."""

    @wraps(function)
    def draw(*args: Any, **options: Any) -> Any:
        with matplotlib.rc_context(STYLE):
            return function(*args, **options)

    return draw


def shown_rows(comparison: Any, limit: int) -> list[str]:
    """Up to `limit` parameters that move, those with a flag first, then in the order of the table."""
    details = comparison.details
    rows = comparison.table[~details["constant"].astype(bool) & ~details["derived"].astype(bool)]
    if len(rows) > limit:
        kept = set(rows.index[np.argsort(rows["flag"] == "", kind="stable")[:limit]])
        return [str(name) for name in rows.index if name in kept]
    return [str(name) for name in rows.index]


def element_draws(comparison: Any, name: str) -> np.ndarray:
    """Aligned draws of one row of the table, chain by chain: [T]."""
    rows = comparison.details
    variable = rows.loc[name, "variable"]
    within = int(np.flatnonzero(rows.index[rows["variable"] == variable] == name)[0])
    values = comparison.draws["posterior"][variable].transpose("chain", "draw", ...).values
    return values.reshape(values.shape[0] * values.shape[1], -1)[:, within]


def shared_limits(comparison: Any, names: list[str]) -> dict[str, tuple[float, float]]:
    """Horizontal range of each panel: one for all elements of a variable, unless that would flatten them to spikes."""
    own, limits = {}, {}
    for name in names:
        row, values = comparison.table.loc[name], element_draws(comparison, name)
        low, high = np.quantile(values, [0.004, 0.996])
        error = 0.0 if np.isnan(row["standard_error"]) else NORMAL_95 * row["standard_error"]
        error = min(error, 3 * (high - low))  # a huge standard error must not squeeze the posterior to a line
        own[name] = (min(low, row["estimate"] - error), max(high, row["estimate"] + error))
    for name in names:
        alike = [own[other] for other in names if _variable(comparison, other) == _variable(comparison, name)]
        both = min(low for low, _ in alike), max(high for _, high in alike)
        typical = float(np.median([high - low for low, high in alike]))
        low, high = both if both[1] - both[0] <= 6 * typical else own[name]
        margin = 0.04 * (high - low) or 1.0
        limits[name] = (low - margin, high + margin)
    return limits


def _variable(comparison: Any, name: str) -> str:
    return comparison.details.loc[name, "variable"]


def draw_marginal(ax: Axes, comparison: Any, name: str, limits: tuple[float, float]) -> None:
    """One marginal: the aligned posterior's density, its HDI, and EM's estimate ± 1.96 standard errors."""
    row, values = comparison.table.loc[name], element_draws(comparison, name)
    grid, density, _ = array_stats.kde(values)
    density = density / density.max()
    ax.fill_between(grid, density, color=NUTS, alpha=0.25, lw=0)
    ax.plot(grid, density, color=NUTS, lw=1.2)
    ax.plot([row["hdi_low"], row["hdi_high"]], [-0.14] * 2, color=NUTS, lw=2.2, solid_capstyle="butt")
    ax.plot(row["mean"], -0.14, marker="s", color=NUTS, ms=5)
    error = NORMAL_95 * row["standard_error"]
    if not np.isnan(error):
        span = [row["estimate"] - error, row["estimate"] + error]
        ax.plot(span, [-0.32] * 2, color=EM, lw=2.2, ls=(0, (3, 1)))
    ax.plot(row["estimate"], -0.32, marker="o", color=EM, ms=6)
    ax.plot([row["estimate"]] * 2, [-0.32, 1.0], color=EM, lw=1, ls=":")
    ax.set(ylim=(-0.45, 1.08), xlim=limits, title=name)
    ax.set_yticks([-0.14, -0.32], ["NUTS", "EM"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)


@styled
def marginal(comparison: Any, name: str, limits: tuple[float, float]) -> Figure:
    """One marginal as a figure of its own, for a page where panels flow."""
    figure = Picture(figsize=(3.5, 2.1))
    draw_marginal(figure.subplots(), comparison, name, limits)
    return figure


@styled
def marginals(comparison: Any, limit: int = PANELS) -> Figure:
    """Small multiples of all marginals, at most `limit` of them, flagged ones first."""
    names = shown_rows(comparison, limit)
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Picture(figsize=(3.3 * columns, 2.0 * lines + 0.3))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    limits = shared_limits(comparison, names)
    for ax, name in zip(axes, names, strict=False):
        draw_marginal(ax, comparison, name, limits[name])
    for ax in axes[len(names) :]:
        ax.remove()
    _head(figure, "Aligned posterior (NUTS: mean, 94% HDI) and EM's estimate ± 1.96 se")
    return figure


@styled
def ascent(fit: Any) -> Figure:
    """Objective of all starts by iteration: as it rises, and how far below the best on a log scale; winner bold."""
    objective = "log-likelihood" if fit.plan.estimate == "ml" else "log posterior"
    traces = [np.asarray(trace, dtype=float) for trace in fit.traces]
    usable = [i for i, trace in enumerate(traces) if trace.size and np.isfinite(trace).any()]
    reported = fit.log_likelihood if fit.plan.estimate == "ml" else fit.log_posterior
    winner = min(usable, key=lambda i: abs(np.nanmax(traces[i]) - reported), default=None)
    best = max([reported, *(np.nanmax(traces[i]) for i in usable)])
    figure = Picture(figsize=(5.2, 4.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for i in usable[:STARTS_DRAWN] + ([winner] if winner is not None else []):
        bold = i == winner
        colour, width, layer = (EM, 2.4, 3) if bold else (QUIET, 0.8, 2)
        steps = np.arange(1, len(traces[i]) + 1)
        for ax, heights in ((top, traces[i]), (bottom, np.maximum(best - traces[i], 1e-9))):
            dash = "-" if bold else "--"
            ax.plot(steps, heights, color=colour, lw=width, ls=dash, alpha=1.0 if bold else 0.6, zorder=layer)
        top.plot(steps[-1], traces[i][-1], marker="o" if bold else ".", color=colour, ms=5, zorder=layer)
    if usable:
        # the first steps gain so much that the rest would look flat: show from the lowest point after the first tenth
        low = min(float(np.nanmin(traces[i][len(traces[i]) // 10 :])) for i in usable)
        reach = best - low if np.isfinite(low) and best > low else 1.0
        top.set_ylim(best - 1.05 * reach, best + 0.08 * reach)
        if max(len(traces[i]) for i in usable) > 50:  # long runs: most happens at the start
            bottom.set_xscale("log")
    top.set(title="Every start climbs; the winner is the bold line", ylabel=objective)
    bottom.set(yscale="log", xlabel="iteration", ylabel="nats below the best", title="The same, from the top down")
    return figure


@styled
def permutations(report: Any) -> Figure:
    """Labelling of every draw, chain by chain, for the first component axis.

    Few labellings: a step line over their names. Many: which component of the draw carries each label, as an image.
    """
    if not report.axes:
        raise InvalidArgumentError(
            "this model has no components that could be renamed, so there are no permutations to draw",
            "plot_permutations",
            ("comparison.switching.verdict says what was found",),
        )
    axis = report.axes[0]
    perms = axis.permutations
    seen, index = np.unique(perms.reshape(-1, perms.shape[-1]), axis=0, return_inverse=True)
    few = len(seen) <= PERMUTATIONS_NAMED
    chains = perms.shape[0]
    height = (0.2 * len(seen) if few else 0.18 * perms.shape[-1]) + 0.35
    figure = Picture(figsize=(5.2, 0.9 + chains * max(0.65, min(height, 1.8))))
    panels = figure.subplots(chains, 1, sharex=True, squeeze=False)[:, 0]
    names = [_labelling(perm, axis.labels) for perm in seen]
    for c, ax in enumerate(panels):
        if few:
            labelling = index.reshape(perms.shape[:2])[c]
            ax.step(np.arange(len(labelling)), labelling, where="mid", color=COLOURS[c % 8], lw=1.4)
            ax.set_yticks(range(len(seen)), names)
            ax.set_ylim(-0.5, len(seen) - 0.5)
            ax.grid(axis="y", color="#DDDDDD", lw=0.6)
        else:
            shades = {"cmap": "cividis", "vmin": 0, "vmax": perms.shape[-1] - 1}
            ax.imshow(perms[c].T, aspect="auto", interpolation="nearest", **shades)
            ax.set_yticks(range(perms.shape[-1]), axis.labels)
        ax.set_title(f"chain {c}", fontsize=9, pad=2, fontweight="normal")
    panels[-1].set_xlabel("draw")
    if few:
        _head(figure, f"In each draw, which {axis.noun} is called {', '.join(axis.labels)}")
    else:
        _head(figure, f"Shade: which {axis.noun} of the draw carries each name")
    return figure


def _head(figure: Figure, text: str) -> None:
    """A heading that starts at the left edge and breaks before the right one, however wide the tick labels are."""
    width = int(12 * figure.get_size_inches()[0])
    figure.suptitle(textwrap.fill(text, width), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def _labelling(perm: np.ndarray, labels: tuple[str, ...]) -> str:
    """The names of the draw's components in the order of the reference's: "B, A" for two that are swapped."""
    text = ", ".join(labels[k] for k in perm)
    if len(text) > 24:  # long names would leave no room for the line
        text = " ".join(str(k + 1) for k in perm)
    return f"= {text}" if (perm == np.arange(len(perm))).all() else text


@styled
def responsibilities(comparison: Any, latent: str | None = None) -> Figure:
    """EM's responsibilities against their posterior average: a line a member when few, a scatter when many."""
    table = _latent_table(comparison, latent)
    em = table["em"].values.reshape(-1, table["em"].shape[-1])
    posterior = table["posterior"].values.reshape(em.shape)
    values = [str(value) for value in table[table["em"].dims[-1]].values]
    if len(em) <= MEMBERS_NAMED:
        return _member_lines(table, em, posterior, values)
    figure = Picture(figsize=(5.2, 4.2))
    ax = figure.subplots()
    changed = em.argmax(axis=1) != posterior.argmax(axis=1)
    rows = np.unique(
        np.r_[np.linspace(0, len(em) - 1, min(POINTS, len(em))).astype(int), np.flatnonzero(changed)[:POINTS]]
    )
    ax.plot([0, 1], [0, 1], color=QUIET, lw=1, ls="--")
    drawn = [0] if len(values) == 2 else range(min(len(values), len(MARKERS)))
    for k in drawn:
        ax.plot(
            em[rows, k], posterior[rows, k], ls="", marker=MARKERS[k], color=COLOURS[k], ms=4, mew=0, alpha=0.55,
            label=values[k], rasterized=True,
        )  # fmt: skip
    for k in drawn:
        ax.plot(em[changed, k][:POINTS], posterior[changed, k][:POINTS], "o", mfc="none", mec=INK, ms=8, mew=1)
    ax.set(
        xlabel="EM (parameters plugged in)", ylabel="average over the posterior", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    which = f"P({table.attrs.get('name', 'value')} = {values[0]})" if len(values) == 2 else "Probability of each value"
    _head(figure, f"{which}; rings: the {int(changed.sum())} members that change" if changed.any() else which)
    if len(values) > 2:
        ax.legend(loc="upper left")
    return figure


def _latent_table(comparison: Any, latent: str | None) -> Any:
    if not comparison.members or (latent is not None and latent not in comparison.members):
        raise InvalidArgumentError(
            f"there are no responsibilities of {latent or 'any latent'}",
            "plot_responsibilities",
            tuple(f'plot_responsibilities("{name}")' for name in comparison.members),
        )
    name = latent or next(iter(comparison.members))
    return comparison.members[name].assign_attrs(name=name)


def _member_lines(table: Any, em: np.ndarray, posterior: np.ndarray, values: list[str]) -> Figure:
    best = np.zeros(len(em), dtype=int) if len(values) == 2 else em.argmax(axis=1)
    rows = np.arange(len(em))
    figure = Picture(figsize=(5.2, 1.3 + 0.24 * len(em)))
    ax = figure.subplots()
    ax.hlines(rows, em[rows, best], posterior[rows, best], color=QUIET, lw=1.2)
    ax.plot(em[rows, best], rows, "o", color=EM, ms=7, label="EM")
    ax.plot(posterior[rows, best], rows, "s", color=NUTS, ms=6, mfc="none", mew=1.6, label="posterior average")
    if len(values) == 2:
        ax.axvline(0.5, color=QUIET, lw=0.8, ls=":")
    dims = table["em"].dims[:-1]
    names = [", ".join(map(str, index)) for index in np.ndindex(*table["em"].shape[:-1])]
    if len(dims) == 1:
        names = [str(value) for value in table[dims[0]].values]
    suffix = [""] * len(em) if len(values) == 2 else [f" ({values[k]})" for k in best]
    ax.set_yticks(rows, [name + end for name, end in zip(names, suffix, strict=True)])
    ax.set(ylim=(len(em) - 0.5, -0.5), xlim=(-0.03, 1.03), ylabel=", ".join(map(str, dims)), xlabel="probability")
    what = f"{table.attrs['name']} = {values[0]}" if len(values) == 2 else "EM's most probable value"
    _head(figure, f"Probability of {what}")
    figure.legend(loc="outside lower right", ncols=2)
    return figure


@styled
def forest(comparison: Any, limit: int = FOREST_ROWS) -> Figure:
    """Every parameter in units of its posterior: EM ± 1.96 se beside NUTS's 94% interval, in sds from the mean."""
    names = shown_rows(comparison, limit)
    rows = comparison.table.loc[names]
    figure = Picture(figsize=(5.2, 1.2 + 0.27 * len(rows)))
    ax = figure.subplots()
    y = np.arange(len(rows))
    sd = rows["sd"].to_numpy()
    centre = rows["difference"].to_numpy()
    reach = NORMAL_95 * rows["standard_error"].to_numpy() / sd
    ax.axvline(0, color=QUIET, lw=0.8)
    low, high = ((rows[end] - rows["mean"]).to_numpy() / sd for end in ("hdi_low", "hdi_high"))
    ax.hlines(y - 0.14, low, high, color=NUTS, lw=2.4, label="NUTS: mean, 94% HDI")
    ax.plot(np.zeros(len(y)), y - 0.14, "s", color=NUTS, ms=4)
    known = ~np.isnan(reach)
    clipped = np.clip(np.where(known, reach, 0), 0, 6)
    ax.hlines(y[known] + 0.16, (centre - clipped)[known], (centre + clipped)[known], color=EM, lw=2, ls=(0, (3, 1)))
    ax.plot(centre, y + 0.16, "o", color=EM, ms=5, label="EM ± 1.96 se")
    ax.set_yticks(y, names)
    ax.set(ylim=(len(y) - 0.4, -0.6), xlabel="posterior sds from the posterior mean")
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.1)
    return figure


class ObservedPanel(NamedTuple):
    """One observed variable beside the latent it follows: values [n, D], responsibilities [n, K], names of both."""

    name: str
    values: np.ndarray
    responsibilities: np.ndarray
    labels: list[str]
    features: list[str]


def observed_panels(comparison: Any) -> list[ObservedPanel]:
    """Observed variables that follow a latent member by member.

    Members with a missing value are left out; observed variables of another shape are not drawn.
    """
    if "observed_data" not in comparison.draws.children:
        return []
    group = comparison.draws["observed_data"].to_dataset()
    panels = []
    for node in comparison.fit.plan.structure.observed:
        if node.name not in group or group[node.name].shape != tuple(node.shape):
            continue
        for table in comparison.members.values():
            plates, size = table["em"].dims[:-1], table["em"].shape[-1]
            if not plates or tuple(node.dims[: len(plates)]) != tuple(plates) or size > len(COLOURS):
                continue
            p = table["em"].values.reshape(-1, size)
            values = np.asarray(group[node.name].values, dtype=float).reshape(len(p), -1)
            whole = np.isfinite(values).all(axis=1)
            labels = [str(value) for value in table[table["em"].dims[-1]].values]
            features = _features(comparison, node, values.shape[1])
            panels.append(ObservedPanel(node.name, values[whole], p[whole], labels, features))
            break
    return panels


def _features(comparison: Any, node: Any, count: int) -> list[str]:
    last = node.dims[-1] if node.dims else ""
    names = comparison.fit.plan.structure.coords.get(last, ())
    if count > 1 and len(names) == count and "_dim_" not in last:
        return [str(name) for name in names]
    return [node.name] if count == 1 else [f"{node.name} {d}" for d in range(count)]


@styled
def data(comparison: Any) -> Figure | None:
    """The data and the components that the fit sees in them.

    One number a member: a histogram whose bars are shared out by responsibility. Several: scatter plots of pairs (of
    the first four) with each component's 1-sd and 2-sd ellipse, its moments weighted by responsibility. None where no
    observed variable follows the members of a latent.
    """
    pictures: list[Callable[[Axes], None]] = []
    for panel in observed_panels(comparison):
        width = panel.values.shape[1]
        pictures += [partial(_bars, panel=panel)] if width == 1 else []
        pictures += [partial(_ellipses, panel=panel, pair=pair) for pair in combinations(range(min(width, 4)), 2)]
    pictures = pictures[:6]
    if not pictures:
        return None
    columns = 1 if len(pictures) == 1 else 2
    lines = -(-len(pictures) // columns)
    figure = Picture(figsize=(5.2 if columns == 1 else 7.2, 3.6 * lines))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, picture in zip(axes, pictures, strict=False):
        picture(ax)
    for ax in axes[len(pictures) :]:
        ax.remove()
    return figure


def _bars(ax: Axes, panel: ObservedPanel) -> None:
    values, p, labels, name = panel.values[:, 0], panel.responsibilities, panel.labels, panel.features[0]
    whole = bool((values == values.round()).all()) and np.ptp(values) <= 40
    # the usual rules assume one hump and give a mixture a few wide bars
    count = int(np.clip(2 * np.sqrt(len(values)), 12, 60))
    edges = np.arange(values.min() - 0.5, values.max() + 1) if whole else np.histogram_bin_edges(values, bins=count)
    base = np.zeros(len(edges) - 1)
    for k, label in enumerate(labels):
        height, _ = np.histogram(values, bins=edges, weights=p[:, k])
        ax.bar(
            edges[:-1], height, np.diff(edges), bottom=base, align="edge", label=label,
            color=COLOURS[k], alpha=0.55, hatch=HATCHES[k], edgecolor=INK, lw=0.5,
        )  # fmt: skip
        base = base + height
    ax.set(xlabel=name, ylabel="members", title=f"{name}, shared out by responsibility")
    ax.set_ylim(0, 1.22 * base.max())  # room for the legend above the bars
    ax.legend(loc="upper center", ncols=min(len(labels), 4))


def _ellipses(ax: Axes, panel: ObservedPanel, pair: tuple[int, int]) -> None:
    values, p, labels = panel.values[:, list(pair)], panel.responsibilities, panel.labels
    best = p.argmax(axis=1)
    rows = np.unique(np.linspace(0, len(values) - 1, min(POINTS, len(values))).astype(int))
    for k, label in enumerate(labels):
        mine = rows[best[rows] == k]
        strength = np.clip(p[mine, k], 0.15, 1.0)
        ax.scatter(
            values[mine, 0], values[mine, 1], s=14, marker=MARKERS[k], color=COLOURS[k], alpha=0.7 * strength,
            linewidths=0, label=label, rasterized=True,
        )  # fmt: skip
        total = p[:, k].sum()
        if total < 1e-8:
            continue
        centre = p[:, k] @ values / total
        covariance = (p[:, k, None] * (values - centre)).T @ (values - centre) / total
        lengths, directions = np.linalg.eigh(covariance)
        angle = float(np.degrees(np.arctan2(directions[1, 1], directions[0, 1])))
        for sds, dash in ((1, "-"), (2, "--")):
            width, height = 2 * sds * np.sqrt(np.maximum(lengths[::-1], 0))
            ax.add_patch(Ellipse(tuple(centre), width, height, angle=angle, fill=False, ec=COLOURS[k], ls=dash, lw=1.6))
        ax.plot(*centre, marker="+", color=INK, ms=9, mew=1.8)
    ax.set(
        xlabel=panel.features[pair[0]], ylabel=panel.features[pair[1]], title="Components: 1 sd (solid), 2 sd (dashed)"
    )
    ax.legend()
    ax.autoscale_view()
