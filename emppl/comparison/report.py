"""Comparison: EM's fit beside NUTS's draws, aligned, tabulated and judged."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from emppl import plots
from emppl.arguments import as_path, as_whole
from emppl.ascent.atlas import Atlas
from emppl.comparison.evidence import Evidence, Verdict, in_order, is_degenerate, judge
from emppl.comparison.members import members
from emppl.comparison.mixing import Mixing, mixing
from emppl.comparison.modes import go_on, heights, survey
from emppl.comparison.normal import laplace_table, prior_table
from emppl.comparison.numbers import decimals, is_far
from emppl.comparison.page import write_page
from emppl.comparison.predictive import Prediction, predict
from emppl.comparison.renderings import write_json, write_markdown
from emppl.comparison.several import estimates, first_and_others, renamed
from emppl.comparison.several import verdicts as against_others
from emppl.comparison.table import COLUMNS, INTERVAL, flags, tabulate
from emppl.comparison.verdicts import headline
from emppl.errors import InvalidArgumentError
from emppl.labels import SwitchingReport
from emppl.labels.diagnose import examine
from emppl.labels.draws import Theta, posterior_of
from emppl.labels.relabel import reference
from emppl.portable import Portable
from emppl.progress import watching
from emppl.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT_ROWS = 30  # of the table in `print(comparison)`
TEXT_WIDTH = 118  # columns of its sentences
UNCONVERGED = "the draws have not converged: what follows describes all of them together, and no finding rests on it"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Portable):
    """EM and NUTS side by side. Made by `emppl.compare`.

    `table`: a row for each number of the model. `verdicts`: failed checks first. `switching`: what was found about
    labels. `draws`: aligned to the fit. `timing`: seconds of both and effective draws per second. `members`: latent ->
    Dataset of EM's responsibilities (`em`) and their posterior average (`posterior`). `details`: quantile, skewness,
    coverage and Monte Carlo error for each row of the table. `left_out`: deterministics too large for the table.
    `best_draw`: parameters of the draw that is highest on EM's own scale, fit to be a start. `mixing`: whether the
    draws of all chains are one sample of the posterior, and why not (`mixing.reasons`); where they are not, no verdict
    rests on them together, and what these tables say of them is no finding. `atlas`: the modes that EM
    reaches from thinned draws and random starts, with the share of draws of each by chain; `atlas.known[0]` is the
    fit's own. `better`: the fit that goes on from a higher point, where one was found. `laplace`: the normal
    approximation beside the posterior, a row for each row of `table` (columns mean, sd, low, high, distance, ks,
    coverage, unconstrained_mode, shift). `priors`: width of prior and posterior, and the prior's share of the
    precision. `prediction`: leave-one-out score, and stacking weights of chains that do not mix. Each of these five is
    None where there is nothing to make it from (a fit without its model, draws without log-likelihoods). `fits`: all
    fits that were given, by name, the first being `fit`. `estimates`: where there are several, a row for each row of
    the table, a column for each fit (components named as in the first), then the posterior's mean and sd.
    """

    fit: Any
    draws: xr.DataTree
    table: pd.DataFrame
    verdicts: tuple[Verdict, ...]
    switching: SwitchingReport
    timing: dict[str, float]
    members: dict[str, xr.Dataset]
    details: pd.DataFrame
    left_out: tuple[str, ...]
    best_draw: Theta
    mixing: Mixing
    atlas: Atlas | None = None
    better: Any = None
    laplace: pd.DataFrame | None = None
    priors: pd.DataFrame | None = None
    prediction: Prediction | None = None
    fits: Mapping[str, Any] = field(default_factory=dict)
    estimates: pd.DataFrame | None = None

    @property
    def reliable(self) -> bool:
        """Whether every check holds. Verdicts that say how mode and posterior differ do not count."""
        return all(verdict.holds for verdict in self.verdicts if verdict.check)

    @property
    def headline(self) -> str:
        """The answer in one or two sentences."""
        return headline(self.verdicts, self.switching)

    def __repr__(self) -> str:
        failed = [verdict.name for verdict in self.verdicts if verdict.check and not verdict.holds]
        state = f"{len(failed)} checks fail: {', '.join(failed)}" if failed else "all checks hold"
        return f"Comparison({self.fit.plan.structure.name}: {len(self.table)} rows, {state})"

    def __str__(self) -> str:
        marks = {(True, True): " ", (True, False): " ", (False, True): "✗", (False, False): "~"}
        width = max(len(verdict.name) for verdict in self.verdicts) + 2
        lines = [*wrap(self.headline, TEXT_WIDTH)]
        for verdict in self.verdicts:
            lines += _hanging(f"{marks[verdict.holds, verdict.check]} {verdict.name:<{width}}", verdict.text)
            lines += _hanging(f"  {'':<{width}}→ ", verdict.advice) if verdict.advice else []
        lines += [*_hanging(f"  {'cost':<{width}}", self.cost), ""]
        if not self.mixing.holds:
            lines += [f"  {UNCONVERGED}"]
        lines += [self._text_table()]
        if self.estimates is not None:
            lines += ["", "  all fits beside the posterior, components named as in the first", self._text_estimates()]
        return visible("\n".join(lines))

    @property
    def cost(self) -> str:
        """What both took, in one line."""
        known = {
            "nuts_sampling_seconds": "NUTS {:.1f} s sampling",
            "nuts_compile_seconds": "{:.1f} s compiling",
        }
        parts = [f"EM {self.timing['em_seconds']:.2f} s"]
        parts += [text.format(self.timing[key]) for key, text in known.items() if not np.isnan(self.timing[key])]
        rate = self.timing["ess_per_second"]
        if rate > 0:
            each = f"{1000 / rate:.{0 if rate < 100 else 2}f} ms" if rate > 1 else f"{1 / rate:.1f} s"
            parts += [f"{rate:.0f} effective draws per second"] if rate > 1 else []
            parts.append(f"{each} for each effective draw")
        return " · ".join(parts)

    def _text_table(self) -> str:
        shown = self.table.head(TEXT_ROWS)
        level = f"{INTERVAL:.0%}"
        titles = ["EM", "se", f"{level} interval", "", "|  mean", "sd", f"{level} HDI", "", "R-hat", "ESS"]
        titles += ["|  difference", ""]
        cells = [["parameter", *titles]]
        for name, row in shown.iterrows():
            numbers = [row[column] for column in COLUMNS[:-1]]
            sd = row["sd"]
            at_sd = (sd, np.nan, sd, sd, sd, np.nan, sd, sd)
            texts = [_digits(number, spread) for number, spread in zip(numbers[:8], at_sd)]
            texts += [f"{numbers[8]:.3f}", f"{numbers[9]:.0f}", f"{numbers[10]:.2f}", row["flag"]]
            cells.append([str(name), *("" if text == "nan" else text for text in texts)])
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  " + _line(cell, widths) for cell in cells]
        if len(self.table) > TEXT_ROWS:
            lines.append(f"  … and {len(self.table) - TEXT_ROWS} more rows in comparison.table")
        return "\n".join(lines)

    def _text_estimates(self) -> str:
        assert self.estimates is not None
        shown = self.estimates.head(TEXT_ROWS)
        cells = [["parameter", *shown.columns[:-2], "|  mean", "sd", ""]]
        cells += [
            [str(name), *(_digits(value, row[-1]) for value in row), ""]
            for name, row in zip(shown.index, shown.to_numpy())
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        return "\n".join("  " + _line(cell, widths) for cell in cells)

    def to_html(self, path: str | Path, *, title: str | None = None, command: str | None = None) -> Path:
        """Write the report as one self-contained page and return its path; no network is needed to read it.

        Written aside and renamed, so that a page is never half there. `title`: what to call the model (its own name
        where none is given). `command`: the shell command that reproduces the page, where there was one.
        """
        return write_page(self, Path(as_path(path, "path")), title, command)

    def to_markdown(
        self, path: str | Path, *, title: str | None = None, command: str | None = None, pictures: bool = False
    ) -> Path:
        """Write the report as markdown and return its path; arguments as for `to_html`.

        `pictures`: also write them, as SVG, into a folder beside the file that is named after it.
        """
        return write_markdown(self, Path(as_path(path, "path")), title, command, pictures)

    def to_json(self, path: str | Path, *, title: str | None = None, command: str | None = None) -> Path:
        """Write the report as JSON, numbers unrounded, and return its path; arguments as for `to_html`."""
        return write_json(self, Path(as_path(path, "path")), title, command)

    def to_datatree(self) -> xr.DataTree:
        """All of it as an ArviZ DataTree that can be saved: aligned draws, estimate, table, permutations, members.

        Groups besides those of the draws: `point_estimate`, `standard_error`, `comparison` (the table over
        `element`), `members_<latent>`; the verdicts are JSON in the root's attribute `verdicts`.
        """
        tree = self.draws.copy()
        tree["point_estimate"] = xr.DataTree(self.fit.theta)
        tree["standard_error"] = xr.DataTree(self.fit.standard_errors())
        table = self.table.join(self.details[["quantile", "skewness", "coverage", "mcse"]])
        columns = {
            name: ("element", table[name].to_numpy(dtype=str if name == "flag" else float)) for name in table.columns
        }
        tree["comparison"] = xr.DataTree(xr.Dataset(columns, coords={"element": table.index.to_numpy(dtype=str)}))
        for name, dataset in self.members.items():
            tree[f"members_{name}"] = xr.DataTree(dataset)
        records = [asdict(verdict) for verdict in self.verdicts]
        tree.attrs["verdicts"] = json.dumps(records, ensure_ascii=False)
        tree.attrs["headline"] = self.headline
        return tree

    def plot_marginals(self, limit: int = plots.PANELS) -> "Figure":
        """Aligned posterior of each parameter with EM's estimate and its 95% interval on top."""
        return plots.marginals(self, limit)

    def plot_ascent(self) -> "Figure":
        """Objective of every start by iteration, the winner bold."""
        return plots.ascent(self.fit)

    def plot_permutations(self) -> "Figure":
        """Labelling of every draw, chain by chain. Raises InvalidArgumentError for a model without symmetry."""
        return plots.permutations(self.switching)

    def plot_ranks(self) -> "Figure":
        """Ranks of each chain's draws before and after alignment. Raises InvalidArgumentError without a symmetry."""
        return plots.ranks(self)

    def plot_modes(self) -> "Figure":
        """The mode atlas: how high each mode is, and which share of draws and of random starts climbs to it.

        Raises InvalidArgumentError where there is none.
        """
        if self.atlas is None:
            raise InvalidArgumentError(
                "this comparison has no mode atlas", "plot_modes", ("emppl.compare(fit, draws, ascents=60)",)
            )
        return plots.modes(self.atlas, self.atlas.known[0] if self.atlas.known else -1)

    def plot_responsibilities(self, latent: str | None = None) -> "Figure":
        """EM's responsibilities against their posterior average, of one latent (the first where none is named)."""
        return plots.responsibilities(self, latent)

    def plot_forest(self, limit: int = plots.FOREST_ROWS) -> "Figure":
        """EM's estimate and interval, Laplace's draws and NUTS's: in posterior sds from the posterior mean."""
        return plots.forest(self, limit)

    def plot_data(self) -> "Figure | None":
        """Observed data by component, None where they are not one or more numbers for each member of a latent."""
        return plots.data(self)


