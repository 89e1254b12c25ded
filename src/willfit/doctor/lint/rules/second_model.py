"""Rules on models that are still there while the next one is loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.cleanup import LOOPS, dropped, given_to, is_late_cleanup, uses
from willfit.doctor.lint.code import Code
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load

_MOST: Final = 40
"""Models of one program that are compared with each other."""


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
    return together and isinstance(
        parent, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.With
    )


def _is_held(code: Code, name: ast.Name, later: Load) -> bool:
    """Whether the earlier model is bound when the later one is loaded, and not used any more."""
    scope = code.function(name)
    start, end = code.order[name], code.order[code.statement(later.call)]
    family = _family(code, name, scope, end)
    for one in family:
        if dropped(code, one, scope, start, end) and one == name.id:
            return False
    after = code.last[code.statement(later.call)]
    rebound = _rebinds(code, name, later)
    if any(node for one in family - {name.id} for node in uses(code, one, scope, end)):
        return False
    if rebound:
        return not _mentions(later.call, family)
    return not any(
        node
        for node in uses(code, name.id, scope, end)
        if code.order[node] > after and not is_late_cleanup(code, node)
    ) and not _mentions(later.call, family)


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
        gives = any(isinstance(a, ast.Name) and a.id in family for a in given_to(assign.value))
        if makes and gives:
            family |= {t.id for t in assign.targets if isinstance(t, ast.Name)}
    return family


def _still_there(code: Code, name: ast.Name, earlier: Load, later: Load) -> Problem:
    again = _rebinds(code, name, later)
    return Problem(
        at=later.call,
        message=(
            f"{name.id} of {code.where(earlier.call)} is still there while this model is loaded: "
            "both are in memory"
            + (", because the name is bound anew only when loading is done" if again else "")
        ),
        fix=(
            f"before: del {name.id} (and what was made from it), gc.collect(), "
            "torch.cuda.empty_cache()"
        ),
    )


def _in_loop(code: Code, loads: list[Load]) -> Iterator[Problem]:
    """``for name in names: model = …from_pretrained(name)`` holds the last one meanwhile."""
    for load in loads:
        name = _target(code, load)
        if name is None:
            continue
        loop = next((p for p in code.above(load.call) if isinstance(p, LOOPS)), None)
        if loop is None or code.function(loop) is not code.function(name):
            continue
        if isinstance(loop, ast.While) or any(isinstance(n, ast.Break) for n in ast.walk(loop)):
            continue
        if any(
            isinstance(p, ast.If | ast.Try) and code.inside(p, loop) for p in code.above(load.call)
        ):
            continue
        if not _varies(load, loop) or _is_released(code, name, loop):
            continue
        yield Problem(
            at=load.call,
            message=(
                f"in each round after the first, {name.id} still holds the model of the round "
                "before while this one is loaded: both are in memory"
            ),
            fix=f"at the end of the loop: del {name.id}, gc.collect(), torch.cuda.empty_cache()",
        )


def _varies(load: Load, loop: ast.AST) -> bool:
    """Whether each round loads something."""
    if not isinstance(loop, ast.For | ast.AsyncFor):
        return False
    names = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
    return bool(load.call.args) and _mentions(load.call.args[0], names)


def _is_released(code: Code, name: ast.Name, loop: ast.AST) -> bool:
    """Whether the loop deletes the name, or gives it a plain value."""
    for node in code.by_name.get(name.id, []):
        if node is name or not code.inside(node, loop):
            continue
        statement = code.statement(node)
        plain = isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        if isinstance(node.ctx, ast.Del) or (isinstance(node.ctx, ast.Store) and plain):
            return True
    return False


RULES: Final = (
    Rule(
        name="second-model",
        severity="leak",
        why="A model that is needed no more takes its memory until its last name is gone.",
        check=_second,
    ),
)
