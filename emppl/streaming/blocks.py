"""Sources of rows: arrays on disk or on a cluster, parquet files, lists or generators of blocks, all as pieces.

A piece says how one block is opened. What can be sent to another process is: the data stay where they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emppl.errors import InvalidArgumentError, InvalidDataError

EXACT = 2.0**53  # from here on a double holds even whole numbers only
BLOCK_ROWS = 1 << 16
Rows = dict[str, np.ndarray]  # by name of a pm.Data: the rows of one block

SPELLINGS = (
    'source={"y": array}: anything with a shape and slices (numpy, memory-mapped, zarr, h5py, dask)',
    'source="rows.parquet", or emppl.streaming.Parquet(path, {"y": ["height", "weight"]})',
    "source=[block, …] or a generator function: each block an array or {name: array}",
    "source=[load_first, load_second, …]: functions that return a block",
)


class Mapped(NamedTuple):
    """A memory-mapped array as another process on the same files opens it."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    order: str

    @classmethod
    def of(cls, array: np.memmap) -> Mapped | None:
        """None for a view that is no whole file: it is sent as it is."""
        whole = array.flags.c_contiguous or array.flags.f_contiguous
        if array.filename is None or not whole or not isinstance(array.base, _mmap()):
            return None
        order = "C" if array.flags.c_contiguous else "F"
        return cls(os.path.abspath(array.filename), array.dtype.str, int(array.offset), array.shape, order)

    def open(self) -> np.memmap:
        return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, self.order)  # type: ignore[call-overload]


def _mmap() -> type:
    from mmap import mmap

    return mmap


@dataclass(frozen=True)
class Piece:
    """How one block is opened: `opener(*arguments)` is {name: array}, or the array itself."""

    number: int
    opener: Callable[..., Any]
    arguments: tuple[Any, ...] = field(repr=False)

    def open(self) -> Any:
        """The block, read here."""
        return self.opener(*(here(a) for a in self.arguments))


def here(value: Any) -> Any:
    """What stands for data elsewhere, as data: dask's delayed values and futures."""
    kind = type(value).__module__.split(".")[0]
    if kind == "dask" and hasattr(value, "compute"):
        return value.compute(scheduler="synchronous")
    if kind == "distributed" and hasattr(value, "result"):
        return value.result()
    return value


def sliced(start: int, stop: int, names: tuple[str, ...], *arrays: Any) -> Rows:
    """Rows start … stop - 1 of arrays."""
    opened = [a.open() if isinstance(a, Mapped) else a for a in arrays]
    return {name: np.asarray(array[start:stop]) for name, array in zip(names, opened)}


def named(names: tuple[str, ...], *values: Any) -> Rows:
    """Values that are one block, by name."""
    return dict(zip(names, values))


def whole(block: Any) -> Any:
    """A block of a list: data, or a function that loads them."""
    return block() if callable(block) else block


def row_group(path: str, group: int, columns: Mapping[str, str | Sequence[str]]) -> Rows:
    """One row group of a parquet file; several columns make one array, side by side."""
    import pyarrow.parquet as pq

    wanted = list(dict.fromkeys(c for cs in columns.values() for c in ([cs] if isinstance(cs, str) else cs)))
    with pq.ParquetFile(path) as file:
        table = file.read_row_group(group, columns=wanted)
    read = {name: table.column(name).to_numpy() for name in wanted}
    return {
        name: read[cs] if isinstance(cs, str) else np.stack([read[c] for c in cs], axis=1)
        for name, cs in columns.items()
    }


