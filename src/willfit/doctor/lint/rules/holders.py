"""Rules on what holds a model although its name is gone: futures, exceptions, caches."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.cleanup import EMPTY, dropped, given_to, is_late_cleanup, uses
from willfit.doctor.lint.code import Code
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.values import UNKNOWN

_POOLS: Final = ("ThreadPoolExecutor", "ProcessPoolExecutor")


def _pool_results(code: Code) -> Iterator[Problem]:
    """What ``executor.map`` gives back, kept and never looked at."""
    for call in [*code.methods.get("map", []), *code.methods.get("submit", [])]:
        if not _is_pool(code, call):
            continue
        statement = code.statement(call)
        if not (isinstance(statement, ast.Assign) and statement.value is call):
            continue
        target = statement.targets[0]
        if not isinstance(target, ast.Name):
            continue
        problem = _unread(code, call, target)
        if problem is not None:
            yield problem


def _is_pool(code: Code, call: ast.Call) -> bool:
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value
    if not isinstance(owner, ast.Name):
        return False
    for node in code.each(ast.withitem):
        named = node.optional_vars
        if isinstance(named, ast.Name) and named.id == owner.id:
            return _makes_pool(code, node.context_expr)
    return _makes_pool(code, code.origin(owner))


def _makes_pool(code: Code, node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and (code.dotted(node.func) or "").endswith(_POOLS)


def _unread(code: Code, call: ast.Call, target: ast.Name) -> Problem | None:
    scope = code.function(call)
    end = code.last[code.statement(call)]
    if [n for n in uses(code, target.id, scope, end) if not is_late_cleanup(code, n)]:
        return None
    given = _models_among(code, call)
    freed = [c for c in code.named_calls.get(EMPTY, []) if code.order[c] > end]
    freed = [c for c in freed if code.function(c) is scope]
    if not given or not freed:
        return None
    if dropped(code, target.id, scope, end, code.order[freed[-1]]):
        return None
    return Problem(
        at=call,
        message=(
            f"{target.id} keeps the futures of {', '.join(sorted(given))}: their results, and "
            "where one failed the exception with every variable of its frames; nobody has looked "
            "at them, so a failure stays unseen too"
        ),
        fix=(
            f"{target.id} = list({target.id}) inside the with, and del {target.id} before "
            "empty_cache()"
        ),
    )


def _models_among(code: Code, call: ast.Call) -> set[str]:
    names = [n for one in given_to(call) for n in ast.walk(one) if isinstance(n, ast.Name)]
    return {n.id for n in names if code.models.of(n) is not None}


def _kept_exception(code: Code) -> Iterator[Problem]:
    """An exception that outlives its handler keeps every variable of its frames."""
    for handler in code.each(ast.ExceptHandler):
        if handler.name is None or not _runs_model(code, code.parents[handler]):
            continue
        for node in handler.body:
            kept = _stores(node, handler.name)
            if kept is not None:
                yield Problem(
                    at=node,
                    message=(
                        f"{kept} keeps the exception, its traceback and with it every variable of "
                        "the frames that failed: the model and its activations"
                    ),
                    fix=f"keep str({handler.name}), or set {handler.name}.__traceback__ = None",
                )


def _runs_model(code: Code, parent: ast.AST) -> bool:
    """Whether a ``try`` calls a model of the program, loads one or trains."""
    if not isinstance(parent, ast.Try):
        return False
    for statement in parent.body:
        for node in ast.walk(statement):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and code.models.of(node.func) is not None:
                return True
            if isinstance(node.func, ast.Attribute):
                if node.func.attr == "generate" and code.models.of(node.func.value) is not None:
                    return True
                if any(load.call is node for load in code.models.loads):
                    return True
    return False


def _stores(node: ast.stmt, name: str) -> str | None:
    """The variable or list that a statement puts the bare exception into."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id == name:
        return ast.unparse(node.targets[0])
    call = node.value if isinstance(node, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
        return None
    if call.func.attr != "append" or len(call.args) != 1:
        return None
    inner = call.args[0]
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    kept = any(isinstance(part, ast.Name) and part.id == name for part in parts)
    return ast.unparse(call.func.value) if kept else None


def _retried_inside(code: Code) -> Iterator[Problem]:
    """Cleaning up and trying again inside ``except``, while the frames are still held."""
    for handler in code.each(ast.ExceptHandler):
        parent = code.parents[handler]
        if not isinstance(parent, ast.Try) or not _is_memory_error(handler):
            continue
        inside = list(_direct_calls(handler.body))
        empties = [c for c in inside if code.dotted(c.func) == EMPTY]
        tried = {ast.unparse(c.func) for c in _direct_calls(parent.body)} - {
            "print",
            "len",
            "range",
        }
        again = [
            c for c in inside
            if empties and ast.unparse(c.func) in tried and code.order[c] > code.order[empties[0]]
            and _works(code, c)
        ]  # fmt: skip
        if again:
            yield Problem(
                at=empties[0],
                message=(
                    "inside except the failed call's frames are still held by the traceback: "
                    "empty_cache() frees nothing of them, and the second try starts with less"
                ),
                fix="note the failure, leave the except block, then clean up and try again",
            )


def _works(code: Code, call: ast.Call) -> bool:
    """Whether a call is one of a model, or of a function of the program."""
    if isinstance(call.func, ast.Name):
        if code.models.of(call.func) is not None:
            return True
        return any(node.name == call.func.id for node in code.each(ast.FunctionDef))
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("generate", "train")


def _is_memory_error(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is not None
        and ast.unparse(kind).rpartition(".")[2] in ("OutOfMemoryError", "RuntimeError")
        for kind in kinds
    )


def _direct_calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                yield node


def _cached_loader(code: Code) -> Iterator[Problem]:
    """``lru_cache`` around a loader that is asked for more than one model."""
    for function in code.each(ast.FunctionDef):
        if not any(_is_cache(code, one) for one in function.decorator_list):
            continue
        if not any(code.inside(load.call, function) for load in code.models.loads):
            continue
        if any(isinstance(c.func, ast.Attribute) for c in code.methods.get("cache_clear", [])):
            continue
        asked = {
            ast.dump(c.args[0])
            for c in code.calls
            if isinstance(c.func, ast.Name) and c.func.id == function.name and c.args
            and code.value(c.args[0]) is not UNKNOWN
        }  # fmt: skip
        if len(asked) > 1:
            yield Problem(
                at=function,
                message=(
                    f"{function.name} caches what it loads: {len(asked)} models stay in memory, "
                    "and del of a name frees none of them"
                ),
                fix=f"{function.name}.cache_clear() before the next model, or no cache",
            )


def _is_cache(code: Code, node: ast.expr) -> bool:
    func = node.func if isinstance(node, ast.Call) else node
    return code.dotted(func) in ("functools.lru_cache", "functools.cache")


RULES: Final = (
    Rule(
        name="pool-results-kept",
        severity="leak",
        why="Futures keep results and exceptions, and exceptions keep frames.",
        check=_pool_results,
    ),
    Rule(
        name="exception-kept",
        severity="leak",
        why="An exception's traceback holds every variable of the frames that failed.",
        check=_kept_exception,
    ),
    Rule(
        name="retry-inside-except",
        severity="leak",
        why="While except runs, the failed frames are alive.",
        check=_retried_inside,
    ),
    Rule(
        name="cached-loader",
        severity="leak",
        why="A cache around a loader holds every model it ever gave.",
        check=_cached_loader,
    ),
)
