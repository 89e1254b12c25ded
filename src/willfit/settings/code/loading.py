"""How a script loads its model: ``from_pretrained`` and what is done to the model after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from willfit.settings import training_arguments
from willfit.settings.code.gathered import Gathered, dtype_name, plain
from willfit.settings.code.names import PIPELINES, auto_class_of, checkpoint_of
from willfit.settings.code.quantized import read_quantization, read_unsloth
from willfit.settings.code.reading import Load
from willfit.settings.code.values import Given, Made, Model, Record, Unknown
from willfit.settings.settings import Convert, both_ways, nothing, renamed, switch, unused, whole


def model_of(load: Load, gathered: Gathered) -> str | None:
    """Name of the model that is loaded; None with a sentence where the text does not tell."""
    name = load.name
    if isinstance(name, Made):
        name = name.site.first
    if not isinstance(name, str):
        text = name.text if isinstance(name, Unknown) else getattr(name, "name", "")
        gathered.assume(f"the model's name{f' ({text})' if text else ''} is not in the text")
        return None
    model, assumed = checkpoint_of(name)
    if assumed:
        gathered.assume(assumed)
    return model


def read_loading(load: Load, gathered: Gathered) -> None:
    """Type, quantisation, attention, labels and placement."""
    given = _keywords(load)
    if load.kind == "unsloth":
        read_unsloth(given, gathered)
    _auto_class(load, gathered)
    gathered.convert(given, TABLE, HARMLESS, of=load.site.last, unread=load.site.unread)
    read_quantization(load, gathered, given)
    _labels(load, gathered, given)
    _max_memory(given, gathered)
    for use in load.used("moved"):
        _moved(use.value, use.site.given if use.site else {}, use.site and use.site.first, gathered)
    for use in load.used("adapter_path"):
        gathered.ignore(f"the adapter {str(use.value)[:80]!r}: its rank is not in the text")
    if load.used("copied"):
        gathered.ignore("the copy of the model: one is counted")


def _keywords(load: Load) -> dict[str, Given]:
    """Arguments of the loading call, those of a pipeline's ``model_kwargs`` among them."""
    given = dict(load.site.given)
    inner = load.site.value("model_kwargs", load.site.value("model_init_kwargs"))
    if isinstance(inner, Record):
        here = given.get("model_kwargs") or given["model_init_kwargs"]
        given |= {str(k): Given(v, inner.written.get(k, here.written)) for k, v in inner.items()}
    if load.kind == "transformers" and load.site.last.endswith("Trainer"):
        args = load.site.value("args")
        more = args.site.value("model_init_kwargs") if isinstance(args, Made) else None
        given = {}
        if isinstance(more, Record):
            given = {
                str(k): Given(v, more.written[k]) for k, v in more.items() if k in more.written
            }
    return given


def _auto_class(load: Load, gathered: Gathered) -> None:
    found = auto_class_of(load.site.owner) if load.kind == "transformers" else None
    if load.kind == "pipeline":
        task = load.site.value("task")
        found = PIPELINES.get(task) if isinstance(task, str) else None
    if load.kind == "sentence-transformers":
        found = "AutoModel"
    if found is not None and found != "AutoModelForCausalLM":
        gathered.flags["auto_class"] = found


def _labels(load: Load, gathered: Gathered, given: Mapping[str, Given]) -> None:
    config = given["config"].value if "config" in given else load.site.first
    labels = plain(given["num_labels"].value) if "num_labels" in given else None
    if labels is None and "id2label" in given:
        names = given["id2label"].value
        labels = len(names) if isinstance(names, (Record, list)) else None
    if labels is None and isinstance(config, Made):
        labels = config.site.known("num_labels")
    classifies = gathered.flags.get("auto_class", "").endswith("Classification")
    if isinstance(labels, int) and labels > 0 and classifies:
        gathered.flags["num_labels"] = labels


