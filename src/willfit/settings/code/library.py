"""What calls of libraries mean: models that are loaded, configs, trainers, steps of a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from willfit.settings.code.names import PIPELINES, loads_a_model
from willfit.settings.code.optimizers import OPTIMIZERS
from willfit.settings.code.plain import PLAIN
from willfit.settings.code.reading import MAX_LOADS, Load, Reading
from willfit.settings.code.values import Bound, Made, Model, Record, Site, Unknown

Handler = Callable[[Reading, Site, Sequence[Any]], Any]


def library_call(reading: Reading, callee: Any, site: Site, positional: Sequence[Any]) -> Any:
    """What a call that is not the script's own returns; what it tells is noted."""
    if _tokenizes(callee, site):
        reading.add("tokens", site.node, site=site)
        return Unknown("tokens")
    if site.last.endswith("Trainer"):
        return _trainer(reading, site, positional)
    if isinstance(callee, Bound) and isinstance(callee.owner, Made):
        found = _of_made(reading, callee, site, positional)
        if found is not None:
            return found
    handler = _HANDLERS.get(site.last)
    if handler is not None:
        return handler(reading, site, positional)
    if site.last in OPTIMIZERS:
        reading.add("optimizer", site.node, of=site.first, site=site)
    return Made(site) if site.last[:1].isupper() or site.last == "from_pretrained" else Unknown()


_READS: Final = ("Tokenizer", "TokenizerFast", "Processor")
_CALLS: Final = ("encode_plus", "batch_encode_plus", "encode", "apply_chat_template", "pad")


def _tokenizes(callee: Any, site: Site) -> bool:
    """``tokenizer(…)`` and its kin, known by what made it or, for a parameter, by its name."""
    owner = callee.owner if isinstance(callee, Bound) else callee
    method = not isinstance(callee, Bound) or callee.name in _CALLS
    if isinstance(owner, Made):
        bare = site.owner == "" or isinstance(callee, Bound)
        return method and bare and owner.site.owner.endswith(_READS)
    parts = site.name.split(".")
    if parts[-1].lower().endswith("tokenizer") and parts[-1][:1].islower():
        return True
    return parts[-1] in _CALLS[:2] or (parts[-1] in _CALLS and "tokenizer" in site.name.lower())


def _of_made(reading: Reading, callee: Bound, site: Site, positional: Sequence[Any]) -> Any:
    """Methods of what a library made."""
    owner = callee.owner.site
    if owner.last.endswith("Trainer"):
        reading.add(callee.name, site.node, of=owner.value("model"), site=site)
        return Unknown()
    if owner.last == "Accelerator" and callee.name in ("prepare", "prepare_model"):
        return tuple(positional) if len(positional) != 1 else positional[0]
    if owner.last == "HfArgumentParser" and callee.name.startswith("parse"):
        return _dataclasses(owner)
    return None


def _dataclasses(parser: Site) -> Any:
    """Instances of the script's dataclasses with their defaults; a library's are not known."""
    wanted = parser.first if isinstance(parser.first, (tuple, list)) else [parser.first]
    made: list[Any] = []
    for cls in wanted:
        fields = getattr(cls, "fields", None)
        record = fields.copy() if isinstance(fields, Record) else Unknown("the command line")
        if isinstance(record, Record):
            record.of = cls.name
        made.append(record)
    return tuple(made)


def _load(reading: Reading, site: Site, kind: str, name: Any) -> Model:
    load = Load(site=site, kind=kind, name=name)
    if len(reading.loads) < MAX_LOADS:
        reading.loads.append(load)
    else:
        reading.note(f"more than {MAX_LOADS} models are loaded: the first are counted")
    return Model(load)


