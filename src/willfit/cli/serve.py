"""A page in the browser: estimates, plans, diagnoses and comparisons, on this machine alone."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys

from willfit.cli.parser import Parser, whole_number
from willfit.errors import MissingLibraryError


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit serve``."""
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where it listens (127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=whole_number, default=7860, metavar="N", help="7860; 0 is any free one"
    )
    parser.add_argument(
        "--offline", action="store_true", help="never ask the Hub for a model's config"
    )
    parser.add_argument(
        "--url", default="", help="the address in the browser, behind Jupyter's or Colab's proxy"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C (130)."""
    if importlib.util.find_spec("gradio") is None:
        raise MissingLibraryError("the page needs gradio: pip install 'willfit[web]'")
    from willfit.web.server import LOOPBACK, behind, listening, running, serve

    url = behind(arguments.url) if arguments.url else ""
    listener = listening(arguments.host, arguments.port)
    page = running(arguments.host, online=_online(arguments), url=url)
    with contextlib.closing(listener), page as app:
        port = listener.getsockname()[1]
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        address = f"{url}/" if url else f"http://{host}:{port}/"
        print(address, flush=True)
        if arguments.host not in LOOPBACK:
            print(
                f"willfit: everyone who can reach {arguments.host} can use this page: it has no "
                "password; leave --host out for this machine alone",
                file=sys.stderr,
            )
        print("willfit: Ctrl-C ends it", file=sys.stderr)
        if arguments.open:
            import webbrowser

            webbrowser.open(address)
        serve(app, listener)
    return 0


def _online(arguments: argparse.Namespace) -> bool:
    """Whether the Hub may be asked: not where its own client was switched off."""
    import os

    switched = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    return not (arguments.offline or switched)
