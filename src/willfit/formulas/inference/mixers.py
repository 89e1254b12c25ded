"""Moments of linear-attention, state-space and convolution mixers in one forward pass.

Units: e bytes an element, h hidden size, D the mixer's inner width, tokens = B·S.
"""

from __future__ import annotations

from willfit.dtypes import FLOAT32
from willfit.formulas.inference.run import Moment, Pass, stream_bytes
from willfit.formulas.inference.scans import OwnScan
from willfit.scenario.model import Architecture, Recurrent, Scan
from willfit.units import round_up


def mixer_moments(architecture: Architecture, recurrent: Recurrent, run: Pass) -> list[Moment]:
    """The projection of the input, and the scan that follows it."""
    stream = stream_bytes(architecture, run, 3)
    scan, own = recurrent.scan, run.own_scan
    if scan is None or own is None:
        width = _kernel_width(recurrent)
        return [_moment(stream + run.dtype.num_bytes(run.tokens * width), 0)]
    width = _projected(scan, recurrent)
    product = run.gemm.forward_temporary_bytes(run.tokens, architecture.hidden_size, width)
    projected = FLOAT32 if recurrent.widened else run.dtype
    kept = stream + projected.num_bytes(run.tokens * (width + _beside(scan, recurrent, own)))
    return [
        Moment(
            name="mixer's projection",
            activations=stream + run.dtype.num_bytes(run.tokens * width),
            temporaries=product,
        ),
        _moment(kept, FLOAT32.num_bytes(_scanned(scan, own, run))),
    ]


def _moment(activations: int, temporaries: int) -> Moment:
    return Moment(name="state space", activations=activations, temporaries=temporaries)


def _scanned(scan: Scan, own: OwnScan, run: Pass) -> int:
    if run.q_len == 1:
        return run.batch * own.step_elements(scan)
    return run.batch * round_up(run.q_len, scan.chunk_len) * own.elements(scan)


def _kernel_width(recurrent: Recurrent) -> int:
    """Input, gate, convolution and output, 4·D; of a short convolution, 6·h.

    modeling_lfm2.py `Lfm2ShortConv`: B, C and x, the convolution's result, its product with C, and
    that laid out anew.
    """
    return (4 if recurrent.state_elements else 6) * recurrent.inner_size


def _projected(scan: Scan, recurrent: Recurrent) -> int:
    """Elements a token that the input's projections make: gate and what is convolved."""
    heads = scan.num_heads if scan.kind != "selective" else 0
    return recurrent.inner_size + recurrent.conv_size + heads


def _beside(scan: Scan, recurrent: Recurrent, own: OwnScan) -> int:
    """Elements a token in the working type beside the projections while the scan goes on.

    The convolution's result, and queries and keys where the mixer repeats them; Δ as projected and
    as used, and the outputs so far (Mamba-1).
    """
    kept = recurrent.conv_size + own.repeated(scan)
    return kept + (3 * recurrent.inner_size if scan.kind == "selective" else 0)
