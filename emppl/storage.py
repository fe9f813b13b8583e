"""Files that are whole or not there, written aside and renamed: bytes, text, netCDF trees; and read with distrust."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emppl.errors import InvalidArgumentError
from emppl.plain import plain
from emppl.text import storable

NEW_FILE = 0o666  # less the umask, as `open` has it
PERMISSIONS = 0o7777
SEAL = "\n# emppl: sha-256 of the {size:020d} bytes before this line {digest}\n"
SEALED = re.compile(
    SEAL.format(size=0, digest="(?P<digest>[0-9a-f]{64})").replace("0" * 20, r"(?P<size>\d{20})").encode()
)
SEAL_SIZE = len(SEAL.format(size=0, digest=hashlib.sha256().hexdigest()))
SIGNATURE = b"\x89HDF\r\n\x1a\n"  # that HDF5 begins with
PIECE = 2**22  # bytes of a file that its checksum is made of at once
DEPTH = 16  # groups inside groups
GROUPS = 100  # in one file: each takes milliseconds to open
SLACK = 2**20  # bytes that names and dimensions may declare beyond what the file holds
UNPACKED = 1100  # times the size of its file that a packed tree may have: zlib gets to 1032
STRINGS = 64  # read at once while their sizes are added up

# -- writing -----------------------------------------------------------------------------------------------------------


def target(path: str | os.PathLike[str]) -> Path:
    """The regular file, existing or not, that a write to `path` replaces; symbolic links are followed.

    Raises InvalidArgumentError where `path` is a folder, a device, a pipe, or no name that a file can have.
    """
    shown = os.fspath(path)
    try:
        found = Path(os.path.realpath(path))
        mode = os.stat(found).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except ValueError as problem:  # a null byte
        raise InvalidArgumentError(f"{shown!r} is not the name of a file: {problem}", "path") from None
    if stat.S_ISREG(mode):
        return found
    kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
    raise InvalidArgumentError(f"{shown} is {kind}, not a file", "path", ("the name of a file, existing or not",))


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> Path:
    """Write `content` under another name beside `path`, then rename; returns `path`.

    Whoever reads `path`, at any moment and whatever happens to this process, meets the earlier content or the new one,
    whole. Threads and processes may write one path: the last rename stands. Folders are made as needed. A symbolic
    link stays and what it points to is replaced; an existing file keeps its permissions and owner (other hard links
    to it keep the earlier content). Raises OSError where the system refuses (a full disk, a protected file or
    folder), InvalidArgumentError as `target` does.
    """
    place = target(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    before = os.stat(place) if place.exists() else None
    if before is not None and not os.access(place, os.W_OK):
        raise PermissionError(13, "the file is protected from writing", str(path))
    aside = place.with_name(f".{secrets.token_hex(8)}.part")  # short: the name itself may be as long as names can be
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), NEW_FILE)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(
                stream.fileno()
            )  # a disk may say only now that it is full; and a rename must not overtake the data
        if before is not None:
            _keep_access(aside, before)
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)
    return Path(path)


def _keep_access(aside: Path, before: os.stat_result) -> None:
    """Owner and permissions of the file that is about to be replaced, as far as this user may give them."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(aside, before.st_uid, before.st_gid)
    os.chmod(aside, before.st_mode & PERMISSIONS)  # last: a change of owner takes bits away


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write text in UTF-8 as `write_bytes` does; what UTF-8 has no bytes for (half a surrogate pair) becomes "?"."""
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_tree(path: str | os.PathLike[str], tree: xr.DataTree) -> Path:
    """Write a DataTree as netCDF, as `write_bytes` does.

    Values of mixed types become text, attributes that netCDF does not know become JSON text. The file is made in
    memory first: HDF5 itself ends the process where a disk is full.
    """
    place = target(path)  # refused before the work
    write_bytes(place, to_netcdf(tree))
    return Path(path)


def write_sealed(path: str | os.PathLike[str], tree: xr.DataTree) -> Path:
    """Write a DataTree as `write_tree` does, with a checksum behind it, for `read_sealed`.

    HDF5 passes over what comes after its own end, so that everything that reads netCDF reads the file.
    """
    target(path)
    content = to_netcdf(tree)
    seal = SEAL.format(size=len(content), digest=hashlib.sha256(content).hexdigest())
    return write_bytes(path, content + seal.encode())


def to_netcdf(tree: xr.DataTree) -> bytes:
    """A DataTree as the bytes of a netCDF file (HDF5)."""
    groups = {node.path: _storable(node.to_dataset(inherit=False)) for node in tree.subtree}
    return bytes(xr.DataTree.from_dict(groups).to_netcdf(engine="h5netcdf"))


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    text = {name: _as_text(dataset[name]) for name in dataset.variables if dataset[name].dtype.kind in "OU"}
    dataset = dataset.assign_coords({name: values for name, values in text.items() if name in dataset.coords})
    dataset = dataset.assign({name: values for name, values in text.items() if name in dataset.data_vars})
    dataset.attrs = {str(key): _attribute(value) for key, value in dataset.attrs.items()}
    return dataset


def _as_text(values: xr.DataArray) -> xr.DataArray:
    """Objects by their text, as files can hold it."""
    made = values.astype(str)
    return made.copy(data=np.array([storable(str(one)) for one in made.values.flat], dtype=str).reshape(made.shape))


def _attribute(value: Any) -> Any:
    known = isinstance(value, str | int | float | np.number) and not isinstance(value, bool)
    return storable(value) if isinstance(value, str) else value if known else json.dumps(plain(value))


# -- reading -----------------------------------------------------------------------------------------------------------


def read_sealed(path: str | os.PathLike[str]) -> xr.DataTree:
    """The DataTree of a file that `write_sealed` wrote, in memory.

    HDF5 sees the content only once its checksum holds: on damaged files it may crash, never end, or read other numbers.
    Raises OSError where the file cannot be read, ValueError saying what is wrong with it.
    """
    with open_regular(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - SEAL_SIZE))
        seal = SEALED.fullmatch(stream.read(SEAL_SIZE))
        if seal is None:
            raise ValueError("it does not end in a checksum: it is something else, cut short or changed since")
        if int(seal["size"]) != size - SEAL_SIZE:
            raise ValueError(f"it has {size - SEAL_SIZE:,} bytes where {int(seal['size']):,} were written")
        stream.seek(0)
        if stream.read(len(SIGNATURE)) != SIGNATURE:
            raise ValueError("it does not begin as HDF5 does")
        if _checksum(stream, size - SEAL_SIZE) != seal["digest"].decode():  # before it takes memory
            raise ValueError("its checksum does not hold: the file is damaged, or was changed since it was saved")
        stream.seek(0)
        content = stream.read(size - SEAL_SIZE)
    return _in_memory(lambda: io.BytesIO(content), 2 * len(content) + SLACK)


def _checksum(stream: io.BufferedReader, size: int) -> str:
    """SHA-256 of the first `size` bytes."""
    digest = hashlib.sha256()
    stream.seek(0)
    while size > 0 and (piece := stream.read(min(PIECE, size))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def read_tree(path: str | os.PathLike[str]) -> xr.DataTree:
    """A DataTree from netCDF of whatever origin, in memory. Raises OSError and ValueError as `read_sealed` does."""
    with open_regular(path) as stream:
        size = stream.seek(0, os.SEEK_END)
    return _in_memory(lambda: os.fspath(path), UNPACKED * size + SLACK)


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file opened for reading. OSError for a folder, a pipe (which might never say anything) or a device."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is a folder, a pipe or a device, not a file")
    return os.fdopen(handle, "rb")


def _in_memory(source: Callable[[], Any], limit: int) -> xr.DataTree:
    """The DataTree of a netCDF file whose arrays have at most `limit` bytes; ValueError for any other.

    Links to other files and to elsewhere in this one are refused, and so are groups that contain themselves, and more
    than GROUPS of them.
    """
    import h5py  # here, since nothing but reading waits for it

    try:
        with h5py.File(source(), "r") as file:
            _check_groups(file, limit)
        with xr.open_datatree(source(), engine="h5netcdf", phony_dims="access") as tree:
            declared = sum(node.to_dataset(inherit=False).nbytes for node in tree.subtree)
            if declared > limit:  # arrays along a dim that can grow are filled up to its length
                raise ValueError(f"its dims declare {declared:,} bytes, more than the file can hold")
            return tree.load()
    except Exception as problem:  # whatever libraries say of bytes that are not what they expect
        raise ValueError(" ".join(str(problem).split())[:200] or type(problem).__name__) from None


def _check_groups(file: Any, limit: int) -> None:
    import h5py

    groups = 0
    seen, waiting = {h5py.h5o.get_info(file.id).addr}, [(file["/"], 0)]
    while waiting:
        group, depth = waiting.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{where} is a link to elsewhere")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or depth == DEPTH:
                raise ValueError(f"{where} is a group that contains itself, or one thing in two places")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups += 1
                if groups > GROUPS:
                    raise ValueError(f"it has more than {GROUPS} groups")
                waiting.append((item, depth + 1))
                continue
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise ValueError(f"{where} is no array that stands in this file")
            limit -= item.size * item.dtype.itemsize if item.size is not None else 0
            if limit < 0:
                raise ValueError(f"{where} of shape {item.shape} declares more than the file can hold")
            if h5py.check_string_dtype(item.dtype) and item.ndim and item.size:
                for start in range(0, len(item), STRINGS):  # many may point to one long text
                    limit -= sum(map(len, item[start : start + STRINGS].ravel()))
                    if limit < 0:
                        raise ValueError(f"{where} holds more text than the file can hold")
