"""Where compiled code is kept: beside the module, elsewhere if that cannot be written to, nowhere if nothing can."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "emppl" / "kernels" / "compiled.py"
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import compiled
assert abs(compiled._log_sum(np.zeros(3), np.full(3, 2.0), 3) - 3 * np.log(2.0)) < 1e-12
"""


def start(folder: Path, **settings: str) -> subprocess.Popen:
    """A process that uses a copy of the module in `folder`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")} | settings
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(folder=str(folder))], env=environment, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_two_processes_compile_at_once(tmp_path):
    shutil.copy(SOURCE, tmp_path)
    for process in [start(tmp_path), start(tmp_path)]:
        end(process)
    kept = list((tmp_path / "__pycache__").glob("*.nbc"))
    assert kept, "compiled code is kept for the next process"


@pytest.mark.parametrize("home_too", [False, True], ids=["package folder", "and every other folder"])
def test_folders_that_cannot_be_written_to(tmp_path, home_too):
    """A file where the cache's folder would be stands for a folder that cannot be written to, even by root."""
    package, home = tmp_path / "package", tmp_path / "home"
    package.mkdir()
    shutil.copy(SOURCE, package)
    (package / "__pycache__").write_text("")
    if home_too:
        home.write_text("")
    else:
        home.mkdir()
    end(start(package, HOME=str(home), XDG_CACHE_HOME=str(home / "cache")))
    assert home_too or list(home.rglob("*.nbc"))
