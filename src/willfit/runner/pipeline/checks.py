"""What the settings of a pipeline must be to each other, each with its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from willfit.errors import InputError
from willfit.runner.output import output_suffix
from willfit.runner.pipeline.file import PipelineFile
from willfit.runner.pipeline.merge import MEANT_FOR, Kind, means
from willfit.runner.pipeline.stage import StageFile
from willfit.runner.pipeline.values import listed, nearest, shown

_OURS: Final[dict[str, str]] = {
    "max_new_tokens": "write it as max_new_tokens of the stage",
    "max_length": "write max_length for the prompt and max_new_tokens for the answer",
    "input_ids": "the template makes it",
    "attention_mask": "the template makes it",
}
"""Arguments of ``generate`` that a stage already gives."""


def problems(given: PipelineFile, complete: PipelineFile) -> Iterator[str]:
    """Everything that is wrong between settings of the file and, complete, of its stages."""
    if given.deadline is not None and given.defaults and given.defaults.deadline is not None:
        yield "deadline is at the top of the file and in defaults: keep one of them"
    yield from _function(given.prepare, "prepare")
    for name, stage in complete.stages.items():
        yield from _stage(f"stages.{name}", given.stages[name], stage)
    yield from _ensemble(complete)
    yield from _output(complete)


def _stage(path: str, own: StageFile, stage: StageFile) -> Iterator[str]:
    if stage.run is not None and stage.model is not None:
        yield (
            f"{path} has both model {shown(own.model or stage.model)} and run "
            f"{shown(own.run or stage.run)}: keep one, a function loads its own model"
        )
        return
    if stage.run is None and stage.model is None:
        yield f"{path} has neither model nor run: name a model, or a function as module.py:function"
        return
    kind: Kind | None = "run" if stage.run is not None else stage.task
    if kind is None:
        yield f"{path}.task is missing: {_which_task(stage)}"
        return
    yield from _meaningless(path, own, kind)
    yield from _function(stage.run, f"{path}.run")
    yield from _labels(path, stage)
    yield from _texts(path, stage)
    yield from _gpus(path, stage)


def _which_task(stage: StageFile) -> str:
    if stage.labels is not None and stage.choices is not None:
        return "labels are of task: classify and choices of task: choose, keep one"
    return "write task: classify, generate, embed or choose, or give labels to classify"


def _meaningless(path: str, own: StageFile, kind: Kind) -> Iterator[str]:
    """Settings of the stage's own that would have no effect."""
    for name in StageFile.model_fields:
        default = StageFile.model_fields[name].default
        if getattr(own, name) not in (default, None) and not means(name, kind):
            tasks = [each for each in ("classify", "generate", "embed", "choose", "run")
                     if each in MEANT_FOR[name]]  # fmt: skip
            what = "run" if kind == "run" else f"task {kind}"
            yield (
                f"{path}.{name} has no meaning with {what}: remove it, it is for "
                f"{'models' if len(tasks) == 4 else listed(tasks, 'and')}"
            )


def _function(text: str | None, path: str) -> Iterator[str]:
    """A function's name, and the file that it is in."""
    if text is None:
        return
    module, colon, function = text.rpartition(":")
    if not (module and colon and function.isidentifier()):
        yield f"{path} is {shown(text)}, expected a file and a function such as prep.py:build"
    elif module.endswith(".py") and not Path(module).is_file():
        yield f"{path} names {module}, and there is no such file: check the path"


def _labels(path: str, stage: StageFile) -> Iterator[str]:
    known = num_labels(stage)
    if stage.task == "choose" and stage.choices is None:
        yield f"{path}.choices is missing: list them, or name the column that has them"
    if stage.columns is None:
        return
    if sorted(stage.columns) != list(range(len(stage.columns))):
        yield (
            f"{path}.columns is {shown(stage.columns)}, expected each number from 0 to "
            f"{len(stage.columns) - 1} once, such as [1, 0, 2]"
        )
    elif known is not None and len(stage.columns) != known:
        yield (
            f"{path}.columns has {len(stage.columns)} numbers for {known} "
            f"{'choices' if stage.task == 'choose' else 'labels'}: give each its place"
        )


