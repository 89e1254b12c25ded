"""The calls that make a scenario's model: on the GPUs planned for, and on a CPU in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from willfit.dtypes import DType
from willfit.emit.adapters import adapter_call, trainable_dtype
from willfit.emit.call import Call, Variable
from willfit.emit.loading import load_call
from willfit.live.adapter import Adapter
from willfit.live.facts import FLASH
from willfit.live.here import Here
from willfit.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What is called with what, as plain data."""

    load: Call
    """``AutoModelFor….from_pretrained``."""
    adapter: Call | None = None
    """PEFT's configuration, or the reading of a trained adapter."""
    trainable_dtype: DType | None = None
    """Type that what trains is cast to once the adapter is there; None leaves PEFT's choice."""
    sdpa_kernel: str | None = None

    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Arguments by call, for the report."""
        found: dict[str, Mapping[str, Any]] = {self.load.name: self.load.arguments}
        if self.adapter is not None:
            found[self.adapter.name] = self.adapter.arguments
        if self.sdpa_kernel is not None:
            found["torch.nn.attention.sdpa_kernel"] = {"backends": self.sdpa_kernel}
        return found


def calls_of(scenario: Scenario, adapter: Adapter | None, revision: str | None = None) -> Calls:
    """The calls on the GPUs planned for."""
    work = scenario.workload.training or scenario.workload.inference
    load = load_call(scenario)
    if revision is not None:
        load = replace(load, arguments={**load.arguments, "revision": revision})
    return Calls(
        load=load,
        adapter=_adapter(scenario, adapter),
        trainable_dtype=trainable_dtype(scenario),
        sdpa_kernel=work.sdpa_kernel if work is not None else None,
    )


def _adapter(scenario: Scenario, adapter: Adapter | None) -> Call | None:
    """The user's own configuration stays as it is."""
    if adapter is None:
        return None
    if adapter.folder is not None:
        trains = {"is_trainable": True} if scenario.workload.training is not None else {}
        arguments: Mapping[str, Any] = {"model_id": str(adapter.folder), **trains}
        return Call(library="peft", name="PeftModel.from_pretrained", arguments=arguments)
    if isinstance(adapter.config, Mapping):
        fields = {name: value for name, value in adapter.config.items() if name != "peft_type"}
        return Call(library="peft", name="LoraConfig", arguments=fields)
    if adapter.config is not None:
        name = type(adapter.config).__name__
        return Call(library="peft", name=name, arguments=_given(adapter.config))
    return adapter_call(scenario)


def _given(config: Any) -> dict[str, Any]:
    """Fields of a PEFT configuration that differ from its class's defaults."""
    usual = type(config)().to_dict()
    return {
        name: value
        for name, value in config.to_dict().items()
        if usual.get(name) != value and name != "peft_type"
    }


def on_cpu(calls: Calls) -> Calls:
    """The same calls on a machine without CUDA: all in host memory, and SDPA for flash-attn."""
    return _elsewhere(calls, "cpu", flash=False)


def on_other_gpus(calls: Calls, here: Here) -> Calls:
    """The same calls on a machine with other GPUs than those planned for."""
    place: Any = {"": 0} if len(here.gpus) == 1 else "auto"
    ampere = all(gpu.sm >= 80 for gpu in here.gpus)
    return _elsewhere(calls, place, flash=ampere and (here.flash_attn or here.hub_kernels))


def _elsewhere(calls: Calls, place: Any, *, flash: bool) -> Calls:
    arguments = dict(calls.load.arguments)
    if "device_map" in arguments:
        arguments["device_map"] = place
    arguments.pop("max_memory", None)
    if arguments.get("attn_implementation") in FLASH and not flash:
        arguments["attn_implementation"] = "sdpa"
    return replace(calls, load=replace(calls.load, arguments=arguments))


def shown(value: Any) -> str:
    """An argument as code: types by torch's name, configurations as their call."""
    if isinstance(value, DType):
        return f"torch.{value.name}"
    if isinstance(value, Variable):
        return shown(value.value)
    if isinstance(value, Call):
        return f"{value.name}({_keywords(value.arguments)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _keywords(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())


def written(call: str, arguments: Mapping[str, Any]) -> str:
    """A call as code."""
    return f"{call}({_keywords(arguments)})"
