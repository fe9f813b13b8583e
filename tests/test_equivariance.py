"""A dozen rows of the table of equivariance: a change of units changes nothing but the numbers' names."""

import equivariance
import pytest

ROWS = (
    ("gaussian_mixture, full", (1e-9, 1e9)),
    ("gaussian_mixture, one column", (1e9, 1.0)),
    ("mixture_regression", (1e-9, 1e9)),
    ("mixture_regression", (1e9, 1.0)),
    ("robust_regression", (1.0, 1e-9)),
    ("robust_regression", (1e6, 1e3)),
    ("poisson_mixture", (1.0, 1e-9)),
    ("zero_inflated", (1.0, 1e6)),
    ("occupancy", (1.0, 1e9)),
    ("two normals, half_cauchy", (1e-6, 1.0)),
    ("flat priors", (1e-9, 1.0)),
    ("a covariance", (1e-9, 1.0)),
    ("Laplace errors", (1e6, 1.0)),
    ("exponential", (1e9, 1.0)),
    ("lines with Student errors", (1e9, 1e-9)),
    ("weights by a covariate", (1e-9, 1e9)),
)
CASES = {case.name: case for case in equivariance.cases()}


@pytest.mark.parametrize(("name", "units"), ROWS, ids=[f"{name} {y:g} {x:g}" for name, (y, x) in ROWS])
def test_units_change_nothing(name, units):
    case = CASES[name]
    here, there = (equivariance.fitted(case, u) for u in ((1.0, 1.0), units))
    assert equivariance.differences(case, units, here, there) == []
