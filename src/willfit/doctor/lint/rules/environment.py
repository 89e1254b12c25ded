"""Rules on environment variables: set too late, misspelt, or with options that do not exist."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from willfit.doctor.lint.alloc_conf import conf_problems
from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import Edit, MoveStatement, ReplaceExpression
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import is_gpu
from willfit.doctor.lint.spelling import distance

KNOWN: Final = (
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO",
    "TOKENIZERS_PARALLELISM",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_OFFLINE",
)
"""Names that torch, CUDA and Hugging Face's libraries read (their documentation)."""
ALLOC: Final = frozenset(
    {"PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"}
)
_QUERIES: Final = frozenset(
    {"torch.cuda.is_available", "torch.cuda.get_device_name", "torch.cuda.get_device_properties",
     "torch.cuda.get_device_capability", "torch.cuda.is_bf16_supported", "torch.cuda.init",
     "torch.cuda.mem_get_info", "torch.cuda.current_device", "torch.cuda.set_device"}
)  # fmt: skip
"""Calls that start the CUDA driver, which reads CUDA_VISIBLE_DEVICES once (torch/cuda)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One place where a program sets a variable of its environment."""

    name: str
    value: ast.expr | None
    node: ast.AST
    """The assignment."""
    key: ast.expr
    """The name as it stands."""


def settings(code: Code) -> Iterator[Setting]:
    """``os.environ["NAME"] = value``, ``os.environ.setdefault``, ``os.putenv``."""
    for node in code.each(ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and code.dotted(target.value) == "os.environ":
            name = code.value(target.slice)
            if isinstance(name, str):
                yield Setting(name=name, value=node.value, node=node, key=target.slice)
    for called in ("os.environ.setdefault", "os.putenv"):
        for call in code.named_calls.get(called, []):
            name = code.value(call.args[0]) if len(call.args) == 2 else None
            if isinstance(name, str):
                yield Setting(name=name, value=call.args[1], node=call, key=call.args[0])


def _too_late(code: Code) -> Iterator[Problem]:
    """Variables that are read once, set after they were read."""
    for setting in settings(code):
        is_alloc = setting.name in ALLOC
        if not is_alloc and setting.name != "CUDA_VISIBLE_DEVICES":
            continue
        if not isinstance(code.function(setting.node), ast.Module):
            continue
        used = _first_use(code, allocates=is_alloc)
        if used is None or code.order[used] > code.order[setting.node]:
            continue
        if _follows_branch(code, used):
            continue
        yield Problem(
            at=setting.node,
            message=(
                f"{setting.name} is read once, when CUDA is "
                + ("first allocated from" if is_alloc else "started")
                + f"; {code.where(used)} has done that: setting it here has no effect"
            ),
            fix="set it before the first import of torch, and restart a notebook's kernel",
            edits=_earlier(code, setting),
        )


def _follows_branch(code: Code, used: ast.AST) -> bool:
    """Whether the first use stands where the program may not pass."""
    return any(
        isinstance(p, ast.If | ast.Try | ast.For | ast.While | ast.FunctionDef | ast.Lambda)
        for p in code.above(used)
    ) and not _is_tested(code, used)


def _is_tested(code: Code, used: ast.AST) -> bool:
    """``if torch.cuda.is_available():`` runs the test in any case."""
    child: ast.AST = used
    for parent in code.above(used):
        if isinstance(parent, ast.If) and child is not parent.test:
            return False
        if isinstance(parent, ast.Try | ast.For | ast.While | ast.FunctionDef | ast.Lambda):
            return False
        child = parent
    return True


def _first_use(code: Code, *, allocates: bool) -> ast.AST | None:
    """The first call at the top level that starts CUDA, or that takes memory."""
    found: list[ast.AST] = []
    for load in code.models.loads:
        placed = code.models.bits(load) in (4, 8) or "device_map" in load.arguments.named
        if placed and code.models.on_gpu(load):
            found.append(load.call)
    for name in ("to", "cuda"):
        for call in code.methods.get(name, []):
            if (name == "cuda" and not call.args) or _says_cuda(code, call):
                found.append(call)
    for call in code.calls:
        if not allocates and code.dotted(call.func) in _QUERIES:
            found.append(call)
    found = [one for one in found if isinstance(code.function(one), ast.Module)]
    return min(found, key=code.order.__getitem__, default=None)


def _says_cuda(code: Code, call: ast.Call) -> bool:
    value = code.value(call.args[0]) if call.args else None
    return isinstance(value, str) and value.startswith("cuda") and is_gpu(code, call)


def _earlier(code: Code, setting: Setting) -> tuple[Edit, ...]:
    """The line before the first import of anything but the standard library's ``os``."""
    body = code.tree.body
    statement = code.statement(setting.node)
    if statement not in body or not isinstance(setting.value, ast.Constant):
        return ()
    names = code.scopes.bindings(code.tree, "os")
    first = next((one for one in body if _imports_torch(one)), None)
    if first is None or not names or code.order[names[0].node] > code.order[first]:
        return ()
    return (MoveStatement(at=(code.position(statement),), before=code.position(first)),)


def _imports_torch(statement: ast.stmt) -> bool:
    roots = {"torch", "transformers", "accelerate", "peft", "trl", "vllm", "unsloth"}
    if isinstance(statement, ast.Import):
        return any(alias.name.partition(".")[0] in roots for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").partition(".")[0] in roots
    return False


def _misspelt(code: Code) -> Iterator[Problem]:
    for setting in settings(code):
        meant = meant_variable(setting.name)
        if meant is not None:
            edits: tuple[Edit, ...] = ()
            if isinstance(setting.key, ast.Constant):
                edits = (ReplaceExpression(at=code.position(setting.key), code=f'"{meant}"'),)
            yield Problem(
                at=setting.node,
                message=f"nobody reads {setting.name}",
                fix=meant,
                edits=edits,
            )


def meant_variable(name: str) -> str | None:
    """The variable that a name is a misspelling of; None for names that are right or one's own."""
    if name in KNOWN:
        return None
    close = [one for one in KNOWN if distance(name.upper(), one) <= 2]
    return close[0] if len(close) == 1 else None


def _options(code: Code) -> Iterator[Problem]:
    for setting in settings(code):
        if setting.name not in ALLOC or setting.value is None:
            continue
        value = code.value(setting.value)
        if not isinstance(value, str):
            continue
        for message, fix, severity in conf_problems(value):
            edits: tuple[Edit, ...] = ()
            if isinstance(setting.value, ast.Constant) and fix.startswith('"'):
                edits = (ReplaceExpression(at=code.position(setting.value), code=fix),)
            yield Problem(at=setting.node, message=message, fix=fix, edits=edits, severity=severity)


RULES: Final = (
    Rule(
        name="environment-too-late",
        severity="ignored",
        why="CUDA reads its variables once, when it starts.",
        check=_too_late,
    ),
    Rule(
        name="environment-misspelt",
        severity="ignored",
        why="A variable whose name is one letter off is read by nobody.",
        check=_misspelt,
    ),
    Rule(
        name="allocator-option",
        severity="error",
        why="The allocator refuses options that it does not know.",
        check=_options,
    ),
)
