"""What every registered family and conjugate prior must satisfy, whatever else it does."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest
from cases import CONJUGATES, FAMILIES, TRIALS, FamilyCase
from hypothesis import given, settings
from hypothesis.strategies import integers
from oracles import INTERPRETED

from emppl.rules import family
from emppl.rules.tables import CONJUGATES as REGISTERED
from emppl.rules.tables import Family

seeds = integers(0, 2**32 - 1)
every_family = pytest.mark.parametrize("name", FAMILIES)
COMPILED: dict[str, tuple] = {}


def rule_of(case: FamilyCase) -> Family:
    return family(case.dist(**case.draw(np.random.default_rng(0))).owner.op)


def eta(name: str, parameters: dict[str, np.ndarray], frame=None) -> np.ndarray:
    """The natural parameters of one cell [S] (in a frame of the data), compiled once a family."""
    rule = rule_of(FAMILIES[name])
    parameters = parameters | {n: FAMILIES[name].takes[n] for n in rule.constant}
    parameters = {n: parameters[n] for n in rule.parameters if n in parameters}  # in the order of the op
    key = name if frame is None else f"{name} in a frame"
    if key not in COMPILED:
        inputs = [pt.tensor(n, dtype="float64", shape=(1, *np.shape(v))) for n, v in parameters.items()]
        moved, extra = inputs, []
        if frame is not None:
            extra = [
                pt.tensor("centre", shape=np.shape(frame.centre)),
                pt.tensor("whiten", shape=np.shape(frame.whiten)),
            ]
            moved = rule.into_frame(frame._replace(centre=extra[0], whiten=extra[1]), *inputs)
        COMPILED[key] = pm.compile([*inputs, *extra], rule.natural(*moved), mode=INTERPRETED)
    more = [] if frame is None else [np.asarray(frame.centre), np.asarray(frame.whiten)]
    return COMPILED[key](*[np.asarray(v, float)[None] for v in parameters.values()], *more)[0]


def log_base(rule: Family, y: np.ndarray, case: FamilyCase) -> np.ndarray:
    return rule.log_base(y, **{k: v for k, v in case.takes.items() if k != "size"})


def test_every_family_has_a_row():
    assert {case.distribution for case in FAMILIES.values()} == set(family.registry) - {object}
    assert {name: rule_of(case).name for name, case in FAMILIES.items()} == {name: name for name in FAMILIES}


def test_every_conjugate_prior_has_a_row():
    registered = {(entry.prior.__name__, entry.family_name, entry.parameter) for entry in REGISTERED}
    assert {(c.prior.__name__, c.family, c.parameter) for c in CONJUGATES} == registered


# -- densities ---------------------------------------------------------------------------------------------------------


@every_family
@given(seed=seeds)
def test_natural_form_equals_scipy(name, seed):
    case, rng = FAMILIES[name], np.random.default_rng(seed)
    rule, parameters = rule_of(case), case.draw(rng)
    y = case.sample(rng, 6, **parameters)
    statistic = rule.statistic(y, **case.takes)
    natural = statistic @ eta(name, parameters) + log_base(rule, y, case)
    np.testing.assert_allclose(natural, case.log_density(y, **parameters), rtol=1e-10, atol=1e-10)
    assert np.isfinite(statistic).all() and rule.inside(y, **case.takes).all()


@every_family
def test_natural_form_equals_pymc(name):
    case, rng = FAMILIES[name], np.random.default_rng(3)
    rule, parameters = rule_of(case), case.draw(rng)
    y = case.sample(rng, 6, **parameters)
    natural = rule.statistic(y, **case.takes) @ eta(name, parameters) + log_base(rule, y, case)
    by_pymc = pm.logp(case.dist(**parameters), y).eval(mode=INTERPRETED)
    np.testing.assert_allclose(natural, by_pymc, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name, case in FAMILIES.items() if rule_of(case).frame is not None])
@pytest.mark.parametrize("offset", [0.0, 1e6])
@given(seed=seeds)
def test_a_frame_keeps_the_density_far_from_the_origin(name, offset, seed):
    case, rng = FAMILIES[name], np.random.default_rng(seed)
    rule, parameters = rule_of(case), case.draw(rng)
    y = offset + case.sample(rng, 8, **parameters)
    parameters["mu"] = parameters["mu"] + offset
    frame = rule.frame(y)
    moved = (y - frame.centre) @ frame.whiten.T if y.ndim == 2 else (y - frame.centre) / frame.whiten
    natural = rule.statistic(moved) @ eta(name, parameters, frame) + rule.log_base(moved) + frame.log_jacobian
    np.testing.assert_allclose(natural, case.log_density(y, **parameters), rtol=1e-10, atol=1e-10)
    centred = parameters["mu"] - frame.centre
    mu = centred @ frame.whiten.T if y.ndim == 2 else centred / frame.whiten
    back = rule.out_of_frame({"mu": mu}, frame.centre, frame.whiten)
    np.testing.assert_allclose(back["mu"], parameters["mu"], rtol=1e-12, atol=1e-12)


@every_family
def test_what_the_family_cannot_produce_lies_outside(name):
    case = FAMILIES[name]
    rule = rule_of(case)
    for value in case.outside:
        assert not rule.inside(np.array([value], dtype=float), **case.takes).any(), value


def test_exposure_multiplies_the_rate():
    rng = np.random.default_rng(1)
    exposure, y, mu = rng.uniform(0.5, 4.0, 6), rng.poisson(3.0, 6), 1.7
    rule = rule_of(FAMILIES["Poisson"])
    natural = rule.statistic(y, exposure=exposure) @ eta("Poisson", {"mu": mu}) + rule.log_base(y, exposure=exposure)
    np.testing.assert_allclose(natural, FAMILIES["Poisson"].log_density(y, mu * exposure), rtol=1e-12)
    waits, scale = rng.exponential(2.0, 6), 0.8
    rule = rule_of(FAMILIES["Exponential"])
    natural = rule.statistic(waits, exposure=exposure) @ eta("Exponential", {"scale": scale})
    natural = natural + rule.log_base(waits, exposure=exposure)
    np.testing.assert_allclose(natural, FAMILIES["Exponential"].log_density(waits, scale * exposure), rtol=1e-12)


# -- maximise ----------------------------------------------------------------------------------------------------------


def random_statistics(
    case: FamilyCase, rng: np.random.Generator, cells: int, truth: list[dict] | None = None
) -> np.ndarray:
    """Weighted sums of statistics of real observations, one row a cell [cells, S]; `truth` takes their parameters."""
    rule, rows = rule_of(case), []
    for _ in range(cells):
        parameters = case.draw(rng)
        if truth is not None:
            truth.append(parameters)
        y = case.sample(rng, 12, **parameters)
        rows.append(rng.uniform(0.1, 1.0, 12) @ rule.statistic(y, **case.takes))
    return np.array(rows)


def objective(name: str, found: dict[str, np.ndarray], groups: dict, statistics: np.ndarray) -> float:
    """Sum over cells of <eta(theta of the cell), statistics>."""
    total = 0.0
    for cell, row in enumerate(statistics):
        natural = eta(name, {parameter: found[parameter][groups[parameter][cell]] for parameter in groups})
        total += float(natural[row != 0] @ row[row != 0])
    return total


def unknown_parameters(case: FamilyCase) -> list[str]:
    rule = rule_of(case)
    return [parameter for parameter in rule.parameters if parameter not in (*rule.known, *rule.constant)]


def constants(case: FamilyCase, cells: int) -> dict[str, np.ndarray]:
    """The numbers that `maximise` is told of families which take one: Weibull's shape."""
    return {name: np.full(cells, case.takes[name]) for name in rule_of(case).constant}


