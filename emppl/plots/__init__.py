"""Pictures of fits and comparisons. They take results and compute nothing beyond histograms, densities and moments.

Every figure says what it shows without colour too (line styles, markers, hatching, labels), has its own background,
which follows the reader's theme where it is written as SVG by `svg`, and is drawn for about half a page's width.
"""

from emppl.plots.ascent import ascent, modes
from emppl.plots.data import ObservedPanel, data, observed_panels
from emppl.plots.forest import FOREST_ROWS, forest
from emppl.plots.labels import few_labellings, permutations, ranks
from emppl.plots.marginals import PANELS, marginal, marginals
from emppl.plots.members import responsibilities
from emppl.plots.rows import as_sampled, element_draws, shared_limits, shown_rows
from emppl.plots.style import COLOURS, INK, STYLE, Picture, styled, svg

__all__ = [
    "COLOURS", "FOREST_ROWS", "INK", "PANELS", "STYLE", "ObservedPanel", "Picture",
    "as_sampled", "ascent", "data", "element_draws", "few_labellings", "forest", "marginal", "marginals", "modes",
    "observed_panels",
    "permutations", "ranks", "responsibilities", "shared_limits", "shown_rows", "styled", "svg",
]  # fmt: skip
