"""Causes: right on the corpus, evidence that can be checked by hand, rules that keep their bounds."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from willfit.doctor import causes
from willfit.doctor.amounts import amount
from willfit.doctor.causes import HARD, NAMES, SOFT, Cause, Facts, Rule, cause_of
from willfit.doctor.causes.numbers import worked_out
from willfit.doctor.context import context_of
from willfit.doctor.passage import Line, Passage
from willfit.doctor.report import Context, Frame, Report
from willfit.units import GIB, MIB

# --- the corpus ------------------------------------------------------------------------------

UNTELLABLE = {
    "011_pt_truncated_dpo_qlora.log": "a cut message that says no more than 112.00 MiB",
    "048_dnabert_eval.log": "one bare message; that it was evaluation stands in the thread",
    "063_unsloth_html_ansi.log": "one bare message; the upcast of logits stands in the thread",
    "095_vllm_bonito_ignored.log": "the same words as 093, whose cause is another",
    "228_colab_llava_shards.log": "the same words as 225 and 227, whose cause is another",
    "234_bnb_dispatch_zh.log": "the same words as 233 and 237, each with a cause of its own",
    "237_hf_47061_underpacking.log": "the same words as 233 and 234",
    "270_nvml_sd35_mig_visible.log": "the same words as 271, whose cause is another",
    "281_cpu_memseg_metrics.log": "the same words as 187, whose cause is another",
}
"""Entries with a confirmed cause that their text does not carry: the thread around it does."""


def _rows(shared: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared / "oom_corpus/manifest.jsonl").open()]


_ANCHOR = re.compile(
    r"ut of memory|OUT_OF_MEMORY|illed|exhaust|code = -|exitcode|SIGKILL|mmap|1455|failed to alloc"
    r"|allocation of size|cache blocks|max seq len|Free memory on|ASSERT|Allocator|enough memory"
    r"|Unable to allocate|crashed|dispatched|Unused kwargs|meta device|system memory|0xc0000409"
    r"|CUBLAS|resource allocation|OOM|oom-kill|us error|Memory on the node|insufficient"
    r"|NoneType|profiled value|Insufficient|Tried to allocate|graphs|_sampler|memory.required",
    re.IGNORECASE,
)


def _as_manifest(row: dict[str, Any], shared: Path) -> Report:
    """The report that a perfect reader gives: the manifest's fields, and the text around them."""
    text = (shared / "oom_corpus/raw" / row["file"]).read_text(errors="replace")
    lines = [Line(number=i, text=x) for i, x in enumerate(text.splitlines(), 1)]
    index = next((i for i, x in enumerate(lines) if _ANCHOR.search(x.text)), 0)
    fields = {name: value for name, value in row["fields"].items() if value is not None}
    if "tried_bytes_exact" in fields:
        fields["tried_bytes_exact"] = int(fields["tried_bytes_exact"])
    report = Report(
        family=row["family"],
        fields=fields,
        printed={
            f"{name}_bytes": text
            for name, text in row["text_fields"].items()
            if isinstance(text, str) and re.fullmatch(r"[\d.]+ (?:bytes|[KMGT]i?B)", text)
        },
        line=index + 1,
        last_line=index + 1,
        quote=" ".join(" ".join(x.text for x in lines[index : index + 8]).split())[:600],
        release=row["version_guess"],
    )
    return replace(report, context=context_of(Passage(lines), report))


def _as_read(row: dict[str, Any], shared: Path) -> Report | None:
    find = importlib.import_module("willfit.doctor.find")
    reports = find.reports_in((shared / "oom_corpus/raw" / row["file"]).read_text(errors="replace"))
    same = [report for report in reports if report.family == row["family"]]
    return next(iter((*same, *reports)), None)


@pytest.mark.parametrize("reading", [_as_manifest, _as_read])
def test_confirmed_causes_of_the_corpus(reading: Any, shared: Path) -> None:
    """All that the text can tell; what it cannot is named above with its reason."""
    if reading is _as_read:
        pytest.importorskip("willfit.doctor.find")
    rows = [row for row in _rows(shared) if row["cause_basis"] == "confirmed"]
    assert len(rows) > 100
    got = {row["file"]: _name(reading(row, shared)) for row in rows}
    wrong = {row["file"]: got[row["file"]] for row in rows if got[row["file"]] != row["cause"]}
    assert {file: name for file, name in wrong.items() if file not in UNTELLABLE} == {}
    assert len(wrong) <= 0.1 * len(rows)


