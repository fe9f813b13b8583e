"""Files that are no saved fit: damaged, foreign, hostile. `python tests/broken_files.py [N]` tries N of random damage.

Every generator yields (what, bytes) from the bytes of a good file.
"""

import collections
import hashlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import emppl
from emppl import storage
from emppl.errors import SavedFitError

Case = tuple[str, bytes]


def sealed(content: bytes) -> bytes:
    """Content with the checksum that belongs to it: what somebody who knows how can make."""
    return content + storage.SEAL.format(size=len(content), digest=hashlib.sha256(content).hexdigest()).encode()


def changed(good: bytes, change: Callable[[h5py.File], Any]) -> bytes:
    """The HDF5 content changed and sealed again."""
    buffer = io.BytesIO(good[: -storage.SEAL_SIZE])
    with h5py.File(buffer, "r+") as file:
        change(file)
    return sealed(buffer.getvalue())


def damaged(good: bytes, seed: int, number: int) -> Iterator[Case]:
    """Bytes changed: one, several, a block of zeros, or some left out or put in."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        content, kind = bytearray(good), rng.choice(["flip", "flips", "zeros", "cut out", "put in", "seal"])
        place = int(rng.integers(len(good)))
        if kind in ("flip", "flips"):
            for place in rng.integers(len(good), size=1 if kind == "flip" else 100):
                content[place] ^= int(rng.integers(1, 256))
        elif kind == "zeros":
            content[place : place + 64] = bytes(len(content[place : place + 64]))
            if content == good:
                content[-1] ^= 1
        elif kind == "cut out":
            del content[place : place + int(rng.integers(1, 100))]
        elif kind == "put in":
            content[place:place] = rng.bytes(int(rng.integers(1, 100)))
        else:
            content[-1 - int(rng.integers(storage.SEAL_SIZE))] ^= int(rng.integers(1, 256))
        yield str(kind), bytes(content)
    for share in range(0, 100, 5):
        yield "truncated", good[: len(good) * share // 100]
    yield "truncated", good[:-1]
    yield "longer", good + b"\n"


def heads(head: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The JSON text of the head, changed in one key in every way, and what is no JSON of a head."""
    for key in head:
        if key in ("emppl", "seed"):
            continue  # said, not read
        yield f"no {key}", json.dumps({k: v for k, v in head.items() if k != key})
        yield f"{key} is null", json.dumps(head | {key: None})
        yield f"{key} is nested", json.dumps(head | {key: [[["x"]]]})
    for key, value in {
        "format": 0, "status": "NEW", "n_iter": "many", "seconds": True, "traces": [["x"]], "scales": {"bias": 1},
        "starts": {"columns": ["a"], "data": [[1, 2]]}, "parameters": ["nobody"], "points": [["a", 1, 2, 3, 4]],
    }.items():  # fmt: skip
        yield f"{key} is {value}", json.dumps(head | {key: value})
    for key in ("format", "n_iter", "n_passes", "seconds", "log_posterior", "log_likelihood", "log_prior"):
        yield f"{key} of 400 digits", json.dumps(head | {key: 10**400})
    yield "format is text", json.dumps(head | {"format": "2"})
    yield "no JSON", "{"
    yield "a list", "[]"
    yield "deep JSON", "[" * 100_000
    yield "deep JSON that closes", '{"format": 2, "a": ' + "[" * 50_000 + "]" * 50_000 + "}"
    yield "a long number", '{"format": ' + "9" * 10_000 + "}"
    yield "later format", json.dumps(head | {"format": 99})


def headed(good: bytes, step: int = 1) -> Iterator[Case]:
    """Files with every one of `heads`, or with one in `step` of them."""
    with h5py.File(io.BytesIO(good), "r") as file:
        head = json.loads(file.attrs["emppl"])
    for what, text in list(heads(head))[::step]:
        yield what, changed(good, lambda file, text=text: file.attrs.__setitem__("emppl", text))


