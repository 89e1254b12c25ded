"""What cannot be run at all, said before a process starts and a model is loaded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError, MissingLibraryError, UnsupportedError
from willfit.formulas.training.settings import fill_training
from willfit.formulas.training.zero import STAGES
from willfit.live.measured.rank import STRATEGIES, num_ranks
from willfit.scenario import Scenario

SIZES: Final = (
    "model_type", "hidden_size", "d_model", "n_embd", "num_hidden_layers", "n_layer", "num_layers",
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size", "num_experts",
    "num_local_experts",
)  # fmt: skip
"""Settings of a config that say which model it is, as far as memory goes."""
LARGEST_CONFIG: Final = 16 << 20
"""Bytes of a config.json that are read."""


def refuse(scenario: Scenario, checkpoint: str | None) -> None:
    """Nothing, or why this scenario cannot be run at all."""
    require_libraries()
    work, spec = scenario.workload, scenario.model
    if spec.library != "transformers":
        raise UnsupportedError(
            f"{spec.id} is a {spec.library} model, and measure runs those of transformers: "
            "'willfit estimate' says what it takes"
        )
    if spec.quantization is not None and checkpoint is None:
        raise InputError(
            f"{spec.id} is stored in {spec.quantization.method}, and random values cannot stand "
            "for packed ones: give the folder of the checkpoint with --checkpoint"
        )
    inference, strategy = work.inference, work.loading.strategy
    if inference is not None and inference.engine != "transformers":
        raise UnsupportedError(
            f"measure runs transformers, not {inference.engine}: leave --engine out"
        )
    _refuse_strategy(scenario, strategy)
    for library, what in _needs(scenario):
        if importlib.util.find_spec(library) is None:
            raise MissingLibraryError(f"{what} needs {library}: pip install {library}")
    if checkpoint is not None:
        _require_same(scenario, checkpoint)


def _refuse_strategy(scenario: Scenario, strategy: str | None) -> None:
    training = scenario.workload.training
    if strategy in (None, "device_map"):
        return
    if strategy not in STRATEGIES or training is None:
        raise UnsupportedError(
            f"--strategy {strategy} starts a process a GPU, and measure runs one: leave it out for "
            "one GPU, or give --strategy device_map; of training also one rank of ddp, fsdp or ZeRO"
        )
    if num_ranks(scenario) == 1:
        raise InputError(
            f"--strategy {strategy} is shared among several GPUs: say how many ranks there are, "
            "as in --gpu A100x4 (one GPU here is enough to measure a rank)"
        )
    if training.trainer == "loop":
        raise UnsupportedError(
            f"one rank of --strategy {strategy} is measured by the Trainer: leave --trainer out"
        )


def require_libraries() -> None:
    """Raise `MissingLibraryError` where not even a model can be loaded."""
    for library in ("torch", "transformers"):
        if importlib.util.find_spec(library) is None:
            raise MissingLibraryError(f"measuring needs {library}: pip install 'willfit[trace]'")


def _needs(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Packages that a scenario takes beside those of every measurement, and what takes them."""
    work = scenario.workload
    training, inference = work.training, work.inference
    if work.loading.quantization is not None:
        yield "bitsandbytes", "--quantize"
    if inference is not None and inference.lora is not None:
        yield "peft", "an adapter"
    if training is None:
        return
    if work.loading.strategy in STAGES:
        yield "deepspeed", f"--strategy {work.loading.strategy}"
    if training.method != "full":
        yield "peft", f"--train {training.method}"
    if training.trainer == "trl":
        yield "trl", "--trainer trl"
        yield "datasets", "--trainer trl"
    optimizer = fill_training(training, scenario.model.architecture, scenario.stack).optimizer_name
    if "8bit" in optimizer or "paged" in optimizer:
        yield "bitsandbytes", f"--optim {optimizer}"


def _require_same(scenario: Scenario, checkpoint: str) -> None:
    """Raise `InputError` where the folder has no model, or another one than the scenario's."""
    folder = Path(checkpoint).expanduser()
    try:
        with (folder / "config.json").open("rb") as file:
            found = json.loads(file.read(LARGEST_CONFIG))
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "no JSON"
        raise InputError(
            f"--checkpoint {checkpoint} has no config.json that can be read ({said}): "
            "name the folder of a checkpoint"
        ) from None
    other = _difference(scenario.model.config, found if isinstance(found, dict) else {})
    if other:
        raise InputError(
            f"--checkpoint {checkpoint} is another model than {scenario.model.id} ({other}): "
            "name the folder itself as the model"
        )


def _difference(asked: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The first setting that differs, in words; "" where both are of one model."""
    for name in SIZES:
        if name in asked and name in found and asked[name] != found[name]:
            return f"{name} is {found[name]!r}, not {asked[name]!r}"[:120]
    inner = asked.get("text_config"), found.get("text_config")
    return _difference(*inner) if all(isinstance(one, Mapping) for one in inner) else ""  # type: ignore[arg-type]
