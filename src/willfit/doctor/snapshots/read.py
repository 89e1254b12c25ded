"""`read_snapshot`: a file of ``torch.cuda.memory._dump_snapshot`` as a `Snapshot`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, Final

from willfit.doctor.snapshots.contents import Event, Segment, Snapshot
from willfit.doctor.snapshots.opcodes import MAX_OBJECTS, Foreign
from willfit.doctor.snapshots.plain import MAX_FILE_BYTES, read_plain
from willfit.doctor.snapshots.shapes import Shapes
from willfit.errors import BrokenFileError

MAX_GPUS: Final = 1024
_OTHER_FILES: Final = (
    (b"\x1f\x8b", "it is compressed: unpack it with gunzip first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed: unpack it with unzstd first"),
    (b"PK\x03\x04", "it is a zip archive, as torch.save writes checkpoints"),
    (b"{", "it is text such as JSON"),
    (b"[", "it is text such as JSON"),
    (b"<", "it is a page of HTML: give the pickle that it was made from"),
)
_EXPECTED: Final = "what torch.cuda.memory._dump_snapshot(file) writes was expected"


def read_snapshot(source: Path | str | bytes) -> Snapshot:
    """The snapshot of a file, or of its bytes; nothing in it is run.

    Raises `BrokenFileError` with one sentence for everything else.
    """
    name = "the snapshot" if isinstance(source, bytes) else f"the snapshot {str(source)!r}"
    try:
        if isinstance(source, bytes):
            return _read(io.BytesIO(source))
        with Path(source).open("rb") as file:
            return _read(file)
    except Foreign as error:
        raise BrokenFileError(f"cannot read {name}: {error}; {_EXPECTED}") from None
    except OSError as error:
        raise BrokenFileError(f"cannot read {name}: {error.strerror or error}") from None


def looks_like_snapshot(head: bytes) -> bool:
    """Whether a file that begins so is a pickle, and no archive or text."""
    return head[:1] == b"\x80" and head[1:2] <= b"\x05" and len(head) > 2


def _read(file: BinaryIO) -> Snapshot:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    if size > MAX_FILE_BYTES:
        raise Foreign(f"it has {size:,} bytes, more than {MAX_FILE_BYTES // 2**30} GiB")
    for start, reason in _OTHER_FILES:
        if head.startswith(start):
            raise Foreign(reason)
    shapes = Shapes()
    return _snapshot(read_plain(file, shapes.shaped), shapes)


def _snapshot(data: object, shapes: Shapes) -> Snapshot:
    if isinstance(data, (list, tuple)):
        # torch 1.13 and memory_snapshot() give the segments alone
        data = {"segments": data}
    if not isinstance(data, dict) or "segments" not in data:
        raise Foreign("it has no segments")
    settings = data.get("allocator_settings")
    return Snapshot(
        segments=_segments(data["segments"], shapes),
        traces=_traces(data.get("device_traces") or (), shapes),
        settings=settings if isinstance(settings, dict) else {},
    )


def _segments(data: Any, shapes: Shapes) -> tuple[Segment, ...]:
    if not isinstance(data, (list, tuple)):
        raise Foreign("its segments are no list")
    # the same list may stand in the file once and be named often
    found: list[Segment] = []
    num_blocks = 0
    for item in data:
        found.append(shapes.segment(item))
        num_blocks += len(found[-1].blocks) + 1
        if num_blocks > MAX_OBJECTS:
            raise Foreign("it has more segments than its size allows")
        if found[-1].gpu >= MAX_GPUS:
            raise Foreign(f"it has a GPU {found[-1].gpu}")
    return tuple(sorted(found, key=lambda segment: (segment.gpu, segment.address)))


def _traces(data: Any, shapes: Shapes) -> tuple[tuple[Event, ...], ...]:
    if not isinstance(data, (list, tuple)) or len(data) > MAX_GPUS:
        raise Foreign("its device_traces are no list of a trace for each GPU")
    if sum(len(x) for x in data if isinstance(x, (list, tuple))) > MAX_OBJECTS:
        raise Foreign("it has more events than its size allows")
    return tuple(_trace(trace, shapes) for trace in data)


def _trace(data: Any, shapes: Shapes) -> tuple[Event, ...]:
    if not isinstance(data, (list, tuple)):
        raise Foreign("the trace of a GPU is no list of events")
    if set(map(type, data)) <= {Event}:
        return tuple(data)
    return tuple(item if type(item) is Event else _event(item, shapes) for item in data)


def _event(data: object, shapes: Shapes) -> Event:
    if not isinstance(data, dict) or "action" not in data:
        raise Foreign("the trace of a GPU has something that is no event")
    return shapes.event(data)
