"""Rules on inference: graphs that nobody needs, scores that stay on the GPU, loops cut short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import ReplaceExpression, WrapStatement
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.rules.dtypes import trains

_OFF: Final = ("no_grad", "inference_mode", "set_grad_enabled", "requires_grad_", "_no_grad")
_NEEDS: Final = ("backward", "grad", "autograd", "requires_grad", "captum", "jacobian")
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)


def _graph(code: Code) -> Iterator[Problem]:
    """Forward passes in a loop, with gradients on, in a program that never needs them."""
    if trains(code) or _mentions_gradients(code):
        return
    seen: set[ast.AST] = set()
    for call in code.calls:
        if not isinstance(call.func, ast.Name) or code.models.of(call.func) is None:
            continue
        loops = [p for p in code.above(call) if isinstance(p, _LOOPS)]
        if not loops or loops[-1] in seen:
            continue
        if code.function(call) is not code.function(loops[-1]):
            continue
        seen.add(loops[-1])
        torch = code.scopes.bindings(code.tree, "torch")
        known = bool(torch) and torch[0].imported == "torch"
        yield Problem(
            at=call,
            message=(
                "the forward pass records a graph that nobody uses: every layer's activations are "
                "kept until its output is dropped"
            ),
            fix="with torch.no_grad(): around the loop",
            edits=(
                (WrapStatement(at=code.position(loops[-1]), header="torch.no_grad()"),)
                if known
                else ()
            ),
        )


def _mentions_gradients(code: Code) -> bool:
    """Whether the program says anything at all about gradients."""
    names = {node.attr for node in code.each(ast.Attribute)}
    names |= {node.id for node in code.each(ast.Name)}
    names |= {alias.name.rpartition(".")[2] for kind in (ast.Import, ast.ImportFrom)
              for node in code.each(kind) for alias in node.names}  # fmt: skip
    return bool(names & {*_OFF, *_NEEDS}) or "lightning" in code.text


def _scores(code: Code) -> Iterator[Problem]:
    """Logits appended to a list, batch by batch, where they are."""
    for call in code.methods.get("append", []):
        if len(call.args) != 1 or not any(isinstance(p, _LOOPS) for p in code.above(call)):
            continue
        found = _logits(code, call.args[0])
        if found is None or not _stays(code, call):
            continue
        yield Problem(
            at=call,
            message=(
                f"{ast.unparse(call.args[0])} of every batch stays on the GPU: "
                "batch × length × vocabulary values each"
            ),
            fix=f"{ast.unparse(found)}.cpu(), or keep only what is needed of it",
            edits=(
                ReplaceExpression(
                    at=code.position(found),
                    code=f"{ast.get_source_segment(code.text, found)}.detach().cpu()",
                ),
            ),
        )


def _logits(code: Code, node: ast.expr) -> ast.expr | None:
    """``outputs.logits`` of a language model on the GPU, as it is."""
    if not (isinstance(node, ast.Attribute) and node.attr == "logits"):
        return None
    origin = code.origin(node.value)
    if not (isinstance(origin, ast.Call) and isinstance(origin.func, ast.Name)):
        return None
    load = code.models.of(origin.func)
    if load is None or not load.is_causal or not code.models.on_gpu(load):
        return None
    return node


def _stays(code: Code, call: ast.Call) -> bool:
    """Whether the list is begun outside of the loop that fills it."""
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value
    if not isinstance(owner, ast.Name):
        return False
    loop = next(p for p in code.above(call) if isinstance(p, _LOOPS))
    bound = code.scopes.bindings(code.function(call), owner.id)
    return bool(bound) and not any(code.inside(b.node, loop) for b in bound)


def _cut_short(code: Code) -> Iterator[Problem]:
    """``return`` at the end of the loop's body instead of after the loop."""
    for loop in [*code.each(ast.For), *code.each(ast.AsyncFor)]:
        last = loop.body[-1]
        if not isinstance(last, ast.Return) or last.value is None or loop.orelse:
            continue
        gathered = _gathered(code, loop)
        if not gathered or _leaves_otherwise(loop):
            continue
        yield Problem(
            at=last,
            message=(
                f"return stands inside the for: it leaves with the first round, and "
                f"{', '.join(sorted(gathered))} hold{'s' * (len(gathered) == 1)} one batch"
            ),
            fix="indent return like the for",
        )


def _gathered(code: Code, loop: ast.For | ast.AsyncFor) -> set[str]:
    """Lists begun empty before a loop and appended to directly in its body."""
    found: set[str] = set()
    for statement in loop.body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        owner = call.func.value
        if call.func.attr not in ("append", "extend") or not isinstance(owner, ast.Name):
            continue
        bound = code.scopes.bindings(code.function(loop), owner.id)
        outside = [b for b in bound if not code.inside(b.node, loop)]
        if len(outside) == len(bound) == 1 and _is_empty(outside[0].value):
            found.add(owner.id)
    return found


def _is_empty(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "list" and not node.args
    return isinstance(node, ast.List) and not node.elts


def _leaves_otherwise(loop: ast.For | ast.AsyncFor) -> bool:
    """Whether ``continue`` makes the return one of several ways out of a round."""
    return any(isinstance(node, ast.Continue) for node in ast.walk(loop))


RULES: Final = (
    Rule(
        name="graph-in-inference",
        severity="waste",
        why="Without no_grad a forward pass keeps every layer's activations.",
        check=_graph,
    ),
    Rule(
        name="logits-kept-on-gpu",
        severity="leak",
        why="A list of logits grows by batch × length × vocabulary with every batch.",
        check=_scores,
    ),
    Rule(
        name="return-inside-loop",
        severity="error",
        why="A loop that gathers must not return in its first round.",
        check=_cut_short,
    ),
)
