"""Hypertext: the words of a line that was copied out of a page's source."""

from __future__ import annotations

import html
import re
from typing import Final

_TAGS: Final = (
    "a|b|blockquote|br|code|details|div|em|font|h[1-6]|i|kbd|li|ol|p|pre|samp|small|span|strong"
    "|summary|table|tbody|td|th|thead|tr|tt|u|ul"
)
_TAG: Final = re.compile(rf"</?(?:{_TAGS})(?:\s[^<>]{{0,400}})?/?>", re.IGNORECASE)
"""Only these: ``<module>`` and ``<./model.safetensors>`` are words of a message."""
_BREAK: Final = re.compile(r"<br\s{0,4}/?>|</(?:p|div|li|tr|pre|h[1-6])>", re.IGNORECASE)
_ENTITY: Final = re.compile(r"&(?:lt|gt|amp|quot|apos|nbsp|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")


def words_of(text: str) -> str:
    """The line without tags; breaks become newlines."""
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return text.replace("\xa0", " ")
