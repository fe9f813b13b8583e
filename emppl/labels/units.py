"""Membership of units in every draw, run through as often as a method needs without holding all of it.

T draws, n units (members of a latent), K components. A block of c draws is laid out [n, c K], draw by draw: costs of
all draws of a block, and sums over them, are then one matrix product each.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from emppl.kernels.assignment import one_hot
from emppl.kernels.threads import one_blas_thread

CHUNK_CELLS = 4_000_000  # cells of a block: 32 MB of doubles
HELD_CELLS = 32_000_000  # up to so many are kept between sweeps, 256 MB
SAMPLE_CELLS = 8_000_000  # so many of a sample, where all are too many
REPLAYED_CELLS = 16_000_000  # up to so many are kept as they came, since they may be dear to compute
FLOOR = 1e-6  # probabilities are kept this far from 0 and 1, as R's label.switching does: logarithms stay finite

Chunks = Callable[[], Iterator[tuple[slice, np.ndarray]]]


def array_chunks(values: np.ndarray, width: int = 1) -> Chunks:
    """Slices of an array over its first axis, `width` cells for each of its own, no more than a block at a time."""
    per_draw = max(1, int(np.prod(values.shape[1:], dtype=int)) * width)
    step = max(1, CHUNK_CELLS // per_draw)

    def chunks() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(values), step):
            where = slice(start, min(start + step, len(values)))
            yield where, np.asarray(values[where])

    return chunks


def replayed(chunks: Chunks) -> Chunks:
    """The same chunks, kept from the first whole run on where they are small enough: they may be dear to compute."""
    kept: list[tuple[slice, np.ndarray]] = []
    state = {"whole": False}

    def again() -> Iterator[tuple[slice, np.ndarray]]:
        if state["whole"]:
            yield from kept
            return
        kept.clear()
        cells, small = 0, True
        for where, values in chunks():
            cells += values.size
            small = small and cells <= REPLAYED_CELLS
            if small:
                kept.append((where, values))
            else:
                kept.clear()
            yield where, values
        state["whole"] = small

    return again


class Units:
    """Probabilities p [T, n, K] and allocations z [T, n] of the units, block by block.

    `probabilities`: a function that yields (slice of draws, [c, n, K]). Where only these are given, a unit is allocated
    to its most probable component. `kept`: indices of the units that are looked at, None for all. What is small enough
    is kept after the first time, allocations always (a byte each).
    """

    def __init__(
        self,
        n_draws: int,
        n_units: int,
        size: int,
        probabilities: Chunks | None = None,
        allocations: np.ndarray | None = None,
        kept: np.ndarray | None = None,
    ) -> None:
        self.n_draws, self.size, self.kept = n_draws, size, kept
        self.n_units = n_units if kept is None else len(kept)
        self.probabilities, self.allocations = probabilities, allocations
        self.streamed = n_draws * self.n_units * size > HELD_CELLS  # every sweep reads the draws anew
        self._held: dict[str, list[tuple[slice, dict[str, np.ndarray]]]] = {}

    @cached_property
    def fewer(self) -> "Units":
        """The same units where all can be kept between sweeps, else a sample of them, read once."""
        return self.sample() if self.streamed else self

    def sample(self) -> "Units":
        """The same for as many units, evenly spaced, as can be kept between sweeps."""
        count = max(1, SAMPLE_CELLS // (self.n_draws * self.size))
        places = np.unique(np.linspace(0, self.n_units - 1, min(count, self.n_units)).astype(int))
        kept = places if self.kept is None else self.kept[places]
        return Units(self.n_draws, len(kept), self.size, self.probabilities, self.allocations, kept)

    def blocks(self, *kinds: str) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """(slice of draws, one [n, c K] for each kind) over all draws. Kinds: "p" probabilities, "z" allocations."""
        distinct = sorted(set(kinds))
        held = self._held.get("".join(distinct))
        if held is not None:
            for where, found in held:
                yield where, [found[kind] for kind in kinds]
            return
        fresh = []
        for where, read in self._read(distinct):
            if not self.streamed:
                fresh.append((where, read))
            yield where, [read[kind] for kind in kinds]
        if not self.streamed:
            self._held["".join(distinct)] = fresh

    def _read(self, kinds: list[str]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        if kinds == ["z"] and self.allocations is not None:
            for where, z in array_chunks(self.allocations, self.size)():
                yield where, {"z": self._hot(self._some(z))}
            return
        if self.probabilities is None:
            raise ValueError("these draws have no probabilities of the units")
        small = np.int8 if self.size < 128 else np.int16
        noted = np.empty((self.n_draws, self.n_units), dtype=small) if "z" in kinds and self.kept is None else None
        for where, p in self.probabilities():
            p = self._some(p)
            found = {"p": self._laid_out(p)} if "p" in kinds else {}
            if "z" in kinds:
                z = p.argmax(axis=2) if self.allocations is None else self._some(self.allocations[where])
                found["z"] = self._hot(z)
                if noted is not None:
                    noted[where] = z
            yield where, found
        if noted is not None and self.allocations is None:
            self.allocations = noted

    def _some(self, values: np.ndarray) -> np.ndarray:
        return values if self.kept is None else values[:, self.kept]

    def _laid_out(self, p: np.ndarray) -> np.ndarray:
        clear = np.clip(p, FLOOR, 1.0 - FLOOR, dtype=float)
        flat = clear.reshape(-1, self.size)
        flat /= (flat @ np.ones(self.size))[:, None]
        block = np.ascontiguousarray(clear.transpose(1, 0, 2))  # last: arithmetic in this order is slow
        return block.reshape(len(block), -1)

    def _hot(self, z: np.ndarray) -> np.ndarray:
        draws, units = z.shape
        block = np.zeros((units, draws, self.size), dtype=np.float32)  # holds whole numbers exactly, in half the room
        np.put_along_axis(block, z.T[:, :, None].astype(np.int64), 1.0, axis=2)
        return block.reshape(units, -1)

    def sums(self, perms: np.ndarray, kind: str) -> np.ndarray:
        """Probabilities (or allocations) after relabelling, summed over draws: perms [S, T, K] → [S, n, K]."""
        total = np.zeros((len(perms), self.n_units, self.size))
        with one_blas_thread():  # narrow products, which a second thread made up to ten times as slow
            for where, (block,) in self.blocks(kind):
                total += summed(block, perms[:, where])
        return total


def summed(block: np.ndarray, perms: np.ndarray) -> np.ndarray:
    """[S, n, K]: a block [n, c K] after relabelling by perms [S, c, K], summed over its draws."""
    starts, _, size = perms.shape
    hot = np.stack([one_hot(own).reshape(-1, size) for own in perms], axis=1).reshape(-1, starts * size)
    return (block @ hot.astype(block.dtype)).reshape(len(block), starts, size).transpose(1, 0, 2)


def block_costs(weights: np.ndarray, block: np.ndarray) -> np.ndarray:
    """[S, c, K, K]: minus the products of weights [S, n, K] (new) and a block [n, c K] (old), a draw each."""
    starts, units, size = weights.shape
    flat = weights.transpose(0, 2, 1).reshape(-1, units)
    costs = -(flat @ block).astype(float)
    return costs.reshape(starts, size, -1, size).transpose(0, 2, 1, 3)
