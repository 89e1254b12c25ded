"""Tensor parallel: each GPU holds a slice of every layer's products and of the heads.

transformers 5.23 integrations/tensor_parallel.py and vLLM split alike: columns of q, k, v, gate and
up, rows of the output and down projections, experts by their width; embeddings, norms and the
residual stream are whole on every GPU. Checked by no measurement yet, which the result says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from willfit.errors import InputError
from willfit.estimator.share import Share, Spread
from willfit.formulas.phase import Stage
from willfit.formulas.weights import LoadedRow, LoadedWeights
from willfit.scenario import Scenario
from willfit.scenario.model import Architecture, LayerGroup
from willfit.units import ceil_div

_SPLIT: Final = ("Linear", "Conv1D", "QuantizedLinear")


def split_by_tensor_parallel(scenario: Scenario, weights: LoadedWeights) -> Spread:
    """Equal shares of all GPUs; raises `InputError` where the heads do not divide."""
    machine, architecture = scenario.machine, scenario.model.architecture
    degree = scenario.num_gpus
    if architecture is not None:
        _check_heads(architecture, degree)
    mine = replace(weights, rows=tuple(_slice(row, degree) for row in weights.rows))
    stage = None
    if architecture is not None:
        stage = Stage(
            layers=tuple(_sliced(group, degree) for group in architecture.layers),
            encoder_layers=tuple(_sliced(group, degree) for group in architecture.encoder_layers),
        )
    gpus = machine.gpus if machine is not None else (None,)
    return Spread(
        shares=tuple(
            Share(index=index, gpu=gpu, weights=mine, stage=stage) for index, gpu in enumerate(gpus)
        ),
        assumptions=(
            f"tensor parallel over {degree} GPUs: products and heads are split evenly, embeddings "
            "and norms are whole on each; communication buffers are not counted, no measurement "
            "has checked it",
        ),
    )


def _check_heads(architecture: Architecture, degree: int) -> None:
    for group in architecture.layers:
        if group.attention is not None and group.attention.num_heads % degree:
            raise InputError(
                f"{group.attention.num_heads} attention heads cannot be split over {degree} GPUs: "
                "use a number that divides them"
            )


def _slice(loaded: LoadedRow, degree: int) -> LoadedRow:
    """One GPU's part of a row: products and experts in slices, everything else whole."""
    experts = len(loaded.row.shape) == 3 and "expert" in loaded.row.name
    if not experts and loaded.row.module not in _SPLIT:
        return loaded
    return replace(
        loaded,
        weight_bytes=ceil_div(loaded.weight_bytes, degree),
        state_sizes=tuple(ceil_div(size, degree) for size in loaded.state_sizes),
    )


def _sliced(group: LayerGroup, degree: int) -> LayerGroup:
    """A layer with one GPU's heads and inner widths; fewer key heads than GPUs are copied."""
    attention, mlp, recurrent = group.attention, group.mlp, group.recurrent
    if attention is not None:
        attention = replace(
            attention,
            num_heads=attention.num_heads // degree,
            num_kv_heads=max(attention.num_kv_heads // degree, 1),
        )
    if mlp is not None:
        mlp = replace(
            mlp,
            intermediate_size=ceil_div(mlp.intermediate_size, degree),
            shared_intermediate_size=ceil_div(mlp.shared_intermediate_size, degree),
        )
    if recurrent is not None:
        recurrent = replace(
            recurrent,
            conv_elements=ceil_div(recurrent.conv_elements, degree),
            state_elements=ceil_div(recurrent.state_elements, degree),
            inner_size=ceil_div(recurrent.inner_size, degree),
        )
    return replace(group, attention=attention, mlp=mlp, recurrent=recurrent)
