"""huggingface/optimum-benchmark report tables: forward and generate on an A100-80GB.

Random token ids with a full mask; ``forward`` returns the logits of every position; peaks are
reset before each phase. NVML is read once at the end of a phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.ledger.models import from_config, published_model, quantised_copy
from benchmarks.ledger.reading import Amount, Reading
from benchmarks.ledger.releases import COMPANIONS
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import context_of, find_gpu
from willfit.dtypes import FLOAT16, parse_dtype
from willfit.errors import WillfitError
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
    Loading,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Workload,
)
from willfit.scenario.stack import TESTED

_ATTENTION: Final = {
    "eager": "eager",
    "bettertransformer(sdpa)": "sdpa",
    "flash_attention_2": "flash_attention_2",
}
TRACED_ATTENTION: Final = "eager"
"""Of every traced row: the releases of 2023 can be traced with no other. BetterTransformer's and
FlashAttention-2's rows were published with the same allocated bytes and, within 1 %, the same
reserved ones: what differs, a layer's scores, is smaller than the logits."""
BASES: Final = {
    "TheBloke/LLaMa-7B-GPTQ": "huggyllama/llama-7b",
    "TheBloke/LLaMa-13B-GPTQ": "huggyllama/llama-13b",
    "TheBloke/LLaMa-65B-GPTQ": "huggyllama/llama-65b",
}
GPTQ: Final = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
"""Of TheBloke's copies. Both of exllama's versions held 45 MB beside what they name, as much as
2,048 rows of the widest layer to reorder."""
EXLLAMA_ROWS: Final = 2048
BESIDE: Final = (1_380_000_000, 2_300_000_000)
"""NVML less reserved, in the rows that have both: context, kernels and the driver's own part. 1.38
or 1.47 GB where one GPU is visible to a process of 4.34.1 or 4.35.2, 2.30 in the runs before."""
FIRST_SHARD: Final = {"meta-llama/Llama-2-7b-hf": 9_976_576_152}
"""Bytes of the checkpoint's first file, which loading had on the device beside the model: 13.48 +
9.98 GB are the 23.5 that were reserved whatever ran afterwards."""
_NOT_EMPTIED: Final = "caches not emptied"


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Forward and generate, each by allocated, reserved and NVML."""
    for entry in row["measured"]:
        kind = entry["kind"]
        reason = _obstacle(row, kind)
        if reason is not None:
            yield NotExpressed(kind=kind, reason=reason)
            continue
        task, _, counter = kind.partition(":")
        try:
            scenario = _scenario(row, task)
        except WillfitError as error:
            yield NotExpressed(kind=kind, reason=str(error))
            continue
        nvml = counter.startswith("nvml")
        spread = (BESIDE[0] - _beside(row), BESIDE[1] - _beside(row)) if nvml else (0, 0)
        yield Expressed(
            kind=kind,
            scenario=scenario,
            reading=_Counter(row=row, task=task, counter=counter, by_trace=False),
            unknown_bytes=(min(spread), max(spread)),
        )


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """The same under the release of transformers that the row names.

    torch is the installed one: the allocator's rules have not changed since 2.1.
    """
    for result in express(row):
        obstacle = _untraced(row)
        if obstacle is not None or isinstance(result, NotExpressed):
            yield result if obstacle is None else NotExpressed(kind=result.kind, reason=obstacle)
            continue
        stack = Stack(versions={**TESTED, "transformers": _release(row)})
        scenario = replace(result.scenario, stack=stack)
        inference = scenario.workload.inference
        assert inference is not None
        traced = replace(inference, attn=TRACED_ATTENTION)
        scenario = replace(scenario, workload=replace(scenario.workload, inference=traced))
        assert isinstance(result.reading, _Counter)
        reading = replace(result.reading, by_trace=True).at_its_moment()
        if isinstance(reading, Reading):
            scenario = replace(scenario, machine=_with_its_room(row))
        yield replace(result, scenario=scenario, reading=reading)


def _release(row: PublishedRow) -> str:
    """4.33 and the development of 4.34 hold what 4.34.1 holds."""
    version = str(row["versions"].get("transformers", ""))
    if f"transformers=={version}" in COMPANIONS:
        return version
    return "4.34.1"


def _obstacle(row: PublishedRow, kind: str) -> str | None:
    task, _, counter = kind.partition(":")
    gpus = str(row["gpu"]).strip("[]").replace("'", "").split(", ")
    if counter not in _AMOUNTS:
        return "a counter that is not known"
    if row["attn"] not in _ATTENTION:
        return f"attention {row['attn']} is not known"
    if len(set(gpus)) > 1:
        return "device-wide counter over unlike GPUs"
    if counter.startswith("nvml") and len(gpus) > 1:
        return "NVML summed over GPUs that the job does not use"
    if task == "generate" and row["new_tokens"] is None:
        return "number of new tokens not recorded"
    return None


def _untraced(row: PublishedRow) -> str | None:
    """Why a row cannot be run on fake tensors."""
    if (row["quant"] or {}).get("scheme") == "bnb":
        return "transformers 4.34 has no quantizers, by which bitsandbytes is traced"
    if not str(row["versions"].get("transformers", "")):
        return "the release of transformers is not recorded"
    return None


@dataclass(frozen=True, kw_only=True)
class _Counter:
    """What a counter of a row read: a callable, for a pool that was not emptied keeps a maximum."""

    row: PublishedRow
    task: str
    counter: str
    by_trace: bool

    def __call__(self, estimate: Estimate) -> int:
        """Bytes."""
        amount = _AMOUNTS[self.counter]
        phases = ("prefill", "forward") if self.task == "forward" else ("prefill", "decode")
        nvml = amount == "device"
        found = Reading(amount="reserved" if nvml else amount, phases=phases)(estimate)
        found += self._scratch()
        dirty = _not_emptied(self.row)
        if dirty and self.task == "forward" and not nvml and amount == "allocated":
            found += self._outputs()
        if dirty and amount != "allocated":
            found = max(found + (self._outputs() if self.task == "forward" else 0), self._loaded())
        capacity = _GPU.capacity_bytes
        found = min(found, capacity)
        return found + (_beside(self.row) if nvml else 0)

    def at_its_moment(self) -> Reading | _Counter:
        """NVML was read once, after `generate`: what the pool still held of a card that was full.

        Where caches were not emptied before, the pool began with more than the trace has.
        """
        at_end = self.task == "generate" and self.counter.startswith("nvml")
        if not at_end or not self.row["quality"].startswith("HIGH"):
            return self
        beside = _beside(self.row) + self._scratch()
        return Reading(amount="reserved", moment="end", plus_bytes=beside)

    @property
    def _name(self) -> str:
        return str(self.row["model"])

    def _loaded(self) -> int:
        """What the pool has held since loading, where nothing emptied it."""
        shard = FIRST_SHARD.get(self.row["model"], 0)
        version = str(self.row["versions"].get("transformers", ""))
        if not shard or (self.row["quant"] or {}).get("scheme") or not version.startswith("4.34"):
            return 0
        model = published_model(self._name)
        return int(model.num_params or 0) * 2 + shard

    def _outputs(self) -> int:
        """Logits in float32, K and V of an earlier forward, still alive."""
        config = published_model(BASES.get(self._name, self._name)).config
        if "num_hidden_layers" not in config or self.row["seq"] is None:
            return 0
        tokens = int(self.row["batch"]) * int(self.row["seq"])
        heads = int(config.get("num_key_value_heads") or config["num_attention_heads"])
        head = int(config["hidden_size"]) // int(config["num_attention_heads"])
        cache = 2 * 2 * int(config["num_hidden_layers"]) * heads * head
        if str(config.get("model_type")) == "bert":
            return 0
        return tokens * (4 * int(config["vocab_size"]) + cache)

    def _scratch(self) -> int:
        """The 45 MB that the second exllama's rows held too (`GPTQ`)."""
        version = str((self.row["quant"] or {}).get("exllama_config.version", ""))
        if version != "2":
            return 0
        config = published_model(BASES.get(self._name, self._name)).config
        return 2 * EXLLAMA_ROWS * int(config["intermediate_size"])


