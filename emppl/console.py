"""Results as text: what the commands print. Colour only repeats what a word or a mark says."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import pandas as pd
from rich.console import Console, ConsoleOptions, RenderHook
from rich.control import Control
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from emppl.errors import EmpplError
from emppl.streams import with_a_width
from emppl.text import visible

PIPE_WIDTH = 120  # columns where the output is no terminal, so that a line stays a line for grep
LEFT_FOR_TEXT = 44  # columns; consoles that leave less beside the names get records one below the other
VALUES_SHOWN = 12
WORTH_SHOWING = 0.005  # probability
MEMBERS_SHOWN = 12  # latents with more members are counted by value
ROWS_SHOWN = 60  # of the table of parameters
DERIVED_SHOWN = 50  # a deterministic with more numbers than this is left out of it
DOUBTFUL = 0.9  # a member whose most probable value has less is doubtful
GOOD, BAD, NOTE, FAINT = "green", "bold red", "yellow", "dim"
DEFECT = "a rule of emppl is wrong for this model: do not use the result, and report it with the model file"


def make_console(file: TextIO | None = None, *, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, since "bias[A]" is a name, no emoji, no guessed highlights."""
    console = Console(file=file, stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = PIPE_WIDTH
    with_a_width(console, PIPE_WIDTH)
    console.push_render_hook(_Visible())
    return console


class _Visible(RenderHook):
    """Whatever is printed shows its control characters and does not send them; those of the console's own stay."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [one if isinstance(one, Control) else _Shown(one) for one in renderables]


@dataclass(frozen=True)
class _Shown:
    renderable: Any

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.renderable)


def _print(console: Console, renderable: Any, indent: int = 2) -> None:
    """Print without the blanks with which tables fill their last column up."""
    with console.capture() as capture:
        console.print(Padding(renderable, (0, 0, 0, indent), expand=False))
    for line in capture.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def show_error(console: Console, error: EmpplError) -> None:
    """The message of an error: its kind, what was met, where, and the ways out."""
    head, *rest = str(error).split("\n")
    line = Text(f"{type(error).__name__}: ", style=BAD)
    console.print(line.append(head, style="default not bold"), soft_wrap=True)
    for text in rest:
        console.print(Text(text), soft_wrap=True)


# -- explain -----------------------------------------------------------------------------------------------------------


def show_plan(console: Console, plan: Any) -> None:
    """What will be done to a model: a row a variable, then remarks."""
    rows = plan.rows()
    console.print(Text(str(plan).partition("\n")[0], style="bold"))
    console.print()
    names = [max(len(row[key]) for row in rows) for key in list(rows[0])[:2]] if rows else [0, 0]
    if console.width - sum(names) < LEFT_FOR_TEXT:
        for row in rows:
            name, role, *rest = row.values()
            console.print(Text(f"  {name}", style="bold").append(f"  {role}", style="default not bold"))
            for text in filter(None, rest):
                _print(console, Text(text), 4)
    else:
        table = _table(list(rows[0]))
        for column in table.columns[: len(names)]:
            column.no_wrap = True  # a name is not to be broken
        for row in rows:
            table.add_row(*map(Text, row.values()))
        _print(console, table)
    console.print()
    _listed(console, "-", plan.remarks())


# -- fit ---------------------------------------------------------------------------------------------------------------


def show_fit(console: Console, fit: Any, command: str) -> None:
    """Height, evidence, parameters and members of a fit; then what to do where something failed."""
    _show_head(console, fit)
    failed = [f"{point.name}: {point.text}" for point in fit.certificate.points if not point.holds]
    if fit.status.name != "CONVERGED":
        failed.insert(0, f"{fit.status.name}: {fit.status.value}")
    _listed(console, "✗", failed, BAD)
    _listed(console, "note", fit.certificate.notes, NOTE)
    _show_parameters(console, fit)
    for node in fit.plan.structure.latents:
        _show_members(console, fit, node)
    ways = advice(fit)
    if ways:
        console.print()
        console.print(Text(f"What to do next (this was: {command})", style="bold"))
        _listed(console, "→", ways)


def _show_head(console: Console, fit: Any) -> None:
    likelihood = f"log-likelihood {fit.log_likelihood:.4f}"
    height = likelihood.replace("hood ", "hood  ")
    if fit.plan.estimate == "map":
        height = f"log posterior  {fit.log_posterior:.4f}   ({likelihood}, log prior {fit.log_prior:.4f})"
    points = {point.name: point for point in fit.certificate.points}
    how = "not of this model" if fit.status.name == "DISAGREES" else "not converged"
    state = "converged" if fit.status.name == "CONVERGED" else f"{how} ({fit.status.name})"
    if "maximum" in points and points["maximum"].holds:
        state += f": {points['maximum'].value:.0e} nats left"
    work = f"{state} · {fit.n_passes:,} E-steps · {fit.seconds:.2f} s"
    reached = points["starts"].text.partition(": raise")[0] if "starts" in points else ""
    held = f"certificate: {sum(p.holds for p in points.values())} of {len(points)} hold"
    lines = [(height, work), (reached.replace("reached by", "found by", 1), held)]
    width = max(len(left) for left, _ in lines) + 3
    if width + max(len(right) for _, right in lines) <= console.width:
        for left, right in lines:
            console.print(Text(left.ljust(width) + right))
    else:
        for text in filter(None, (text for pair in lines for text in pair)):
            console.print(Text(text))


def _show_parameters(console: Console, fit: Any) -> None:
    table = fit.summary()
    sizes = {str(name): values.size for name, values in fit.theta.data_vars.items()}
    free = set(fit.plan.structure.parameter_names)
    large = [name for name, size in sizes.items() if name not in free and size > DERIVED_SHOWN]
    shown = table[~table["parameter"].isin(large)]
    rest = len(shown) - ROWS_SHOWN
    console.print()
    if table.empty:
        console.print("  nothing to estimate: the model has no free parameter")
        return
    dims = {", ".join(map(str, fit.theta[name].dims)) for name in shown["parameter"].unique() if fit.theta[name].dims}
    titles = ["parameter", dims.pop() if len(dims) == 1 else "index", "estimate", "std. error", "95 % interval"]
    cells: list[list[str]] = []
    for _, rows in shown.head(ROWS_SHOWN).groupby("parameter", sort=False):
        places = _places(rows["standard_error"], rows["estimate"])
        for row in rows.itertuples():
            known = np.isfinite(row.standard_error)
            interval = f"{_fixed(row.low, places)} … {_fixed(row.high, places)}" if known else "–"
            error = _fixed(row.standard_error, places) if known else "–"
            cells.append([row.parameter, row.index, _fixed(row.estimate, places), error, interval])
    _show_cells(console, dict(zip(titles, zip(*cells))), 2)
    if not np.isfinite(shown["standard_error"]).all():
        reason = "hard assignments have no standard errors"
        if fit.plan.method == "em":
            reason = "no standard error on a border, at a corner of the density, or where the data do not tell"
        console.print(Text(f"  –: {reason}", style=FAINT))
    if rest > 0:
        console.print(Text(f"  … and {rest:,} more numbers: --json has all of them", style=FAINT))
    for name in large:
        console.print(Text(f"  {name}: {sizes[name]:,} numbers, left out here: --json has all of them", style=FAINT))


def _show_members(console: Console, fit: Any, node: Any) -> None:
    probabilities = np.asarray(fit.responsibilities()[node.name].values, dtype=float)
    flat = probabilities.reshape(-1, probabilities.shape[-1])
    title, labels = value_labels(fit.plan, node)
    console.print()
    if len(flat) > MEMBERS_SHOWN:
        _show_counts(console, flat, node, title, labels)
        return
    coords = fit.plan.structure.coords
    names = [", ".join(str(coords[d][i]) for d, i in zip(node.dims, index)) for index in np.ndindex(*node.shape)]
    if len(labels) == 2:  # the other probability is what is missing to one
        chosen = [1] if node.distribution.startswith("Bernoulli") else [0]
    else:
        chosen = list(range(len(labels)))
    if len(chosen) > VALUES_SHOWN:  # a change point may lie in any of a hundred years: those that it may well lie in
        chosen = [k for k in chosen if flat[:, k].max() >= WORTH_SHOWING]
    heads = [f"P({title} {labels[k]})" for k in chosen]
    corner = ", ".join(node.dims) or node.name
    across = [corner, *names], [[head, *(f"{v:.2f}" for v in flat[:, k])] for head, k in zip(heads, chosen)]
    down = [corner, *heads], [[name, *(f"{v:.2f}" for v in flat[i, chosen])] for i, name in enumerate(names)]
    columns = zip(*([across[0]] + across[1]))
    wide = sum(max(map(len, column)) + 2 for column in columns) + 2 > console.width
    titles, rows = down if wide else across
    view = _table(titles, right=range(1, len(titles)))
    for row in rows:
        view.add_row(*map(Text, row))
    _print(console, view)


def _show_counts(console: Console, flat: np.ndarray, node: Any, title: str, labels: Sequence[str]) -> None:
    """Members by value: expected number, and how many have it as their most probable one."""
    assigned = np.bincount(flat.argmax(axis=1), minlength=flat.shape[1])
    view = _table([title, "expected", "assigned", "share"], right=(1, 2, 3))
    for label, expected, count in list(zip(labels, flat.sum(axis=0), assigned))[:ROWS_SHOWN]:
        view.add_row(Text(label), f"{expected:,.1f}", f"{count:,}", f"{expected / len(flat):.1%}")
    _print(console, view)
    doubtful = int((flat.max(axis=1) < DOUBTFUL).sum())
    text = f"{len(flat):,} members of {node.name}; the most probable value of {doubtful:,} has less than {DOUBTFUL:.0%}"
    console.print(Text(f"  {text}", style=FAINT))


def value_labels(plan: Any, node: Any) -> tuple[str, list[str]]:
    """What a latent is called and what its values are: ("coin", ["A", "B"]), or ("z =", ["0", "1"])."""
    for axis in plan.axes:
        if axis.latent == node.name and axis.dim and "_dim_" not in axis.dim:
            return axis.dim, [str(label) for label in axis.labels]
    return f"{node.name} =", [str(label) for label in node.labels]


def advice(fit: Any) -> list[str]:
    """What to do next, by what failed; empty when nothing did."""
    again = f"--starts {max(50, 5 * len(fit.starts))}"
    ml = fit.plan.estimate == "ml"
    longer = "--max-iter 20000 carries it on"
    by_status = {
        "MAX_ITER": longer,
        "DEGENERATE": "the certificate says what would hold it; fewer components (--set k=…) may not need holding",
        "SPURIOUS": f"{again}, or --estimate map" if ml else f"{again}, or fewer components (--set k=…)",
        "SADDLE": f"{again}, or another --seed",
        "DECREASED": DEFECT,
        "DISAGREES": DEFECT,
        "INTERRUPTED": "the best so far is shown; run it again, with fewer --starts if it takes too long",
        "SHORT": again,
    }
    ways = [by_status[fit.status.name]] if fit.status.name in by_status else []
    for point in fit.certificate.points:
        if point.holds or (point.name == "maximum" and fit.status.name in ("DEGENERATE", "INTERRUPTED")):
            continue
        if point.name == "starts":
            ways.append(f"{again}: a mode found once may not be the best")
        elif point.name not in ("maximum", "bounded"):
            ways.append(DEFECT)
        elif "nats" in point.text:
            ways.append(longer)
        elif "saddle" in point.text:
            ways.append(f"{again}, or another --seed")
        else:
            ways.append(
                "the data do not settle these parameters: fewer components, stronger priors, or one of them fixed"
            )
    return list(dict.fromkeys(ways))


# -- sample, compare, rules --------------------------------------------------------------------------------------------


def show_draws(console: Console, table: pd.DataFrame, draws: Any, verdicts: Iterable[Any]) -> None:
    """How the sampling went, and the draws summarised as they came, before any alignment."""
    attrs, sizes = draws.attrs, draws["posterior"].to_dataset().sizes
    head = f"{sizes['chain']} chains × {sizes['draw']:,} draws by {attrs.get('sampler', 'NUTS')}"
    head += f" · {attrs['sampling_seconds']:.1f} s sampling" if "sampling_seconds" in attrs else ""
    head += f" · {attrs['compile_seconds']:.1f} s compiling" if "compile_seconds" in attrs else ""
    console.print(Text(head, style="bold"))
    _show_verdicts(console, verdicts)
    console.print()
    _show_numbers(console, _tidy(table).head(ROWS_SHOWN))
    console.print(
        Text("  of the draws as they came; what is said above holds after alignment of the labels", style=FAINT)
    )
    if len(table) > ROWS_SHOWN:
        console.print(Text(f"  … and {len(table) - ROWS_SHOWN:,} more numbers: --json has all of them", style=FAINT))


def show_comparison(console: Console, comparison: Any) -> None:
    """The verdict, what it rests on (failed checks first), then the table."""
    console.print(Text(comparison.headline, style="bold" if comparison.reliable else BAD))
    _show_verdicts(console, comparison.verdicts, cost=comparison.cost)
    console.print()
    if not comparison.mixing.holds:
        text = "the draws have not converged: what follows describes all of them together, and no finding rests on it"
        console.print(Text(f"  {text}", style=NOTE))
    table = _tidy(comparison.table)
    _show_numbers(console, table.head(ROWS_SHOWN))
    if len(table) > ROWS_SHOWN:
        console.print(Text(f"  … and {len(table) - ROWS_SHOWN:,} more rows: the report has all of them", style=FAINT))
    if comparison.estimates is not None:
        console.print()
        console.print(Text("  all fits beside the posterior, components named as in the first", style=FAINT))
        _show_numbers(console, comparison.estimates.head(ROWS_SHOWN))


def _show_verdicts(console: Console, verdicts: Iterable[Any], **more: str) -> None:
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(no_wrap=True)
    lines.add_column(ratio=1, overflow="fold")
    marks = set()
    for verdict in verdicts:
        mark, style = (" ", "") if verdict.holds else ("✗", BAD) if verdict.check else ("~", NOTE)
        marks.add(mark)
        lines.add_row(Text(mark, style=style), Text(verdict.name, style=style), Text(verdict.text))
        if verdict.advice:
            lines.add_row("", "", Text(f"→ {verdict.advice}"))
    for name, text in more.items():
        lines.add_row("", name, Text(text))
    _print(console, lines, 1)
    meanings = {"✗": "✗ a check that fails", "~": "~ a difference between mode and posterior"}
    if marks - {" "}:
        console.print(Text("   ".join(["", *(text for m, text in meanings.items() if m in marks)]), style=FAINT))


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Titles for people, and the two ends of an interval in one column."""
    pairs = {low: high for low, high in (("low", "high"), ("hdi_low", "hdi_high")) if low in table}
    ends = {
        low: [f"{a} … {b}" if a != "–" else a for a, b in zip(_column(table[low]), _column(table[high]))]
        for low, high in pairs.items()
    }
    digits = {"r_hat": "{:.3f}", "ess_bulk": "{:,.0f}", "difference": "{:.2f}"}
    texts = {
        name: [form.format(value) if np.isfinite(value) else "–" for value in table[name]]
        for name, form in digits.items()
        if name in table
    }
    titles = {
        "estimate": "EM", "standard_error": "se", "low": "95 % interval", "hdi_low": "95 % HDI", "ess_bulk": "ESS",
        "r_hat": "R-hat",
    }  # fmt: skip
    return table.assign(**ends, **texts).drop(columns=list(pairs.values())).rename(columns=titles)


def _show_numbers(console: Console, table: pd.DataFrame) -> None:
    """A table of numbers by parameter."""
    cells = {"parameter": [str(name) for name in table.index]}
    _show_cells(console, cells | {str(name): _column(table[name]) for name in table.columns}, 1)


def _show_cells(console: Console, cells: Mapping[str, Sequence[str]], labels: int) -> None:
    """Columns of text, the first `labels` of them names; split below each other where the console is too narrow."""
    widths = {title: max([len(title), *map(len, column)]) + 2 for title, column in cells.items()}
    titles = list(cells)
    first = 2 + sum(widths[title] for title in titles[:labels])
    groups: list[list[str]] = [[]]
    for title in titles[labels:]:
        used = first + sum(widths[t] for t in groups[-1])
        if groups[-1] and used + widths[title] - 2 > console.width:
            groups.append([])
        groups[-1].append(title)
    for number, group in enumerate(groups):
        shown = [*titles[:labels], *group]
        view = _table(shown, right=[i for i, title in enumerate(shown) if i >= labels and title != "flag"])
        for row in zip(*(cells[title] for title in shown)):
            view.add_row(*map(Text, row))
        if number:
            console.print()
        _print(console, view)


def show_labels(console: Console, report: Any, methods: Iterable[Any]) -> None:
    """What became of the names of components, what no renaming changes, and methods of relabelling side by side."""
    console.print(Text(report.verdict, style="bold" if report.state.cured else BAD))
    if report.caveat:
        console.print(Text(f"~ {report.caveat}", style=NOTE))
    lines = Table.grid(padding=(0, 1, 0, 0))
    lines.add_column(no_wrap=True)
    lines.add_column(ratio=1, overflow="fold")
    for axis in report.axes:
        switches, clear = (", ".join(map(str, counts)) for counts in (axis.switches, axis.clear_switches))
        rows = {
            "symmetry": axis.sentence or f"{axis.noun} ({', '.join(axis.variables)})",
            "switches": f"{switches} by chain" + (f", {clear} of them clear" if clear != switches else ""),
            "aligned": f"by {axis.method}" + (f": {axis.why}" if axis.why else ""),
            "margins": f"median {np.median(axis.margins):.2f} of the reference's own; {axis.ambiguous.mean():.1%} of "
            "the draws could be labelled either way",
            **({"occupied": f"components: {axis.occupied_text()}"} if axis.occupied is not None else {}),
        }
        for name, text in rows.items():
            lines.add_row(name, Text(text))
    if report.axes:
        _print(console, lines, 1)
    tables = {"": report.r_hat.drop(columns="variable"), "what no renaming changes": report.invariants}
    for title, table in tables.items():
        if len(table):
            _show_agreement(console, title, table)
    for found in methods:
        console.print()
        console.print(Text(f"methods for {found.latent}; objective: {found.measure}", style="bold"))
        _show_cells(console, _method_cells(found), 1)
        for name, why in found.skipped.items():
            console.print(Text(f"  not run: {name} ({why})", style=FAINT), soft_wrap=True)


def _show_agreement(console: Console, title: str, table: pd.DataFrame) -> None:
    """R-hat and effective sample size, a row a quantity."""
    console.print()
    if title:
        console.print(Text(title, style="bold"))
    heads = {
        "r_hat_before": "R-hat before", "r_hat_after": "after", "ess_before": "ESS before", "ess_after": "after ",
        "r_hat": "R-hat", "ess": "ESS", "apart": "chains apart",
    }  # fmt: skip
    cells = {"": [str(name) for name in table.index[:ROWS_SHOWN]]}
    for name in table.columns:
        values = table[name].iloc[:ROWS_SHOWN]
        if name == "apart":
            cells[heads[name]] = ["yes" if value else "" for value in values]
            continue
        form = "{:.3f}" if name.startswith("r_hat") else "{:,.0f}"
        cells[heads[name]] = [form.format(value) if np.isfinite(value) else "–" for value in values]
    _show_cells(console, cells, 1)
    if len(table) > ROWS_SHOWN:
        console.print(Text(f"  … and {len(table) - ROWS_SHOWN:,} more: --json has all of them", style=FAINT))


def _method_cells(found: Any) -> dict[str, list[str]]:
    table = found.table
    forms = {
        "agree": ("as first row", "{:.1%}"), "objective": ("objective", "{:,.2f}"), "spread": ("spread", "{:.4f}"),
        "clusters": ("clusters as first row", "{:.1%}"), "ambiguous": ("either way", "{:.1%}"),
        "seconds": ("seconds", "{:.3g}"),
    }  # fmt: skip
    cells = {"method": [str(name) for name in table.index]}
    for name, (title, form) in forms.items():
        if np.isfinite(table[name]).any():
            cells[title] = [form.format(value) if np.isfinite(value) else "–" for value in table[name]]
    return cells | {"ended": [str(status) for status in table["status"]]}


def show_rules(console: Console, tables: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """All registered rules, a table each."""
    for number, (title, rows) in enumerate(tables.items()):
        if number:
            console.print()
        console.print(Text(title, style="bold"))
        view = _table(list(rows[0]) if rows else [])
        for row in rows:
            view.add_row(*map(Text, row.values()))
        _print(console, view)


def show_files(console: Console, files: Mapping[str, str]) -> None:
    """Where results were written, a line a file; never wrapped, so that a path can be copied."""
    width = max(map(len, files), default=0)
    if files:
        console.print()
    for name, path in files.items():
        console.print(Text(f"  {name.ljust(width)}  {path}"), soft_wrap=True)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _table(titles: Sequence[str], right: Iterable[int] = ()) -> Table:
    view, right = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold"), set(right)
    for i, title in enumerate(titles):
        view.add_column(Text(title), justify="right" if i in right else "left", overflow="fold")
    return view


def _listed(console: Console, mark: str, texts: Iterable[str], style: str = "") -> None:
    """Texts behind a mark, wrapped under themselves."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for text in texts:
        grid.add_row(Text(mark, style=style), Text(text, style=style))
    if grid.row_count:
        _print(console, grid)


def _places(errors: pd.Series, values: pd.Series) -> int:
    """Decimals of a parameter: three digits of its smallest standard error; four of its size where there is none."""
    errors = errors[np.isfinite(errors) & (errors > 0)]
    sizes = values.abs()[np.isfinite(values) & (values != 0)]
    if errors.empty and sizes.empty:
        return 3
    places = 2 - np.floor(np.log10(errors.min())) if len(errors) else 3 - np.floor(np.log10(sizes.max()))
    return int(np.clip(places, 0, 12))


def _fixed(value: float, places: int) -> str:
    """A number with so many decimals; those that need more than eight, or are huge, in powers of ten."""
    if not np.isfinite(value):
        return "–"
    if places > 8 or abs(value) >= 1e9:
        return f"{value:.3e}"
    return f"{value:,.{places}f}" if abs(value) >= 1e5 else f"{value:.{places}f}"


def _column(values: pd.Series) -> list[str]:
    """The cells of a column: text as it is, numbers short, nothing where there is none."""
    return [_short(float(v)) if isinstance(v, float | np.floating | int) else str(v) for v in values]


def _short(value: float) -> str:
    size = abs(value)
    if np.isnan(value):
        return "–"
    if size and (size < 1e-3 or size >= 1e6):
        return f"{value:.2e}"
    return f"{value:.3f}" if size < 100 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"


def readable(stream: TextIO | None) -> TextIO:
    """The stream, made to print "?" for what its encoding lacks instead of failing; one that was closed takes all."""
    if stream is None:
        return io.StringIO()
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and stream is not sys.__stdin__:
        reconfigure(errors="replace")
    return stream
