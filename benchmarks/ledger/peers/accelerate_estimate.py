"""accelerate ``estimate-memory``: the sizes of a config's tensors, and Adam's as a multiple.

What is run is the command's own `gather_data`. Only its question to the Hub, whether the model is
there, is answered here, so that it reads a config of this disk.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import json
import tempfile
from argparse import Namespace
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from benchmarks.ledger.peers._peer import AboutPeer, Answer, NotPredicted
from willfit.formulas.training.settings import fill_training
from willfit.formulas.weights.cast import loading_dtype
from willfit.scenario import Scenario

ABOUT: Final = AboutPeer(
    title="accelerate estimate-memory",
    version=f"accelerate {importlib.metadata.version('accelerate')}",
    licence="Apache-2.0",
    source="https://huggingface.co/docs/accelerate/usage_guides/model_size_estimator",
    claims="memory for loading a model, and for training it with Adam at batch size 1",
    called="float32 by its float32 line, 16 bit by its float16 line, 8 and 4 bit by int8 and int4 "
    "(of bitsandbytes as of GPTQ and AWQ); inference by Total Size, full fine-tuning with Adam by "
    "Training using Adam, of the float16 line where weights or autocast are of 16 bit",
    counters=("allocated", "reserved", "device"),
)
"""It tells which card a model fits on, so its figure is held to whichever counter there is."""
_BY_BITS: Final = {4: "int4", 8: "int8"}
_BY_DTYPE: Final = {"float32": "float32", "float16": "float16", "bfloat16": "float16"}
ADAM: Final = frozenset({"adamw_torch", "adamw_torch_fused", "adamw_hf", "adam"})
"""Names of Adam with two states of the parameter's own type."""


def predict(scenario: Scenario) -> Answer:
    """What the table says, bytes."""
    if scenario.model.library != "transformers":
        return NotPredicted(reason=f"{scenario.model.library} is not asked here")
    if scenario.machine is not None and len(scenario.machine.gpus) > 1:
        return NotPredicted(reason="it knows one device")
    line = _line(scenario)
    if isinstance(line, NotPredicted):
        return line
    total, adam = table(json.dumps(dict(scenario.model.config), default=str))[line]
    if scenario.workload.training is None:
        return total
    return adam if adam > 0 else NotPredicted(reason=f"its {line} line has no training")


def _line(scenario: Scenario) -> str | NotPredicted:
    """The line of the table that a user would read."""
    loading, training = scenario.workload.loading, scenario.workload.training
    stored = scenario.model.quantization
    dtype = loading_dtype(scenario.model, loading, scenario.stack)[0].name
    if training is not None:
        if training.method != "full":
            return NotPredicted(reason="it has no adapters")
        settings = fill_training(training, scenario.model.architecture, scenario.stack)
        if settings.optimizer_name not in ADAM:
            return NotPredicted(reason=f"it has no optimizer but Adam ({settings.optimizer_name})")
        if settings.autocast is not None:
            dtype = settings.autocast.name
    bits = None
    if loading.quantization is not None:
        bits = 8 if loading.quantization.scheme == "int8" else 4
    elif stored is not None:
        bits = round(stored.bits)
    line = _BY_DTYPE.get(dtype) if bits is None else _BY_BITS.get(bits)
    return line or NotPredicted(reason=f"no line for {f'{bits} bit' if bits else dtype}")


@lru_cache(maxsize=512)
def table(config: str) -> dict[str, tuple[int, int]]:
    """Bytes of Total Size and of Training using Adam by the line's name (−1 as its N/A)."""
    command = _command()
    known = SimpleNamespace(library_name="transformers", config=json.loads(config))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(config)
        question = Namespace(
            model_name=folder,
            library_name="transformers",
            trust_remote_code=False,
            dtypes=["float32", "float16", "int8", "int4"],
        )
        with (
            mock.patch.object(command, "verify_on_hub", return_value=known),
            redirect_stdout(io.StringIO()),
        ):
            lines = command.gather_data(question)
    return {dtype: (int(total), max(adam.values())) for dtype, _, total, adam in lines}


def _command() -> Any:
    """The command's module; timm, which it does not need here, stays out."""
    utils: Any = importlib.import_module("accelerate.utils")
    with mock.patch.object(utils, "is_timm_available", return_value=False):
        return importlib.import_module("accelerate.commands.estimate")
