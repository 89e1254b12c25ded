"""PyTorch memory snapshots: read safely, explained, replayed with other settings.

snapshot = read_snapshot("snapshot.pickle")
explanation = explain(snapshot)  # what filled each GPU, and which line allocated it
tried = outcomes(snapshot)  # whether other allocator settings would have helped

"""

from willfit.doctor.snapshots.explain import explain
from willfit.doctor.snapshots.explanation import Explanation
from willfit.doctor.snapshots.outcome import Outcome
from willfit.doctor.snapshots.read import looks_like_snapshot, read_snapshot
from willfit.doctor.snapshots.replayed import outcomes, replayed, reproduced

__all__ = [
    "Explanation",
    "Outcome",
    "explain",
    "looks_like_snapshot",
    "outcomes",
    "read_snapshot",
    "replayed",
    "reproduced",
]
