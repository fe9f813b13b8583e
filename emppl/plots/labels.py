"""Labels: the permutation of every draw, and what alignment does to the chains."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from emppl.errors import InvalidArgumentError
from emppl.plots.rows import as_sampled, element_draws
from emppl.plots.style import COLOURS, DASHES, FAINT, QUIET, Picture, head, on_axes, styled

PERMUTATIONS_NAMED = 8
RANK_ROWS = 6  # elements whose ranks are drawn
RANK_DRAWS = 150  # of a chain, evenly spaced: more cannot be seen


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
    few = few_labellings(perms)
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
            ax.grid(axis="y", color=FAINT, lw=0.6)
        else:
            shades = {"cmap": "cividis", "vmin": 0, "vmax": perms.shape[-1] - 1}
            ax.imshow(perms[c].T, aspect="auto", interpolation="nearest", **shades)
            ax.set_yticks(range(perms.shape[-1]), axis.labels)
        ax.set_title(f"chain {c}", fontsize=9, pad=2, fontweight="normal")
    panels[-1].set_xlabel("draw")
    if few:
        head(figure, f"In each draw, which {axis.noun} is called {', '.join(axis.labels)}")
    else:
        head(figure, f"Under each name, a {axis.noun} of the draw: dark for its first, light for its last")
    return figure


def few_labellings(perms: np.ndarray) -> bool:
    """Whether permutations [chain, draw, K] are few enough to be named, and are drawn as lines."""
    return len(np.unique(perms.reshape(-1, perms.shape[-1]), axis=0)) <= PERMUTATIONS_NAMED


def _labelling(perm: np.ndarray, labels: tuple[str, ...]) -> str:
    """The names of the draw's components in the order of the reference's: "B, A" for two that are swapped."""
    text = ", ".join(labels[k] for k in perm)
    if len(text) > 24:  # long names would leave no room for the line
        text = " ".join(str(k + 1) for k in perm)
    return f"= {text}" if (perm == np.arange(len(perm))).all() else text


@styled
def ranks(comparison: Any, limit: int = RANK_ROWS) -> Figure:
    """Rank plots before and after alignment, of the `limit` elements whose chains differ most as sampled.

    Each line is a chain: how far the ranks of its draws among all draws depart from an even spread (the difference of
    two distribution functions). Raises InvalidArgumentError for a model without symmetry.
    """
    import arviz_plots as az

    report = comparison.switching
    known = [name for name in report.r_hat.index if name in comparison.details.index]
    if not known:
        raise InvalidArgumentError(
            "this model has no components that could be renamed, so there is nothing to rank before and after",
            "plot_ranks",
            ("comparison.switching.verdict says what was found",),
        )
    names = list(report.r_hat.loc[known].sort_values("r_hat_before", ascending=False, kind="stable").index[:limit])
    stages = {"as sampled": as_sampled(comparison), "aligned": comparison.draws["posterior"].to_dataset()}
    chains = comparison.draws["posterior"].sizes["chain"]
    length = comparison.draws["posterior"].sizes["draw"]
    kept = np.unique(np.linspace(0, length - 1, min(length, RANK_DRAWS)).astype(int))
    values = [
        [element_draws(comparison, name, draws).reshape(chains, -1)[:, kept] for draws in stages.values()]
        for name in names
    ]
    frame = xr.Dataset(
        {"value": (("element", "stage", "chain", "draw"), np.array(values))},
        coords={"element": names, "stage": list(stages), "chain": np.arange(chains)},
    )
    figure = Picture(figsize=(5.2, 0.9 + 0.85 * len(names)))
    axes = figure.subplots(len(names), 2, sharex=True, sharey=True, squeeze=False)
    colours = [COLOURS[c % len(COLOURS)] for c in range(chains)]
    dashes = [DASHES[c % len(DASHES)] for c in range(chains)]
    az.plot_rank(
        frame,
        plot_collection=on_axes(
            frame, figure, axes, ("element", "stage"),
            color=(["chain"], colours), linestyle=(["chain"], dashes), overlay=(["chain"], None),
        ),
        # the envelope holds for independent draws alone: it is neither drawn nor worth its simulations; the other
        # method writes p-values over the lines
        method="envelope",
        thin=False,
        stats={"ecdf_pit": {"n_simulations": 2}},
        visuals={
            "ecdf_lines": {"width": 1.3},
            **dict.fromkeys(("credible_interval", "xlabel", "title"), False),
            "remove_axis": False,
        },
    )  # fmt: skip
    for i, name in enumerate(names):
        axes[i, 0].set_title(name, fontsize=9.5, pad=3)
        for ax in axes[i]:
            ax.axhline(0, color=QUIET, lw=0.6, zorder=0)
            ax.locator_params(axis="y", nbins=3)
    axes[0, 0].set_title(f"As sampled\n{names[0]}", fontsize=9.5, pad=3)
    axes[0, 1].set_title("Aligned\n", fontsize=9.5, pad=3)
    for ax in axes[-1]:
        ax.set_xlabel("rank, from lowest to highest")
    for c in range(chains):
        axes[0, 0].plot([], [], color=colours[c], ls=dashes[c], label=f"chain {c}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=min(chains, 4))
    return figure
