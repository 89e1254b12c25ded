"""An estimate of settings in quotes, such as ``"llama-3-8b --train qlora --gpu T4"``."""

from __future__ import annotations

from willfit.cli import estimate as command
from willfit.cli.parser import Parser, quoted_words
from willfit.results import Estimate


def quoted_estimate(settings: str, *, trace: bool = False) -> Estimate:
    """What ``willfit estimate SETTINGS`` finds; the largest that fits is not searched.

    Raises `InputError` on settings that cannot be, `UnsupportedError` where there is no number.
    """
    from willfit.cli.build import build_request

    parser = Parser(prog="willfit estimate")
    command.configure(parser)
    words = quoted_words(settings)
    words = words[1:] if words[:1] == ["willfit"] else words
    words = words[1:] if words[:1] == ["estimate"] else words
    arguments = parser.parse_args(words)
    request = build_request(arguments)
    if trace or arguments.trace:
        return command.traced_once(request)
    return command.estimated(request, search_limits=False)
