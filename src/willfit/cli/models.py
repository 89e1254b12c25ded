"""The models that are known without network."""

from __future__ import annotations

import argparse
import sys

from willfit.cli.parser import Parser


def configure(parser: Parser) -> None:
    """Add the settings of ``willfit models``."""
    parser.add_argument("search", nargs="?", metavar="TEXT", help="only names that contain it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue's names with parameter counts and how far they are verified."""
    from willfit.report.listings import models_json, render_models
    from willfit.sources.catalogue import entries

    wanted = (arguments.search or "").lower()
    found = [entry for entry in entries() if wanted in entry.id.lower()]
    if arguments.json:
        import json

        sys.stdout.write(json.dumps(models_json(found), indent=2) + "\n")
    else:
        sys.stdout.write(render_models(found, wanted))
    return 0
