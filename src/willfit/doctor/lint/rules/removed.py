"""Rules on functions that are gone or replaced: BetterTransformer, ``sdp_kernel``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import AddImport, Edit, RemoveStatement, ReplaceExpression
from willfit.doctor.lint.finding import Problem, Rule

_METHODS: Final = ("to_bettertransformer", "reverse_bettertransformer")
_TRANSFORM: Final = "optimum.bettertransformer.BetterTransformer"
_KERNEL: Final = "torch.backends.cuda.sdp_kernel"
_BACKENDS: Final = {
    "enable_flash": "FLASH_ATTENTION",
    "enable_mem_efficient": "EFFICIENT_ATTENTION",
    "enable_math": "MATH",
    "enable_cudnn": "CUDNN_ATTENTION",
}


def _better_transformer(code: Code) -> Iterator[Problem]:
    """Gone from transformers 5 and optimum 2: SDPA is what a model takes by itself."""
    if not code.signatures.stack.at_least("transformers", "5"):
        return
    if code.imports("willfit"):
        return  # what willfit.load gives takes the name and maps it to SDPA
    for name in _METHODS:
        for call in code.methods.get(name, []):
            assert isinstance(call.func, ast.Attribute)
            yield Problem(
                at=call,
                message=f"{name} is gone from transformers 5: AttributeError; SDPA is the default",
                fix='remove the call; attn_implementation="sdpa" says it aloud',
                edits=_without(code, call, call.func.value),
            )
    for call in code.calls:
        if (code.dotted(call.func) or "").startswith(f"{_TRANSFORM}.") and call.args:
            yield Problem(
                at=call,
                message="optimum 2 has no bettertransformer: ImportError; SDPA is the default now",
                fix="remove the call and the import",
                edits=(*_without(code, call, call.args[0]), *_imports(code)),
            )


def _without(code: Code, call: ast.Call, model: ast.expr) -> tuple[Edit, ...]:
    """The model itself where the call stood; nothing at all where that leaves ``x = x``."""
    statement = code.statement(call)
    text = ast.get_source_segment(code.text, model)
    if text is None or not isinstance(model, ast.Name):
        return ()
    if isinstance(statement, ast.Expr) and statement.value is call:
        return (RemoveStatement(at=code.position(statement)),)
    if (
        isinstance(statement, ast.Assign)
        and statement.value is call
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == text
    ):
        return (RemoveStatement(at=code.position(statement)),)
    return (ReplaceExpression(at=code.position(call), code=text),)


def _imports(code: Code) -> Iterator[Edit]:
    for node in code.each(ast.ImportFrom):
        if node.module == "optimum.bettertransformer" and len(node.names) == 1:
            yield RemoveStatement(at=code.position(node))


def _sdp_kernel(code: Code) -> Iterator[Problem]:
    if not code.signatures.stack.at_least("torch", "2.3"):
        return  # its successor came with 2.3
    for call in code.named_calls.get(_KERNEL, []):
        flags = _flags(code, call)
        only_flash = flags == ["FLASH_ATTENTION"]
        yield Problem(
            at=call,
            message=(
                "torch.backends.cuda.sdp_kernel is replaced by torch.nn.attention.sdpa_kernel and "
                "will be removed"
                + (
                    '; with flash alone, float32, a mask or a T4 ends in "No available kernel"'
                    if only_flash
                    else ""
                )
            ),
            fix="torch.nn.attention.sdpa_kernel([SDPBackend.…]), or leave the choice to torch",
            edits=_new_kernel(code, call, flags),
            severity="error" if only_flash else None,
        )


def _flags(code: Code, call: ast.Call) -> list[str] | None:
    """Backends that stay on; None where that cannot be told."""
    arguments = code.arguments(call)
    if call.args or arguments.open:
        return None
    values = dict.fromkeys(_BACKENDS, True)
    for name, argument in arguments.named.items():
        value = code.value(argument.value)
        if name not in values or not isinstance(value, bool):
            return None
        values[name] = value
    on = [_BACKENDS[name] for name, value in values.items() if value]
    # cuDNN joined later and is on by default: without it "flash only" was meant
    if "enable_cudnn" not in arguments.named and len(arguments.named) == 3:
        on.remove("CUDNN_ATTENTION")
    return on


def _new_kernel(code: Code, call: ast.Call, flags: list[str] | None) -> tuple[Edit, ...]:
    if not flags:
        return ()
    if flags == ["FLASH_ATTENTION"]:
        flags = ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]
    text = f"sdpa_kernel([{', '.join(f'SDPBackend.{flag}' for flag in flags)}])"
    return (
        ReplaceExpression(at=code.position(call), code=text),
        AddImport(module="torch.nn.attention", what="SDPBackend"),
        AddImport(module="torch.nn.attention", what="sdpa_kernel"),
    )


RULES: Final = (
    Rule(
        name="better-transformer",
        severity="error",
        why="BetterTransformer was dissolved into the library's own SDPA attention.",
        check=_better_transformer,
    ),
    Rule(
        name="sdp-kernel",
        severity="ignored",
        why="Forcing one attention kernel fails where that kernel cannot be used.",
        check=_sdp_kernel,
    ),
)
