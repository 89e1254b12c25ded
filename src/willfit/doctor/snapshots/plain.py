"""Pickled plain data, read by a machine of its own that cannot name, build or call anything.

Opcodes: Python's pickletools. It knows dictionaries with text as keys, lists, tuples, text, numbers
and None, which is all that a memory snapshot has. ``pickle.Unpickler`` is not used: even one
that refuses globals takes 64 GiB for one wrong memo index, crashes on a key of nested tuples, and
needs time without end for keys that collide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, BinaryIO, Final

from willfit.doctor.snapshots.opcodes import OTHERS, REFUSED, Foreign, Machine

MAX_FILE_BYTES: Final = 4 * 2**30
"""Real files are of 10 to 500 MiB; torch's documentation says that long recordings reach GiB."""
_STEPS: Final = 1024
"""Instructions between two looks at the bounds and at what is left of the window."""
_RUN: Final = 1000
"""Longest run of references read at once; pickle writes lists in batches of 1,000."""
_MARGIN: Final = _STEPS * (5 * _RUN + 16) + 2**21
"""No so many instructions, and one long text, take more bytes."""
_WINDOW: Final = 32 * 2**20

_REFERENCES: Final = re.compile(rb"\](?:\x94|q.|r....)\(((?:j....|h.){1,%d})e(?!\()" % _RUN, re.S)
"""A list of things that were there before, as the frames of nearly every event are."""


def read_plain(file: BinaryIO, shape: Callable[[dict[str, Any]], Any]) -> Any:
    """What a pickle holds; ``shape`` gives what takes the place of a finished dictionary.

    Raises `Foreign` with the reason for everything else: code, other types, cut or endless data.
    Time and memory are linear in the file, memory bounded by `opcodes.MAX_OBJECTS`.
    """
    machine = Machine(shape)
    data, start, ended = file.read(_WINDOW + _MARGIN), 0, False
    pos = 0
    while not machine.stopped:
        if len(data) - pos < _MARGIN and not ended:
            more = file.read(_WINDOW)
            start, data, pos, ended = start + pos, data[pos:] + more, 0, not more
        machine.check()
        try:
            pos = _steps(machine, data, pos)
        except IndexError:
            raise Foreign("it is cut off, or refers to what it does not hold") from None
        if start + pos > MAX_FILE_BYTES:
            raise Foreign(f"it has more than {MAX_FILE_BYTES // 2**30} GiB")
    return machine.result


def _steps(machine: Machine, data: bytes, pos: int) -> int:
    """Run up to `_STEPS` instructions; the position of the next."""
    # one long function, and its commonest instructions first: an event has 30 of them
    stack, marks, memo = machine.stack, machine.marks, machine.memo
    push, references = stack.append, machine.references
    for _ in range(_STEPS):
        op = data[pos]
        if op == 0x68:  # BINGET
            push(memo[data[pos + 1]])
            pos += 2
        elif op == 0x6A:  # LONG_BINGET
            push(memo[int.from_bytes(data[pos + 1 : pos + 5], "little")])
            pos += 5
        elif op == 0x4B:  # BININT1
            push(data[pos + 1])
            pos += 2
        elif op == 0x8A:  # LONG1
            end = pos + 2 + data[pos + 1]
            if end - pos > 18:
                raise Foreign("it holds a number of more than 16 bytes")
            push(int.from_bytes(data[pos + 2 : end], "little", signed=True))
            pos = end
        elif op == 0x4A:  # BININT
            push(int.from_bytes(data[pos + 1 : pos + 5], "little", signed=True))
            pos += 5
        elif op == 0x94:  # MEMOIZE
            memo.append(stack[-1])
            pos += 1
        elif op == 0x5D:  # EMPTY_LIST
            run = _REFERENCES.match(data, pos)
            if run is None:
                push([])
                pos += 1
            else:
                found = references.get(run[1])
                push(machine.refer(run[1]) if found is None else found)
                machine.memoize(data[pos + 1 : run.start(1) - 1])
                pos = run.end()
        elif op == 0x28:  # MARK
            newest = memo and stack and memo[-1] is stack[-1]
            marks.append((len(stack), len(memo) - 1 if newest else -1))
            pos += 1
        elif op == 0x75:  # SETITEMS
            machine.set_items()
            pos += 1
        elif op == 0x7D:  # EMPTY_DICT
            push({})
            pos += 1
            if data[pos : pos + 2] == b"\x94(":  # as nearly all go on
                memo.append(stack[-1])
                marks.append((len(stack), len(memo) - 1))
                pos += 2
        elif op == 0x4D:  # BININT2
            push(data[pos + 1] | data[pos + 2] << 8)
            pos += 3
        elif op in OTHERS:
            pos = OTHERS[op](machine, data, pos + 1)
            if machine.stopped or machine.long_text:
                machine.long_text = False
                break
        else:
            raise Foreign(
                f"it {REFUSED.get(op, f'has the byte {op:#04x} where an instruction is due')}"
            )
    return pos