_GPU: Final = find_gpu("A100-SXM4-80GB")
_FULL: Final = 0.97
"""Of a card: a pool that reached this was given no more (these stopped at 0.993)."""


def _with_its_room(row: PublishedRow) -> Machine:
    """The card with the room that a run which filled it had: the most that it ever reserved.

    What is left at the end hangs on when the card was full last, and that on megabytes.
    """
    reserved = {entry["kind"]: round(entry["bytes"]) for entry in row["measured"]}
    most = reserved.get("generate:torch_max_memory_reserved", 0)
    if most < _FULL * _GPU.capacity_bytes:
        return Machine(gpus=(_GPU,))
    others = _GPU.usable_bytes - context_of(_GPU).nominal_bytes - most
    return Machine(gpus=(_GPU,), in_use_bytes=(others,))


def _beside(row: PublishedRow) -> int:
    """Context and what else NVML counts, by the run (`BESIDE`)."""
    quantised = (row["quant"] or {}).get("scheme") == "gptq"
    version = str(row["versions"].get("transformers", ""))
    if version.startswith("4.35"):
        return 1_470_000_000
    emptied = row["quality"].startswith("HIGH")
    return BESIDE[0] if emptied and not quantised else BESIDE[1]


def _model(row: PublishedRow) -> ModelSpec:
    name = row["model"]
    if (row["quant"] or {}).get("scheme") != "gptq":
        return published_model(name)
    version = str((row["quant"] or {}).get("exllama_config.version", "1"))
    backend: Mapping[str, Any] = {"backend": f"exllama_v{version}"}
    if name in BASES:
        return quantised_copy(name, BASES[name], {**GPTQ, **backend})
    config = published_model(name).config
    stored = {**GPTQ, **(config.get("quantization_config") or {}), **backend, "desc_act": True}
    return from_config(name, {**config, "quantization_config": stored})


