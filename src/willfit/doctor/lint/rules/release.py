"""Rules on memory that does not come back: order of the clean-up, and what still holds a model."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import MoveStatement
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load
from willfit.doctor.lint.values import UNKNOWN

_EMPTY: Final = "torch.cuda.empty_cache"
_CLEANUP: Final = frozenset(
    {_EMPTY, "gc.collect", "torch.cuda.synchronize", "torch.cuda.ipc_collect",
     "torch.cuda.set_device", "torch.cuda.reset_peak_memory_stats"}
)  # fmt: skip
_POOLS: Final = ("ThreadPoolExecutor", "ProcessPoolExecutor")
_LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
_LONGEST: Final = 40
"""Statements of one clean-up that are looked at."""
_MOST: Final = 40
"""Models of one program that are compared with each other."""
_ORDER: Final = "del every name, then gc.collect(), then torch.cuda.empty_cache()"


def _is_call(code: Code, statement: ast.stmt, *names: str) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and code.dotted(statement.value.func) in names
    )


def _is_cleanup(code: Code, statement: ast.stmt) -> bool:
    """Whether a statement belongs to a clean-up: ``del``, ``x = None``, ``gc.collect()``…"""
    if isinstance(statement, ast.Delete) or _is_call(code, statement, *_CLEANUP):
        return True
    if isinstance(statement, ast.Assign):
        return isinstance(statement.value, ast.Constant) and statement.value.value is None
    if isinstance(statement, ast.With):
        return all(_is_cleanup(code, one) for one in statement.body)
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and isinstance(statement.value.func, ast.Attribute)
        and statement.value.func.attr in ("cpu", "to")
    )


def _too_early(code: Code) -> Iterator[Problem]:
    """``empty_cache()`` and only then ``del``."""
    for call in code.named_calls.get(_EMPTY, []):
        statement = code.statement(call)
        if not (isinstance(statement, ast.Expr) and statement.value is call):
            continue
        block, at = code.block(statement)
        after = []
        for one in block[at + 1 : at + 1 + _LONGEST]:
            if not _is_cleanup(code, one):
                break
            after.append(one)
        dels = [one for one in after if isinstance(one, ast.Delete)]
        if not dels or any(_is_call(code, one, _EMPTY) for one in after):
            continue
        first = at
        while first > max(0, at - _LONGEST) and _is_cleanup(code, block[first - 1]):
            first -= 1
        yield Problem(
            at=call,
            message=(
                "empty_cache() before del gives nothing back: the tensors are still held, and "
                "what del frees afterwards stays with this process's allocator"
            ),
            fix=_ORDER,
            edits=(
                MoveStatement(
                    at=tuple(code.position(one) for one in dels),
                    before=code.position(block[_first_cache(code, block, first, at)]),
                ),
            ),
        )


def _first_cache(code: Code, block: list[ast.stmt], first: int, at: int) -> int:
    """The first statement of the clean-up that the names must go before."""
    for index in range(first, at + 1):
        if _is_call(code, block[index], *_CLEANUP):
            return index
    return at


def _uses(code: Code, name: str, scope: object, after: int) -> list[ast.Name]:
    return [
        node
        for node in code.by_name.get(name, [])
        if code.order[node] > after and isinstance(node.ctx, ast.Load)
        and _reaches(code, node, scope)
    ]  # fmt: skip


def _reaches(code: Code, node: ast.Name, scope: object) -> bool:
    """Whether a name inside a function may be that of an outer scope."""
    here = code.function(node)
    while True:
        if here is scope:
            return True
        if isinstance(here, ast.Module) or code.scopes.bindings(here, node.id):
            return False
        here = code.function(here)


def _dropped(code: Code, name: str, scope: object, start: int, end: int) -> bool:
    """Whether a name is deleted or bound anew between two places."""
    for node in code.by_name.get(name, []):
        if start < code.order[node] < end and code.function(node) is scope:
            if isinstance(node.ctx, ast.Del | ast.Store):
                return True
    return False


def _target(code: Code, load: Load) -> ast.Name | None:
    """The name that a load is given to."""
    statement = code.statement(load.call)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name) and code.models.of(statement.value) is load:
            return target
    return None


def _second(code: Code) -> Iterator[Problem]:
    """A model is loaded while another one is still there and needed no more."""
    loads = [x for x in code.models.loads if code.models.on_gpu(x)][:_MOST]
    for index, later in enumerate(loads):
        for earlier in reversed(loads[:index]):
            found = _target(code, earlier)
            if found is None or not _follows(code, earlier, later):
                continue
            if _is_held(code, found, later):
                yield _still_there(code, found, earlier, later)
                break
    yield from _in_loop(code, loads)


def _follows(code: Code, earlier: Load, later: Load) -> bool:
    """Whether whoever comes to the later load has come through the earlier one."""
    scope = code.function(earlier.call)
    if code.function(later.call) is not scope or code.inside(later.call, earlier.call):
        return False
    first = code.statement(earlier.call)
    block, _ = code.block(first)
    parent = code.parents[first]
    together = code.order[block[0]] <= code.order[later.call] <= code.last[block[-1]]
    return together and isinstance(parent, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.With)


def _is_held(code: Code, name: ast.Name, later: Load) -> bool:
    """Whether the earlier model is bound when the later one is loaded, and not used any more."""
    scope = code.function(name)
    start, end = code.order[name], code.order[later.call]
    family = _family(code, name, scope, end)
    for one in family:
        if _dropped(code, one, scope, start, end) and one == name.id:
            return False
    after = code.last[code.statement(later.call)]
    rebound = _rebinds(code, name, later)
    if any(node for one in family - {name.id} for node in _uses(code, one, scope, end)):
        return False
    if rebound:
        return not _mentions(later.call, family)
    return not any(
        node
        for node in _uses(code, name.id, scope, end)
        if code.order[node] > after and not _is_late_cleanup(code, node)
    ) and not _mentions(later.call, family)


def _is_late_cleanup(code: Code, node: ast.Name) -> bool:
    """``model_a.cpu()`` is a use that asks for nothing."""
    return _is_cleanup(code, code.statement(node))


def _rebinds(code: Code, name: ast.Name, later: Load) -> bool:
    found = _target(code, later)
    return found is not None and found.id == name.id


def _mentions(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def _family(code: Code, name: ast.Name, scope: object, end: int) -> set[str]:
    """The name, and the names of what was made from it: a Trainer, a pipeline, a wrapped model."""
    family = {name.id}
    for assign in code.each(ast.Assign):
        if not code.order[name] < code.order[assign] < end or code.function(assign) is not scope:
            continue
        makes = isinstance(assign.value, ast.Call) and _mentions(assign.value, family)
        gives = any(isinstance(a, ast.Name) and a.id in family for a in _given(assign.value))
        if makes and gives:
            family |= {t.id for t in assign.targets if isinstance(t, ast.Name)}
    return family


def _given(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        yield from node.args
        yield from (k.value for k in node.keywords)


def _still_there(code: Code, name: ast.Name, earlier: Load, later: Load) -> Problem:
    again = _rebinds(code, name, later)
    return Problem(
        at=later.call,
        message=(
            f"{name.id} of {code.where(earlier.call)} is still there while this model is loaded: "
            "both are in memory"
            + (", because the name is bound anew only when loading is done" if again else "")
        ),
        fix=f"before: del {name.id} (and what was made from it), gc.collect(), torch.cuda.empty_cache()",
    )


def _in_loop(code: Code, loads: list[Load]) -> Iterator[Problem]:
    """``for name in names: model = …from_pretrained(name)`` holds the last one meanwhile."""
    for load in loads:
        name = _target(code, load)
        if name is None:
            continue
        loop = next((p for p in code.above(load.call) if isinstance(p, _LOOPS)), None)
        if loop is None or code.function(loop) is not code.function(name):
            continue
        if isinstance(loop, ast.While) or any(isinstance(n, ast.Break) for n in ast.walk(loop)):
            continue
        if any(isinstance(p, ast.If | ast.Try) and code.inside(p, loop) for p in code.above(load.call)):
            continue
        if not _varies(code, load, loop) or _is_released(code, name, loop):
            continue
        yield Problem(
            at=load.call,
            message=(
                f"in each round after the first, {name.id} still holds the model of the round "
                "before while this one is loaded: both are in memory"
            ),
            fix=f"at the end of the loop: del {name.id}, gc.collect(), torch.cuda.empty_cache()",
        )


def _varies(code: Code, load: Load, loop: ast.AST) -> bool:
    """Whether each round loads something."""
    if not isinstance(loop, ast.For | ast.AsyncFor):
        return False
    names = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    return bool(load.call.args) and _mentions(load.call.args[0], names)


def _is_released(code: Code, name: ast.Name, loop: ast.AST) -> bool:
    for node in code.by_name.get(name.id, []):
        if code.inside(node, loop) and node is not name:
            if isinstance(node.ctx, ast.Del):
                return True
            statement = code.statement(node)
            if isinstance(node.ctx, ast.Store) and isinstance(statement, ast.Assign):
                if isinstance(statement.value, ast.Constant):
                    return True
    return False


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
    if [n for n in _uses(code, target.id, scope, end) if not _is_late_cleanup(code, n)]:
        return None
    given = _models_among(code, call)
    freed = [c for c in code.named_calls.get(_EMPTY, []) if code.order[c] > end]
    freed = [c for c in freed if code.function(c) is scope]
    if not given or not freed:
        return None
    if _dropped(code, target.id, scope, end, code.order[freed[-1]]):
        return None
    return Problem(
        at=call,
        message=(
            f"{target.id} keeps the futures of {', '.join(sorted(given))}: their results, and "
            "where one failed the exception with every variable of its frames; nobody has looked "
            "at them, so a failure stays unseen too"
        ),
        fix=f"{target.id} = list({target.id}) inside the with, and del {target.id} before empty_cache()",
    )


def _models_among(code: Code, call: ast.Call) -> set[str]:
    names = [n for one in _given(call) for n in ast.walk(one) if isinstance(n, ast.Name)]
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
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
        if call.func.attr == "append" and len(call.args) == 1:
            inner = call.args[0]
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if any(isinstance(p, ast.Name) and p.id == name for p in parts):
                return ast.unparse(call.func.value)
    return None


def _retried_inside(code: Code) -> Iterator[Problem]:
    """Cleaning up and trying again inside ``except``, while the frames are still held."""
    for handler in code.each(ast.ExceptHandler):
        parent = code.parents[handler]
        if not isinstance(parent, ast.Try) or not _is_memory_error(code, handler):
            continue
        inside = list(_direct_calls(handler.body))
        empties = [c for c in inside if code.dotted(c.func) == _EMPTY]
        tried = {ast.unparse(c.func) for c in _direct_calls(parent.body)} - {"print", "len", "range"}
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


def _is_memory_error(code: Code, handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is not None and ast.unparse(kind).rpartition(".")[2] in ("OutOfMemoryError", "RuntimeError")
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
                    f"{function.name} caches what it loads: {len(asked)} models stay in memory, and "
                    "del of a name frees none of them"
                ),
                fix=f"{function.name}.cache_clear() before the next model, or no cache",
            )


def _is_cache(code: Code, node: ast.expr) -> bool:
    func = node.func if isinstance(node, ast.Call) else node
    return code.dotted(func) in ("functools.lru_cache", "functools.cache")


RULES: Final = (
    Rule(
        name="empty-cache-before-del",
        severity="leak",
        why="empty_cache() gives back blocks that nobody holds: names must go first.",
        check=_too_early,
    ),
    Rule(
        name="second-model",
        severity="leak",
        why="A model that is needed no more takes its memory until its last name is gone.",
        check=_second,
    ),
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
