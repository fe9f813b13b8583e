"""Relabelling methods against R's label.switching, against known relabellings, and against R's defects."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from emppl.errors import InvalidArgumentError
from emppl.kernels.assignment import aligned_to, assign, inverse, margins, one_hot, share_equal
from emppl.labels import METHODS, Material, methods
from emppl.labels.align import choose, run
from emppl.labels.units import Units, array_chunks

FIXTURES = Path(__file__).parent.parent / "data" / "label_switching"
NAMES = ("galaxies_k3", "synth_k4", "galaxies_k4")
DIVERGENCE = {"galaxies_k3": 311.6277, "synth_k4": 1256.7638, "galaxies_k4": 5030.326}  # reached by R from some start
DISAGREEMENTS = {"galaxies_k3": 87, "synth_k4": 1017, "galaxies_k4": 4948}


class Draws:
    """One fixture: arrays as R was given them, and the responsibilities that follow from them."""

    def __init__(self, name):
        with np.load(FIXTURES / f"{name}.npz") as stored:
            self.stored = {key: stored[key] for key in stored.files}
        self.y, self.z, self.theta = self.stored["y"], self.stored["z"].astype(int), self.stored["mcmc_pars"]
        self.size = self.theta.shape[1]
        joint = np.stack([self.log_joint(theta) for theta in self.theta])
        p = np.exp(joint - joint.max(axis=2, keepdims=True))
        self.p = p / p.sum(axis=2, keepdims=True)
        self.densities = np.exp(joint - joint.max(axis=1, keepdims=True))
        self.best = int(self.stored["pivot_draw"])

    def log_joint(self, theta):
        return norm.logpdf(self.y[:, None], theta[:, 0], np.sqrt(theta[:, 1])) + np.log(theta[:, 2])

    def renamed(self, perms):
        """The same draws under other names: everything a method reads, permuted."""
        return {
            "p": np.take_along_axis(self.p, perms[:, None, :], axis=2),
            "z": inverse(perms)[np.arange(len(self.z))[:, None], self.z],
            "theta": np.take_along_axis(self.theta, perms[:, :, None], axis=1),
            "densities": np.take_along_axis(self.densities, perms[:, None, :], axis=2),
        }

    def all_methods(self, p, z, theta, densities):
        """Name -> permutations by every method of arrays, the best draw's own quantities as pivots."""
        pivot = self.p[self.best]
        modes = np.stack([pivot, pivot[:, ::-1]])
        return {
            "responsibilities": methods.to_responsibilities(p, pivot),
            "densities": methods.to_densities(densities, self.densities[self.best]),
            "ECR": methods.ecr(z, pivot.argmax(axis=1), self.size),
            "ECR-ITERATIVE-1": methods.ecr_iterative_1(z, self.size),
            "ECR-ITERATIVE-2": methods.ecr_iterative_2(p, z),
            "STEPHENS": methods.stephens(p),
            "PRA": methods.pra(theta, self.stored["prapivot"]),
            "ordering": methods.ordering(theta[:, :, 0]),
            "parameters": methods.normal_likelihood(theta),
            "SJW": methods.sjw(theta, z, self.log_joint),
            "DATA-BASED": methods.data_based(z, self.y, self.size),
            "ascent": methods.by_modes(array_chunks(p), modes[:1], len(p))[0],
        }


@pytest.fixture(scope="module", params=NAMES)
def any_draws(request):
    return Draws(request.param), request.param


@pytest.fixture(scope="module")
def galaxies_3():
    return Draws("galaxies_k3")


@pytest.fixture(scope="module")
def galaxies_4():
    return Draws("galaxies_k4")


def identity(draws):
    return np.tile(np.arange(draws.size), (len(draws.z), 1))


# -- the oracle --------------------------------------------------------------------------------------------------------


