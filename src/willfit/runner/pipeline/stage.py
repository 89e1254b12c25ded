"""A stage of the pipeline file: one model, or one function of the user's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from willfit.runner.pipeline.duration import Duration
from willfit.runner.pipeline.template import Template
from willfit.runner.pipeline.values import (
    Auto,
    Choices,
    Count,
    Flag,
    Gpus,
    Order,
    Plain,
    Positive,
    Text,
    one_of,
)

Task = Literal["classify", "generate", "embed", "choose"]
Engine = Literal["transformers", "vllm"]
Quantize = Literal["int8", "nf4", "fp4", "nf4-double", "fp4-double"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Side = Literal["right", "left"]
Normalize = Literal["none", "tokens", "characters"]
Pooling = Literal["mean", "last", "cls"]
OnRowError = Literal["error", "skip"]
Device = Literal["auto", "cpu"]


class Settings(BaseModel):
    """Base of what a pipeline file holds: no unknown names, no guessed types, no changes."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class StageFile(Settings):
    """One model, or one function, applied to every row of the data."""

    model: Text | None = None
    """Folder, Hub id or catalogue name of the model; a path is relative to the pipeline file."""
    adapter: Text | None = None
    """Folder or Hub id of a PEFT adapter that is put on the model."""
    tokenizer: Text | None = None
    """Folder or Hub id of the tokenizer; without it the adapter's, else the model's."""
    task: Annotated[Task, one_of(Task)] | None = None
    """What is computed of a row: class logits, text, an embedding, or the best of some choices;
    without it classify where `labels` is given and choose where `choices` is."""
    run: Text | None = None
    """A function in place of a model: `module.py:function`, the file relative to the pipeline."""
    engine: Annotated[Engine, one_of(Engine)] = "transformers"
    """Library that runs the model."""
    labels: Count | None = None
    """Number of classes; with `run`, columns of the array that the function returns."""
    quantize: Annotated[Quantize, one_of(Quantize)] | None = None
    """How bitsandbytes packs the weights as they are loaded; `-double` packs the scales as well."""
    dtype: Annotated[Dtype, one_of(Dtype)] = "auto"
    """Type of the weights that are not packed, and of the computation; auto: as stored."""
    attn: Text | None = None
    """Attention that transformers is asked for (`attn_implementation`): sdpa, eager, …"""
    revision: Text | None = None
    """Branch, tag or commit of the model on the Hub."""
    trust_remote_code: Flag = False
    """Whether Python code that comes with the model may run."""
    template: Template | None = None
    """Text of a row, with names of columns in braces: `{prompt}{response_a}`; `{{` is a brace."""
    chat: Flag = False
    """Whether the filled template becomes the user's message in the tokenizer's chat template."""
    system: Text | None = None
    """System message of the chat."""
    max_length: Count | None = None
    """Tokens of a row at most, longer ones are cut; without it the model's own bound."""
    truncate: Annotated[Side, one_of(Side)] = "right"
    """End at which longer rows are cut: in a chat that of the message alone; before choices, the
    context is always cut on the left."""
    add_special_tokens: Flag = True
    """Whether the tokenizer puts its special tokens about the text."""
    columns: Order | None = None
    """The model's labels in the order of the output: `[1, 0, 2]` where it has a and b swapped."""
    temperature: Positive = 1.0
    """What the logits are divided by before they are ensembled."""
    max_new_tokens: Count | None = None
    """Tokens that are generated at most; 256 without it."""
    generation: dict[Text, Plain] = {}
    """Further arguments of `generate`, such as `{do_sample: true, top_p: 0.9}`."""
    choices: Choices | None = None
    """Continuations to choose from, or the name of a column that holds a list of them."""
    normalize: Annotated[Normalize, one_of(Normalize)] = "none"
    """What a choice's log-likelihood is divided by: nothing, its tokens, its characters."""
    pooling: Annotated[Pooling, one_of(Pooling)] = "mean"
    """How the hidden states of a row become one vector."""
    normalize_embeddings: Flag = True
    """Whether embeddings get the length 1."""
    gpus: Gpus = "all"
    """GPUs that the stage may use: all, none, or their numbers."""
    gpus_per_replica: Count = 1
    """GPUs that one copy of the model is spread over."""
    replicas: Count | None = None
    """Copies of the model that work side by side; as many as the GPUs allow without it."""
    batch_tokens: Auto = "auto"
    """Tokens of a batch, padding included; auto: found by trying, and kept."""
    batch_size: Count | None = None
    """Rows of a batch at most."""
    shards: Count | None = None
    """Parts, about, that the rows are computed and stored in; by the amount of work without it."""
    on_row_error: Annotated[OnRowError, one_of(OnRowError)] = "error"
    """A row that cannot be computed: stop the stage, or leave the row out and say why."""
    stall_timeout: Duration = 600.0
    """How long a worker may show no progress before it is replaced."""
    load_timeout: Duration = 1800.0
    """How long a worker may take to load."""
    device: Annotated[Device, one_of(Device)] = "auto"
    """cpu: leave the GPUs alone."""


class StageDefaults(StageFile):
    """Settings of every stage that does not have its own; each holds where it has a meaning."""

    deadline: Duration | None = None
    """The run's deadline, as at the top of the file."""