def _from_pretrained(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    owner = site.owner
    if owner.startswith("PeftModel") or (positional and isinstance(positional[0], Model)):
        path = positional[1] if len(positional) > 1 else site.value("model_id")
        model = positional[0] if positional else site.value("model")
        reading.add("adapter_path", site.node, of=model, site=site, value=path)
        return model
    name = site.first if site.first is not None else _named(site)
    if owner in ("FastLanguageModel", "FastModel", "FastVisionModel"):
        return _load(reading, site, "unsloth", name), Made(_tokenizer_of(site))
    if owner.endswith(("Pipeline", "DiffusionPipeline")):
        reading.note(f"{owner} is not a language model's loading: not counted")
        return Made(site)
    if not loads_a_model(owner):
        return Made(site)
    return _load(reading, site, "transformers", name)


def _tokenizer_of(site: Site) -> Site:
    return Site(name="AutoTokenizer.from_pretrained", cell=site.cell, node=site.node,
                statement=site.statement, order=site.order)  # fmt: skip


def _named(site: Site) -> Any:
    for name in ("pretrained_model_name_or_path", "model_name", "model_id", "repo_id"):
        if name in site.given:
            return site.value(name)
    return Unknown()


def _from_config(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    """A model with random weights takes as much: its name is the config's."""
    if not loads_a_model(site.owner):
        return Made(site)
    config = positional[0] if positional else site.value("config")
    name = config.site.first if isinstance(config, Made) else Unknown()
    return _load(reading, site, "transformers", name)


def _pipeline(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
    model = site.value("model")
    if isinstance(model, Model):
        reading.add("pipeline", site.node, of=model, site=site)
        return model
    task = site.value("task")
    if model is None and not (isinstance(task, str) and task in PIPELINES):
        return Made(site)
    return _load(reading, site, "pipeline", model if model is not None else Unknown())


def _named_first(kind: str, *names: str) -> Handler:
    def load(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
        given = next((site.value(name) for name in names if name in site.given), None)
        return _load(reading, site, kind, given if given is not None else site.first)

    return load


def _trainer(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
    model = site.value("model")
    if isinstance(model, str):
        model = _load(reading, site, "transformers", model)
        site.given["model"] = reading.given(site.node, model)
    reading.add("trainer", site.node, of=model, site=site)
    peft = site.value("peft_config")
    if isinstance(peft, Made):
        reading.add("peft", site.node, of=model, site=peft.site)
    return Made(site)


def _wraps(role: str) -> Handler:
    """A function that takes a model first and returns it."""

    def wrap(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
        model = positional[0] if positional else site.value("model")
        reading.add(role, site.node, of=model, site=site)
        return model if model is not None else Unknown()

    return wrap


def _peft(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    model = positional[0] if positional else site.value("model")
    config = site.value("peft_config")
    own = config.site if isinstance(config, Made) else site
    reading.add("peft", site.node, of=model, site=own, value=site)
    return model if model is not None else Unknown()


def _chat_format(_reading: Reading, _site: Site, positional: Sequence[Any]) -> Any:
    return tuple(positional[:2])


def _noted(role: str) -> Handler:
    """A call that is remembered as it is."""

    def note(reading: Reading, site: Site, _positional: Sequence[Any]) -> Any:
        reading.add(role, site.node, of=site.first, site=site)
        return Made(site)

    return note


def _answered(reading: Reading, _site: Site, _positional: Sequence[Any]) -> Any:
    reading.note(
        f"where the code asks whether the card has bfloat16, {'yes' if reading.bf16 else 'no'}"
    )
    return reading.bf16


def _range(reading: Reading, site: Site, positional: Sequence[Any]) -> Any:
    """``range(0, len(rows), 8)``: rows are taken 8 at a time."""
    if len(positional) == 3 and isinstance(positional[2], int) and positional[2] > 0:
        reading.add("strides", site.node, site=site, value=positional[2])
    return Unknown("range")


_HANDLERS: Final[dict[str, Handler]] = {
    **PLAIN,
    "from_pretrained": _from_pretrained,
    "from_config": _from_config,
    "pipeline": _pipeline,
    "LLM": _named_first("vllm", "model"),
    "Llama": _named_first("llama.cpp", "model_path"),
    "SentenceTransformer": _named_first("sentence-transformers", "model_name_or_path"),
    "get_peft_model": _peft,
    "prepare_model_for_kbit_training": _wraps("prepare"),
    "prepare_model_for_int8_training": _wraps("prepare"),
    "DataParallel": _wraps("data_parallel"),
    "DistributedDataParallel": _wraps("wrapped"),
    "compile": _wraps("wrapped"),
    "dispatch_model": _wraps("wrapped"),
    "load_checkpoint_and_dispatch": _wraps("wrapped"),
    "deepcopy": _wraps("copied"),
    "setup_chat_format": _chat_format,
    "DataLoader": _noted("loader"),
    "autocast": _noted("autocast"),
    "sdpa_kernel": _noted("kernel"),
    "sdp_kernel": _noted("kernel"),
    "Accelerator": _noted("accelerator"),
    "clip_grad_norm_": _noted("clip"),
    "backward": _noted("backward"),
    "DataCollatorWithPadding": _noted("collator"),
    "DataCollatorForLanguageModeling": _noted("collator"),
    "DataCollatorForSeq2Seq": _noted("collator"),
    "pad_sequence": _noted("collator"),
    "pad_without_fast_tokenizer_warning": _noted("tokens"),
    "step": _noted("step"),
    "is_bf16_supported": _answered,
    "is_bfloat16_supported": _answered,
    "is_torch_bf16_gpu_available": _answered,
    "range": _range,
}
