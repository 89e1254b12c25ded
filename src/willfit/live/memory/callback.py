"""`FirstStepCallback`: after the first step, whether the longest batch of the data will survive."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from willfit.live.memory.batches import dimensions, is_padded, longest_batch, shape_of
from willfit.live.memory.forecast import Forecast, Measured, forecast
from willfit.live.memory.host_meter import HostMeter
from willfit.live.memory.rows import Rows, read_rows
from willfit.live.memory.timeline import Shape, Timeline, is_telling
from willfit.units import KIB

MOST_STEPS: Final = 20
"""Steps that are waited for one that shows what grows: a length of its own, and padding."""


class FirstStepCallback(TrainerCallback):
    """Says after the first step whether the longest batch of *this* data will survive.

        trainer = Trainer(..., callbacks=[willfit.FirstStepCallback()])

    The first step is followed op by op: each tensor is known to be fixed (weights, optimizer
    states, gradients), to grow with the tokens of a row, or with their square (eager attention).
    The step is then played again with the longest row of the data set, which is read where that
    is cheap and sampled where it is not. On GPUs torch's counters add what kernels take for
    themselves. The result is in `forecast`, with its range, and printed once to stderr.

    On GPUs torch's peak counters begin anew with the first step.
    """

    def __init__(self, *, budget_bytes: int | None = None, quiet: bool = False) -> None:
        """``budget_bytes``: what tensors may take; None asks the device. ``quiet``: no stderr."""
        self.budget_bytes, self.quiet = budget_bytes, quiet
        self.forecast: Forecast | None = None
        self.why_none = "no step is over yet"
        """Why there is no forecast."""
        self._steps, self._done = 0, False
        self._meter: HostMeter | None = None
        self._timeline = Timeline(frozenset())
        self._hook: Any = None
        self._doubt = ""
        self._padding: list[bool | None] = []
        self._rows: Rows | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - theirs
        """Look at the data, and wait for the first batch."""
        self._end_step()
        self._steps, self._done, self.forecast, self._doubt = 0, False, None, ""
        loader, model = kwargs.get("train_dataloader"), kwargs["model"]
        self._rows = read_rows(
            getattr(loader, "dataset", None), str(getattr(args, "length_column_name", "length"))
        )
        self.why_none = _why_not(args, self._rows)
        if self.why_none:
            self._finish()
            return
        self._collator = getattr(loader, "collate_fn", None)
        self._dimensions = dimensions(model)
        self._hook = model.register_forward_pre_hook(self._before_forward, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - theirs
        """Follow the step."""
        if self._done or self._meter is not None:
            return
        self._timeline, self._padding = Timeline(self._dimensions), []
        self._meter = HostMeter(_device(args), self._timeline)
        if _is_gpu(self._meter.device):
            torch.cuda.reset_peak_memory_stats(self._meter.device)
        self._meter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002 - theirs
        """Forecast, or wait for the next step where this one's length tells nothing."""
        meter = self._end_step()
        if meter is None or self._done:
            return
        self._steps += 1
        if not self._timeline.batches:
            self.why_none = "the model's input is no batch of token ids"
        elif not self._is_over(args):
            return
        else:
            self.why_none = ""
            self.forecast = self._forecast(meter, int(args.train_batch_size))
        self._finish()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave nothing behind."""
        self._end_step()
        if not self._done:
            self._finish()

    def _before_forward(self, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        shape = shape_of(args, kwargs)
        if self._meter is not None and shape is not None and model.training:
            self._timeline.begin_pass(shape)
            self._padding.append(is_padded(kwargs))

    def _end_step(self) -> HostMeter | None:
        meter, self._meter = self._meter, None
        if meter is not None:
            meter.__exit__(None, None, None)
        return meter

    @property
    def _first(self) -> Shape:
        return max(self._timeline.batches, key=lambda batch: batch.tokens)

    def _is_over(self, args: Any) -> bool:
        """Whether this step tells enough: all batches are alike, or it shows what will grow.

        What does not is kept as a doubt, which a forecast after many such steps tells.
        """
        assert self._rows is not None
        longest = longest_batch(self._first, self._rows, self._collator, args.train_batch_size)
        if longest.shape == self._first:
            return True
        if not is_telling(self._first, self._dimensions):
            self._doubt = (
                f"{self._first.length} tokens a row cannot be told from a dimension of the model: "
                "what grows may be taken for fixed, and the other way round"
            )
        elif self._lacks_padding() and self._first.rows > 1 and self._rows.differ():
            self._doubt = (
                "the batch had no padding, the longest may have: attention then keeps a mask"
            )
        else:
            self._doubt = ""
        return not self._doubt or self._steps >= MOST_STEPS

    def _lacks_padding(self) -> bool:
        """Whether no batch of the step was padded: one that was shows what padding takes."""
        return False in self._padding and True not in self._padding

    def _forecast(self, meter: HostMeter, batch_size: int) -> Forecast:
        assert self._rows is not None
        longest = longest_batch(self._first, self._rows, self._collator, batch_size)
        measured = _measured(meter, self._timeline, self._first)
        return forecast(
            measured,
            longest.shape,
            budget_bytes=self.budget_bytes or _budget(meter),
            row=longest.row,
            is_sample=self._rows.is_sample,
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        assert self._rows is not None
        notes = [self._doubt] if self._doubt else []
        if self._rows.is_sample:
            notes.append(
                f"{len(self._rows.lengths):,} of {self._rows.num_rows:,} rows were read: "
                "a longer one may be among the others"
            )
        return tuple(notes)

    def _finish(self) -> None:
        """Say it once, and let go of the model and the data."""
        self._done = True
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._rows, self._collator = None, None, None
        if not self.quiet:
            text = self.forecast.text() if self.forecast else f"no forecast: {self.why_none}"
            sys.stderr.write(f"{text}\n")


def _why_not(args: Any, rows: Rows | None) -> str:
    if getattr(args, "n_gpu", 1) > 1:
        return "DataParallel runs the model in threads of its own: use torchrun, a process a GPU"
    if getattr(args, "torch_compile", False):
        return "ops of a compiled model are not seen one by one"
    return "" if rows is not None else "the data set tells no lengths of rows"


def _device(args: Any) -> str:
    device = torch.device(args.device)
    if device.type != "cuda":
        return device.type
    return f"cuda:{device.index if device.index is not None else torch.cuda.current_device()}"


def _is_gpu(device: str) -> bool:
    return device.startswith("cuda")


def _measured(meter: HostMeter, timeline: Timeline, first: Shape) -> Measured:
    events = timeline.events()
    seen = Measured(device=meter.device, first=first, base_bytes=meter.before_bytes, events=events)
    if not _is_gpu(meter.device):
        return seen
    peak = torch.cuda.max_memory_allocated(meter.device)
    return Measured(
        device=meter.device,
        first=first,
        base_bytes=meter.before_bytes,
        unseen_bytes=max(0, peak - seen.first_peak()),
        reserved_factor=torch.cuda.max_memory_reserved(meter.device) / max(1, peak),
        events=events,
    )


def _budget(meter: HostMeter) -> int | None:
    """What tensors may take: what they have, and what the device has free."""
    if not _is_gpu(meter.device):
        free = _available_bytes()
        return None if free is None else meter.live_bytes + free
    free, _ = torch.cuda.mem_get_info(meter.device)
    return int(torch.cuda.memory_reserved(meter.device) + free)


def _available_bytes() -> int | None:
    """Memory of the host that can be had without swapping; None where Linux does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * KIB if found else None
