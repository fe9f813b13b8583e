import os
import sys
import textwrap
import warnings
from pathlib import Path

import pandas as pd
import pymc as pm
import pytest

import emppl
from emppl.errors import EmpplError, InvalidArgumentError, InvalidDataError
from emppl.modelfile import load_model, parse_settings, read_csv, shipped_models

NORMAL = """
import pymc as pm

def build(data=None, *, scale=1.0, **more):
    y = [0.0, 1.0] if data is None else data["y"]
    with pm.Model() as model:
        pm.Normal("y", pm.Normal("mu", 0.0, 1.0), scale, observed=y)
    model.seen = {"data": data, "scale": scale, **more}
    return model

def other():
    return build(scale=2.0)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(name, text): a file in a fresh folder, which is the current one."""
    monkeypatch.chdir(tmp_path)

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return written


def message(kind: type[EmpplError], *args, **options) -> str:
    with pytest.raises(kind) as caught:
        load_model(*args, **options)
    return str(caught.value)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k=3", 3),
        ("k= 3 ", 3),
        ("k=-2.5", -2.5),
        ("k=[1, 2]", [1, 2]),
        ("k=None", None),
        ("k=True", True),
        ("k=full", "full"),
        ("k='full'", "full"),
        ("k=a=b", "a=b"),
        ("k=", ""),
        ("k=10**9", "10**9"),
        ("k=__import__('os')", "__import__('os')"),
        ("k=" + "9" * 5000, "9" * 5000),
        ("k=" + "(" * 9000, "(" * 9000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_setting_is_a_literal_or_else_text(text, value):
    assert parse_settings([text]) == {"k": value}


@pytest.mark.parametrize("settings", [["k"], ["=3"], ["k-1=3"], ["data=x"], ["k=1", "k=2"], [""]])
def test_settings_that_are_none(settings):
    with pytest.raises(InvalidArgumentError, match="--set"):
        parse_settings(settings)


# -- data --------------------------------------------------------------------------------------------------------------


def test_a_csv_file_becomes_a_frame(write):
    path = write("a.csv", "x,y\n1,2.5\n3,z\n")
    pd.testing.assert_frame_equal(read_csv(str(path)), pd.DataFrame({"x": [1, 3], "y": ["2.5", "z"]}))


def test_a_first_column_without_a_name_is_the_index(write):
    path = write("a.csv", '"","x"\n"a",1\n"b",2\n')
    frame = read_csv(str(path))
    assert list(frame.columns) == ["x"] and list(frame.index) == ["a", "b"]


def test_a_missing_header_is_warned_of(write):
    path = write("a.csv", "3.6,79\n1.8,54\n")
    with pytest.warns(UserWarning, match=r"a\.csv: the first line is read as names of columns \(3\.6, 79\)"):
        read_csv(str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00bad", "cannot be read"),
        (b"a,b\n1,2\n3,4,5,6\n", "line 3"),
        (b"a;b\n1;2\n", "semicolons"),
        (b"a;b\n1,5;2,5\n", "1.5"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "UTF-8"),
        (b"a,b\n1,2,3\n4,5,6\n", "more values"),
        (b"a,b\n1,2,\n4,5,\n", "more values"),
        (b"a,b\n1,2\n4,5,6\n", "line 3"),
        (b"a,b,a\n1,2,3\n", "two columns are called 'a'"),
        (b"a\tb\n1\t2\n", "tabs"),
    ],
)
def test_a_csv_file_that_is_none(tmp_path, content, words):
    path = tmp_path / "my data.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match=words) as caught:
        read_csv(str(path))
    assert "my data.csv" in caught.value.where and caught.value.remedies


def test_a_csv_file_that_is_missing(write):
    write("houses.csv", "a\n1\n")
    with pytest.raises(InvalidDataError) as caught:
        read_csv("house.csv")
    assert "there is no file house.csv" in str(caught.value) and "did you mean houses.csv?" in str(caught.value)
    with pytest.raises(InvalidDataError, match="is a folder"):
        read_csv(".")


# -- where the model is ------------------------------------------------------------------------------------------------


def test_shipped_models_say_what_they_are():
    found = shipped_models()
    assert {"coins", "gaussian_mixture", "poisson_mixture"} <= set(found) and all(found.values())


def test_a_shipped_model_with_options():
    loaded = load_model("coins", settings=["k=3", "weights=free"])
    assert (loaded.name, loaded.origin, loaded.options) == ("coins", "shipped", {"k": 3, "weights": "free"})
    assert isinstance(loaded.model, pm.Model) and "weights" in loaded.model.named_vars


def test_a_file_with_a_function_with_data(write):
    path = write("my models/a model.py", NORMAL)
    write("d.csv", "y\n1.5\n")
    loaded = load_model(str(path), data="d.csv", settings=["scale=3.0", "free=word"])
    assert loaded.name == "a model" and loaded.origin == str(path) and loaded.data == "d.csv"
    assert loaded.model.seen["scale"] == 3.0 and loaded.model.seen["free"] == "word"
    assert list(loaded.model.seen["data"]["y"]) == [1.5]
    other = load_model(f"{path}:other")
    assert other.model.seen["scale"] == 2.0 and other.name == "a model-other"


