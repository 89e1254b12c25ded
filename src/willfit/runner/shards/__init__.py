"""Results in shards: which rows one holds, its file, and what of a stage is done."""

from willfit.runner.shards.ranges import Range, boundaries, disjoint, gaps, pieces
from willfit.runner.shards.store import Broken, Shard, Store, read_shard, shard_bytes, shard_name

__all__ = [
    "Broken",
    "Range",
    "Shard",
    "Store",
    "boundaries",
    "disjoint",
    "gaps",
    "pieces",
    "read_shard",
    "shard_bytes",
    "shard_name",
]
