"""Marginals: the posterior of each parameter, and EM on top of it."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emppl.plots.rows import element_draws, shared_limits, shown_rows
from emppl.plots.style import EM, NUTS, Picture, head, marked, on_axes, styled

PANELS = 24  # marginals drawn at once


def draw_marginals(figure: Figure, axes: list[Axes], comparison: Any, names: list[str]) -> None:
    """Densities of the aligned posterior, one on each of the axes, as high as each other."""
    import arviz_plots as az

    draws = np.stack([element_draws(comparison, name) for name in names])
    frame = xr.Dataset({"value": (("element", "chain", "draw"), draws[:, None])}, coords={"element": names})
    az.plot_dist(
        frame,
        kind="kde",
        plot_collection=on_axes(frame, figure, axes, ("element",)),
        visuals={
            "dist": {"color": NUTS, "width": 1.2},
            "face": {"color": NUTS, "alpha": 0.25},
            **dict.fromkeys(("credible_interval", "point_estimate", "point_estimate_text", "title"), False),
            "remove_axis": False,
        },
    )


def mark(ax: Axes, row: Any, name: str, limits: tuple[float, float]) -> None:
    """Below a density: the posterior's mean and HDI, EM's estimate and interval; the mode through it."""
    top = max(float(np.max(np.asarray(line.get_ydata()))) for line in ax.lines)
    nuts, em = -0.14 * top, -0.32 * top
    ax.plot([row["hdi_low"], row["hdi_high"]], [nuts] * 2, color=NUTS, lw=2.2, solid_capstyle="butt")
    ax.plot(row["mean"], nuts, marker="s", color=NUTS, ms=5)
    if not np.isnan(row["low"]):
        ax.plot([row["low"], row["high"]], [em] * 2, color=EM, lw=2.2, ls=(0, (3, 1)))
    ax.plot(row["estimate"], em, marker="o", color=EM, ms=6)
    ax.plot([row["estimate"]] * 2, [em, top], color=EM, lw=1, ls=":")
    ax.set(ylim=(-0.45 * top, 1.08 * top), xlim=limits, title=name)
    ax.set_yticks([nuts, em], ["NUTS", "EM"])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)


@styled
def marginal(comparison: Any, name: str, limits: tuple[float, float]) -> Figure:
    """One marginal as a figure of its own, for a page where panels flow."""
    figure = Picture(figsize=(3.5, 2.1))
    ax = figure.subplots()
    draw_marginals(figure, [ax], comparison, [name])
    mark(ax, comparison.table.loc[name], name, limits)
    return marked(figure, comparison)


@styled
def marginals(comparison: Any, limit: int = PANELS) -> Figure:
    """Small multiples of all marginals, at most `limit` of them, flagged ones first."""
    names = shown_rows(comparison, limit)
    columns = min(3, max(1, len(names)))
    lines = max(1, -(-len(names) // columns))
    figure = Picture(figsize=(3.3 * columns, 2.0 * lines + 0.3))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    limits = shared_limits(comparison, names)
    if names:
        draw_marginals(figure, list(axes[: len(names)]), comparison, names)
    for ax, name in zip(axes, names, strict=False):
        mark(ax, comparison.table.loc[name], name, limits[name])
    for ax in axes[len(names) :]:
        ax.remove()
    head(figure, "Aligned posterior (NUTS: mean, 95% HDI) and EM's estimate (95% interval)")
    return marked(figure, comparison)
