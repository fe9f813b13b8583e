"""Members: EM's responsibilities against their posterior average."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from emppl.errors import InvalidArgumentError
from emppl.plots.style import COLOURS, EM, INK, MARKERS, NUTS, POINTS, QUIET, Picture, head, marked, styled

MEMBERS_NAMED = 30  # up to here every member has its own line


@styled
def responsibilities(comparison: Any, latent: str | None = None) -> Figure:
    """EM's responsibilities against their posterior average: a line a member when few, a scatter when many."""
    table = _latent_table(comparison, latent)
    em = table["em"].values.reshape(-1, table["em"].shape[-1])
    posterior = table["posterior"].values.reshape(em.shape)
    values = [str(value) for value in table[table["em"].dims[-1]].values]
    if len(em) <= MEMBERS_NAMED:
        return marked(_member_lines(table, em, posterior, values), comparison)
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
    head(figure, f"{which}; rings: the {int(changed.sum())} members that change" if changed.any() else which)
    if len(values) > 2:
        ax.legend(loc="upper left")
    return marked(figure, comparison)


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
    head(figure, f"Probability of {what}")
    figure.legend(loc="outside lower right", ncols=2)
    return figure
