"""Rules on devices: models moved after they were placed, inputs left behind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Code
from willfit.doctor.lint.edits import Edit, RemoveStatement, ReplaceExpression
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load, is_gpu, spreads
from willfit.doctor.lint.values import dtype_of

_CASTS: Final = ("half", "float", "bfloat16", "double")
_READERS: Final = ("Tokenizer", "Processor")


def _moves(code: Code, *names: str) -> Iterator[tuple[ast.Call, Load]]:
    """Calls such as ``model.cuda()`` on a model of the program."""
    for name in names:
        for call in code.methods.get(name, []):
            assert isinstance(call.func, ast.Attribute)
            load = code.models.of(call.func.value)
            if load is not None:
                yield call, load


def _cast(code: Code) -> Iterator[Problem]:
    """Bitsandbytes models keep the format that they were loaded in."""
    for call, load in _moves(code, "to", *_CASTS):
        bits = code.models.bits(load)
        if bits not in (4, 8) or _is_unpacked(code, call):
            continue
        assert isinstance(call.func, ast.Attribute)
        method = call.func.attr
        values = [code.value(v) for v in (*call.args, *(k.value for k in call.keywords))]
        casts = method in ("half", "float") or (
            method == "to" and any(dtype_of(v) and not isinstance(v, str) for v in values)
        )
        if not casts:
            continue
        yield Problem(
            at=call,
            message=f".{method}({_inside(call)}) on a {bits}-bit model ends in ValueError",
            fix="load it with dtype=… and leave it as it is",
            edits=_without(code, call) if method != "to" or len(values) == 1 else (),
        )


def _is_unpacked(code: Code, call: ast.Call) -> bool:
    """Whether the model was merged or unwrapped on the way, which may have unpacked it."""
    found = [*code.methods.get("merge_and_unload", []), *code.methods.get("dequantize", [])]
    return any(code.order[one] < code.order[call] for one in found[:8])


def _inside(call: ast.Call) -> str:
    return ", ".join(ast.unparse(one) for one in (*call.args, *call.keywords))


def _moved_quantised(code: Code) -> Iterator[Problem]:
    """Packed models on another device: often refused, and never needed to free memory."""
    old = not code.signatures.stack.at_least("transformers", "5")
    for call, load in _moves(code, "to", "cpu", "cuda"):
        bits = code.models.bits(load)
        assert isinstance(call.func, ast.Attribute)
        method = call.func.attr
        if bits not in (4, 8) or _is_unpacked(code, call):
            continue
        value = code.value(call.args[0]) if call.args else None
        to_cpu = method == "cpu" or value == "cpu"
        refused = bits == 8 and (method == "cuda" or (old and method == "to"))
        if refused and (method == "cuda" or to_cpu or is_gpu(code, call)):
            yield Problem(
                at=call,
                message=f".{method}({_inside(call)}) on an 8-bit model ends in ValueError",
                fix="remove it: the model is on its device since it was loaded",
                edits=_without(code, call),
            )
        elif to_cpu and _deleted_next(code, call):
            yield Problem(
                at=call,
                message=(
                    "copying a quantised model to host memory before it is deleted frees nothing "
                    "that del does not free, and takes the host's memory"
                ),
                fix="remove it: del, gc.collect(), torch.cuda.empty_cache(), in this order",
                edits=_without(code, call),
                severity="waste",
            )


def _deleted_next(code: Code, call: ast.Call) -> bool:
    statement = code.statement(call)
    block, at = code.block(statement)
    return any(isinstance(one, ast.Delete) for one in block[at + 1 : at + 3])


def _without(code: Code, call: ast.Call) -> tuple[Edit, ...]:
    """The program without a call that gives back what it is called on."""
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value
    statement = code.statement(call)
    if isinstance(statement, ast.Expr) and statement.value is call and isinstance(owner, ast.Name):
        return (RemoveStatement(at=code.position(statement)),)
    if isinstance(statement, ast.Assign) and statement.value is call:
        given = [ast.unparse(target) for target in statement.targets]
        if given == [ast.unparse(owner)]:
            return (RemoveStatement(at=code.position(statement)),)
    text = ast.get_source_segment(code.text, owner)
    if text is None:
        return ()
    return (ReplaceExpression(at=code.position(call), code=text),)


def _after_map(code: Code) -> Iterator[Problem]:
    """``.cuda()`` undoes what ``device_map="auto"`` worked out."""
    for call, load in _moves(code, "to", "cuda"):
        place = code.models.device_map(load)
        if not spreads(place) or code.models.bits(load) in (4, 8):
            continue
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr == "to" and not is_gpu(code, call):
            continue
        if _is_unpacked(code, call):
            continue
        yield Problem(
            at=call,
            message=(
                f'.{call.func.attr}({_inside(call)}) after device_map="{place}": with one GPU it '
                "does nothing, with several it moves every layer to one of them"
            ),
            fix="remove it",
            edits=_without(code, call) if len(call.args) <= 1 and not call.keywords else (),
        )


def _left_behind(code: Code) -> Iterator[Problem]:
    """Inputs on the CPU for a model on the GPU."""
    for call, load in _uses(code):
        if not code.models.on_gpu(load):
            continue
        for name in _inputs(call):
            source = _tokens(code, name)
            if source is None or _is_moved(code, name, source):
                continue
            yield Problem(
                at=call,
                message=(
                    f"{name.id} stays on the CPU and the model is on the GPU: "
                    '"Expected all tensors to be on the same device", or a copy in every call'
                ),
                fix=f"{name.id} = {name.id}.to(model.device)",
                edits=_moved(code, source, call),
            )
            break


def _uses(code: Code) -> Iterator[tuple[ast.Call, Load]]:
    """``model(…)`` and ``model.generate(…)``."""
    for call in code.calls:
        node: ast.expr | None = call.func if isinstance(call.func, ast.Name) else None
        if isinstance(call.func, ast.Attribute) and call.func.attr == "generate":
            node = call.func.value
        load = code.models.of(node) if node is not None else None
        if load is not None and load.call is not call:
            yield call, load


def _inputs(call: ast.Call) -> Iterator[ast.Name]:
    """Names whose tensors a call takes: ``**inputs``, ``inputs.input_ids``, ``inputs["…"]``."""
    for node in (*call.args, *(k.value for k in call.keywords)):
        inner = node
        while isinstance(inner, ast.Attribute | ast.Subscript):
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield inner


def _tokens(code: Code, name: ast.Name) -> ast.Call | None:
    """The call of a tokenizer that gave a name its tensors, as they are still."""
    binding = code.scopes.lookup(name)
    if binding is None or binding.part or not isinstance(binding.value, ast.Call):
        return None
    call = binding.value
    if code.keyword(call, "return_tensors") != "pt":
        return None
    reader = code.origin(call.func)
    if not (isinstance(reader, ast.Call) and isinstance(reader.func, ast.Attribute)):
        return None
    owner = code.key(reader.func.value)
    known = reader.func.attr == "from_pretrained" and any(word in owner for word in _READERS)
    return call if known else None


def _is_moved(code: Code, name: ast.Name, source: ast.Call) -> bool:
    """Whether something between may move what a name holds."""
    for node in code.by_name.get(name.id, []):
        if not code.order[source] < code.order[node] < code.order[name]:
            continue
        above = code.parents[node]
        if isinstance(above, ast.Attribute) and above.attr in ("to", "cuda", "update"):
            return True
        if isinstance(above, ast.Call | ast.Subscript) and not isinstance(above, ast.Subscript):
            return True
        if isinstance(above, ast.Subscript) and isinstance(above.ctx, ast.Store):
            return True
    return any(code.named_calls.get("torch.set_default_device") or [])


def _moved(code: Code, source: ast.Call, use: ast.Call) -> tuple[Edit, ...]:
    """``.to(model.device)`` behind the tokenizer's call, where the model has a name by then."""
    model = use.func.value if isinstance(use.func, ast.Attribute) else use.func
    text = ast.get_source_segment(code.text, source)
    if not isinstance(model, ast.Name) or text is None:
        return ()
    bound = code.scopes.lookup(model)
    if bound is None or code.order[bound.node] > code.order[source]:
        return ()
    return (ReplaceExpression(at=code.position(source), code=f"{text}.to({model.id}.device)"),)


