"""Every spelling of a source gives the same rows; what no block may hold is named with its block and row."""

import dask.array
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from row_models import cases, head, lines, logarithms

from emppl.errors import InvalidArgumentError, InvalidDataError
from emppl.streaming import Parquet, streamed
from emppl.streaming.blocks import Shape, as_source, checked
from emppl.streaming.survey import Moments, surveyed

DATA = cases(n=60)["lines"][1]
NAMES = ("x", "y")


def as_blocks(size=25):
    return [{name: array[start : start + size] for name, array in DATA.items()} for start in range(0, 60, size)]


def mapped(tmp_path):
    for name, array in DATA.items():
        np.save(tmp_path / f"{name}.npy", array)
    return {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in NAMES}


def parquet(tmp_path):
    table = pa.table({"a": DATA["x"][:, 0], "b": DATA["x"][:, 1], "c": DATA["x"][:, 2], "target": DATA["y"]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=25)
    return Parquet(tmp_path / "rows.parquet", {"x": ["a", "b", "c"], "y": "target"})


def zarrs(tmp_path):
    return {n: zarr.create_array(store=tmp_path / n, data=a, chunks=(16, *a.shape[1:])) for n, a in DATA.items()}


SOURCES = {
    "arrays": lambda tmp_path: DATA,
    "lists": lambda tmp_path: {name: array.tolist() for name, array in DATA.items()},
    "memory-mapped": mapped,
    "zarr": zarrs,
    "parquet": parquet,
    "dask": lambda tmp_path: {n: dask.array.from_array(a, chunks=(25, *[1] * (a.ndim - 1))) for n, a in DATA.items()},
    "blocks": lambda tmp_path: as_blocks(),
    "functions": lambda tmp_path: [lambda block=block: block for block in as_blocks()],
    "generator": lambda tmp_path: lambda: iter(as_blocks()),
    "an empty block": lambda tmp_path: [*as_blocks(), {name: array[:0] for name, array in DATA.items()}],
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_spelling_gives_the_same_rows_again_and_again(kind, tmp_path):
    source = as_source(SOURCES[kind](tmp_path), NAMES, 25)
    for _ in range(2):
        blocks = [piece.open() for piece in source.pieces()]
        assert len(blocks) == (4 if kind == "an empty block" else 3)
        for name, array in DATA.items():
            np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), array)


def test_a_parquet_file_is_fitted_by_its_column_s_name(tmp_path):
    y = DATA["y"] - DATA["y"].min() + 1.0
    pq.write_table(pa.table({"y": y}), tmp_path / "rows.parquet", row_group_size=25)
    theta = {"w": np.array([0.4, 0.6]), "alpha": np.array([1.5, 2.5]), "beta": np.array([0.5, 1.5])}
    model = logarithms({"y": y[:10]})
    found = streamed(model, str(tmp_path / "rows.parquet")).log_likelihood(theta)
    np.testing.assert_allclose(found, streamed(model, y).log_likelihood(theta), rtol=1e-13)


def test_rows_in_single_precision_are_read_as_they_are():
    theta = {"w": np.array([0.4, 0.6]), "alpha": np.array([1.5, 2.5]), "beta": np.array([0.5, 1.5])}
    y = (DATA["y"] - DATA["y"].min() + 1.0).astype(np.float32)
    model = logarithms({"y": y[:10].astype(float)})
    single, double = (streamed(model, array).log_likelihood(theta) for array in (y, y.astype(float)))
    np.testing.assert_allclose(single, double, rtol=1e-7)


