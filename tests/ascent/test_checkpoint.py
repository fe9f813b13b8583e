"""A fit that was killed goes on where it was, to the result that it would have had; what is not its own is refused."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pymc as pm
import pytest

import emppl
from emppl.ascent import pool
from emppl.ascent.checkpoint import Checkpoint
from emppl.errors import InvalidArgumentError, SavedFitError
from emppl.models import coins

HEADS = np.array([5.0, 9.0, 8.0, 4.0, 7.0, 2.0])


def build(heads=HEADS, prior=1.0, tosses=10) -> pm.Model:
    with pm.Model() as model:
        w, p = pm.Dirichlet("w", np.ones(2)), pm.Beta("p", prior, 1.0, shape=2)
        z = pm.Categorical("z", p=w, shape=len(heads))
        pm.Binomial("heads", n=tosses, p=p[z], observed=heads.astype(int))
    return model


def same(one: emppl.Fit, two: emppl.Fit) -> bool:
    equal = one.log_posterior == two.log_posterior and one.starts.equals(two.starts) and one.status is two.status
    equal &= one.theta.equals(two.theta) and one.standard_errors().equals(two.standard_errors())
    equal &= one.certificate == two.certificate and one.trace.equals(two.trace)
    return bool(equal and all(np.array_equal(a, b) for a, b in zip(one.traces, two.traces, strict=True)))


OPTIONS = {"starts": 4, "seed": 1}
LONG = {"starts": 30, "seed": 1, "accelerate": None, "tol": 0, "max_iter": 1500}


@pytest.fixture(scope="module")
def plan():
    return emppl.plan(build())


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("reached", [0, 1, 3])
def test_a_killed_fit_goes_on(plan, tmp_path, monkeypatch, reached, record):
    options = OPTIONS | ({"accelerate": None} if record else {})
    whole, original, made = emppl.fit(plan, **options), pool._one, []

    def one(*arguments):
        if len(made) == reached:
            raise Killed
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(pool, "_one", one)
    with pytest.raises(Killed):
        emppl.fit(plan, checkpoint=tmp_path / "run.nc", **options)
    made.clear()
    monkeypatch.setattr(pool, "_one", lambda *arguments: made.append(1) or original(*arguments))
    assert same(emppl.fit(plan, checkpoint=tmp_path / "run.nc", **options), whole)
    assert len(made) == len(whole.starts) - reached
    assert same(emppl.fit(plan, checkpoint=tmp_path / "run.nc", workers=2, **options), whole)


def test_without_a_seed_the_file_has_one(plan, tmp_path):
    one, two = (emppl.fit(plan, starts=3, checkpoint=tmp_path / "run.nc") for _ in range(2))
    assert same(one, two) and one.seed == two.seed is not None


def test_streamed_rows_go_on_in_the_midst_of_a_start(tmp_path, monkeypatch):
    """Passes that were made before are not made again."""
    y = np.concatenate([np.random.default_rng(0).normal(m, 1.0, 400) for m in (-2.0, 2.0)])
    with pm.Model() as model:
        data = pm.Data("data", y[:50])
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0.0, 10.0, shape=2)
        z = pm.Categorical("z", p=w, shape=data.shape[0])
        pm.Normal("y", mu[z], 1.0, observed=data)
    options = {"source": {"data": y}, "block_size": 300, "starts": 2, "seed": 1, "accelerate": None, "max_iter": 30}
    passes = []
    from emppl.streaming.engine import Pass

    original = Pass.__call__
    monkeypatch.setattr(Pass, "__call__", lambda self, eta, hard: passes.append(1) or original(self, eta, hard))
    whole = emppl.fit(model, **options)
    n, counted = len(passes), Checkpoint.note
    noted = []

    def note(self, key, sums):
        counted(self, key, sums)
        noted.append(key)
        if len(noted) == 8:
            self.save()
        if len(noted) == 10:
            raise Killed

    monkeypatch.setattr(Checkpoint, "note", note)
    with pytest.raises(Killed):
        emppl.fit(model, checkpoint=tmp_path / "run.nc", **options)
    monkeypatch.undo()
    monkeypatch.setattr(Pass, "__call__", lambda self, eta, hard: passes.append(1) or original(self, eta, hard))
    passes.clear()
    again = emppl.fit(model, checkpoint=tmp_path / "run.nc", **options)
    assert same(again, whole) and len(passes) <= n + 1 - 8
    with pytest.raises(InvalidArgumentError, match="data differs"):
        emppl.fit(model, checkpoint=tmp_path / "run.nc", **options | {"source": {"data": y + 1e-6 * (y > 3)}})


@pytest.mark.parametrize(
    "what, model, options",
    [
        ("seed", None, {"seed": 2}),
        ("starts", None, {"starts": 5}),
        ("tol", None, {"tol": 1e-8}),
        ("max_iter", None, {"max_iter": 5}),
        ("accelerate", None, {"accelerate": None}),
        ("estimate", None, {"estimate": "ml"}),
        ("method", None, {"method": "hard"}),
        ("start", None, {"start": {"p": [0.3, 0.6]}}),
        ("frozen", None, {"freeze": {"w": [0.5, 0.5]}}),
        ("options of the plan", None, {"obs_weights": np.full(6, 2.0)}),
        ("data", build(heads=HEADS[::-1].copy()), {}),
        ("model", build(prior=2.0), {}),
        ("model", build(tosses=11), {}),
    ],
)
def test_another_call_is_refused_by_what_differs(plan, tmp_path, what, model, options):
    emppl.fit(plan, checkpoint=tmp_path / "run.nc", **OPTIONS)
    with pytest.raises(InvalidArgumentError, match=f"of another call: .*{what}"):
        emppl.fit(model or plan, checkpoint=tmp_path / "run.nc", **OPTIONS | options)


def test_a_broken_file_is_refused(plan, tmp_path):
    path = tmp_path / "run.nc"
    emppl.fit(plan, checkpoint=path, **OPTIONS)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    flipped = [(bytearray(good), int(place)) for place in rng.integers(len(good), size=5)]
    for content, place in flipped:
        content[place] ^= 1
    for content in [b"", b"text", good[: len(good) // 2], good + b"x", *(bytes(c) for c, _ in flipped)]:
        path.write_bytes(content)
        with pytest.raises(SavedFitError, match="checkpoint"):
            emppl.fit(plan, checkpoint=path, **OPTIONS)
    emppl.fit(coins.build(), starts=1).save(path)
    with pytest.raises(SavedFitError, match="checkpoint"):
        emppl.fit(plan, checkpoint=path, **OPTIONS)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import emppl, test_checkpoint
plan = emppl.plan(test_checkpoint.build())
print("begins", flush=True)
emppl.fit(plan, checkpoint={path!r}, **test_checkpoint.LONG)
"""


