"""Inputs for the doctor that nobody would write: bytes, pieces of messages, a corpus undone."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from willfit.doctor.messages import READERS
from willfit.doctor.reading.prefixes import PREFIXES

CORPUS: Final = Path(__file__).resolve().parents[2].parent / "shared" / "oom_corpus" / "raw"
TEMPLATES: Final = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {a}. GPU {i} has a total "
    "capacity of {a} of which {a} is free. Process {n} has {a} memory in use. Including "
    "non-PyTorch memory, this process has {a} memory in use. {a} allowed; Of the allocated memory "
    "{a} is allocated by PyTorch, with {a} allocated in private pools (e.g., CUDA Graphs), and {a} "
    "is reserved by PyTorch but unallocated.",
    "RuntimeError: CUDA out of memory. Tried to allocate {a} (GPU {i}; {a} total capacity; {a} "
    "already allocated; {a} free; {a} reserved in total by PyTorch)",
    "MPS backend out of memory (MPS allocated: {a}, other allocations: {a}, max allowed: {a}). "
    "Tried to allocate {a} on private pool.",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate {n} bytes. Error code 12",
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":{n}, '
    "please report a bug to PyTorch.",
    "ValueError: The model's max seq len ({n}) is larger than the maximum number of tokens that "
    "can be stored in KV cache ({n}).",
    "ValueError: To serve at least one request with the models's max seq len ({n}), ({a} KV cache "
    "is needed, which is larger than the available KV cache memory ({a}). Based on the available "
    "memory, the estimated maximum model length is {n}.",
    "ValueError: Free memory on device cuda:{i} ({d}/{a}) on startup is less than desired GPU "
    "memory utilization ({d}, {a}).",
    "max_total_tokens={n} is larger than the profiled value -{n}. Use the profiled value instead.",
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating {d} MiB on device {i}: cudaMalloc "
    "failed: out of memory\nggml_gallocr_reserve_n: failed to allocate CUDA{i} buffer of size {n}",
    "Error: model requires more system memory ({a}) than is available ({a})",
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate {n} bytes.",
    "OOM when allocating tensor with shape[{n},{n}] and type float on /job:localhost/replica:0"
    "/task:0/device:GPU:{i} by allocator GPU_0_bfc",
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "Memory on the node (IP: 10.0.0.1, ID: 7) where the task was running was {a} / {a} ({d}), "
    "which exceeds the memory usage threshold of {d}.",
    "RuntimeError: unable to mmap {n} bytes from file <./a.safetensors>: Cannot allocate memory",
    "Out of memory error on GPU {i}. Cannot allocate {a} memory on GPU {i}, {a} memory has been "
    "allocated and available memory is only {a}.",
    "slurmstepd: error: Detected {i} oom-kill event(s) in StepId={n}.batch cgroup.",
    "failed (exitcode: -9) local_rank: {i} (pid: {n}) of binary: /usr/bin/python",
    "[{i}] NVIDIA A100 80GB PCIe | 52'C, 100 % | {n} / {n} MB | (null)",
    "Not enough memory to handle {n} prefill tokens. You need to decrease "
    "`--max-batch-prefill-tokens`",
    "Insufficient memory to allocate KV-caches. Required: {n}, Available: {n}",
    "ggml_vulkan: Device memory allocation of size {n} failed.",
    "Out of memory: Killed process {n} (python) total-vm:{n}kB, anon-rss:{n}kB, file-rss:{n}kB",
)
"""Formats of messages, for any numbers."""
HOSTILE: Final = (
    "9" * 24, "9" * 400, "0", "00", "-1", "1e309", "nan", "inf", "1.7976931348623157e308",
    "٣٤", "１２", "१.५", "1,5", "1.2.3", "0x1F", "18446744073709551616", "²", "½", "1_000", "",
)  # fmt: skip
UNITS: Final = (
    " MiB", " GiB", "GiB", " bytes", " KiB", " TiB", " GB", "MB", " B", "", " XiB", " Gib", "  GiB",
)  # fmt: skip
ANSI: Final = ("\x1b[31m", "\x1b[0m", "\x1b]0;t\x07", "#033[36m", "\\x1b[1;31m", "^[[0m", "\x9b1m")
JUNK: Final = (
    "\0", "\r", "\b", "\t", "\x85", "\u2028", "\ud800", "\udfff", "\u200b", "\ufeff", "│", "❱",
    "<span style='a'>", "</pre>", "&gt;", "&#27;", "&#55296;", "\\n", '\\"', "```", "**", "> ",
    "| ", " |", "{", "}", "[", "]", '{"log":"', '"}', "(" * 60, "[" * 60, "<" * 60, "\\" * 60,
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What inputs are made of."""

    texts: Sequence[str]
    needles: Sequence[str]
    prefixes: Sequence[str]

    @classmethod
    @lru_cache(maxsize=1)
    def gather(cls) -> Material:
        """The corpus where it is beside the project, and what the package knows."""
        files = sorted(CORPUS.glob("*.log")) if CORPUS.is_dir() else []
        texts = [path.read_text("utf-8", "replace") for path in files]
        return cls(
            texts=[*texts, *TEMPLATES],
            needles=sorted({needle for reader in READERS for needle in reader.needles}),
            prefixes=[row.example.removesuffix(row.rest) for row in PREFIXES],
        )