def compare(
    fit: Any,
    draws: xr.DataTree,
    *,
    method: str = "auto",
    ascents: int | None = None,
    progress: bool | Callable[[dict[str, Any]], None] | None = None,
) -> Comparison:
    """EM's fit beside draws of the same posterior: labels aligned, numbers tabulated, differences judged.

    `fit`: a Fit, or several of one model as {name: Fit}: the first is compared in full, the others stand beside it
    (`comparison.estimates`), each with a verdict on how it differs and why. `draws`: a DataTree as `emppl.sample` or
    `pm.sample` return it; every draw is aligned to the fit's labels by `method` (see `emppl.relabel`). Posterior
    probabilities of the latents are read from the `latent` group, and computed where there is none. `ascents`: from how
    many draws EM climbs to say how many modes there are (None: up to 200, fewer where a pass is dear; 0: from none).
    `progress`: True, a bar on standard error (lines, where that is a file) that is gone at the end; False, none; None,
    one on a terminal and in notebooks; or a callable, called with {"stage": "comparing", "what"} as each part begins,
    with "done" and "of" where it counts ascents.
    Raises InvalidArgumentError for draws that lack the model's parameters or hold other data than it has, and for fits
    of different models.
    Cost: about 200 evaluations of the objective and 20 E-steps for each ascent, besides the alignment.
    """
    name, fit, further = first_and_others(fit)
    if not hasattr(fit, "point"):
        raise InvalidArgumentError(
            f"compare needs a Fit first, not {type(fit).__name__}",
            "the argument `fit`",
            ("comparison = emppl.compare(emppl.fit(model), emppl.sample(model))",),
        )
    ascents = None if ascents is None else as_whole(ascents, "ascents", 0)
    with watching(progress) as watcher:
        plan, point, theta = reference(draws, fit, None)
        _refuse_other_draws(plan, draws)
        watcher({"stage": "comparing", "what": "labels"})
        switching, aligned = examine(draws, plan, point, theta, method)
        watcher({"stage": "comparing", "what": "table"})
        table, details, left_out = tabulate(fit, aligned)
        averaged = members(fit, aligned)
        found = heights(fit, aligned)
        others = renamed(fit, further)
        atlas = survey(
            fit, aligned, found, ascents, [other.point for other in others],
            lambda done, of: watcher({"stage": "comparing", "what": "ascents", "done": done, "of": of}),
        )  # fmt: skip
        watcher({"stage": "comparing", "what": "verdicts"})
        own = table[~details["derived"].astype(bool)]
        mixed = mixing(aligned, table, details, switching, atlas)
        if not mixed.holds:
            table = table.assign(flag=flags(table.join(details), not is_degenerate(fit), pooled=False))
        evidence = Evidence(
            fit, aligned, table, details, switching, averaged, found, mixed, atlas, go_on(fit, found, atlas),
            laplace_table(fit, aligned, details), prior_table(fit, aligned, details),
            predict(aligned, atlas, float(mixed.r_hat.max())),
        )  # fmt: skip
        several = estimates(name, fit, others, table, details)
        verdicts = in_order(
            [*judge(evidence), *against_others(name, fit, others, several, atlas, details, mixed.holds)]
        )
        return Comparison(
            fit, aligned, table, verdicts, switching, _timing(fit, aligned, own), averaged, details, left_out,
            found.best, mixed, atlas, evidence.better, evidence.laplace, evidence.priors, evidence.prediction,
            {name: fit, **further}, several,
        )  # fmt: skip


