"""Form: what a visitor filled in, and its two other shapes, a link and a command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from willfit.errors import InputError
from willfit.web.fields import BY_NAME, FIELDS, FILTER, JOB, TABS, WORKS, Field

MAX_LINK: Final = 4096
"""Characters of a link's query that are read; every field filled in takes about 1,500."""
MAX_VALUE: Final = 300
"""Characters of one value."""
MAX_FIELDS: Final = 100
MAX_NUMBER: Final = 10**12
"""Beyond any count of tokens, rows or labels."""
_WORD: Final = re.compile(r"[\w.*][\w.*-]{0,127}", re.ASCII)

_WHOLE: Final = re.compile(r"""(["'])([^"']*)\1""")
"""A line within quotes."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One question."""

    tab: str = "estimate"
    model: str = ""
    gpu: str = ""
    work: str = "inference"
    values: Mapping[str, str] = field(default_factory=dict)
    """By the field's name; what is left at its default is absent."""
    others: str = ""
    """Compare: settings of the other sides, a line each."""


def filled(raw: Mapping[str, Any]) -> Form:
    """The form of what controls hold; raises `InputError` on a value that cannot be."""
    work = str(raw.get("work") or "inference")
    if work not in WORKS:
        raise InputError(f"unknown work {work[:40]!r}: expected one of {', '.join(WORKS)}")
    tab = str(raw.get("tab") or "estimate")
    if tab not in TABS:
        raise InputError(f"unknown tab {tab[:40]!r}: expected one of {', '.join(TABS)}")
    values = {row.name: _value(row, raw.get(row.name)) for row in FIELDS if work in row.works}
    return Form(
        tab=tab,
        work=work,
        model=_line("model", raw.get("model")),
        gpu=_line("gpu", raw.get("gpu")),
        values={name: value for name, value in values.items() if value},
        others=_text("others", raw.get("others"), MAX_VALUE * 8),
    )


def _value(row: Field, given: Any) -> str:
    """A control's content as text; "" where it is at its default."""
    if given is None or given is False or given == "":
        return ""
    if row.kind == "switch":
        return _switch(row, given)
    text = _line(row.name, given)
    if row.kind == "choice" or row.kind == "yes_no":
        allowed = [value for _, value in row.choices]
        if text not in allowed:
            shown = ", ".join(value for value in allowed if value)
            raise InputError(f"{row.name} cannot be {text[:40]!r}: expected one of {shown}")
    elif row.kind == "number":
        return _number(row, text)
    elif row.kind == "decimal":
        return _decimal(row, text)
    elif row.kind == "words":
        return " ".join(_words(row, text))
    return text


def _switch(row: Field, given: Any) -> str:
    if given is True or given in ("yes", "true", "1"):
        return "yes"
    raise InputError(f"{row.name} cannot be {str(given)[:40]!r}: expected yes")