def _name(report: Report | None) -> str:
    return "" if report is None else cause_of(report).name


def test_what_cannot_be_told_is_said_without_certainty(shared: Path) -> None:
    """But for host memory, whose kind is certain where what filled it is not."""
    rows = [row for row in _rows(shared) if row["file"] in UNTELLABLE]
    assert len(rows) == len(UNTELLABLE)
    sure = [cause_of(_as_manifest(row, shared)) for row in rows]
    assert {x.name for x in sure if x.confidence == "certain"} == {"host_ram"}


def test_most_inferred_causes_agree_too(shared: Path) -> None:
    """They were read from the same numbers by a person, and are softer."""
    rows = [row for row in _rows(shared) if row["cause_basis"] == "inferred"]
    right = sum(_name(_as_manifest(row, shared)) == row["cause"] for row in rows)
    assert right >= 0.7 * len(rows)


def test_every_cause_of_the_corpus_is_in_the_vocabulary(shared: Path) -> None:
    assert {row["cause"] for row in _rows(shared)} <= NAMES


# --- evidence, word for word -----------------------------------------------------------------


def _torch(
    message: str, *, family: str = "pytorch-cuda", context: Context | None = None, **fields: Any
) -> Report:
    """A report with amounts as printed, such as ``tried="224.00 MiB"``."""
    units = {"GiB": GIB, "MiB": MIB, "KiB": 1024, "bytes": 1}
    is_amount = {
        name: str(value)[0].isdigit() and " " in str(value) for name, value in fields.items()
    }
    printed = {f"{name}_bytes": text for name, text in fields.items() if is_amount[name]}
    other = {name: value for name, value in fields.items() if not is_amount[name]}
    amounts = {
        name: int(Decimal(text.split()[0]) * units[text.split()[1]])
        for name, text in printed.items()
    }
    return Report(
        family=family, fields={**other, **amounts}, printed=printed, line=1, last_line=1,
        quote=message, context=context or Context(),
    )  # fmt: skip


ADVICE = "try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
T4 = _torch(
    f"CUDA out of memory. {ADVICE}", tried="224.00 MiB", total="14.75 GiB", free="11.06 MiB",
    allocated="14.04 GiB", reserved_unallocated="509.85 MiB",
    processes=[{"pid": 2341, "bytes": int(14.74 * GIB)}],
)  # fmt: skip


def _at(place: str, stage: Any = "unknown") -> Context:
    file, function, code = place.split("|")
    return Context(frames=(Frame(file=file, function=function, code=code),), stage=stage)


LOGITS = _at("loss_utils.py|ForCausalLMLoss|logits = logits.float()", "train-forward")

