"""A fit that was killed goes on where it was, to the result that it would have had; what is not its own is refused."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr

import emppl
from emppl.ascent import pool
from emppl.ascent.checkpoint import Checkpoint, call_of
from emppl.errors import InvalidArgumentError, SavedFitError
from emppl.models import coins
from emppl.structure.identity import identity

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


def swapped(first, second):
    with pm.Model() as model:
        a, b, z = pm.Normal(first, 0.0, 10.0), pm.Normal(second, 0.0, 10.0), pm.Bernoulli("z", 0.3, shape=6)
        pm.Normal("y", a * (1 - z) + b * z, 1.0, observed=HEADS)
    return model


def means(of=lambda mu: mu, observe=lambda mean: pm.Normal("y", mean, 1.0, observed=HEADS), **options):
    with pm.Model() as model:
        mu, z = pm.Normal("mu", 0.0, 10.0, shape=2, **options), pm.Bernoulli("z", 0.3, shape=6)
        observe(of(mu)[z])
    return model


SQUARE = np.array([[1.0, 2.0], [3.0, -1.0]])
SHARPNESS = [0.5]


def custom(sharpness):
    def density(v, m):
        return -sharpness * (v - m) ** 2

    return means(observe=lambda mean: pm.CustomDist("y", mean, logp=density, observed=HEADS))


def custom_prior(sharpness):
    with pm.Model() as model:
        mu = pm.CustomDist("mu", 1.0, logp=lambda v, s: -sharpness * (v - 3 * s) ** 2, shape=2)
        pm.Normal("y", mu[pm.Bernoulli("z", 0.3, shape=6)], 1.0, observed=HEADS)
    return model


def custom_graph(factor):
    def draws(mean, size):
        return pm.Normal.dist(mean * factor, 1.0, size=size)

    return means(observe=lambda mean: pm.CustomDist("y", mean, dist=draws, observed=HEADS))


def by_global(sharpness):
    """A density that reads a global name, which holds `sharpness` from here on."""
    SHARPNESS[0] = sharpness

    def density(v, m):
        return -SHARPNESS[0] * (v - m) ** 2

    return means(observe=lambda mean: pm.CustomDist("y", mean, logp=density, observed=HEADS))


ALIKE = {
    "names": (lambda: swapped("a", "b"), lambda: swapped("b", "a")),
    "renamed": (lambda: swapped("a", "b"), lambda: swapped("c", "d")),
    "axis": tuple(lambda axis=axis: means(lambda m: (m[:, None] * SQUARE).sum(axis)) for axis in (0, 1)),
    "mode": (lambda: means(pt.cumsum), lambda: means(pt.cumprod)),
    "order": tuple(lambda order=order: means(lambda m: (m + SQUARE).transpose(order)[0]) for order in ((0, 1), (1, 0))),
    "logp": (lambda: custom(0.5), lambda: custom(2.0)),
    "logp of a prior": (lambda: custom_prior(0.5), lambda: custom_prior(2.0)),
    "dist": (lambda: custom_graph(1.0), lambda: custom_graph(2.0)),
    "global": (lambda: by_global(0.5), lambda: by_global(2.0)),
    "transform": (means, lambda: means(transform=pm.distributions.transforms.ordered)),
}


@pytest.mark.parametrize("what", ALIKE)
def test_models_that_look_alike_are_told_apart(what):
    one, again, other = (call_of(emppl.plan(build()), None)["model"] for build in (ALIKE[what][0], *ALIKE[what]))
    assert one == again != other


def test_a_checkpoint_of_a_model_that_looks_alike_is_refused(tmp_path):
    one, other = (build() for build in ALIKE["names"])
    emppl.fit(one, checkpoint=tmp_path / "run.nc", **OPTIONS)
    with pytest.raises(InvalidArgumentError, match=r"of another call: .*model"):
        emppl.fit(other, checkpoint=tmp_path / "run.nc", **OPTIONS)


def test_another_process_finds_the_same_call():
    """Whatever the order of its sets: text is hashed anew in every process."""
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import emppl, test_checkpoint as t
        print([t.call_of(emppl.plan(one()), {{"mu": [0.0, 1.0]}}) for one, _ in t.ALIKE.values()])
    """
    said = set()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", textwrap.dedent(code)]
        said.add(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert len(said) == 1


LONG_WEIGHTS = np.ones(2000)


@pytest.mark.parametrize("container", [pd.Series, xr.DataArray, list, lambda v: pd.DataFrame({"w": v})])
def test_long_values_are_told_apart_in_the_midst(container):
    other = LONG_WEIGHTS.copy()
    other[1000] = 5.0
    one, again, another = (identity({"y": container(v)}) for v in (LONG_WEIGHTS, LONG_WEIGHTS.copy(), other))
    assert one == again != another


def test_weights_in_a_series_are_told_apart(tmp_path):
    weights = np.ones(6)
    emppl.fit(build(), checkpoint=tmp_path / "run.nc", obs_weights={"heads": pd.Series(weights)}, **OPTIONS)
    weights[3] = 1 + 1e-9
    with pytest.raises(InvalidArgumentError, match="options of the plan"):
        emppl.fit(build(), checkpoint=tmp_path / "run.nc", obs_weights={"heads": pd.Series(weights)}, **OPTIONS)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, theta={}),
        lambda one: replace(one, theta={"w": one.theta["w"]}),
        lambda one: replace(one, theta=one.theta | {"p": one.theta["p"][:1]}),
        lambda one: replace(one, theta=one.theta | {"p": one.theta["p"] * np.nan}),
        lambda one: replace(one, theta=one.theta | {"p": one.theta["p"] + 1e-3}),
        lambda one: replace(one, theta=one.theta | {"p": one.theta["p"] + 7.0}),
        lambda one: replace(one, objective=one.objective + 1.0, path=one.path + 1.0),
        lambda one: replace(one, objective=one.objective + 1.0),
        lambda one: replace(one, objective=np.nan),
        lambda one: replace(one, trace=[{}]),
        lambda one: replace(one, path=np.zeros((2, 2))),
        lambda one: replace(one, reason=[1]),
        lambda one: replace(one, n_iter="many"),
        lambda one: replace(one, information=replace(one.information, u=np.zeros(9))),
    ],
)
def test_a_start_that_cannot_be_one_of_this_fit_is_refused(plan, tmp_path, monkeypatch, change):
    """The checksum holds: somebody wrote the file who knows how."""
    put = Checkpoint.put
    monkeypatch.setattr(Checkpoint, "put", lambda self, key, ascent: put(self, key, change(ascent)))
    emppl.fit(plan, checkpoint=tmp_path / "run.nc", **OPTIONS)
    monkeypatch.undo()
    with pytest.raises(SavedFitError, match="checkpoint"):
        emppl.fit(plan, checkpoint=tmp_path / "run.nc", **OPTIONS)


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
