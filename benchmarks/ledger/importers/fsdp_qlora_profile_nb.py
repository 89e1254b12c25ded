"""AnswerDotAI/fsdp_qlora profiling notebooks: ``memory_allocated`` after model, forward, backward.

A stock ``LlamaForCausalLM(config)`` in bfloat16 and in train mode, batch 1, no optimizer, outputs
alive, ``logits.mean()`` as loss. Neither notebook names its release; their bytes do (`_RELEASES`).
The GPU is unstated, its 16 GB are said in a comment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from benchmarks.ledger.moments import Moment, moment_by_formula
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import About, Expressed, Miss, NotExpressed, PublishedRow
from willfit.devices import cublas_workspace_bytes, find_gpu
from willfit.dtypes import BFLOAT16
from willfit.estimator import estimate
from willfit.results import Estimate
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    ModelSpec,
    Quantization,
    Scenario,
    Stack,
    Training,
    Workload,
)
from willfit.scenario.stack import TESTED
from willfit.sources.checkpoint import spec_of
from willfit.sources.structure import Checkpoint

_GPU: Final = find_gpu("RTX A4000")
"""16 GB; bfloat16 memory linear in the length says sm_80 or later."""
_RELEASES: Final = {"lora_qlora.ipynb": "4.37.2", "lora_qlora_hqq.ipynb": "4.38.1"}
"""transformers by the end of the notebook's name. The first: cos and sin in every layer, float32
logits, no mask. The second: a buffer of 2048² int64, 33.6 MB, which only 4.38.0 and 4.38.1 have."""
_BITSANDBYTES: Final = "0.42.0"
"""Of their time, as all before 0.43.2: 4-bit products keep their input, 8·h bytes a token and layer
after forward and 10·h after backward, as measured (7.97 and 9.9)."""
_MOMENTS: Final[dict[str, Moment]] = {
    "memory_allocated after model.to(cuda,bf16)": "loaded",
    "memory_allocated after forward (output alive)": "forward",
    "memory_allocated after backward (output+grads alive)": "backward",
}
ABOUT: Final = About(
    title="AnswerDotAI/fsdp_qlora, profiling notebooks",
    apart=lambda _, kind: kind in _MOMENTS,
    unknowns={
        "transformers": "4.37.2 in the first notebook, 4.38.1 in the second, by their byte counts",
        "bitsandbytes": f"{_BITSANDBYTES}: any before 0.43.2",
        "cuBLAS workspaces of earlier runs": "by the order of the cells; one more or less",
    },
    misses=(
        Miss(
            why="4·h bytes a token more than 4.37.2's code keeps, for each RMSNorm whose input "
            "needs a gradient (49 in the base model, 48 under LoRA, 1 under checkpointing): a "
            "second float32 copy that no line of 4.36 or 4.37 keeps, nor autograd for pow, rsqrt "
            "and mul",
            kind="memory_allocated after forward",
            where=lambda row: not row["repo_path"].endswith("hqq.ipynb"),
        ),
    ),
)


def express(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """One result per moment."""
    for entry in row["measured"]:
        yield _expressed(row, entry["kind"], traced=False)


def express_by_trace(row: PublishedRow) -> Iterator[Expressed | NotExpressed]:
    """Today's releases, and what their predecessors held besides from the formulas.

    4.37's code asks for a mask's values, which fake tensors have not, and has no quantizers.
    """
    for entry in row["measured"]:
        yield _expressed(row, entry["kind"], traced=True)


def _expressed(row: PublishedRow, kind: str, *, traced: bool) -> Expressed | NotExpressed:
    if row["quant"] is not None and row["quant"].startswith("HQQ"):
        return NotExpressed(
            kind=kind, reason="HQQ layers have neither a formula nor a traced kernel"
        )
    moment = _MOMENTS[kind]
    scenario = _scenario(row)
    slack = cublas_workspace_bytes(_GPU)
    plus = _earlier_workspaces(row, moment) + _contiguous(row, moment)
    if not traced:
        return Expressed(
            kind=kind,
            scenario=scenario,
            reading=lambda found: _alive(scenario, found, moment) + plus,
            card_known=False,
            unknown_bytes=(-slack, slack),
        )
    today = replace(scenario, stack=Stack())
    plus += _by_formula(scenario, moment) - _by_formula(today, moment)
    return Expressed(
        kind=kind,
        scenario=today,
        reading=Reading(moment=moment),
        card_known=False,
        unknown_bytes=(plus - slack, plus + slack),
    )


def _is_second(row: PublishedRow) -> bool:
    return str(row["repo_path"]).endswith("hqq.ipynb")


def _alive(scenario: Scenario, found: Estimate, moment: Moment) -> int:
    """What the formulas say is alive then; of a forward pass's logits the last form alone."""
    alive = moment_by_formula(scenario, found, moment)
    if scenario.workload.inference is None:
        return alive
    phase = next(phase for phase in found.binding.phases if phase.name in ("load", "prefill"))
    adapters = sum(p.num_bytes for p in phase.components if p.name == "adapters")
    if moment == "loaded":
        return alive + adapters
    made = sum(
        part.num_bytes
        for phase in found.binding.phases
        for part in phase.components
        if phase.name == "prefill" and part.name == "logits"
    )
    batch, seq = scenario.workload.inference.batch_size, scenario.workload.inference.context_len
    architecture = scenario.model.architecture
    assert architecture is not None
    assert seq is not None
    element = 2 if scenario.stack.at_least("transformers", "4.45") else 4
    return alive - made + element * batch * (seq - 1) * architecture.vocab_size + adapters


