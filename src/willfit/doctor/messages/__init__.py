"""What every framework says when memory runs out: one file a framework, all of one shape."""

from __future__ import annotations

from typing import Final

from willfit.doctor.messages import paddle
from willfit.doctor.messages.reader import Reader

__all__ = ["READERS", "Reader"]

READERS: Final[tuple[Reader, ...]] = (paddle.READER,)
"""In their precedence: of two that read the same words the earlier counts."""
