"""Where compiled code is kept: beside the module, elsewhere if that cannot be written to, nowhere if nothing can.

And under which key: one that changes with all that is compiled.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numba
import pytest

from emppl.kernels import compiled, shares
from emppl.kernels.caching import CheckedCache, checked_caches, code_key
from emppl.kernels.elimination import elimination_loop

KERNELS = Path(__file__).parents[2] / "emppl" / "kernels"
SOURCE = KERNELS / "shares.py"
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import numpy as np
import shares
assert abs(shares.log_sum(np.zeros(3), np.full(3, 2.0), 3) - 3 * np.log(2.0)) < 1e-12
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


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_are_reproducible_and_distinct():
    keys = {code_key(f) for f in (compiled.marginal, compiled.run_rows, shares.softmax, elimination_loop())}
    assert len(keys) == 4
    code = (
        "from emppl.kernels import caching, compiled, elimination as e\n"
        "print(caching.code_key(compiled.marginal), caching.code_key(e.elimination_loop()))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(code_key(compiled.marginal)), str(code_key(elimination_loop()))]


def test_a_change_in_what_is_called_changes_the_key():
    """However deep: marginal → run_rows → _block → softmax → a constant, a function of LLVM, how it is compiled."""
    sources = {name: (KERNELS / f"{name}.py").read_text() for name in ("shares", "compiled")}
    changes = {
        "LOG2_E, LN2, LOWEST_EXPONENT = 1.4426950408889634,": "LOG2_E, LN2, LOWEST_EXPONENT = 1.4426950408889636,",
        "total += np.log(product)": "total += np.log2(product)",
        "return builder.bitcast(arguments": "return builder.inttoptr(arguments",
        'IN_ORDER = {"contract", "nsz", "arcp"}': 'IN_ORDER = {"contract", "nsz"}',
        '_read(types.float64, 2, "A"), ONE': '_read(types.float64, 2, "C"), ONE',
    }
    keys = {code_key(loaded(sources).marginal)}
    for old, new in changes.items():
        assert sum(source.count(old) for source in sources.values()) == 1
        keys.add(code_key(loaded({name: source.replace(old, new) for name, source in sources.items()}).marginal))
    assert len(keys) == 1 + len(changes)
    sources["compiled"] = sources["compiled"].replace("# rows that stay", "# those that stay")
    assert code_key(loaded(sources).marginal) in keys


def loaded(sources: dict[str, str]):
    """The module of compiled loops, the last of these, with other sources; nothing is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile", "disable_compile"):
            patch.setattr(numba.core.registry.CPUDispatcher, name, lambda *_: None)
        for name, source in sources.items():
            module = ModuleType(f"emppl.kernels.{name}")
            exec(compile(source, str(KERNELS / f"{name}.py"), "exec"), vars(module))
            patch.setitem(sys.modules, module.__name__, module)
    return module


def test_what_no_key_can_tell_is_refused():
    class Table:
        pass

    table = Table()
    with pytest.raises(TypeError, match="no key can tell"):
        code_key(lambda: table)


# -- entries that cannot be used ---------------------------------------------------------------------------------------


def compiled_anew(folder: Path, monkeypatch) -> tuple[float, int]:
    """(answer, entries read) of a function of a file in `folder`, whose cache is in `folder`/cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder / "cache"))
    path = folder / "double.py"
    if not path.exists():
        path.write_text("def double(x):\n    return 2.0 * x\n")
    scope = {"__name__": __name__}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    with checked_caches():
        double = numba.njit(cache=True)(scope["double"])
    assert isinstance(double._cache, CheckedCache)
    return double(21.0), sum(double.stats.cache_hits.values())


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_wrong_byte(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]


@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
@pytest.mark.parametrize("broken", [lambda _: b"", truncated, with_a_wrong_byte], ids=["empty", "half", "one byte"])
def test_a_broken_entry_is_replaced(tmp_path, monkeypatch, pattern, broken):
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 0)
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 1)
    (path,) = tmp_path.rglob(pattern)
    path.write_bytes(broken(path.read_bytes()))
    assert compiled_anew(tmp_path, monkeypatch)[0] == 42.0
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 1)


def test_entries_of_numba_itself_are_read(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("emppl.kernels.caching.SEAL", b"")  # nothing at the end, as numba writes them
        patch.setattr("emppl.kernels.caching._SealedFiles._dump", numba.core.caching.IndexDataCacheFile._dump)
        compiled_anew(tmp_path, patch)
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 1)


def test_a_full_disk_costs_the_entry_alone(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(numba.core.caching.IndexDataCacheFile, "_save_index", full)
        assert compiled_anew(tmp_path, patch) == (42.0, 0)
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 0)
    assert compiled_anew(tmp_path, monkeypatch) == (42.0, 1)