def test_a_changed_file_is_read_anew_and_leaves_nothing_behind(write):
    path, before = write("m.py", NORMAL), list(sys.path)
    load_model("m.py")
    write("m.py", NORMAL.replace("scale=1.0", "scale=5.0"))
    assert load_model("m.py").model.seen["scale"] == 5.0
    assert sys.path == before
    assert [p.name for p in path.parent.iterdir()] == ["m.py"]


def test_a_file_may_import_its_neighbours(write, capsys):
    write("lib/neighbour_of_a_model.py", "FIRST = 4.0\n")
    path = write("lib/m.py", "from neighbour_of_a_model import FIRST\n" + NORMAL.replace("1.0,", "FIRST,", 1))
    write("lib/m.py", path.read_text() + "\nprint('hello')\n")
    load_model("lib/m.py")
    captured = capsys.readouterr()
    assert captured.out == "" and "hello" in captured.err


def test_an_unknown_name_lists_those_that_are_known(write):
    text = message(InvalidArgumentError, "coin")
    assert "no shipped model coin" in text and "did you mean coins?" in text
    assert "gaussian_mixture" in text and "file.py" in text
    write("mine.py", NORMAL)
    assert "did you mean mine.py?" in message(InvalidArgumentError, "mine")


@pytest.mark.parametrize("name", ["x" * 5000, "a/b.txt", "coins:", "coins:1x", "", "\0", "no/such.py", "~nobody/x.py"])
def test_a_name_that_is_no_model(write, name):
    text = message(InvalidArgumentError, name)
    assert len(text) < 2000 and "MODEL" in text


def test_a_folder_and_another_kind_of_file(write):
    write("notes.txt", "x")
    assert "is a folder" in message(InvalidArgumentError, "./")
    assert ".py" in message(InvalidArgumentError, "notes.txt")
    write("houses.py", NORMAL)
    assert "did you mean house" in message(InvalidArgumentError, "./house.py")


# -- what goes wrong in the user's file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def build(data=None:\n    pass\n", ["SyntaxError", "m.py, line 1", "def build(data=None:"]),
        ("import no_such_module_at_all\n", ["ModuleNotFoundError", "no_such_module_at_all", "m.py, line 1"]),
        ("import sys\nsys.exit(0)\n", ["ends the program", "__main__"]),
        ("x = 3\n", ["no function build()", "def build"]),
        ("build = 3\n", ["build", "of type int", "not a function"]),
        ("def make(): pass\n", ["no function build()", "m.py:make"]),
        ("import pymc as pm\nwith pm.Model() as trial: pass\n", ["pm.Model 'trial'", "put it into a function"]),
        ("import pymc as pm\nbuild = pm.Model()\n", ["build in m.py is a pm.Model"]),
        ("def build(data=None): pass\n", ["returned nothing (None)", "return model"]),
        ("def build(data=None): return [1]\n", ["a value of type list", "not a pm.Model"]),
        ("def build():\n    return f()\n\ndef f():\n    return 1 / 0\n", ["Zero", "line 5, in f(): return 1 / 0"]),
        ("def build():\n    raise ValueError('give a rate')\n", ["give a rate", "line 2", "in build()"]),
        ("def build(data=None):\n    raise KeyError('no column y')\n", ["no column y", "line 2"]),
        ("def build(data=None): return data.columns\n", ["AttributeError", "m.py, line 1, in build()"]),
        ("import pymc as pm\ndef build(data=None):\n    pm.Normal('x')\n", ["TypeError", "line 3", "pm.Normal('x')"]),
        ("def build(data=None):\n    raise MemoryError\n", ["memory", "smaller"]),
        ("def build(data, k): pass\n", ["needs data, k", "--data FILE.csv", "--set k=…"]),
        ("def build(data, /): pass\n", ["needs data"]),
        ("def build(data=None):\n    raise RuntimeError\n", ["RuntimeError", "line 2"]),
    ],
)  # fmt: skip
def test_an_error_in_the_users_file_is_told_by_its_line(write, source, words):
    write("m.py", source)
    text = message(InvalidArgumentError, "m.py")
    assert [word for word in words if word not in text] == []
    assert "emppl/" not in text and "site-packages" not in text


def test_an_error_in_a_file_beside_it_is_told_by_that_files_line(write):
    write("neighbour_that_fails.py", "def f():\n    return [][1]\n")
    write("m.py", "from neighbour_that_fails import f\ndef build(data=None):\n    return f()\n")
    assert "m.py, line 3, in build(): return f()" in message(InvalidArgumentError, "m.py")