def test_methods_of_one_pass_equal_r_draw_by_draw(any_draws):
    draws, _ = any_draws
    mine = methods.ecr(draws.z, draws.stored["zpivot"].astype(int), draws.size).permutations
    theirs = draws.stored["perm_ECR"]
    differing = np.flatnonzero((mine != theirs).any(axis=1))
    for t in differing:  # two assignments of exactly equal cost: either is right
        same = [(inverse(perms[t])[draws.z[t]] == draws.stored["zpivot"]).sum() for perms in (mine, theirs)]
        assert same[0] == same[1]
    assert len(differing) <= 1
    np.testing.assert_array_equal(
        methods.pra(draws.theta, draws.stored["prapivot"]).permutations, draws.stored["perm_PRA"]
    )
    np.testing.assert_array_equal(methods.ordering(draws.theta[:, :, 0]).permutations, draws.stored["perm_AIC"])


def test_stephens_from_rs_start_ends_where_r_does(any_draws):
    draws, name = any_draws
    mine = methods.stephens(draws.p, starts=[identity(draws)])
    expected = 5615.1609 if name == "galaxies_k4" else DIVERGENCE[name]
    assert mine.objective == pytest.approx(expected, abs=1e-3)
    assert share_equal(mine.permutations, draws.stored["perm_STEPHENS"]) >= 0.99


def test_stephens_from_several_starts_is_as_good_as_r_ever_was(any_draws):
    """galaxies_k4 ends at 5615.16 from the draws as they come, at 5030.33 from better starts."""
    draws, name = any_draws
    mine = methods.stephens(draws.p)
    assert mine.objective == pytest.approx(DIVERGENCE[name], abs=1e-3)
    assert mine.converged and len(mine.starts) > 1
    assert mine.objective == min(start[1] for start in mine.starts)
    aligned = np.take_along_axis(np.clip(draws.p, 1e-6, 1), mine.permutations[:, None, :], axis=2)
    mean = aligned.mean(axis=0)
    assert mine.objective == pytest.approx(float((aligned * np.log(aligned / mean)).sum()), rel=1e-3)


def test_iterative_ecrs_are_as_good_as_r(any_draws):
    draws, name = any_draws
    for mine in (methods.ecr_iterative_1(draws.z, draws.size), methods.ecr_iterative_2(draws.p, draws.z)):
        assert mine.objective == DISAGREEMENTS[name]
    rs = methods.ecr_iterative_1(draws.z, draws.size, starts=[identity(draws)])
    assert share_equal(rs.permutations, draws.stored["perm_ECR-ITERATIVE-1"]) >= 0.99


# -- known relabellings ------------------------------------------------------------------------------------------------


def test_every_method_undoes_the_relabelling_that_was_applied(galaxies_3):
    applied = galaxies_3.stored["applied_perm"].astype(int)
    own = {"p": galaxies_3.p, "z": galaxies_3.z, "theta": galaxies_3.theta, "densities": galaxies_3.densities}
    for name, found in galaxies_3.all_methods(**own).items():
        product = np.take_along_axis(applied, found.permutations, axis=1)
        share = (product == product[0]).all(axis=1).mean()
        assert share >= (0.99 if name == "PRA" else 1.0), name


@pytest.mark.parametrize("name", ["synth_k4", "galaxies_k3"])
def test_names_of_the_draws_do_not_matter(name):
    """Draws under random names, 3- and 4-cycles among them, come back under the same names, by every method."""
    draws = Draws(name)
    aligned = draws.renamed(draws.stored["perm_STEPHENS"].astype(int))
    perms = np.random.default_rng(3).permuted(np.tile(np.arange(draws.size), (len(draws.z), 1)), axis=1)
    draws.z, draws.p, draws.theta, draws.densities = (aligned[key] for key in ("z", "p", "theta", "densities"))
    for method, found in draws.all_methods(**draws.renamed(perms)).items():
        product = np.take_along_axis(perms, found.permutations, axis=1)
        rows, counts = np.unique(product, axis=0, return_counts=True)
        assert counts.max() / len(product) >= 0.99, (method, rows, counts)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_assignments_and_margins_equal_enumeration(seed, size):
    costs = np.random.default_rng(seed).normal(size=(5, size, size))
    best = assign(costs)
    second = margins(costs, best)
    for cost, perm, margin in zip(costs, best, second, strict=True):
        totals = sorted(
            (sum(cost[j, k] for j, k in enumerate(other)), other) for other in itertools.permutations(range(size))
        )
        assert tuple(perm) == totals[0][1]
        assert margin == pytest.approx(totals[1][0] - totals[0][0])