def killed_at_random(path, kills: int, seed: int) -> tuple[int, int, emppl.Fit]:
    """(kills that hit, starts lost beside those under way, the fit that a last call gives) of one fit."""
    rng, hits, lost, before = np.random.default_rng(seed), 0, 0, 0
    for _ in range(kills):
        text = textwrap.dedent(SCRIPT.format(tests=os.path.dirname(__file__), path=str(path)))
        with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"begins\n"
            time.sleep(float(rng.uniform(0.2, 4.0)))
            hits += child.poll() is None
            child.send_signal(signal.SIGKILL)
        if path.exists():
            kept = len(_done(path))
            lost, before = lost + max(0, before - kept), kept
    return hits, lost, emppl.fit(build(), checkpoint=path, **LONG)


def _done(path) -> dict:
    import json

    from emppl.storage import read_sealed

    return json.loads(read_sealed(path).attrs["checkpoint"])["done"]


def test_kills_at_random_moments_lose_nothing_that_was_written(tmp_path):
    hits, lost, fit = killed_at_random(tmp_path / "run.nc", 3, 0)
    whole = emppl.fit(build(), **LONG)
    assert hits and not lost and same(fit, whole)


if __name__ == "__main__":
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        hits, lost, fit = killed_at_random(Path(folder) / "run.nc", int(sys.argv[1]), 1)
    whole = emppl.fit(build(), **LONG)
    print(f"{hits} kills hit, {lost} written starts lost; the result is {'' if same(fit, whole) else 'NOT '}the same")
