"""The embedded catalogue: checkpoints that people use, known without network.

``index.json`` says where each record lies; a look-up reads that one record and its tables.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from willfit.dtypes import DTYPES
from willfit.scenario.model import ModelSpec, TensorRow, Variant

FOLDER: Final = Path(__file__).resolve().parents[1] / "data" / "catalogue"

ALIASES: Final[Mapping[str, str]] = {
    "bloom2b5": "bigscience/bloom-3b",
    "bloom25b": "bigscience/bloom-3b",
    "llama27b": "meta-llama/Llama-2-7b-hf",
    "llama213b": "meta-llama/Llama-2-13b-hf",
    "llama270b": "meta-llama/Llama-2-70b-hf",
    "llama27bchat": "meta-llama/Llama-2-7b-chat-hf",
    "llama213bchat": "meta-llama/Llama-2-13b-chat-hf",
    "llama270bchat": "meta-llama/Llama-2-70b-chat-hf",
    "gemma34b": "google/gemma-3-4b-it",
    "gemma312b": "google/gemma-3-12b-it",
    "gemma327b": "google/gemma-3-27b-it",
    "qwen25vl7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "resnet50": "timm/resnet50.a1_in1k",
    "llama3": "meta-llama/Meta-Llama-3-8B",
    "llama38b": "meta-llama/Meta-Llama-3-8B",
    "llama318b": "meta-llama/Llama-3.1-8B",
    "mistral7b": "mistralai/Mistral-7B-v0.1",
    "mistral7binstruct": "mistralai/Mistral-7B-Instruct-v0.1",
    "mixtral8x7b": "mistralai/Mixtral-8x7B-v0.1",
    "gemma2": "google/gemma-2-9b",
    "bert": "google-bert/bert-base-uncased",
    "gpt2": "openai-community/gpt2",
    "deepseekv3": "deepseek-ai/DeepSeek-V3",
    "gptoss": "openai/gpt-oss-20b",
}
"""Short names that are no checkpoint's own name, by their letters and digits."""

_HOMES: Final = (
    "meta-llama", "mistralai", "google", "google-bert", "google-t5", "openai", "openai-community",
    "facebook", "FacebookAI", "bigscience", "tiiuae", "Qwen", "deepseek-ai", "microsoft",
    "EleutherAI", "HuggingFaceTB", "allenai", "ibm-granite", "CohereForAI", "01-ai", "timm",
)  # fmt: skip
"""Organisations whose checkpoint is meant when a name without one fits several, in this order."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of ``willfit models``."""

    id: str
    library: str
    num_params: int
    standing: str


def load(name: str) -> ModelSpec | None:
    """The checkpoint called ``name``: its id in any case, its name alone, or a usual alias."""
    found = find(name)
    return None if found is None else _spec(_record(found))


def find(name: str) -> str | None:
    """Id of the checkpoint that ``name`` means, None if the catalogue has none.

    Letters and digits decide: ``llama-3-8b``, ``Meta-Llama-3-8B`` and
    ``meta-llama/Meta-Llama-3-8B`` are one. An organisation that is given must be the entry's.
    """
    names = _names()
    exact = names.exact.get(name.lower())
    if exact is not None:
        return exact
    organisation, _, short = name.rpartition("/")
    if organisation:
        wanted = _letters(organisation)
        same = [i for i in names.short.get(_letters(short), ()) if _letters(_org(i)) == wanted]
        return same[0] if same else _alias(wanted, short) or _moved(organisation, short)
    key = _letters(short)
    if key in ALIASES:
        return ALIASES[key]
    spellings = (key, f"meta{key}", key.removeprefix("meta"))
    candidates = next((names.short[s] for s in spellings if s in names.short), ())
    return min(candidates, key=_preference, default=None)


def _alias(organisation: str, short: str) -> str | None:
    """``bigscience/bloom-2b5``: an alias counts with its own organisation before it, no other."""
    model = ALIASES.get(_letters(short))
    return model if model is not None and _letters(_org(model)) == organisation else None


def nearest(name: str, limit: int = 3) -> list[str]:
    """Names of the catalogue that look most like ``name``, best first."""
    wanted = name.lower()
    short = wanted.rpartition("/")[2]
    scored = sorted(
        _index()["models"],
        key=lambda candidate: -_likeness(wanted, short, candidate.lower()),
    )
    return scored[:limit]