@every_family
@pytest.mark.parametrize("tied", [False, True], ids=["each its own", "tied"])
@settings(max_examples=4)
@given(seed=seeds)
def test_maximise_is_the_maximum(name, tied, seed):
    """Any move of any parameter lowers the expected log joint; tied: two of three cells share it."""
    case, rng = FAMILIES[name], np.random.default_rng(seed)
    statistics = random_statistics(case, rng, 3)
    names = unknown_parameters(case)
    groups = {parameter: np.array([0, 1, 0]) if tied else np.arange(3) for parameter in names}
    found = rule_of(case).maximise(statistics, groups, constants(case, 3), {})
    best = objective(name, found, groups, statistics)
    for parameter in names:
        other = np.stack([case.draw(rng)[parameter] for _ in found[parameter]])
        for share in (1e-3, 0.1):
            moved = found | {parameter: (1 - share) * found[parameter] + share * other}
            assert objective(name, moved, groups, statistics) < best


TWO = {name: unknown_parameters(case) for name, case in FAMILIES.items() if len(unknown_parameters(case)) == 2}
OUTER = {"Gamma": "alpha", "InverseGamma": "alpha"}  # elsewhere the second: the spread that several means may share


@pytest.mark.parametrize("name", [name for name in TWO if name != "Beta"])  # which has no such closed form
@settings(max_examples=10)
@given(seed=seeds)
def test_one_spread_for_all_means(name, seed):
    """Means (scales) of their own, one shared spread (shape): the tied covariance."""
    case, rng = FAMILIES[name], np.random.default_rng(seed)
    statistics = random_statistics(case, rng, 3)
    shared = OUTER.get(name, TWO[name][1])
    (own,) = set(TWO[name]) - {shared}
    groups = {own: np.arange(3), shared: np.zeros(3, dtype=int)}
    found = rule_of(case).maximise(statistics, groups, {}, {})
    best = objective(name, found, groups, statistics)
    for parameter in groups:
        other = np.stack([case.draw(rng)[parameter] for _ in found[parameter]])
        moved = found | {parameter: 0.99 * found[parameter] + 0.01 * other}
        assert objective(name, moved, groups, statistics) < best
    # one mean over cells with spreads of their own has no closed form, and is not given one
    assert rule_of(case).maximise(statistics, {own: np.zeros(3, dtype=int), shared: np.arange(3)}, {}, {}) is None


