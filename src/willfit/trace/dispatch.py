"""A model split over GPUs: accelerate's own hooks, with copies of fake tensors between devices.

accelerate 1.15 big_modeling.py `dispatch_model`, hooks.py `AlignDevicesHook`: every module of the
device_map gets its inputs on its own GPU, the model gives its outputs back on the GPU of its
inputs, and what is in host memory or on disk comes to the first GPU for each call.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from willfit.formulas.placement import Device, device_of
from willfit.trace.cuda.kernels import replaced
from willfit.trace.recorder import Recorder
from willfit.trace.recording import Handle

_OFF_GPU = ("cpu", "disk")


@dataclass(frozen=True, kw_only=True)
class Dispatch:
    """Where the modules of a traced model are: all on the first GPU unless placed otherwise."""

    device_map: Mapping[str, Device] = field(default_factory=dict)
    """Device by module path, as transformers places them."""

    @cached_property
    def main(self) -> int:
        """The GPU of what has no place of its own, and of modules that wait on the host."""
        return min((d for d in self.device_map.values() if isinstance(d, int)), default=0)

    @property
    def hooked(self) -> bool:
        """Whether accelerate puts hooks on the model: not where one GPU has it all."""
        devices = set(self.device_map.values())
        return len(devices) > 1 or "disk" in devices

    def device(self, name: str) -> Device:
        """Device of a module or tensor."""
        return device_of(name, self._whole)

    @cached_property
    def _whole(self) -> dict[str, Device]:
        return {"": self.main, **self.device_map}

    def home(self, name: str) -> int:
        """The GPU that a module computes on."""
        device = self.device(name)
        return device if isinstance(device, int) else self.main

    def attach(self, model: Any) -> None:
        """Put accelerate's hooks on a model of the meta device that is split."""
        if not self.hooked:
            return
        hooks: Any = importlib.import_module("accelerate.hooks")
        attach = hooks.attach_align_device_hook_on_blocks
        execution = {name: self.home(name) for name in self.device_map}
        with replaced([(hooks, "set_module_tensor_to_device", _stay)]):
            attach(
                model,
                execution_device={**execution, "": self.main},
                offload={name: device in _OFF_GPU for name, device in self.device_map.items()},
                weights_map=_Anywhere(),
                skip_keys=getattr(model, "_skip_keys_device_placement", None),
            )

    @contextmanager
    def copying(self, recorder: Recorder) -> Iterator[None]:
        """While the model runs its hooks copy between the recorded GPUs."""
        if not self.hooked:
            yield
            return
        hooks: Any = importlib.import_module("accelerate.hooks")

        fetched: dict[tuple[int, str], Handle] = {}

        def fetch(module: Any, name: str, device: Device, **_: Any) -> None:
            tensor = module.get_parameter(name) if name in module._parameters else None
            if tensor is None:
                return
            if device == "meta":
                recorder.release(fetched.pop((id(module), name)))
            else:
                amount = tensor.untyped_storage().nbytes()
                fetched[id(module), name] = recorder.allocate(
                    amount, "fetch", "weights", gpu=self.main
                )

        def send(value: Any, device: int, skip_keys: Any = None, **_: Any) -> Any:
            skipped = [skip_keys] if isinstance(skip_keys, str) else skip_keys or ()
            return _sent(value, device, recorder, skipped)

        def find(value: Any) -> int | None:
            return next((recorder.gpu_of(tensor) for tensor in _tensors(value)), None)

        rows = [
            (hooks, "set_module_tensor_to_device", fetch),
            (hooks, "send_to_device", send),
            (hooks, "find_device", find),
        ]
        with replaced(rows):
            yield


def _stay(*_: Any, **__: Any) -> None:
    """No tensor is moved while hooks are attached: there is nothing in them."""


class _Anywhere(Mapping[str, None]):
    """Values of the tensors that are not on a GPU, of which nobody asks the content."""

    def __getitem__(self, _: str) -> None:
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _sent(value: Any, gpu: int, recorder: Recorder, skipped: Any = ()) -> Any:
    """The same with every tensor on a GPU, as accelerate's ``send_to_device`` goes through it."""
    if isinstance(value, torch.Tensor):
        if recorder.gpu_of(value) == gpu:
            return value
        return _Copy.apply(value, recorder, gpu)  # type: ignore[no-untyped-call]
    if isinstance(value, Mapping):
        sent = {
            key: part if key in skipped else _sent(part, gpu, recorder, skipped)
            for key, part in value.items()
        }
        same = all(sent[key] is part for key, part in value.items())
        return value if same else type(value)(sent)  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        parts = [_sent(part, gpu, recorder, skipped) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


class _Copy(torch.autograd.Function):
    """``tensor.to(other GPU)``: a copy there, and of its gradient a copy back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, recorder: Recorder, gpu: int) -> torch.Tensor:
        ctx.recorder, ctx.source = recorder, recorder.gpu_of(tensor)
        with recorder.on(gpu):
            return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        with ctx.recorder.on(ctx.source):
            return gradients[0].clone(), None, None
