"""GPUs and versions as logs name them."""

from __future__ import annotations

import re
from typing import Final

from willfit.devices import parse_machine
from willfit.errors import InputError
from willfit.scenario.stack import TESTED
from willfit.settings.told.facts import Facts

_GPU: Final = re.compile(
    r"(?:\bGPU ?(?P<index>\d{1,2}): |\|\s{1,4}(?P<row>\d{1,2})\s{1,4}|"
    r"\bDevice (?P<device>\d{1,2}): )?"
    r"(?P<name>(?:NVIDIA (?:GeForce )?|Tesla |GeForce |Quadro )(?:RTX (?:PRO )?|GTX |TITAN )?"
    r"(?:[A-Z]{0,2}\d{1,4}[A-Za-z]{0,2})(?:[ -](?:Ti|SUPER|Ada|PCIe|PCIE|SXM\d?|HBM3e?|NVL|Laptop|"
    r"Generation|\d{1,3}GB)){0,3})"
)
_NEEDLES: Final = ("NVIDIA", "Tesla", "GeForce", "Quadro")

_VERSIONS: Final = re.compile(
    r"\b(?P<name>[Tt]ransformers|[Pp]y[Tt]orch|torch|peft|PEFT|trl|TRL|accelerate|Accelerate|"
    r"bitsandbytes)`?(?: version)?(?: \(GPU\?\))?(?:==| = |: |=| )v?"
    r"(?P<version>\d{1,3}\.\d{1,3}(?:\.\d{1,3})?)(?![\d.]*\d{4})\b"
)
_NAMED: Final = ("ransformers", "orch", "peft", "PEFT", "trl", "TRL", "ccelerate", "bitsandbytes")


def read_gpus(facts: Facts, line: str) -> None:
    """Names of GPUs, by index where the line numbers them."""
    if not any(needle in line for needle in _NEEDLES):
        return
    for match in _GPU.finditer(line):
        index = match["index"] or match["row"] or match["device"] or ""
        if len(facts.gpus) < 32:
            facts.gpus[index] = match["name"].strip()


def read_versions(facts: Facts, line: str) -> None:
    """``transformers==4.44.2``, ``Transformers = 4.44.2``, ``PyTorch version (GPU?): 2.1.2``."""
    if not any(needle in line for needle in _NAMED):
        return
    for match in _VERSIONS.finditer(line):
        name = match["name"].lower().replace("pytorch", "torch")
        if name in TESTED:
            facts.versions[name] = match["version"]


def gpu_of(facts: Facts) -> str | None:
    """The machine as ``--gpu`` takes it; None, with a sentence, where it is not certain."""
    kinds = list(dict.fromkeys(facts.gpus.values()))
    if not kinds:
        return None
    if len(kinds) > 1:
        facts.assume(f"the log names several GPUs ({', '.join(kinds[:4])}): say which with --gpu")
        return None
    numbered = [index for index in facts.gpus if index]
    count = facts.gpu_count or max(len(numbered), 1)
    text = kinds[0] if count == 1 else f"{kinds[0]}x{count}"
    try:
        parse_machine(text)
    except InputError:
        facts.assume(f"the log names a GPU {kinds[0]!r} that is not in the catalogue")
        return None
    return text
