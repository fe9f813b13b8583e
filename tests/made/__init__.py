"""Situations with known truth, for `tests/situations.py` and the tests of verdicts."""
