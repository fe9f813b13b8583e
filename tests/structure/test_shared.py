"""Component axes that several latents share, and tables that have one twice."""

import numpy as np
import pymc as pm
import pytest
import small_models

import emppl

Y = np.array([0.0, 0.2, 1.0, 3.0, 3.1, -0.4])


def markov(start=None, prior=None):
    """Six states of a chain, each a latent of its own: one matrix for all steps."""
    with pm.Model(coords={"state": ["a", "b", "c"]}) as model:
        moves = pm.Dirichlet("moves", np.ones((3, 3)) if prior is None else prior)
        level = pm.Normal("level", np.float64(0.0), np.float64(5.0), dims="state")
        first = pm.Dirichlet("first", np.ones(3)) if start is None else start
        states = [pm.Categorical("z0", p=first)]
        for t in range(1, 6):
            states.append(pm.Categorical(f"z{t}", p=moves[states[-1]]))
        for t in range(6):
            pm.Normal(f"y{t}", level[states[t]], np.float64(1.0), observed=Y[t])
    return emppl.plan(model)


@pytest.fixture(scope="module")
def chain():
    return markov()


def test_rows_and_columns_of_a_transition_matrix_go_together(chain):
    (axis,) = chain.axes
    assert axis.latents == tuple(f"z{t}" for t in range(6)) and axis.latent == "z0"
    assert axis.variables == ("moves", "level", "first") and axis.dim == "state" and axis.labels == ("a", "b", "c")
    assert axis.exchangeable == ((0, 1, 2),) and "6 equivalent modes" in axis.sentence()
    theta = small_models.points(chain, count=1)[0]
    perm = np.array([2, 0, 1])
    new = axis.permute(theta, perm)
    np.testing.assert_array_equal(new["moves"], theta["moves"][perm][:, perm])
    np.testing.assert_array_equal(new["level"], theta["level"][perm])
    assert chain.log_posterior(new) == pytest.approx(chain.log_posterior(theta), rel=1e-12)
    before, after = chain.responsibilities(theta), chain.responsibilities(new)
    for name in axis.latents:
        np.testing.assert_allclose(after[name], before[name][perm], atol=1e-12)


def test_draws_of_a_chain_are_aligned_by_all_its_states(chain):
    (axis,) = chain.axes
    rng = np.random.default_rng(0)
    theta = {
        "moves": np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]]),
        "level": np.array([0.0, 1.0, 3.0]), "first": np.array([0.5, 0.3, 0.2]),
    }  # fmt: skip
    perms = np.array([rng.permutation(3) for _ in range(12)])
    many = axis.permute_draws({name: np.tile(value, (12, *[1] * value.ndim)) for name, value in theta.items()}, perms)
    import arviz as az

    tree = az.from_dict({"posterior": {name: value.reshape(2, 6, *value.shape[1:]) for name, value in many.items()}})
    aligned = emppl.relabel(tree, to=theta, model=chain)["posterior"]
    for name, value in theta.items():
        np.testing.assert_allclose(aligned[name].values, np.broadcast_to(value, (2, 6, *value.shape)), rtol=1e-12)
    found = emppl.compare_methods(tree, to=theta, model=chain, methods=["STEPHENS", "ECR", "parameters", "ordering"])
    assert (found.table["agree"] == 1.0).all()


def test_prior_and_likelihood_are_told_apart():
    (axis,) = markov(prior=np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]])).axes
    assert axis.symmetric_likelihood and not axis.symmetric_prior
    assert set(axis.exchangeable) == {(0, 2), (1,)}
    assert "in part ({a, c}, told apart by the prior)" in axis.sentence()
    (axis,) = markov(start=np.array([0.2, 0.4, 0.4])).axes
    assert not axis.symmetric_likelihood and set(axis.exchangeable) == {(0,), (1, 2)}
    assert "told apart by the likelihood" in axis.sentence()


def test_blocks_of_a_network_lie_along_both_axes_of_their_table():
    edges = np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]])
    with pm.Model() as model:
        share = pm.Dirichlet("share", np.ones(2))
        rate = pm.Beta("rate", np.float64(1.0), np.float64(1.0), shape=(2, 2))
        z = pm.Categorical("z", p=share, shape=4)
        pm.Bernoulli("edge", p=rate[z][:, z], observed=edges)
    plan = emppl.plan(model)
    (axis,) = plan.axes
    assert axis.variables == ("share", "rate") and len(axis.grids) == 1 and axis.exchangeable == ((0, 1),)
    theta = small_models.points(plan, count=1)[0]
    new = axis.permute(theta, [1, 0])
    np.testing.assert_array_equal(new["rate"], theta["rate"][::-1, ::-1])
    assert plan.log_posterior(new) == pytest.approx(plan.log_posterior(theta), rel=1e-12)


def test_two_families_of_one_table_are_a_product():
    with pm.Model() as model:
        w, v = pm.Dirichlet("w", np.ones(3)), pm.Dirichlet("v", np.ones(2))
        level = pm.Normal("level", np.float64(0.0), np.float64(5.0), shape=(3, 2))
        a, b = pm.Categorical("a", p=w, shape=6), pm.Categorical("b", p=v, shape=6)
        pm.Normal("y", level[a, b], np.float64(1.0), observed=Y)
    axes = {axis.latent: axis for axis in emppl.plan(model).axes}
    assert axes["a"].variables == ("w", "level") and axes["b"].variables == ("v", "level")
    assert axes["a"].exchangeable == ((0, 1, 2),) and axes["b"].exchangeable == ((0, 1),)
