"""What every engine promises, over all of them, and over one of a user's own that sums by brute force."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytensor.tensor as pt
import pytest
import small_models
from oracles import Enumeration
from scipy.special import logsumexp

import emppl
from emppl.compiling import compile_graph
from emppl.estep import engine as engines
from emppl.estep.finite import FiniteEngine, GroupPosterior, log_joint_graph
from emppl.estep.plates import PlateEngine
from emppl.estep.tied import EliminationEngine
from emppl.kernels.mixture import MixturePass, log_joint


@dataclass(frozen=True, eq=False)
class BruteForce(FiniteEngine):
    """Tied latents summed over every joint assignment of all of them."""

    operations, has_units_alone, by_member, is_compiled = np.inf, False, False, False

    @property
    def assignments(self):
        """Which configuration each member of each plate is in, for every assignment: [A, C] a plate."""
        plates, structure = self.group.plates, self.group.structure
        support = {e: structure.node(n).support for p in plates for n, es in zip(p.latents, p.members.T) for e in es}
        flat = np.array([self._placed(support, values) for values in product(*support.values())])
        return [(flat[:, p.members][:, :, None] == p.configurations).all(axis=3).argmax(axis=2) for p in plates]

    @staticmethod
    def _placed(support, values):
        row = np.zeros(max(support) + 1)
        row[list(support)] = values
        return row

    def posterior(self, terms, *, hard, keep):
        rest, joints = list(terms), []
        for data in self.data:
            eta, table = rest.pop(0), rest.pop(0).T if data.has_table else None
            joints.append(log_joint(data.features, eta, table=table, mask=data.mask))
        places = self.assignments
        heights = sum(j[np.arange(len(j)), at].sum(axis=1) for j, at in zip(joints, places))
        shares = np.exp(heights - logsumexp(heights))
        if hard:
            shares = (np.arange(len(heights)) == heights.argmax()).astype(float)
        passes = []
        for data, at in zip(self.data, places):
            n = int(np.prod(data.supports))
            r = np.einsum("a,acj->cj", shares, at[:, :, None] == np.arange(n))
            passes.append(MixturePass(0.0, data.features.weighted(r), r.sum(axis=0), r, None))
        value = heights.max() if hard else logsumexp(heights)
        base = sum(data.base_sum for data in self.data)
        return GroupPosterior(float(value) + base, tuple(passes))

    def log_likelihood(self, etas, tables):
        joints = [log_joint_graph(*terms).T for terms in zip(self.data, etas, tables)]
        heights = sum(j[np.arange(at.shape[1]), at].sum(axis=1) for j, at in zip(joints, self.assignments))
        return pt.logsumexp(heights) + sum(data.base_sum for data in self.data)

    def some_log_likelihood(self, factors, etas, tables, rng, possible):
        return self.log_likelihood(etas, tables), [np.arange(data.size) for data in self.data]

    @property
    def numbers(self):
        return self.densities

    @property
    def sentence(self):
        return "every assignment, one by one"

    def how(self, node):
        return "summed out by brute force"


def brute_force(group):
    return BruteForce(group) if group.eliminations else None


ENGINES = {
    "plates": (PlateEngine, "coins", {}),
    "plates of vectors": (PlateEngine, "gaussian_full", {}),
    "plates by a table": (PlateEngine, "heavy_tails", {}),
    "several plates": (PlateEngine, "two_plates", {}),
    "elimination": (EliminationEngine, "crossed", {}),
    "elimination by a table": (EliminationEngine, "crossed", {"estep": "graph"}),
    "brute force": (BruteForce, "crossed", {}),
    "brute force by a table": (BruteForce, "crossed", {"estep": "graph"}),
}


@pytest.fixture(params=ENGINES.values(), ids=ENGINES.keys())
def made(request, monkeypatch):
    """A case, its plan by the engine asked for, and its enumeration."""
    kind, name, options = request.param
    if kind is not PlateEngine:  # small models are enumerated whole otherwise
        monkeypatch.setattr("emppl.structure.plates.SMALL_GROUP", 1)
    if kind is BruteForce:  # a user's own: one class, and a line in the table
        monkeypatch.setattr(engines, "ENGINES", (brute_force, *engines.ENGINES))
    case = small_models.model(name)
    plan = emppl.plan(case.model, **options)
    assert {type(engine) for engine in plan.engine.engines} == {kind}
    return case, plan, Enumeration(case.same or case.model, case.supports)


def test_the_posterior_is_that_of_enumeration(made):
    _, plan, exact = made
    for theta in small_models.points(plan, count=2):
        assert plan.log_posterior(theta) == pytest.approx(exact.log_posterior(theta), rel=1e-10)
        found = plan.responsibilities(theta)
        for latent, wanted in exact.responsibilities(theta).items():
            np.testing.assert_allclose(found[latent], wanted, atol=1e-10)


def test_the_gradient_of_the_expected_log_joint_is_that_of_the_log_posterior(made):
    """Fisher's identity, by differences."""
    _, plan, _ = made
    u = np.random.default_rng(3).normal(size=plan.structure.coordinates.size)
    _, gradient, _ = plan.gradient(u)
    for i, step in enumerate(1e-5 * np.eye(len(u))):
        slope = (plan.gradient(u + step)[0] - plan.gradient(u - step)[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_hard_is_the_best_assignment(made):
    _, plan, exact = made
    for theta in small_models.points(plan, count=2):
        terms = exact.log_terms(theta)
        found = plan.e_step(theta, hard=True)
        assert found.log_likelihood + found.log_prior == pytest.approx(terms.max(), rel=1e-10)
        best = exact.assignments[int(terms.argmax())]
        for latent, values in plan.assignment(theta).items():
            np.testing.assert_array_equal(values, best[latent])


def test_latents_that_are_all_known_leave_the_joint_density(made):
    case, plan, exact = made
    assigned = exact.assignments[len(exact.assignments) // 3]
    known = emppl.plan(case.model, labels={k: np.ma.masked_array(v) for k, v in assigned.items()}, **plan_options(plan))
    (theta,) = small_models.points(plan, count=1)
    assert known.log_posterior(theta) == pytest.approx(exact.density({**theta, **assigned}), rel=1e-10)


def test_graphs_of_the_log_likelihood_are_the_posteriors(made):
    """That by the Op with Fisher's gradient, and that which the certificate differentiates."""
    _, plan, _ = made
    terms = plan.expected.etas, plan.expected.tables
    factors = [entry.factor for entry in plan.factors]
    some, chosen = plan.engine.some_log_likelihood(factors, *terms, np.random.default_rng(0), True)
    assert [len(rows) for rows in chosen] == list(plan.engine.sizes)  # a small model: all of it
    function = compile_graph(plan.structure.coordinates.values, [plan.engine.log_likelihood(*terms), some])
    (theta,) = small_models.points(plan, count=1)
    direct = compile_graph(plan.structure.coordinates.values, plan.expected.direct_likelihood)
    arguments = plan.structure.coordinates.arguments(theta)
    for value in function(*arguments):
        assert float(value + direct(*arguments)) == pytest.approx(plan.log_likelihood(theta), rel=1e-10)


def test_a_plan_says_which_engine_it_has(made):
    _, plan, _ = made
    assert all(engine.sentence in str(plan) for engine in plan.engine.engines)


def test_a_fit_by_an_engine_of_ones_own(monkeypatch):
    """Certificate and mode as by elimination."""
    monkeypatch.setattr("emppl.structure.plates.SMALL_GROUP", 1)
    model = small_models.model("crossed").model
    wanted = emppl.fit(model, seed=1, starts=3)
    monkeypatch.setattr(engines, "ENGINES", (brute_force, *engines.ENGINES))
    fit = emppl.fit(model, seed=1, starts=3)
    assert fit.certificate.holds and "summed out by brute force" in str(fit.plan)
    assert fit.log_posterior == pytest.approx(wanted.log_posterior, rel=1e-9)


def plan_options(plan):
    return {"estep": plan.options["estep"]}
