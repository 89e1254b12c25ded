"""Rules on ``BitsAndBytesConfig``: keys that do not exist, and bits that nobody asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Argument, Arguments, Code
from willfit.doctor.lint.edits import DropKeyword, Edit, RenameKeyword, SetKeyword
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import config_bits, is_set_later
from willfit.doctor.lint.values import UNKNOWN, dtype_of

CONFIG: Final = "transformers.BitsAndBytesConfig"
_LOADERS: Final = {"load_in_8bit": 8, "load_in_4bit": 4}
_SLIPS: Final = {"load_in_8bits": "load_in_8bit", "load_in_4bits": "load_in_4bit"}
_OTHER: Final = {"8bit": "4bit", "4bit": "8bit"}
_FATES: Final = {
    "logged": "dropped; transformers says so at log level INFO only, which nobody sees",
    "warned": "dropped with a warning",
    "silent": "dropped without a word",
    "raises": "refused with TypeError",
}
_TYPES: Final = ("fp4", "nf4")


def configs(code: Code) -> Iterator[tuple[ast.Call, Arguments]]:
    """Every ``BitsAndBytesConfig(…)`` and its keywords."""
    for call in code.calls:
        if code.key(call.func) == CONFIG and not call.args:
            yield call, code.arguments(call)


def drop(code: Code, argument: Argument) -> Edit:
    """Takes a keyword out of the call or the literal that holds it."""
    return DropKeyword(at=code.position(argument.owner), name=argument.name)


def put(code: Code, call: ast.Call, arguments: Arguments, name: str, text: str) -> Edit:
    """Gives a keyword a value where it stands, or adds it to the call."""
    argument = arguments.named.get(name)
    owner = argument.owner if argument is not None else call
    return SetKeyword(at=code.position(owner), name=name, code=text)


def _unknown_keys(code: Code) -> Iterator[Problem]:
    signature = code.signatures.of(CONFIG)
    assert signature is not None
    for call, arguments in configs(code):
        for name, argument in arguments.named.items():
            if not signature.refuses(name) or name in _SLIPS:
                continue
            meant = _meant(name, arguments, signature.parameters.names)
            yield Problem(
                at=argument.node,
                message=(
                    f"BitsAndBytesConfig has no key {name}: it is "
                    f"{_FATES[signature.parameters.unknown]} ({signature.version})"
                    f"{_in_effect(code, call)}"
                ),
                fix=f"write {meant} instead" if meant else f"remove {name}: it changes nothing",
                edits=(
                    RenameKeyword(at=code.position(argument.owner), name=name, to=meant)
                    if meant
                    else drop(code, argument),
                ),
            )


def _in_effect(code: Code, call: ast.Call) -> str:
    bits = config_bits(code, call)
    if bits == 8:
        return "; this configuration is plain 8-bit LLM.int8 with or without it"
    return ""


def _meant(name: str, arguments: Arguments, known: frozenset[str]) -> str | None:
    """The 4-bit key that a misspelt one stands for, in a configuration that asks for 4 bit."""
    if "load_in_4bit" not in arguments.named or "8bit" in name:
        return None
    wanted = set(name.lower().split("_"))
    for one in sorted(known):
        words = set(one.split("_"))
        close = len(words ^ wanted) <= 2 and len(words & wanted) >= 3
        if close and one.startswith("bnb_") and one not in arguments.named:
            return one
    return None


def _silent_bits(code: Code) -> Iterator[Problem]:
    """A configuration that says neither 8 nor 4 bit is 4 bit, FP4 unless it names a type."""
    if not code.signatures.stack.at_least("transformers", "4.38"):
        return
    for call, arguments in configs(code):
        if arguments.open or is_set_later(code, call):
            continue
        values = [code.value(a.value) for n, a in arguments.named.items() if n in _LOADERS]
        if any(value is True or value is UNKNOWN for value in values):
            continue
        slip = next((a for n, a in arguments.named.items() if n in _SLIPS), None)
        kind = _type_name(code, arguments)
        meant = _SLIPS[slip.name] if slip is not None else "load_in_4bit"
        named = f"{slip.name} is no key: it is dropped, and " if slip is not None else ""
        edits: tuple[Edit, ...] = ()
        if slip is not None:
            edits = (RenameKeyword(at=code.position(slip.owner), name=slip.name, to=meant),)
        elif any(name.startswith("bnb_4bit") for name in arguments.named):
            edits = (put(code, call, arguments, "load_in_4bit", "True"),)
        yield Problem(
            at=call,
            message=(
                f"{named}a BitsAndBytesConfig without load_in_8bit=True loads the model in "
                f"4-bit {kind}, without saying so"
            ),
            fix=f"write {meant}=True"
            if slip or edits
            else "say load_in_4bit=True or load_in_8bit=True",
            edits=edits,
        )


def _type_name(code: Code, arguments: Arguments) -> str:
    argument = arguments.named.get("bnb_4bit_quant_type")
    value = code.value(argument.value) if argument is not None else "fp4"
    return value.upper() if isinstance(value, str) else "quantisation"


def _other_bits(code: Code) -> Iterator[Problem]:
    """``bnb_4bit_*`` keys of an 8-bit configuration."""
    for call, arguments in configs(code):
        if config_bits(code, call) != 8:
            continue
        four = arguments.named.get("load_in_4bit")
        if four is not None and code.value(four.value) is not False:
            continue
        for name, argument in arguments.named.items():
            if name.startswith("bnb_4bit_"):
                yield Problem(
                    at=argument.node,
                    message=f"{name} has no effect with load_in_8bit=True: it is for 4 bit only",
                    fix=f"remove {name}",
                    edits=(drop(code, argument),),
                )


def _both_bits(code: Code) -> Iterator[Problem]:
    for call, arguments in configs(code):
        values = [code.value(arguments.named[n].value) for n in _LOADERS if n in arguments.named]
        if values == [True, True]:
            yield Problem(
                at=call,
                message="load_in_8bit and load_in_4bit are both True: ValueError",
                fix="keep one: load_in_4bit=True takes half the memory of load_in_8bit=True",
            )


def _float32_compute(code: Code) -> Iterator[Problem]:
    """4 bit computes in float32 unless told otherwise."""
    for call, arguments in configs(code):
        four = arguments.named.get("load_in_4bit")
        if arguments.open or four is None or code.value(four.value) is not True:
            continue
        if is_set_later(code, call) or _asks_eight(code, arguments):
            continue
        if _misspelt_compute(code, arguments):
            continue
        given = arguments.named.get("bnb_4bit_compute_dtype")
        if given is not None and dtype_of(code.value(given.value)) != "float32":
            continue
        wanted = "float16" if _is_old(code.gpu) else "bfloat16"
        yield Problem(
            at=given.node if given is not None else call,
            message=(
                "4-bit layers compute in float32"
                + ("" if given is not None else ", the default of bnb_4bit_compute_dtype")
                + ": each dequantised weight takes 4 B a parameter for the moment of its use, "
                "activations double, and matrix products miss the 16-bit units"
                + (
                    "; the type is FP4, not NF4"
                    if "bnb_4bit_quant_type" not in arguments.named
                    else ""
                )
            ),
            fix=f"bnb_4bit_compute_dtype=torch.{wanted}",
            edits=(
                put(code, call, arguments, "bnb_4bit_compute_dtype", _dtype(code, call, wanted)),
            ),
        )


def _asks_eight(code: Code, arguments: Arguments) -> bool:
    eight = arguments.named.get("load_in_8bit")
    return eight is not None and code.value(eight.value) not in (False, None)


def _misspelt_compute(code: Code, arguments: Arguments) -> bool:
    """Whether another key already means the compute dtype: one finding a mistake."""
    signature = code.signatures.of(CONFIG)
    known = signature.parameters.names if signature is not None else frozenset()
    return any(
        _meant(name, arguments, known) == "bnb_4bit_compute_dtype"
        for name in arguments.named
        if name not in known
    )


def _dtype(code: Code, call: ast.Call, name: str) -> str:
    """``torch.bfloat16`` where ``torch`` is imported; a text, which is taken too, elsewhere."""
    found = code.scopes.bindings(code.tree, "torch")
    known = bool(found) and found[0].imported == "torch"
    before = known and code.order[found[0].node] < code.order[call]
    return f"torch.{name}" if before else f'"{name}"'


def _is_old(gpu: str) -> bool:
    return any(name in gpu.upper() for name in ("T4", "P100", "V100"))


def _wrong_values(code: Code) -> Iterator[Problem]:
    """Values that are refused when the configuration is built or the model is loaded."""
    for call, arguments in configs(code):
        for name, argument in arguments.named.items():
            value = code.value(argument.value)
            said = _refused(name, value, config_bits(code, call))
            if said is not None:
                message, fix, text = said
                edits = (put(code, call, arguments, name, text),) if text else ()
                yield Problem(at=argument.node, message=message, fix=fix, edits=edits)


def _refused(name: str, value: object, bits: int | None) -> tuple[str, str, str] | None:
    is_type = name == "bnb_4bit_quant_type" and isinstance(value, str)
    if is_type and bits == 4 and value not in _TYPES:
        return (
            f'bnb_4bit_quant_type="{value}" does not exist: loading fails with '
            "\"quant_type must be 'nf4' or 'fp4'\"",
            'bnb_4bit_quant_type="nf4"',
            "",
        )
    if name == "llm_int8_threshold" and isinstance(value, int) and not isinstance(value, bool):
        return (
            "llm_int8_threshold must be a float: an integer is refused with TypeError",
            f"llm_int8_threshold={value}.0",
            f"{value}.0",
        )
    if name == "bnb_4bit_compute_dtype" and isinstance(value, str) and value in _SHORT:
        return (
            f'bnb_4bit_compute_dtype="{value}" is no dtype of torch: AttributeError',
            f'bnb_4bit_compute_dtype="{_SHORT[value]}"',
            f'"{_SHORT[value]}"',
        )
    return None


_SHORT: Final = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}

RULES: Final = (
    Rule(
        name="bnb-unknown-key",
        severity="ignored",
        why="BitsAndBytesConfig takes any keyword and drops those it does not know.",
        check=_unknown_keys,
    ),
    Rule(
        name="bnb-silent-4bit",
        severity="error",
        why="Without load_in_8bit=True the model is loaded in 4 bit, whatever was meant.",
        check=_silent_bits,
    ),
    Rule(
        name="bnb-4bit-key-with-8bit",
        severity="ignored",
        why="8-bit layers read none of the bnb_4bit_* keys.",
        check=_other_bits,
    ),
    Rule(
        name="bnb-both-bits",
        severity="error",
        why="8 bit and 4 bit together are refused.",
        check=_both_bits,
    ),
    Rule(
        name="bnb-float32-compute",
        severity="waste",
        why="4-bit layers compute in float32 unless bnb_4bit_compute_dtype says otherwise.",
        check=_float32_compute,
    ),
    Rule(
        name="bnb-wrong-value",
        severity="error",
        why="Some values are accepted by the eye and refused by the library.",
        check=_wrong_values,
    ),
)
