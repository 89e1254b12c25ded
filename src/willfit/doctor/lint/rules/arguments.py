"""Rules on keywords that a class or function does not take at the versions that are judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from willfit.doctor.lint.code import Argument, Code
from willfit.doctor.lint.edits import AddImport, DropKeyword, Edit, RenameKeyword, SetKeyword
from willfit.doctor.lint.finding import Problem, Rule
from willfit.doctor.lint.models import Load
from willfit.doctor.lint.renames import ADVICE, RENAMES
from willfit.doctor.lint.rules.bitsandbytes import CONFIG
from willfit.doctor.lint.signatures import Signature
from willfit.doctor.lint.spelling import near

LOADER: Final = "transformers.PreTrainedModel.from_pretrained"
_GENERATE: Final = "transformers.GenerationMixin.generate"
_SETTINGS: Final = "transformers.GenerationConfig"
_APART: Final = frozenset({CONFIG, LOADER, _GENERATE, _SETTINGS, "transformers.pipeline"})
"""Callables that hand unknown keywords on, or drop them: each has a rule of its own."""
_REMOVALS: Final = frozenset(
    {"overwrite_output_dir", "half_precision_backend", "fp16_backend", "fp16_opt_level",
     "save_safetensors", "use_logits_to_keep", "swap_space", "max_seq_len_to_capture",
     "calculate_kv_scales"}
)  # fmt: skip
"""Arguments that may simply go: what they asked for is so anyway, or is gone."""
_NEVER: Final = frozenset({"device"})
"""Arguments of layers and of ``forward`` that no model and no configuration takes."""
_HARMLESS: Final = frozenset({"low_cpu_mem_usage", "_commit_hash", "from_tf", "from_flax"})
"""Ignored by the loader, and what they ask for is what happens."""


def _refused(code: Code) -> Iterator[Problem]:
    """Keywords that end in TypeError."""
    libraries = {"transformers", "trl", "peft", "accelerate"}
    if code.imports("unsloth"):
        libraries -= {"trl", "transformers"}  # it puts trainers in place that take older names too
    for call in code.calls:
        key = code.key(call.func)
        if key in _APART or key.partition(".")[0] not in libraries:
            continue
        signature = code.signatures.of(key)
        if signature is None or signature.parameters.unknown != "raises":
            continue
        for argument in code.arguments(call).named.values():
            if signature.refuses(argument.name):
                yield _problem(code, call, argument, signature)


def _engine(code: Code) -> Iterator[Problem]:
    """What ``LLM`` does not name goes to ``EngineArgs``, which refuses what it does not know."""
    llm, engine = code.signatures.of("vllm.LLM"), code.signatures.of("vllm.EngineArgs")
    assert llm is not None
    assert engine is not None
    for call in code.calls:
        if code.key(call.func) not in ("vllm.LLM", "vllm.EngineArgs", "vllm.AsyncEngineArgs"):
            continue
        for argument in code.arguments(call).named.values():
            if argument.name not in llm.parameters.names and engine.refuses(argument.name):
                yield _problem(code, call, argument, engine)


def _problem(
    code: Code, call: ast.Call, argument: Argument, signature: Signature, name: str = ""
) -> Problem:
    called = name or signature.key.rpartition(".")[2]
    new = _new_name(argument.name, signature)
    taken = new is not None and new in code.arguments(call).named
    advice = f"{new}=…" if new else ADVICE.get(argument.name, f"remove {argument.name}")
    was = "takes no more" if argument.name in signature.ever else "does not take"
    return Problem(
        at=argument.node,
        message=f"{called} {was} {argument.name} ({signature.version}): TypeError",
        fix=f"remove {argument.name}: {new} is given" if taken else advice,
        edits=_edits(code, argument, new, taken=taken),
    )


def _new_name(name: str, signature: Signature) -> str | None:
    new = RENAMES.get(name)
    if new is not None and new in signature.parameters.names:
        return new
    return signature.meant(name) if name not in signature.ever else None


def _edits(code: Code, argument: Argument, new: str | None, *, taken: bool) -> tuple[Edit, ...]:
    at = code.position(argument.owner)
    if argument.name == "group_by_length":
        if code.value(argument.value) is True:
            return (
                DropKeyword(at=at, name=argument.name),
                SetKeyword(at=at, name="train_sampling_strategy", code='"group_by_length"'),
            )
        return (DropKeyword(at=at, name=argument.name),)
    if new is not None and not taken:
        return (RenameKeyword(at=at, name=argument.name, to=new),)
    if taken or argument.name in _REMOVALS:
        return (DropKeyword(at=at, name=argument.name),)
    return ()


def _loads(code: Code) -> Iterator[tuple[Load, Signature]]:
    signature = code.signatures.of(LOADER)
    assert signature is not None
    for load in code.models.loads:
        if load.owner.startswith("transformers."):
            yield load, signature


def _is_strange(code: Code, load: Load, signature: Signature, name: str) -> bool:
    """Whether neither the loader nor any configuration or model of transformers takes a name."""
    if not signature.refuses(name):
        return False
    if name in code.signatures.open_names() and name not in _NEVER:
        return False
    return name in signature.ever or not _is_foreign(code, load)


def _is_foreign(code: Code, load: Load) -> bool:
    """Whether the model's code may be somebody else's, which may take anything."""
    trust = load.argument("trust_remote_code")
    return trust is not None and code.value(trust.value) is not False


def _refused_by_loader(code: Code) -> Iterator[Problem]:
    """What from_pretrained does not take goes to the model's ``__init__``, which refuses it."""
    for load, signature in _loads(code):
        if "config" in load.arguments.named:
            continue
        for argument in load.arguments.named.values():
            if not _is_strange(code, load, signature, argument.name):
                continue
            if not code.signatures.stack.at_least("transformers", "5") and not signature.certain:
                continue
            problem = _problem(code, load.call, argument, signature)
            yield Problem(
                at=problem.at,
                message=f"{problem.message}: it is handed on to the model, which refuses it",
                fix=_once(load, argument) or problem.fix,
                edits=problem.edits or _quantised(code, load, argument),
            )


