"""The notebooks run from top to bottom at a small size, tell the truth, and are stored with their pictures."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes of a stored notebook
LONGEST_CELL = 36  # lines: more is a wall of code
DRAWS = "EMPPL_NOTEBOOK_DRAWS"  # what the notebooks read the number of draws from
STORIES = {  # what the prose says of the output, whatever the number of draws
    "01_coins": [
        r"A +24 +30 +0\.80\nB +9 +20 +0\.45",
        r"the paper's first step: A 0\.71, B 0\.58",
        r"runs end at A 0\.797, B 0\.520\n\d+ runs end at A 0\.520, B 0\.797",
        r"FAIL +maximum: a saddle",
        r"maximum likelihood 1\.00, MAP 0\.80",
        r"Beta\(20, 20\) +(0\.\d+) +\1 ",
        r"bias\[A\] +0\.797",
    ],
    "02_gaussian_mixture": [
        r"'mu': '\de-1\d'",
        r"log-likelihood -[\d.]+ → -378\.761",
        r"k-means\+\+ +1[0-5] .*\n ?random +[0-9] ",
        r"0\.01 +0\.000 +0\.000",
        r"17 houses at 50 thousand",
        r"DEGENERATE",
        r"CONVERGED",
    ],
    "03_your_own_model": [
        r"observed[^\n]+\[ *3 +20 +85 +237 +357 +298\]|scores: \[ *3 +20 +85 +237 +357 +298\]",
        r"expected by luck alone: \[ *0\. +8\. +69\. +259\. +424\. +240\.\]",
        r"right +observed .*natural form, 10 statistics",
        r"do not tell apart (difficulty with ability|ability with difficulty)",
        r"1 group +-2493\.4 +5 +5021\.4\n2 groups +-2467\.7 +7 +4983\.7\n3 groups +-2466\.5",
        r"\n5 +(0\.\d+) +\1\n?",
        r"by two groups +\[ *2 +20 +9\d +22\d +36\d +29\d\]",
        r"without slopes -2467\.8, with slopes -2467\.6",
    ],
    "04_label_switching": [
        r"82 galaxies; symmetric under relabelling of component .*: 6 equivalent modes",
        r"changes by (0\.0e\+00|-?\d\.\de-1\d)",
        r"-220\.33 +\d+\n",
        r"means: \[2[01]\.\d 2[01]\.\d 2[01]\.\d\]|means: \[(1\d|2\d)\.",
        r"largest R-hat: 1\.0\d\d",
        r"by mu +mean of mu \[ ?9\.\d 21\.\d (29|3\d)\.\d? ?\]",
        r"by weights +mean of mu \[ ?[12]\d\.\d? +[12]\d\.\d? +2\d\.\d?\]",
        r"responsibilities +1\.0+ ",
        r'method="auto" takes responsibilities',
        r"STEPHENS +1\.0+ ",
        r"other modes: the log posterior has \d modes up to names",
        r"galaxies 15 and 70 in one cluster: (0\.[89]\d|1\.00) with three components, 0\.[2-7]\d with four",
        r"the probabilities differ by (\de-\d\d|0e\+00)",
    ],
}


def printed(notebook: nbformat.NotebookNode, stream: str = "stdout") -> str:
    """What the cells printed or returned as text."""
    parts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == stream:
                parts.append(output.text)
            elif "data" in output and stream == "stdout":
                parts.append(output.data.get("text/plain", ""))
    return "\n".join(parts)


def source(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def assert_story(name: str, text: str) -> None:
    missing = [pattern for pattern in STORIES[name] if not re.search(pattern, text)]
    assert missing == [], text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_at_a_small_size(path, tmp_path, monkeypatch):
    monkeypatch.setenv(DRAWS, "100")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises where a cell does
    assert printed(notebook, "stderr") == ""
    assert_story(path.stem, printed(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_as_executed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert printed(notebook, "stderr") == ""
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 8
    assert_story(path.stem, printed(notebook))
    assert "EM and NUTS agree" in printed(notebook)  # at full size, as the prose has it
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_prose_with_short_cells(path):
    notebook = nbformat.read(path, as_version=4)
    assert [cell for cell in source(notebook, "code") if len(cell.splitlines()) > LONGEST_CELL] == []
    assert sum(map(len, source(notebook, "markdown"))) > 0.5 * sum(map(len, source(notebook, "code")))
    links = re.findall(r"\]\(([^)#]+)\)", "\n".join(source(notebook, "markdown")))
    assert [link for link in links if "://" not in link and not (FOLDER / link).is_file()] == []


def test_every_notebook_has_its_story():
    assert {path.stem for path in NOTEBOOKS} == set(STORIES)