@pytest.mark.parametrize("name", TWO)
def test_a_known_parameter_stays(name):
    case, rng = FAMILIES[name], np.random.default_rng(5)
    truth: list[dict] = []
    statistics, rule = random_statistics(case, rng, 3, truth), rule_of(case)
    for known, sought in (TWO[name], TWO[name][::-1]):
        fixed = {known: np.stack([parameters[known] for parameters in truth])}
        groups = {sought: np.arange(3)}
        found = rule.maximise(statistics, groups, fixed, {})
        assert set(found) == {sought}
        whole = groups | {known: np.arange(3)}
        best = objective(name, found | fixed, whole, statistics)
        other = np.stack([case.draw(rng)[sought] for _ in range(3)])
        moved = {sought: 0.99 * found[sought] + 0.01 * other}
        assert objective(name, moved | fixed, whole, statistics) < best


@every_family
@given(seed=seeds)
def test_maximise_of_expected_statistics_gives_the_parameters_back(name, seed):
    """The gradient of the log-partition is the expected statistic, here taken by sums, quadrature or moments."""
    case, parameters = FAMILIES[name], FAMILIES[name].draw(np.random.default_rng(seed))
    statistics = case.expected(**parameters)[None]
    groups = {parameter: np.zeros(1, dtype=int) for parameter in parameters}
    found = rule_of(case).maximise(statistics, groups, constants(case, 1), {})
    for parameter, value in parameters.items():
        np.testing.assert_allclose(found[parameter][0], value, rtol=1e-7, atol=1e-9)


@every_family
def test_a_cell_without_members_has_no_maximum(name):
    """No number is made up for it: nan, which an M-step refuses."""
    case = FAMILIES[name]
    statistics = random_statistics(case, np.random.default_rng(0), 2)
    statistics[1] = 0.0
    groups = {parameter: np.arange(2) for parameter in unknown_parameters(case)}
    with np.errstate(all="ignore"):
        found = rule_of(case).maximise(statistics, groups, constants(case, 2), {})
    for values in found.values():
        assert np.isfinite(values[0]).all() and np.isnan(values[1]).all()


# -- conjugate priors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", CONJUGATES, ids=[f"{c.prior.__name__} of {c.family}.{c.parameter}" for c in CONJUGATES]
)
@given(seed=seeds)
def test_pseudo_statistics_are_the_log_prior(case, seed):
    """At any two points the difference of <eta, pseudo-statistics> is that of the log prior density."""
    rng = np.random.default_rng(seed)
    entry = next(
        e
        for e in REGISTERED
        if (e.prior.__name__, e.family_name, e.parameter) == (case.prior.__name__, case.family, case.parameter)
    )
    pseudo = np.asarray(entry.statistics(*case.arguments), float)
    one, two = case.draw(rng), case.draw(rng)
    difference = (eta(case.family, case.op(one)) - eta(case.family, case.op(two))) @ pseudo
    assert difference == pytest.approx(case.log_prior(one) - case.log_prior(two), abs=1e-10)
    links = {"identity": lambda t: t, "sqrt": np.sqrt, "reciprocal": lambda t: 1 / t}
    np.testing.assert_allclose(case.op(one)[case.parameter], links[entry.link](one))


def test_trials_are_those_of_the_cases():
    assert FAMILIES["Binomial"].takes["n"] == FAMILIES["Multinomial"].takes["n"] == TRIALS
