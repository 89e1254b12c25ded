"""``python -m benchmarks.throughput``: every published speed beside ours, by source."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any, Final

from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, DTYPES, FLOAT16, DType
from willfit.errors import WillfitError
from willfit.estimator.timing import Timing, timing
from willfit.formulas.timing.span import Span
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
from willfit.scenario.stack import TESTED, release
from willfit.sources.resolve import resolve

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DEFAULT_ROWS: Final = Path(__file__).resolve().parents[2] / "shared" / "measured"
FILE: Final = "throughput.jsonl"
_GPUS: Final = {"A100-80GB": "A100-SXM4-80GB", "H20-96GB": "H20", "H100": "H100 80GB HBM3",
                "A6000": "RTX A6000", "4090": "RTX 4090"}  # fmt: skip
WITHIN: Final = 0.25
"""Error that a source's median is meant to stay within."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A published speed beside ours, both as seconds per unit (so that more is slower)."""

    id: str
    source: str
    kind: str
    what: str
    measured: float
    ours: Span | None
    limited_by: str
    reason: str = ""
    """Why there is no estimate."""

    @property
    def error(self) -> float | None:
        """(ours − measured) / measured of the published unit; None without an estimate."""
        return None if self.ours is None else self.ours.nominal / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in our range."""
        return self.ours is not None and self.ours.low <= self.measured <= self.ours.high


def judge(row: Row) -> Judged:
    """One row; what cannot be expressed carries the reason."""
    ours, limited_by, reason = None, "", ""
    try:
        timed = timing(_scenario(row))
        ours, limited_by = _reading(row, timed), timed.limited_by
    except WillfitError as error:
        reason = str(error)
    except NotImplementedError as error:
        reason = str(error)
    return Judged(
        id=row["id"], source=row["source"], kind=row["kind"], what=_what(row),
        measured=float(row["value"]), ours=ours, limited_by=limited_by, reason=reason,
    )  # fmt: skip


def _what(row: Row) -> str:
    work = row["workload"]
    parts = [row["model"].partition("/")[2] or row["model"], str(row["gpu"])]
    if row["n_gpu"] > 1:
        parts.append(f"×{row['n_gpu']}")
    parts += [f"{key} {work[key]}" for key in ("method", "attn", "batch", "prompt", "seq")
              if work.get(key)]  # fmt: skip
    return ", ".join(parts)


def _reading(row: Row, timed: Timing) -> Span:
    """The published quantity of our timing."""
    work, kind = row["workload"], row["kind"]
    if kind == "step_seconds":
        assert timed.step_seconds is not None
        if not work.get("no_step"):
            return timed.step_seconds
        share = 1 - timed.parts["update"] / sum(timed.parts.values())
        return timed.step_seconds.times(share)
    if kind == "train_tokens_per_s":
        assert timed.tokens_per_second is not None
        return timed.tokens_per_second
    if kind == "train_samples_per_s":
        assert timed.samples_per_second is not None
        return timed.samples_per_second
    if kind == "forward_seconds":
        assert timed.prefill_seconds is not None
        return timed.prefill_seconds
    assert timed.batch_seconds is not None
    tokens = work["new_tokens"] + (work["prompt"] if kind == "total_tokens_per_s" else 0)
    return timed.batch_seconds.rate(work["batch"] * tokens)


def _scenario(row: Row) -> Scenario:
    work = row["workload"]
    gpu = find_gpu(_GPUS.get(row["gpu"], row["gpu"]))
    versions = {
        name: ".".join(map(str, release(str(version).lstrip("~"))))
        for name, version in (row.get("stack") or {}).items()
        if name in TESTED and release(str(version).lstrip("~"))
    }
    model = _model(row)
    quantization = _quantization(work)
    loading = Loading(
        dtype=_dtype(work, model, quantization),
        quantization=quantization,
        strategy=work.get("strategy"),
    )
    return Scenario(
        model=model,
        workload=_inference(work, loading)
        if work["task"] == "inference"
        else _train(work, loading),
        machine=Machine(gpus=(gpu,) * int(row["n_gpu"])),
        stack=Stack(versions={**TESTED, **versions}),
    )


def _dtype(work: Row, model: ModelSpec, quantization: Quantization | None) -> DType:
    if work.get("dtype"):
        return DTYPES[work["dtype"]]
    return FLOAT16 if quantization is not None else model.stored_dtype


def _quantization(work: Row) -> Quantization | None:
    quant = work.get("quant")
    if not quant:
        return None
    return Quantization(
        scheme=quant["scheme"],
        compute_dtype=DTYPES[quant["compute_dtype"]] if quant.get("compute_dtype") else None,
        double_quant=bool(quant.get("double_quant")),
    )


def _inference(work: Row, loading: Loading) -> Workload:
    new_tokens = int(work.get("new_tokens") or 1)
    inference = Inference(
        batch_size=int(work["batch"]),
        context_len=int(work["prompt"]) + (new_tokens if work.get("new_tokens") else 0),
        max_new_tokens=new_tokens if work.get("new_tokens") else None,
        attn=work.get("attn"),
        full_logits=bool(work.get("full_logits")),
        padded=bool(work.get("padded")),
    )
    if not work.get("new_tokens"):
        inference = Inference(
            batch_size=inference.batch_size,
            context_len=int(work["prompt"]) + 1,
            max_new_tokens=1,
            attn=inference.attn,
            full_logits=inference.full_logits,
            padded=inference.padded,
        )
    return Workload(loading=loading, inference=inference)


def _train(work: Row, loading: Loading) -> Workload:
    if work.get("peft"):
        raise NotImplementedError("a PEFT method without a formula for its time")
    lora = None
    if work["method"] != "full":
        lora = Lora(
            r=int(work["r"]),
            target_modules=tuple(work["targets"]) if work.get("targets") else None,
            modules_to_save=tuple(work.get("save") or ()),
            dtype=BFLOAT16 if work.get("adapter_dtype") == "bfloat16" else None,
        )
    autocast = work.get("autocast")
    training = Training(
        method=work["method"],
        trainer=work["trainer"],
        loss=work.get("loss", "model"),
        lora=lora,
        optimizer=work["optimizer"],
        micro_batch_size=int(work["batch"]),
        gradient_accumulation_steps=int(work.get("accum") or 1),
        max_length=int(work["seq"]),
        lengths=tuple(work.get("lengths") or ()),
        padded=bool(work.get("padded")),
        gradient_checkpointing=bool(work["checkpointing"]),
        bf16=autocast == "bf16",
        fp16=autocast == "fp16",
        prepare_kbit=work.get("prepare_kbit"),
        attn=work.get("attn"),
    )
    return Workload(loading=loading, training=training)


def _model(row: Row) -> ModelSpec:
    arch = row["workload"].get("arch")
    return _llama_like(json.dumps(arch)) if arch else resolve(row["model"])


@lru_cache(maxsize=32)
def _llama_like(arch: str) -> ModelSpec:
    """A Llama of the published shape, as a ``config.json`` that is read like any other."""
    sizes = json.loads(arch)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": sizes["hidden"], "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"], "num_key_value_heads": sizes["heads"],
        "intermediate_size": sizes["inter"], "vocab_size": sizes["vocab"],
        "tie_word_embeddings": sizes["tie"], "max_position_embeddings": 4096,
        "torch_dtype": "float32", "rms_norm_eps": 1e-5, "hidden_act": "silu",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        return resolve(str(path))


def judge_file(path: Path) -> list[Judged]:
    """All rows of a file of published speeds."""
    with path.open(encoding="utf-8") as lines:
        return [judge(json.loads(line)) for line in lines]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The errors of one source and kind."""

    source: str
    kind: str
    rows: int
    expressed: int
    median: float | None
    p95: float | None
    bias: float | None
    inside: float | None
    """Part of the published figures that lie in our range."""