def test_one_relabelling_of_all_draws_is_taken_out():
    rng = np.random.default_rng(0)
    perms = np.array([rng.permutation(5) for _ in range(40)])
    turned = perms[:, [3, 0, 4, 1, 2]]
    np.testing.assert_array_equal(aligned_to(turned, perms), perms)
    assert share_equal(turned, perms) == 1.0
    other = turned.copy()
    other[:10] = other[:10, [1, 0, 2, 3, 4]]
    assert share_equal(other, perms) == 0.75
    p = rng.random((40, 7, 5))
    np.testing.assert_allclose(p @ one_hot(perms), np.take_along_axis(p, perms[:, None, :], axis=2))


# -- R's defects, none of them here ------------------------------------------------------------------------------------


def test_the_total_decides_when_to_stop():
    """R's STEPHENS looks at the last draw's cost alone: here that one is right from the start, and others are not."""
    rng = np.random.default_rng(1)
    pivot = np.eye(3)[rng.integers(3, size=60)] * 0.94 + 0.02
    perms = np.array([rng.permutation(3) for _ in range(50)])
    perms[-25:] = [0, 1, 2]
    p = np.stack([pivot[:, inverse(perm)] for perm in perms])
    found = methods.stephens(p, starts=[np.tile(np.arange(3), (50, 1))])
    assert share_equal(found.permutations, perms) == 1.0
    assert found.objective == pytest.approx(0.0, abs=1e-6)


def test_a_label_that_a_unit_never_has_counts_zero():
    """R's ECR-ITERATIVE-1 takes the mode by rank in table(), which leaves absent labels out."""
    z = np.array([[2, 2, 0, 1], [2, 2, 0, 1], [2, 2, 0, 1], [0, 0, 1, 2]])  # units 0 and 1 never are in component 1
    found = methods.ecr_iterative_1(z, 3, starts=[np.tile(np.arange(3), (4, 1))])
    assert found.objective == 0
    new = inverse(found.permutations)[np.arange(4)[:, None], z]
    assert (new == new[0]).all()


def test_allocations_are_renamed_by_the_inverse():
    """R's ECR-ITERATIVE-1 relabels z by perm[z]: for a 3-cycle that is the wrong way round."""
    rng = np.random.default_rng(2)
    truth = rng.integers(3, size=30)
    cycle = np.array([1, 2, 0])
    z = np.stack([truth, truth, truth, inverse(cycle[None])[0][truth]])
    found = methods.ecr_iterative_1(z, 3, starts=[np.tile(np.arange(3), (4, 1))])
    assert found.objective == 0
    wrong = found.permutations[np.arange(4)[:, None], z]
    assert not (wrong == wrong[0]).all()


def test_sjw_averages_parameters_in_the_direction_that_it_relabels(galaxies_3):
    """R's M-step would come to means of 27.2, 15.6, 21.2."""
    seen = []

    def spy(theta):
        seen.append(theta)
        return galaxies_3.log_joint(theta)

    found = methods.sjw(galaxies_3.theta, galaxies_3.z, spy)
    np.testing.assert_allclose(np.sort(seen[-1][:, 0]), [9.7, 21.4, 32.8], atol=0.05)
    aligned = np.take_along_axis(galaxies_3.theta, found.permutations[:, :, None], axis=1).mean(axis=0)
    assert any(np.allclose(aligned, theta) for theta in seen)