class Parquet:
    """Blocks from parquet files, a row group each: `Parquet("rows.parquet", {"y": ["height", "weight"], "x": "age"})`.

    paths: one or several; columns: for each pm.Data of the model the column that it is, or a list of columns, side by
    side. Left out, a column has the name of its pm.Data. Raises InvalidArgumentError for a column that is not there.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        columns: Mapping[str, str | Sequence[str]] | None = None,
    ) -> None:
        several = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        self.paths = [os.path.abspath(os.path.expanduser(os.fspath(p))) for p in several]
        self.columns = columns

    def pieces(self, names: tuple[str, ...]) -> Iterator[Piece]:
        import pyarrow.parquet as pq

        columns = self.columns or {name: name for name in names}
        number = 0
        for path in self.paths:
            try:
                with pq.ParquetFile(path) as file:
                    groups, have = file.metadata.num_row_groups, set(file.schema_arrow.names)
            except (OSError, ValueError) as problem:
                raise InvalidArgumentError(f"{path} cannot be read as parquet: {problem}", "source") from None
            wanted = {c for cs in columns.values() for c in ([cs] if isinstance(cs, str) else cs)}
            if wanted - have:
                raise InvalidArgumentError(
                    f"{', '.join(sorted(wanted - have))} is no column of {path}",
                    f"columns: {', '.join(sorted(have))}",
                    ('emppl.streaming.Parquet(path, {"y": "column of y"})',),
                )
            for group in range(groups):
                yield Piece(number, row_group, (path, group, columns))
                number += 1


@dataclass(frozen=True)
class Source:
    """What `source=` was understood as: pieces, anew for every pass."""

    names: tuple[str, ...]
    make: Callable[[], Iterator[Piece]] = field(repr=False)
    sendable: bool  # whether its pieces mean something in another process

    def pieces(self) -> Iterator[Piece]:
        return self.make()


def as_source(given: Any, data_names: Sequence[str], block_size: int | None) -> Source:
    """The source that `source=` stands for; data_names: the pm.Data of the model. See SPELLINGS."""
    size = BLOCK_ROWS if block_size is None else block_size
    if not isinstance(size, int | np.integer) or size < 1:
        raise InvalidArgumentError(f"block_size must be a number of rows, not {size!r}", "block_size")
    if isinstance(given, str | os.PathLike):
        if Path(given).suffix not in (".parquet", ".pq"):
            raise InvalidArgumentError(f"{given} is no parquet file", "source", SPELLINGS)
        given = Parquet(given)
    if isinstance(given, Parquet):
        names = _known(given.columns or _all(data_names), data_names)
        return Source(names, lambda: given.pieces(names), True)
    if isinstance(given, Mapping):
        return _of_arrays(given, data_names, int(size))
    if hasattr(given, "shape") and hasattr(given, "__getitem__"):
        return _of_arrays({_only(data_names): given}, data_names, int(size))
    if isinstance(given, Iterator) or not (callable(given) or isinstance(given, Iterable)):
        raise InvalidArgumentError(
            f"source must give its blocks again for every pass, and {type(given).__name__} gives them once"
            if isinstance(given, Iterator)
            else f"source must be arrays, a file or blocks, not {type(given).__name__}",
            "source",
            ("pass the generator function itself: source=blocks, not source=blocks()", *SPELLINGS),
        )

    def pieces() -> Iterator[Piece]:
        blocks = given() if callable(given) else given
        return (Piece(number, whole, (block,)) for number, block in enumerate(blocks))

    return Source(_first_names(pieces, data_names), pieces, not callable(given))


def _of_arrays(given: Mapping[Any, Any], data_names: Sequence[str], size: int) -> Source:
    names = _known(given, data_names)
    arrays = [a if hasattr(a, "shape") else np.asarray(a) for a in given.values()]
    lengths = {name: a.shape[0] if len(a.shape) else 0 for name, a in zip(names, arrays)}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise InvalidDataError(f"arrays of one source have different numbers of rows: {text}", "source")
    if any(hasattr(a, "to_delayed") for a in arrays):
        return _of_dask(names, arrays)
    (n,) = set(lengths.values())

    def pieces() -> Iterator[Piece]:
        for number, start in enumerate(range(0, n, size)):
            yield Piece(number, sliced, (start, min(start + size, n), names, *arrays))

    return Source(names, pieces, True)


def _of_dask(names: tuple[str, ...], arrays: list[Any]) -> Source:
    """Dask arrays: a block for each of the first one's chunks of rows."""
    first = next(a for a in arrays if hasattr(a, "to_delayed"))
    rows = first.chunks[0]
    if any(np.isnan(n) for n in rows):
        raise InvalidArgumentError(
            "a dask array whose chunks have unknown lengths", "source", ("array.compute_chunk_sizes()",)
        )
    ends = np.cumsum(rows)
    columns: list[list[Any]] = []
    for a in arrays:
        if hasattr(a, "to_delayed"):
            columns.append(list(a.rechunk((rows, *(-1 for _ in a.shape[1:]))).to_delayed().ravel()))
        else:
            columns.append([np.asarray(a[end - n : end]) for n, end in zip(rows, ends)])

    def pieces() -> Iterator[Piece]:
        for number, values in enumerate(zip(*columns)):
            yield Piece(number, named, (names, *values))

    return Source(names, pieces, True)


