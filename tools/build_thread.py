"""Writes docs/stories/fine-tuning-thread.md: the fine-tuning thread's three reports, and the plan.

``python -m tools.build_thread``: figures by formula; ``--check`` only compares the page.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from willfit.cli import plan as plan_command
from willfit.cli.build import build_request
from willfit.cli.parser import Parser
from willfit.estimator.evaluator import Evaluator
from willfit.planning import Job, plan
from willfit.report.plan import hours_text
from willfit.scenario import Scenario
from willfit.units import GIB

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "stories" / "fine-tuning-thread.md"
HEAD: Final = (
    "llama-3-8b --gpu T4:14.75GiB --train qlora --num-labels 3 --lora-target-modules all-linear "
    "--optim paged_adamw_32bit --padded"
)
REPORTS: Final = (
    "--lora-r 64 --max-length 1024",
    "--lora-r 4 --max-length 512",
    "--lora-r 64 --max-length 1024 --gradient-checkpointing",
)
CHOICES: Final = tuple(
    f"{kbit} --bnb-4bit-compute-dtype {compute} {autocast}".strip()
    for kbit in ("--no-prepare-kbit", "--prepare-kbit")
    for compute in ("float32", "float16")
    for autocast in ("", "--fp16", "--bf16")
)
BATCHES: Final = (1, 2, 3, 4, 6, 8, 16)
BUDGET: Final = 14.75
TRACED: Final = (
    f"willfit estimate {HEAD} --prepare-kbit --fp16 --per-device-train-batch-size 2 "
    f"{REPORTS[0]} --trace"
)
WHERE: Final = (
    "willfit where llama-3-8b --train qlora --num-labels 3 --lora-r 64 "
    "--lora-target-modules all-linear --optim paged_adamw_32bit --max-length 1024 "
    "--per-device-train-batch-size 4 --gradient-checkpointing "
    "--bnb-4bit-compute-dtype float16 --samples 55000 --time-limit 9h"
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Peaks of the three reports in GiB under one way of loading and one micro-batch."""

    choice: str
    batch: int
    peaks: tuple[float, float, float]

    @property
    def holds(self) -> bool:
        """The first two die on the card, the third trains."""
        first, second, third = self.peaks
        return first > BUDGET and second > BUDGET and third <= BUDGET


def scenario(text: str) -> Scenario:
    """The scenario of settings as typed."""
    parser = Parser()
    plan_command.configure(parser)
    return build_request(parser.parse_args(shlex.split(text))).scenario


def cases() -> list[Case]:
    """Every choice and micro-batch."""
    evaluator = Evaluator()

    def peak(text: str) -> float:
        return evaluator.outcome(scenario(text)).gpus[0].peak.device_bytes / GIB

    made = []
    for choice in CHOICES:
        for batch in BATCHES:
            asked = f"{HEAD} {choice} --per-device-train-batch-size {batch}"
            first, second, third = (peak(f"{asked} {report}") for report in REPORTS)
            made.append(Case(choice=choice, batch=batch, peaks=(first, second, third)))
    return made


