"""Calls: a library's are noted by name, the script's own functions and classes are followed."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Final

from willfit.settings.code.expressions import keyword_values, value_of
from willfit.settings.code.library import library_call
from willfit.settings.code.on_models import model_call
from willfit.settings.code.reading import Load, Reading, models_in
from willfit.settings.code.statements import Returned, walk
from willfit.settings.code.values import (
    Bound,
    Class,
    Dotted,
    Function,
    Given,
    Made,
    Model,
    Record,
    Site,
    Unknown,
)

MAX_FOLLOWED: Final = 300
"""Calls of the script's own functions that are followed."""


def call(reading: Reading, node: ast.Call) -> Any:
    """What a call returns."""
    callee = value_of(reading, node.func)
    positional = [value_of(reading, a) for a in node.args if not isinstance(a, ast.Starred)]
    given, unread = keyword_values(reading, node)
    keywords = {name: item.value for name, item in given.items()}
    if isinstance(callee, Function):
        return follow(reading, callee, positional, keywords)
    if isinstance(callee, Class):
        return _instance(reading, callee, node, positional, given)
    own = _of_a_script(reading, callee, node, positional, keywords)
    if own is not None:
        return own
    site = Site(
        name=_name_of(callee, node),
        cell=reading.index,
        node=node,
        statement=reading.statement or ast.Expr(node),
        order=reading.steps,
        given=given,
        first=positional[0] if positional else None,
        unread=unread,
    )
    _place(reading, site, node, positional)
    if isinstance(callee, Model):
        return model_call(reading, callee, site)
    result = library_call(reading, callee, site, positional)
    _passed_functions(reading, site, positional, keywords)
    return result


def _name_of(callee: Any, node: ast.Call) -> str:
    if isinstance(callee, Dotted):
        return callee.name
    if isinstance(callee, Bound) and isinstance(callee.owner, Made):
        return f"{callee.owner.site.last}.{callee.name}"
    if isinstance(node.func, ast.Attribute):
        return f"?.{node.func.attr}"
    return node.func.id if isinstance(node.func, ast.Name) else "?"


_BY_POSITION: Final[Mapping[str, tuple[str, ...]]] = {
    "from_pretrained": ("model_name",),
    "pipeline": ("task", "model"),
    "Trainer": ("model", "args", "data_collator", "train_dataset", "eval_dataset"),
    "SFTTrainer": ("model", "args", "data_collator", "train_dataset", "eval_dataset"),
    "get_peft_model": ("model", "peft_config"),
    "prepare_model_for_kbit_training": ("model", "use_gradient_checkpointing"),
    "DataLoader": ("dataset", "batch_size"),
    "TrainingArguments": ("output_dir",),
    "clip_grad_norm_": ("parameters", "max_norm"),
    "autocast": ("device_type", "dtype"),
    "generate": ("inputs", "generation_config"),
    "LLM": ("model",),
    "Accelerator": (),
}
"""Keywords of arguments by position, by the last name of what is called."""


def _place(reading: Reading, site: Site, node: ast.Call, positional: Sequence[Any]) -> None:
    for name, value, written in zip(_BY_POSITION.get(site.last, ()), positional, node.args,
                                    strict=False):  # fmt: skip
        site.given.setdefault(name, reading.given(written, value))


def follow(
    reading: Reading, function: Function, positional: Sequence[Any], keywords: Mapping[str, Any]
) -> Any:
    """Read a function's body with its parameters bound; what it returns."""
    first_time = id(function.node) not in reading.followed
    reading.followed.add(id(function.node))
    if reading.depth > 20 or (len(reading.followed) > MAX_FOLLOWED and not first_time):
        return Unknown()
    if isinstance(function.node, ast.Lambda):
        return Unknown()
    kept, depth = (reading.names, reading.cell, reading.statement), reading.depth
    bound = _bound(reading, function, positional, keywords)
    reading.pay(len(function.names))
    reading.names = {**function.names, **bound}
    reading.enter(function.cell)
    reading.depth += 3
    try:
        walk(reading, function.node.body)
    except Returned as returned:
        return returned.value
    finally:
        (reading.names, reading.cell, reading.statement), reading.depth = kept, depth
    return None