GOLDENS: list[tuple[Report, str, str, list[str]]] = [
    # a full T4 without a traceback: A + U + F is all but a context, and U is 3 % of the card
    (T4, "activations_batch_seq", "guess", [
        "14.04 GiB of 14.75 GiB is in live tensors of this process, and 224.00 MiB more were asked for.",
        "Without a traceback these numbers do not tell weights from activations: if it fails with a batch of one too, it is the weights.",
        "14.75 − 0.01 free − 14.54 reserved = 0.20 GiB is not PyTorch's: a CUDA context, no other process.",
        "The advice about fragmentation that PyTorch prints with every such message could bring at most 509.85 MiB here.",
    ]),
    # 51 MiB are the most that the printed advice could bring
    (_torch(f"CUDA out of memory. {ADVICE}", tried="20.00 MiB", total="23.64 GiB", free="9.00 MiB",
            allocated="23.20 GiB", reserved_unallocated="51.00 MiB", context=_at("t.py|training_step|", "train-forward")),
     "activations_batch_seq", "likely", [
        "23.20 GiB of 23.64 GiB is in live tensors of this process, and 20.00 MiB more were asked for, in train-forward: what training keeps for the backward pass grows with batch × length.",
        "20.00 MiB is asked for any tensor of 1 to 10 MiB: its size says nothing more.",
        "23.64 − 0.01 free − 23.25 reserved = 0.38 GiB is not PyTorch's: a CUDA context, no other process.",
        "The advice about fragmentation that PyTorch prints with every such message could bring at most 51.00 MiB here.",
    ]),
    (_torch("CUDA out of memory", tried="2.00 GiB", total="23.69 GiB", free="1.40 GiB", allocated="15.10 GiB", reserved="21.90 GiB"),
     "fragmentation", "likely", [
        "6.80 + 1.40 free = 8.20 GiB are in no tensor, and 2.00 GiB in one piece do not fit into them: the 6.80 GiB lie in partly used segments.",
        "A better packing brings at most 6.80 GiB; the rest of the card is in use.",
        "23.69 − 1.40 free − 21.90 reserved = 0.39 GiB is not PyTorch's: a CUDA context, no other process.",
    ]),
    (_torch("CUDA out of memory", tried="1.50 GiB", total="15.90 GiB", free="0.90 GiB", allocated="2.00 GiB", reserved="2.20 GiB"),
     "other_process", "likely", [
        "15.90 − 0.90 free − 2.20 reserved = 12.80 GiB is held by something else: a CUDA context is 0.2 to 0.5 GiB.",
        "`nvidia-smi` names the process; NCCL and other libraries of this one count too.",
    ]),
    (_torch("CUDA out of memory", tried="512.00 MiB", total="79.15 GiB", free="300.00 MiB", this_process="38.85 GiB",
            allocated="38.00 GiB", reserved_unallocated="400.00 MiB", processes=[{"pid": 100, "bytes": 40 * GIB}]),
     "other_process", "certain", [
        "Other processes hold 40.00 GiB of 79.15 GiB (100: 40.00 GiB).",
        "This one holds 38.85 GiB.",
        "Without them it fits: 0.29 + 40.00 of others − 0.50 asked for = 39.79 GiB left.",
        "The ids are those of the host; inside a container they differ.",
    ]),
    (_torch("CUDA out of memory", tried="1.00 GiB", total="23.64 GiB", free="11.00 GiB", allowed="12.00 GiB",
            allocated="11.20 GiB", reserved_unallocated="100.00 MiB"),
     "per_process_cap", "certain", [
        "11.20 + 0.10 cached + 1.00 asked for = 12.30 GiB, over the 12.00 GiB that this process allows itself; 11.00 GiB of the device is free.",
    ]),
    (_torch("CUDA out of memory", tried="4.64 GiB", total="44.40 GiB", free="3.10 GiB", allocated="40.20 GiB",
            reserved_unallocated="600.00 MiB", context=LOGITS),
     "logits_vocab", "likely", [
        "It failed at `ForCausalLMLoss`: logits are rows × vocabulary, and the loss wants them in float32.",
        "4.64 GiB were asked for, 3.10 GiB was free.",
        "44.40 − 3.10 free − 40.79 reserved = 0.51 GiB is not PyTorch's: a CUDA context, no other process.",
    ]),
    (_torch("CUDA out of memory", tried="128.00 MiB", total="11.00 GiB", free="0 bytes", allocated="20.50 GiB", reserved="20.60 GiB"),
     "model_too_big", "likely", [
        "20.50 GiB in tensors on a card of 11.00 GiB: Windows' driver has put the rest into system memory, and that ran out too.",
        "1.9 times the card is needed already.",
    ]),
    (_torch("CUDA out of memory", tried="7450.58 GiB", total="23.64 GiB", free="22.90 GiB", allocated="10.00 MiB", reserved_unallocated="12.00 MiB"),
     "not_a_memory_problem", "likely", [
        "7450.58 GiB asked for at once, and the whole card has 23.64 GiB.",
        "It is 1,000,000,000,000 × 8 B: somebody asked for a round number of elements to make the error happen.",
    ]),
    (_torch("CUDA out of memory", tried="2.00 MiB", total="15.77 GiB", free="9.00 GiB", allocated="12.00 GiB", reserved_unallocated="10.00 MiB"),
     "unknown", "guess", [
        "12.00 + 9.00 free = 21.00 GiB is more than the card's 15.77 GiB: these are not the numbers of one moment.",
        "2.00 MiB is asked for any tensor of up to 1 MiB: its size says nothing more.",
    ]),
    (_torch("HIP out of memory", family="pytorch-hip", tried="4.00 GiB", total="31.31 GiB", free="90.00 GiB", allocated="30.00 GiB", reserved_unallocated="0 bytes"),
     "unified_memory", "certain", [
        "90.00 GiB free of 31.31 GiB: an APU counts system memory as free that the total leaves out.",
    ]),
    (_torch("MPS backend out of memory", family="mps", allocated="17.50 GiB", other="384.00 KiB", allowed="18.13 GiB", tried="64.00 MiB"),
     "per_process_cap", "certain", [
        "17.50 + 0.00 of others + 0.06 asked for = 17.56 GiB, against the 18.13 GiB of the watermark.",
        "It is 1.7 times what macOS recommends for the GPU unless PYTORCH_MPS_HIGH_WATERMARK_RATIO says otherwise.",
    ]),
    (_torch("Free memory on device", family="vllm", free="23.10 GiB", total="23.65 GiB", requested="23.18 GiB"),
     "context_overhead", "likely", [
        "It is short by 23.18 − 23.10 free = 0.08 GiB, less than one CUDA context (0.2 to 0.5 GiB).",
        "Lower the fraction by that much.",
    ]),
    (_torch("Free memory on device", family="vllm", free="2.00 GiB", total="23.65 GiB", requested="21.28 GiB"),
     "other_process", "certain", [
        "23.65 − 2.00 free = 21.65 GiB was in use before the engine started.",
        "It is short by 21.28 − 2.00 free = 19.28 GiB: end that process, or lower the fraction below 0.08.",
    ]),
    (_torch("max seq len", family="vllm", max_model_len=8192, kv_needed="1.00 GiB", kv_available="0.75 GiB", estimated_max_len=6144),
     "kv_cache", "certain", [
        "One request of the full length needs 1.00 GiB of KV cache: 1.00 − 0.75 available = 0.25 GiB missing.",
        "About 6,144 tokens fit.",
    ]),
    (_torch("model requires more system memory", family="ollama", host_required="9.30 GiB", host_available="7.90 GiB"),
     "host_ram", "certain", ["Host RAM and swap: 9.30 − 7.90 available = 1.40 GiB missing."]),
    (_torch("model requires more system memory", family="ollama", host_required="60.00 GiB", host_available="8.00 GiB"),
     "model_too_big", "certain", ["The model needs 7.5 times the memory of this machine: 60.00 − 8.00 available = 52.00 GiB missing."]),
    (_torch("OOM when allocating tensor", family="tensorflow", shape=[8, 16, 1024, 1024], dtype="half"),
     "attention_quadratic", "likely", ["8 × 16 × 1,024 × 1,024 × 2 B = 256.00 MiB: its last two extents are the same length."]),
]  # fmt: skip