def _contiguous(row: PublishedRow, moment: Moment) -> int:
    """What 4.38 copies on CUDA alone, and the trace's tensors are the host's: k and v, 4·h."""
    if not _is_second(row) or moment != "forward" or row["task"] != "train" or row["grad_ckpt"]:
        return 0
    arch = row["arch"]
    return 4 * int(arch["hidden_size"] * arch["num_hidden_layers"] * row["seq"] * row["batch"])


def _earlier_workspaces(row: PublishedRow, moment: Moment) -> int:
    """CuBLAS workspaces that earlier cells left, where this run has none yet.

    None before the first run, one until the first backward pass, two from then on.
    """
    first = row["arch"]["num_hidden_layers"] == 2 and row["seq"] == 512
    trained = row["peft"] is not None or (row["task"] == "train" and row["seq"] > 512)
    left = 0 if first else 2 if trained else 1
    here = {"loaded": 0, "forward": 1, "backward": 2}[moment]
    return max(left - here, 0) * cublas_workspace_bytes(_GPU)


def _by_formula(scenario: Scenario, moment: Moment) -> int:
    return _alive(scenario, estimate(scenario, search_limits=False), moment)


def _scenario(row: PublishedRow) -> Scenario:
    quantization = None
    if row["quant"] is not None:
        quantization = Quantization(scheme="nf4", compute_dtype=BFLOAT16)
    inference = Inference(context_len=row["seq"] + 1, full_logits=True, lora=_lora(row))
    work: dict[str, Any] = {"inference": inference}
    if row["task"] == "train":
        work = {"training": _training(row, quantized=quantization is not None)}
    return Scenario(
        model=_model(**row["arch"]),
        workload=Workload(loading=Loading(dtype=BFLOAT16, quantization=quantization), **work),
        machine=Machine(gpus=(_GPU,)),
        stack=Stack(
            versions={
                **TESTED,
                "transformers": _release(row),
                **({"bitsandbytes": _BITSANDBYTES} if quantization is not None else {}),
            }
        ),
    )


def _release(row: PublishedRow) -> str:
    found = (v for name, v in _RELEASES.items() if str(row["repo_path"]).endswith(name))
    return next(found, "4.37.2")


def _lora(row: PublishedRow) -> Lora | None:
    peft = row["peft"]
    if peft is None:
        return None
    return Lora(r=peft["r"], dropout=peft["lora_dropout"], dtype=BFLOAT16)


def _training(row: PublishedRow, *, quantized: bool) -> Training:
    lora = _lora(row)
    return Training(
        method="full" if lora is None else "qlora" if quantized else "lora",
        trainer="loop",
        loss="logits",
        lora=lora,
        optimizer="sgd",
        micro_batch_size=row["batch"],
        max_length=row["seq"],
        gradient_checkpointing=row["grad_ckpt"],
        use_reentrant=False,
        max_grad_norm=None,
    )


@lru_cache
def _model(**shape: int) -> ModelSpec:
    """``LlamaConfig()`` with these fields changed."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        **shape,
    }
    return spec_of(Checkpoint(id=f"llama of {shape['hidden_size']}", source="local", config=config))
