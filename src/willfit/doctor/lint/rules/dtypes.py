"""Rules on the number format: float32 where 16 bits would do, 16 bits where they fail."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import Edit, ReplaceExpression, SetKeyword
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load
from willfit.doctor.lint.values import dtype_of

_GEMMA_2: Final = re.compile(r"gemma[-_]?2[-_]\d+b", re.IGNORECASE)
_BILLIONS: Final = re.compile(r"(?<![\d.a-z])(\d{1,3}(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_LARGE: Final = 1.0
"""Billions of parameters from which four bytes each are worth a word: 2 GB more than 16 bit."""


def billions(checkpoint: str) -> float:
    """Parameters in billions that a checkpoint's name tells; 0 where it tells none."""
    found = _BILLIONS.findall(checkpoint.rpartition("/")[2])
    return max(map(float, found), default=0.0)


def trains(code: Code) -> bool:
    """Whether a program trains, as far as its calls tell."""
    if any(c for c in code.methods.get("backward", [])):
        return True
    for call in code.methods.get("train", []):
        if isinstance(call.func, ast.Attribute) and code.models.of(call.func.value) is None:
            return True
    return any(
        "Trainer" in name or ".optim" in name or "optimizer" in name.lower()
        for name in code.named_calls
    )


def _float32(code: Code) -> Iterator[Problem]:
    """A large language model in four bytes a parameter, for inference."""
    old = not code.signatures.stack.at_least("transformers", "5")
    if trains(code):
        return
    for load in code.models.loads:
        if not load.is_causal or billions(load.checkpoint) < _LARGE or code.models.bits(load) != 0:
            continue
        if not code.models.on_gpu(load):
            continue
        dtype = code.models.dtype(load)
        argument = load.argument("dtype") or load.argument("torch_dtype")
        at: ast.AST = load.call
        if dtype == "float32" and argument is not None:
            at = argument.node
        elif dtype is not None or not old or load.owner.startswith("unsloth"):
            continue
        if _cast_later(code, load):
            continue
        given = argument.name if argument is not None else "torch_dtype"
        why = "" if dtype else f", the default of transformers {_release(code)}"
        yield Problem(
            at=at,
            message=(
                f"the model is loaded in float32{why}: 4 B a parameter, "
                f"{4 * billions(load.checkpoint):g} GB instead of "
                f"{2 * billions(load.checkpoint):g} GB in 16 bit"
            ),
            fix=f'{given}="auto" takes the format of the checkpoint',
            edits=(SetKeyword(at=code.position(_owner(load, given)), name=given, code='"auto"'),),
        )


def _owner(load: Load, name: str) -> ast.AST:
    argument = load.argument(name)
    return argument.owner if argument is not None else load.call


def _release(code: Code) -> str:
    return ".".join(map(str, code.signatures.stack.version("transformers")[:2]))


def _cast_later(code: Code, load: Load) -> bool:
    """Whether the program makes it 16 bit afterwards, or asks for its default beforehand."""
    names = {"torch.set_default_dtype", "torch.set_default_tensor_type"}
    if any(code.named_calls.get(name) for name in names):
        return True
    for attribute in ("half", "bfloat16", "to"):
        for call in code.methods.get(attribute, []):
            assert isinstance(call.func, ast.Attribute)
            if code.models.of(call.func.value) is not load:
                continue
            values = [code.value(v) for v in (*call.args, *(k.value for k in call.keywords))]
            if attribute != "to" or any(dtype_of(v) in ("float16", "bfloat16") for v in values):
                return True
    return False


def _trl_float32(code: Code) -> Iterator[Problem]:
    """SFTTrainer("name") loads float32 where nothing says otherwise (trl/trainer/utils.py)."""
    if not code.signatures.stack.at_least("trl", "1"):
        return
    for call in code.calls:
        if code.key(call.func) not in ("trl.SFTTrainer", "trl.RewardTrainer", "trl.DPOTrainer"):
            continue
        arguments = code.arguments(call)
        model = arguments.named.get("model")
        given = model.value if model is not None else next(iter(call.args), None)
        checkpoint = code.value(given)
        peft = arguments.named.get("peft_config")
        if arguments.open or peft is None or code.value(peft.value) is None:
            continue
        if not isinstance(checkpoint, str) or billions(checkpoint) < _LARGE:
            continue
        if "quantization_config" in arguments.named or not _plain_settings(code, call):
            continue
        yield Problem(
            at=model.node if model is not None else call,
            message=(
                f"{code.key(call.func).partition('.')[2]} loads a model given by name in float32: "
                f"the frozen weights of {checkpoint} take 4 B a parameter"
            ),
            fix='model_init_kwargs={"dtype": "auto"} in its configuration',
        )


