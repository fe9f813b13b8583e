"""A limit and the number that is printed beside it never contradict each other."""

import numpy as np
from hypothesis import given
from hypothesis.strategies import floats, sampled_from

from emppl.limits import as_printed


@given(
    value=floats(0.0, 500.0),
    rule=sampled_from([(1.01, 3), (400.0, 0), (0.05, 2), (0.01, 3), (2.0, 1), (1e-3, 4)]),
    near=sampled_from([True, False]),
)
def test_what_is_compared_agrees_with_what_is_read(value, rule, near):
    limit, digits = rule
    value = limit + 10.0**-digits * (value / 250 - 1) if near else value
    read, judged = float(f"{value:.{digits}f}"), as_printed(value, limit, digits)
    assert (judged > limit) == (read > limit)
    assert (judged < limit) == (read < limit)
    assert judged in (value, limit)


def test_arrays_and_what_is_no_number():
    found = as_printed(np.array([[1.0104, 1.0106], [np.nan, np.inf]]), 1.01, 3)
    np.testing.assert_array_equal(found, [[1.01, 1.0106], [np.nan, np.inf]])
    assert np.isnan(as_printed(float("nan"), 1.01, 3))