def _refuse_other_draws(plan: Any, draws: xr.DataTree) -> None:
    """Raises where the draws are of other parameters than the fit, or say that they are of other observations."""
    held = list(map(str, posterior_of(draws).data_vars))
    missing = [node.name for node in plan.structure.parameters if node.name not in held]
    if missing:
        raise InvalidArgumentError(
            f"the draws have no {', '.join(missing)}; they hold {', '.join(held)}", "draws.posterior",
            ("sample the model that was fitted, and keep all its parameters in the draws",),
        )  # fmt: skip
    if "observed_data" not in draws.children:
        return
    group = draws["observed_data"].to_dataset()
    for node in plan.structure.observed:
        ours = getattr(getattr(node, "value", None), "data", None)
        if ours is None or node.name not in group:
            continue
        ours, theirs = np.asarray(ours), group[node.name].values
        if ours.shape != theirs.shape:
            how = f"shape {theirs.shape} in the draws and {ours.shape} in the model"
        elif ours.dtype.kind in "biuf" and not (same := np.isclose(ours, theirs, rtol=1e-6, equal_nan=True)).all():
            index = np.unravel_index(int(np.argmin(same)), same.shape)
            place = f"[{', '.join(map(str, index))}]" if index else ""
            how = f"{theirs[index]} in the draws and {ours[index]} in the model at {node.name}{place}"
        else:
            continue
        raise InvalidArgumentError(
            f"the draws are of other data than the fit: {node.name} has {how}", f'draws.observed_data["{node.name}"]',
            ("emppl.sample(fit): draws of the model and data that were fitted",),
        )  # fmt: skip


