"""How EM got there: every start's climb."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emppl.plots.style import EM, QUIET, Picture, styled

STARTS_DRAWN = 200


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
