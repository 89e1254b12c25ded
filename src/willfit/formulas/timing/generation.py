"""Generation: the pass over the prompt and one decoding step, as work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from willfit.dtypes import FLOAT32
from willfit.formulas.attention import repeats_always
from willfit.formulas.inference.logits import LAST_ONLY_SINCE
from willfit.formulas.inference.settings import Settings
from willfit.formulas.kv_cache import kv_cache
from willfit.formulas.timing.anatomy import Anatomy
from willfit.formulas.timing.efficiency import Kind
from willfit.formulas.timing.forward import UNFUSED, Tokens, Types, forward
from willfit.formulas.timing.products import Part
from willfit.formulas.timing.rates import Rates
from willfit.formulas.timing.work import Piece, Work, total
from willfit.formulas.training.lora import Adapter
from willfit.scenario.stack import Stack
from willfit.scenario.workload import Inference
from willfit.units import ceil_div

ADAPTER_OPERATORS: Final = 6
"""Operators of one LoRA layer: cast, A, B, scale, sum, cast (peft 0.21.2 lora/layer.py)."""
TOKEN_OPERATORS: Final = 80.0
"""Operators of choosing a token: logits processed, argmax or sampling, stopping criteria, inputs of
the next step (generation/utils.py `_sample`)."""
_PARTS: Final[tuple[Part, ...]] = ("layers", "head")
_TRAFFIC: Final = {"dynamic": 2.0, "static": 0.0, "quantized": 1.25, "offloaded": 2.0}


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation to be timed."""

    anatomy: Anatomy
    inference: Inference
    settings: Settings
    stack: Stack
    rates: Rates
    kernel: str
    adapter: Adapter | None = None
    """An adapter that was not merged."""

    def passes(self) -> tuple[Work, Work | None]:
        """(prompt, one new token of every sequence at the mean context); an encoder's is None."""
        if self.anatomy.encoder is not None:
            return self._with_encoder()
        prompt = self.settings.prompt_len
        tokens = Tokens(
            batch=self.settings.batch,
            q_len=prompt,
            kv_len=prompt,
            kept=self._kept(),
            chunks=ceil_div(prompt, self.inference.prefill_chunk_size or prompt),
        )
        prefill = self._pass(tokens)
        if not self.anatomy.architecture.is_decoder:
            return prefill, None
        return prefill, self._decode(prompt + (self.settings.new_tokens + 1) / 2)

    def _kept(self) -> float:
        """Positions that get logits: the last ones, every one where the class is called."""
        whole = float(self.settings.batch * self.settings.prompt_len)
        if self.inference.full_logits or not self.anatomy.architecture.is_decoder:
            return whole
        last = self.stack.at_least("transformers", LAST_ONLY_SINCE)
        return float(self.settings.batch) if last else whole

    @property
    def _types(self) -> Types:
        return Types(product=self.anatomy.dtype, stream=self.anatomy.dtype)

    def _pass(self, tokens: Tokens) -> Work:
        works = [
            forward(self.anatomy, part, tokens, self._types, self.rates, kernel=self.kernel)
            for part in _PARTS
        ]
        if self.adapter is not None:
            works.append(adapter_work(self.adapter, tokens.count, self.rates))
        return total(works)

    def _with_encoder(self) -> tuple[Work, Work]:
        """The encoder reads the prompt; the decoder starts from nothing."""
        length = self.anatomy.architecture.encoder_len or self.settings.prompt_len
        read = Tokens(batch=self.settings.batch, q_len=length, kv_len=length, kept=0)
        encoder = forward(
            self.anatomy, "encoder", read, self._types, self.rates, kernel=self.kernel
        )
        decode = self._decode((self.settings.new_tokens + 1) / 2)
        return total((encoder, decode)), decode

    def _decode(self, context: float) -> Work:
        """One token of every sequence: all weights once, the cache a few times over."""
        batch = float(self.settings.batch)
        read = self.anatomy.architecture.encoder_len or self.settings.prompt_len
        cross = float(read) if self.anatomy.encoder is not None else 0.0
        passes = self._pass(
            Tokens(batch=batch, q_len=1, kv_len=context, kept=batch, cross_len=cross)
        )
        moved, host = self._cache_traffic(context)
        return passes._replace(
            pieces=(*passes.pieces, Piece("cache", 0.0, 0.0, moved)),
            operators=passes.operators + TOKEN_OPERATORS,
            host_bytes=host,
        )

    def _cache_traffic(self, context: float) -> tuple[float, float]:
        """(GPU, PCIe) bytes that keeping the cache moves, beyond attention's own reading of it.

        Dynamic: ``torch.cat`` reads and writes it all, 2×. Static: attention reads the places that
        are still empty too. Quantised: 4 bit read, the whole written in the model's type.
        Offloaded: every layer but two comes over PCIe. K and V copied to all query heads (before
        4.54, or with a mask): 2× that size.
        """
        held = self._held(context)
        moved = held * _TRAFFIC[self.inference.cache]
        if self.inference.cache == "static":
            moved += held * max(self.settings.context_len / context - 1.0, 0.0)
        copied = self.inference.padded or repeats_always(self.stack)
        if copied and self.kernel not in UNFUSED:
            moved += 2 * held * self.anatomy.repeats
        return moved, held if self.inference.cache == "offloaded" else 0.0

    def _held(self, context: float) -> float:
        """Bytes of K and V of all sequences, wherever they are."""
        architecture = self.anatomy.architecture
        read = architecture.encoder_len or self.settings.prompt_len
        cache = kv_cache(
            architecture,
            batch_size=self.settings.batch,
            context_len=max(int(context), 1),
            dtype=self.settings.kv_dtype,
            stack=self.stack,
            engine="transformers",
            encoder_len=read if architecture.encoder_layers else None,
        )
        return float(cache.steady_bytes)


def adapter_work(adapter: Adapter, tokens: float, rates: Rates) -> Work:
    """A LoRA that was not merged: 2·P·T FLOPs in its own type, and six operators a module."""
    kind: Kind = "float32" if adapter.dtype is FLOAT32 else "product"
    size = adapter.dtype.block_bytes
    params = adapter.num_params
    piece = Piece(kind, 2.0 * params * tokens, rates.product(adapter.dtype), size * params)
    modules = sum(target.count for target in adapter.met)
    return Work(pieces=(piece,), operators=float(modules * ADAPTER_OPERATORS))
