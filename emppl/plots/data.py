"""The data, the components that the fit sees in them, and the densities of fit and posterior."""

from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from emppl.errors import EmpplError
from emppl.plots.rows import parameter_draws
from emppl.plots.style import COLOURS, DASHES, HATCHES, INK, MARKERS, NUTS, POINTS, Picture, marked, styled

GRID = 160  # points of a curve
SQUARE = 60  # points of a contour, each way
BAND_DRAWS = 100
BAND = (0.025, 0.975)  # quantiles: as wide as the intervals of the table
FAN_DRAWS = 12
LEVELS = {2: "--", 1: "-"}  # sds of a normal at whose density a contour runs


class ObservedPanel(NamedTuple):
    """One observed variable beside the latent it follows: values [n, D], responsibilities [n, K], names of both.

    `densities`: values [m, D] -> what EM makes of them [m, K] and draws of the posterior [T, m, K], both p(y, z), for
    T draws; None where the model gives no density of a new member, as with covariates.
    """

    name: str
    values: np.ndarray
    responsibilities: np.ndarray
    labels: list[str]
    features: list[str]
    densities: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]] | None = None


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
        for latent, table in comparison.members.items():
            plates, size = table["em"].dims[:-1], table["em"].shape[-1]
            if not plates or tuple(node.dims[: len(plates)]) != tuple(plates) or size > len(COLOURS):
                continue
            p = table["em"].values.reshape(-1, size)
            values = np.asarray(group[node.name].values, dtype=float).reshape(len(p), -1)
            whole = np.isfinite(values).all(axis=1)
            labels = [str(value) for value in table[table["em"].dims[-1]].values]
            features = _features(comparison, node, values.shape[1])
            densities = _densities(comparison, node, latent, len(plates), values[whole][:1])
            panels.append(ObservedPanel(node.name, values[whole], p[whole], labels, features, densities))
            break
    return panels


