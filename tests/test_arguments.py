"""Seeds and numbers of every kind, paths that are none, and keywords that no function has."""

from fractions import Fraction

import numpy as np
import pytest

import emppl
from emppl import sampling
from emppl.arguments import as_seed, as_tolerance, as_whole
from emppl.ascent import search
from emppl.errors import InvalidArgumentError, SavedFitError, UnknownKeywordError
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


class Mute:
    """Raises whatever is asked of it."""

    def __repr__(self):
        raise RuntimeError

    __index__ = __int__ = __float__ = __repr__


@pytest.mark.parametrize(
    "seed",
    [-1, 1.5, "one", True, [], [0.5], {}, [np.inf], [np.nan], Mute(), [Mute()]],
    ids=lambda value: type(value).__name__,
)
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


WHOLE = [2.5, "2", True, np.nan, -1, 10**30, [2], None, Mute()]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tol", value) for value in (-1.0, np.nan, np.inf, "0", True, 10**400, [1e-8], None, Mute())),
        *((name, value) for name in ("starts", "workers", "max_iter") for value in WHOLE),
        *(("checkpoint", value) for value in (True, 3, b"file")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_an_argument_of_fit_cannot_take_is_refused_before_any_work(name, value, monkeypatch):
    monkeypatch.setattr(search, "make_plan", lambda *_, **__: pytest.fail("planned before looking at arguments"))
    with pytest.raises(InvalidArgumentError, match=name):
        emppl.fit(coins.build(), **{name: value})


@pytest.mark.parametrize("name", ["draws", "tune", "chains", "cores"])
@pytest.mark.parametrize(
    "value", [0, *(value for value in WHOLE if value is not None)], ids=lambda value: type(value).__name__
)
def test_a_value_that_an_argument_of_sample_cannot_take_is_refused_before_any_work(name, value, monkeypatch):
    monkeypatch.setattr(sampling, "make_plan", lambda *_, **__: pytest.fail("planned before looking at arguments"))
    with pytest.raises(InvalidArgumentError, match=name):
        emppl.sample(coins.build(), **{name: value})


def test_numbers_of_any_kind_are_taken():
    assert as_whole(np.int8(3), "n", 0) == as_whole(np.array(3), "n", 0) == 3
    assert (
        as_tolerance(np.float32(0.5), "tol")
        == as_tolerance(np.array(0.5), "tol")
        == as_tolerance(Fraction(1, 2), "tol")
    )
    assert as_tolerance(0, "tol") == 0.0


@pytest.mark.parametrize("value", [True, 3, None, b"file"])
def test_what_is_no_path_is_refused(plan, value):
    fit = emppl.fit(plan, starts=1, seed=0)
    with pytest.raises(InvalidArgumentError, match="path must be"):
        fit.save(value)
    with pytest.raises(SavedFitError, match="path must be"):
        emppl.load(value)


def test_no_tolerance_means_until_max_iter(plan):
    fit = emppl.fit(plan, starts=1, seed=0, tol=0, accelerate=None, max_iter=500)
    assert fit.status is emppl.Status.MAX_ITER and fit.n_iter == 500