def test_where_rows_lie_in_memory_changes_no_digit():
    """What a worker is sent over a network begins at any byte."""
    rows = np.random.default_rng(1).normal(size=(60, 2))
    bytes_before = np.zeros(rows.nbytes + 5, dtype=np.uint8)
    astray = bytes_before[5:].view(np.float64).reshape(rows.shape)
    astray[:] = rows
    assert not astray.flags.aligned
    found = checked(0, {"x": astray}, [Shape("x", (2,), np.dtype("float64"))], values=False)["x"]
    assert found.flags.aligned
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize(
    "given, reason",
    [
        (iter(as_blocks()), "gives them once"),
        (7, "not int"),
        ("rows.csv", "no parquet file"),
        ({"z": DATA["y"]}, "which is no pm.Data"),
        ({}, "which is no pm.Data"),
        (DATA["y"], "leaves open which"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_what_is_no_source_is_refused_with_the_spellings(given, reason):
    with pytest.raises(InvalidArgumentError, match=reason) as refusal:
        as_source(given, NAMES, None)
    assert refusal.value.remedies


def test_a_parquet_file_without_the_column_is_refused(tmp_path):
    parquet(tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"height is no column of .*rows\.parquet"):
        list(as_source(Parquet(tmp_path / "rows.parquet", {"y": "height"}), NAMES, None).pieces())
    with pytest.raises(InvalidArgumentError, match="cannot be read as parquet"):
        list(as_source(str(tmp_path / "none.parquet"), NAMES, None).pieces())


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_a_block_has_rows(size):
    with pytest.raises(InvalidArgumentError, match="block_size"):
        as_source(DATA, NAMES, size)


def spoiled(place: tuple, value: float, name: str = "y") -> list:
    blocks = [{n: a.copy() for n, a in block.items()} for block in as_blocks()]
    blocks[1][name][place] = value
    return blocks


BAD = {
    "missing": (spoiled((7,), np.nan), r"y\[7\] = nan of block 1 is not finite", "row 7 of the block"),
    "infinite": (spoiled((3, 2), np.inf, "x"), r"x\[3, 2\] = inf of block 1", "row 3 of the block"),
    "columns": ([as_blocks()[0], {"x": DATA["x"][:, :2], "y": DATA["y"]}], "block 1 of x has shape", "block 1"),
    "lengths": ([as_blocks()[0], {"x": DATA["x"][:4], "y": DATA["y"]}], "different numbers of rows", "block 1"),
    "lacking": ([as_blocks()[0], {"x": DATA["x"]}], "block 1 lacks y", "block 1"),
    "words": ([{"x": DATA["x"], "y": np.full(60, "a")}], "block 0 of y holds <U1, not numbers", "block 0"),
    "empty": ([{name: array[:0] for name, array in DATA.items()}], "no rows", "source"),
    "no block": ([], "no block", "source"),
    "arrays": ({"x": DATA["x"], "y": DATA["y"][:3]}, "different numbers of rows: x has 60, y has 3", "source"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_blocks_are_named_with_their_row(kind):
    source, what, where = BAD[kind]
    with pytest.raises(InvalidDataError, match=what) as error:
        streamed(lines(head(DATA)), source)
    assert where in error.value.where


def test_a_value_outside_the_support_is_named_with_its_row():
    y = np.abs(DATA["y"]) + 1.0
    y[33] = -2.0
    with pytest.raises(InvalidDataError, match=r"\[8\] = -2.0 of block 1 is outside the support of Gamma") as error:
        streamed(logarithms({"y": y[:10]}), y, block_size=25)
    assert "row 8 of the block" in error.value.where


def test_whole_numbers_may_come_as_floats_but_must_be_whole():
    build, data = cases(n=60)["trials"]
    theta = {"w": np.array(0.3), "p": np.array([0.2, 0.7])}
    as_floats = {name: array.astype(float) for name, array in data.items()}
    found = [streamed(build(head(data)), source).log_likelihood(theta) for source in (data, as_floats)]
    assert found[0] == found[1]
    as_floats["n"][4] = 5.5
    with pytest.raises(InvalidDataError, match=r"n\[4\] = 5.5 of block 0 is no whole number"):
        streamed(build(head(data)), as_floats)


# The first pass -------------------------------------------------------------------------------------------------------


def test_moments_of_blocks_are_those_of_all_rows_also_far_from_zero():
    rng = np.random.default_rng(0)
    deviation = rng.normal(size=(1000, 3)) * [1.0, 1e-3, 10.0]
    y = deviation + [1e8, 1.0, -1e9]
    total = None
    for start in range(0, 1000, 170):
        part = Moments.of(y[start : start + 170], vectors=True)
        total = part if total is None else total.merged(part)
    exact = y - y[:1]  # without rounding
    np.testing.assert_allclose(total.spread / 1000, np.cov(exact, rowvar=False, bias=True), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(total.mean - y[0], exact.mean(axis=0), atol=1e-6)
    stand_in = total.rows((3,))
    np.testing.assert_allclose(stand_in.mean(axis=0), y.mean(axis=0), rtol=1e-14)
    covariance = np.cov(stand_in - y.mean(axis=0), rowvar=False, bias=True)
    np.testing.assert_allclose(covariance, np.cov(exact, rowvar=False, bias=True), rtol=1e-5, atol=1e-6)


def test_the_sample_takes_every_row_with_the_same_chance():
    from emppl.streaming.survey import Surveyor

    shapes, counts = as_shapes(), np.zeros(60)
    for seed in range(400):
        surveyor = Surveyor(shapes, {}, 15, seed)
        blocks = [{"y": np.arange(s, min(s + 25, 60), dtype=float)} for s in range(0, 60, 25)]
        found = surveyed((surveyor.look(i, block) for i, block in enumerate(blocks)), 15)
        rows = found.sample["y"].astype(int)
        assert len(rows) == 15 and (np.diff(rows) > 0).all() and found.n == 60
        counts[rows] += 1
    spread = np.sqrt(400 * 0.25 * 0.75)
    assert np.abs(counts - 100).max() < 4.5 * spread


def as_shapes():
    from emppl.streaming.blocks import Shape

    return [Shape("y", (), np.dtype(float))]


def test_blocks_of_one_array_need_no_name():
    np.testing.assert_array_equal(checked(0, [1.0, 2.0], as_shapes(), values=True)["y"], [1.0, 2.0])


@pytest.mark.parametrize(
    ("held", "given", "number"),
    [
        ("int32", np.array([3, 4294967301]), "4294967301"),
        ("int32", np.array([3.0, 2.0**31]), "2147483648"),
        ("int64", np.array([3, 2**63 + 5], dtype="uint64"), "9223372036854775813"),
        ("float64", np.array([3, 2**53 + 1]), "9007199254740993"),
    ],
)
def test_numbers_that_the_model_cannot_hold_are_refused(held, given, number):
    """PyMC would keep the remainder or round, and say nothing."""
    with pytest.raises(InvalidDataError, match=rf"d\[1\] = {number} of block 7"):
        checked(7, {"d": given}, [Shape("d", (), np.dtype(held))], values=True)


def test_numbers_that_it_can_hold_are_kept():
    given = np.array([2**31 - 1, -(2**31), 5])
    np.testing.assert_array_equal(checked(0, {"d": given}, [Shape("d", (), np.dtype("int32"))], True)["d"], given)
    np.testing.assert_array_equal(
        checked(0, {"d": given * 2**20}, [Shape("d", (), np.dtype(float))], True)["d"], given * 2.0**20
    )