def test_sjw_needs_no_factorial_and_no_random_numbers():
    rng = np.random.default_rng(4)
    size, n, draws = 10, 200, 60
    means = 6.0 * np.arange(size)
    truth = rng.integers(size, size=n)
    y = rng.normal(means[truth], 1.0)
    perms = np.array([rng.permutation(size) for _ in range(draws)])
    theta = np.stack([(means + 0.1 * rng.normal(size=size))[perm] for perm in perms])[:, :, None]
    z = inverse(perms)[:, truth]

    def log_joint(at):
        return norm.logpdf(y[:, None], at[:, 0])

    found = methods.sjw(theta, z, log_joint)
    assert share_equal(found.permutations, inverse(perms)) == 1.0
    np.testing.assert_array_equal(found.permutations, methods.sjw(theta, z, log_joint).permutations)


def test_clusters_of_two_columns_find_the_components():
    """R's DATA-BASED takes the coordinate for the component in its first centres: one column is its only safe case."""
    rng = np.random.default_rng(5)
    truth = rng.integers(3, size=120)
    y = np.c_[rng.normal(8.0 * truth, 1.0), rng.normal(-8.0 * truth, 1.0)]
    perms = np.array([rng.permutation(3) for _ in range(40)])
    found = methods.data_based(inverse(perms)[:, truth], y, 3)
    assert share_equal(found.permutations, inverse(perms)) == 1.0
    y[5] = np.nan
    assert share_equal(methods.data_based(inverse(perms)[:, truth], y, 3).permutations, inverse(perms)) == 1.0


# -- large and odd -----------------------------------------------------------------------------------------------------


