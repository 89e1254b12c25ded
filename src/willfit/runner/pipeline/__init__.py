"""The pipeline file: what it may hold, how it is read, and what it says of each stage."""

from __future__ import annotations

from willfit.runner.pipeline.duration import Duration, format_duration, parse_duration
from willfit.runner.pipeline.file import EnsembleFile, OutputFile, PipelineFile
from willfit.runner.pipeline.pipeline import Pipeline, json_schema, pipeline_from, read_pipeline
from willfit.runner.pipeline.stage import StageDefaults, StageFile
from willfit.runner.pipeline.template import fill_template, template_fields

__all__ = [
    "Duration",
    "EnsembleFile",
    "OutputFile",
    "Pipeline",
    "PipelineFile",
    "StageDefaults",
    "StageFile",
    "fill_template",
    "format_duration",
    "json_schema",
    "parse_duration",
    "pipeline_from",
    "read_pipeline",
    "template_fields",
]
