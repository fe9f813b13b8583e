"""BLAS is held to one thread while anyone asks for it, and gets back what it had."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from emppl.kernels.threads import one_blas_thread


def blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    with threadpool_limits(2, "blas"):
        assert blas() == {2}
        yield


@pytest.mark.usefixtures("two_threads")
def test_one_within_another():
    with one_blas_thread():
        with one_blas_thread():
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {2}


@pytest.mark.usefixtures("two_threads")
def test_an_error_gives_them_back():
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert blas() == {2}


@pytest.mark.usefixtures("two_threads")
def test_threads_at_once_leave_it_as_it_was():
    def steps(_: int) -> None:
        for _ in range(200):
            with one_blas_thread(), one_blas_thread():
                pass

    with one_blas_thread(), ThreadPoolExecutor(4) as pool:
        list(pool.map(steps, range(4)))
        assert blas() == {1}
    assert blas() == {2}
