"""Verdicts in made situations with known truth; `python -m tests.situations` varies them by the hundred."""

import arviz as az
import numpy as np
import pytest
import situations
from made.situation import SITUATIONS, Situation, wrong


@pytest.mark.parametrize("number", range(len(SITUATIONS)), ids=list(SITUATIONS))
def test_what_is_said_is_so(number):
    name, recipe, complaints = situations.check(number)
    assert complaints == [], (name, recipe)


def test_a_false_statement_is_found_out():
    """The bench can fail: the same draws beside a fit that is somewhere else."""
    made = SITUATIONS["prior that matters"](np.random.default_rng(0))
    expected = Situation(made.fit, made.draws, {**made.holds, "modes": False}, made.statements)
    assert len(wrong(expected)) == 1
    values = made.draws["posterior"]["x"].values
    narrow = az.from_dict({"posterior": {"x": values.mean() + 0.3 * (values - values.mean())}})
    complaints = wrong(Situation(made.fit, narrow, {}, made.statements))
    assert any(text.startswith("shape rests on") for text in complaints)
