"""Settings read from what the user already has: one file a format, all of one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError
from willfit.settings import adapter_config, axolotl, llama_cpp, training_arguments, vllm
from willfit.settings.files import read_mapping
from willfit.settings.settings import Settings

__all__ = ["Settings", "read_settings"]

_Format = tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], Settings]]
_MAPPINGS: Final[tuple[_Format, ...]] = (
    (adapter_config.recognise, adapter_config.read),
    (axolotl.recognise, axolotl.read),
    (training_arguments.recognise, training_arguments.read),
)
"""Formats of files, the most particular first."""

_Command = tuple[Callable[[str], bool], Callable[[str], Settings]]
_COMMANDS: Final[tuple[_Command, ...]] = (
    (vllm.recognise, vllm.read),
    (llama_cpp.recognise, llama_cpp.read),
)
"""Formats of command lines."""


def read_settings(source: str) -> Settings:
    """Settings of a file or of a command line in quotes; raises `InputError` for others."""
    if " " in source.strip() and not Path(source).exists():
        for recognise_command, read_command in _COMMANDS:
            if recognise_command(source):
                return read_command(source)
        raise InputError(
            f"cannot read {source[:60]!r}: expected a file, or a command such as "
            "'vllm serve MODEL' or 'llama-server -m FILE'"
        )
    content = read_mapping(Path(source))
    for recognise, read in _MAPPINGS:
        if recognise(content):
            return read(content)
    raise InputError(
        f"{source} has no setting that is known: expected TrainingArguments or TRL settings, "
        "Axolotl settings, or a PEFT adapter_config.json"
    )
