"""The rarer instructions of pickles of plain data, and which ones are refused for what."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

MAX_OBJECTS: Final = 2**25
"""Of 8 million events: each takes four (itself, its frames, their places in memo and list).

What is empty and many takes 64 bytes each at the worst, so this is some 2 GiB.
"""
MAX_DEPTH: Final = 64
"""A snapshot is eight deep: snapshot, traces, trace, event, frames, frame."""
MAX_TEXT_BYTES: Final = 2**20
"""One text; the longest of a snapshot are traces of compiled code, of a few KiB."""
MAX_TEXTS_BYTES: Final = 2**29
"""All texts together."""
_GAP: Final = 2**16
"""So many places of the memo may be skipped at once: optimised pickles have gaps."""


class Foreign(Exception):  # noqa: N818 -- what a file is, for its reader to word
    """The file is no pickle of plain data; the text says why, as a clause: "it ends …"."""


class Machine:
    """The state between two instructions."""

    def __init__(self, shape: Callable[[dict[str, Any]], Any]) -> None:
        self.stack: list[Any] = []
        self.marks: list[tuple[int, int]] = []
        """Where the items of a container begin, and the place in the memo of what is below."""
        self.memo: list[Any] = []
        self.references: dict[bytes, tuple[Any, ...]] = {}
        """Lists of references by their instructions; a place in the memo never changes."""
        self.stopped = False
        self.result: Any = None
        self.long_text = False
        """Whether a text was so long that the window should be looked at."""
        self._shape = shape
        self._held = self._text_bytes = 0

    def check(self) -> None:
        """Raise `Foreign` where more is held than a snapshot can need."""
        if len(self.stack) + len(self.memo) + self._held > MAX_OBJECTS:
            raise Foreign(f"it holds more than {MAX_OBJECTS:,} objects")
        if len(self.marks) > MAX_DEPTH:
            raise Foreign(f"it is nested more than {MAX_DEPTH} deep")

    def refer(self, run: bytes) -> tuple[Any, ...]:
        """The list that a run of references makes; kept for the next that is equal."""
        found: list[Any] = []
        pos = 0
        while pos < len(run):
            width = 4 if run[pos] == 0x6A else 1
            found.append(self.memo[int.from_bytes(run[pos + 1 : pos + 1 + width], "little")])
            pos += 1 + width
        made = self.references[run] = tuple(found)
        self._held += len(made) + 1
        return made

    def memoize(self, instruction: bytes) -> None:
        """MEMOIZE, BINPUT or LONG_BINPUT of the top of the stack."""
        if len(instruction) == 1:
            self.memo.append(self.stack[-1])
        else:
            self.put(int.from_bytes(instruction[1:], "little"))

    def put(self, index: int) -> None:
        """Remember the top of the stack under a number."""
        gap = index - len(self.memo)
        if gap < 0 or gap > _GAP:
            raise Foreign("it numbers its objects out of order")
        self.memo += [None] * gap
        self.memo.append(self.stack[-1])

    def since_mark(self) -> tuple[list[Any], int]:
        """Take what lies above the last mark, and the place in the memo of what is below."""
        start, index = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        self._held += len(items)
        return items, index

    def set_items(self) -> None:
        """Put the pairs above the mark into the dictionary below it; a first lot is a whole."""
        items, index = self.since_mark()
        target = self.stack[-1]
        first = not target
        self.fill(target, items)
        if first:
            made = self._shape(target)
            if made is not target:
                self.stack[-1] = made
                self._held -= len(items)
                if index >= 0:
                    self.memo[index] = made

    def fill(self, target: Any, items: list[Any]) -> None:
        """Set keys and values, which take turns."""
        keys = items[::2]
        if type(target) is not dict or len(items) % 2:
            raise Foreign("it sets items of what is no dictionary")
        # a key of another type may be a tuple as deep as the file is long: never hash one
        if not set(map(type, keys)) <= {str}:
            raise Foreign("it has a dictionary with keys that are not text")
        target.update(zip(keys, items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise Foreign("it appends to what is no list")
        target += items

    def push_text(self, raw: bytes, encoding: str = "utf-8") -> None:
        """Push a text."""
        self._text_bytes += len(raw)
        if self._text_bytes > MAX_TEXTS_BYTES:
            raise Foreign(f"its texts are longer than {MAX_TEXTS_BYTES // 2**20} MiB")
        try:
            self.stack.append(
                raw.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
            )
        except UnicodeDecodeError:
            raise Foreign("it has a text that cannot be decoded") from None
        self.long_text = len(raw) > 4096


Instruction = Callable[[Machine, bytes, int], int]


def _constant(value: Any) -> Instruction:
    def run(machine: Machine, _: bytes, pos: int) -> int:
        machine.stack.append(value)
        return pos

    return run


def _fresh(kind: type[Any]) -> Instruction:
    def run(machine: Machine, _: bytes, pos: int) -> int:
        machine.stack.append(kind())
        return pos

    return run


def _text(width: int) -> Instruction:
    def run(machine: Machine, data: bytes, pos: int) -> int:
        size = int.from_bytes(data[pos : pos + width], "little")
        start, end = pos + width, pos + width + size
        if size > MAX_TEXT_BYTES:
            raise Foreign(f"it has a text of {size:,} bytes")
        if end > len(data):
            raise IndexError
        machine.push_text(data[start:end])
        return end

    return run


def _line(data: bytes, pos: int, most: int = 64) -> tuple[bytes, int]:
    end = data.find(b"\n", pos, pos + most)
    if end < 0:
        raise Foreign("it has a line without end") if len(data) - pos >= most else IndexError
    return data[pos:end], end + 1


def _text_line(machine: Machine, data: bytes, pos: int) -> int:
    line, end = _line(data, pos, MAX_TEXT_BYTES)
    machine.push_text(line, "raw-unicode-escape")
    return end


def _number(machine: Machine, data: bytes, pos: int) -> int:
    line, end = _line(data, pos)
    try:
        value: Any = (
            {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L"))
        )
    except ValueError:
        raise Foreign("it has a number that is none") from None
    machine.stack.append(value)
    return end


def _decimal(machine: Machine, data: bytes, pos: int) -> int:
    line, end = _line(data, pos)
    try:
        machine.stack.append(float(line))
    except ValueError:
        raise Foreign("it has a number that is none") from None
    return end


def _double(machine: Machine, data: bytes, pos: int) -> int:
    if len(data) < pos + 8:
        raise IndexError
    machine.stack.append(struct.unpack_from(">d", data, pos)[0])
    return pos + 8


def _long4(machine: Machine, data: bytes, pos: int) -> int:
    size = int.from_bytes(data[pos : pos + 4], "little")
    if size > 16:
        raise Foreign("it holds a number of more than 16 bytes")
    machine.stack.append(int.from_bytes(data[pos + 4 : pos + 4 + size], "little", signed=True))
    return pos + 4 + size


def _put(width: int) -> Instruction:
    def run(machine: Machine, data: bytes, pos: int) -> int:
        machine.put(int.from_bytes(data[pos : pos + width], "little"))
        return pos + width

    return run


def _numbered(line: bytes) -> int:
    if not line.isdigit():
        raise Foreign("it has a number that is none")
    return int(line)


def _put_line(machine: Machine, data: bytes, pos: int) -> int:
    line, end = _line(data, pos)
    machine.put(_numbered(line))
    return end


def _get_line(machine: Machine, data: bytes, pos: int) -> int:
    line, end = _line(data, pos)
    machine.stack.append(machine.memo[_numbered(line)])
    return end


def _skip(width: int) -> Instruction:
    def run(_: Machine, __: bytes, pos: int) -> int:
        return pos + width

    return run


def _append(machine: Machine, _: bytes, pos: int) -> int:
    machine.append([machine.stack.pop()])
    return pos


def _appends(machine: Machine, _: bytes, pos: int) -> int:
    machine.append(machine.since_mark()[0])
    return pos


def _set_item(machine: Machine, _: bytes, pos: int) -> int:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.fill(machine.stack[-1], [key, value])
    return pos


def _dict(machine: Machine, _: bytes, pos: int) -> int:
    items = machine.since_mark()[0]
    machine.stack.append({})
    machine.fill(machine.stack[-1], items)
    return pos


def _list(machine: Machine, _: bytes, pos: int) -> int:
    machine.stack.append(machine.since_mark()[0])
    return pos


def _tuple(machine: Machine, _: bytes, pos: int) -> int:
    machine.stack.append(tuple(machine.since_mark()[0]))
    return pos


def _tuple_of(length: int) -> Instruction:
    def run(machine: Machine, _: bytes, pos: int) -> int:
        if len(machine.stack) < length:
            raise IndexError
        items = tuple(machine.stack[-length:])
        machine.stack[-length:] = [items]
        return pos

    return run


def _stop(machine: Machine, _: bytes, pos: int) -> int:
    machine.result, machine.stopped = machine.stack.pop(), True
    return pos


def _pop_mark(machine: Machine, _: bytes, pos: int) -> int:
    machine.since_mark()
    return pos


OTHERS: Final[dict[int, Instruction]] = {
    ord("."): _stop,
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("G"): _double,
    0x8B: _long4,
    0x8C: _text(1),
    ord("X"): _text(4),
    0x8D: _text(8),
    ord("V"): _text_line,
    ord("I"): _number,
    ord("L"): _number,
    ord("F"): _decimal,
    ord("q"): _put(1),
    ord("r"): _put(4),
    ord("p"): _put_line,
    ord("g"): _get_line,
    ord("a"): _append,
    ord("e"): _appends,
    ord("s"): _set_item,
    ord("d"): _dict,
    ord("l"): _list,
    ord("t"): _tuple,
    ord(")"): _fresh(tuple),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("1"): _pop_mark,
    0x80: _skip(1),
    0x95: _skip(8),
}
"""PROTO and FRAME say nothing that the reader needs."""

_CODE: Final = (
    "asks for code to be run, which a memory snapshot never does: do not open it elsewhere"
)
_TYPES: Final = "holds bytes or sets, which a memory snapshot has none of"
REFUSED: Final[dict[int, str]] = {
    **dict.fromkeys(map(ord, "cRbioPQ"), _CODE),
    **dict.fromkeys((0x81, 0x82, 0x83, 0x84, 0x92, 0x93, 0x97, 0x98), _CODE),
    **dict.fromkeys(map(ord, "STUBC"), _TYPES),
    **dict.fromkeys((0x8E, 0x8F, 0x90, 0x91, 0x96), _TYPES),
}
"""Why an instruction ends the reading: globals, calls, persistent ids, extensions, buffers…"""
