"""One hypothesis profile for all: plans cost more than examples, and a run must be the same on every machine."""

import gc

from hypothesis import HealthCheck, settings

settings.register_profile(
    "emppl",
    deadline=None,  # the first example compiles
    max_examples=10,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("emppl")

collect_ignore = ["benchmarks"]  # timings, apart from the tests; tests/test_benchmarks.py sees to it that they run

# Files of few tests that take minutes: begun last, they would keep one worker busy while the others have nothing to do
LONG = (
    "test_notebooks.py", "test_executors.py", "test_wheel.py", "test_checkpoint.py", "test_readme.py",
    "test_samplers.py", "test_cli.py", "test_fuzz.py", "test_equivariance.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish():
    """Graphs leave much garbage, and a process of thousands of tests much that is looked through for it in vain."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
