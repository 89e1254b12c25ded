"""Emitted texts run one after the other in one process; what each left behind, as JSON.

``python run_emitted.py JOBS.json``: a list of ``{"name", "text", "probe"}``. A probe is code that
fills the dict ``found`` from the names that the text left.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if os.environ.get("WITHOUT_DATASETS"):
        import transformers.utils.import_utils as utils

        utils._datasets_available = False
    out, sys.stdout = sys.stdout, sys.stderr
    answers = {job["name"]: _answer(job) for job in jobs}
    out.write(json.dumps(answers))


def _answer(job: dict[str, str]) -> dict[str, Any]:
    os.chdir(tempfile.mkdtemp(dir=Path(sys.argv[1]).parent))
    names: dict[str, Any] = {"__name__": "__main__", "found": {}}
    try:
        exec(compile(job["text"], f"<{job['name']}>", "exec"), names)
        exec(compile(job["probe"], f"<probe of {job['name']}>", "exec"), names)
    except BaseException:
        return {"error": traceback.format_exc()[-2000:]}
    finally:
        gc.collect()
    return dict(names["found"])


if __name__ == "__main__":
    main()
