"""The report: a Comparison as one HTML page with its pictures inside, in the order of questions a reader asks."""

import base64
import io
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from emppl import plots
from emppl.comparison.content import MEMBERS_SHOWN, MODES_SHOWN, R_HAT_ROWS, gather
from emppl.comparison.numbers import figure, fixed, height, number, percent, short
from emppl.comparison.table import INTERVAL
from emppl.comparison.terms import TERMS
from emppl.storage import write_text
from emppl.text import fenced, markdown, visible

ROWS_SHOWN = 40  # of the table, at once
ROWS_FOLDED = 400  # more, behind a click; the rest is counted
SVG_LIMIT = 400_000  # bytes; a denser picture is stored as pixels
LIMITS = {"rows": ROWS_SHOWN, "members": MEMBERS_SHOWN, "modes": MODES_SHOWN, "r_hat": R_HAT_ROWS}


def write_page(comparison: Any, path: Path, title: str | None = None, command: str | None = None) -> Path:
    """Render as HTML and write."""
    return write_text(path, render(comparison, title, command))


def render(comparison: Any, title: str | None = None, command: str | None = None) -> str:
    """The page as text."""
    content = gather(comparison, title, command)
    return (
        environment(html=True)
        .get_template("report.html.jinja")
        .render(
            **content,
            rows=split_rows(content["table"]),
            pictures=pictures(comparison, content),
            prior_share=prior_share(content),
            terms=TERMS,
            limits=LIMITS,
        )
    )


