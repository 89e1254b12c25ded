"""The callables whose keywords are checked, and where their libraries define them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["fields", "init", "function", "loader", "words"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """One class or function of a library."""

    library: str
    """Import name of the library."""
    module: str
    """Module that defines it, below the library; alternatives of other releases by ``|``."""
    name: str
    """Class, or ``Class.method``, or function."""
    kind: Kind
    """``fields``: a dataclass; ``init``: a class with ``__init__``; ``loader``: a method that takes
    names out of its ``**kwargs`` and hands the rest to the configuration and the model; ``words``:
    a module of which every text counts: options of a command, keys of a file."""

    @property
    def key(self) -> str:
        """``transformers.BitsAndBytesConfig``: how the rules and the data file name it."""
        return f"{self.library}.{self.name}"


def _transformers(module: str, name: str, kind: Kind) -> Known:
    return Known(library="transformers", module=module, name=name, kind=kind)


def _trl(method: str, name: str) -> tuple[Known, Known]:
    files = f"trainer.{method}_config", f"trainer.{method}_trainer"
    return (
        Known(library="trl", module=files[0], name=f"{name}Config", kind="fields"),
        Known(library="trl", module=files[1], name=f"{name}Trainer", kind="init"),
    )


def _peft(module: str, name: str) -> Known:
    return Known(library="peft", module=module, name=name, kind="fields")


KNOWN: Final[tuple[Known, ...]] = (
    _transformers("utils.quantization_config", "BitsAndBytesConfig", "init"),
    _transformers("utils.quantization_config", "GPTQConfig", "init"),
    _transformers("utils.quantization_config", "AwqConfig", "init"),
    _transformers("modeling_utils", "PreTrainedModel.from_pretrained", "loader"),
    _transformers("training_args", "TrainingArguments", "fields"),
    _transformers("training_args_seq2seq", "Seq2SeqTrainingArguments", "fields"),
    _transformers("trainer", "Trainer", "init"),
    _transformers("trainer_seq2seq", "Seq2SeqTrainer", "init"),
    _transformers("generation.configuration_utils", "GenerationConfig", "init"),
    _transformers("generation.utils", "GenerationMixin.generate", "function"),
    _transformers("pipelines.__init__", "pipeline", "function"),
    *_trl("sft", "SFT"),
    *_trl("dpo", "DPO"),
    *_trl("grpo", "GRPO"),
    *_trl("kto", "KTO"),
    *_trl("reward", "Reward"),
    *_trl("rloo", "RLOO"),
    Known(library="trl", module="trainer.model_config", name="ModelConfig", kind="fields"),
    Known(
        library="trl",
        module="scripts.utils|commands.cli_utils",
        name="ScriptArguments",
        kind="fields",
    ),
    _peft("tuners.lora.config", "LoraConfig"),
    _peft("tuners.adalora.config", "AdaLoraConfig"),
    _peft("tuners.ia3.config", "IA3Config"),
    _peft("tuners.prompt_tuning.config", "PromptTuningConfig"),
    _peft("tuners.prefix_tuning.config", "PrefixTuningConfig"),
    Known(library="peft", module="mapping_func|mapping", name="get_peft_model", kind="function"),
    Known(
        library="peft",
        module="utils.other",
        name="prepare_model_for_kbit_training",
        kind="function",
    ),
    Known(library="accelerate", module="accelerator", name="Accelerator", kind="init"),
    Known(
        library="accelerate",
        module="commands.config.config_args",
        name="ClusterConfig",
        kind="fields",
    ),
    Known(library="accelerate", module="commands.launch", name="launch", kind="words"),
    Known(library="deepspeed", module="runtime.constants", name="constants", kind="words"),
    Known(
        library="deepspeed",
        module="runtime.zero.config",
        name="DeepSpeedZeroConfig",
        kind="fields",
    ),
    *(
        Known(
            library="deepspeed",
            module="runtime.zero.offload_config",
            name=f"DeepSpeedZeroOffload{what}Config",
            kind="fields",
        )
        for what in ("Optimizer", "Param")
    ),
    Known(
        library="axolotl",
        module="utils.schemas.config",
        name="AxolotlInputConfig",
        kind="fields",
    ),
    Known(library="vllm", module="engine.arg_utils", name="EngineArgs", kind="fields"),
    Known(library="vllm", module="entrypoints.llm", name="LLM", kind="init"),
    Known(library="vllm", module="sampling_params", name="SamplingParams", kind="fields"),
)
"""Each is read from the library's source text; nothing is imported."""