def _bound(
    reading: Reading, function: Function, positional: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    arguments = function.node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    bound: dict[str, Any] = {name: Unknown(name) for name in names}
    bound.update({a.arg: Unknown(a.arg) for a in arguments.kwonlyargs})
    for name, default in zip(reversed(names), reversed(arguments.defaults), strict=False):
        bound[name] = value_of(reading, default)
    for argument, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if given is not None:
            bound[argument.arg] = value_of(reading, given)
    own = positional if function.owner is None else [function.owner, *positional]
    bound.update(zip(names, own, strict=False))
    bound.update({name: value for name, value in keywords.items() if name in bound})
    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            bound[rest.arg] = Unknown(rest.arg)
    return bound


def _instance(
    reading: Reading,
    cls: Class,
    node: ast.Call,
    positional: Sequence[Any],
    given: Mapping[str, Given],
) -> Any:
    """A config's fields with the given ones changed; a module with what its ``__init__`` sets."""
    library = next((b for b in cls.bases if b.endswith(_KNOWN_BASES)), None)
    if library is not None:
        site = Site(name=library, cell=reading.index, node=node, order=reading.steps,
                    statement=reading.statement or ast.Expr(node), given=dict(given))  # fmt: skip
        _place(reading, site, node, positional)
        return library_call(reading, Dotted(library), site, positional)
    reading.pay(len(cls.fields))
    record = cls.fields.copy()
    record.of = cls.name
    start = cls.fields.get("__init__")
    keywords = {name: item.value for name, item in given.items()}
    if isinstance(start, Function):
        follow(reading, Function(start.node, start.cell, start.names, record), positional, keywords)
        return record
    names = [name for name in cls.fields.written if not isinstance(cls.fields[name], Function)]
    record.update(zip(names, positional, strict=False))
    for name, item in given.items():
        record[name] = item.value
        record.written[name] = item.written
    return record


_KNOWN_BASES: Final = ("Trainer", "TrainingArguments", "SFTConfig")
"""Library classes that scripts derive from."""


def _of_a_script(
    reading: Reading,
    callee: Any,
    node: ast.Call,
    positional: Sequence[Any],
    keywords: Mapping[str, Any],
) -> Any:
    """Calls of the script's own objects: ``model(x)`` of its own module, ``cfg.get(…)``."""
    if isinstance(callee, Record) and callee.of:
        forward = callee.get("forward", callee.get("__call__"))
        if isinstance(forward, Function):
            own = Function(forward.node, forward.cell, forward.names, callee)
            return follow(reading, own, positional, keywords) or Unknown()
        return None
    if not isinstance(callee, Bound) or not isinstance(callee.owner, (Record, Class)):
        return None
    if isinstance(callee.owner, Record) and callee.name == "get" and positional:
        default = positional[1] if len(positional) > 1 else None
        return callee.owner.get(positional[0], default)
    if isinstance(callee.owner, Record) and callee.name in ("copy", "to", "cuda", "half", "eval"):
        for load in _models(callee.owner):
            reading.add(callee.name, node, of=Model(load))
        return callee.owner
    return Unknown()


def _models(owner: Record) -> list[Load]:
    return list(models_in(owner))


def _passed_functions(
    reading: Reading, site: Site, positional: Sequence[Any], keywords: Mapping[str, Any]
) -> None:
    """Functions handed to a library: with their arguments where a pool maps or submits them."""
    values = [*positional, *keywords.values()]
    for value in values:
        if not isinstance(value, Function):
            continue
        rest = positional[1:] if positional and positional[0] is value else []
        if site.last == "submit":
            follow(reading, value, rest, {})
        elif site.last in ("map", "starmap") and any(isinstance(r, (list, tuple)) for r in rest):
            rounds = max(len(r) for r in rest if isinstance(r, (list, tuple)))
            for index in range(min(rounds, 8)):
                follow(reading, value, [_element(r, index) for r in rest], {})
        elif site.last in ("Thread", "Process") and isinstance(keywords.get("args"), (list, tuple)):
            follow(reading, value, keywords["args"], {})
        elif id(value.node) not in reading.followed:
            follow(reading, value, [], {})


def _element(values: Any, index: int) -> Any:
    known = isinstance(values, (list, tuple)) and index < len(values)
    return values[index] if known else Unknown()