def _once(load: Load, argument: Argument) -> str:
    """What to do where a configuration is given beside it, which may say something else."""
    beside = "quantization_config" in load.arguments.named
    if beside and argument.name in ("load_in_8bit", "load_in_4bit"):
        return f"remove {argument.name}: quantization_config is given and decides"
    return ""


def _quantised(code: Code, load: Load, argument: Argument) -> tuple[Edit, ...]:
    """``load_in_8bit=True`` as a configuration; ``use_flash_attention_2=True`` as a name."""
    at = code.position(argument.owner)
    value = code.value(argument.value)
    if argument.name == "use_flash_attention_2" and value is True:
        return (
            DropKeyword(at=at, name=argument.name),
            SetKeyword(at=at, name="attn_implementation", code='"flash_attention_2"'),
        )
    if argument.name not in ("load_in_8bit", "load_in_4bit"):
        return ()
    if value is False:
        return (DropKeyword(at=at, name=argument.name),)
    if value is not True or "quantization_config" in load.arguments.named:
        return ()
    others = {"load_in_8bit", "load_in_4bit"} & set(load.arguments.named)
    if len(others) > 1 or any(n.startswith(("bnb_", "llm_int8")) for n in load.arguments.named):
        return ()
    extra = ""
    if argument.name == "load_in_4bit":
        kind = "float16" if "T4" in code.gpu.upper() else "bfloat16"
        extra = f', bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="{kind}"'
    text = f"BitsAndBytesConfig({argument.name}=True{extra})"
    return (
        DropKeyword(at=at, name=argument.name),
        SetKeyword(at=at, name="quantization_config", code=text),
        AddImport(module="transformers", what="BitsAndBytesConfig"),
    )


def _ignored_by_loader(code: Code) -> Iterator[Problem]:
    """What from_pretrained takes and throws away."""
    for load, signature in _loads(code):
        for name, argument in load.arguments.named.items():
            if name not in signature.parameters.unused or name in _HARMLESS:
                continue
            yield Problem(
                at=argument.node,
                message=f"from_pretrained ignores {name} ({signature.version})",
                fix=f"remove {name}",
                edits=(DropKeyword(at=code.position(argument.owner), name=name),),
            )


def _misspelt_generation(code: Code) -> Iterator[Problem]:
    """GenerationConfig keeps what it does not know; generate refuses it."""
    settings, generate = code.signatures.of(_SETTINGS), code.signatures.of(_GENERATE)
    assert settings is not None
    assert generate is not None
    known = settings.parameters.names | generate.parameters.names
    for call in code.calls:
        is_settings = code.key(call.func) == _SETTINGS
        is_generate = (
            isinstance(call.func, ast.Attribute)
            and call.func.attr == "generate"
            and code.models.of(call.func.value) is not None
        )
        if not (is_settings or is_generate):
            continue
        for name, argument in code.arguments(call).named.items():
            meant = near(name, settings.parameters.names)
            if name in known or name in code.signatures.open_names() or meant is None:
                continue
            if name in settings.ever or name in generate.ever:
                continue
            yield Problem(
                at=argument.node,
                message=(
                    f"GenerationConfig has no {name}: it is kept and read by nobody"
                    if is_settings
                    else f"generate does not take {name}: ValueError"
                ),
                fix=f"{meant}=…",
                edits=(RenameKeyword(at=code.position(argument.owner), name=name, to=meant),),
                severity="ignored" if is_settings else None,
            )


def _renamed_dtype(code: Code) -> Iterator[Problem]:
    """``torch_dtype`` still works in transformers 5, with a warning."""
    if not code.signatures.stack.at_least("transformers", "5"):
        return
    for load, _ in _loads(code):
        argument = load.argument("torch_dtype")
        if argument is None or load.argument("dtype") is not None:
            continue
        yield Problem(
            at=argument.node,
            message="torch_dtype is called dtype since transformers 4.56",
            fix="dtype=…",
            edits=(
                RenameKeyword(at=code.position(argument.owner), name="torch_dtype", to="dtype"),
            ),
        )


RULES: Final = (
    Rule(
        name="unknown-argument",
        severity="error",
        why="A keyword that was removed, renamed or misspelt ends in TypeError.",
        check=_refused,
    ),
    Rule(
        name="unknown-engine-argument",
        severity="error",
        why="vLLM refuses settings that its release does not have.",
        check=_engine,
    ),
    Rule(
        name="unknown-loading-argument",
        severity="error",
        why="Keywords that from_pretrained does not know go to the model, which refuses them.",
        check=_refused_by_loader,
    ),
    Rule(
        name="ignored-loading-argument",
        severity="ignored",
        why="Some keywords of from_pretrained are taken and thrown away.",
        check=_ignored_by_loader,
    ),
    Rule(
        name="misspelt-generation-setting",
        severity="error",
        why="GenerationConfig keeps any keyword, generate refuses those it does not know.",
        check=_misspelt_generation,
    ),
    Rule(
        name="renamed-dtype",
        severity="ignored",
        why="transformers 5 calls torch_dtype dtype.",
        check=_renamed_dtype,
        quiet=True,
    ),
)
