"""Quotation: whether a message is said, or only named by source code, documentation or a test."""

from __future__ import annotations

import re
from typing import Final

from willfit.doctor.passage import Flat

_BEFORE: Final = 300
"""So much of a line before a message is looked at, in characters."""
_OPEN: Final = re.compile(r"""["'`“‘「《](?!\s)[^"'`”’」》]{0,120}$""")
"""A quotation that begins in front of the message and has not ended; a mark in front of a space
ends one."""
_CODE: Final = re.compile(
    r"""
      ^[\s>│|\d\-]{0,30}(?:raise|except|assert|elif|throw|yield|return|def|case|with)\b.{0,200}$
    | \b(?:raise|throw)\s(?:new\s)?[\w.:]{1,60}\(.{0,80}$
    | \b(?:raises\w*|assert\w+)\s?\(.{0,200}$
    | \b(?:return|not\smatch)\s{0,2}[rfb]{0,2}$
    | \b(?:if|or|and|not|in|is)\s{0,2}\(?[rfb]{0,2}$
    | (?:==|!=|\+=)\s{0,2}[rfb]{0,2}$
    | [\w\])]\s=\s{1,4}[(\[]?(?:[\w.]{1,60}\()?[rfb]{0,2}$
    | (?:\w|^)\([\w.]{1,60}\([rfb]{0,2}$
    | \b(?:print|warns?|startswith|endswith|search|findall|includes|contains|fail|skip|TORCH_CHECK)
      \w{0,9}\(.{0,80}$
    | \w\.(?:error|warning|warn|info|debug|exception|critical|log)\(.{0,80}$
    | \b(?:match|side_effect|reason|pattern|regex)\s?=\s?[rfb]{0,2}$
    | (?:^|[\s(\[{,|])(?:r[fb]?|[fb]r|f)$
    """,
    re.VERBOSE,
)
"""What stands in front of a string of a program: a statement, a comparison, an assignment."""
_CALLED: Final = re.compile(r"\b(?:raise|throw)\s(?:new\s)?[\w.:]{1,60}\(\s{0,4}$")
_FIRST: Final = re.compile(r"""[rfb]{0,2}["'][^"'`]{0,120}$""")
_COMPARED: Final = re.compile(r"""^[^"'`]{0,200}["'`]\s?(?:not\s)?in\s\w""")
_NAME: Final = re.compile(r"(?:[\w.]{0,60}(?:Error|Exception)\b:?\s?\(?[\"'`]?)$")
_SUPPOSED: Final = re.compile(
    r"\b(?:if|whenever|when (?:you|the|a)|in case|such as|like|e\.g\.|for example|"
    r"(?:may|might|can|could|would) (?:\w{1,20} )?(?:be|cause|crash|encounter|fail|get|happen|hit|"
    r"lead|raise|result|run|see|throw|trigger)|(?:avoid|fix|handle|prevent|resolve|solve)(?:s|es|ing)?)\b"
    r"[^.:;!?|]{0,80}$",
    re.IGNORECASE,
)
"""The sentence is about what may happen, not about what did."""
_TEST: Final = re.compile(r"::\w{1,200}\[[^\]]{0,200}$")
"""The message is a parameter in the name of a test."""
_COMMENT: Final = re.compile(r"^[>\s│|\d]{0,20}(?:#|//|/\*|\*\s|<!--|\.\.\s)")
_SPOKEN: Final = re.compile(r"(?:^|[^\w\s,]|\d|\bwas)\s?$")
"""What words without numbers follow: a beginning, a sign such as ``:`` or ``]``, a time."""
_PASTED: Final = re.compile(
    r"""^["'`“]\s?(?:[\w.]{1,60}(?:Error|Exception):\s?)+[^"'`“”]{0,160}$"""
)
_FOLLOWED: Final = re.compile(r"""[^"'`”]{0,200}["'`”]\s?[,)\]}+]""")
_LISTED: Final = re.compile(r"(?:^(?:[\w.]{1,60}\()?|(?<!Error)(?<!Exception)[,(\[{+])\s?$")
"""What stands in front of a string among others: in a list, among arguments."""


def is_said(
    flat: Flat, start: int, end: int, *, words_only: bool = False, inside: bool = False
) -> bool:
    """Whether the message from ``start`` to ``end`` of the flat's text reports a failure.

    A message with its numbers is believed unless a program's line or a supposition quotes it; with
    ``words_only`` it must also stand where a program would put it: ``RuntimeError: CUDA error: out
    of memory`` is said, ``the code may run out of memory`` is not. With ``inside`` a program's
    sentence may have begun before: ``worker 3 exits with`` return code = -9.
    """
    before = _line_before(flat, start)
    after = flat.text[end : end + 240]
    if _TEST.search(before) or _in_code(before, after) or _is_argument(flat, start, before):
        return False
    bare = _NAME.sub("", before)
    quoted = _OPEN.search(before) is not None
    if (quoted or words_only) and _SUPPOSED.search(_OPEN.sub("", bare)):
        return False
    if not words_only:
        return True
    return not _is_text(before, after) and (inside or _SPOKEN.search(before) is not None)


def _is_text(before: str, after: str) -> bool:
    """Whether it stands in a comment or in a list of strings.

    A line that is quoted with its exception's name was pasted so; in a list something follows.
    """
    opened = _OPEN.search(before)
    listed = opened is not None and _LISTED.search(before[: opened.start()])
    if listed and _PASTED.match(before) and not _FOLLOWED.match(after):
        return False
    return bool(listed or _COMMENT.match(before))


def _line_before(flat: Flat, start: int) -> str:
    line = flat.start_of(flat.index_at(start))
    return flat.text[max(line, start - _BEFORE) : start]


def _is_argument(flat: Flat, start: int, before: str) -> bool:
    """Whether its line begins with a string and the line before with the call that takes it."""
    index = flat.index_at(start)
    return index > 0 and bool(
        _FIRST.match(before) and _CALLED.search(flat.lines[index - 1].text[-_BEFORE:])
    )


def _in_code(before: str, after: str) -> bool:
    opened = _OPEN.search(before)
    if opened is None:
        return False
    return bool(_CODE.search(before[: opened.start()]) or _COMPARED.match(after))
