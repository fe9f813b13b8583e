"""Tables of log densities by member and configuration: which of their entries are impossible."""

import numpy as np
import pytensor.tensor as pt
import small_models

from emppl.estep.tables import impossible


def test_what_leaves_the_numbers_as_it_stands_is_not_impossible():
    """log(exp(x - 1000)) is minus infinity until it is rewritten to x - 1000; log(0) is so all the same."""
    structure = small_models.plan("coins").structure
    x = structure.coordinates.values[0].sum()
    table = pt.stack([pt.log(pt.exp(x - 1000.0)), x, x + np.float64(-np.inf)])
    assert impossible(structure, table).tolist() == [False, False, True]
