"""What a stage's results depend on: data, model, text and settings; nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from willfit.runner.content import (
    PARTS,
    Content,
    DigestCache,
    PartName,
    model_content,
    source_content,
)
from willfit.runner.fingerprint import Ingredients, fingerprint
from willfit.runner.pipeline import StageFile

_TEXT: Final = (
    "template", "chat", "system", "max_length", "truncate", "add_special_tokens", "choices",
    "normalize",
)  # fmt: skip
"""Settings that decide the tokens of a row."""
_MODEL: Final = ("task", "labels", "quantize", "dtype", "attn", "revision", "engine")
_BY_TASK: Final[Mapping[str, tuple[str, ...]]] = {
    "generate": ("max_new_tokens", "generation"),
    "embed": ("pooling", "normalize_embeddings"),
}
"""Settings that decide what becomes of the tokens."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """The ingredients of a stage, in two steps: its rows, and its results."""

    rows: Ingredients
    results: Ingredients
    how: str
    """How the model's files were read: ``hub blobs``, ``full`` or ``quick``."""
    paths: Mapping[str, str]
    """Where ``model``, ``tokenizer`` and ``adapter`` lie: what was digested is what is loaded."""

    @property
    def key(self) -> str:
        """Of the prepared rows, which stages with the same text and tokenizer share."""
        return fingerprint(self.rows)

    @property
    def fingerprint(self) -> str:
        """Of the results."""
        return fingerprint(self.results)


def gather(
    stage: StageFile,
    data: str,
    id_name: str,
    seed: int,
    cache: DigestCache,
    progress: Callable[[int, int], None] | None = None,
) -> Gathered:
    """The ingredients; ``data`` is the digest of the table's file.

    Hashes the model's files where nobody has before, which takes a minute for 18 GB; ``progress``
    is told the bytes done and those in all.
    """
    base: dict[str, Any] = {"data": data, "id": id_name}
    if stage.run is not None:
        code = source_content(stage.run)
        results = {**base, "run": stage.run.rpartition(":")[2], "code": dict(code.files)}
        return Gathered(rows=Ingredients(base), results=Ingredients(results), how="full", paths={})
    content = _content(str(stage.model), stage, cache, progress)
    tokens_of = tokenizer_source(stage)
    tokenizer = content
    if tokens_of != stage.model:
        only: Sequence[PartName] = ("tokenizer",)
        tokenizer = _content(tokens_of, stage, cache, progress, revision=False, parts=only)
    paths = {"model": str(content.path), "tokenizer": str(tokenizer.path)}
    text = {name: _plain(getattr(stage, name)) for name in _TEXT}
    rows = {**base, "tokenizer": _part(tokenizer, "tokenizer"), "task": stage.task, **text}
    if stage.task == "generate" and stage.max_length is None:
        rows["max_new_tokens"] = stage.max_new_tokens  # the prompt has what they leave
    if stage.max_length is None:
        rows["config"] = _part(content, "config")  # which has the longest
    results = {
        **rows,
        "weights": _part(content, "weights"),
        "config": _part(content, "config"),
        **{name: _plain(getattr(stage, name)) for name in _MODEL},
        **{name: _plain(getattr(stage, name)) for name in _BY_TASK.get(str(stage.task), ())},
    }
    if stage.adapter is not None:
        adapter = _content(stage.adapter, stage, cache, progress, revision=False)
        results["adapter"] = {**_part(adapter, "weights"), **_part(adapter, "config")}
        paths["adapter"] = str(adapter.path)
    if stage.task == "generate" and stage.generation.get("do_sample"):
        results["seed"] = seed
    if stage.trust_remote_code:
        results["code"] = _part(content, "code")
    return Gathered(
        rows=Ingredients(rows), results=Ingredients(results), how=content.how, paths=paths
    )


def tokenizer_source(stage: StageFile) -> str:
    """Where the tokenizer is: as named, else beside the adapter, else beside the model."""
    if stage.tokenizer is not None:
        return stage.tokenizer
    if stage.adapter is not None and (Path(stage.adapter) / "tokenizer_config.json").is_file():
        return stage.adapter
    return str(stage.model)


def _content(
    source: str, stage: StageFile, cache: DigestCache,
    progress: Callable[[int, int], None] | None, *, revision: bool = True,
    parts: Sequence[PartName] = PARTS,
) -> Content:  # fmt: skip
    return model_content(
        source,
        stage.revision if revision else None,
        cache=cache,
        trust_remote_code=stage.trust_remote_code,
        parts=parts,
        progress=progress,
    )


def _part(content: Content, name: PartName) -> dict[str, str]:
    """Digests by file."""
    return dict(content.part(name).files)


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