def test_a_function_that_is_missing_from_a_file(write):
    write("m.py", NORMAL)
    text = message(InvalidArgumentError, "m.py:builds")
    assert "no function builds()" in text and "m.py:build" in text and "m.py:other" in text


def test_an_option_that_a_model_does_not_have():
    text = message(InvalidArgumentError, "coins", settings=["kk=3"])
    assert "coins has no option 'kk'" in text and "did you mean --set k=…?" in text and "weights='known'" in text


def test_data_for_a_model_without_data(write):
    write("m.py", "def build(k=2): pass\n")
    write("d.csv", "y\n1\n")
    assert "takes no data" in message(InvalidArgumentError, "m.py", data="d.csv")


def test_a_shipped_model_speaks_for_itself(write):
    write("d.csv", "heads,tosses\n5,10\n12,10\n")
    text = message(InvalidArgumentError, "coins", data="d.csv")
    assert "heads[1] = 12 is more than tosses[1] = 10" in text and "--data d.csv" in text
    write("words.csv", "heads,tosses\nfive,10\n")
    assert "heads must hold numbers" in message(InvalidArgumentError, "coins", data="words.csv")
    assert "k='10**9'" in message(InvalidArgumentError, "coins", settings=["k=10**9"])


UNREADABLE = {
    "UTF-16": "x = 1\n".encode("utf-16"),
    "null bytes": b"x = 1\0\n",
    "Latin-1": b"# \xe9\nx = 1\n",
    "a lost brace": b"def build(:\n",
    "an unknown encoding": b"# -*- coding: klingon -*-\nx = 1\n",
    "half an indent": b"def build():\n  x = 1\n\ty = 2\n",
    "deep": b"x = " + b"(" * 5000,
    "says nothing": b"class E(Exception):\n    def __str__(self):\n        raise self\nraise E\n",
    "says no text": b"class E(Exception):\n    def __str__(self):\n        return 3\nraise E\n",
    "key": b"class K:\n    def __str__(self):\n        raise KeyError\nraise KeyError(K())\n",
    "ends": b"import sys\nsys.exit(3)\n",
    "never ends": b"def f():\n    return f()\nf()\n",
    "no Exception": b"raise BaseException('stop')\n",
    "closes": b"raise GeneratorExit\n",
    "group": b"raise ExceptionGroup('a', [ValueError('b')])\n",
    "a control": b"raise ValueError('\\x1b[31m')\n",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_no_model_file_is_bad_input(tmp_path, kind):
    path = tmp_path / "m.py"
    path.write_bytes(UNREADABLE[kind])
    said = message(InvalidArgumentError, str(path))
    assert "m.py" in said and "\x1b" not in said


def test_a_pipe_is_no_model_file(tmp_path):
    os.mkfifo(tmp_path / "m.py")
    assert "not a file" in message(InvalidArgumentError, str(tmp_path / "m.py"))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "m.py"
    path.write_bytes(b"\xef\xbb\xbf" + NORMAL.encode())
    assert isinstance(load_model(str(path)).model, pm.Model)


@pytest.mark.parametrize("problem", ["SystemExit(5)", "KeyboardInterrupt", "ValueError"])
def test_an_error_that_cannot_say_what_it_is_is_told_by_its_line(write, problem):
    write("mute.py", f"class E(Exception):\n    def __str__(self): raise {problem}\nraise E()\n")
    assert "E\n  where: mute.py, line 3: raise E()" in message(InvalidArgumentError, "mute.py")


def test_interruptions_pass_through(write):
    write("m.py", "def build(data=None):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_model("m.py")


def test_warnings_of_a_model_file_keep_their_module(write):
    write("m.py", NORMAL + "\nimport warnings\nwarnings.warn('careful')\n")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load_model("m.py")
    assert [w.filename for w in seen if "careful" in str(w.message)] == [str(Path("m.py").resolve())]


@pytest.mark.parametrize(
    ("numbers", "said"), [(["4294967301", "3"], "4294967301 as 5"), (["2.5", "3.0"], "2.5 as 2")], ids=["large", "cut"]
)
@pytest.mark.parametrize("how", ["data['n']", "pm.Data('d', data['n'])"])
def test_numbers_of_the_data_that_pymc_changes_are_named(write, numbers, said, how):
    """PyMC keeps the remainder of what is larger than 32 bits, and cuts off the fractions of counts."""
    path = write(
        "counts.py", f"import pymc as pm\ndef build(data=None):\n    with pm.Model() as model:\n"
        f"        pm.Poisson('y', pm.Gamma('rate', 2.0, 1.0), observed={how})\n    return model\n",
    )  # fmt: skip
    write("counts.csv", "n\n" + "\n".join(numbers) + "\n")
    with pytest.raises(InvalidDataError, match=r"column 'n'|no whole number") as caught:
        emppl.analyse(load_model(str(path), data="counts.csv").model)
    assert numbers[0] in str(caught.value)
    assert "pm.Data" in how or said in str(caught.value)