@pytest.mark.parametrize(("report", "name", "confidence", "evidence"), GOLDENS)
def test_evidence_word_for_word(
    report: Report, name: str, confidence: str, evidence: list[str]
) -> None:
    cause = cause_of(report)
    assert (cause.name, cause.confidence) == (name, confidence)
    assert list(cause.evidence) == evidence


# --- mechanisms ------------------------------------------------------------------------------


def _said(
    family: str, quote: str, *, stage: Any = "unknown", marks: tuple[str, ...] = ()
) -> Report:
    return Report(family=family, line=1, last_line=1, quote=quote, marks=frozenset(marks),
                  context=Context(stage=stage))  # fmt: skip


_NVML = 'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "{}/c10/cuda/CUDACachingAllocator.cpp":1'
MECHANISMS = [
    (_said("host-kill", "exits with return code = -9"), "host_ram"),
    (_said("host-kill", "exits with return code = -7"), "shm"),
    (_said("host-kill", "exitcode: 135", marks=("sigbus",)), "shm"),
    (_said("dataloader-shm", "is killed by signal: Bus error"), "shm"),
    (_said("notebook", "Your notebook tried to allocate more memory than is available"), "host_ram"),
    (_said("ollama", "llama runner process has terminated: exit status 0xc0000409"), "host_ram"),
    (_said("ollama", "llama runner process has terminated: cudaMalloc failed: out of memory"), "scheduler_split"),
    (_said("llama.cpp", "cuMemAddressReserve(...) CUDA_ERROR_OUT_OF_MEMORY"), "address_space"),
    (_said("llama.cpp", "failed to allocate buffer for kv cache"), "kv_cache"),
    (_said("llama.cpp", "failed to allocate compute pp buffers"), "compute_buffer"),
    (_said("llama.cpp", "unable to allocate CUDA0 buffer"), "model_too_big"),
    (_said("llama.cpp", "failed to allocate 900 MiB of pinned memory"), "not_fatal"),
    (_said("sglang", "KV cache pool is full. Retract requests."), "not_fatal"),
    (_said("sglang", "Not enough memory. Please try to increase --mem-fraction-static."), "serving_budget"),
    (_said("sglang", "alloc_req_slots runs out of memory"), "slots_limit"),
    (_said("vllm", "No available memory for the cache blocks."), "serving_budget"),
    (_said("vllm", "out of memory occurred when warming up sampler with 1024 dummy requests"), "logits_vocab"),
    (_said("vllm", "Engine core initialization failed", marks=("wrapper",)), "unknown"),
    (_said("sdpa-kernel", "No available kernel. Aborting execution.", marks=("not_memory",)), "not_a_memory_problem"),
    (_said("bitsandbytes", "Unused kwargs: ['bnb_8bit_compute_dtype']. These kwargs are not used"), "config_ignored"),
    (_said("bitsandbytes", "Error out of memory at line 380 in file x/pythonInterface.c"), "pinned_host_memory"),
    (_said("nvml-assert", _NVML.format("/pytorch"), stage="load"), "model_too_big"),
    (_said("nvml-assert", _NVML.format("/pytorch"), stage="train-forward"), "activations_batch_seq"),
    (_said("nvml-assert", _NVML.format("/opt/pytorch/pytorch")), "unified_memory"),
    (_said("nccl", "NCCL WARN Cuda failure 'out of memory'"), "nccl_buffers"),
    (_said("triton", "Triton Error [CUDA]: out of memory"), "jit_overhead"),
    (_said("mps", "Invalid buffer size: 58.40 GB"), "allocator_limit"),
    (_said("jax", "RESOURCE_EXHAUSTED: Out of memory allocating 124867611608 bytes."), "host_ram"),
    (_said("pytorch-cuda", "CUDA out of memory. Tried to allocate more than 1EB memory."), "not_a_memory_problem"),
    (_said("cublas", "CUBLAS_STATUS_ALLOC_FAILED", stage="train-backward"), "activations_batch_seq"),
    (_said("cuda-error", "CUDA error: out of memory", stage="optimizer-step"), "optimizer_states"),
    (_said("cuda-error", "CUDA error: out of memory", stage="merge"), "merge_spike"),
]  # fmt: skip


