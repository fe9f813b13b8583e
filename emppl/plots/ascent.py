"""How EM got there: every start's climb, and the modes that starts and draws lead to."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emppl.plots.style import EM, HATCHES, INK, MARKERS, NUTS, QUIET, Picture, styled

STARTS_DRAWN = 200
MODES_DRAWN = 10


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
        # the first steps gain so much that the rest would look flat: show from the lowest point after the first tenth,
        # of a short run after its first two
        later = [traces[i][max(len(traces[i]) // 10, 2) :] for i in usable]
        low = min((float(np.nanmin(part)) for part in later if np.isfinite(part).any()), default=best)
        reach = best - low if np.isfinite(low) and best > low else 1.0
        top.set_ylim(best - 1.05 * reach, best + 0.08 * reach)
        if max(len(traces[i]) for i in usable) > 50:  # long runs: most happens at the start
            bottom.set_xscale("log")
    top.set(title="Every start climbs; the winner is the bold line", ylabel=objective)
    bottom.set(yscale="log", xlabel="iteration", ylabel="nats below the best", title="The same, from the top down")
    return figure


@styled
def modes(atlas: Any, reported: int = 0, limit: int = MODES_DRAWN) -> Figure:
    """The mode atlas: how high each mode is, which share of the draws climbs to it, and of the random starts.

    `reported`: index of the mode that the fit is at. Dots: the draws of each chain.
    """
    shown = list(atlas.modes[:limit])
    best = max((mode.log_posterior for mode in shown), default=0.0)
    figure = Picture(figsize=(5.2, 1.5 + 0.62 * max(len(shown), 1)))
    ax = figure.subplots()
    rows = np.arange(len(shown))
    chains = max((len(mode.draws) for mode in shown), default=0)
    if chains:
        ax.barh(
            rows - 0.19, [mode.share for mode in shown], 0.34, color=NUTS, alpha=0.55, label="draws that climb there"
        )
        for c in range(chains):
            ax.plot(
                [mode.draws[c] for mode in shown], rows - 0.19, ls="", marker=MARKERS[c % len(MARKERS)], color=INK,
                ms=4, mfc="none", label="each chain's" if c == 0 else None,
            )  # fmt: skip
    if atlas.n_starts:
        starts = [mode.starts for mode in shown]
        ax.barh(
            rows + 0.19, starts, 0.34, color=EM, alpha=0.55, hatch=HATCHES[1], edgecolor=INK, lw=0.5,
            label="random starts that end there",
        )  # fmt: skip
    names = []
    for i, mode in enumerate(shown):
        nats = f"{best - mode.log_posterior:.2f}"
        below = "the highest" if i == 0 else "as high" if nats == "0.00" else f"{nats} nats below"
        names.append(f"mode {i + 1}{' (EM)' if i == reported else ''}: {mode.log_posterior:.2f}\n{below}")
    ax.set_yticks(rows, names)
    ax.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 1.02), xlabel="share")
    if chains or atlas.n_starts:
        figure.legend(loc="outside upper left", ncols=2, borderaxespad=0.1)
    return figure