def number(dice: random.Random) -> str:
    """A number, likely or hostile."""
    kind = dice.random()
    if kind < 0.2:
        return dice.choice(HOSTILE)
    return str(dice.randrange(10 ** dice.randrange(1, 14)))


def amount(dice: random.Random) -> str:
    """An amount, likely or hostile."""
    if dice.random() < 0.6:
        return f"{dice.randrange(100_000) / 100:.2f}{dice.choice(UNITS[:3])}"
    return number(dice) + dice.choice(UNITS)


def filled(template: str, dice: random.Random) -> str:
    """A message with numbers of its own."""
    values: Mapping[str, Callable[[random.Random], str]] = {
        "a": amount, "n": number, "i": lambda d: str(d.randrange(9)),
        "d": lambda d: f"{d.randrange(10**6) / 100:.2f}",
    }  # fmt: skip
    return re.sub(r"\{([anid])\}", lambda found: values[found[1]](dice), template)


def random_bytes(dice: random.Random, _: Material) -> bytes:
    return dice.randbytes(dice.randrange(400))


def pieces(dice: random.Random, material: Material) -> bytes:
    """Parts of needles, numbers and junk, glued."""
    parts = []
    for _ in range(dice.randrange(1, 24)):
        word = dice.choice(material.needles)
        low = dice.randrange(len(word)) if dice.random() < 0.3 else 0
        parts += [word[low:], dice.choice((" ", "\n", "", ": ")), dice.choice(JUNK), amount(dice)]
    dice.shuffle(parts)
    return "".join(parts).encode("utf-8", "surrogatepass")


def templates(dice: random.Random, _: Material) -> bytes:
    lines = [filled(dice.choice(TEMPLATES), dice) for _ in range(dice.randrange(1, 5))]
    return dice.choice(("\n", " ", "\r\n", "\r")).join(lines).encode("utf-8", "replace")


def cut(dice: random.Random, material: Material) -> bytes:
    text = dice.choice(material.texts)
    low = dice.randrange(len(text))
    return text[low : low + dice.randrange(1 + len(text))].encode()


def splice(dice: random.Random, material: Material) -> bytes:
    one, other = dice.choice(material.texts), dice.choice(material.texts)
    place = dice.randrange(len(one))
    return (one[:place] + other + one[place:]).encode()


def repeat(dice: random.Random, material: Material) -> bytes:
    text = dice.choice(material.texts)
    low = dice.randrange(len(text))
    part = text[low : low + dice.randrange(1, 80)]
    return (text[:low] + part * dice.randrange(1, 60) + text[low:]).encode()


def shuffle(dice: random.Random, material: Material) -> bytes:
    unit = dice.choice((" ", "\n", ". "))
    words = dice.choice(material.texts).split(unit)
    dice.shuffle(words)
    return unit.join(words).encode()


