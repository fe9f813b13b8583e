"""The report as markdown and as JSON: the same content as the page's."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from emppl import plots
from emppl.comparison.content import gather
from emppl.comparison.page import environment, prior_share
from emppl.comparison.terms import TERMS
from emppl.plain import plain
from emppl.storage import write_text
from emppl.text import markdown


def render_markdown(comparison: Any, title: str | None = None, command: str | None = None) -> str:
    """The report as markdown, without its pictures."""
    content = gather(comparison, title, command)
    text = (
        environment(html=False)
        .get_template("report.md.jinja")
        .render(**content, hdi_text=f"{content['hdi']:.0%}", prior_share=prior_share(content), terms=TERMS)
    )
    lines = text.strip().splitlines()
    kept = [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]
    return "\n".join(kept) + "\n"


def render_json(comparison: Any, title: str | None = None, command: str | None = None) -> str:
    """The report as one JSON document: what is not a finite number is null."""
    return json.dumps(plain(gather(comparison, title, command)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_markdown(
    comparison: Any, path: Path, title: str | None = None, command: str | None = None, pictures: bool = False
) -> Path:
    """Render as markdown and write; the pictures, if asked for, as SVG into a folder that is named after the file."""
    text = render_markdown(comparison, title, command)
    if pictures:
        folder = path.with_name(f"{path.stem}-pictures")
        text += "\n## Pictures\n\n"
        for name, figure in drawn(comparison).items():
            file = re.sub(r"[^\w.-]+", "_", name) + ".svg"
            write_text(folder / file, plots.svg(figure))
            words = markdown(name.replace("_", " ").replace("-", " "))
            text += f"![{words}]({quote(folder.name)}/{quote(file)})\n\n"
    return write_text(path, text)


def drawn(comparison: Any) -> dict[str, Any]:
    """The pictures of a report by name, those that there are."""
    found = {"marginals": plots.marginals(comparison), "forest": plots.forest(comparison)}
    if comparison.switching.axes:
        found["permutations"] = plots.permutations(comparison.switching)
        found["ranks"] = plots.ranks(comparison)
    found["ascent"] = plots.ascent(comparison.fit)
    if comparison.atlas is not None and len(comparison.atlas.modes) > 1:
        found["modes"] = plots.modes(comparison.atlas, comparison.atlas.known[0] if comparison.atlas.known else -1)
    for latent in comparison.members:
        found[f"members-{latent}"] = plots.responsibilities(comparison, latent)
    data = plots.data(comparison)
    return found | ({} if data is None else {"data": data})


def write_json(comparison: Any, path: Path, title: str | None = None, command: str | None = None) -> Path:
    """Render as JSON and write."""
    return write_text(path, render_json(comparison, title, command))