def entries() -> list[Entry]:
    """Every checkpoint, by id."""
    with (FOLDER / "models.jsonl").open("rb") as file:
        records = [json.loads(line) for line in file]
    return [
        Entry(
            id=record["id"],
            library=record.get("library", "transformers"),
            num_params=record["num_params"],
            standing=record["standing"],
        )
        for record in records
    ]


def sdpa_flag(model: str) -> bool | None:
    """Whether the real class of this entry has ``_supports_sdpa``; None for other libraries."""
    record = _record(model)
    if record.get("library", "transformers") != "transformers":
        return None
    table = _read("tables.jsonl", _index()["tables"][record["tables"]["declared"]])
    return bool(table.get("sdpa", True))


@dataclass(frozen=True, kw_only=True)
class _Names:
    exact: Mapping[str, str]
    short: Mapping[str, tuple[str, ...]]


@lru_cache(maxsize=1)
def _index() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "index.json").read_bytes())
    return content


@lru_cache(maxsize=1)
def _names() -> _Names:
    exact: dict[str, str] = {}
    short: dict[str, list[str]] = {}
    for model in _index()["models"]:
        exact[model.lower()] = model
        short.setdefault(_letters(model.rpartition("/")[2]), []).append(model)
    return _Names(exact=exact, short={key: tuple(ids) for key, ids in short.items()})


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _org(model: str) -> str:
    return model.rpartition("/")[0]


def _preference(model: str) -> tuple[int, str]:
    org = _org(model)
    return (_HOMES.index(org) if org in _HOMES else len(_HOMES), model)


def _moved(organisation: str, short: str) -> str | None:
    """Ids before the Hub's renames: ``CohereForAI`` and ``CohereLabs`` hold the same models."""
    renamed = {"CohereLabs": "CohereForAI", "THUDM": "zai-org", "roneneldan": ""}
    home = renamed.get(organisation)
    return _names().exact.get(f"{home}/{short}".lower()) if home else None


def _likeness(wanted: str, short: str, candidate: str) -> float:
    """How alike two names are; the same numbers in them (3, 8b) weigh most, ``meta-`` nothing."""
    own = candidate.rpartition("/")[2].removeprefix("meta-")
    whole = difflib.SequenceMatcher(None, wanted, candidate).ratio()
    part = difflib.SequenceMatcher(None, short.removeprefix("meta-"), own).ratio()
    numbers = _numbers(short)
    same_numbers = bool(numbers) and numbers == _numbers(own)
    family = len(_letters(short)) > 1 and _letters(own).startswith(_letters(short))
    return max(whole, part) + 0.1 * min(whole, part) + 0.2 * same_numbers + 0.3 * family


def _numbers(name: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", name))


def _read(file: str, place: list[int]) -> dict[str, Any]:
    with (FOLDER / file).open("rb") as stream:
        stream.seek(place[0])
        content: dict[str, Any] = json.loads(stream.read(place[1]))
    return content


def _record(model: str) -> dict[str, Any]:
    return _read("models.jsonl", _index()["models"][model])


def _spec(record: Mapping[str, Any]) -> ModelSpec:
    from willfit.sources.architecture import architecture_of
    from willfit.sources.stored import stored_quantization

    tables = {
        name: _read("tables.jsonl", _index()["tables"][number])
        for name, number in record["tables"].items()
    }
    declared = tables["declared"]
    config = record["config"]
    library = record.get("library", "transformers")
    return ModelSpec(
        id=record["id"],
        library=library,
        source="catalogue",
        standing=record["standing"],
        model_class=declared["class"],
        tensors=_rows(declared),
        stored_dtype=DTYPES[record["stored_dtype"]],
        architecture=architecture_of(config) if library == "transformers" else None,
        config=config,
        no_split=tuple(declared["no_split"]),
        composite=tuple(declared.get("composite", ())),
        quantization=stored_quantization(config),
        keep_in_fp32=tuple(declared.get("keep_in_fp32", ())),
        variants={name: _variant(table) for name, table in tables.items() if name != "declared"},
        stated_num_params=record["num_params"],
    )


def _variant(table: Mapping[str, Any]) -> Variant:
    return Variant(
        model_class=table["class"],
        tensors=_rows(table),
        no_split=tuple(table["no_split"]),
        composite=tuple(table.get("composite", ())),
    )


def _rows(table: Mapping[str, Any]) -> tuple[TensorRow, ...]:
    from willfit.scenario.collapse import row_from_json

    return tuple(row_from_json(cells) for cells in table["rows"])