def _plain_settings(code: Code, call: ast.Call) -> bool:
    """Whether the trainer's settings are in sight and say nothing about loading."""
    argument = code.arguments(call).named.get("args")
    if argument is None:
        return True
    origin = code.origin(argument.value)
    if not isinstance(origin, ast.Call):
        return False
    settings = code.arguments(origin)
    return not settings.open and "model_init_kwargs" not in settings.named


def _gemma_2(code: Code) -> Iterator[Problem]:
    """Gemma-2's activations leave the range of float16."""
    for load in code.models.loads:
        if not _GEMMA_2.search(load.checkpoint):
            continue
        argument = load.argument("dtype") or load.argument("torch_dtype")
        if argument is None or dtype_of(code.value(argument.value)) != "float16":
            continue
        yield Problem(
            at=argument.node,
            message=(
                "Gemma-2 was trained in bfloat16 and its activations exceed float16's 65,504: "
                "the scores become inf or nan"
            ),
            fix="dtype=torch.bfloat16 (on a T4, which emulates it: slower, and right)",
            edits=_as_bfloat16(code, argument.value),
        )


def _as_bfloat16(code: Code, node: ast.expr) -> tuple[Edit, ...]:
    if isinstance(node, ast.Constant):
        text = '"bfloat16"'
    elif isinstance(node, ast.Attribute):
        text = f"{ast.unparse(node.value)}.bfloat16"
    else:
        return ()
    return (ReplaceExpression(at=code.position(node), code=text),)


def _on_turing(code: Code) -> Iterator[Problem]:
    """bfloat16 and FlashAttention-2 on a T4, where the notebook or a flag tells that it is one."""
    if "T4" not in code.gpu.upper():
        return
    for load in code.models.loads:
        argument = load.argument("attn_implementation")
        if argument is not None and code.value(argument.value) == "flash_attention_2":
            yield Problem(
                at=argument.node,
                message="FlashAttention-2 needs compute capability 8.0; a T4 has 7.5: it fails",
                fix='attn_implementation="sdpa"',
                edits=(
                    SetKeyword(at=code.position(argument.owner), name=argument.name, code='"sdpa"'),
                ),
                severity="error",
            )
        dtype = load.argument("dtype") or load.argument("torch_dtype")
        if dtype is None or dtype_of(code.value(dtype.value)) != "bfloat16":
            continue
        if not _GEMMA_2.search(load.checkpoint):
            yield _emulated(dtype.node)
    for call in code.calls:
        if code.key(call.func).rpartition(".")[2] in _SETTINGS:
            bf16 = code.arguments(call).named.get("bf16")
            if bf16 is not None and code.value(bf16.value) is True:
                yield _emulated(bf16.node)


def _emulated(node: ast.AST) -> Problem:
    return Problem(
        at=node,
        message=(
            "a T4 emulates bfloat16: slower, and attention takes the path that stores the whole "
            "sequence × sequence scores in float32"
        ),
        fix="float16 (fp16=True), unless the model is one that overflows in it, as Gemma-2 does",
    )


_SETTINGS: Final = frozenset({"TrainingArguments", "SFTConfig", "DPOConfig", "GRPOConfig"})

RULES: Final = (
    Rule(
        name="float32-load",
        severity="waste",
        why="A large language model in float32 takes twice the memory for the same answers.",
        check=_float32,
    ),
    Rule(
        name="trainer-loads-float32",
        severity="waste",
        why="TRL's trainers load a model that is given by name in float32.",
        check=_trl_float32,
    ),
    Rule(
        name="gemma-2-float16",
        severity="error",
        why="Gemma-2 overflows in float16.",
        check=_gemma_2,
    ),
    Rule(
        name="bfloat16-on-t4",
        severity="waste",
        why="GPUs before compute capability 8.0 have no bfloat16 units and no FlashAttention-2.",
        check=_on_turing,
    ),
)