def _in_pipeline(code: Code) -> Iterator[Problem]:
    """LLM.int8 through ``pipeline``."""
    for call in code.calls:
        if code.key(call.func) != "transformers.pipeline":
            continue
        arguments = code.arguments(call)
        model = arguments.named.get("model")
        load = code.models.of(model.value) if model is not None else None
        if load is None or code.models.bits(load) != 8:
            continue
        yield Problem(
            at=call,
            message=(
                "an 8-bit model through pipeline(): its pre- and post-processing is not made for "
                "mixed int8, it is slower, and some sampling strategies are not supported"
            ),
            fix="tokenise, call model.generate(…) and decode",
        )


RULES: Final = (
    Rule(
        name="quantised-cast",
        severity="error",
        why="A packed model cannot be cast to another number format.",
        check=_cast,
    ),
    Rule(
        name="quantised-move",
        severity="error",
        why="An 8-bit model stays where it was loaded.",
        check=_moved_quantised,
    ),
    Rule(
        name="move-after-device-map",
        severity="waste",
        why="A model that device_map placed is where it belongs.",
        check=_after_map,
    ),
    Rule(
        name="inputs-left-on-cpu",
        severity="error",
        why="Inputs belong on the device of the model's first layer.",
        check=_left_behind,
    ),
    Rule(
        name="int8-through-pipeline",
        severity="waste",
        why="LLM.int8 is meant to be used with generate().",
        check=_in_pipeline,
    ),
)
