"""Seeds of every kind, and keywords that no function has."""

import numpy as np
import pytest

import emppl
from emppl.arguments import as_seed
from emppl.errors import InvalidArgumentError, UnknownKeywordError
from emppl.models import coins


@pytest.fixture(scope="module")
def plan():
    return emppl.plan(coins.build(weights="free"))


def test_numbers_are_themselves():
    assert as_seed(None) is None
    assert as_seed(7) == as_seed(np.int64(7)) == 7


def test_a_sequence_stays_as_it_is_and_tells_its_children_apart():
    sequence = np.random.SeedSequence(3)
    children = [as_seed(child) for child in sequence.spawn(2)]
    assert as_seed(sequence) == as_seed(sequence) == as_seed(np.random.SeedSequence(3))
    assert len({as_seed(sequence), *children}) == 3
    assert as_seed([1, 2]) == as_seed(np.random.SeedSequence([1, 2])) != as_seed([2, 1])


def test_a_generator_goes_on_in_its_stream():
    generator = np.random.default_rng(3)
    first, second = as_seed(generator), as_seed(generator)
    assert first == as_seed(np.random.default_rng(3)) == as_seed(np.random.PCG64(3)) != second


@pytest.mark.parametrize("seed", [-1, 1.5, "one", True, [], [0.5], {}])
def test_what_is_no_seed_is_refused(plan, seed):
    with pytest.raises(InvalidArgumentError, match="seed must be"):
        emppl.fit(plan, starts=1, seed=seed)


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.SeedSequence, np.random.PCG64])
def test_fits_and_draws_repeat(plan, make):
    one, two = (emppl.fit(plan, starts=2, seed=make(5)) for _ in range(2))
    assert one.starts.equals(two.starts) and one.seed == two.seed
    draws = [one.to_datatree(draws=8, seed=make(5))["posterior"].to_dataset() for _ in range(2)]
    assert draws[0].equals(draws[1])


def test_misspelt_keywords_name_the_function_that_was_called(plan):
    with pytest.raises(UnknownKeywordError, match=r"fit\(\) has no keyword 'strats'\n.*\n.*\n.*did you mean starts="):
        emppl.fit(plan, strats=3)
    with pytest.raises(TypeError, match="did you mean estimate="):
        emppl.fit(plan, estimte="ml")
    with pytest.raises(UnknownKeywordError, match=r"sample\(\) has no keyword 'drews'"):
        emppl.sample(plan, drews=3)


def test_no_tolerance_means_until_max_iter(plan):
    fit = emppl.fit(plan, starts=1, seed=0, tol=0, accelerate=None, max_iter=500)
    assert fit.status is emppl.Status.MAX_ITER and fit.n_iter == 500