def _timing(fit: Any, draws: xr.DataTree, table: pd.DataFrame) -> dict[str, float]:
    """Seconds of EM and NUTS (nan where the draws do not say), the least ESS and that by second of sampling."""
    attrs = {**draws["posterior"].attrs, **draws.attrs}
    sampling = float(attrs.get("sampling_seconds", attrs.get("sampling_time", np.nan)))
    ess = table["ess_bulk"].dropna()
    least = float(ess.min()) if len(ess) else np.nan
    return {
        "em_seconds": float(fit.seconds),
        "nuts_sampling_seconds": sampling,
        "nuts_compile_seconds": float(attrs.get("compile_seconds", np.nan)),
        "ess_min": least,
        "ess_per_second": least / sampling if sampling > 0 else np.nan,
    }


def _hanging(lead: str, text: str) -> list[str]:
    """Text in lines of TEXT_WIDTH, all but the first indented to where the first begins."""
    return wrap(text, TEXT_WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead), break_long_words=False)


def _digits(value: float, spread: float = np.nan) -> str:
    """Three decimals, more for small numbers and fewer for large ones, but as many as show their sd `spread`."""
    if is_far(value, spread):
        return f"{value:.{decimals(spread)}f}"
    size = abs(value)
    if size and (size < 1e-2 or size >= 1e5):
        return f"{value:.2e}"
    return f"{value:.3f}" if size < 1000 else f"{value:.1f}"


def _line(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:-1], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]]).rstrip()
