"""Files are whole or not there, whatever happens while they are written."""

import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
import xarray as xr

from emppl import storage
from emppl.errors import InvalidArgumentError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "folder" / "a.txt"
    assert storage.write_text(path, "before") == path
    storage.write_text(str(path), "ä – after \ud800")
    assert path.read_text("utf-8") == "ä – after ?" and names(path.parent) == ["a.txt"]
    longest = tmp_path / ("n" * 251 + ".txt")
    assert storage.write_bytes(longest, b"x").read_bytes() == b"x"


def test_a_tree_of_any_names_is_written(tmp_path):
    labels = np.array(["a", 1, None], dtype=object)
    data = xr.Dataset({"x": ("k", np.arange(3.0)), "ok": ("k", [True, False, True])}, coords={"k": labels})
    tree = xr.DataTree.from_dict({"posterior": data.assign_attrs(flag=True, none=None, many=[1, 2], text="t")})
    storage.write_tree(tmp_path / "t.nc", tree)
    with xr.open_datatree(tmp_path / "t.nc", engine="h5netcdf") as back:
        assert list(back["posterior"]["k"].values) == ["a", "1", "None"]
        assert list(back["posterior"]["ok"].values) == [True, False, True]
        assert dict(back["posterior"].attrs) == {"flag": "true", "none": "null", "many": "[1, 2]", "text": "t"}


FULL_DISK = """
import resource, sys, numpy as np, xarray as xr
from emppl import storage
tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": ("k", np.random.default_rng(0).normal(size=20_000))})})
size = len(storage.to_netcdf(tree))
for room in (0, 1, 100, 4096, size // 2, size - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        storage.write_tree(sys.argv[1], tree)
    except OSError:
        continue
    sys.exit(f"written into {room} bytes")
"""


def test_a_full_disk_is_an_error_and_leaves_what_was_there(tmp_path):
    """HDF5 writing to the disk itself ends the process by a signal."""
    path = tmp_path / "a.nc"
    path.write_text("before")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert path.read_text() == "before" and names(tmp_path) == ["a.nc"]


def test_threads_write_one_name(tmp_path):
    path, contents, errors = tmp_path / "a", [bytes([i]) * 50_000 for i in range(8)], []

    def work(content):
        try:
            for _ in range(20):
                storage.write_bytes(path, content)
                assert path.read_bytes() in contents
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and path.read_bytes() in contents and names(tmp_path) == ["a"]


def test_links_and_permissions_stay(tmp_path):
    real, link, dangling = tmp_path / "real" / "a", tmp_path / "link", tmp_path / "dangling"
    real.parent.mkdir()
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    dangling.symlink_to(tmp_path / "real" / "b")
    storage.write_text(link, "after")
    storage.write_text(dangling, "new")
    assert link.is_symlink() and dangling.is_symlink()
    assert real.read_text() == "after" and (tmp_path / "real" / "b").read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert names(real.parent) == ["a", "b"] and names(tmp_path) == ["dangling", "link", "real"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_that_open_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").write_text("")
        storage.write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_protected_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("before")
    monkeypatch.setattr(os, "access", lambda *_: False)  # for root every file can be written
    with pytest.raises(PermissionError, match="protected"):
        storage.write_text(path, "after")
    assert path.read_text() == "before" and names(tmp_path) == ["a"]


def test_what_is_no_file_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").symlink_to("/dev/full")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "full", "/dev/null", "/dev/full", "", "nul\0.nc"):
        with pytest.raises(InvalidArgumentError) as caught:
            storage.write_bytes(path, b"x")
        assert str(path) in str(caught.value) or repr(path) in str(caught.value)
    (tmp_path / "file").write_text("")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for path in (tmp_path / "file" / "a", tmp_path / "round"):
        with pytest.raises(OSError):
            storage.write_bytes(path, b"x")
