"""Models whose rows do not fit in memory, or lie on other machines: `emppl.fit(model, source=…, executor=…)`."""

from emppl.streaming.assemble import streamed
from emppl.streaming.blocks import Parquet

__all__ = ["Parquet", "streamed"]
