"""A folder for compiled code: importing PyTensor fails where it cannot make one, with a full disk or without a home.

Another one is chosen by PYTENSOR_FLAGS, which PyTensor reads when it is imported and other processes inherit.
"""

from __future__ import annotations

import atexit
import configparser
import contextlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

log = logging.getLogger("emppl")
FLAGS = "PYTENSOR_FLAGS"


def provide() -> None:
    """Unless PyTensor has been imported, see to it that it can be: by a temporary folder where its own will not do."""
    if "pytensor" in sys.modules:
        return
    folder = chosen()
    if folder is not None and usable(folder):
        return
    own = tempfile.mkdtemp(prefix="emppl-")
    atexit.register(_remove, own, os.getpid())
    os.environ[FLAGS] = ",".join([*filter(None, [os.environ.get(FLAGS)]), f'base_compiledir="{own}"'])
    home = Path(os.path.expanduser("~"))
    if folder is None:
        os.environ["HOME"] = own  # where there is no home at all, PyTensor asks for one all the same
    if not (home.is_dir() and os.access(home, os.W_OK)):
        os.environ.setdefault("MPLCONFIGDIR", own)  # else matplotlib makes one too, and says so in as many words again
    log.warning(
        "slower: compiled code is not kept, since %s; %s=base_compiledir=FOLDER names a folder for it",
        "there is no home folder" if folder is None else f"{folder} cannot be written to", FLAGS,
    )  # fmt: skip


def chosen() -> Path | None:
    """The folder that PyTensor would use; None where it would look for a home and there is none."""
    words = shlex.shlex(os.environ.get(FLAGS, ""), posix=True)
    words.whitespace, words.whitespace_split = ",", True
    flags = dict(pair.strip().split("=", 1) for pair in words if "=" in pair)
    try:
        home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
    except RuntimeError:
        return None
    local = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    default = home / ".pytensor" if local is None else Path(local) / "PyTensor"
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, OSError, UnicodeError):
        settings.read(
            Path(name).expanduser() for name in os.environ.get("PYTENSORRC", "~/.pytensorrc").split(os.pathsep)
        )
    kept = settings.get("global", "base_compiledir", fallback=None) or str(default)
    return Path(flags.get("base_compiledir", kept)).expanduser()


def usable(folder: Path) -> bool:
    """Whether files can be written into a folder, made if need be, and into those that PyTensor keeps in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
        inner = [path for path in folder.iterdir() if path.name == "numba" or path.name.startswith("compiledir_")]
        return all(path.is_dir() and os.access(path, os.R_OK | os.W_OK | os.X_OK) for path in inner)
    except OSError:
        return False


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a forked child leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)
