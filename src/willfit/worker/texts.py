"""The text of each row: the template filled, in a chat's form where the stage asks for one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import InputError
from willfit.runner.pipeline import fill_template, template_fields
from willfit.runner.protocol import Job

CHUNK: Final = 1024
"""Rows that are filled, and given to the tokenizer, at once."""
_MARK: Final = "\ue000message\ue001"
"""Stands for a message in a chat: characters of Unicode's private use, which no template has."""


class RowText(NamedTuple):
    """A row's text, and the part of it that may be cut where it is too long."""

    text: str
    start: int
    stop: int
    """``text[start:stop]`` is the row's own; around it is the form of a chat."""


def row_texts(data: pa.Table, job: Job, tokenizer: Any) -> Iterator[RowText]:
    """One text a row, in the data's order; raises `InputError` on columns that are not there."""
    names = _fields(data, job)
    template = job.stage.get("template") or f"{{{names[0]}}}"
    rows = itertools.chain.from_iterable(
        batch.to_pylist() for batch in data.select(names).to_batches(CHUNK)
    )
    filled = (fill_template(template, row) for row in rows)
    if not job.stage.get("chat"):
        return (RowText(text, 0, len(text)) for text in filled)
    chat = _Chat(job, tokenizer)
    return (chat.text(message) for message in filled)


class _Chat:
    """The tokenizer's chat template around a message, with an answer begun where one is wanted."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self._job, self._tokenizer = job, tokenizer
        before, _, behind = self._render(_MARK).partition(_MARK)
        self._before, self._behind = before, behind

    def text(self, message: str) -> RowText:
        """As the template has it, which may trim or escape the message."""
        text = self._render(message)
        start, stop = len(self._before), len(text) - len(self._behind)
        same = text.startswith(self._before) and text.endswith(self._behind)
        return RowText(text, start, stop) if same and start <= stop else RowText(text, 0, len(text))

    def _render(self, message: str) -> str:
        system = self._job.stage.get("system")
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": message})
        answers = self._job.stage["task"] in ("generate", "choose")
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=answers
                )
            )
        except Exception as error:  # its own ValueError, or whatever the template raises
            raise InputError(_no_chat(self._job, self._tokenizer, error)) from error


def _no_chat(job: Job, tokenizer: Any, error: Exception) -> str:
    said = " ".join(str(error).split())[:120]
    if getattr(tokenizer, "chat_template", None) is None:
        return (
            f"stage {job.name} asks for chat: and its tokenizer has no chat template ({said}): "
            "leave chat out, or write the form into template:"
        )
    system = ", and write its text into template:" if job.stage.get("system") else ""
    return (
        f"stage {job.name}: the tokenizer's chat template refuses the messages ({said}): "
        f"leave {'system' if job.stage.get('system') else 'chat'} out{system}"
    )


def _fields(data: pa.Table, job: Job) -> list[str]:
    """Columns that the template names."""
    template = job.stage.get("template")
    if template is None:
        return [_only_text(data, job)]
    names = template_fields(template)
    for name in names:
        if name not in data.column_names:
            raise InputError(
                f"the template of stage {job.name} names {{{name}}} and the data has "
                f"{', '.join(data.column_names[:12])}: name one of these columns"
            )
    return list(names)


def _only_text(data: pa.Table, job: Job) -> str:
    """The column ``text``, else the only one that holds text besides the id."""
    texts: list[str] = [
        field.name
        for field in data.schema
        if (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
        and field.name != job.id
    ]
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    raise InputError(
        f"stage {job.name} has no template and the data has "
        f"{'no text column' if not texts else ', '.join(texts[:8])}: say which text is read, "
        f'such as template: "{{{texts[0] if texts else "text"}}}"'
    )


def offered_choices(data: pa.Table, stage: Mapping[str, Any], name: str) -> list[list[str]]:
    """The choices of each row: the same for all, or those in a column."""
    given = stage["choices"]
    if not isinstance(given, str):
        return [list(given)] * int(data.num_rows)
    if given not in data.column_names:
        raise InputError(
            f"stage {name} reads its choices from {given!r} and the data has "
            f"{', '.join(data.column_names[:12])}: name a column with a list in each row"
        )
    rows = data.column(given).to_pylist()
    widths = {len(row) if isinstance(row, list) else 0 for row in rows}
    if len(widths) != 1 or min(widths) < 2:
        raise InputError(
            f"column {given!r} has {sorted(widths)[:4]} choices in its rows: expected a list of "
            "the same number, two at least, in every row"
        )
    found = [["" if text is None else str(text) for text in row] for row in rows]
    empty = next((number for number, row in enumerate(found) if "" in row), None)
    if empty is not None:
        raise InputError(
            f"column {given!r} has an empty choice in row {empty}, which has no tokens to score: "
            "give each choice a text"
        )
    return found
