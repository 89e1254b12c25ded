"""Where an allocation comes from: the user's line, the library's line, and what it may be for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from willfit.doctor.report import Frame
from willfit.doctor.snapshots.contents import Stack

_INSTALLED: Final = re.compile(
    r"(?:^|[\\/])(?:site-packages|dist-packages)[\\/]|[\\/]lib[\\/]python3(?:\.\d+)?[\\/]"
    r"|[\\/]Python3\d*[\\/]lib[\\/]|^<frozen ",
    re.IGNORECASE,
)
"""Paths of what is installed, the standard library among it."""
_THIRD_PARTY: Final = re.compile(r"(?:site|dist)-packages")
_PACKAGES: Final = frozenset(
    {
        "torch", "torchvision", "transformers", "accelerate", "peft", "trl", "bitsandbytes",
        "deepspeed", "diffusers", "pytorch_lightning", "sentence_transformers", "unsloth",
        "unsloth_zoo", "vllm", "sglang", "flash_attn", "xformers", "optimum", "liger_kernel",
        "torchao", "torchtune",
    }
)  # fmt: skip
"""Folders of libraries that people also run from a checkout."""
_COMPILED: Final = re.compile(
    r"^(?:\?\?|none|<eval_with_key>.*|)$|\.(?:cpp|cc|cu|cuh|h|hpp|so[.\d]*|pyx)$"
)
"""Files of frames that are no Python, in recordings with ``stacks="all"``."""
_OWN_PHASE: Final = "phase"
"""File of the outer frame in snapshots that willfit itself writes; its function is the phase."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a stack says of an allocation."""

    user: Frame | None
    """Innermost frame outside of libraries; None where there is none."""
    library: Frame | None
    """Innermost Python frame outside of torch and the user's code, else the innermost of all; None
    where that is the user's."""
    category: str
    """weights, gradients, optimizer_states, activations, logits, kv_cache, inputs, workspaces,
    temporaries or unknown: as torch's profiler recorded it, else a guess."""
    guessed: bool


class Places:
    """Places by stack and category; each distinct stack is looked at once."""

    def __init__(self, *, stacks: bool = False) -> None:
        """``stacks``: whether the recording has stacks, so that their absence says something."""
        self._found: dict[tuple[int, str], tuple[Stack, Place]] = {}
        # autograd allocates in threads of its own, which run no Python
        self._stackless = "gradients" if stacks else "unknown"

    def of(self, stack: Stack, category: str = "") -> Place:
        """Where a stack points to."""
        key = (id(stack), category)
        found = self._found.get(key)
        if found is None:
            # the stack is kept, so that no other can have its identity
            place = place_of(stack, category, self._stackless)
            found = self._found[key] = (stack, place)
        return found[1]


def place_of(stack: Stack, category: str = "", stackless: str = "unknown") -> Place:
    """The lines of a stack, and what they allocate for."""
    python = [frame for frame in stack if not _COMPILED.search(frame.file)]
    user = _first(python, is_library) or _first(python, lambda file: bool(_INSTALLED.search(file)))
    library = _first(python, _in_torch)
    if library is None or library is user:
        library = python[0] if python else None
    named = _RECORDED.get(category)
    return Place(
        user=user,
        library=None if library is user else library,
        category=named or _guess(stack) or stackless,
        guessed=named is None,
    )


def _first(frames: Sequence[Frame], passed_over: Callable[[str], bool]) -> Frame | None:
    return next((frame for frame in frames if not passed_over(frame.file)), None)


def is_library(file: str) -> bool:
    """Whether a path is of the standard library or of an installed package."""
    return bool(_INSTALLED.search(file)) or not _PACKAGES.isdisjoint(_folders(file))


def _in_torch(file: str) -> bool:
    """Whether a path is torch's or the standard library's."""
    if _INSTALLED.search(file) and not _THIRD_PARTY.search(file):
        return True
    return "torch" in _folders(file)


def _folders(file: str) -> list[str]:
    return re.split(r"[\\/]", file)[:-1]


_RECORDED: Final = {
    "parameter": "weights",
    "gradient": "gradients",
    "optimizer_state": "optimizer_states",
    "activation": "activations",
    "input": "inputs",
    "temporary": "temporaries",
    "autograd_detail": "temporaries",
}
"""Names of torch.profiler's Category; ``unknown`` is none."""

Test = Callable[[str, str], bool]


def _function(*names: str) -> Test:
    wanted = frozenset(names)
    return lambda _, name: name in wanted


def _matching(file: str = "", function: str = "") -> Test:
    files, functions = re.compile(file), re.compile(function)
    return lambda path, name: bool(files.search(path) and functions.search(name))


_GUESSES: Final[Sequence[tuple[str, Test]]] = (
    ("optimizer_states", _function("_init_group", "init_state", "init_state8bit")),
    (
        "temporaries",
        _matching(r"[\\/]optim(?:izer)?s?[\\/]", "step|_foreach|_multi_tensor|_single_tensor"),
    ),
    ("temporaries", _function("clip_grad_norm_", "clip_grad_norm")),
    ("workspaces", _matching("", r"[cC]ublas|getCUDABlas|WorkspaceSize")),
    ("kv_cache", _matching(r"cache_utils\.py$|kv_cache|cache_engine")),
    ("kv_cache", _function("_allocate_kv_cache", "_allocate_kv_cache_tensors")),
    ("logits", _function("cross_entropy", "fixed_cross_entropy", "log_softmax", "ForCausalLMLoss")),
    (
        "weights",
        _matching(
            "",
            r"^(?:from_pretrained|load_state_dict|_load_.*|load_checkpoint.*|load_model|"
            r"set_module_tensor_to_device|create_quantized_param|_materialize_.*|materialize_.*|"
            r"from_config|reset_parameters|dispatch_model|replace_with_bnb_linear)$",
        ),
    ),
    (
        "weights",
        _matching(
            r"[\\/]nn[\\/]modules[\\/]module\.py$",
            r"^(?:to|cuda|_apply|convert|half|float|bfloat16)$",
        ),
    ),
    (
        "weights",
        _matching(
            r"[\\/](?:nn[\\/]modules|peft)[\\/].*\.py$", "^(?:__init__|update_layer|add_adapter)$"
        ),
    ),
    ("inputs", _function("_prepare_inputs", "_prepare_input", "send_to_device", "pin_memory")),
    # what a checkpoint computes again stands in a backward pass, but is not its result
    ("activations", _function("forward", "_call_impl", "_wrapped_call_impl", "recompute_fn")),
    ("gradients", _matching("", r"AccumulateGrad|^backward$|_engine_run_backward|Engine::")),
)
"""Tried in this order; each on every frame."""
_PHASES: Final = {"load": "weights", "backward": "gradients", "step": "temporaries"}


def _guess(stack: Stack) -> str:
    if stack and stack[-1].file == _OWN_PHASE:
        return _PHASES.get(stack[-1].function, "activations")
    for category, test in _GUESSES:
        if any(test(frame.file, frame.function) for frame in stack):
            return category
    return "" if not any(not _COMPILED.search(frame.file) for frame in stack) else "unknown"
