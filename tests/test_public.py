"""The public names are found by completion, by a star import and by help, before anything that is slow is imported."""

import pydoc
import rlcompleter
import subprocess
import sys

import pytest

import emppl

FRESH = """
import sys
import emppl
names = set(dir(emppl))
assert set(emppl.__all__) <= names, set(emppl.__all__) - names
assert "emppl.comparison" not in sys.modules and "matplotlib" not in sys.modules, "slow to import"
assert [name for name in sorted(names) if not hasattr(emppl, name)] == []
space = {}
exec("from emppl import *", space)
assert set(emppl.__all__) <= set(space)
"""


def test_a_fresh_interpreter_lists_what_there_is():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_and_help_find_every_public_name():
    complete = rlcompleter.Completer({"emppl": emppl}).complete
    text = pydoc.render_doc(emppl, renderer=pydoc.plaintext)
    for name in emppl.__all__:
        found = complete(f"emppl.{name}", 0)
        assert found and found.startswith(f"emppl.{name}")
        assert name in text and getattr(emppl, name).__doc__


def test_what_there_is_not_is_named():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = emppl.fitt
