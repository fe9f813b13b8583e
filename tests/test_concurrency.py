"""Threads: fits are what they are alone, bit for bit, and settings of the process are left as they were."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

import emppl
from emppl.compiling import building, compile_graph
from emppl.concurrency import Held, Lock, quiet

OPTIONS = {"seed": 1, "starts": 3, "max_iter": 100}


def mixture(shift: float, rows: int) -> pm.Model:
    """Natural forms throughout."""
    rng = np.random.default_rng(int(shift))
    y = np.concatenate([rng.normal(shift - 2, 1, rows), rng.normal(shift + 2, 1, rows)])
    with pm.Model() as model:
        w, mu = pm.Dirichlet("w", np.ones(2)), pm.Normal("mu", 0.0, 50.0, shape=2)
        z = pm.Categorical("z", p=w, shape=len(y))
        pm.Normal("y", mu[z], 1.0, observed=y)
    return model


def robust(rows: int) -> pm.Model:
    """Graphs: no natural form, numeric M-steps."""
    y = np.random.default_rng(3).standard_t(3, rows) + np.repeat([-4.0, 4.0], rows // 2)
    with pm.Model() as model:
        mu, sigma = pm.Normal("mu", 0.0, 10.0, shape=2), pm.HalfNormal("sigma", 2.0)
        z = pm.Bernoulli("z", 0.5, shape=rows)
        pm.StudentT("y", 3.0, mu=mu[z], sigma=sigma, observed=y)
    return model


BUILDERS = (lambda: mixture(0.0, 300), lambda: mixture(10.0, 100), lambda: robust(30))


def same(one: emppl.Fit, two: emppl.Fit) -> bool:
    equal = one.log_posterior == two.log_posterior and one.starts.equals(two.starts)
    equal &= all(np.array_equal(a, b) for a, b in zip(one.traces, two.traces))
    equal &= one.theta.equals(two.theta) and one.standard_errors().equals(two.standard_errors())
    return bool(equal and one.certificate == two.certificate)


@pytest.fixture(scope="module")
def alone() -> list[emppl.Fit]:
    return [emppl.fit(emppl.plan(build()), **OPTIONS) for build in BUILDERS]


def test_plans_and_fits_in_threads_are_those_alone(alone):
    """Half of them plan as well, the others share one new plan of each model."""
    shared = [emppl.plan(build()) for build in BUILDERS]
    before = pytensor.config.on_opt_error, pytensor.config.traceback__limit, list(warnings.filters)
    with ThreadPoolExecutor(6) as threads:
        own = [threads.submit(emppl.fit, model, **OPTIONS) for model in [build() for build in BUILDERS]]
        others = [threads.submit(emppl.fit, plan, **OPTIONS) for plan in shared]
        found = [future.result() for future in own + others]
    assert [same(one, two) for one, two in zip(found, alone * 2)] == [True] * 6
    assert (pytensor.config.on_opt_error, pytensor.config.traceback__limit, list(warnings.filters)) == before


def test_one_plan_in_many_threads(alone):
    """Also while its functions are still written out, call by call."""
    for build, expected in list(zip(BUILDERS, alone))[1:]:
        plan = emppl.plan(build())
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(lambda _, plan=plan: emppl.fit(plan, **OPTIONS), range(4)))
        assert all(same(fit, expected) for fit in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="worker processes are forked")
def test_workers_of_fits_in_threads(alone):
    """A worker goes on with the plan of its fit, whatever its parent's other threads hold at the time."""
    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(emppl.fit, b(), workers=2, **OPTIONS) for b in BUILDERS]
        found = [future.result(120) for future in futures]
    assert [same(one, two) for one, two in zip(found, alone)] == [True] * 3


def test_a_compiled_graph_answers_several_threads():
    """Both as PyTensor's function, whose storage all calls share, and as the Python that it becomes."""
    matrix = pt.dmatrix("matrix", shape=(80, 80))
    batch = pt.stack([matrix, matrix.T @ matrix + 80.0 * pt.eye(80)])
    function = compile_graph([matrix], pt.linalg.inv(batch).sum() + pt.linalg.slogdet(batch)[1].sum())
    points = [np.random.default_rng(i).normal(size=(80, 80)) for i in range(8)]
    expected = [float(function(p)) for p in points]
    fresh = compile_graph([matrix], pt.linalg.inv(batch).sum() + pt.linalg.slogdet(batch)[1].sum())
    with ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            assert list(map(float, threads.map(fresh, points))) == expected


def test_flags_outlast_nobody():
    """Each thread sees its own flags, and the last to leave gives back what was there first."""
    before, wrong = pytensor.config.cxx, []

    def build(k: int) -> None:
        for _ in range(100):
            with building(cxx="", on_opt_error="warn" if k % 2 else "ignore"):
                if (pytensor.config.cxx, pytensor.config.on_opt_error) != ("", "warn" if k % 2 else "ignore"):
                    wrong.append(k)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(build, range(8)))
    assert wrong == [] and pytensor.config.cxx == before


def test_overlapping_threads_leave_warnings_as_they_were():
    before = list(warnings.filters)
    first_left, second_in = threading.Event(), threading.Event()

    def second() -> None:
        with quiet():
            second_in.set()
            first_left.wait(10)
            warnings.warn("unheard", UserWarning, stacklevel=1)

    with ThreadPoolExecutor(1) as threads:
        with quiet():
            future = threads.submit(second)
            assert second_in.wait(10)
        first_left.set()
        future.result()
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)


def test_what_is_held_is_made_once():
    made: list[str] = []

    class Noted:
        def __enter__(self):
            made.append("in")

        def __exit__(self, *_):
            made.append("out")

    held = Held(Noted)
    with held, held:
        assert made == ["in"]
    assert made == ["in", "out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_lock_is_open_in_a_forked_child():
    lock, held, done = Lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if not child:
        with lock:
            os._exit(7)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
