"""The GPUs that are known, or those of this machine."""

from __future__ import annotations

import argparse
import sys

from willfit.cli.parser import Parser


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit gpus``."""
    parser.add_argument("search", nargs="?", metavar="TEXT", help="only names that contain it")
    parser.add_argument(
        "--live", action="store_true", help="the GPUs in this machine, and who holds what now"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the GPU catalogue, or what NVML says of this machine."""
    from willfit.report import listings

    wanted = (arguments.search or "").lower()
    if arguments.live:
        from willfit.live.nvml import live_gpus

        found = [live for live in live_gpus() if wanted in live.name.lower()]
        content, text = listings.live_json(found), listings.render_live(found)
    else:
        from willfit.devices import all_gpus

        known = [gpu for gpu in all_gpus() if wanted in gpu.name.lower()]
        content, text = listings.gpus_json(known), listings.render_gpus(known, wanted)
    if arguments.json:
        import json

        text = json.dumps(content, indent=2) + "\n"
    sys.stdout.write(text)
    return 0
