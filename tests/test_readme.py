"""What README.md says: code that runs, output that is printed, tables of the code, links that lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import emppl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("explain", "fit", "sample", "compare", "labels", "rules")


class Block(NamedTuple):
    """A fenced block: its language, its lines, and the heading that it stands under."""

    language: str
    text: str
    heading: str


def blocks() -> list[Block]:
    found, heading = [], ""
    for match in re.finditer(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append(Block(match[2], match[3], heading))
    return found


def is_file(block: Block) -> bool:
    return block.language == "python" and re.match(r"# \S+\.py\n", block.text) is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README has its reader write."""
    folder = tmp_path_factory.mktemp("readme")
    for block in filter(is_file, blocks()):
        name, _, content = block.text.partition("\n")
        (folder / name.removeprefix("# ")).write_text(content, encoding="utf-8")
    return folder


def shell(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command that succeeds, in the width and without the colours that the README is written for."""
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done


def test_python_blocks_run_one_after_the_other(folder):
    code = "\n".join(block.text for block in blocks() if block.language == "python" and not is_file(block))
    (folder / "readme.py").write_text(code, encoding="utf-8")
    done = shell(folder, sys.executable, "readme.py")
    assert (folder / "coins.html").stat().st_size > 10_000
    assert (folder / "coins.nc").is_file() and (folder / "coins.png").is_file()
    assert str(next(b.text for b in blocks() if b.text.startswith("model ·"))).rstrip() in done.stdout
    assert re.search(r"^  square +parameter .*closed form$", done.stdout, re.MULTILINE)  # what "Add a family" promises
    assert re.search(r"^  speed +observed .*natural form, 2 statistics", done.stdout, re.MULTILINE)


def test_own_model_is_explained_as_printed(folder):
    own = [block for block in blocks() if block.heading == "Your own model"]
    command = shlex.split(next(block.text for block in own if block.language == "sh"))
    printed = next(block.text for block in own if block.language == "text")
    assert command[:2] == ["emppl", "explain"]
    done = shell(folder, sys.executable, "-m", "emppl.cli", *command[1:])
    assert done.stdout.split() == printed.split()


def test_commands_exist():
    lines = [
        line.split("#")[0].split() for block in blocks() if block.language == "sh" for line in block.text.splitlines()
    ]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in filter(None, lines):
        assert words[0] in ("make", "emppl")
        if words[0] == "emppl":
            assert words[1] in COMMANDS
        else:
            assert all(target in targets for target in words[1:])
    inline = re.findall(r"`emppl (\w+)", README)
    assert inline and set(inline) <= set(COMMANDS)


def test_table_of_families_is_that_of_the_rules(folder):
    # in a process of its own: families that other tests register are not meant
    code = "import emppl, json; print(json.dumps(emppl.rules()))"
    rules = json.loads(shell(folder, sys.executable, "-c", code).stdout)
    rows = []
    for entry in rules["families"]:
        priors = ", ".join(prior_of(row) for row in rules["conjugate priors"] if row["family"] == entry["family"])
        rows.append(f"| {entry['family']} | {entry['parameters']} | {entry['support']} | {priors} |")
    head = "| family | parameters | support | conjugate priors |\n|---|---|---|---|\n"
    assert head in README
    assert README.partition(head)[2].partition("\n\n")[0].splitlines() == rows


def prior_of(row: dict[str, str]) -> str:
    """ "Beta of p", "InverseGamma of sigma²", "Gamma of 1 / scale": the prior, and what it is a prior of."""
    name, _, link = row["parameter"].partition(" = ")
    what = {"": name, "sqrt(parameter)": f"{name}²", "reciprocal(parameter)": f"1 / {name}"}[link]
    return f"{row['prior']} of {what}"


def test_version_is_that_of_the_package():
    assert f"version = {{{emppl.__version__}}}" in README


def test_links_and_pictures_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (ROOT / link).is_file()] == []
    assert {link for link in links if "://" in link} == {"https://www.pymc.io"}
    pictures = [ROOT / link for link in inside if link.endswith(".png")]
    assert pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 200_000 for path in pictures)
    assert {path.name for path in (ROOT / "notebooks").glob("*.png")} == {path.name for path in pictures}


def test_sections_stand_in_order():
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings == [
        "Two commands", "Ten lines", "Five minutes", "Your own model", "What it can do today, and what not",
        "Rows that do not fit in memory", "Labels of draws", "Speed", "How it works", "Add a family",
        "Add an M-step or an engine", "Cite", "Licence",
    ]  # fmt: skip