def rebuilt(good: bytes) -> Iterator[Case]:
    """Groups and arrays changed with HDF5's own means."""

    def replaced(**options: Any) -> Callable[[h5py.File], None]:
        def change(file: h5py.File) -> None:
            del file["theta/bias"]
            file["theta"].create_dataset("bias", **options)

        return change

    changes: dict[str, Callable[[h5py.File], Any]] = {
        "group in itself": lambda file: file.__setitem__("theta/self", file["/"]),
        "group in its child": lambda file: file.__setitem__("theta/self", file["theta"]),
        "soft link": lambda file: file.__setitem__("theta/more", h5py.SoftLink("/trace")),
        "soft link to itself": lambda file: file.__setitem__("theta/more", h5py.SoftLink("/theta/more")),
        "external link": lambda file: file.__setitem__("more", h5py.ExternalLink("/etc/passwd", "/")),
        "type": lambda file: file.__setitem__("more", np.dtype("f8")),
        "no attribute": lambda file: file.attrs.__delitem__("emppl"),
        "attribute is a number": lambda file: file.attrs.__setitem__("emppl", 1.0),
        "attribute is an array": lambda file: file.attrs.__setitem__("emppl", np.ones(3)),
        "huge": replaced(shape=(2**50,), dtype="f8"),
        "huge and packed": replaced(shape=(2**36,), dtype="f8", chunks=(2**20,), compression="gzip"),
        "zeros packed": replaced(data=np.zeros(10**7), compression="gzip"),
        "text": replaced(data=np.array(["a", "b"], dtype="S1")),
        "complex": replaced(data=np.ones(2, dtype=complex)),
        "records": replaced(data=np.ones(2, dtype=[("a", "f8")])),
        "nothing": replaced(data=h5py.Empty("f8")),
        "nan": replaced(data=np.full(2, np.nan)),
        "another shape": replaced(data=np.ones((3, 5))),
        "elsewhere": replaced(shape=(2,), dtype="f8", external=[("/etc/passwd", 0, 16)]),
        "references": replaced(data=np.array([None, None], dtype=h5py.ref_dtype)),
        "groups beside each other": lambda file: [file.create_group(f"g{n}") for n in range(3000)],
        "dims that fill up": filled_up,
        "many groups": lambda file: [file.create_group("theta" + "/g" * depth) for depth in range(1, 200)],
    }
    with h5py.File(io.BytesIO(good), "r") as file:
        groups = list(file)
    for name in groups:
        changes[f"no {name}"] = lambda file, name=name: file.__delitem__(name)
        changes[f"{name} is an array"] = lambda file, name=name: (
            file.__delitem__(name),
            file.__setitem__(name, [1.0]),
        )
    for what, change in changes.items():
        yield what, changed(good, change)
    yield "virtual", changed(good, virtual)
    yield "sealed text", sealed(b"not a fit")
    yield "sealed nothing", sealed(b"")
    yield "sealed twice", sealed(good)[:-1]


def filled_up(file: h5py.File, size: int = 5000) -> None:
    """An array of one number along dims that can grow and have grown, to 200 MB."""
    group = file.create_group("more")
    array = group.create_dataset("v", shape=(1, 1), maxshape=(None, None), dtype="f8", chunks=(1, 1))
    for axis, name in enumerate(("a", "b")):
        dim = group.create_dataset(name, shape=(size,), maxshape=(None,), dtype="i1", chunks=(1024,))
        dim.make_scale(f"This is a netCDF dimension but not a netCDF variable. {size:10d}")
        array.dims[axis].attach_scale(dim)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2,))
    del file["theta/bias"]
    file["theta"].create_virtual_dataset("bias", layout)


def answer(path: Path) -> tuple[str, float]:
    """What loading a file came to, and the seconds that it took."""
    begun = time.perf_counter()
    try:
        emppl.load(path)
        said = "loaded"
    except SavedFitError:
        said = "SavedFitError"
    except Exception as problem:
        said = type(problem).__name__
    return said, time.perf_counter() - begun


def main(number: int) -> None:
    from emppl.models import coins

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fit.nc"
        good = emppl.fit(coins.build(weights="free"), starts=2, seed=0).save(path).read_bytes()
        found, slowest = collections.Counter(), 0.0
        for cases in (damaged(good, 0, number), headed(good), rebuilt(good)):
            for what, content in cases:
                path.write_bytes(content)
                said, seconds = answer(path)
                found[said] += 1
                slowest = max(slowest, seconds)
                if said != "SavedFitError":
                    print(f"{what}: {said}")
        print(f"{sum(found.values()):,} files: {dict(found)}; the slowest answer took {slowest:.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