def num_labels(stage: StageFile) -> int | None:
    """Labels of a stage as far as the file says it."""
    if stage.task == "choose":
        return len(stage.choices) if isinstance(stage.choices, tuple) else None
    return stage.labels


def _texts(path: str, stage: StageFile) -> Iterator[str]:
    if stage.system is not None and not stage.chat:
        yield f"{path}.system is a message of a chat: add chat: true, or write it in the template"
    if isinstance(stage.choices, tuple) and len(set(stage.choices)) < len(stage.choices):
        yield f"{path}.choices is {shown(stage.choices)}, expected each of them once"
    for name in stage.generation:
        if name in _OURS:
            yield f"{path}.generation.{name} is not for generation: {_OURS[name]}"


def _gpus(path: str, stage: StageFile) -> Iterator[str]:
    if not isinstance(stage.gpus, tuple):
        return
    wanted = stage.gpus_per_replica * (stage.replicas or 1)
    if not stage.gpus or len(set(stage.gpus)) < len(stage.gpus):
        yield f"{path}.gpus is {shown(stage.gpus)}, expected each number once, or all or none"
    elif stage.device == "cpu":
        yield f"{path}.gpus is {shown(stage.gpus)} and device is cpu: keep one of them"
    elif wanted > len(stage.gpus):
        yield (
            f"{path}.gpus has {len(stage.gpus)} GPUs and gpus_per_replica × replicas is {wanted}: "
            "list more, or lower one of them"
        )


def _ensemble(file: PipelineFile) -> Iterator[str]:
    if file.ensemble is None:
        return
    weights = file.ensemble.weights
    if weights is not None:
        unknown = [name for name in weights if name not in file.stages]
        for name in unknown:
            near = nearest(name, file.stages)
            hint = f"did you mean {near}?" if near else f"there is {listed(file.stages, 'and')}"
            yield f"ensemble.weights names {name}, which is no stage: {hint}"
        for name in () if unknown else file.stages.keys() - weights.keys():
            yield f"ensemble.weights leaves out {name}: give it a weight, 0 to leave it out"
        if not any(weights.values()):
            yield "ensemble.weights are all 0: give one stage a weight above 0"
    yield from _members(file)


def _members(file: PipelineFile) -> Iterator[str]:
    """Stages whose results can be averaged with each other."""
    members = {name: file.stages[name] for name in file.stages if file.weights.get(name)}
    for name, stage in members.items():
        if stage.task in ("generate", "embed"):
            yield (
                f"stages.{name} has task {stage.task}, which no ensemble takes: give it the "
                "weight 0 in ensemble.weights"
            )
    sizes = {name: size for name, stage in members.items() if (size := num_labels(stage))}
    if len(set(sizes.values())) > 1:
        said = listed((f"{size} of {name}" for name, size in sizes.items()), "and")
        yield f"the ensemble would average {said} labels: stages need the same labels"


def _output(file: PipelineFile) -> Iterator[str]:
    if file.output is None:
        return
    try:
        output_suffix(file.output.path)
    except InputError as error:
        yield str(error)
    scored = [stage.task in ("classify", "choose") for stage in file.stages.values()]
    if len(scored) > 1 and all(scored) and file.ensemble is None:
        yield (
            f"output is one file and there are {len(file.stages)} stages: say how they become one "
            "with ensemble: {method: mean}"
        )
    yield from _output_columns(file)


def _output_columns(file: PipelineFile) -> Iterator[str]:
    columns = file.output.columns if file.output else None
    if file.output is None or columns is None:
        return
    if len(set(columns)) < len(columns) or (file.output.id or file.id) in columns:
        yield f"output.columns is {shown(columns)}, expected names that differ, the id's too"
    for name, stage in file.stages.items():
        size = num_labels(stage)
        if size and size != len(columns) and file.weights.get(name, 1):
            yield (
                f"output.columns has {len(columns)} names and stages.{name} {size} labels: name "
                "each label"
            )
            return
