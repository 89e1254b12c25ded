"""`willfit.load` on the libraries of autumn 2024, whose names were others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.releases_2024 import autumn_2024
from tests.support.tiny_models import tiny_folder

pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import json, sys
from dataclasses import replace
import torch, transformers
import willfit, willfit.live.load as live
from willfit.live.here import look
from willfit.live.calls import shown

here = replace(look(), gpus=(), in_use_bytes=())
live.look = lambda: here
classified = live.load(
    sys.argv[1], task="text-classification", num_labels=3, dtype="bfloat16", attn="eager",
    adapter={"r": 4, "task_type": "SEQ_CLS"}, context=32,
)
base = classified.model.get_base_model()
call, arguments = next(iter(classified.settings.items()))
usual = live.load(sys.argv[1], context=32)
out = usual.model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=2, min_new_tokens=2)
try:
    live.load(sys.argv[1], quantize="nf4", context=32)
    packed = "loaded"
except willfit.WillfitError as error:
    packed = str(error)
print(json.dumps({
    "release": transformers.__version__, "call": call,
    "arguments": {name: shown(value) for name, value in arguments.items()},
    "attention": base.config._attn_implementation, "dtype": str(base.config.torch_dtype),
    "labels": base.config.num_labels, "r": classified.model.active_peft_config.r,
    "usual": str(usual.model.dtype), "generated": list(out.shape), "packed": packed,
}))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folders = autumn_2024()
    if isinstance(folders, str):
        pytest.skip(folders)
    folder = tiny_folder("llama", tmp_path_factory.mktemp("tiny"), "bfloat16")
    path = os.pathsep.join(map(str, [*folders, ROOT / "src"]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_every_argument_has_the_name_of_its_time_and_arrives(answer: dict[str, Any]) -> None:
    assert answer["release"] == "4.46.3"
    assert answer["arguments"]["torch_dtype"] == "torch.bfloat16"
    assert "dtype" not in answer["arguments"]
    assert answer["dtype"] == "torch.bfloat16"
    assert answer["attention"] == "eager"
    assert (answer["labels"], answer["r"]) == (3, 4)


def test_the_type_is_the_default_of_that_time(answer: dict[str, Any]) -> None:
    """Release 4 loads in float32 whatever the checkpoint is stored in."""
    assert answer["usual"] == "torch.float32"
    assert answer["generated"] == [1, 5]


def test_what_it_cannot_do_without_cuda_is_a_sentence(answer: dict[str, Any]) -> None:
    assert answer["packed"].startswith("transformers refuses ")
    assert "\n" not in answer["packed"]
