"""How far a graph can go over the values of latents: brute force is the oracle."""

import itertools

import numpy as np
import pytensor.tensor as pt
import pytest

from emppl.compiling import compile_graph
from emppl.structure import ranges
from emppl.structure.types import Node


def latent(name: str, shape: tuple[int, ...], support) -> Node:
    value = pt.tensor(name, dtype="int64", shape=shape)
    return Node(name, "latent", (), shape, "", value, support=np.asarray(support))


def brute_force(graph, latents):
    function, found = compile_graph([node.value for node in latents], graph), []
    whole = [itertools.product(node.support, repeat=node.size) for node in latents]
    for values in itertools.product(*whole):
        found.append(function(*[np.reshape(v, node.shape).astype("int64") for v, node in zip(values, latents)]))
    return np.min(found, axis=0), np.max(found, axis=0)


TABLE = np.array([4.0, -1.0, 7.0, 2.0])
GRAPHS = {
    "difference of elements": lambda z, n: z[0] - z[1] + 3,
    "product of two": lambda z, n: z * n,
    "hump": lambda z, n: n * (5 - n),
    "neighbours": lambda z, n: z[1:] - z[:-1],
    "table": lambda z, n: pt.constant(TABLE)[z] + n,
    "sum": lambda z, n: z.sum() - n,
    "table by one element": lambda z, n: pt.constant(TABLE)[z[0]] * z[2],
    "switch": lambda z, n: pt.switch(z > 1, n, -z),
    "largest": lambda z, n: pt.maximum(z.max(), n) + z[0],
    "joined": lambda z, n: pt.concatenate([z, [n]]) * 2,
    "stacked": lambda z, n: pt.stack([z[0], n, z[2]]) - z,
    "equal": lambda z, n: pt.eq(z, n) * 3,
    "square": lambda z, n: (z - 2) ** 2 + n,
    "absolute": lambda z, n: abs(z - n),
    "quotient": lambda z, n: z / (n + 1.0),
    "whole quotient": lambda z, n: (z + 4) // (n + 1),
    "power": lambda z, n: pt.pow(2.0, z - n),
    "no latent varies": lambda z, n: z * 0 + 3,
}
LATENTS = (latent("z", (3,), [0, 1, 2, 3]), latent("n", (), [0, 2, 3, 5]))


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_a_graph_with_few_joint_values_has_its_exact_range(graph):
    built = graph(*(node.value for node in LATENTS))
    low, high = ranges.Ranges(built, LATENTS)(built)
    expected = brute_force(built, LATENTS)
    np.testing.assert_array_equal(low, expected[0])
    np.testing.assert_array_equal(high, expected[1])


@pytest.mark.parametrize("most", [1, 4, 16])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_with_many_its_range_is_never_too_narrow(graph, most, monkeypatch):
    monkeypatch.setattr(ranges, "MOST_ASSIGNMENTS", most)
    built = graph(*(node.value for node in LATENTS))
    low, high = ranges.Ranges(built, LATENTS)(built)
    expected = brute_force(built, LATENTS)
    assert (low <= expected[0]).all() and (high >= expected[1]).all()
    assert np.shape(low) == np.shape(expected[0])


def test_sums_of_many_are_exact():
    z = latent("z", (60,), [0, 1])
    built = z.value[:50].sum() + 2 * z.value[50]
    low, high = ranges.Ranges(built, [z])(built)
    assert (low, high) == (0, 52)


@pytest.mark.parametrize("graph", [lambda z: pt.prod(z - 1), lambda z: pt.cos(z.sum())])
def test_what_is_not_known_is_said(graph):
    z = latent("z", (40,), [0, 1, 2])
    built = graph(z.value)
    with pytest.raises(ranges.UnknownRange):
        ranges.Ranges(built, [z])(built)


def test_a_graph_that_is_no_number_somewhere_is_said():
    z = latent("z", (2,), [0, 1])
    built = z.value[0] / z.value[1].astype("float64")
    with pytest.raises(ranges.UnknownRange, match="no number"):
        ranges.Ranges(built, [z])(built)


def test_elements_that_do_not_meet_cost_nothing():
    z = latent("z", (5_000,), np.arange(20))
    built = z.value[1:] - z.value[:-1]
    low, high = ranges.Ranges(built, [z])(built)  # 400 joint values, not 20 ** 5,000
    assert (low == -19).all() and (high == 19).all()
