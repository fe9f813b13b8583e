"""Shipped models: declarative PyMC only, one `build(data=None, *, …) -> pm.Model` a file.

Every file but `columns.py` is a model, and can be copied as the start of one of your own: of emppl it imports at most
`emppl.models.columns`, which checks the columns of the data. `data` is a pandas DataFrame or a mapping of arrays;
`None` means the example in `data/`, whose sources stand in `data/README.md`.
"""