def environment(html: bool) -> Environment:
    """Where templates stand, and the filters by which they write numbers."""
    found = Environment(
        loader=PackageLoader("emppl.comparison", "."),
        autoescape=True,
        finalize=partial(_written, visible if html else lambda text: Markup(markdown(text))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {"number": number, "figure": figure, "height": height, "short": short, "fixed": fixed, "percent": percent}
    found.filters |= {**filters, "terms": link_terms, "picture": picture, "sentence": sentence}
    found.filters |= {"fenced": lambda text, language="": Markup(fenced(text, language))}
    return found


def _written(escaped: Callable[[str], str], value: Any) -> Any:
    """What a template puts in: whatever is not the template's own is text of unknown origin."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def prior_share(content: dict[str, Any]) -> dict[str, float]:
    """Share of the precision that is the prior's, by row of the table."""
    return {row["parameter"]: row["share"] for row in content["priors"] or ()}


def split_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows shown at once, those folded away, and how many are left out of the page."""
    left = max(0, len(rows) - ROWS_SHOWN - ROWS_FOLDED)
    return {"shown": rows[:ROWS_SHOWN], "folded": rows[ROWS_SHOWN : ROWS_SHOWN + ROWS_FOLDED], "left": left}


def link_terms(text: str) -> Markup:
    """Text with the first mention of each term linked to its line of explanation."""
    html = str(escape(visible(text)))
    for key, (word, _) in sorted(TERMS.items(), key=lambda item: -len(item[1][0])):
        pattern = rf"(?<![\w>#-])({re.escape(word)})(?![\w\[-])(?![^<]*</a>)"  # not in sd[0], which is a parameter
        html = re.sub(pattern, rf'<a class="term" href="#term-{key}">\1</a>', html, count=1)
    return Markup(html)


# -- pictures ----------------------------------------------------------------------------------------------------------


def picture(drawn: tuple[Any, ...]) -> Markup:
    """An <img> that carries its picture: SVG in the colours of the reader's theme, PNG where that would be large."""
    figure, alt = drawn[:2]
    kind, stored = "svg+xml", plots.svg(figure).encode()
    if len(stored) > SVG_LIMIT:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=170)
        kind, stored = "png", buffer.getvalue()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    encoded = base64.b64encode(stored).decode("ascii")
    return Markup('<img src="data:image/{};base64,{}" width="{}" height="{}" alt="{}">').format(
        kind, encoded, width, height, visible(alt)
    )


def pictures(comparison: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Every picture of the page with its alternative text, None where there is nothing to draw."""
    labelled = content["labels"] is not None
    switching = comparison.switching
    return {
        "marginals": marginal_pictures(comparison),
        "left": len(plots.shown_rows(comparison, len(comparison.table)))
        - len(plots.shown_rows(comparison, plots.PANELS)),
        "forest": (plots.forest(comparison), forest_alt(comparison)),
        "permutations": (
            plots.permutations(switching),
            f"Labelling of every draw by chain: {switching.verdict}",
            permutations_caption(switching),
        )
        if labelled
        else None,
        "ranks": (plots.ranks(comparison), ranks_alt(content["labels"]))
        if labelled and content["labels"]["aligned"] and len(switching.r_hat)
        else None,
        "ascent": (plots.ascent(comparison.fit), ascent_alt(content)),
        "modes": modes_picture(comparison),
        "members": {
            entry["latent"]: None
            if entry["mean_difference"] is None
            else (plots.responsibilities(comparison, entry["latent"]), entry["summary"])
            for entry in content["members"]
        },
        "data": data_picture(comparison),
    }


def marginal_pictures(comparison: Any) -> list[tuple[Figure, str]]:
    """One small picture for each parameter, so that they flow with the width of the page."""
    names = plots.shown_rows(comparison, plots.PANELS)
    limits = plots.shared_limits(comparison, names)
    found = []
    for name in names:
        row = comparison.table.loc[name]
        words = "no interval" if row["low"] != row["low"] else f"interval {row['low']:.4g} to {row['high']:.4g}"
        alt = (
            f"{name}: posterior mean {row['mean']:.4g}, {INTERVAL:.0%} HDI {row['hdi_low']:.4g} to "
            f"{row['hdi_high']:.4g}; EM estimate {row['estimate']:.4g}, {words}"
        )
        found.append((plots.marginal(comparison, name, limits[name]), alt))
    return found


def forest_alt(comparison: Any) -> str:
    """What the forest shows, in words."""
    differences = comparison.table.loc[plots.shown_rows(comparison, plots.FOREST_ROWS), "difference"].dropna()
    if differences.empty:
        return "EM's estimates in units of the posterior: none to show"
    worst = differences.abs().idxmax()
    return (
        f"EM's estimates and intervals of {len(differences)} parameters beside the posterior's, in posterior standard "
        f"deviations; largest difference {differences[worst]:.2f} ({worst})"
    )


def permutations_caption(switching: Any) -> str:
    """How to read the permutations, drawn as lines or as shades."""
    if plots.few_labellings(switching.permutations):
        return (
            "The labelling of each draw, one panel a chain. A flat line: the chain keeps its names; “=” marks the "
            "names of the fit."
        )
    return (
        "One panel a chain, a row for each name of the fit. Where a row changes its shade, the chain gave that name's "
        "component another number: a chain that keeps its names has rows of one shade each."
    )


def ranks_alt(labels: dict[str, Any]) -> str:
    """What the rank plots show, in words."""
    before, after = (
        max((row[key] for row in labels["r_hat"]), default=float("nan")) for key in ("r_hat_before", "r_hat_after")
    )
    return (
        f"Ranks of each chain's draws before and after alignment; largest R-hat {before:.3f} before, {after:.3f} after"
    )


def ascent_alt(content: dict[str, Any]) -> str:
    """What the ascent shows, in words."""
    found = content["ascent"]
    reached = found["log_likelihood" if content["estimate"] == "ml" else "log_posterior"]
    return f"{found['starts']} starts climbing; the best ends at {reached:.4f} after {found['iterations']} iterations"


def modes_picture(comparison: Any) -> tuple[Figure, str] | None:
    """The mode atlas where it has more to say than that there is one mode."""
    atlas = comparison.atlas
    if atlas is None or len(atlas.modes) < 2:
        return None
    reported = atlas.known[0] if atlas.known else -1
    shares = "; ".join(f"mode {i + 1} {mode.share:.0%}" for i, mode in enumerate(atlas.modes[:4]))
    return plots.modes(atlas, reported), f"{len(atlas.modes)} modes; share of the draws that climb to each: {shares}"


def data_picture(comparison: Any) -> tuple[Figure, str, str] | None:
    """The data by component, their alternative text and their caption, where there is a way to draw them."""
    figure = plots.data(comparison)
    if figure is None:
        return None
    panels = plots.observed_panels(comparison)
    names = ", ".join(dict.fromkeys(panel.name for panel in panels))
    words = ["Every member counts towards each component with its responsibility."]
    if any(panel.values.shape[1] > 1 for panel in panels):
        words.append("Colour and marker show the likeliest one.")
    curves = {min(panel.values.shape[1], 3) for panel in panels if panel.densities is not None}
    if 1 in curves:
        words.append(
            "Black, the density of the fit; broken, its components; shaded, where the densities of 95% of the draws of "
            "NUTS lie at each point: members expected in a bar."
        )
    if 2 in curves:
        words.append("Thick, contours of the fit's components; thin, those of some draws of NUTS.")
    alt = f"Observed {names}, each member shared out among the components by its responsibilities"
    return figure, alt, " ".join(words)
