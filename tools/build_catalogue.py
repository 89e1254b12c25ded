"""Make the embedded catalogue: ``python -m tools.build_catalogue --models ../shared/models``.

Builds the real class of every checkpoint on the meta device with the pinned transformers, and
writes ``index.json``, ``models.jsonl`` and ``tables.jsonl``. The output is deterministic.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from willfit.errors import WillfitError
from willfit.meta.transformers_build import BuiltTable, build_transformers
from willfit.scenario.collapse import NamedTensor, collapse, row_json
from willfit.scenario.model import TensorKind, TensorRow
from willfit.sources.stored import quantized_rows, stored_quantization

TARGET: Final = Path(__file__).resolve().parents[1] / "src" / "willfit" / "data" / "catalogue"

IDEFICS_CACHED_ROTARY: Final = "4.47"
"""First release without per-layer cos/sin buffers in Idefics; ≤ 4.46 registers both, float32,
(max_position_embeddings, head_dim), and has no ``original_inv_freq`` (models/README.md)."""


FILE_DTYPES: Final = {
    "bigscience/bloom": "bfloat16",
    "bigscience/bloom-1b1": "float16",
    "bigscience/bloom-1b7": "float16",
    "bigscience/bloom-3b": "float16",
    "bigscience/bloom-560m": "float16",
    "bigscience/bloom-7b1": "float16",
    "bigscience/bloomz-560m": "float16",
    "bigscience/bloomz-7b1": "float16",
    "MiniMaxAI/MiniMax-M2": "bfloat16",
    "MiniMaxAI/MiniMax-M2.1": "bfloat16",
    "MiniMaxAI/MiniMax-M2.5": "bfloat16",
    "openai/gpt-oss-120b": "bfloat16",
    "openai/gpt-oss-20b": "bfloat16",
}
"""Type of the weight files where the config names none and it is not float32. transformers then
takes the first floating tensor's (modeling_utils.py `_get_dtype`). The bloom sizes below 176B are
published in half precision; bloom itself and the others in bfloat16 (their model cards)."""

_BUILT_AS: Final[Mapping[str, Mapping[str, Any]]] = {
    "moonshotai/Kimi-K2": {"model_type": "deepseek_v3"},
    "microsoft/deberta-v3": {"architectures": ["DebertaV2Model"]},
}
"""What a config's own words leave out for transformers. Kimi-K2 has a model type of its own on the
Hub and declares ``DeepseekV3ForCausalLM``; DeBERTa-v3 declares no class,
and its weights are those of the bare model."""

_TEXT_FACTS: Final = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "intermediate_size", "vocab_size", "max_position_embeddings", "sliding_window",
)  # fmt: skip


@dataclass(kw_only=True)
class Writer:
    """Collects tables (each once) and records, then writes the three files."""

    tables: dict[str, int] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def table(self, content: Mapping[str, Any]) -> int:
        """Number of a table, the same for equal tables."""
        return self.tables.setdefault(_line(content), len(self.tables))

    def write(self, folder: Path) -> None:
        """Write the files, records sorted by id."""
        folder.mkdir(parents=True, exist_ok=True)
        table_places = _write_lines(folder / "tables.jsonl", list(self.tables))
        names = sorted(self.records, key=str.lower)
        places = _write_lines(folder / "models.jsonl", [_line(self.records[n]) for n in names])
        index = {
            "models": {
                name: [*place, self.records[name]["num_params"]]
                for name, place in zip(names, places, strict=True)
            },
            "tables": table_places,
        }
        (folder / "index.json").write_text(_line(index) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Build every checkpoint of the folder; prints what could not be built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", help="ids that contain this text (a dry run: nothing is written)")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    writer = Writer()
    for line in (arguments.models / "index.jsonl").read_text().splitlines():
        facts = json.loads(line)
        if arguments.only and arguments.only not in facts["id"]:
            continue
        try:
            writer.records[facts["id"]] = _record(arguments.models, facts, writer)
        except WillfitError as error:
            print(f"{facts['id']}: {error}", file=sys.stderr)
    if not arguments.only:
        writer.write(arguments.target)
    print(f"{len(writer.records)} checkpoints, {len(writer.tables)} tables")
    return 0


def _record(folder: Path, facts: Mapping[str, Any], writer: Writer) -> dict[str, Any]:
    config = json.loads((folder / facts["id"] / "config.json").read_text())
    if facts["id"].startswith("timm/"):
        built = _timm_table(folder / facts["id"], config)
        tables = {"declared": built}
        dtype = "float32"
    else:
        dtype = _stored_dtype(facts["id"], config)
        config = {**config, **_BUILT_AS.get(facts["id"].rpartition("-")[0], {})}
        tables = {"declared": build_transformers(config, param_dtype=dtype)}
        base = _base_table(config, dtype)
        if base is not None:
            tables["AutoModel"] = base
    quantization = stored_quantization(config)
    count = _num_params(tables["declared"].rows)
    record: dict[str, Any] = {
        "id": facts["id"],
        "num_params": count,
        "standing": _standing(facts, count),
        "stored_dtype": dtype,
        "config": _with_text_facts(config),
        "tables": {
            name: writer.table(_table_json(_legacy(table, config), quantization))
            for name, table in tables.items()
        },
    }
    if facts["id"].startswith("timm/"):
        record["library"] = "timm"
    return record


def _with_text_facts(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config; a nested text config that only names its type gets the class's defaults."""
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("num_attention_heads") or not text.get("model_type"):
        return config
    from transformers import AutoConfig

    resolved = AutoConfig.for_model(**text).to_dict()
    facts = {name: resolved[name] for name in _TEXT_FACTS if resolved.get(name) is not None}
    return {**config, "text_config": {**facts, **text}}


