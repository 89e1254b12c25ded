"""Seconds of an inference: the prompt, a decoded token, a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from willfit.estimator.speed.prepared import Prepared, rates, weights_off_gpu
from willfit.estimator.speed.shared import (
    REPLICATED,
    attention_kernel,
    gpus_of,
    notes,
    span,
    unsupported,
)
from willfit.estimator.spread import strategy_of
from willfit.formulas.inference.settings import Settings, fill_defaults
from willfit.formulas.timing.communication import tensor_parallel_bytes
from willfit.formulas.timing.generation import Generation
from willfit.formulas.timing.result import Timing, limited_by
from willfit.formulas.timing.work import Cost, Costs, Work, costs
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import Inference

GRAPHED: Final = ("vllm", "llama.cpp")
"""Engines that launch no kernel from Python (CUDA graphs, C++) and do not copy the cache."""


def time_inference(scenario: Scenario, inference: Inference, prepared: Prepared) -> Timing:
    """One batch; replicas run as many batches at once."""
    anatomy = prepared.anatomy
    settings = fill_defaults(anatomy.architecture, inference, anatomy.dtype, scenario.stack)
    kernel = attention_kernel(
        scenario,
        anatomy,
        settings.implementation,
        anatomy.dtype,
        batch=settings.batch,
        length=settings.prompt_len,
        masked=inference.padded,
        forced=inference.sdpa_kernel,
        training=False,
    )
    apart = inference.lora is not None and not inference.merge_adapter
    made = Generation(
        anatomy=anatomy,
        inference=inference,
        settings=settings,
        stack=scenario.stack,
        rates=rates(gpus_of(scenario)[0]),
        kernel=kernel,
        adapter=prepared.adapter(inference.lora)[0] if inference.lora and apart else None,
    )
    prefill, decode = made.passes()
    prefill = _placed(scenario, prepared, prefill, settings.batch * settings.prompt_len)
    if decode is not None:
        decode = _placed(scenario, prepared, decode, settings.batch)
    return _timing(scenario, inference, settings, prefill, decode, notes(scenario, kernel))


def _placed(scenario: Scenario, prepared: Prepared, work: Work, tokens: int) -> Work:
    """The pass of one GPU where the machine decides: weights off it, a part of every product."""
    host, disk = weights_off_gpu(scenario, prepared)
    if host or disk:
        work = work._replace(host_bytes=work.host_bytes + host, disk_bytes=disk)
    inference = scenario.workload.inference
    if inference is not None and inference.engine in GRAPHED:
        pieces = tuple(piece for piece in work.pieces if piece.kind != "cache" or piece.flops)
        work = work._replace(operators=0.0, pieces=pieces)
    degree = len(gpus_of(scenario))
    if strategy_of(scenario) == "tp" and degree > 1:
        pieces = tuple(piece.times(1 / degree, 1 / degree) for piece in work.pieces)
        sent = tensor_parallel_bytes(prepared.anatomy, tokens, degree)
        work = work._replace(pieces=pieces, link_bytes=sent)
    return work


def _costs(work: Work, gpus: tuple[Gpu | None, ...]) -> Costs:
    """Costs of the work where GPUs take turns: of unlike ones, the mean."""
    kinds = {id(gpu): gpu for gpu in gpus}
    if len(kinds) == 1:
        return costs(work, rates(gpus[0]))
    each = [costs(work, rates(gpu)) for gpu in gpus]
    low, nominal, high = (_mean(level) for level in zip(*each, strict=True))
    return low, nominal, high


def _mean(spent: Sequence[Cost]) -> Cost:
    return Cost(*(sum(values) / len(spent) for values in zip(*spent, strict=True)))


def _timing(
    scenario: Scenario,
    inference: Inference,
    settings: Settings,
    prefill: Work,
    decode: Work | None,
    said: tuple[str, ...],
) -> Timing:
    gpus = gpus_of(scenario)
    replicas = len(gpus) if strategy_of(scenario) in REPLICATED else 1
    first = _costs(prefill, gpus)
    whole = prompt = span([spent.seconds for spent in first])
    steps = settings.new_tokens - 1 if decode is not None else 0
    each = None
    most = first[1]
    if decode is not None:
        later = _costs(decode, gpus)
        each = span([spent.seconds for spent in later])
        whole = prompt.plus(each.times(steps))
        most = later[1] if steps else most
    together = settings.batch * replicas
    return Timing(
        prefill_seconds=prompt,
        decode_seconds_per_token=each,
        batch_seconds=whole,
        tokens_per_second=each.rate(together) if each else None,
        tokens_per_second_per_sequence=each.rate(1.0) if each else None,
        samples_per_second=whole.rate(together),
        samples_per_step=float(together),
        flops=replicas * (prefill.flops + steps * (decode.flops if decode else 0.0)),
        limited_by=limited_by(most),
        parts={"prefill": prompt.nominal, "decode": each.nominal * steps if each else 0.0},
        assumptions=(*settings.assumptions, *said),
        unsupported=(*unsupported(scenario), *_engine(inference)),
    )


def _engine(inference: Inference) -> tuple[str, ...]:
    if inference.engine not in GRAPHED:
        return ()
    return (f"times of {inference.engine} are not checked: kernels alone, no scheduling",)