def _first_names(pieces: Callable[[], Iterator[Piece]], data_names: Sequence[str]) -> tuple[str, ...]:
    first = next(iter(pieces()), None)
    if first is None:
        raise InvalidDataError("the source has no block", "source", ("give at least one block of rows",))
    if len(data_names) == 1:  # nothing to ask the block for, which may lie on another machine
        return (data_names[0],)
    block = first.open()
    return _known(block, data_names) if isinstance(block, Mapping) else (_only(data_names),)


def _known(given: Mapping[Any, Any], data_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(str(name) for name in given)
    unknown = [name for name in names if name not in data_names]
    if unknown or not names:
        raise InvalidArgumentError(
            f"source names {', '.join(unknown) or 'nothing'}, which is no pm.Data of the model",
            f"pm.Data of the model: {', '.join(data_names) or 'none'}",
            ('in the model: y = pm.Data("y", first_rows), and observed=y',),
        )
    return names


def _all(data_names: Sequence[str]) -> dict[str, str]:
    return {name: name for name in data_names}


def _only(data_names: Sequence[str]) -> str:
    if len(data_names) != 1:
        raise InvalidArgumentError(
            "a source of plain arrays leaves open which pm.Data they are",
            f"pm.Data of the model: {', '.join(data_names) or 'none'}",
            ('source={"y": array}, or blocks that are {"y": array}',),
        )
    return data_names[0]


@dataclass(frozen=True)
class Shape:
    """What every block of one pm.Data must look like."""

    name: str
    trailing: tuple[int, ...]
    dtype: np.dtype


def checked(number: int, block: Any, shapes: Sequence[Shape], values: bool) -> Rows:
    """The rows of a block by name; values: also look at every number. Raises InvalidDataError: which block, which row.

    Whole numbers may come as floats.
    """
    if not isinstance(block, Mapping):
        block = {shapes[0].name: block}
    missing = [s.name for s in shapes if s.name not in block]
    if missing:
        raise InvalidDataError(f"block {number} lacks {', '.join(missing)}", f"source, block {number}")
    rows: Rows = {}
    for shape in shapes:
        where = f"source, block {number}, {shape.name!r}"
        array = np.require(block[shape.name], requirements="A")  # what came over a network lies anywhere in memory
        if array.ndim != 1 + len(shape.trailing) or array.shape[1:] != shape.trailing:
            wanted = ", ".join(["rows", *map(str, shape.trailing)])
            raise InvalidDataError(f"block {number} of {shape.name} has shape {array.shape}, not ({wanted})", where)
        if array.dtype.kind not in "fiub":
            raise InvalidDataError(f"block {number} of {shape.name} holds {array.dtype}, not numbers", where)
        if values and array.dtype.kind == "f":
            good = np.isfinite(array) if shape.dtype.kind == "f" else np.isfinite(array) & (array == np.round(array))
            if not good.all():
                index = tuple(int(i) for i in np.argwhere(~good)[0])
                fault = "is not finite" if shape.dtype.kind == "f" else "is no whole number"
                raise InvalidDataError(
                    f"{shape.name}{list(index)} = {array[index]} of block {number} {fault}",
                    f"{where}, row {index[0]} of the block",
                    ("correct the value or leave the row out",),
                )
        if values and array.dtype.kind != "b":
            _refuse_lost_digits(array, shape, number, where)
        rows[shape.name] = array if array.dtype.kind == shape.dtype.kind else array.astype(shape.dtype)
    lengths = {name: len(array) for name, array in rows.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise InvalidDataError(f"arrays of block {number} have different numbers of rows: {text}", f"block {number}")
    return rows


def _refuse_lost_digits(array: np.ndarray, shape: Shape, number: int, where: str) -> None:
    """Raise InvalidDataError for the first number of a block that the model's data cannot hold as it is."""
    if shape.dtype.kind in "iu":
        ends = np.iinfo(shape.dtype)
        lost, ways = (array < ends.min) | (array > ends.max), (f"pm.Data({shape.name!r}, first_rows.astype(float))",)
    elif array.dtype.kind in "iu":
        lost, ways = (np.abs(array.astype(float)) >= EXACT) & (array % 2 == 1), ("subtract a common number beforehand",)
    else:
        return
    if lost.any():
        index = tuple(int(i) for i in np.argwhere(lost)[0])
        raise InvalidDataError(
            f"{shape.name}{list(index)} = {int(array[index])} of block {number} is more than {shape.dtype} holds, "
            f"as which the pm.Data {shape.name} is kept",
            f"{where}, row {index[0]} of the block", ways,
        )  # fmt: skip
