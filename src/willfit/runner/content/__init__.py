"""Digests of what a stage depends on: models, adapters, tokenizers and the user's code."""

from __future__ import annotations

from willfit.runner.content.cache import DigestCache
from willfit.runner.content.digests import digest_bytes, digest_file
from willfit.runner.content.files import PARTS, PartName
from willfit.runner.content.model import Content, Part, model_content
from willfit.runner.content.user_code import SourceContent, source_content

__all__ = [
    "PARTS",
    "Content",
    "DigestCache",
    "Part",
    "PartName",
    "SourceContent",
    "digest_bytes",
    "digest_file",
    "model_content",
    "source_content",
]
