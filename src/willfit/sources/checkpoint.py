"""A ModelSpec from a config and the file headers: structure from one, stored bytes from the other.

The table made from the config knows module classes, ties and buffers; the headers know what is
stored. Where both exist and their parameter counts agree, the table is kept, in the stored types;
where they disagree the headers are believed, and the result says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from willfit.dtypes import DTYPES, FLOAT32, DType
from willfit.errors import UnsupportedError
from willfit.scenario.collapse import NamedTensor
from willfit.scenario.model import ModelSpec, StoredQuantization, TensorKind, TensorRow
from willfit.sources.configs import check_config, config_dtype, declared_class, library_of
from willfit.sources.headers import resident, rows_from_headers, unpacked_count
from willfit.sources.stored import QUANTIZED_MODULE, quantized_rows, stored_quantization
from willfit.sources.structure import Checkpoint, Structure, known_architecture, structure_of

_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def spec_of(found: Checkpoint) -> ModelSpec:
    """The spec of a checkpoint; raises `UnsupportedError` where neither side gives its tensors."""
    quantization = stored_quantization(found.config)
    structure, reason = structure_of(found)
    if structure is None and not found.tensors:
        raise UnsupportedError(reason)
    if not found.tensors and structure is not None:
        return _from_config(found, structure, quantization)
    return _from_headers(found, structure, reason, quantization)


def spec_of_config(config: Mapping[str, Any], name: str, note: str) -> ModelSpec:
    """The model of a ``config.json``'s content alone; ``note`` says where it comes from.

    Raises `InputError` on a config that is no model's.
    """
    check_config(config, name)
    return spec_of(Checkpoint(id=name, source="local", config=config, why_no_headers=note))


def _from_config(
    found: Checkpoint, structure: Structure, quantization: StoredQuantization | None
) -> ModelSpec:
    dtype = config_dtype(found.config)
    notes = [found.why_no_headers] if found.why_no_headers else []
    if dtype is None:
        notes.append("stored in float32: the config names no dtype and no weights were read")
    rows = _as_stored(structure.rows, dtype or FLOAT32)
    num_params = _num_params(rows)
    if quantization is not None:
        rows = quantized_rows(rows, quantization)
        notes.append(f"packed as {quantization.method} usually packs: no file headers were read")
    return _spec(
        found,
        structure,
        rows,
        dtype or FLOAT32,
        quantization,
        standing="shapes from the config; no weights were read",
        stated=num_params,
        notes=notes,
    )


def _from_headers(
    found: Checkpoint,
    structure: Structure | None,
    reason: str,
    quantization: StoredQuantization | None,
) -> ModelSpec:
    tensors, notes = _loaded_tensors(found, structure)
    rows = rows_from_headers(tensors, found.config)
    if quantization is None and any(row.module == QUANTIZED_MODULE for row in rows):
        quantization = StoredQuantization(method=_method_of(rows), bits=_bits_of(rows))
        notes.append(f"the config declares no quantisation, the tensors are {quantization.method}")
    dtype, dtype_note = _stored_dtype(found.config, rows)
    notes.extend(dtype_note)
    counted = unpacked_count(rows, quantization) if quantization else _num_params(rows)
    if structure is None:
        notes.append(f"module classes by tensor names: {reason}")
        structure = Structure(model_class=declared_class(found.config), rows=())
    else:
        expected = _num_params(structure.rows)
        if quantization is None and expected == counted:
            rows = _as_stored(structure.rows, dtype)
        else:
            rows = (*rows, *_extras(structure.rows))
            notes.extend(_disagreement(counted, expected))
        counted = expected if quantization else counted
    return _spec(
        found,
        structure,
        rows,
        dtype,
        quantization,
        standing="shapes and types from the headers of its weight files",
        stated=counted,
        notes=notes,
    )


def _spec(
    found: Checkpoint,
    structure: Structure,
    rows: tuple[TensorRow, ...],
    dtype: DType,
    quantization: StoredQuantization | None,
    *,
    standing: str,
    stated: int,
    notes: Sequence[str],
) -> ModelSpec:
    architecture, more = known_architecture(found)
    return ModelSpec(
        id=found.id,
        library=library_of(found.config),
        source=found.source,
        standing=standing,
        model_class=structure.model_class,
        tensors=rows,
        stored_dtype=dtype,
        architecture=architecture,
        config=found.config,
        no_split=structure.no_split,
        composite=structure.composite,
        quantization=quantization,
        keep_in_fp32=structure.keep_in_fp32,
        stated_num_params=stated,
        assumptions=(*notes, *more, *structure.assumptions),
        unknowns=structure.unknowns,
    )


def _num_params(rows: Iterable[TensorRow]) -> int:
    return sum(r.num_elements * r.count for r in rows if r.is_parameter and r.tied_to is None)


def _as_stored(rows: Iterable[TensorRow], dtype: DType) -> tuple[TensorRow, ...]:
    """The rows with what the checkpoint stores of them in ``dtype``."""
    return tuple(
        replace(row, dtype=dtype)
        if row.dtype.is_floating and row.kind is not TensorKind.NON_PERSISTENT_BUFFER
        else row
        for row in rows
    )


def _extras(rows: Iterable[TensorRow]) -> list[TensorRow]:
    """Rows of the table that no file stores: buffers made while loading, and ties."""
    return [
        row
        for row in rows
        if row.kind is TensorKind.NON_PERSISTENT_BUFFER or row.tied_to is not None
    ]


def _disagreement(counted: int, expected: int) -> list[str]:
    if counted == expected:
        return []
    return [
        f"the files hold {counted:,} parameters and the config describes {expected:,}: "
        "the files are believed"
    ]


def _loaded_tensors(
    found: Checkpoint, structure: Structure | None
) -> tuple[list[NamedTensor], list[str]]:
    """The tensors that loading keeps: no second copy of a tied one, no prediction layers."""
    tied = {
        name for row in (structure.rows if structure else ()) if row.tied_to for name in row.names()
    }
    layers, extra = (
        found.config.get("num_hidden_layers"),
        found.config.get("num_nextn_predict_layers"),
    )
    predicting = isinstance(layers, int) and isinstance(extra, int) and extra > 0
    kept: list[NamedTensor] = []
    notes: Counter[str] = Counter()
    for tensor in resident(found.tensors):
        number = _LAYER.search(tensor.name) if predicting else None
        if number is not None and len(number[1]) < 9 and int(number[1]) >= int(layers or 0):
            notes["multi-token-prediction layers are in the files and are not loaded"] += 1
        elif tensor.name in tied:
            notes[f"{tensor.name} is stored although it is tied: loaded once"] += 1
        else:
            kept.append(tensor)
    return kept, list(notes)


def _stored_dtype(config: Mapping[str, Any], rows: Sequence[TensorRow]) -> tuple[DType, list[str]]:
    """Type to load in: the config's, else that of most stored bytes (transformers ``"auto"``)."""
    amounts: Counter[str] = Counter()
    for row in rows:
        if row.dtype.is_floating and row.dtype.block_bytes >= 2 and row.module != QUANTIZED_MODULE:
            amounts[row.dtype.name] += row.num_elements * row.count * row.dtype.block_bytes
    stored = DTYPES[amounts.most_common(1)[0][0]] if amounts else None
    named = config_dtype(config)
    if named is not None and stored is not None and named is not stored:
        return named, [f"stored in {stored.name}; the config says {named.name}, which is loaded"]
    return named or stored or FLOAT32, []


def _method_of(rows: Sequence[TensorRow]) -> str:
    lasts = {row.name.rpartition(".")[2] for row in rows if row.module == QUANTIZED_MODULE}
    if any(last.startswith("bitsandbytes__") for last in lasts) or "quant_map" in lasts:
        return "bitsandbytes-nf4"
    known = {"SCB": "bitsandbytes-int8", "qzeros": "gptq or awq", "weight_packed": "compressed"}
    return next((name for last, name in known.items() if last in lasts), "quantised")


def _bits_of(rows: Sequence[TensorRow]) -> float:
    words = {row.dtype.name for row in rows if row.module == QUANTIZED_MODULE}
    return 4 if words & {"int32", "uint8"} else 8