def _base_table(config: Mapping[str, Any], dtype: str) -> BuiltTable | None:
    try:
        return build_transformers(config, "AutoModel", param_dtype=dtype)
    except WillfitError:
        return None


def _stored_dtype(model: str, config: Mapping[str, Any]) -> str:
    text = config.get("text_config") or {}
    found = config.get("torch_dtype") or config.get("dtype") or text.get("torch_dtype")
    found = found or text.get("dtype") or FILE_DTYPES.get(model, "float32")
    return str(found).removeprefix("torch.")


def _num_params(rows: Sequence[TensorRow]) -> int:
    return sum(r.num_elements * r.count for r in rows if r.is_parameter and r.tied_to is None)


def _standing(facts: Mapping[str, Any], count: int) -> str:
    published, built = facts.get("num_params_published"), facts.get("num_params_built")
    assert built == count, f"{facts['id']}: built {count:,}, index says {built:,}"
    exact = published == count and facts["confidence"] == "certain"
    if exact and "remember" not in str(facts.get("published_source") or facts["notes"]):
        return "parameter count equals the published safetensors total"
    if published == count:
        return "parameter count equals the total its authors state"
    if published:
        return f"parameter count from the config; its authors state {published:,}"
    return "parameter count from the config, not confirmed by a published one"


def _table_json(table: BuiltTable, quantization: Any) -> dict[str, Any]:
    rows = table.rows if quantization is None else quantized_rows(table.rows, quantization)
    content: dict[str, Any] = {
        "class": table.model_class,
        "rows": [row_json(row) for row in rows],
        "no_split": list(table.no_split),
    }
    if table.composite:
        content["composite"] = list(table.composite)
    if table.keep_in_fp32:
        content["keep_in_fp32"] = list(table.keep_in_fp32)
    if not table.supports_sdpa:
        content["sdpa"] = False
    return content


def _legacy(table: BuiltTable, config: Mapping[str, Any]) -> BuiltTable:
    """The table with the buffers that older releases had, each with its first and last release."""
    if config.get("model_type") != "idefics":
        return table
    from dataclasses import replace

    rows: list[TensorRow] = []
    for row in table.rows:
        if row.name.endswith("rotary_emb.original_inv_freq"):
            width = 2 * row.shape[0]
            rows.append(replace(row, since=IDEFICS_CACHED_ROTARY))
            rows += [
                replace(
                    row,
                    name=f"{row.owner}.{name}",
                    shape=(config["max_position_embeddings"], width),
                    until=IDEFICS_CACHED_ROTARY,
                )
                for name in ("cos_cached", "sin_cached")
            ]
        else:
            rows.append(row)
    return replace(table, rows=tuple(rows))


def _timm_table(folder: Path, config: Mapping[str, Any]) -> BuiltTable:
    stored = json.loads((folder / "tensors.json").read_text())
    kinds = {"parameters": TensorKind.PARAMETER, "buffers": TensorKind.BUFFER}
    tensors = [
        NamedTensor(
            name=name,
            shape=tuple(shape),
            dtype=dtype,
            module=_timm_module(name, shape),
            kind=kind,
        )
        for key, kind in kinds.items()
        for name, (shape, dtype, *_) in stored.get(key, {}).items()
    ]
    return BuiltTable(
        model_class=str(config["architecture"]),
        rows=collapse(tensors),
        no_split=(),
        composite=(),
        keep_in_fp32=(),
        supports_sdpa=True,
        base_model_prefix="",
    )


def _timm_module(name: str, shape: Sequence[int]) -> str:
    if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
        return "BatchNorm2d"
    return {4: "Conv2d", 2: "Linear"}.get(len(shape), "Norm")


def _line(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _write_lines(path: Path, lines: Sequence[str]) -> list[list[int]]:
    places, offset = [], 0
    with path.open("wb") as file:
        for line in lines:
            data = line.encode() + b"\n"
            file.write(data)
            places.append([offset, len(data)])
            offset += len(data)
    return places


if __name__ == "__main__":
    sys.exit(main())