def test_thirty_components_by_every_method():
    rng = np.random.default_rng(0)
    size, n, draws = 30, 300, 24
    truth = np.concatenate([np.arange(size), rng.integers(size, size=n - size)])
    means = 5.0 * np.arange(size)
    y = rng.normal(means[truth], 1.0)
    perms = np.array([rng.permutation(size) for _ in range(draws)])
    theta = np.stack([(means + 0.1 * rng.normal(size=size))[perm] for perm in inverse(perms)])
    joint = norm.logpdf(y[:, None], theta[:, None, :])
    p = np.exp(joint - joint.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    z = p.argmax(axis=2)
    theta = theta[:, :, None]
    found = {
        "responsibilities": methods.to_responsibilities(p, p[0]),
        "ECR": methods.ecr(z, z[0], size),
        "ECR-ITERATIVE-1": methods.ecr_iterative_1(z, size),
        "ECR-ITERATIVE-2": methods.ecr_iterative_2(p),
        "STEPHENS": methods.stephens(p),
        "PRA": methods.pra(theta, theta[0]),
        "ordering": methods.ordering(theta[:, :, 0]),
        "parameters": methods.normal_likelihood(theta),
        "SJW": methods.sjw(theta, z, lambda at: norm.logpdf(y[:, None], at[:, 0])),
        "DATA-BASED": methods.data_based(z, y, size),
    }
    for name, alignment in found.items():
        if name != "DATA-BASED":  # its clusters have no weight, and neighbours at equal steps may fall together
            assert share_equal(alignment.permutations, perms) == 1.0, name
        assert (np.sort(alignment.permutations, axis=1) == np.arange(size)).all(), name


def test_what_cannot_be_swapped_is_not():
    rng = np.random.default_rng(6)
    pivot = np.eye(4)[rng.integers(4, size=80)] * 0.9 + 0.025
    groups = ((0, 2), (1,), (3,))
    perms = np.array([[2, 1, 0, 3] if t % 2 else [0, 1, 2, 3] for t in range(20)])
    p = np.stack([pivot[:, perm] for perm in perms])
    z, theta = p.argmax(axis=2), np.take_along_axis(np.tile([3.0, 0.0, 1.0, 2.0], (20, 1)), perms, axis=1)
    for found in (
        methods.to_responsibilities(p, pivot, groups),
        methods.stephens(p, groups=groups),
        methods.ecr(z, pivot.argmax(axis=1), 4, groups),
        methods.ecr_iterative_1(z, 4, groups=groups),
        methods.ordering(theta, groups),
        methods.normal_likelihood(theta[:, :, None] + 0.01 * rng.normal(size=(20, 4, 1)), groups=groups),
    ):
        assert (found.permutations[:, [1, 3]] == [1, 3]).all()
        assert share_equal(found.permutations, perms, groups) == 1.0


def test_columns_that_are_positive_or_shares_are_taken_on_their_own_scale():
    rng = np.random.default_rng(7)
    theta = np.stack([np.exp(rng.normal([0.0, 3.0, 6.0], 0.3, size=(50, 3))), np.full((50, 3), 0.5)], axis=2)
    scaled = methods.parameters.real_line(theta)
    x = scaled(theta)
    assert x.shape == (50, 3, 1)  # what never moves is left out
    assert x.std() == pytest.approx(1.0)
    perms = np.array([rng.permutation(3) for _ in range(50)])
    switched = np.take_along_axis(theta, perms[:, :, None], axis=1)
    assert share_equal(methods.normal_likelihood(switched).permutations, inverse(perms)) == 1.0


def test_permutations_of_the_user_are_checked():
    perms = np.array([[1, 0, 2], [2, 1, 0]])
    np.testing.assert_array_equal(methods.user_permutations(perms, 2, 3).permutations, perms)
    with pytest.raises(InvalidArgumentError, match=r"\[1, 1, 2\] is no permutation") as caught:
        methods.user_permutations(np.array([[0, 1, 2], [1, 1, 2]]), 2, 3)
    assert "row 1" in str(caught.value)
    with pytest.raises(InvalidArgumentError, match="2 draws of 3 components"):
        methods.user_permutations(perms[:1], 2, 3)
    with pytest.raises(InvalidArgumentError, match="R's permutations less 1"):
        methods.user_permutations(perms + 1, 2, 3)


# -- memory ------------------------------------------------------------------------------------------------------------


class Counted:
    """Chunks of probabilities, and how often all of them were read."""

    def __init__(self, p, step):
        self.p, self.step, self.read = p, step, 0

    def __call__(self):
        self.read += 1
        for start in range(0, len(self.p), self.step):
            yield slice(start, min(start + self.step, len(self.p))), self.p[start : start + self.step]


def test_draws_that_are_too_many_are_read_chunk_by_chunk(galaxies_4, monkeypatch):
    """Starts compete over a sample of the units that can be kept; the best goes on over all, a chunk at a time."""
    from emppl.labels import units

    whole = methods.stephens(galaxies_4.p)
    best = galaxies_4.p[galaxies_4.best]
    expected = {
        name: METHODS[name](Material(300, 4, best, None, Counted(galaxies_4.p, 300)))
        for name in ("ECR-ITERATIVE-1", "ECR-ITERATIVE-2", "responsibilities", "ECR")
    }
    monkeypatch.setattr(units, "HELD_CELLS", 60_000)
    monkeypatch.setattr(units, "SAMPLE_CELLS", 50_000)  # 41 of 82 units
    chunks = Counted(galaxies_4.p, 7)
    material = Material(300, 4, galaxies_4.p[galaxies_4.best], None, chunks)
    assert material.units.streamed
    sample = material.units.sample()
    assert sample.n_units == 41
    blocks = [block.size for _, (block,) in material.units.blocks("p")]
    assert max(blocks) == 7 * 82 * 4 and not material.units._held
    chunks.read = 0
    found = METHODS["STEPHENS"](material)
    assert found.objective == pytest.approx(whole.objective, rel=1e-9)
    assert share_equal(found.permutations, whole.permutations) == 1.0
    assert 3 <= chunks.read < 30
    for name, alignment in expected.items():
        pieces = METHODS[name](Material(300, 4, best, None, Counted(galaxies_4.p, 11)))
        assert pieces.objective == pytest.approx(alignment.objective, rel=0.02), name


def test_allocations_take_a_byte_each():
    p = np.random.default_rng(0).dirichlet(np.ones(3), size=(20, 9))
    units = Units(20, 9, 3, array_chunks(p))
    units.streamed = True
    first = np.concatenate([block for _, (block,) in units.blocks("z")], axis=1)
    assert units.allocations.dtype == np.int8
    units.probabilities = None  # not asked for again
    np.testing.assert_array_equal(np.concatenate([block for _, (block,) in units.blocks("z")], axis=1), first)


# -- the choice --------------------------------------------------------------------------------------------------------


def test_auto_takes_what_there_is(galaxies_3):
    chunks, pivot = array_chunks(galaxies_3.p), galaxies_3.p[galaxies_3.best]
    whole = Material(300, 3, pivot, None, chunks, galaxies_3.z, galaxies_3.theta)
    assert choose(whole).method == "responsibilities"
    assert choose(Material(300, 3, None, None, chunks)).method == "STEPHENS"
    assert choose(Material(300, 3, None, None, None, galaxies_3.z)).method == "ECR-ITERATIVE-1"
    assert choose(Material(300, 3, components=galaxies_3.theta)).method == "parameters"
    with pytest.raises(InvalidArgumentError, match="nothing that tells components apart"):
        choose(Material(300, 3))


def test_auto_does_not_trust_a_pivot_with_coincident_components(galaxies_4):
    """A reference two of whose components are the same leaves 8281 nats; the guard is Stephens from several starts."""
    pivot = galaxies_4.p[galaxies_4.best].copy()
    pivot[:, 2] = pivot[:, 3] = (pivot[:, 2] + pivot[:, 3]) / 2
    found, choice = run(Material(300, 4, pivot, None, array_chunks(galaxies_4.p)), "auto", tuple("ABCD"))
    assert choice.method == "STEPHENS"
    assert choice.why.startswith("components C and D of the reference hold the same members (distance 0.000)")
    assert found.objective == pytest.approx(DIVERGENCE["galaxies_k4"], abs=1e-3)


def test_auto_does_not_trust_a_pivot_that_draws_are_not_like(galaxies_4):
    """Its components are distinct, but few draws divide the units as it does."""
    pivot = galaxies_4.p[166]
    by_pivot = methods.to_responsibilities(galaxies_4.p, pivot)
    found, choice = run(Material(300, 4, pivot, None, array_chunks(galaxies_4.p)), "auto")
    assert choice.method == "STEPHENS" and "most of them are not like the reference" in choice.why
    assert found.objective == pytest.approx(DIVERGENCE["galaxies_k4"], abs=1e-3)
    assert share_equal(found.permutations, by_pivot.permutations) < 0.9


def test_a_method_says_what_it_needs():
    material = Material(10, 3, components=np.zeros((10, 3, 1)))
    with pytest.raises(InvalidArgumentError, match='method="STEPHENS" needs responsibilities'):
        METHODS["STEPHENS"](material)
    assert methods.named("aic").name == "ordering"
    assert methods.named("stephens").name == "STEPHENS"
    with pytest.raises(InvalidArgumentError, match='called "sorting"'):
        methods.named("sorting")


def test_the_readme_lists_the_methods():
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = [
        line for line in text.partition("## Labels of draws")[2].partition("\n## ")[0].splitlines() if "| `" in line
    ]
    expected = [
        f"| `{entry.name}` | {entry.text} | {methods.table.wanted(entry.needs)} | {entry.source} |"
        for entry in METHODS.values()
    ]
    assert rows == expected
    assert f"[{len(METHODS)} methods]" in text