def _scenario(row: PublishedRow, task: str) -> Scenario:
    generating = task == "generate"
    prompt = int(row["seq"])
    new_tokens = int(row["new_tokens"]) if generating else None
    inference = Inference(
        batch_size=int(row["batch"]),
        context_len=prompt + (new_tokens or 0),
        max_new_tokens=new_tokens,
        full_logits=not generating,
        attn=_ATTENTION[row["attn"]],
    )
    quant = row["quant"] or {}
    bnb = None
    if quant.get("scheme") == "bnb":
        eight = quant.get("load_in_8bit") == "True"
        bnb = Quantization(scheme="int8" if eight else "fp4", compute_dtype=FLOAT16)
    loading = Loading(dtype=parse_dtype(row["dtype"]) if row["dtype"] else None, quantization=bnb)
    versions = {name: v for name, v in row["versions"].items() if name in TESTED}
    return Scenario(
        model=_model(row),
        workload=Workload(loading=loading, inference=inference),
        machine=Machine(gpus=(_GPU,)),
        stack=Stack(versions={**TESTED, **versions}),
    )


_AMOUNTS: Final[dict[str, Amount]] = {
    "torch_max_memory_allocated": "allocated",
    "torch_max_memory_reserved": "reserved",
    "nvml_used": "device",
    "nvml_used_peak_memory": "device",
}


def _large(row: PublishedRow) -> bool:
    return int(row["batch"] or 0) >= 16


def _not_emptied(row: PublishedRow) -> bool:
    return _NOT_EMPTIED in row["quality"] or "nvml" in row["quality"][:20]


def _held_more(row: PublishedRow, kind: str) -> bool:
    return _not_emptied(row) and not kind.endswith("allocated")


def _after_loading(row: PublishedRow) -> bool:
    return _not_emptied(row) and row["model"] in FIRST_SHARD and not row["quant"]


ABOUT: Final = About(
    title="huggingface/optimum-benchmark, reports of 2023",
    apart=_held_more,
    unknowns={
        "what NVML counts beside torch's pool": "1.38 to 2.30 GB, by the rows that have both",
    },
    misses=(
        Miss(
            why="NVML was read once at the end of `generate`, when a full card had been given"
            " segments back: how much was left hangs on the step at which it was full last (by"
            " trace that is replayed, in the room that the run had)",
            kind="generate:nvml",
            where=_large,
        ),
        Miss(
            why="every step of `generate` makes its caches anew, one token longer: what is freed"
            " fits none that follows, and the pool grows (by trace it does)",
            kind="generate:",
            level="formula",
        ),
        Miss(
            why="loading had left the first file's tensors free in the pool, 9.98 GB in blocks of"
            " 34 to 262 MB, and the caches were cut from them: with these blocks put before it the"
            " replay of row 108 reserves 30.4 GB (measured: 30.0; without: 63.4), and the same run"
            " with emptied caches, row 118, is 0.1 % off",
            kind="generate:",
            level="trace",
            where=_after_loading,
        ),
        Miss(
            why="the pool still held what came before: the same runs with emptied caches, rows 119"
            " to 126, are within 1 %",
            kind="generate:",
            level="trace",
            where=_not_emptied,
        ),
        Miss(why="the pool still held what came before", kind="generate:nvml"),
        Miss(
            why="about as much more as another earlier forward's logits and cache (5.3 GB), of"
            " which one is counted",
            kind="forward:nvml_used_peak",
            level="trace",
            where=_not_emptied,
        ),
        Miss(
            why="scores and logits leave pieces in the pool that the next of them do not fit (a"
            " trace has them)",
            kind="forward:torch_max_memory_reserved",
            level="formula",
        ),
        Miss(
            why="the same pieces, in what NVML counted",
            kind="forward:nvml",
            level="formula",
        ),
    ),
    notes=(
        "Where caches were not emptied the pool held the first file of the checkpoint beside the"
        " model (9.98 + 13.48 GB), and an earlier forward's logits and cache were alive.",
    ),
)
