"""Rules on activation checkpointing: where it is on, off or without effect, unlike it looks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Arguments, Code
from willfit.doctor.lint.edits import RemoveStatement, ReplaceExpression, SetKeyword
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.rules.dtypes import trains

_ENABLE: Final = ("gradient_checkpointing_enable", "activation_checkpointing_enable")
_NAMES: Final = ("gradient_checkpointing", "activation_checkpointing")
_NO: Final = frozenset({"false", "no", "off", "0", "none", ""})


def settings(code: Code) -> Iterator[tuple[ast.Call, Arguments, str]]:
    """Every ``TrainingArguments(…)`` or configuration of TRL."""
    for call in code.calls:
        key = code.key(call.func)
        name = key.rpartition(".")[2]
        if name.endswith("TrainingArguments") or (
            key.startswith("trl.") and name.endswith("Config")
        ):
            yield call, code.arguments(call), key


def _text_for_bool(code: Code) -> Iterator[Problem]:
    """``"false"`` is a text that is not empty: it switches on."""
    for _, arguments, key in settings(code):
        signature = code.signatures.of(key)
        if signature is None:
            continue
        for name, argument in arguments.named.items():
            value = code.value(argument.value)
            if name not in signature.parameters.booleans or not isinstance(value, str):
                continue
            if value.lower() not in _NO or not value:
                continue
            simple = isinstance(argument.value, ast.Constant)
            edit = ReplaceExpression(at=code.position(argument.value), code="False")
            yield Problem(
                at=argument.node,
                message=f'{name}="{value}" switches it on: a text that is not empty counts as True',
                fix=f"{name}=False",
                edits=(edit,) if simple else (),
            )


def _kwargs_alone(code: Code) -> Iterator[Problem]:
    """Settings of checkpointing where checkpointing is off."""
    if any(code.methods.get(name) for name in _ENABLE) or _prepares(code):
        return
    for call, arguments, key in settings(code):
        signature = code.signatures.of(key)
        if signature is None or arguments.open or signature.parameters.on & set(_NAMES):
            continue
        for name in _NAMES:
            argument = arguments.named.get(f"{name}_kwargs")
            if argument is None or any(n in arguments.named for n in _NAMES):
                continue
            if code.value(argument.value) is None:
                continue
            yield Problem(
                at=argument.node,
                message=f"{name}_kwargs does nothing while {name} is off, its default",
                fix=f"{name}=True",
                edits=(SetKeyword(at=code.position(call), name=name, code="True"),),
            )


def _prepares(code: Code) -> bool:
    return bool(code.named_calls.get("peft.prepare_model_for_kbit_training"))


def _with_cache(code: Code) -> Iterator[Problem]:
    """``use_cache=True`` next to checkpointing."""
    if not _is_on(code):
        return
    for load in code.models.loads:
        argument = load.argument("use_cache")
        if argument is not None and code.value(argument.value) is True and trains(code):
            yield Problem(
                at=argument.node,
                message=(
                    "use_cache=True and checkpointing exclude each other: transformers warns and "
                    "goes on without the cache"
                ),
                fix="use_cache=False",
                edits=(
                    SetKeyword(at=code.position(argument.owner), name="use_cache", code="False"),
                ),
            )
    yield from _cache_set(code)


def _cache_set(code: Code) -> Iterator[Problem]:
    """``model.config.use_cache = True`` before training."""
    start = [c for c in code.methods.get("train", []) if "Trainer" in _maker(code, c)]
    for node in code.each(ast.Assign):
        target = node.targets[0]
        if not (isinstance(target, ast.Attribute) and target.attr == "use_cache"):
            continue
        if code.value(node.value) is not True:
            continue
        after = [c for c in start if code.order[c] > code.order[node]]
        if len(after) == len(start) and start and _same_function(code, node, start):
            yield Problem(
                at=node,
                message="checkpointing has no cache: use_cache is switched on before training",
                fix="use_cache = False until training is done",
                edits=(ReplaceExpression(at=code.position(node.value), code="False"),),
            )


def _same_function(code: Code, node: ast.AST, others: list[ast.Call]) -> bool:
    return all(code.function(one) is code.function(node) for one in others)


def _maker(code: Code, call: ast.Call) -> str:
    """What made the object that a method is called on."""
    assert isinstance(call.func, ast.Attribute)
    origin = code.origin(call.func.value)
    return code.key(origin.func) if isinstance(origin, ast.Call) else ""


def _is_on(code: Code) -> bool:
    """Whether checkpointing is switched on in plain sight."""
    if any(code.methods.get(name) for name in _ENABLE):
        return True
    for _, arguments, _ in settings(code):
        for name in _NAMES:
            argument = arguments.named.get(name)
            if argument is not None and code.value(argument.value) is True:
                return True
    return False


def _in_inference(code: Code) -> Iterator[Problem]:
    """A program that only answers saves nothing by computing activations again."""
    answers = any(code.methods.get(name) for name in ("generate", "no_grad", "inference_mode"))
    if trains(code) or not answers:
        return
    for name in _ENABLE:
        for call in code.methods.get(name, []):
            assert isinstance(call.func, ast.Attribute)
            if not isinstance(code.function(call), ast.Module):
                continue
            if code.models.of(call.func.value) is None:
                continue
            statement = code.statement(call)
            alone = isinstance(statement, ast.Expr) and statement.value is call
            yield Problem(
                at=call,
                message=(
                    "checkpointing saves what backward needs: in inference there is nothing to "
                    "save, and it has no effect"
                ),
                fix="remove it; a smaller batch or a shorter sequence lowers inference's peak",
                edits=(RemoveStatement(at=code.position(statement)),) if alone else (),
            )


def _after_eval(code: Code) -> Iterator[Problem]:
    """Layers are checkpointed in train mode only."""
    enabled = [c for name in _ENABLE for c in code.methods.get(name, [])]
    for call in code.methods.get("eval", []):
        assert isinstance(call.func, ast.Attribute)
        load = code.models.of(call.func.value)
        scope = code.function(call)
        same = [c for c in enabled if code.function(c) is scope and _model(code, c) is load]
        if load is None or not same:
            continue
        order = code.order
        back = [
            c for c in code.methods.get("backward", [])
            if code.function(c) is scope and order[c] > order[call]
        ]  # fmt: skip
        trained = code.methods.get("train", [])
        if not back or trained or order[same[0]] > order[back[0]]:
            continue
        yield Problem(
            at=call,
            message=(
                "the model stays in eval mode while it is trained: its layers are not "
                "checkpointed then, and every activation is kept"
            ),
            fix="model.train() before the training loop",
        )


def _model(code: Code, call: ast.Call) -> object:
    assert isinstance(call.func, ast.Attribute)
    return code.models.of(call.func.value)


RULES: Final = (
    Rule(
        name="text-for-boolean",
        severity="error",
        why='A field that is given "false" is on.',
        check=_text_for_bool,
    ),
    Rule(
        name="checkpointing-settings-alone",
        severity="ignored",
        why="Settings of checkpointing are read only where checkpointing is on.",
        check=_kwargs_alone,
    ),
    Rule(
        name="checkpointing-with-cache",
        severity="ignored",
        why="The KV cache and checkpointing exclude each other.",
        check=_with_cache,
    ),
    Rule(
        name="checkpointing-in-inference",
        severity="ignored",
        why="Without backward there are no kept activations that checkpointing could save.",
        check=_in_inference,
    ),
    Rule(
        name="checkpointing-in-eval-mode",
        severity="ignored",
        why="Layers are checkpointed in train mode only.",
        check=_after_eval,
    ),
)