def page() -> str:
    """The whole page."""
    every = cases()
    rows = [_row(choice, [c for c in every if c.choice == choice]) for choice in CHOICES]
    batches = " | ".join(f"{batch}" for batch in BATCHES)
    return f"""# Fine-tuning Llama-3-8B on a T4: three reports that have to hold together

A public thread of 2024: Llama-3-8B as a classifier with three labels, 4-bit NF4, LoRA on all linear
layers, `paged_adamw_32bit`, one T4 with 14.75 GiB. Three things are reported:

1. rank 64 with 1,024 tokens dies, asking for 224 MiB with 14.04 GiB allocated;
2. rank 4 with 512 tokens still dies;
3. rank 64 with 1,024 tokens and gradient checkpointing trains.

The micro-batch is not said, nor the compute type, nor whether the model was prepared for k-bit
training. For which of them do all three hold? Peaks in GiB of the three reports, by formula, rows
padded, by micro-batch; in **bold** where all three hold:

| loading | {batches} |
|---|{"---|" * len(BATCHES)}
{chr(10).join(rows)}

**Micro-batch 1 is ruled out**: rank 4 with 512 tokens would have fitted with 2 to 5 GiB to spare,
whatever was chosen. So is 16, where not even checkpointing saves it. From 3 to 6 all choices are
consistent; at 2, autocast without k-bit preparation comes to the edge.

The 224 MiB narrow it further. That is 4,096 × 14,336 × 4 bytes, an MLP weight made float32 to be
multiplied (`bnb_4bit_compute_dtype` left at the library's default), and just as well
4 × 1,024 × 14,336 × 4, an MLP activation of four rows in float32. A trace of the real code says
where the run would end, and in what request: with float32 as the compute type and `--fp16`,
micro-batch 2 ends asking for 224.00 MiB, prepared or not; micro-batch 4 asks for 224.00 MiB too,
with float16 and float32 alike. Micro-batch 8 asks for other amounts, micro-batch 3 for 168. So:
**micro-batch 2 with the default compute type, or micro-batch 4.** The traced message has 14.2 to
14.4 GiB allocated and 215 to 360 MiB reserved beside it, the report 14.04 GiB and 510 MiB: torch
2.1 and the transformers of that spring are not the releases that were traced.

Lowering rank and length was the wrong lever: rank 64 takes 0.6 GiB of adapters, the activations of
two rows of 1,024 tokens take 18.

```bash
{TRACED}
```

## The plan

{_plans()}

`willfit plan` names checkpointing first: one setting, nothing lost, less than half as much time
again. What the thread did not find is the time: the default compute type makes a T4 multiply in
float32, at a small part of its float16 rate.

## Two cards

On Kaggle's T4×2 the Trainer in a notebook uses DataParallel for 16-bit models and leaves GPU 1 idle
for bitsandbytes ones. Two processes (`accelerate launch`, or `notebook_launcher`) halve the time;
each card then holds what one held before.

## Where it is done in time

```bash
{WHERE}
```

{_places()}
"""


def _row(choice: str, made: list[Case]) -> str:
    cells = []
    for case in made:
        text = "/".join(f"{peak:.1f}" for peak in case.peaks)
        cells.append(f"**{text}**" if case.holds else text)
    return f"| `{choice}` | {' | '.join(cells)} |"


def _plans() -> str:
    asked = scenario(f"{HEAD} --lora-r 64 --max-length 1024 --per-device-train-batch-size 4")
    lines = ["| goal | changes | peak | time for 55,000 samples |", "|---|---|---|---|"]
    for goal in ("smallest-change", "fastest"):
        made = plan(asked, goal=goal, job=Job(samples=55_000)).plans[0]
        total = made.duration.total_seconds if made.duration is not None else None
        assert total is not None
        changes = ", ".join(f"`{step.change.id}`" for step in made.steps)
        peak = made.estimate.binding.peak.device_bytes / GIB
        span = f"{hours_text(total.nominal)} ({hours_text(total.low)} to {hours_text(total.high)})"
        lines.append(f"| {goal} | {changes} | {peak:.2f} GiB | {span} |")
    return "\n".join(lines)


def _places() -> str:
    from willfit.devices.places import all_places
    from willfit.planning.where import Asking, stay

    asked = scenario(
        f"{HEAD} --lora-r 64 --max-length 1024 --per-device-train-batch-size 4 "
        "--gradient-checkpointing --bnb-4bit-compute-dtype float16"
    )
    asking = Asking(job=Job(samples=55_000, time_limit_seconds=9 * 3600.0))
    done, late, never = [], [], []
    for place in all_places():
        found = stay(asked, place, asking)
        if found.seconds is None:
            never.append(f"{place.title} ({found.status.replace('_', ' ')})")
        elif found.status == "too_slow":
            late.append(f"{place.title} {hours_text(found.seconds.nominal)}")
        else:
            done.append(f"{place.title} {hours_text(found.seconds.nominal)}")
    return (
        f"Within nine hours: {', '.join(done)}. Longer: {', '.join(late)}. Not at all: "
        f"{', '.join(never)}. The slow end of each range is in the command's output."
    )


def main() -> int:
    """Write the page, or with ``--check`` compare."""
    text = page()
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text() == text else 1
    PAGE.write_text(text)
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
