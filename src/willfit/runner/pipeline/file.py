"""The pipeline file: data, stages, and what becomes of their results."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from willfit.runner.pipeline.duration import Duration
from willfit.runner.pipeline.stage import Settings, StageDefaults, StageFile
from willfit.runner.pipeline.values import Name, Seed, Text, Texts, Weight, one_of

Method = Literal["mean", "logit", "vote", "rank"]
Missing = Literal["error", "available"]
Backend = Literal["local", "ray"]

_NAMED: Final = Field(json_schema_extra={"additionalProperties": False})
"""What the schema must say of a mapping by stages, for it to refuse other names."""


class EnsembleFile(Settings):
    """How the stages' results become one."""

    method: Annotated[Method, one_of(Method)] = "mean"
    """Weighted mean of probabilities or of logits, vote of the majority, or mean of ranks."""
    weights: Annotated[dict[Name, Weight], _NAMED] | None = None
    """Weight of every stage, 0 to leave one out; 1 for all without it."""
    missing: Annotated[Missing, one_of(Missing)] | None = None
    """A stage that did not end: an error, or an ensemble of what is available; without it the
    latter where there is a deadline."""


class OutputFile(Settings):
    """The file that the run is for."""

    path: Text
    """Where it is written, relative to the current folder; its suffix is its format."""
    columns: Texts | None = None
    """Names of the labels' columns, in the order of the labels."""
    id: Text | None = None
    """Name of the id's column; the data's without it."""


def _path_alone(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class PipelineFile(Settings):
    """Models one after another over one table, each in processes of its own."""

    data: Text
    """The table: Parquet, CSV, JSON lines, JSON or Arrow; a path relative to the pipeline file."""
    id: Text = "id"
    """The column that names each row, without repetition."""
    prepare: Text | None = None
    """A function that runs before the stages and returns the data: `prep.py:build`."""
    defaults: StageDefaults | None = None
    """Settings for every stage; a stage's own win."""
    stages: Annotated[dict[Name, StageFile], Field(min_length=1), _NAMED]
    """Stages by name, in the order in which they run."""
    ensemble: EnsembleFile | None = None
    """How the stages' results become one."""
    output: (
        Annotated[OutputFile, BeforeValidator(_path_alone, json_schema_input_type=str | OutputFile)]
        | None
    ) = None
    """The file that the run is for, or its path alone."""
    deadline: Duration | None = None
    """Time after which the run ends with what it has, from its start."""
    backend: Annotated[Backend, one_of(Backend)] = "local"
    """Where workers run: this machine, or a Ray cluster."""
    seed: Seed = 0
    """Seed of every worker's random numbers."""

    @property
    def missing(self) -> Missing:
        """What a stage that did not end means for the ensemble."""
        given = self.ensemble.missing if self.ensemble else None
        return given or ("available" if self.deadline is not None else "error")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every stage in the ensemble; empty without an ensemble."""
        if self.ensemble is None:
            return {}
        return dict(self.ensemble.weights or dict.fromkeys(self.stages, 1.0))
