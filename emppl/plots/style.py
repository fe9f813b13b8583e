"""How all pictures look: colours, type, size, and how they follow a dark page."""

import io
import re
import textwrap
from collections.abc import Callable
from functools import wraps
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from emppl.text import visible

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#8C6D00")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
DASHES = ("-", "--", "-.", ":")
EM, NUTS, LAPLACE, QUIET = "#D55E00", "#0072B2", "#7A4FA3", "#6B7280"
PAPER, INK, EDGE, FAINT = "#FBFBF8", "#1F2430", "#9AA0AC", "#DDDDDD"

# What each colour becomes on a dark page: light enough to be seen there, and as far from the others as before.
DARK = {
    PAPER: "#1A1E25", INK: "#E7E9EE", EDGE: "#6F7786", FAINT: "#363C48", QUIET: "#A6ADBB", LAPLACE: "#C3A0E8",
    COLOURS[0]: "#4D9FE8", COLOURS[1]: "#FF8A45", COLOURS[2]: "#35C99B", COLOURS[3]: "#E39BC4",
    COLOURS[4]: "#F2B53A", COLOURS[5]: "#9CD8FA", COLOURS[6]: "#B4B4B4", COLOURS[7]: "#C7A52E",
}  # fmt: skip

POINTS = 2000  # of a scatter plot

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
    "axes.edgecolor": EDGE,
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
            drawn = function(*args, **options)
        if isinstance(drawn, Figure):
            _literally(drawn)
        return drawn

    return draw


def _literally(figure: Figure) -> None:
    """Names and labels are shown as they stand: a dollar sign begins no formula, a control character is written out."""

    def literal(text: str) -> str:
        return visible(text).replace("$", r"\$")

    for text in figure.findobj(Text):
        text.set_text(literal(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            given = axis.get_major_formatter()
            if isinstance(given, FixedFormatter | FuncFormatter | StrCategoryFormatter):
                axis.set_major_formatter(FuncFormatter(lambda x, place, given=given: literal(given(x, place))))


def head(figure: Figure, text: str) -> None:
    """A heading that starts at the left edge and breaks before the right one, however wide the tick labels are."""
    width = int(12 * figure.get_size_inches()[0])
    figure.suptitle(textwrap.fill(text, width), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def marked(figure: Figure, comparison: Any) -> Figure:
    """The figure, with a line below that says so where it shows draws that have not converged."""
    if not comparison.mixing.holds:
        figure.supxlabel("the draws have not converged", fontsize=9, fontweight="bold", color=INK)
    return figure


def svg(figure: Figure) -> str:
    """A picture as SVG whose colours follow the reader's theme; the same picture gives the same text.

    Every colour of DARK becomes a variable with two values, one for light pages and one for dark screens.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "emppl"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    names = {light.lower(): f"--c{i}" for i, light in enumerate(DARK)}
    pattern = re.compile("|".join(names))
    text = re.sub(
        r' style="[^"]*"',
        lambda found: pattern.sub(lambda c: f"var({names[c[0]]})", found[0]),
        visible(stream.getvalue()),  # identifiers and comments
    )
    light = ";".join(f"{name}:{colour}" for colour, name in names.items())
    dark = ";".join(f"{name}:{colour}" for name, colour in zip(names.values(), DARK.values(), strict=True))
    rules = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return re.sub(r"(<svg[^>]*>)", rf"\1<style>{rules}</style>", text, count=1)


def on_axes(data: xr.Dataset, figure: Figure, axes: Any, dims: tuple[str, ...], **aesthetics: Any) -> Any:
    """A collection of arviz-plots that draws on axes of ours, so that its pictures look like the others.

    `axes`: array of as many dimensions as `dims`, which name dimensions of `data`. `aesthetics`: name -> (dims, values
    that are taken in turn). arviz-plots' own figures belong to pyplot, which keeps them open.
    """
    from arviz_plots import PlotCollection

    axes = np.asarray(axes, dtype=object)
    numbers = np.arange(axes.size).reshape(axes.shape)
    viz = xr.Dataset(
        {"figure": np.array(figure, dtype=object)}
        | {name: (dims, values) for name, values in (("plot", axes), ("row_index", numbers), ("col_index", numbers))},
        coords={dim: data[dim] for dim in dims},
    )
    return PlotCollection(
        data,
        xr.DataTree(viz),
        backend="matplotlib",
        aes={name: list(over) for name, (over, _) in aesthetics.items()},
        **{name: list(values) for name, (_, values) in aesthetics.items() if values is not None},
    )