def _number(row: Field, text: str) -> str:
    match = re.fullmatch(r"(\d{1,13})(?:\.0+)?", text, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= MAX_NUMBER:
        raise InputError(f"{row.name} cannot be {text[:40]!r}: expected a whole number from 1")
    return str(int(match[1]))


def _decimal(row: Field, text: str) -> str:
    if re.fullmatch(r"\d{0,9}\.?\d{1,9}|\d{1,9}\.", text, re.ASCII) is None:
        raise InputError(f"{row.name} cannot be {text[:40]!r}: expected a number such as 0.1")
    return f"{float(text):g}"


def _words(row: Field, text: str) -> Iterator[str]:
    for word in re.split(r"[\s,]+", text.strip()):
        if word and _WORD.fullmatch(word) is None:
            raise InputError(f"{row.name} cannot be {word[:40]!r}: expected names such as q_proj")
        if word:
            yield word


def _line(name: str, given: Any) -> str:
    text = _text(name, given, MAX_VALUE)
    if text and not text.isprintable():
        raise InputError(f"{name} has characters that cannot be printed: type it again")
    return text


def _text(name: str, given: Any, most: int) -> str:
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise InputError(f"{name} cannot be a {type(given).__name__}: expected text")
    text = f"{given:g}" if isinstance(given, float) and given % 1 else str(given).strip()
    if len(text) > most:
        raise InputError(f"{name} is {len(text):,} characters long: expected at most {most:,}")
    return text


def read_link(query: str) -> tuple[Form, tuple[str, ...]]:
    """The form of a link's query, and a sentence for each part of it that cannot be used."""
    if len(query) > MAX_LINK:
        said = f"the link is {len(query):,} characters long, more than {MAX_LINK:,}: it is not read"
        return Form(), (said,)
    try:
        pairs = parse_qsl(query.removeprefix("?"), max_num_fields=MAX_FIELDS, errors="strict")
    except (ValueError, UnicodeError):
        return Form(), ("the link cannot be read: it is not a list of settings",)
    raw: dict[str, str] = {}
    remarks: list[str] = []
    for name, value in pairs:
        if name.startswith("__"):  # Gradio's own: __theme
            continue
        try:
            filled({**_work_of(pairs), name: value})
        except InputError as refusal:
            remarks.append(f"in the link, {refusal}; its default is taken")
            continue
        if name in _KNOWN:
            raw[name] = value
        else:
            remarks.append(f"in the link, {name[:40]!r} is no setting of the page: left out")
    return filled(raw), tuple(remarks)


_KNOWN: Final = frozenset({"tab", "model", "gpu", "work", "others", *BY_NAME})


def _work_of(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The work of a link, for it decides which settings are read."""
    found = next((value for name, value in pairs if name == "work"), "")
    return {"work": found} if found in WORKS else {}


def link_of(form: Form) -> str:
    """The query that `read_link` reads back to the same form."""
    own = {"tab": form.tab, "model": form.model, "gpu": form.gpu, "work": form.work}
    used = _used(form)
    others = {"others": form.others} if form.tab == "compare" and form.others else {}
    parts = {**own, **{name: form.values[name] for name in form.values if name in used}, **others}
    return "?" + urlencode({name: value for name, value in parts.items() if value})


def _used(form: Form) -> frozenset[str]:
    """Fields that the tab's answer depends on."""
    left = (JOB if form.tab != "plan" else frozenset()) | (
        FILTER if form.tab != "gpus" else frozenset()
    )
    return frozenset(BY_NAME) - left


def flags(form: Form) -> list[str]:
    """Settings of the scenario as words of the command line, without model and GPU."""
    words = [] if form.work == "inference" else _work(form.work)
    for row in FIELDS:
        value = form.values.get(row.name)
        if value and row.name not in JOB | FILTER:
            words += _flag(row, value)
    return words


def job_flags(form: Form) -> list[str]:
    """What only a plan asks for, as words of the command line."""
    words: list[str] = []
    for name in ("goal", "samples", "epochs", "time_limit"):
        if form.values.get(name):
            words += _flag(BY_NAME[name], form.values[name])
    return words


def _work(work: str) -> list[str]:
    return ["--task", "load"] if work == "load" else ["--train", work]


def _flag(row: Field, value: str) -> list[str]:
    dashed = row.name.replace("_", "-")
    if row.kind == "switch":
        return [f"--{dashed}"]
    if row.kind == "yes_no":
        return [f"--{dashed}" if value == "yes" else f"--no-{dashed}"]
    if row.kind == "words":
        return [f"--{dashed}", *value.split()]
    return [f"--{dashed}={value}"] if value.startswith("-") else [f"--{dashed}", value]


def lines_of(form: Form) -> list[str]:
    """What the other sides say; quotes around a whole line are the shell's, not the side's."""
    lines = (line.strip() for line in form.others.splitlines())
    return [_unquoted(line) for line in lines if line]


def _unquoted(line: str) -> str:
    whole = _WHOLE.fullmatch(line)
    return whole[2].strip() if whole else line


def command_of(form: Form, model: str, *, script: bool = False) -> str:
    """The command line that says the same; ``script``: the doctor was given one beside a text."""
    gpu = ["--gpu", form.gpu] if form.gpu else []
    scenario = [*gpu, *flags(form)]
    if form.tab == "doctor":
        named = ["--model", model, *scenario] if model else gpu
        files = ["error.log", "script.py"] if script else ["error.log"]
        return shlex.join(["willfit", "doctor", *files, *named])
    if form.tab == "compare":
        sides = [f"{model} {line}" if line.startswith("-") else line for line in lines_of(form)]
        return shlex.join(["willfit", "compare", model, *sides, *scenario])
    if form.tab == "plan":
        return shlex.join(["willfit", "plan", model, *scenario, *job_flags(form)])
    return shlex.join(["willfit", "estimate", model, *scenario])
