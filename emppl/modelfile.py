"""A MODEL of the command line → pm.Model: a shipped name or a file of the user, its options, its data."""

from __future__ import annotations

import ast
import contextlib
import csv
import difflib
import importlib
import importlib.util
import inspect
import linecache
import os
import pkgutil
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant

from emppl.errors import EmpplError, InvalidArgumentError, InvalidDataError
from emppl.storage import open_regular
from emppl.structure.variables import constant_data

FUNCTION = "build"  # what a model file is asked for where MODEL names no function
DATA = "data"  # the argument of `build` that --data fills
USER_MODULE = "emppl_model_file_"  # prefix of the module name that a user's file gets
SHOWN = 200  # characters of a value that a message repeats
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
POINT = "separate them by commas, and write decimals with a point (1.5)"
CSV = "text in UTF-8, one row a line, columns separated by commas, their names in the first line"
SKELETON = 'a model file holds "def build(data=None, *, k=3): with pm.Model() as model: …; return model"'


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A built model and where it came from: `name` for headings and folders, `options` as passed to its function."""

    name: str
    model: pm.Model = field(repr=False)
    origin: str  # "shipped", or the path of the file
    function: str
    options: dict[str, Any]
    data: str | None  # path of the csv file


@dataclass(frozen=True, eq=False)
class _Target:
    """A module that holds a model, and the function that builds it."""

    module: ModuleType
    function: str
    name: str
    path: Path | None  # as it was given; None: shipped
    file: Path | None  # absolute, since a model file may change the working folder

    @property
    def shown(self) -> str:
        place = self.name if self.path is None else str(self.path)
        return place if self.path is None or not self.function else f"{place}:{self.function}"


def load_model(argument: str, data: str | None = None, settings: Sequence[str] = ()) -> LoadedModel:
    """The model that MODEL, --data and --set describe.

    argument: a shipped name, or `file.py[:function]`; data: path of a csv file, passed on as a DataFrame; settings:
    "name=value", each value a Python literal, or else text. Raises InvalidArgumentError and InvalidDataError, also
    for whatever goes wrong inside the user's file: with its line, and without a traceback through emppl.
    """
    options = parse_settings(settings)
    frame = None if data is None else read_csv(data)
    with _own_folder():
        target = _find(argument)
        with _as_script(target.file):
            build = _function(target)
            _check_options(target, build, options, frame is not None)
            arguments = dict(options) if frame is None else {DATA: frame, **options}
            with _explained(target, _call_words(options, data), build):
                model = build(**arguments)
    if not isinstance(model, pm.Model):
        raise InvalidArgumentError(
            f"{target.function}() returned {_kind(model)}, not a pm.Model",
            target.shown,
            (f"end {target.function}() with `return model`" if model is None else SKELETON,),
        )
    if frame is not None:
        _refuse_changed_numbers(model, frame, target.shown)
    return LoadedModel(
        target.name, model, "shipped" if target.path is None else str(target.path), target.function, options, data
    )


def _refuse_changed_numbers(model: pm.Model, frame: pd.DataFrame, where: str) -> None:
    """Raise InvalidDataError where PyMC kept a column of the data as other whole numbers than stand in the file.

    It turns whole numbers into int32, by their remainder where they are larger, and cuts off the fractions of counts.
    """
    held = [(rv.name, model.rvs_to_values[rv], "iuf") for rv in model.observed_RVs]
    held += [(v.name, v, "iu") for v in model.data_vars]  # covariates in whole units may be meant so
    for name, variable, kinds in held:
        if not isinstance(variable, Constant | SharedVariable):
            continue
        values = np.asarray(constant_data(variable))
        if values.dtype.kind not in "iu" or values.ndim != 1 or len(values) != len(frame):
            continue
        for column in frame.columns:
            numbers = frame[column].to_numpy()
            if numbers.dtype.kind not in kinds or not np.isfinite(numbers).all() or np.array_equal(numbers, values):
                continue
            with np.errstate(all="ignore"):
                kept = numbers.astype("int64").astype("int32") if numbers.dtype.kind != "f" else np.trunc(numbers)
            if np.array_equal(kept, values):
                row = int(np.flatnonzero(numbers != values)[0])
                raise InvalidDataError(
                    f"column {column!r}, row {row}: PyMC holds {numbers[row]} as {values[row]} in {name}, which takes "
                    "whole numbers of 32 bits",
                    where,
                    ("correct the number", f"in {FUNCTION}(): data[{str(column)!r}].astype(float), for large counts"),
                )


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """{name: value} of "name=value" texts; a value that is no Python literal stays text."""
    options: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InvalidArgumentError(
                f"--set {_short(setting)} is not of the form name=value", "--set", ("for example --set k=3",)
            )
        if name == DATA:
            raise InvalidArgumentError("data is not an option of the model", "--set", ("--data FILE.csv",))
        if name in options:
            raise InvalidArgumentError(f"{name} is set more than once", "--set", ("give it once",))
        try:
            options[name] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: absurdly long or nested text
            options[name] = text
    return options


def shipped_names() -> list[str]:
    """Names of the shipped models."""
    try:
        package = importlib.import_module("emppl.models")
    except ModuleNotFoundError:  # emppl run from its source folder, without being installed
        return []
    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if not found.name.startswith("_"))


def shipped_models() -> dict[str, str]:
    """Names of the shipped models with the first line of what they say of themselves."""
    lines = {}
    for name in shipped_names():
        spec = importlib.util.find_spec(f"emppl.models.{name}")
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        lines[name] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return lines


# -- data --------------------------------------------------------------------------------------------------------------


def read_csv(path: str) -> pd.DataFrame:
    """The csv file as a frame, its first line the names of its columns.

    A first column without a name (as R's write.csv and DataFrame.to_csv put it) becomes the index, so that row numbers
    are never taken for a measurement; a first line that looks like data is warned of.
    """
    where = f"--data {path}"
    _check_file(path, where, InvalidDataError)
    try:
        frame = pd.read_csv(_path(path))
    except pd.errors.EmptyDataError:
        raise InvalidDataError("the file is empty", where, ("its first line holds the names of the columns",)) from None
    except (pd.errors.ParserError, ValueError, OSError) as problem:
        raise InvalidDataError(
            f"the file cannot be read as csv: {_one_line(problem)}",
            where,
            (CSV,),
        ) from None
    names = [str(name) for name in frame.columns]
    for separator, word in SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise InvalidDataError(
                f"the columns are separated by {word}: {_short(names[0])}",
                where,
                (POINT,),
            )
    if any("\0" in name for name in names):
        raise InvalidDataError("the file holds null bytes: it is no text in UTF-8", where, (CSV,))
    if not frame.index.equals(pd.RangeIndex(len(frame))):  # pandas takes the first ones for names of rows
        raise InvalidDataError(
            f"the rows have more values than the first line has names ({', '.join(names[:5])})", where, (CSV,)
        )
    twice = [name for name in names if re.fullmatch(r".+\.\d+", name) and name.rpartition(".")[0] in names]
    if twice and set(twice) - set(_first_line(path)):
        raise InvalidDataError(
            f"two columns are called {twice[0].rpartition('.')[0]!r}", where, ("rename one of them",)
        )
    if len(names) > 1 and names[0] == "Unnamed: 0":
        frame = frame.set_index(frame.columns[0]).rename_axis(None)
        names = names[1:]
    if names and all(_is_number(name) for name in names):
        warnings.warn(
            f"{path}: the first line is read as names of columns ({', '.join(names[:3])}), but looks like data: "
            "give the columns names there",
            stacklevel=1,
        )
    return frame


def _first_line(path: str) -> list[str]:
    """The names of the columns as they stand there: pandas numbers those that come twice."""
    with open(_path(path), encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream), [])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- where the model is ------------------------------------------------------------------------------------------------


def _find(argument: str) -> _Target:
    """The module of MODEL, loaded."""
    place, function = _split(argument)
    if place in shipped_names():
        module = importlib.import_module(f"emppl.models.{place}")
        return _Target(
            module,
            function or FUNCTION,
            place if function in (None, FUNCTION) else f"{place}-{function}",
            None,
            None,
        )
    path = _path(place)
    if path.suffix != ".py" and not os.path.exists(path) and not ("/" in place or "\\" in place):
        raise _unknown(place, shipped_models())
    _check_file(place, f"MODEL {argument}", InvalidArgumentError)
    if path.suffix != ".py":
        raise InvalidArgumentError(f"{place} is not a Python file: its name does not end in .py", "MODEL", (SKELETON,))
    name = path.stem if function in (None, FUNCTION) else f"{path.stem}-{function}"
    file = path.resolve()
    return _Target(_load_file(path), function or FUNCTION, name, path, file)


def _split(argument: str) -> tuple[str, str | None]:
    """The part before the last colon, and the name of a function after it, where there is one."""
    place, colon, function = argument.rpartition(":")
    if not colon or "/" in function or "\\" in function or function.endswith(".py"):
        return argument, None
    if not function.isidentifier():
        raise InvalidArgumentError(
            f"{function!r} is not the name of a function",
            f"MODEL {argument}",
            ("file.py:function, for example file.py:build",),
        )
    return place, function


def _unknown(place: str, shipped: dict[str, str]) -> InvalidArgumentError:
    width = max(map(len, shipped), default=0)
    listed = tuple(f"{name.ljust(width)}  {line}" for name, line in shipped.items())
    near = difflib.get_close_matches(place, shipped, n=1, cutoff=0.6)
    if os.path.exists(f"{place}.py"):
        near = [f"{place}.py"]
    guess = (f"did you mean {near[0]}?",) if near else ()
    return InvalidArgumentError(
        f"there is no shipped model {_short(place)}",
        "MODEL",
        (*guess, *listed, "or a file of yours: path/to/file.py, or path/to/file.py:function"),
    )


def _check_file(path: str, where: str, error: type[EmpplError]) -> None:
    file = _path(path)
    if os.path.isdir(file):
        raise error(f"{path} is a folder, not a file", where)
    if not os.path.exists(file):  # unlike Path.exists, False too for a name that no file can have
        around: list[str] = []
        with contextlib.suppress(OSError, ValueError):
            around = os.listdir(file.parent)
        near = difflib.get_close_matches(file.name, around, n=1)
        hint = (f"did you mean {file.parent / near[0]}?",) if near else (f"the path is taken from {Path.cwd()}",)
        raise error(f"there is no file {_short(path)}", where, hint)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # unlike Path.expanduser, leaves alone what it does not know


def _load_file(path: Path) -> ModuleType:
    """The user's file as a module; prints go to standard error, which leaves standard output to results."""
    name = USER_MODULE + re.sub(r"\W", "_", path.stem)
    file = path.resolve()
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # its suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    target = _Target(module, "", path.stem, path, file)
    with _as_script(file), _explained(target, "when it was loaded"):
        # compiled here and not by the loader, which would leave a __pycache__ in the user's folder
        with open_regular(path) as stream:
            source = stream.read()
        exec(compile(source, str(file), "exec"), vars(module))
    return module


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """A model file may change the working folder for as long as it runs; paths of the command are taken from ours."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        yield
        return
    try:
        yield
    finally:
        os.chdir(here)


@contextlib.contextmanager
def _as_script(path: Path | None) -> Iterator[None]:
    """As for a script, modules beside the file can be imported; what it prints goes to standard error."""
    folder = None if path is None else str(path.parent)
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if folder is not None and folder in sys.path:
            sys.path.remove(folder)


def _function(target: _Target) -> Callable[..., Any]:
    found = getattr(target.module, target.function, None)
    if callable(found):
        return found
    own = [
        name
        for name, value in vars(target.module).items()
        if inspect.isfunction(value) and value.__module__ == target.module.__name__ and not name.startswith("_")
    ]
    shown = target.name if target.path is None else str(target.path)
    ways = [f"{target.path}:{name}" for name in own[:5]] if target.path is not None else []
    if isinstance(found, pm.Model):
        what = f"{target.function} in {shown} is a pm.Model, not a function that returns one"
    elif found is not None:
        what = f"{target.function} in {shown} is {_kind(found)}, not a function that returns a pm.Model"
    else:
        what = f"{shown} has no function {target.function}()"
        models = [name for name, value in vars(target.module).items() if isinstance(value, pm.Model)]
        if models:
            ways.insert(0, f"it has the pm.Model {models[0]!r}: put it into a function, def {FUNCTION}(data=None): …")
    raise InvalidArgumentError(what, f"MODEL {shown}", (*ways, SKELETON))


# -- calling the user's function ---------------------------------------------------------------------------------------


def _check_options(target: _Target, build: Callable[..., Any], options: dict[str, Any], has_data: bool) -> None:
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature: calling it will tell
        return
    free = any(p.kind is p.VAR_KEYWORD for p in parameters)
    by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [name for name in options if name not in by_name]
    if unknown and not free:
        near = difflib.get_close_matches(unknown[0], [n for n in by_name if n != DATA], n=1)
        guess = (f"did you mean --set {near[0]}=…?",) if near else ()
        raise InvalidArgumentError(
            f"{target.name} has no option {unknown[0]!r}", f"--set {unknown[0]}=…", (*guess, _options_line(build))
        )
    if has_data and DATA not in by_name and not free:
        raise InvalidArgumentError(
            f"{target.function}() of {target.name} takes no data",
            "--data",
            (f"give {target.function}() an argument `data`",),
        )
    given = {*options, *([DATA] if has_data else [])}
    lacking = [n for n, p in by_name.items() if p.default is p.empty and n not in given]
    lacking += [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if lacking:
        ways = tuple("--data FILE.csv" if name == DATA else f"--set {name}=…" for name in lacking)
        raise InvalidArgumentError(f"{target.function}() needs {', '.join(lacking)}", f"MODEL {target.shown}", ways)


def _options_line(build: Callable[..., Any]) -> str:
    """ "options: k=2, covariance='full'"."""
    parameters = [p for p in inspect.signature(build).parameters.values() if p.name != DATA]
    texts = [
        p.name if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in parameters
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return f"options, with their defaults: {', '.join(texts)}" if texts else "it has no options"


def _call_words(options: dict[str, Any], data: str | None) -> str:
    words = [f"--set {name}={_short(str(value))}" for name, value in options.items()]
    words += [f"--data {data}"] if data is not None else []
    return f"with {' '.join(words)}" if words else "without options"


@contextlib.contextmanager
def _explained(target: _Target, doing: str, build: Callable[..., Any] | None = None) -> Iterator[None]:
    """Whatever the model's code raises becomes a message with the line of that code."""
    try:
        yield
    except EmpplError:
        raise
    except MemoryError:
        raise InvalidArgumentError(
            f"{target.name} needs more memory than there is",
            f"{target.shown}, {doing}",
            ("smaller data, or a smaller number of components",),
        ) from None
    except SyntaxError as problem:
        if target.path is None:
            raise
        code = (problem.text or "").strip()
        place = _relative(problem.filename or str(target.path))
        if problem.filename is None or not problem.lineno:  # bytes that are no text have no lines
            place, way = f"{place}, {doing}", "save the file as text in UTF-8"
        else:
            place, way = f"{place}, line {problem.lineno}" + (f": {code}" if code else ""), "correct the line"
        raise InvalidArgumentError(f"{type(problem).__name__}: {problem.msg}", place, (way,)) from None
    except SystemExit:
        raise InvalidArgumentError(
            "the file ends the program",
            f"{target.shown}, {doing}",
            ('put what is not the model under `if __name__ == "__main__":`',),
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise _told(target, doing, problem, build) from None


def _told(
    target: _Target, doing: str, problem: BaseException, build: Callable[..., Any] | None
) -> InvalidArgumentError:
    """A shipped model's own words, or a user's error with the file and line where it arose."""
    text = _said(problem.args[0] if isinstance(problem, KeyError) and problem.args else problem)
    spoken = isinstance(problem, ValueError | KeyError | TypeError)
    options = (_options_line(build),) if build is not None else ()
    if target.path is None:
        what = text if spoken and text else f"{type(problem).__name__}: {text}"
        return InvalidArgumentError(what, f"{target.name}, {doing}", options)
    frames = traceback.extract_tb(problem.__traceback__)
    assert target.file is not None  # it has a path
    folder = target.file.parent
    own = [f for f in frames if Path(f.filename).resolve().is_relative_to(folder) and "site-packages" not in f.filename]
    own = [f for f in own if Path(f.filename).resolve() == target.file] or own
    place = str(target.path)
    if own:
        frame = own[-1]
        code = linecache.getline(frame.filename, frame.lineno or 0).strip() or frame.line or ""
        inside = "" if frame.name == "<module>" else f", in {frame.name}()"
        place = f"{_relative(frame.filename)}, line {frame.lineno}{inside}: {code}"
    deliberate = bool(own) and frames[-1] is own[-1] and isinstance(problem, ValueError | KeyError) and text
    what = text if deliberate else f"{type(problem).__name__}: {text}" if text else type(problem).__name__
    ways = (
        options
        if deliberate
        else ("correct the line" + (f", or call the model otherwise than {doing}" if "--" in doing else ""),)
    )
    return InvalidArgumentError(what, place, ways)


def _said(problem: Any) -> str:
    """What an exception says, nothing where it cannot even say that."""
    try:
        return str(problem)
    except BaseException:  # SystemExit and KeyboardInterrupt too: they come from its __str__
        return ""


def _relative(filename: str) -> str:
    """The path as short as it can be read from here."""
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _kind(value: Any) -> str:
    return "nothing (None)" if value is None else f"a value of type {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


def _one_line(problem: BaseException) -> str:
    return _short(" ".join(str(problem).split()))