@pytest.mark.parametrize(("report", "name"), MECHANISMS)
def test_what_wordings_mean(report: Report, name: str) -> None:
    assert cause_of(report).name == name


def test_the_direction_of_a_serving_budget() -> None:
    """Before the cache exists a larger part helps; after it a smaller one."""
    before = cause_of(_said("vllm", "No available memory for the cache blocks."))
    served = Context(stage="serve-run", clues=frozenset({"vllm"}))
    after = cause_of(replace(T4, context=served))
    assert (before.name, after.name) == ("serving_budget", "serving_budget")
    assert "raise the fraction" in " ".join(before.evidence)
    assert "lower the fraction" in " ".join(after.evidence)


def test_ones_own_process_in_a_container_is_no_other() -> None:
    """14.54 reserved and a line of 14.74 is this process; a line of 5 GiB more is not."""
    assert cause_of(T4).name != "other_process"
    fields = {**T4.fields, "processes": [*T4.fields["processes"], {"pid": 7, "bytes": 5 * GIB}]}
    assert cause_of(replace(T4, fields=fields)).name == "other_process"


def test_a_listed_process_that_holds_far_more_than_this_one_reserved() -> None:
    """Whoever it is, 23.64 − 0.10 − 12.10 = 11.44 GiB is not PyTorch's."""
    report = _torch("CUDA out of memory", tried="512.00 MiB", total="23.64 GiB", free="0.10 GiB",
                    allocated="12.00 GiB", reserved_unallocated="0.10 GiB",
                    processes=[{"pid": 4000, "bytes": int(23.53 * GIB)}])  # fmt: skip
    cause = cause_of(report)
    assert cause.name == "other_process"
    assert cause.evidence[0].startswith("23.64 − 0.10 free − 12.10 reserved = 11.44 GiB is held")


