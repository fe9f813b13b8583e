"""One hypothesis profile for all: plans cost more than examples, and a run must be the same on every machine."""

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
