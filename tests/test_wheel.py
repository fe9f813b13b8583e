"""What a user gets who installs the wheel: all of emppl, the shipped models with their data, and one command."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).parents[1]
SMALL = ("--seed", "1", "--draws", "100", "--tune", "100", "--chains", "2")  # enough to run through, not to rely on


def call(*command: str | Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess:
    """The command with its output kept, outside the source tree and without what points to it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | settings
    return subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources, so that no build folder is left among them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in project_sources():
        copy = source / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / path).read_bytes())
    done = call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


def project_sources() -> list[Path]:
    """All files below emppl/ and models/ except what running them leaves behind."""
    files = [path for folder in ("emppl", "models") for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path.relative_to(ROOT) for path in files if path.parent.name != "__pycache__"]


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """The folder of programs of a fresh environment: emppl from the wheel, everything else from here, not downloaded.

    A folder that a .pth file names is searched, but its own .pth files are not read: the editable install stays unseen.
    """
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True, with_pip=False)
    names = {"base": str(environment), "platbase": str(environment)}
    programs = Path(sysconfig.get_path("scripts", vars=names))
    python = programs / "python"
    done = call(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site_packages = Path(sysconfig.get_path("purelib", vars=names))
    here = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "dependencies.pth").write_text("\n".join(here))
    return programs


def test_the_wheel_holds_every_file_and_no_other_top_level_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.as_posix() if path.parts[0] == "emppl" else f"emppl/{path.as_posix()}" for path in project_sources()
    }
    assert names == expected


def test_the_environment_holds_the_wheel_and_not_the_sources(scripts, tmp_path):
    code = "import json, emppl, emppl.models.coins as c; print(json.dumps([emppl.__file__, c.__file__]))"
    done = call(scripts / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for place in json.loads(done.stdout):
        assert Path(place).is_relative_to(scripts.parent) and not Path(place).is_relative_to(ROOT)
    done = call(scripts / "python", "-c", "import models", cwd=tmp_path)
    assert done.returncode != 0 and "No module named 'models'" in done.stderr


def test_the_main_job_runs_on_a_machine_where_nothing_has_run(scripts, tmp_path, tmp_path_factory):
    """With empty caches, and a home in which nothing is: nutpie samples, and nobody is warned of anything."""
    home = tmp_path_factory.mktemp("a home")
    empty = {"HOME": str(home), "PYTENSOR_FLAGS": "", "NUMBA_CACHE_DIR": str(home / "numba"), "MPLCONFIGDIR": ""}
    done = call(scripts / "emppl", "compare", "coins", *SMALL, cwd=tmp_path, **empty)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: so few draws may fail a verdict
    assert done.stderr == ""
    report = tmp_path / "emppl-coins" / "report.html"
    assert report.exists() and "coin_of_set" in report.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["emppl-coins"]
    with xr.open_datatree(tmp_path / "emppl-coins" / "draws.nc", engine="h5netcdf") as draws:
        assert draws.attrs["sampler"] == "nutpie"
    assert any((home / "numba").rglob("*.nbc")) and not any((home / ".pytensor").rglob("*.nbc"))  # no graph compiled


def test_a_model_of_the_user_runs_elsewhere(scripts, tmp_path):
    """A shipped file, copied, is a model of one's own: it stands alone, and brings its data as a table."""
    (tmp_path / "mine.py").write_bytes((ROOT / "models" / "poisson_mixture.py").read_bytes())
    (tmp_path / "counts.csv").write_text("y\n" + "\n".join(str(y) for y in (0, 1, 0, 2, 9, 11, 1, 8)))
    done = call(
        scripts / "emppl",
        "fit",
        "mine.py",
        "--data",
        "counts.csv",
        "--set",
        "k=2",
        "--seed",
        "1",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "rate" in json.dumps(json.loads(done.stdout))
