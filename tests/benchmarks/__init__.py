"""How fast emppl is: each row sets it beside a rival doing the same work, in turn, and says whether results are equal.

`make bench` runs all rows; `python -m tests.benchmarks NAME ...` some of them, by the beginning of their names;
`--list` names them. `--scale 0.01` shrinks the data to see that a row works; the bars are meant for scale 1. A rival
that is not installed (R with mclust, flexmix and label.switching, whose sources may also lie in the folder that the
environment variable LABEL_SWITCHING names; pymc_extras, from the extra `bench`) leaves its rows out by name.
"""
