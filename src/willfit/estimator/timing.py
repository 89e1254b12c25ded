"""How long a scenario takes: prefill, a decoded token, an optimizer step, as ranges of seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Literal

from willfit.devices import find_gpu
from willfit.dtypes import FLOAT32, DType
from willfit.errors import UnsupportedError
from willfit.estimator.spread import spread, strategy_of
from willfit.formulas.attention import choose_kernel
from willfit.formulas.inference.activations import attention_shape
from willfit.formulas.inference.settings import fill_defaults
from willfit.formulas.timing.anatomy import Anatomy, anatomy_of
from willfit.formulas.timing.communication import sent_bytes
from willfit.formulas.timing.efficiency import FAST, NOMINAL, SLOW, Efficiency
from willfit.formulas.timing.forward import Tokens
from willfit.formulas.timing.generation import adapter_work, generation
from willfit.formulas.timing.lengths import Padded, of_equal, packed, padded
from willfit.formulas.timing.rates import Rates, rates_of
from willfit.formulas.timing.span import Span
from willfit.formulas.timing.step import StepWork, Trained, step_work
from willfit.formulas.timing.work import Cost, Work, cost
from willfit.formulas.training.lora import Adapter, build_adapter
from willfit.formulas.training.settings import TrainingSettings, fill_training
from willfit.formulas.training.static import trainables
from willfit.formulas.weights import LoadedWeights, load_weights, on_machine
from willfit.scenario import Scenario
from willfit.scenario.machine import Gpu
from willfit.scenario.workload import Lora

Limit = Literal["compute", "bandwidth", "launch", "pcie", "disk", "link"]
"""What most of the time goes to: products, memory traffic, the host's Python and launches, copies
over PCIe, reading from disk, or what GPUs send each other."""

STAND_IN: Final = {60: "P100", 70: "V100", 75: "T4", 80: "A100", 86: "A10", 89: "L4", 90: "H100"}
"""The card whose rates are taken for one of that compute capability that nobody knows."""
FEW_BYTES: Final = 0.75
"""Part of the GPUs' budget below which weights are on the GPUs without asking the placement."""
REPLICATED: Final = ("ddp", "dp", "fsdp", "zero1", "zero2", "zero3", "replicas")
"""Strategies under which every GPU has samples of its own."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one scenario; None where the workload has no such thing."""

    prefill_seconds: Span | None = None
    """The pass over the prompts of a batch (a whole forward pass for an encoder)."""
    decode_seconds_per_token: Span | None = None
    """One decoding step: one token more for every sequence of the batch, at the mean context."""
    batch_seconds: Span | None = None
    """A batch from prompt to last token; None in training."""
    step_seconds: Span | None = None
    """One optimizer step, accumulation and all GPUs included."""
    tokens_per_second: Span | None = None
    """New tokens a second of all sequences and replicas, or tokens of data trained on a second."""
    tokens_per_second_per_sequence: Span | None = None
    """New tokens a second that one reader sees; None in training."""
    samples_per_second: Span | None = None
    """Prompts answered, or samples trained on, of all GPUs together."""
    samples_per_step: float = 0.0
    """Samples of an optimizer step, or of a batch of all replicas."""
    padding_waste: float = 0.0
    """Part of the computed tokens of training that is padding."""
    flops: float = 0.0
    """FLOPs of a step, or of a batch, on all GPUs."""
    limited_by: Limit = "compute"
    parts: Mapping[str, float] = field(default_factory=dict)
    """Nominal seconds by phase of a step or batch: forward, backward, update, communication; or
    prefill, decode."""
    assumptions: tuple[str, ...] = ()
    unsupported: tuple[str, ...] = ()