def _densities(comparison: Any, node: Any, latent: str, plates: int, example: np.ndarray) -> Any:
    """The function that `ObservedPanel.densities` holds; None where a trial at `example` is refused."""

    def at(values: np.ndarray, theta: Any = None) -> np.ndarray:
        members = values.reshape(len(values), *node.shape[1:])
        return comparison.fit.density({node.name: members}, theta)[latent].values

    def both(values: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
        theta = parameter_draws(comparison)
        total = len(next(iter(theta.values())))
        picked = np.unique(np.linspace(0, total - 1, draws).astype(int))
        return at(values), np.stack([at(values, {name: draw[t] for name, draw in theta.items()}) for t in picked])

    if plates != 1 or not hasattr(comparison.fit, "density"):
        return None
    try:
        at(example)
    except EmpplError:  # covariates, an observation without a natural form, a loaded fit
        return None
    return both


def _features(comparison: Any, node: Any, count: int) -> list[str]:
    last = node.dims[-1] if node.dims else ""
    names = comparison.fit.plan.structure.coords.get(last, ())
    if count > 1 and len(names) == count and "_dim_" not in last:
        return [str(name) for name in names]
    return [node.name] if count == 1 else [f"{node.name} {d}" for d in range(count)]


@styled
def data(comparison: Any) -> Figure | None:
    """The data and the components that the fit sees in them.

    One number a member: a histogram whose bars are shared out by responsibility, under the densities of EM's components
    and their sum, with the band in which the posterior's sums lie. Two: a scatter plot with contours of the components'
    densities, EM's and those of some draws. More: pairs (of the first four) with each component's 1-sd and 2-sd
    ellipse, its moments weighted by responsibility. None where no observed variable follows the members of a latent.
    """
    pictures: list[Callable[[Axes], None]] = []
    for panel in observed_panels(comparison):
        width = panel.values.shape[1]
        pictures += [partial(_bars, panel=panel)] if width == 1 else []
        fan = width == 2 and panel.densities is not None
        pictures += [
            partial(_scatter, panel=panel, pair=pair, fan=fan) for pair in combinations(range(min(width, 4)), 2)
        ]
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
    return marked(figure, comparison)


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
    top = float(base.max())
    if panel.densities is not None:
        top = max(top, _curves(ax, panel, edges, whole))
    ax.set(xlabel=name, ylabel="members", title=f"{name}, shared out by responsibility")
    ax.set_ylim(0, 1.22 * top)  # room for the legend above the bars
    ax.legend(loc="upper center", ncols=min(len(labels) + 2, 4), fontsize=9)


def _curves(ax: Axes, panel: ObservedPanel, edges: np.ndarray, whole: bool) -> float:
    """Densities on the scale of the bars: members expected in a bar there. Returns the highest point drawn."""
    assert panel.densities is not None
    values = panel.values[:, 0]
    grid = np.arange(values.min(), values.max() + 1) if whole else np.linspace(values.min(), values.max(), GRID)
    em, draws = panel.densities(grid[:, None], BAND_DRAWS)
    scale = len(values) * (edges[1] - edges[0])
    low, high = scale * np.quantile(draws.sum(axis=-1), BAND, axis=0)
    ax.fill_between(grid, low, high, color=NUTS, alpha=0.3, lw=0, label="NUTS, 95%", zorder=3)
    for k in range(em.shape[1]):
        ax.plot(grid, scale * em[:, k], color=COLOURS[k], ls=DASHES[1 + k % 3], lw=1.4, zorder=4)
    ax.plot(grid, scale * em.sum(axis=1), color=INK, lw=1.8, label="EM", zorder=5, marker="." if whole else "")
    return float(max(high.max(), scale * em.sum(axis=1).max()))


def _scatter(ax: Axes, panel: ObservedPanel, pair: tuple[int, int], fan: bool) -> None:
    """Two features of the members, the likeliest component by colour and marker, and the shape of each component."""
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
    ax.set(xlabel=panel.features[pair[0]], ylabel=panel.features[pair[1]])
    if fan and draw_contours(ax, panel):
        ax.set_title("EM's components at 1 and 2 sd; thin: NUTS's")
    else:
        draw_ellipses(ax, values, p)
        ax.set_title("Components: 1 sd (solid), 2 sd (dashed)")
    ax.legend(loc="best")


def draw_ellipses(ax: Axes, values: np.ndarray, p: np.ndarray) -> None:
    """Each component's mean and ellipses, its moments weighted by responsibility; values [n, 2], p [n, K]."""
    for k in range(p.shape[1]):
        total = p[:, k].sum()
        if total < 1e-8:
            continue
        centre = p[:, k] @ values / total
        covariance = (p[:, k, None] * (values - centre)).T @ (values - centre) / total
        lengths, directions = np.linalg.eigh(covariance)
        angle = float(np.degrees(np.arctan2(directions[1, 1], directions[0, 1])))
        for sds, dash in LEVELS.items():
            width, height = 2 * sds * np.sqrt(np.maximum(lengths[::-1], 0))
            ax.add_patch(Ellipse(tuple(centre), width, height, angle=angle, fill=False, ec=COLOURS[k], ls=dash, lw=1.6))
        ax.plot(*centre, marker="+", color=INK, ms=9, mew=1.8)
    ax.autoscale_view()


def draw_contours(ax: Axes, panel: ObservedPanel) -> bool:
    """Contours of each component's density where a normal's would lie at 1 and 2 sds; False where it is refused."""
    assert panel.densities is not None
    low, high = panel.values.min(axis=0), panel.values.max(axis=0)
    margin = 0.15 * (high - low)
    x, y = (np.linspace(low[d] - margin[d], high[d] + margin[d], SQUARE) for d in range(2))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    try:  # the data themselves too: the top of a narrow component may lie between the points of the grid
        em, draws = panel.densities(np.concatenate([points, panel.values]), FAN_DRAWS)
    except EmpplError:  # a point beyond the data is outside the support
        return False
    for k in range(em.shape[1]):
        for density, levels, width, alpha in [(em, LEVELS, 1.8, 1.0), *((draw, {2: "-"}, 0.7, 0.45) for draw in draws)]:
            top = density[:, k].max()
            if top <= 0:
                continue
            heights = np.log(np.maximum(density[: len(points), k], 1e-300)).reshape(SQUARE, SQUARE)
            ax.contour(
                x, y, heights, levels=[np.log(top) - sds**2 / 2 for sds in levels], colors=[COLOURS[k]],
                linestyles=list(levels.values()), linewidths=width, alpha=alpha,
            )  # fmt: skip
        ax.plot(*points[em[: len(points), k].argmax()], marker="+", color=INK, ms=9, mew=1.8)
    return True
