"""Files that are whole or not there: bytes, text and netCDF trees, written aside and renamed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emppl.errors import InvalidArgumentError
from emppl.plain import plain

NEW_FILE = 0o666  # less the umask, as `open` has it
PERMISSIONS = 0o7777

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


def to_netcdf(tree: xr.DataTree) -> bytes:
    """A DataTree as the bytes of a netCDF file (HDF5)."""
    groups = {node.path: _storable(node.to_dataset(inherit=False)) for node in tree.subtree}
    return bytes(xr.DataTree.from_dict(groups).to_netcdf(engine="h5netcdf"))


def _storable(dataset: xr.Dataset) -> xr.Dataset:
    text = {name: dataset[name].astype(str) for name in dataset.variables if dataset[name].dtype == object}
    dataset = dataset.assign_coords({name: values for name, values in text.items() if name in dataset.coords})
    dataset = dataset.assign({name: values for name, values in text.items() if name in dataset.data_vars})
    dataset.attrs = {str(key): _attribute(value) for key, value in dataset.attrs.items()}
    return dataset


def _attribute(value: Any) -> Any:
    known = isinstance(value, str | int | float | np.number) and not isinstance(value, bool)
    return value if known else json.dumps(plain(value))