def flip_case(dice: random.Random, material: Material) -> bytes:
    text = dice.choice(material.texts)
    return "".join(x.swapcase() if dice.random() < 0.05 else x for x in text).encode()


def renumber(dice: random.Random, material: Material) -> bytes:
    """Other numbers in the same words."""
    text = dice.choice(material.texts)
    odds = dice.choice((0.2, 0.8))
    changed = re.sub(
        r"\d+(?:\.\d+)?", lambda found: number(dice) if dice.random() < odds else found[0], text
    )
    return changed.encode("utf-8", "replace")


def insert(dice: random.Random, material: Material) -> bytes:
    """Escapes and junk between the letters."""
    letters = list(dice.choice(material.texts))
    for _ in range(dice.randrange(1, 16)):
        letters.insert(dice.randrange(1 + len(letters)), dice.choice((*ANSI, *JUNK)))
    return "".join(letters).encode("utf-8", "surrogatepass")


def prefix(dice: random.Random, material: Material) -> bytes:
    """Lines of several writers, interleaved."""
    heads = [
        "".join(dice.choices(material.prefixes, k=dice.randrange(4)))
        for _ in range(dice.randrange(1, 4))
    ]
    lines = (dice.choice(material.texts) + "\n" + dice.choice(material.texts)).split("\n")
    return "\n".join(dice.choice(heads) + line for line in lines).encode()


def wrap(dice: random.Random, material: Material) -> bytes:
    """Another container: JSON, a repr, a page, UTF-16, a quotation, narrow columns."""
    text = dice.choice(material.texts)
    narrow = dice.randrange(2, 90)
    ways: Sequence[Callable[[], bytes]] = (
        lambda: json.dumps({"log": text, "n": 1}).encode(),
        lambda: json.dumps([{"a": {"b": text}}] * dice.randrange(1, 5)).encode(),
        lambda: json.dumps(json.dumps(text)).encode(),
        lambda: repr(text).encode(),
        lambda: f"<pre>{text.replace('<', '&lt;')}</pre>".encode(),
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-16-be"),
        lambda: text.encode("gb18030"),
        lambda: "\n".join("> " + line for line in text.split("\n")).encode(),
        lambda: "\n".join(
            f"│ {text[i : i + narrow]} │" for i in range(0, len(text), narrow)
        ).encode(),
    )
    return dice.choice(ways)()


def flip_bytes(dice: random.Random, material: Material) -> bytes:
    text = bytearray(dice.choice(material.texts).encode())
    for _ in range(dice.randrange(1, 12)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    return bytes(text)


def long(dice: random.Random, material: Material) -> bytes:
    """A large text, most of them rare: one line, one letter, one message."""
    part = dice.choice((splice, repeat, pieces, templates, insert))(dice, material)
    part = dice.choice(
        (part, part.replace(b"\n", b" "), dice.choice(JUNK).encode("utf-8", "replace"))
    )
    size = dice.choice((20_000, 60_000, 60_000, 1_300_000 if dice.random() < 0.1 else 120_000))
    return (part or b"x") * (size // (len(part) or 1) + 1)


KINDS: Final[tuple[tuple[Callable[[random.Random, Material], bytes], float], ...]] = (
    (random_bytes, 1), (pieces, 1.5), (templates, 1.5), (cut, 1), (splice, 1), (repeat, 1),
    (shuffle, 1), (flip_case, 1), (renumber, 1.5), (insert, 1.5), (prefix, 1.5), (wrap, 1.5),
    (flip_bytes, 1), (long, 0.002),
)  # fmt: skip
"""Kinds of inputs, and how often each is made."""


def made(seed: int, index: int) -> tuple[str, bytes]:
    """The input of that number: its kind and bytes."""
    dice = random.Random(f"{seed}:{index}")
    makers, odds = zip(*KINDS, strict=True)
    (maker,) = dice.choices(makers, odds)
    return maker.__name__, maker(dice, Material.gather())
