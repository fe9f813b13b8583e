"""One run of a command: where it prints, what it writes, and how it ends."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TextIO, cast

import typer
from rich.console import Console

import emppl
from emppl import console as view
from emppl import storage
from emppl.documents import to_json
from emppl.errors import EmpplError, InvalidArgumentError
from emppl.interrupts import noticed
from emppl.modelfile import USER_MODULE, LoadedModel, load_model
from emppl.progress import watching
from emppl.streams import Tolerant

RELIABLE, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130  # exit statuses
CHATTY = (
    "pytensor.configdefaults", "pytensor.tensor.blas", "pytensor.link.c.cmodule", "pymc",
    "matplotlib.font_manager",  # which says that it looks for fonts, the first time
)  # fmt: skip


@dataclass
class Session:
    """One run of a command: where it prints, and how it ends."""

    command: str
    line: str  # the shell command that repeats it
    as_json: bool
    quiet: bool
    stdout: TextIO
    out: Console
    err: Console
    loaded: LoadedModel | None = None
    files: dict[str, str] = field(default_factory=dict)

    def load(self, model: str, data: str | None, settings: list[str] | None) -> LoadedModel:
        self.loaded = load_model(model, data, settings or ())
        return self.loaded

    def end(self, reliable: bool, document: Callable[[], dict[str, Any]], show: Callable[[], None]) -> None:
        """Print the result, as text or as JSON, and leave with its exit status."""
        if self.as_json:
            self.write_json({"reliable": reliable, **document(), "files": self.files})
        else:
            show()
            view.show_files(self.out, self.files)
            self.stdout.flush()  # here, where what goes wrong is told
        raise typer.Exit(RELIABLE if reliable else FAILED)

    def document(self, content: Mapping[str, Any]) -> str:
        model = self.loaded and {
            "name": self.loaded.name, "origin": self.loaded.origin, "function": self.loaded.function,
            "options": self.loaded.options, "data": self.loaded.data,
        }  # fmt: skip
        head = {"emppl": emppl.__version__, "command": self.command, "line": self.line, "model": model}
        return to_json({**head, **content})

    def write_json(self, content: Mapping[str, Any]) -> None:
        self.stdout.write(self.document(content))
        self.stdout.flush()

    @property
    def progress(self) -> bool | None:
        """What functions take as `progress`: a bar on a terminal, unless nobody is to see one."""
        return False if self.quiet or self.as_json else None

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """A line about it on standard error, as long as it takes."""
        with noticed(), watching(self.progress) as watcher:
            watcher.say(what)
            yield


@contextlib.contextmanager
def running(ctx: typer.Context, as_json: bool = False, quiet: bool = False) -> Iterator[Session]:
    """Results go to standard output, all else to standard error; errors become messages and an exit status.

    Standard output is taken away from everybody else meanwhile, so that no print of a model file or of a library can
    end up inside a JSON document.
    """
    stdout, stderr = view.readable(sys.stdout), Tolerant(view.readable(sys.stderr))
    session = Session(
        ctx.info_name or "",
        _line(ctx),
        as_json,
        quiet,
        stdout,
        view.make_console(stdout),
        view.make_console(cast(TextIO, stderr)),
    )
    with _instead_of_both(stderr), _own_warnings(session.err):
        try:
            yield session
        except EmpplError as error:
            if as_json:
                told = {"what": error.what, "where": error.where, "ways_out": error.remedies}
                told = {"type": type(error).__name__, **told}
                session.write_json({"reliable": False, "error": told, "files": session.files})
            view.show_error(session.err, error)
            view.show_files(session.err, session.files)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            kept = f"written: {', '.join(session.files.values())}" if session.files else "nothing was written"
            session.err.print(f"interrupted before there was a result; {kept}", soft_wrap=True)
            raise typer.Exit(STOPPED) from None
        except MemoryError:
            short = InvalidArgumentError(
                "there is not enough memory for this model",
                _line(ctx),
                ("smaller data, or fewer components (--set k=…)",),
            )
            view.show_error(session.err, short)
            raise typer.Exit(BAD_INPUT) from None
        except (typer.Exit, BrokenPipeError):
            raise
        except OSError as problem:  # of the machine, such as a full disk behind standard output
            view.show_error(session.err, InvalidArgumentError(f"{type(problem).__name__}: {problem}", _line(ctx)))
            let_go(stdout)
            raise typer.Exit(BAD_INPUT) from None
        except Exception as problem:
            problem.add_note("This is a defect of emppl, not of your input: please report it with the model file.")
            raise


@contextlib.contextmanager
def _instead_of_both(stderr: Tolerant) -> Iterator[None]:
    """Standard output and standard error, for whatever the command runs."""
    stream = cast(TextIO, stderr)
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        if stderr.failed:
            let_go(stream)


def let_go(stream: TextIO) -> None:
    """What the stream still holds goes nowhere: the interpreter would try once more to write it at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _own_warnings(err: Console) -> Iterator[None]:
    """Warnings of emppl and of the user's file, a line each; of libraries only if Python was asked for them (-W)."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        kind = "" if issubclass(category, UserWarning) else f" ({category.__name__})"
        err.print(f"warning{kind}: {' '.join(str(message).split())}", style=view.NOTE, soft_wrap=True)

    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
                warnings.filterwarnings("default", module=rf"(emppl\b|{USER_MODULE})")
            warnings.showwarning = show
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def _line(ctx: typer.Context) -> str:
    """The command as one would type it, options at their defaults left out."""
    words = ["emppl", ctx.info_name or ""]
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if value is None or value == parameter.default or parameter.name in ("as_json", "quiet"):
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            text = str(one.value if isinstance(one, Enum) else one)
            words += [text] if parameter.param_type_name == "argument" else [parameter.opts[0], text]
    return shlex.join(words)


# -- results on disk ---------------------------------------------------------------------------------------------------


def folder_for(out: str | None, name: str) -> Path:
    """The folder of results, looked at before any work is done and made when there is something to put there."""
    folder = Path(os.path.expanduser(out) if out is not None else f"emppl-{re.sub(r'[^\w.-]+', '_', name)}")
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        raise InvalidArgumentError(f"{nearest} is a file, not a folder", f"--out {folder}", ("--out another folder",))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidArgumentError(
            f"nothing can be written into {nearest}", f"--out {folder}", ("--out another folder",)
        )
    return folder


def write_result(session: Session, name: str, path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file and note it. What cannot be written is an error that names it."""
    try:
        with noticed():
            write(path)
    except OSError as problem:
        raise InvalidArgumentError(f"{path} cannot be written: {problem}", "--out", ("--out another folder",)) from None
    session.files[name] = str(path)


def write_text(session: Session, folder: Path | None, name: str, show: Callable[[Console], None]) -> None:
    """What a command shows, as a text file, where --out asks for one."""
    if folder is None:
        return
    page = io.StringIO()
    show(view.make_console(page))
    write_result(session, name, folder / f"{name}.txt", lambda path: storage.write_text(path, page.getvalue()))
