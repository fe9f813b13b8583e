"""Forest: all parameters on one scale, EM, its normal approximation and the posterior side by side."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from emppl.plots.rows import shown_rows
from emppl.plots.style import EM, LAPLACE, NUTS, PAPER, QUIET, Picture, marked, on_axes, styled

FOREST_ROWS = 40
REACH = 6.0  # posterior sds: what lies further out is drawn there, lest it squeeze the others
LOOKS = {  # colour, dashes, marker, name in the legend
    "NUTS": (NUTS, "-", "s", "NUTS: mean, 95% HDI"),
    "Laplace": (LAPLACE, ":", "^", "Laplace: mean, 95%"),
    "EM": (EM, "--", "o", "EM: mode, 95%"),
}


@styled
def forest(comparison: Any, limit: int = FOREST_ROWS) -> Figure:
    """Every parameter in units of its posterior, in sds from the mean: NUTS, Laplace's approximation, EM.

    EM's interval is that of the table, Laplace's approximation that of `comparison.laplace`: normal around the mode on
    the unconstrained scale.
    """
    import arviz_plots as az

    names = shown_rows(comparison, limit)
    spans = forest_spans(comparison, names)
    models = [model for model in LOOKS if model in spans.model.values]
    height = {2: 0.27, 3: 0.34}[len(models)]
    figure = Picture(figsize=(5.2, 1.2 + height * len(names)))
    ax = figure.subplots()
    ax.axvline(0, color=QUIET, lw=0.8)
    if names:
        offsets = dict(zip(models, np.linspace(-0.24, 0.24, len(models)), strict=True))
        looks = {model: LOOKS[model] for model in models}
        over = ["model"]
        frame = xr.Dataset({"sds": spans["point"]}).expand_dims(column=["forest"], chain=[0], draw=[0])
        collection = on_axes(
            frame,
            figure,
            [ax],
            ("column",),
            y=(["element", "model"], [row + offsets[model] for row in range(len(names)) for model in models]),
            color=(over, [look[0] for look in looks.values()]),
            linestyle=(over, [look[1] for look in looks.values()]),
            marker=(over, [look[2] for look in looks.values()]),
        )
        ends = xr.Dataset({"sds": spans["ends"]})
        az.plot_forest(
            frame,
            plot_collection=collection,
            combined=True,
            labels=[],
            stats={"twig": ends, "trunk": ends, "point_estimate": xr.Dataset({"sds": spans["point"]})},
            aes_by_visuals={
                "credible_interval": ["y", "color", "linestyle"],
                "point_estimate": ["y", "color", "marker"],
            },
            visuals={
                "twig": False,
                "trunk": {"width": 2},
                "point_estimate": {"facecolor": PAPER},
                "ticklabels": False,
                "remove_axis": False,
            },
        )
    for model in models:
        colour, dashes, marker, title = LOOKS[model]
        ax.plot([], [], color=colour, ls=dashes, marker=marker, lw=2, ms=5, label=title)
    ax.set_yticks(range(len(names)), names)
    for row, value in enumerate(comparison.table.loc[names, "difference"]):
        if abs(value) > REACH:  # drawn at the edge, its number beside it
            side = np.sign(value)
            ax.annotate(
                f"{value:.0f}", (side * REACH, row + max(offsets.values())), (-6 * side, 0), va="center", color=EM,
                textcoords="offset points", ha="right" if side > 0 else "left", fontsize=8.5,
            )  # fmt: skip
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel="posterior sds from the posterior mean")
    figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.1)
    return marked(figure, comparison)


def forest_spans(comparison: Any, names: list[str]) -> xr.Dataset:
    """`point` [element, model] and `ends` [element, model, ci_bound], in posterior sds from the posterior mean.

    Models: NUTS, Laplace (left out where there is none) and EM; an end is nan where there is no
    interval, and cut at REACH sds.
    """
    rows = comparison.table.loc[names]
    mean, sd = rows["mean"].to_numpy(), rows["sd"].to_numpy()
    points, lows, highs = {}, {}, {}
    points["NUTS"] = np.zeros(len(names))
    lows["NUTS"], highs["NUTS"] = ((rows[end].to_numpy() - mean) / sd for end in ("hdi_low", "hdi_high"))
    if getattr(comparison, "laplace", None) is not None:
        normal = comparison.laplace.loc[names]
        points["Laplace"], lows["Laplace"], highs["Laplace"] = (
            np.clip((normal[key].to_numpy(float) - mean) / sd, -REACH, REACH) for key in ("mean", "low", "high")
        )
    points["EM"] = np.clip(rows["difference"].to_numpy(), -REACH, REACH)
    lows["EM"], highs["EM"] = (np.clip((rows[end].to_numpy() - mean) / sd, -REACH, REACH) for end in ("low", "high"))
    models = list(points)
    ends = np.stack([np.stack([lows[model], highs[model]], axis=-1) for model in models], axis=1)
    return xr.Dataset(
        {
            "point": (("element", "model"), np.stack([points[model] for model in models], axis=1)),
            "ends": (("element", "model", "ci_bound"), ends.reshape(len(names), len(models), 2)),
        },
        coords={"element": names, "model": models, "ci_bound": ["lower", "upper"]},
    )
