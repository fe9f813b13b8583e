"""Blocks on workers: the same sums, each block counted once, also when a worker dies on the way."""

import os
import signal
import time
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from distributed import Client, LocalCluster
from row_models import cases, head

import emppl
from emppl.ascent.starts import start_point
from emppl.errors import InvalidArgumentError, WorkersLostError
from emppl.streaming import executors, streamed

BUILD, DATA = cases()["named"]
START = {"w": np.array([0.4, 0.6]), "mu": np.array([[0.5, 0.2], [2.0, 2.5]]), "variance": np.array([1.5, 1.5])}


def fitted(source, executor=None, **options):
    options = {"block_size": 200, "start": START, "starts": 0, "accelerate": None, "max_iter": 4, **options}
    return emppl.fit(BUILD(head(DATA)), source=source, executor=executor, **options)


class MapOnly:
    def map(self, function, *arguments):
        return map(function, *arguments)


class Broken:
    def submit(self, *arguments):
        raise BrokenExecutor("a process ended")


@pytest.mark.parametrize("kind", ["threads", "map"])
def test_any_executor_gives_the_same_numbers(kind):
    here = streamed(BUILD(head(DATA)), DATA, block_size=200)
    theta = start_point(here, "k-means++", np.random.default_rng(0))
    with ThreadPoolExecutor(2) as threads:
        there = streamed(BUILD(head(DATA)), DATA, block_size=200, executor=threads if kind == "threads" else MapOnly())
        for _ in range(2):
            one, two = here.e_step(theta), there.e_step(theta)
            assert one.log_likelihood == two.log_likelihood
            np.testing.assert_array_equal(one.statistics[0], two.statistics[0])


def test_what_cannot_work_on_blocks_is_refused():
    with pytest.raises(InvalidArgumentError, match="has neither"):
        fitted(DATA, executor=3)
    with pytest.raises(InvalidArgumentError, match="made in this process"):
        fitted(lambda: iter([DATA]), executor=MapOnly())
    with pytest.raises(InvalidArgumentError, match="lost a worker"):
        fitted(DATA, executor=Broken())


def loaders(folder, dies_at):
    """A function for each block, which notes that it was called; one of them kills its worker at its nth call."""

    def loader(number):
        def load():  # no module that workers would have to find
            calls = folder / f"calls-{number}"
            with calls.open("ab") as file:
                file.write(b".")
            if number == 1 and calls.stat().st_size == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rows = slice(300 * number, 300 * number + 300)
            return {"y": np.load(folder / "y.npy", mmap_mode="r")[rows]}

        return load

    return [loader(number) for number in range(3)]


def test_a_cluster_whose_worker_dies_in_mid_fit_gives_the_same_fit(tmp_path):
    """Memory-mapped and dask arrays travel as what they are; a block whose worker was killed is done again, once."""
    for folder in (tmp_path, tmp_path / "here"):
        folder.mkdir(exist_ok=True)
        np.save(folder / "y.npy", DATA["y"])
    here = fitted(loaders(tmp_path / "here", dies_at=0))
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=50) as cluster, Client(cluster) as client:
        there = fitted(loaders(tmp_path, dies_at=5), client)
        once, again = ((folder / "calls-1").stat().st_size for folder in (tmp_path / "here", tmp_path))
        assert again > once
        mapped = fitted({"y": np.load(tmp_path / "y.npy", mmap_mode="r")}, client, max_iter=0)
    assert there.n_passes == here.n_passes and there.status is here.status
    np.testing.assert_allclose(there.log_likelihood, here.log_likelihood, rtol=1e-13)
    for name, value in here.point.items():
        np.testing.assert_allclose(there.point[name], value, rtol=1e-12)
        np.testing.assert_allclose(there.standard_errors()[name], here.standard_errors()[name], rtol=1e-6)
    np.testing.assert_allclose(mapped.log_likelihood, fitted(DATA, max_iter=0).log_likelihood, rtol=1e-13)


def test_rows_in_memory_outlive_the_worker_that_held_them(monkeypatch):
    """Sent to one worker alone they die with it: they are sent again. Without any worker there is an error, soon."""
    here, awaited, calls = fitted(DATA), executors.Workers._awaited, []

    def deadly(self, future):
        calls.append(future)
        if len(calls) == 12:
            os.kill(next(iter(self.executor.run(os.getpid).values())), signal.SIGKILL)
        return awaited(self, future)

    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=50) as cluster, Client(cluster) as client:
        monkeypatch.setattr(executors.Workers, "_awaited", deadly)
        there = fitted(DATA, client)
        assert len(calls) > 12
        monkeypatch.setattr(executors, "NO_WORKERS_SECONDS", 2.0)
        cluster.scale(0)
        began = time.monotonic()
        with pytest.raises(WorkersLostError, match="no worker left"):
            fitted(DATA, client)
        assert time.monotonic() - began < 60
    assert there.log_likelihood == here.log_likelihood
    for name, value in here.point.items():
        np.testing.assert_array_equal(there.point[name], value)
