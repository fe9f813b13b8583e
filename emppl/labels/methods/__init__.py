"""Relabelling methods: plain functions of arrays, and the table through which draws of a model reach them."""

from emppl.labels.methods.complete import data_based, sjw
from emppl.labels.methods.iterative import ecr_iterative_1, ecr_iterative_2, stephens
from emppl.labels.methods.modes import by_modes, climb
from emppl.labels.methods.parameters import normal_likelihood
from emppl.labels.methods.pivots import ecr, ordering, pra, to_densities, to_responsibilities, user_permutations
from emppl.labels.methods.table import METHODS, Method, method, named

__all__ = [
    "METHODS", "Method", "by_modes", "climb", "data_based", "ecr", "ecr_iterative_1", "ecr_iterative_2", "method",
    "named",
    "normal_likelihood", "ordering", "pra", "sjw", "stephens", "to_densities", "to_responsibilities",
    "user_permutations",
]  # fmt: skip
