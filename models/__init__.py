"""Shipped models: declarative PyMC only, one `build(data=None, *, …) -> pm.Model` a file.

Every file stands on its own, imports nothing of emppl, and can be copied as the start of a model of your own. `data` is
a pandas DataFrame or a mapping of arrays; `None` means the example in `data/`, whose sources stand in `data/README.md`.
"""