def timing(scenario: Scenario) -> Timing:
    """Seconds of a scenario by closed formulas, low and high ends included.

    Raises `UnsupportedError` where the model has no formula or the workload takes no time (load).
    """
    workload = scenario.workload
    prepared = _prepared(scenario)
    if workload.training is not None:
        return _train(scenario, prepared)
    if workload.inference is not None:
        return _infer(scenario, prepared)
    raise UnsupportedError("loading has no time of its own here: name an inference or a training")


def job_seconds(timed: Timing, *, samples: int, epochs: float = 1.0, eval_samples: int = 0) -> Span:
    """A whole job: epochs over the samples, and evaluation (a forward pass) of others.

    Training: ⌈samples·epochs / samples a step⌉ steps. Inference: batches of prompts. Evaluation
    takes the forward part of a step for its samples. Loading and saving are not in it.
    """
    one = timed.step_seconds or timed.batch_seconds
    if one is None or not timed.samples_per_step:
        raise UnsupportedError("this workload has no samples to count")
    rounds = -(-samples * epochs // timed.samples_per_step)
    whole = one.times(rounds)
    if eval_samples and timed.step_seconds is not None:
        share = timed.parts.get("forward", 0.0) / max(sum(timed.parts.values()), 1e-12)
        whole = whole + one.times(share * eval_samples / timed.samples_per_step)
    return whole


def relative_time(before: Timing, after: Timing) -> float:
    """Nominal time a sample takes after a change, over that before it."""
    if before.samples_per_second is None or after.samples_per_second is None:
        raise UnsupportedError("only two inferences or two trainings can be compared")
    return before.samples_per_second.nominal / after.samples_per_second.nominal


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What depends on the model and its loading alone."""

    weights: LoadedWeights
    anatomy: Anatomy
    adapters: dict[Lora, Adapter] = field(default_factory=dict)
    trained: dict[tuple[str, ...], tuple[float, float, DType]] = field(default_factory=dict)
    spreads: dict[tuple[Any, ...], tuple[int, int]] = field(default_factory=dict)
    keep: tuple[Any, ...] = ()
    """Objects whose identity is in a key, so that it stays theirs."""


_CACHE: dict[tuple[Any, ...], _Prepared] = {}
_CACHED: Final = 64
"""Models kept; more drop the oldest."""


def _prepared(scenario: Scenario) -> _Prepared:
    loading, machine = scenario.workload.loading, scenario.machine
    key = (
        id(scenario.model),
        loading.dtype,
        loading.quantization,
        tuple(scenario.stack.versions.items()),
        min((gpu.sm for gpu in machine.gpus), default=0) if machine is not None else 0,
        scenario.workload.training is None,
    )
    found = _CACHE.get(key)
    if found is None:
        found = _prepare(scenario)
        if len(_CACHE) >= _CACHED:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = found
    return found


def _prepare(scenario: Scenario) -> _Prepared:
    model = on_machine(scenario.model, scenario.workload, scenario.machine)
    if model.architecture is None:
        raise UnsupportedError(
            f"the formulas do not know the shapes of {model.model_class}, so nor its time"
        )
    weights = load_weights(model, scenario.workload.loading, scenario.stack)
    return _Prepared(
        weights=weights,
        anatomy=anatomy_of(model, model.architecture, weights),
        keep=(scenario.model,),
    )


@lru_cache(maxsize=256)
def _stand_in(sm: int) -> Gpu:
    nearest = min(STAND_IN, key=lambda known: (abs(known - sm), known))
    return find_gpu(STAND_IN[nearest])


_RATES: dict[int, tuple[Gpu, Rates]] = {}


def _rates(gpu: Gpu | None) -> Rates:
    """Rates by the identity of the card, which is kept."""
    found = _RATES.get(id(gpu))
    if found is None:
        sm = gpu.sm if gpu is not None and gpu.vendor == "nvidia" else 80
        found = (gpu, rates_of(gpu, _stand_in(sm)))  # type: ignore[assignment]  # None is kept too
        if len(_RATES) > 1024:
            _RATES.clear()
        _RATES[id(gpu)] = found  # type: ignore[assignment]
    return found[1]  # type: ignore[index]


def _gpus(scenario: Scenario) -> tuple[Gpu | None, ...]:
    return scenario.machine.gpus if scenario.machine is not None else (None,)


_LEVELS: Final = (FAST, NOMINAL, SLOW)


def _span(values: list[float]) -> Span:
    return Span(low=values[0], nominal=values[1], high=values[2])


def _off_gpu(scenario: Scenario, prepared: _Prepared) -> tuple[int, int]:
    """(host, disk) bytes of weights that placement leaves off the GPUs."""
    machine, loading = scenario.machine, scenario.workload.loading
    if machine is None or strategy_of(scenario) != "device_map":
        return 0, 0
    budget = sum(machine.budget_bytes(index) for index in range(len(machine.gpus)))
    small = prepared.anatomy.weight_bytes < FEW_BYTES * budget
    if small and loading.max_memory is None:
        return 0, 0
    caps = tuple(sorted((str(k), v) for k, v in (loading.max_memory or {}).items()))
    key = (caps, tuple(map(id, machine.gpus)), machine.in_use_bytes, machine.reserve_bytes,
           machine.ram_bytes)  # fmt: skip
    found = prepared.spreads.get(key)
    if found is None:
        split = spread(replace(scenario, model=scenario.model), prepared.weights)
        found = (split.host_weight_bytes, split.disk_weight_bytes)
        prepared.spreads[key] = found
    return found


def _infer(scenario: Scenario, prepared: _Prepared) -> Timing:
    inference = scenario.workload.inference
    assert inference is not None
    anatomy = prepared.anatomy
    gpus = _gpus(scenario)
    rates = _rates(gpus[0])
    settings = fill_defaults(anatomy.architecture, inference, anatomy.dtype, scenario.stack)
    kernel = _kernel(
        scenario, anatomy, settings.implementation, anatomy.dtype,
        batch=settings.batch, length=settings.prompt_len, masked=inference.padded, training=False,
    )  # fmt: skip
    made = generation(anatomy, inference, settings, scenario.stack, rates, kernel=kernel)
    host, disk = _off_gpu(scenario, prepared)
    prefill = replace(made.prefill, host_bytes=made.prefill.host_bytes + host, disk_bytes=disk)
    decode = made.decode
    if decode is not None:
        decode = replace(decode, host_bytes=decode.host_bytes + host, disk_bytes=disk)
    if inference.lora is not None and not inference.merge_adapter:
        adapter = _adapter(scenario, prepared, inference.lora)
        modules = sum(target.count for target in adapter.targets)
        tokens = float(settings.batch * settings.prompt_len)
        prefill = prefill + adapter_work(adapter.num_params, modules, tokens, rates)
        if decode is not None:
            decode = decode + adapter_work(adapter.num_params, modules, settings.batch, rates)
    first = [_alike(prefill, gpus, level) for level in _LEVELS]
    later = [_alike(decode, gpus, level) for level in _LEVELS] if decode is not None else None
    return _inferred(scenario, settings.batch, settings.new_tokens, prefill, decode, first, later,
                     (*settings.assumptions, f"attention kernel {kernel}"))  # fmt: skip


def _alike(work: Work, gpus: tuple[Gpu | None, ...], level: Efficiency) -> Cost:
    """Cost of the work where GPUs take turns: of unlike ones, the mean."""
    kinds = {id(gpu): gpu for gpu in gpus}
    if len(kinds) == 1:
        return cost(work, _rates(gpus[0]), level)
    costs = [cost(work, _rates(gpu), level) for gpu in gpus]
    count = len(costs)
    return Cost(*(sum(getattr(c, name) for c in costs) / count for name in _COSTS))


_COSTS: Final = ("compute", "bandwidth", "launch", "pcie", "disk")


def _inferred(
    scenario: Scenario,
    batch: int,
    new_tokens: int,
    prefill: Work,
    decode: Work | None,
    first: list[Cost],
    later: list[Cost] | None,
    notes: tuple[str, ...],
) -> Timing:
    gpus = _gpus(scenario)
    strategy = strategy_of(scenario)
    replicas = len(gpus) if strategy in REPLICATED else 1
    split = len(gpus) if strategy == "tp" else 1
    prefill_seconds = _span([c.seconds / split for c in first])
    steps = new_tokens - 1 if later is not None else 0
    decode_seconds = _span([c.seconds / split for c in later]) if later is not None else None
    whole = prefill_seconds
    if decode_seconds is not None and steps:
        whole = whole + decode_seconds.times(steps)
    longest = later[1] if later is not None and steps else first[1]
    return Timing(
        prefill_seconds=prefill_seconds,
        decode_seconds_per_token=decode_seconds,
        batch_seconds=whole,
        tokens_per_second=decode_seconds.rate(batch * replicas) if decode_seconds else None,
        tokens_per_second_per_sequence=decode_seconds.rate(1.0) if decode_seconds else None,
        samples_per_second=whole.rate(batch * replicas),
        samples_per_step=float(batch * replicas),
        flops=replicas * (prefill.flops + steps * (decode.flops if decode else 0.0)),
        limited_by=_limited_by(longest),
        parts={
            "prefill": prefill_seconds.nominal,
            "decode": decode_seconds.nominal * steps if decode_seconds else 0.0,
        },
        assumptions=(*notes, *_notes(scenario)),
        unsupported=_unsupported(scenario),
    )


def _limited_by(spent: Cost) -> Limit:
    computing = spent.compute + spent.bandwidth
    parts: dict[Limit, float] = {
        "compute": spent.compute if computing >= spent.launch else 0.0,
        "bandwidth": spent.bandwidth if computing >= spent.launch else 0.0,
        "launch": spent.launch if spent.launch > computing else 0.0,
        "pcie": spent.pcie,
        "disk": spent.disk,
    }
    return max(parts, key=lambda name: parts[name])


def _train(scenario: Scenario, prepared: _Prepared) -> Timing:
    training = scenario.workload.training
    assert training is not None
    anatomy = prepared.anatomy
    gpus = _gpus(scenario)
    settings = fill_training(training, anatomy.architecture, scenario.stack)
    rows, per_row = _rows(scenario, settings)
    trained = _trained(scenario, prepared)
    dtype = settings.autocast or (FLOAT32 if trained.kbit else anatomy.dtype)
    kernel = _kernel(
        scenario, anatomy, settings.implementation, dtype,
        batch=settings.batch, length=settings.seq_len, masked=settings.masked, training=True,
    )  # fmt: skip
    tokens = Tokens(
        batch=settings.batch,
        q_len=rows.mean,
        kv_len=rows.mean,
        kept=settings.batch * rows.mean,
        pairs_len=rows.root_mean_square,
    )
    strategy = strategy_of(scenario)
    ranks = len(gpus) if strategy in REPLICATED else 1
    kinds = {id(gpu): gpu for gpu in gpus}.values()
    spans: list[_Spent] = []
    works = [
        (_rates(gpu), step_work(anatomy, settings, trained, tokens, _rates(gpu), kernel=kernel))
        for gpu in kinds
    ]
    sent = sent_bytes(
        strategy,
        len(gpus),
        gradient_bytes=trained.params * trained.dtype.block_bytes,
        weight_bytes=anatomy.weight_bytes,
        micro_batches=settings.accumulation,
    )
    sharded = len(gpus) if strategy in ("fsdp", "zero1", "zero2", "zero3") else 1
    for level in _LEVELS:
        each = [_spent(work, settings, rates, level, sent, sharded) for rates, work in works]
        spans.append(max(each, key=lambda spent: spent.seconds))
    return _trained_timing(scenario, settings, rows, per_row, ranks, works[0][1], spans)


@dataclass(frozen=True, slots=True)
class _Spent:
    """Seconds of one optimizer step at one efficiency."""

    forward: Cost
    backward: Cost
    update: Cost
    micro_batches: int
    link: float
    """Seconds of communication that nothing hides."""

    @property
    def seconds(self) -> float:
        micro = self.forward.seconds + self.backward.seconds
        return self.micro_batches * micro + self.update.seconds + self.link


def _spent(
    work: StepWork,
    settings: TrainingSettings,
    rates: Rates,
    level: Efficiency,
    sent: float,
    sharded: int,
) -> _Spent:
    ahead, back = cost(work.forward, rates, level), cost(work.backward, rates, level)
    update = cost(work.update, rates, level)
    if sharded > 1:
        update = replace(update, bandwidth=update.bandwidth / sharded)
    link = sent / (rates.link * level.link)
    hidden = level.overlap * back.seconds * settings.accumulation
    return _Spent(ahead, back, update, settings.accumulation, max(link - hidden, 0.0))


def _trained_timing(
    scenario: Scenario,
    settings: TrainingSettings,
    rows: Padded,
    per_row: float,
    ranks: int,
    work: StepWork,
    spans: list[_Spent],
) -> Timing:
    step = _span([spent.seconds for spent in spans])
    nominal = spans[1]
    samples = settings.batch * per_row * settings.accumulation * ranks
    micro = settings.accumulation
    parts = {
        "forward": micro * nominal.forward.seconds,
        "backward": micro * nominal.backward.seconds,
        "update": nominal.update.seconds,
        "communication": nominal.link,
    }
    flops = ranks * (micro * (work.forward.flops + work.backward.flops) + work.update.flops)
    return Timing(
        step_seconds=step,
        tokens_per_second=step.rate(settings.batch * rows.real * micro * ranks),
        samples_per_second=step.rate(samples),
        samples_per_step=samples,
        padding_waste=rows.waste,
        flops=flops,
        limited_by=_step_limit(nominal),
        parts=parts,
        assumptions=(*settings.assumptions, *_notes(scenario)),
        unsupported=_unsupported(scenario),
    )


def _step_limit(spent: _Spent) -> Limit:
    micro = spent.micro_batches
    whole = Cost(*(
        micro * (getattr(spent.forward, name) + getattr(spent.backward, name))
        + getattr(spent.update, name)
        for name in _COSTS
    ))  # fmt: skip
    if spent.link > 0.5 * spent.seconds:
        return "link"
    return _limited_by(whole)


def _rows(scenario: Scenario, settings: TrainingSettings) -> tuple[Padded, float]:
    """The typical row of a micro-batch, and how many samples it holds."""
    training = scenario.workload.training
    assert training is not None
    lengths = training.lengths
    if not lengths:
        return of_equal(settings.seq_len), 1.0
    key = (id(lengths), settings.batch, settings.seq_len, training.group_by_length, settings.packed,
           settings.accumulation)  # fmt: skip
    found = _ROWS.get(key)
    if found is None:
        if settings.packed:
            per_row, square = packed(lengths, settings.seq_len)
            seen = float(settings.seq_len) if settings.masked else square
            real = float(settings.seq_len)
            found = (lengths, Padded(mean=real, root_mean_square=seen, real=real), per_row)
        else:
            rows = padded(
                lengths,
                settings.batch,
                settings.seq_len,
                grouped=training.group_by_length,
                accumulation=settings.accumulation,
            )
            found = (lengths, rows, 1.0)
        if len(_ROWS) > 256:
            _ROWS.clear()
        _ROWS[key] = found
    return found[1], found[2]


_ROWS: dict[tuple[Any, ...], tuple[tuple[int, ...], Padded, float]] = {}


def _adapter(scenario: Scenario, prepared: _Prepared, lora: Lora) -> Adapter:
    found = prepared.adapters.get(lora)
    if found is None:
        found, _ = build_adapter(scenario.model, lora)
        prepared.adapters[lora] = found
    return found


def _trained(scenario: Scenario, prepared: _Prepared) -> Trained:
    training = scenario.workload.training
    assert training is not None
    kbit = bool(training.prepare_kbit)
    if training.method != "full" or training.adapter_config is not None:
        adapter = None
        if training.adapter_config is None:
            adapter = _adapter(scenario, prepared, training.lora or Lora())
        params = float(adapter.num_params) if adapter is not None else 0.0
        dtype = adapter.dtype if adapter is not None else FLOAT32
        return Trained(params=params, dtype=dtype, adapter=adapter, share=0.0, kbit=kbit)
    found = prepared.trained.get(training.freeze)
    if found is None:
        found = _full(prepared, training.freeze)
        prepared.trained[training.freeze] = found
    params, share, dtype = found
    return Trained(params=params, dtype=dtype, adapter=None, share=share, kbit=kbit)


def _full(prepared: _Prepared, freeze: tuple[str, ...]) -> tuple[float, float, DType]:
    """(trainable parameters, part of the products' parameters among them, their type)."""
    frozen = 0
    for loaded in prepared.weights.rows if freeze else ():
        owner = loaded.row.owner
        if any(owner == name or owner.endswith("." + name) for name in freeze):
            frozen += loaded.row.num_elements * loaded.row.count * bool(loaded.weight_bytes)
    tensors = trainables(prepared.weights, None)
    params = sum(t.num_elements * t.count for t in tensors) - frozen
    products = sum(p.params for p in prepared.anatomy.products)
    floating = sum(p.trainable_params for p in prepared.anatomy.products)
    return float(params), floating / products if products else 1.0, prepared.weights.dtype


def _kernel(
    scenario: Scenario,
    anatomy: Anatomy,
    implementation: str,
    dtype: DType,
    *,
    batch: int,
    length: int,
    masked: bool,
    training: bool,
) -> str:
    """The attention kernel of most layers, as the memory formulas choose it."""
    mixers = anatomy.decoder.mixers
    if not mixers:
        return "none"
    _, attention = max(mixers, key=lambda mixer: mixer[0])
    window = attention.window is not None and length > attention.window
    shape = attention_shape(
        attention,
        dtype,
        batch=batch,
        q_len=length,
        kv_len=length,
        masked=masked or window or anatomy.architecture.relative_bias,
        training=training,
    )
    gpu = _gpus(scenario)[0]
    return choose_kernel(shape, implementation=implementation, gpu=gpu, stack=scenario.stack).name


def _notes(scenario: Scenario) -> tuple[str, ...]:
    notes = ["times by formula: peak rates and a range of efficiencies, nothing was run"]
    gpus = _gpus(scenario)
    strategy = strategy_of(scenario)
    if len(gpus) > 1 and strategy == "device_map":
        notes.append("device_map runs the GPUs one after the other: memory, not speed")
    return tuple(notes)


def _unsupported(scenario: Scenario) -> tuple[str, ...]:
    found: list[str] = []
    gpu = _gpus(scenario)[0]
    rates = _rates(gpu)
    if not rates.known:
        what = "no GPU was named" if gpu is None else f"the rates of {gpu.name} are not known"
        found.append(f"{what}: times are those of {rates.name}")
    inference = scenario.workload.inference
    if inference is not None and inference.engine != "transformers":
        found.append(f"times of {inference.engine}: those of transformers are given")
    training = scenario.workload.training
    if training is not None and training.adapter_config is not None:
        found.append("time of this PEFT method: that of the frozen model alone is given")
    architecture = scenario.model.architecture
    if architecture is not None and any(g.recurrent is not None for g in architecture.layers):
        found.append("the scan of state-space and linear-attention layers is not in the time")
    return tuple(found)
