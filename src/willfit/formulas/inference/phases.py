"""Prefill and decoding put together: what lives at the peak of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from willfit.allocator.rounding import LARGE_SEGMENT
from willfit.devices import cublas_workspace_bytes
from willfit.dtypes import FLOAT16, FLOAT32
from willfit.errors import UnsupportedError
from willfit.formulas.attention import (
    T5_KEEPS_TYPE_SINCE,
    KernelChoice,
    choose_kernel,
    mask_bytes,
    math_score_bytes,
    repeats_always,
)
from willfit.formulas.experts import copies_experts, weighs_in_float32
from willfit.formulas.gemm import Gemm, stored_scratch_bytes
from willfit.formulas.inference.activations import attention_shape, layer_moments
from willfit.formulas.inference.adapters import AdapterWork, adapter_work
from willfit.formulas.inference.engines import engine_unknowns, tokens_at_once
from willfit.formulas.inference.logits import KEEP_TYPE, LAST_ONLY_SINCE, logits_bytes
from willfit.formulas.inference.run import Moment, Pass
from willfit.formulas.inference.scans import OwnScan, scan_notes
from willfit.formulas.inference.settings import Settings, fill_defaults
from willfit.formulas.kv_cache import CACHE_OBJECTS_SINCE, KvCache, kv_cache
from willfit.formulas.modules import FUSED_GATE_UP, has_module, keeps_fused_qkv
from willfit.formulas.phase import ComponentName, Phase, PhaseName, Phases, Stage
from willfit.formulas.weights import LoadedWeights
from willfit.scenario.machine import Gpu
from willfit.scenario.model import Architecture, Attention, LayerGroup, ModelSpec, Unknown
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference
from willfit.units import format_bytes

GROWTH: Final = (
    "while generating, reserved memory grows past this (every step makes the cache anew); PyTorch "
    "gives it back when memory is short, so it decides no verdict"
)
"""`DynamicLayer.update` concatenates; in published runs reserved reached 1.5 to 5 times allocated
(huggingface/optimum-benchmark, batch 4 to 16, 512 new tokens) up to the card's capacity, where the
allocator frees unused segments and tries again (CUDACachingAllocator `release_cached_blocks`)."""

COMPILED: Final = (
    "decoding with a static cache as run eagerly; generate compiles it on a GPU, and compiling "
    "takes more once"
)
"""Measured on an H200 with Llama-3.2-1B, at the first decoded token alone: 596 MiB more with 4 rows
of 1,024 tokens, 156 MiB with one of 8,192. See `_Run._compiling`."""

_PRODUCTS: Final = ("idle", "projections", "MLP down", "experts down")
"""Moments at which a product runs."""


def inference_phases(
    model: ModelSpec,
    inference: Inference,
    gpu: Gpu | None,
    stack: Stack,
    weights: LoadedWeights,
    stage: Stage | None = None,
) -> Phases:
    """Phases of an inference on one GPU; raises `UnsupportedError` without an architecture."""
    architecture = model.architecture
    if architecture is None:
        raise UnsupportedError(
            f"the formulas do not know the activations of {model.model_class}: "
            "use --task load for its weights, or willfit[trace] to run the real class"
        )
    stage = stage or Stage.whole(architecture)
    settings = fill_defaults(architecture, inference, weights.dtype, stack)
    run = _Run(
        model=model,
        architecture=architecture,
        inference=inference,
        gpu=gpu,
        stack=stack,
        weights=weights,
        stage=stage,
        settings=settings,
        adapter=adapter_work(model, architecture, inference, stage, weights.dtype),
    )
    return run.phases()


@dataclass(frozen=True, kw_only=True)
class _Run:
    model: ModelSpec
    architecture: Architecture
    inference: Inference
    gpu: Gpu | None
    stack: Stack
    weights: LoadedWeights
    stage: Stage
    settings: Settings
    adapter: AdapterWork

    def phases(self) -> Phases:
        cache = self._cache()
        if self._whole:
            return self._answer(*self._both_sides(cache))
        prompt = self._encoder_len if self.stage.encoder_layers else self.settings.prompt_len
        made = 0 if self.stage.encoder_layers else cache.prefill_bytes
        prefill, choice = self._prefill(prompt, made, cache.step_transient_bytes)
        if made > cache.steady_bytes:
            held = prefill.notes.get("kv_cache", "")
            later = f"{held}; windows are views of it, {format_bytes(cache.steady_bytes)} later"
            prefill = replace(prefill, notes={**prefill.notes, "kv_cache": later})
        objects = self.stack.at_least("transformers", CACHE_OBJECTS_SINCE)
        if self.stage.encoder_layers and self._cached and objects:
            first = self._first_call(cache)
            prefill = max(prefill, first, key=lambda phase: phase.allocated_bytes)
        phases = [prefill]
        if self._cached:
            phases.append(self._decode(cache))
        return self._answer(phases, choice, cache)

    def _answer(
        self, phases: Sequence[Phase], choice: KernelChoice | None, cache: KvCache
    ) -> Phases:
        """The phases, with what was assumed and is not known."""
        notes = tuple(cache.assumptions) if self.architecture.is_decoder else ()
        if choice is not None:
            notes += (f"attention kernel {choice.name}: {choice.reason}",)
        if self.inference.engine == "transformers":
            notes += scan_notes(self.stage.layers)
        if "vision_config" in self.model.config:
            notes += ("text alone: an image's tokens and the vision tower's work come on top",)
        return Phases(
            phases=tuple(phases),
            assumptions=(
                *self.settings.assumptions,
                *self.adapter.assumptions,
                *notes,
                *self._engine_notes(),
            ),
            unknowns=self._unknowns(),
        )

    def _both_sides(self, cache: KvCache) -> tuple[Sequence[Phase], KernelChoice | None, KvCache]:
        """One forward pass of an encoder and a decoder, each over the whole text.

        The decoder reads the encoder's output, e·B·S·h, and gives logits for every position.
        """
        encoder, choice = self._phase("prefill", self._encoder_len, self._encoder_len, 0)
        length = self._decoder_len
        decoder, _ = self._phase("decoder", length, length, cache.prefill_bytes)
        largest = max(encoder, self._with_encoded(decoder), key=lambda side: side.allocated_bytes)
        return (replace(largest, name="forward"),), choice, cache

    @property
    def _whole(self) -> bool:
        """Whether an encoder and a decoder run once, and nothing is generated.

        Without a cache, or of a class without a language model's head (``BartModel``).
        """
        if not self.stage.encoder_layers or self.inference.engine != "transformers":
            return False
        return not self.inference.use_cache or not self._generates

    @property
    def _generates(self) -> bool:
        """Whether the class of an encoder–decoder model has ``generate``."""
        return self.model.model_class.endswith(("ForConditionalGeneration", "MTModel"))

    @property
    def _encoder_len(self) -> int:
        return self.architecture.encoder_len or self.settings.prompt_len

    @property
    def _decoder_len(self) -> int:
        """Tokens in the decoder's own cache: T5 reads its prompt with the encoder."""
        if self._whole:
            return self.settings.prompt_len
        if self.architecture.encoder_layers and self.architecture.encoder_len is None:
            return self.settings.new_tokens
        return self.settings.context_len

    @property
    def _cached(self) -> bool:
        return self.architecture.is_decoder and self.inference.use_cache

    def _cache(self) -> KvCache:
        if not self._cached:
            return KvCache(steady_bytes=0, prefill_bytes=0)
        return kv_cache(
            self.architecture,
            batch_size=self.settings.batch,
            context_len=self._decoder_len,
            dtype=self.settings.kv_dtype,
            stack=self.stack,
            engine=self.inference.engine,
            cache=self.inference.cache,
            new_tokens=self.settings.new_tokens,
            layers=self.stage.layers,
            encoder_len=self._encoder_len if self.architecture.encoder_layers else None,
            chunk=self.settings.chunk,
        )

    def _decode(self, cache: KvCache) -> Phase:
        """The last step, or the first, which finds what prefill left."""
        if not self.stack.at_least("transformers", LAST_ONLY_SINCE):
            return self._decode_older(cache)
        last = self._step(cache.steady_bytes, cache.step_transient_bytes)
        first = self._views(cache) if cache.prefill_bytes > cache.steady_bytes else last
        largest = max(first, last, key=lambda phase: phase.allocated_bytes)
        return replace(largest, host_bytes=cache.host_bytes)

    def _views(self, cache: KvCache) -> Phase:
        """The first step, in which a window is a view of the whole prompt's keys until it is made.

        What the views keep beyond their windows is a temporary, no part of the cache.
        """
        beyond = cache.prefill_bytes - cache.steady_bytes
        phase = self._step(cache.steady_bytes, beyond + cache.first_transient_bytes)
        return replace(phase, notes={**phase.notes, "temporaries": "prompts that windows view"})

    def _first_call(self, cache: KvCache) -> Phase:
        """The decoder's first call, which ends an encoder–decoder model's prefill."""
        phase = self._step(cache.prefill_bytes, cache.cross_layer_bytes)
        return replace(phase, name="prefill")

    def _step(self, cache_bytes: int, transient: int) -> Phase:
        """One token, with what the encoder gave, which `generate` hands to every step: e·B·S·h."""
        phase, _ = self._phase("decode", 1, self._decoder_len, cache_bytes, transient)
        return self._with_encoded(phase) if self.stage.encoder_layers else phase

    def _with_encoded(self, phase: Phase) -> Phase:
        parts: dict[ComponentName, int] = dict(phase.components)
        positions = self.settings.batch * self._encoder_len
        given = self.settings.dtype.num_bytes(positions * self.architecture.hidden_size)
        return replace(phase, components={**parts, "activations": parts["activations"] + given})

    def _decode_older(self, cache: KvCache) -> Phase:
        """The same of older transformers, where prefill's outputs live until the step is over.

        They are the logits of every position in float32 and, where caches are tuples, the old
        cache beside the new one (generation/utils.py `sample`: ``outputs`` is reassigned last).
        """
        phase, _ = self._phase("decode", 1, self._decoder_len, cache.steady_bytes)
        parts: dict[ComponentName, int] = dict(phase.components)
        parts["temporaries"] = parts.get("temporaries", 0) + cache.step_transient_bytes
        vocab = self.architecture.vocab_size if self.stage.embeddings else 0
        kept = 4 * self.settings.batch * self.settings.prompt_len * vocab
        twice = cache.prefill_bytes if cache.step_transient_bytes >= cache.steady_bytes else 0
        first: dict[ComponentName, int] = {
            **parts, "kv_cache": cache.prefill_bytes, "temporaries": twice, "logits": kept,
        }  # fmt: skip
        largest = max(parts, first, key=lambda components: sum(components.values()))
        return replace(phase, components=largest, host_bytes=cache.host_bytes)

    def _at_once(self, q_len: int) -> tuple[int, int]:
        """(batch, tokens of each) in one pass: other engines run so many tokens and no more."""
        batch = self.settings.batch
        limit = tokens_at_once(self.inference.engine, self.gpu)
        return (batch, q_len) if limit is None else (1, min(batch * q_len, limit))

    def _prefill(self, prompt: int, made: int, transient: int) -> tuple[Phase, KernelChoice | None]:
        """All at once, or in pieces: the first, which has no mask, the last whole one, the rest.

        ``made``: bytes of the cache in the end; ``transient``: beside it, where a layer's part is
        made anew for a piece.
        """
        chunk = self.settings.chunk
        if chunk is None:
            return self._phase("prefill", prompt, prompt, made)
        first = self._phase("prefill", chunk, chunk, made * chunk // prompt)
        rest = prompt % chunk
        whole = prompt - rest
        last = self._phase("prefill", chunk, whole, made * whole // prompt, transient)
        pieces = [first, last]
        if rest:
            pieces.append(self._phase("prefill", rest, prompt, made, transient))
        return max(pieces, key=lambda found: found[0].allocated_bytes)

    def _masked(self, q_len: int, kv_len: int) -> bool:
        """A mask hides padding, or says which keys came before a piece of the prompt."""
        in_pieces = self.settings.chunk is not None and 1 < q_len < kv_len
        return self.inference.padded or in_pieces

    def _phase(
        self, name: str, q_len: int, kv_len: int, cache_bytes: int, transient: int = 0
    ) -> tuple[Phase, KernelChoice | None]:
        encoder = name == "prefill" and bool(self.stage.encoder_layers)
        groups = self.stage.encoder_layers if encoder else self.stage.layers
        run = self._pass(name, q_len, kv_len)
        q_len = run.q_len
        choices = {window: self._kernel(groups, window, run) for window in _windows(groups)}
        run = replace(run, kernel_of={window: choice.name for window, choice in choices.items()})
        engine = self.inference.engine
        mask = sum(self._mask(run, window) for window in choices) if engine == "transformers" else 0
        candidates = [
            moment.plus(activations=mask)
            for group in groups
            for moment in layer_moments(self.architecture, group, run)
        ]
        candidates.append(Moment(name="idle", activations=0, temporaries=0))
        if transient:
            work = max(m.activations for m in candidates if m.name in ("idle", "projections"))
            candidates.append(Moment(name="cache", activations=work, temporaries=transient))
        if self.stage.fetched_bytes:
            work = max(m.activations for m in candidates if m.name in _PRODUCTS)
            fetched = self.stage.fetched_bytes
            candidates.append(
                Moment(name="offloaded weight", activations=work, temporaries=fetched)
            )
        layer = max(candidates, key=lambda moment: moment.total)
        logits = self._logits(q_len) if name == "decode" or not encoder else 0
        scores = self._scores_before() if name == "decode" else 0
        stream = self.settings.dtype.num_bytes(run.tokens * self.architecture.hidden_size)
        head = self.stage.fetched_head_bytes if logits else 0
        at_head = logits + stream + head > layer.total
        parts: dict[ComponentName, int] = {
            "weights": self.weights.allocated_bytes - self.weights.state_allocated_bytes,
            "quantization_state": self.weights.state_allocated_bytes,
            "adapters": self.adapter.weight_bytes,
            "kv_cache": cache_bytes,
            "activations": stream if at_head else layer.activations,
            "logits": scores + (logits if at_head else 0),
            "temporaries": head if at_head else layer.temporaries,
            "workspaces": cublas_workspace_bytes(self.gpu)
            + stored_scratch_bytes(self.model, self.stack, self.gpu),
        }
        choice = next(iter(choices.values()), None)
        return (
            Phase(name=self._phase_name(name), components=parts,
                  notes=self._notes(layer, at_head, choice, q_len)),
            choice,
        )  # fmt: skip

    def _pass(self, name: str, q_len: int, kv_len: int) -> Pass:
        """What all layers of a pass have in common, but for their kernels."""
        batch, q_len = self._at_once(q_len)
        encoder = name == "prefill" and bool(self.stage.encoder_layers)
        return Pass(
            batch=batch,
            q_len=q_len,
            kv_len=kv_len,
            masked=self._masked(q_len, kv_len),
            gemm=Gemm.of(self.weights, self.stack),
            fused_qkv=keeps_fused_qkv(self.model),
            fused_gate_up=has_module(self.model, *FUSED_GATE_UP),
            cached=self._cached and not encoder,
            copies_experts=name == "decode"
            and self.inference.engine == "transformers"
            and copies_experts(self.model, self.stack),
            weighs_in_float32=weighs_in_float32(self.model),
            softmax_in_float32=self.architecture.relative_bias
            and not self.stack.at_least("transformers", T5_KEEPS_TYPE_SINCE),
            widens_down=self.settings.dtype is FLOAT16 and "wo" in self.model.keep_in_fp32,
            own_scan=OwnScan.of(self.stack) if self.inference.engine == "transformers" else None,
            adapter=self.adapter.per_token,
            math_score_bytes=math_score_bytes(self.stack),
            always_repeats=repeats_always(self.stack),
        )

    def _phase_name(self, name: str) -> PhaseName:
        """A model that does not generate has one forward pass and no prefill."""
        if not self.architecture.is_decoder or self._whole:
            return "forward"
        return "prefill" if name == "prefill" else "decode"

    def _kernel(
        self, groups: tuple[LayerGroup, ...], window: int | None, run: Pass
    ) -> KernelChoice:
        if self.inference.engine != "transformers":
            return KernelChoice(
                name="flash", reason=f"{self.inference.engine} has kernels of its own"
            )
        attention = _attention_of(groups, window)
        shape = attention_shape(
            attention,
            self.settings.dtype,
            batch=self.settings.batch,
            q_len=run.q_len,
            kv_len=run.kv_len,
            masked=run.masked_in(window) or self.architecture.relative_bias,
        )
        return choose_kernel(
            shape,
            implementation=self.settings.implementation,
            gpu=self.gpu,
            stack=self.stack,
            forced=self.inference.sdpa_kernel,
        )

    def _mask(self, run: Pass, window: int | None) -> int:
        """The mask that all layers of a window share; full and sliding ones have their own."""
        implementation = self.settings.implementation
        eager = implementation == "eager" and run.q_len > 1
        if not (run.masked_in(window) or eager):
            return 0
        keys = run.keys_in(window)
        return mask_bytes(self.settings.batch, run.q_len, keys, implementation, self.settings.dtype)

    def _logits(self, q_len: int) -> int:
        """Logits on the GPU of the head, or their copy on the first one where that is another.

        accelerate hooks.py `AlignDevicesHook(io_same_device=True)`: outputs go to the inputs' GPU.
        """
        if not self.architecture.is_decoder:
            return self._masked_logits(q_len)
        if not self.architecture.vocab_size:
            return 0
        if not self.stage.head and not self.stage.embeddings:
            return 0
        made = self._made_logits(q_len)
        if self.stage.head:
            return made
        upcast = not self.stack.at_least("transformers", LAST_ONLY_SINCE)
        if upcast and self._model_type in KEEP_TYPE:
            return made
        e = self.settings.dtype.block_bytes
        return made * 4 // (e + 4) if upcast or not self.inference.full_logits else made

    def _scores_before(self) -> int:
        """Float32 scores of the step before, which live until this step's are there: 4·B·V.

        generation/utils.py `_sample`: ``next_token_logits``; `_decode_older` counts its own.
        """
        ours = self.inference.engine == "transformers" and self.stage.embeddings
        if not ours or not self.stack.at_least("transformers", LAST_ONLY_SINCE):
            return 0
        return FLOAT32.num_bytes(self.settings.batch * self.architecture.vocab_size)

    def _masked_logits(self, q_len: int) -> int:
        """An encoder's language-modelling head gives logits for every position: e·B·S·V."""
        if not self.model.model_class.endswith(("ForMaskedLM", "ForPreTraining")):
            return 0
        elements = self.settings.batch * q_len * self.architecture.vocab_size
        return self.settings.dtype.num_bytes(elements)

    def _made_logits(self, q_len: int) -> int:
        if self._whole and not self._generates:
            return 0
        return logits_bytes(
            self.architecture,
            batch=self.settings.batch,
            q_len=q_len,
            dtype=self.settings.dtype,
            stack=self.stack,
            full=self.inference.full_logits or self._whole,
            model_type=self._model_type,
        )

    @property
    def _model_type(self) -> str:
        return str(self.model.config.get("model_type"))

    def _notes(
        self, layer: Moment, at_head: bool, choice: KernelChoice | None, q_len: int
    ) -> dict[ComponentName, str]:
        notes: dict[ComponentName, str] = {
            "kv_cache": f"{self._decoder_len} tokens, batch {self.settings.batch}",
            "workspaces": "cuBLAS",
        }
        if at_head:
            every = self.inference.full_logits or not self.architecture.is_decoder
            notes["logits"] = "every position" if every else "last position"
        elif layer.name == "attention" and choice is not None and q_len > 1:
            notes["temporaries"] = f"attention, {choice.name} kernel"
        elif layer.temporaries:
            notes["temporaries"] = layer.name
        return notes

    def _engine_notes(self) -> tuple[str, ...]:
        if self.inference.engine == "transformers":
            several = self.settings.new_tokens > 1 or self.settings.chunk is not None
            growing = self.inference.cache == "dynamic" and several
            if self.inference.cache == "static" and several and self.architecture.is_decoder:
                return (COMPILED,)
            return (GROWTH,) if growing and self.architecture.is_decoder else ()
        limit = tokens_at_once(self.inference.engine, self.gpu)
        return (
            f"{self.inference.engine} runs {limit} tokens at once (its default); activations as "
            "transformers has them for so many",
        )

    def _unknowns(self) -> tuple[Unknown, ...]:
        if self.inference.engine != "transformers":
            return engine_unknowns(
                self.inference.engine, self.architecture, self.gpu, self.settings
            )
        if self.settings.prompt_len < 2:
            return ()
        return (*self._pinned_scores(), *self._state_space_work(), *self._compiling())

    def _pinned_scores(self) -> tuple[Unknown, ...]:
        """A layer's keys, cut from a freed block of scores, keep all of it from the next layer.

        4·B·H·S² bytes at most, as traces with the math and the eager kernel show; expandable
        segments use the rest of it again.
        """
        length = self.settings.prompt_len
        run = self._pass("prefill", length, length)
        heads = [
            group.attention.num_heads
            for group in self.stage.layers
            if group.attention is not None
            and self._kernel(self.stage.layers, group.attention.window, run).name
            in ("math", "eager")
        ]
        block = FLOAT32.num_bytes(self.settings.batch * max(heads, default=0) * length**2)
        cached = self._cached and not self.stage.encoder_layers
        if not cached or block <= LARGE_SEGMENT or self.stack.expandable_segments:
            return ()
        name = (
            "a block of attention scores that the growing cache keeps from being used again; none "
            "with --alloc-conf expandable_segments:True"
        )
        return (Unknown(name=name, low_bytes=0, high_bytes=block),)

    def _compiling(self) -> tuple[Unknown, ...]:
        """What compiling the decoding step may take, once: 2·e·B·H·S·D and e·V·h.

        In the graph K and V are repeated to all heads (integrations/sdpa_attention.py: `pack_gqa`
        does not run while compiling). Inductor may time products on random copies of their
        operands where the rows are no multiple of 16 bytes' elements and not one
        (fx_passes/pad_mm.py `_should_pad`): the head's is the largest. A buffer of the L2 cache's
        size comes on top.
        """
        ours = self.inference.cache == "static" and self._cached
        if not ours or self.settings.new_tokens < 2 or self.gpu is None:
            return ()
        dtype, batch = self.settings.dtype, self.settings.batch
        repeated = max(
            (
                dtype.num_bytes(batch * a.num_heads * self._decoder_len)
                * (a.head_dim + a.v_head_dim)
                for a in (group.attention for group in self.stage.layers)
                if a is not None and a.num_heads != a.num_kv_heads
            ),
            default=0,
        )
        aligned = batch == 1 or batch * dtype.block_bytes % 16 == 0
        elements = self.architecture.vocab_size * self.architecture.hidden_size
        high = repeated + (0 if aligned else dtype.num_bytes(elements))
        if not high:
            return ()
        name = "compiling the decoding step, once; none with disable_compile=True"
        return (Unknown(name=name, low_bytes=0, high_bytes=high),)

    def _state_space_work(self) -> tuple[Unknown, ...]:
        """Of mixers whose scan has no formula (MiniMax-01's lightning attention)."""
        mixers = [group.recurrent for group in self.stage.layers if group.recurrent is not None]
        inner = max((m.inner_size for m in mixers if m.state_elements and not m.scan), default=0)
        if not inner:
            return ()
        tokens = self.settings.batch * self.settings.prompt_len
        return (
            Unknown(
                name="work of the state-space kernels in prefill",
                low_bytes=0,
                high_bytes=self.settings.dtype.num_bytes(4 * tokens * inner),
            ),
        )


def _windows(groups: tuple[LayerGroup, ...]) -> list[int | None]:
    found = {g.attention.window for g in groups if g.attention is not None}
    return sorted(found, key=lambda window: (window is not None, window or 0))


def _attention_of(groups: tuple[LayerGroup, ...], window: int | None) -> Attention:
    return next(
        group.attention
        for group in groups
        if group.attention is not None and group.attention.window == window
    )