def _max_memory(given: Mapping[str, Given], gathered: Gathered) -> None:
    value = given["max_memory"].value if "max_memory" in given else None
    if value is None:
        return
    pairs = list(value.items()) if isinstance(value, Record) else []
    if 0 < len(pairs) < 64 and all(isinstance(amount, (int, str)) for _, amount in pairs):
        gathered.flags["max_memory"] = repr(dict(pairs))
    else:
        gathered.assume("max_memory is not in the text: accelerate's own choice")


def device_of(load: Load) -> int | None:
    """Index of the one GPU that the whole model is put on; None for several, or unknown."""
    places = [load.site.value("device_map"), load.site.value("device")]
    for use in load.used("moved"):
        site = use.site
        if site is not None:
            places += [site.first, site.value("device")]
    for place in places:
        if isinstance(place, Record):
            place = place.get("") if len(place) == 1 else None
        if isinstance(place, str) and place.startswith("cuda:") and place[5:].isdecimal():
            return int(place[5:][:3])
        if isinstance(place, int) and not isinstance(place, bool) and 0 <= place < 64:
            return place
    return None


def casts(load: Load) -> bool:
    """Whether a call after loading gives the weights another type."""
    found = Gathered()
    for use in load.used("moved"):
        _moved(use.value, use.site.given if use.site else {}, use.site and use.site.first, found)
    return "dtype" in found.flags


def _moved(method: str, given: Mapping[str, Given], first: Any, gathered: Gathered) -> None:
    """``.half()`` and ``.to(torch.float16)`` after loading."""
    kinds = {"half": "float16", "bfloat16": "bfloat16", "float": "float32"}
    found = kinds.get(method)
    if method == "to":
        dtype = given["dtype"].value if "dtype" in given else first
        found = dtype_name(dtype) if not isinstance(dtype, (str, Model)) else None
    if found is not None and "quantize" not in gathered.flags:
        gathered.flags["dtype"] = found


def read_dtype(value: Any) -> Mapping[str, Any]:
    """A type by any of its names; none for ``auto``."""
    found = dtype_name(value)
    return {"dtype": found} if found is not None else {}


def _flash(value: Any) -> Mapping[str, Any]:
    return {"attn": "flash_attention_2"} if value else {}


TABLE: Final[dict[str, Convert]] = {
    "torch_dtype": read_dtype,
    "dtype": read_dtype,
    "attn_implementation": renamed("attn"),
    "use_flash_attention_2": _flash,
    "trust_remote_code": switch("trust_remote_code"),
    "revision": renamed("revision"),
    "use_cache": both_ways("use_cache"),
    "num_labels": nothing,
    "batch_size": whole("batch_size"),
    "max_new_tokens": whole("max_new_tokens"),
    "max_seq_length": whole("max_length"),
    "offload_folder": nothing,
    "tp_plan": unused("give the GPUs and --strategy tp"),
}
HARMLESS: Final = (
    *training_arguments.HARMLESS, "token", "use_auth_token", "cache_dir", "low_cpu_mem_usage",
    "local_files_only", "use_safetensors", "pad_token_id", "config", "id2label", "label2id",
    "problem_type", "ignore_mismatched_sizes", "model_name", "pretrained_model_name_or_path",
    "model", "tokenizer", "task", "model_kwargs", "return_full_text", "do_sample", "temperature",
    "top_p", "top_k", "repetition_penalty", "truncation", "framework", "force_download",
    "resume_download", "subfolder", "variant", "eos_token_id", "num_beams", "padding",
    "device_map", "device", "max_memory", "quantization_config", "load_in_4bit", "load_in_8bit",
    "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
    "offload_state_dict", "offload_buffers", "top_k", "return_all_scores", "output_hidden_states",
    "pretraining_tp", "feature_extractor", "fast_inference", "gpu_memory_utilization",
)  # fmt: skip
"""Arguments read elsewhere, or that memory does not depend on."""