def summarise(source: str, kind: str, members: Sequence[Judged]) -> Summary:
    """Median and 95th percentile of the absolute error, median of the signed one."""
    errors = sorted(abs(j.error) for j in members if j.error is not None)
    signed = [j.error for j in members if j.error is not None]
    if not errors:
        return Summary(source=source, kind=kind, rows=len(members), expressed=0, median=None,
                       p95=None, bias=None, inside=None)  # fmt: skip
    return Summary(
        source=source, kind=kind, rows=len(members), expressed=len(errors),
        median=median(errors), p95=errors[min(int(0.95 * len(errors)), len(errors) - 1)],
        bias=median(signed), inside=sum(j.inside for j in members) / len(errors),
    )  # fmt: skip


def groups(judged: Sequence[Judged]) -> Iterator[tuple[Summary, list[Judged]]]:
    """The rows by source and kind with their summaries."""
    key = lambda j: (j.source, j.kind)  # noqa: E731 - a key used twice
    for (source, kind), members in groupby(sorted(judged, key=key), key=key):
        rows = list(members)
        yield summarise(source, kind, rows), rows


def render(judged: Sequence[Judged], worst: int) -> str:
    """A Markdown table by source and, below it, the worst rows."""
    lines = [
        "| source | published | rows | expressed | median error | p95 | bias | in range |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lists: list[str] = []
    for summary, members in groups(judged):
        lines.append(_line(summary))
        ranked = sorted(
            (j for j in members if j.error is not None), key=lambda j: -abs(j.error or 0)
        )
        lists += [
            f"- {j.error or 0:+.0%} `{j.id}` {j.what}: published {j.measured:.4g}, ours "
            f"{j.ours.nominal if j.ours else 0:.4g} ({j.limited_by})"
            for j in ranked[:worst]
        ]
    return "\n".join([*lines, "", *lists])


def _line(summary: Summary) -> str:
    def percent(value: float | None, sign: str = "") -> str:
        return "n/a" if value is None else format(value, f"{sign}.0%")

    return (
        f"| {summary.source} | {summary.kind} | {summary.rows} | {summary.expressed} | "
        f"{percent(summary.median)} | {percent(summary.p95)} | {percent(summary.bias, '+')} | "
        f"{percent(summary.inside)} |"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; ``--worst`` lists rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--rows", type=Path, default=DEFAULT_ROWS, help=f"folder with {FILE}")
    parser.add_argument("--source", action="append", help="only this source (repeatable)")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="list the worst N rows")
    arguments = parser.parse_args(argv)
    path = arguments.rows / FILE
    if not path.is_file():
        print(f"no {path}: give the folder of published speeds with --rows", file=sys.stderr)
        return 1
    judged = judge_file(path)
    if arguments.source:
        judged = [j for j in judged if j.source in arguments.source]
    print(render(judged, arguments.worst))
    return 0


if __name__ == "__main__":
    sys.exit(main())
