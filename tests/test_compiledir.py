"""Where compiled code goes on a machine that gives it no place."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from emppl import compiledir

CODE = """
import emppl, matplotlib, pytensor
from emppl.models import coins
assert emppl.fit(coins.build(), seed=1, starts=2).status.name == "CONVERGED"
matplotlib.get_configdir()
print(pytensor.config.base_compiledir)
"""


@pytest.fixture
def alone(monkeypatch, tmp_path) -> Path:
    """A home, without settings for PyTensor."""
    for name in (compiledir.FLAGS, "PYTENSORRC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "a home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.mark.parametrize("source", ["default", "settings", "flags"])
def test_the_folder_is_the_one_that_pytensor_takes(alone, monkeypatch, source):
    expected = alone / ".pytensor"
    if source != "default":
        expected = alone / "kept, here"
        (alone / ".pytensorrc").write_text(f"[global]\nbase_compiledir = {expected}\n")
    if source == "flags":
        expected = alone / "flagged, there"
        monkeypatch.setenv(compiledir.FLAGS, f'floatX=float64,base_compiledir="{expected}"')
    assert compiledir.chosen() == expected
    done = subprocess.run(
        [sys.executable, "-c", "import pytensor; print(pytensor.config.base_compiledir)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()) == expected


def test_without_any_home_there_is_none(monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    assert compiledir.chosen() is None


def test_usable_folders(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    assert compiledir.usable(tmp_path / "new" / "folder") and not compiledir.usable(file / "folder")
    (tmp_path / "new" / "folder" / "numba").write_text("")  # not a folder: PyTensor could not make its own
    assert not compiledir.usable(tmp_path / "new" / "folder")

    class Full:
        def __init__(self, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    assert not compiledir.usable(tmp_path / "full")


def test_a_home_that_cannot_be_written_to_costs_a_line(tmp_path):
    """A file in place of the home stands for it, even for root. It is no warning: -W error changes nothing."""
    home, room = tmp_path / "home", tmp_path / "room"
    home.write_text("")
    room.mkdir()
    known = {k: v for k, v in os.environ.items() if not k.startswith(("PYTENSOR", "NUMBA", "XDG", "MPL"))}
    environment = known | {"HOME": str(home), "TMPDIR": str(room), "LANG": "C", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", CODE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("slower: compiled code is not kept, since") and f"{home}" in line and len(line) < 300
    used = Path(done.stdout.strip())
    assert used.parent == room and not used.exists()
