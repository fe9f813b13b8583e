"""What every file of the project keeps to, and what the project says of itself in more than one place."""

import ast
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "emppl",
    "models", "notebooks", "pyproject.toml", "tests",
}  # fmt: skip


def project_files() -> list[Path]:
    """The files of the project, relative to its root: what git tracks or would, without git what is not ignored."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        return [Path(name) for name in names if name and (ROOT / name).is_file()]
    ignored = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line[:1] not in ("", "#")]
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return [path for path in files if not any(fnmatch.fnmatch(part, name) for part in path.parts for name in ignored)]


FILES = project_files()


def python_files(*folders: str) -> list[Path]:
    return [path for path in FILES if path.suffix == ".py" and path.parts[0] in folders]


def test_every_file_of_tests_has_some():
    """A file that a slip has emptied would pass for ever."""
    files = [path for path in python_files("tests") if path.name.startswith("test_")]
    assert files and [str(path) for path in files if "def test_" not in (ROOT / path).read_text()] == []


def test_top_level_holds_only_what_belongs_there():
    assert {path.parts[0] for path in FILES} - TOP_LEVEL == set()


def test_no_machine_and_no_host_is_named():
    folders = "[w]ork|[r]oot|[h]ome|[t]mp|[o]pt"  # bracketed, so as not to find itself
    hosts = r"py[p]i\.|python[h]osted|npm[j]s|deb\.deb[i]an|local[h]ost:"
    forbidden = re.compile(rf"(?:^|[\"' (=])/(?:{folders})/|{hosts}", re.MULTILINE)
    found = []
    for path in FILES:
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            found += [f"{path}: {match.group()}" for match in forbidden.finditer(content.decode())]
    assert found == []


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    return [Requirement(line) for line in project["dependencies"] + extras["test"] + extras["bench"]]


def test_constraints_are_plain_lines():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line)] == []
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower())
    assert len(constraints()) == len(lines)


def test_constraints_fix_every_requirement_within_its_range():
    fixed = constraints()
    assert [str(r) for r in requirements() if not r.specifier.contains(fixed.get(canonicalize_name(r.name), "0"))] == []


def test_every_import_is_a_declared_dependency():
    """A distribution has the name of its module, but for these."""
    modules = {"sklearn": "scikit-learn", **dict.fromkeys(("arviz_base", "arviz_stats", "arviz_plots"), "arviz")}
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    every = {canonicalize_name(r.name) for r in requirements()}
    own = (
        {"emppl", "models"}
        | {path.stem for path in python_files("tests")}
        | {p.parts[1] for p in python_files("tests")}
    )
    missing = []
    for folders, declared in ((("emppl", "models"), core), (("tests",), every)):
        for path in python_files(*folders):
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                for name in {name.split(".")[0] for name in names} - own - sys.stdlib_module_names:
                    if canonicalize_name(modules.get(name, name)) not in declared:
                        missing.append(f"{path}: {name}")
    assert missing == []


def test_every_package_is_installed():
    folders = {path.parent for path in python_files("emppl") if path.name == "__init__.py"}
    packages = {".".join(folder.parts) for folder in folders} | {"emppl.models"}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


def test_the_version_is_the_newest_of_the_changelog():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest.group(1) == PROJECT["project"]["version"]


def test_continuous_integration_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and re.search(r"^make test$", script.read_text(), re.MULTILINE)


def test_every_table_of_data_has_a_source():
    shipped, cases = ROOT / "models" / "data", ROOT / "tests" / "data"
    sources = (shipped / "README.md").read_text()
    assert [table.name for table in shipped.glob("*.csv") if f"`{table.name}`" not in sources] == []
    sources = (cases / "README.md").read_text()
    folders = {path.parts[2] for path in FILES if path.parts[:2] == ("tests", "data") and len(path.parts) > 3}
    alone = {name for name in folders if (cases / name / "README.md").exists()}
    assert [name for name in folders - alone if f"`{name}`" not in sources] == []


# The Makefile looks for an interpreter by running candidates ----------------------------------------------------------

WORKING = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$4/bin" && cp "$0" "$4/bin/python"; fi
"""


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def make(tmp_path):
    """make(*arguments): GNU make on the project; its environment and all the programs it finds are in tmp_path."""
    program = shutil.which("make")
    assert program, "the project is built with GNU make"
    for tool in ("sh", "mkdir", "cp", "touch", "basename", "mktemp", "rm"):
        (tmp_path / tool).symlink_to(shutil.which(tool))

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess:
        environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)} | settings
        command = [program, "-C", str(ROOT), f"VENV={tmp_path / 'venv'}", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_make_passes_over_interpreters_that_do_not_run(make, tmp_path):
    log = tmp_path / "log"
    script(
        tmp_path / "python3.13", "#!/bin/sh\necho 'python3.13: command not found' >&2\nexit 127\n"
    )  # a bare launcher
    script(tmp_path / "python3.12", WORKING.format(log=log))
    done = make("install")
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    assert calls[0].startswith("python3.12 -c")
    assert any(call.startswith("python3.12 -m venv") for call in calls)
    installs = [call for call in calls if call.startswith("python -m pip install")]
    assert len(installs) == 2 and all("-c constraints.txt" in call for call in installs) and "-e .[test]" in installs[1]
    assert make("install").returncode == 0 and log.read_text().splitlines() == calls  # nothing to do the second time


def test_make_says_what_to_do_without_an_interpreter(make, tmp_path):
    script(tmp_path / "python3", "#!/bin/sh\nexit 1\n")
    done = make("install")
    assert done.returncode != 0 and not (tmp_path / "venv").exists()
    for words in ("No Python 3.12 or newer was found", "python3.13 python3.12", "make PYTHON=/path/to/python3.13"):
        assert words in done.stderr


TESTING = """#!/bin/sh
{{ echo "$PYTENSOR_FLAGS"; echo "$NUMBA_CACHE_DIR"; echo "$*"; }} >> {log}
mkdir -p "$NUMBA_CACHE_DIR" && touch "$NUMBA_CACHE_DIR/entry"
exit {status}
"""


@pytest.mark.parametrize("flags", ["", "floatX=float64,base_compiledir=elsewhere"])
@pytest.mark.parametrize("status", [0, 1])
def test_make_test_compiles_into_a_folder_of_its_own(make, tmp_path, flags, status):
    """New for every run, whatever else the user has set, in a path with spaces, and gone afterwards."""
    log, room, program = tmp_path / "log", tmp_path / "room for files", tmp_path / "venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    room.mkdir()
    (program.parents[1] / ".installed").write_text("")
    script(program, TESTING.format(log=log, status=status))
    settings = {"TMPDIR": str(room), "NUMBA_CACHE_DIR": "of the user"} | ({"PYTENSOR_FLAGS": flags} if flags else {})
    for _ in range(2):
        assert (make("test", **settings).returncode == 0) == (status == 0)
        assert list(room.iterdir()) == []
    lines = log.read_text().splitlines()
    assert "-m pytest -n 2" in lines[2]
    for k in (0, 3):
        folder = Path(lines[k + 1]).parent
        assert folder.parent == room
        assert lines[k] == f'{flags}{"," if flags else ""}base_compiledir="{folder}/pytensor"'
    assert lines[1] != lines[4]