def test_equal_contexts_of_every_rank_on_one_gpu() -> None:
    ranks = [{"pid": pid, "bytes": 430 * MIB} for pid in (11, 12, 13)]
    report = _torch("CUDA out of memory", tried="20.00 MiB", total="39.39 GiB", free="15.00 MiB",
                    this_process="38.11 GiB", allocated="37.40 GiB", reserved_unallocated="120.00 MiB",
                    processes=ranks)  # fmt: skip
    assert cause_of(report).name == "multi_gpu_imbalance"


# --- with an estimate of the user's scenario --------------------------------------------------

CONTEXT = int(0.2 * GIB)


def _facts(training: bool = True, **gib: float) -> Facts:
    parts = {name: int(value * GIB) for name, value in gib.items()}
    return Facts(
        weights_bytes=parts["weights"],
        peak_device_bytes=sum(parts.values()) + CONTEXT,
        components={**parts, "cuda_context": CONTEXT},
        phase="training step" if training else "decode",
        training=training,
        gradient_checkpointing=False if training else None,
        capacity_bytes=int(14.75 * GIB),
        factors=("4,096 × 14,336 × 4 B: a weight of mlp.down_proj in float32",),
    )


SCENARIOS = [
    # 14.04 GiB in tensors, and the scenario needs …
    (_facts(weights=5.6, activations=9.5, logits=1.0, optimizer_states=0.3), "activations_batch_seq"),
    (_facts(weights=5.6, activations=2.0, logits=8.0, optimizer_states=0.3), "logits_vocab"),
    (_facts(weights=3.0, activations=2.0, gradients=3.0, optimizer_states=12.0), "optimizer_states"),
    (_facts(weights=15.0, activations=1.0), "model_too_big"),
    (_facts(weights=13.6, kv_cache=0.6, temporaries=0.3, training=False), "model_too_big"),
    (_facts(weights=7.5, kv_cache=7.0, temporaries=0.3, training=False), "kv_cache"),
    # an int8 model of 7.5 GiB cannot explain 14.04: 6 GiB are of something before
    (_facts(weights=7.5, kv_cache=0.3, temporaries=0.2, training=False), "leak_previous"),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "name"), SCENARIOS)
def test_the_component_that_decides(facts: Facts, name: str) -> None:
    cause = cause_of(T4, facts)
    assert cause.name == name
    assert any(facts.factors[0] in sentence for sentence in cause.evidence)


def test_the_surplus_is_worked_out() -> None:
    cause = cause_of(T4, SCENARIOS[-1][0])
    assert "14.04 − 8.00 estimated = 6.04 GiB in tensors of this process" in cause.evidence[0]


def test_checkpointing_is_told_as_it_is() -> None:
    off = SCENARIOS[0][0]
    assert "Gradient checkpointing is off." in cause_of(T4, off).evidence
    on = replace(off, gradient_checkpointing=True)
    assert "That is with gradient checkpointing already on." in cause_of(T4, on).evidence


@pytest.mark.parametrize(("report", "name"), [
    (GOLDENS[3][0], "other_process"), (GOLDENS[5][0], "per_process_cap"),
    (GOLDENS[8][0], "not_a_memory_problem"), (MECHANISMS[0][0], "host_ram"),
    (replace(T4, context=_at("adam.py|step|", "optimizer-step")), "optimizer_states"),
])  # fmt: skip
def test_no_estimate_contradicts_what_the_text_proves(report: Report, name: str) -> None:
    assert cause_of(report, SCENARIOS[0][0]).name == name


# --- laws ------------------------------------------------------------------------------------

_SUM = re.compile(
    r"(\d+(?:\.\d\d)?(?: [a-z ]+?)?(?: [−+] \d+(?:\.\d\d)?(?: [a-z ]+?)?)+) = (−?\d+(?:\.\d\d)?) "
)


def _sums(cause: Cause) -> Iterator[tuple[Decimal, Decimal]]:
    """Left and right side of every calculation in the evidence, by hand."""
    for match in _SUM.finditer(" ".join(cause.evidence)):
        terms = re.findall(r"(?:^|([−+]) )(\d+(?:\.\d\d)?)", match[1])
        left = sum(-Decimal(x) if sign == "−" else Decimal(x) for sign, x in terms)
        yield Decimal(left), Decimal(match[2].replace("−", "-"))


def test_every_calculation_in_the_goldens_adds_up() -> None:
    sides = [pair for report, *_ in GOLDENS for pair in _sums(cause_of(report))]
    assert len(sides) >= 12
    assert all(left == right for left, right in sides)


