"""What was compiled of a graph serves every other plan that has the same graph: a model fitted to data after data.

Graphs are the same where all operations, types and constants are, to the last bit. What holds storage that somebody may
write to (shared variables, random generators) is never shared, and no more is kept than MOST.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from pytensor.graph.basic import Constant
from pytensor.graph.fg import FrozenFunctionGraph
from pytensor.graph.traversal import ancestors

MOST = 256  # graphs
LARGEST = 200_000  # numbers in the constants of a graph that is kept

_kept: OrderedDict[Hashable, Any] = OrderedDict()


def once[T](graph: tuple[Sequence[Any], Any], make: Callable[[], T]) -> T:
    """What `make` gave for the same graph (inputs, outputs), or gives now. Under the lock of `building` alone."""
    key = _key(*graph)
    if key is None:
        return make()
    if key in _kept:
        _kept.move_to_end(key)
    else:
        _kept[key] = make()
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    found: T = _kept[key]
    return found


def _key(inputs: Sequence[Any], outputs: Any) -> Hashable | None:
    """What two graphs have in common that are the same; None for one that is not to be kept."""
    several = isinstance(outputs, list | tuple)
    graphs = list(outputs) if several else [outputs]
    constants = [v for v in ancestors(graphs) if isinstance(v, Constant)]
    if sum(np.size(v.data) for v in constants) > LARGEST:
        return None
    digest = blake2b(digest_size=16)
    for v in constants:
        if isinstance(v.data, np.ndarray):  # beside the graph's own comparison, to which -0.0 is 0.0
            digest.update(f"{v.data.dtype}{v.data.shape}".encode() + v.data.tobytes())
    try:
        frozen = FrozenFunctionGraph.from_io(inputs, graphs)
    except ValueError:  # a variable that is neither an input nor a constant: it holds storage
        return None
    return frozen, several, digest.digest()
