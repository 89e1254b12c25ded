"""Rules on training: losses and logits that pile up, optimizers that page nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import Edit, ReplaceExpression
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import spreads
from willfit.doctor.lint.rules.checkpointing import settings

_PAGED_FROM: Final = 100_000
"""Elements from which bitsandbytes pages a parameter's states (optim/optimizer.py,
`get_state_buffer`)."""
_WIDEST: Final = 24_576
"""No published dense model under 100B is wider than this in any projection (MLPs included)."""
_ATTENTION: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value"})
_ATTENTION_WIDEST: Final = 8_192
_MOST: Final = 200
"""Uses of one loss that are looked at."""
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)


def _paged(code: Code) -> Iterator[Problem]:
    """A paged optimizer pages tensors from 100,000 elements on; small LoRA matrices have less."""
    adapters = [c for c in code.calls if code.key(c.func) == "peft.LoraConfig"]
    if len(adapters) != 1:
        return
    rank = code.keyword(adapters[0], "r")
    rank = 8 if rank is None else rank
    if not isinstance(rank, int) or code.keyword(adapters[0], "modules_to_save") is not None:
        return
    targets = code.keyword(adapters[0], "target_modules")
    only_attention = isinstance(targets, list) and all(
        isinstance(one, str) and one in _ATTENTION for one in targets
    )
    widest = _ATTENTION_WIDEST if only_attention else _WIDEST
    if rank * widest >= _PAGED_FROM:
        return
    for _, arguments, _ in settings(code):
        argument = arguments.named.get("optim")
        value = code.value(argument.value) if argument is not None else None
        if argument is None or not isinstance(value, str) or not value.startswith("paged_"):
            continue
        yield Problem(
            at=argument.node,
            message=(
                f"{value} pages nothing here: rank {rank} × {widest:,} is under the "
                f"{_PAGED_FROM:,} elements from which bitsandbytes pages a tensor's states, and "
                "the states of so few parameters are small"
            ),
            fix=f'optim="{_unpaged(value)}"; look for the memory in activations and logits',
            edits=_text(code, argument.value, _unpaged(value)),
        )


def _unpaged(name: str) -> str:
    plain = name.removeprefix("paged_")
    return {"adamw_32bit": "adamw_torch", "lion_32bit": "lion_32bit"}.get(plain, plain)


def _text(code: Code, node: ast.expr, text: str) -> tuple[Edit, ...]:
    if not isinstance(node, ast.Constant):
        return ()
    return (ReplaceExpression(at=code.position(node), code=f'"{text}"'),)


def _metrics(code: Code) -> Iterator[Problem]:
    """compute_metrics alone keeps the logits of the whole evaluation set."""
    for call in code.calls:
        key = code.key(call.func)
        if key not in ("transformers.Trainer", "trl.SFTTrainer"):
            continue
        arguments = code.arguments(call)
        metrics = arguments.named.get("compute_metrics")
        if arguments.open or metrics is None or "preprocess_logits_for_metrics" in arguments.named:
            continue
        if code.value(metrics.value) is None or not _has_tokens(code, arguments.named.get("model")):
            continue
        if not _plain_evaluation(code, arguments.named.get("args")):
            continue
        yield Problem(
            at=metrics.node,
            message=(
                "evaluation keeps the logits of every token until the end: samples × length × "
                "vocabulary × 4 B on the GPU"
            ),
            fix="preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1)",
        )


def _has_tokens(code: Code, model: Any) -> bool:
    load = code.models.of(model.value) if model is not None else None
    return load is not None and load.is_causal


def _plain_evaluation(code: Code, argument: Any) -> bool:
    """Whether the settings are in sight and ask for nothing that keeps logits away."""
    origin = code.origin(argument.value) if argument is not None else None
    if not isinstance(origin, ast.Call):
        return False
    arguments = code.arguments(origin)
    kept = {"prediction_loss_only", "eval_accumulation_steps", "batch_eval_metrics"}
    return not arguments.open and not kept & set(arguments.named)


def _losses(code: Code) -> Iterator[Problem]:
    """Losses kept with their graph, in the loop that trains."""
    for name, loop in _trained(code):
        uses = [n for n in code.by_name.get(name, []) if code.inside(n, loop)]
        for use in uses[:_MOST]:
            node = _keeper(code, use)
            kept = _kept(code, node, name, loop) if node is not None else None
            if node is None or kept is None:
                continue
            yield Problem(
                at=node,
                message=(
                    f"{ast.unparse(kept)} keeps the tensor {name} and its graph of every step"
                ),
                fix=f"{name}.item(), or {name}.detach() without waiting for the GPU",
                edits=_detached(code, node, name),
            )


def _keeper(code: Code, use: ast.Name) -> ast.AST | None:
    """The ``+=`` or ``append`` that takes a loss, or a part of it, as it is."""
    node = code.parents[use]
    if isinstance(node, ast.BinOp):
        node = code.parents[node]
    return node if isinstance(node, ast.AugAssign | ast.Call) else None


def _trained(code: Code) -> Iterator[tuple[str, ast.AST]]:
    """Losses on which ``backward`` is called, with the outermost loop around."""
    seen: set[tuple[str, ast.AST]] = set()
    for call in code.methods.get("backward", []):
        assert isinstance(call.func, ast.Attribute)
        loss = call.args[0] if call.args else call.func.value
        loops = [p for p in code.above(call) if isinstance(p, _LOOPS)]
        if isinstance(loss, ast.Name) and loops and (loss.id, loops[-1]) not in seen:
            seen.add((loss.id, loops[-1]))
            yield loss.id, loops[-1]


def _kept(code: Code, node: ast.AST, name: str, loop: ast.AST) -> ast.AST | None:
    """``total += loss`` and ``losses.append(loss)`` into what was there before the loop."""
    if code.function(node) is not code.function(loop):
        return None
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        if not isinstance(node.target, ast.Name) or not _is_plain(node.value, name):
            return None
        return node if _outlives(code, node.target.id, node, loop) else None
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
        and len(node.args) == 1
        and _is_plain(node.args[0], name)
    ):
        return node if _outlives(code, node.func.value.id, node, loop) else None
    return None


def _is_plain(node: ast.expr, name: str) -> bool:
    """Whether an expression is the loss itself, or a multiple of it."""
    if isinstance(node, ast.BinOp):
        return _is_plain(node.left, name) and isinstance(node.right, ast.Constant | ast.Name)
    return isinstance(node, ast.Name) and node.id == name


def _outlives(code: Code, name: str, node: ast.AST, loop: ast.AST) -> bool:
    """Whether a sum or list begins before the steps it gathers and is not what is trained on."""
    scope = code.function(loop)
    bound = [b for b in code.scopes.bindings(scope, name) if code.parents[b.node] is not node]
    steps = [p for p in code.above(node) if isinstance(p, _LOOPS)]
    starts_outside = bool(bound) and not any(code.inside(b.node, steps[0]) for b in bound)
    return starts_outside and not _is_trained_on(code, name) and not _is_emptied(code, name, loop)


def _is_trained_on(code: Code, name: str) -> bool:
    for call in code.methods.get("backward", []):
        assert isinstance(call.func, ast.Attribute)
        if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(call)):
            return True
    trained = {loss for loss, _ in _trained(code)}
    return any(
        isinstance(part, ast.Name) and part.id == name
        for assign in code.each(ast.Assign)
        if any(isinstance(t, ast.Name) and t.id in trained for t in assign.targets)
        for part in ast.walk(assign.value)
    )


def _is_emptied(code: Code, name: str, loop: ast.AST) -> bool:
    calls = [*code.methods.get("clear", []), *code.methods.get("pop", [])]
    return any(
        isinstance(c.func, ast.Attribute)
        and isinstance(c.func.value, ast.Name)
        and c.func.value.id == name
        and code.inside(c, loop)
        for c in calls
    )


def _detached(code: Code, node: ast.AST, name: str) -> tuple[Edit, ...]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and inner.id == name and isinstance(inner.ctx, ast.Load):
            return (ReplaceExpression(at=code.position(inner), code=f"{name}.detach()"),)
    return ()


def _map_in_ddp(code: Code) -> Iterator[Problem]:
    """device_map="auto" in a program that starts one process a GPU."""
    wraps = code.named_calls.get("torch.nn.parallel.DistributedDataParallel", [])
    starts = code.named_calls.get("torch.distributed.init_process_group", [])
    for load in code.models.loads:
        argument = load.argument("device_map")
        if argument is None or not spreads(code.value(argument.value)):
            continue
        wrapped = any(c.args and code.models.of(c.args[0]) is load for c in wraps)
        trainer = any("Trainer" in name for name in code.named_calls)
        if not wrapped and not (starts and trainer):
            continue
        yield Problem(
            at=argument.node,
            message=(
                f'device_map="{code.value(argument.value)}" spreads the model over every GPU in '
                "each process: data-parallel training refuses that, and N processes load N copies"
            ),
            fix='device_map={"": local_rank}',
        )


RULES: Final = (
    Rule(
        name="paged-optimizer-idle",
        severity="ignored",
        why="A paged optimizer helps where states are large; those of a small LoRA are not.",
        check=_paged,
    ),
    Rule(
        name="evaluation-keeps-logits",
        severity="waste",
        why="With compute_metrics the Trainer gathers all logits before it computes anything.",
        check=_metrics,
    ),
    Rule(
        name="losses-keep-graph",
        severity="leak",
        why="A loss that is stored as a tensor keeps the graph of its step.",
        check=_losses,
    ),
    Rule(
        name="device-map-in-ddp",
        severity="error",
        why="One process a GPU and one model over all GPUs exclude each other.",
        check=_map_in_ddp,
    ),
)