_BYTES = st.integers(0, 200 * GIB)
_AMOUNTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("tried_bytes", "total_bytes", "free_bytes", "allocated_bytes", "reserved_bytes", "reserved_unallocated_bytes", "allowed_bytes", "this_process_bytes", "requested_bytes", "kv_needed_bytes", "kv_available_bytes", "other_bytes", "host_required_bytes", "host_available_bytes", "used_bytes"), _BYTES))  # fmt: skip
_FAMILIES = st.sampled_from([
    "pytorch-cuda", "pytorch-hip", "pytorch-xpu", "pytorch-legacy", "mps", "cpu", "vllm", "sglang",
    "tgi", "tensorrt-llm", "llama.cpp", "llama.cpp-vulkan", "llama.cpp-metal", "ollama", "mlx",
    "jax", "tensorflow", "ray", "nvidia-smi", "host-kill", "nvml-assert", "cuda-error", "unheard-of",
    "pytorch-cuda+vllm",
])  # fmt: skip
_STAGE = st.sampled_from([
    "load", "train-forward", "train-backward", "optimizer-step", "eval", "save", "merge", "resume",
    "inference", "generate", "serve-init", "serve-run", "unknown",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_FAMILIES, _AMOUNTS, _STAGE, st.text(max_size=40),
       st.lists(st.fixed_dictionaries({"pid": st.integers(1, 10**6), "bytes": _BYTES}), max_size=4))  # fmt: skip
def test_any_numbers_give_a_cause_whose_calculations_add_up(
    family: str, fields: dict[str, int], stage: Any, words: str, processes: list[dict[str, int]]
) -> None:
    report = Report(
        family=family, fields={**fields, "processes": processes}, line=1, last_line=1, quote=words,
        context=Context(stage=stage),
    )  # fmt: skip
    for facts in (None, SCENARIOS[0][0]):
        cause = cause_of(report, facts)
        assert cause.name in NAMES
        assert all(cause.evidence)
        assert all(left == right for left, right in _sums(cause))
    if cause_of(report).name == "fragmentation":
        unallocated = fields.get("reserved_unallocated_bytes")
        if unallocated is None:
            unallocated = max(0, fields["reserved_bytes"] - fields["allocated_bytes"])
        assert unallocated * 10 >= fields["total_bytes"]
        assert unallocated + fields["free_bytes"] >= fields["tried_bytes"] > fields["free_bytes"]


@given(_BYTES, st.lists(st.tuples(st.sampled_from("+−"), _BYTES, st.just("free")), max_size=3))
def test_worked_out_is_what_a_reader_gets_by_hand(
    first: int, terms: list[tuple[str, int, str]]
) -> None:
    text = worked_out(first, *terms)
    left, right = text.split(" = ")
    total = Decimal(0)
    for sign, number in re.findall(r"(?:^|([−+]) )(\d+(?:\.\d\d)?)", left):
        total += -Decimal(number) if sign == "−" else Decimal(number)
    assert total == Decimal(right.split()[0].replace("−", "-"))


def test_amounts_have_two_decimals() -> None:
    texts = [amount(x) for x in (512, 1536, 51 * MIB, int(1.7 * GIB), 2000 * GIB)]
    assert texts == ["512 bytes", "1.50 KiB", "51.00 MiB", "1.70 GiB", "2000.00 GiB"]


# --- structure -------------------------------------------------------------------------------


def test_every_rule_is_registered_once_and_states_its_mechanism() -> None:
    modules = [importlib.import_module(f"{causes.__name__}.{x.name}") for x in pkgutil.iter_modules(causes.__path__)]  # fmt: skip
    rules = [module.RULE for module in modules if hasattr(module, "RULE")]
    registered = [*HARD, *SOFT]
    assert sorted(rule.name for rule in rules) == sorted(rule.name for rule in registered)
    assert len({rule.name for rule in registered}) == len(registered)
    assert all(
        isinstance(rule, Rule) and re.fullmatch(r"[^\n]{20,240}\.", rule.mechanism)
        for rule in rules
    )


def test_a_cause_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="not a cause"):
        Cause(name="bad luck", confidence="guess")


def test_a_report_of_nothing_known_is_unknown() -> None:
    cause = cause_of(_said("unheard-of", "something"))
    assert (cause.name, cause.confidence) == ("unknown", "guess")
