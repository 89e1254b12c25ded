"""``trl`` and ``peft``: a complete training script with the user's rows or a few of its own."""

from __future__ import annotations

import re
from typing import Final

from willfit.dtypes import FLOAT32, DType
from willfit.emitting.arguments import Arguments, arguments
from willfit.emitting.call import Call
from willfit.emitting.code import assignment, call_lines
from willfit.emitting.loading import CAUSAL, CLASSIFIER, SEQ2SEQ, auto_class, reads_text_alone
from willfit.emitting.script import (
    Script,
    adapter_lines,
    device_lines,
    environment_lines,
    heading,
    indented,
    kernel_lines,
    model_lines,
    model_name,
    needs_device,
    pad_lines,
    tokenizer_lines,
)
from willfit.emitting.training import TrainerClass, length_of
from willfit.emitting.versions import PROCESSING_CLASS_SINCE, SFT_PROCESSING_CLASS_SINCE
from willfit.errors import InputError
from willfit.formulas.training.settings import checkpointing_of
from willfit.scenario import Scenario, Training

MASKED: Final = "AutoModelForMaskedLM"


def training_script(scenario: Scenario, trainer: TrainerClass) -> str:
    """Load, adapt, train and save; a classifier's probabilities at the end."""
    training = scenario.workload.training
    if training is None:
        raise InputError("trl and peft are training scripts and the scenario has none: add --train")
    known = auto_class(scenario) in (CAUSAL, CLASSIFIER, SEQ2SEQ, MASKED)
    if not known or not reads_text_alone(scenario):
        raise InputError(
            f"{scenario.model.model_class} has no training script here: causal, masked and "
            "sequence-to-sequence language models and sequence classifiers have"
        )
    if auto_class(scenario) != CAUSAL:
        trainer = "transformers"
    given, script = arguments(scenario, trainer=trainer), Script()
    script.add(*_names(script, scenario, given))
    script.add(*_sample(scenario))
    script.add(*_reader(script))
    script.add(*tokenizer_lines(script, scenario))
    script.add(*_arguments(script, given))  # before the model: ZeRO-3 shards while loading
    script.add(*_model(script, scenario, given, training))
    script.add(*_data(script, scenario, trainer))
    script.add(*_trainer(script, scenario, training, trainer))
    script.add(*_train(script, given))
    if auto_class(scenario) == CLASSIFIER:
        script.add(*_probabilities())
    doing = f"train, {training.method}"
    top = [*heading(scenario, doing, run_words(given)), *_other_trainer(training, trainer)]
    return script.text(top, environment_lines(given))


def _other_trainer(training: Training, trainer: TrainerClass) -> list[str]:
    """What to know where the estimate was made for another trainer than the script's."""
    if training.trainer == "loop":
        return ["# Estimated for a plain loop, which keeps its outputs; the Trainer drops them."]
    if training.trainer == "transformers" and trainer == "trl":
        return ["# Estimated for the Trainer; SFTTrainer makes the loss in pieces and needs less."]
    if training.trainer == "trl" and trainer == "transformers":
        return ["# Estimated for SFTTrainer; the Trainer makes all logits at once and needs more."]
    return []


def run_words(given: Arguments, file: str = "train.py") -> str:
    """The command that starts the script."""
    how = given.launch
    if how.starter == "python":
        return f"python {file}"
    if how.starter == "torchrun":
        return f"torchrun --nproc-per-node {how.num_processes} {file}"
    if how.strategy in ("fsdp", "zero1", "zero2", "zero3"):
        return f"accelerate launch --config_file accelerate.yaml {file}"
    return f"accelerate launch --num_processes {how.num_processes} {file}"


def _names(script: Script, scenario: Scenario, given: Arguments) -> list[str]:
    lines = [
        *model_name(scenario),
        f"DATA = None  # path of a .jsonl, .parquet or .csv file with {_COLUMNS[_kind(scenario)]}",
        *assignment("MAX_LENGTH", length_of(scenario), comment="tokens of a row at most"),
        "EPOCHS = 1",
        "ON_GPU = torch.cuda.is_available()  # without one the script still runs, as a rehearsal",
    ]
    script.modules.add("torch")
    if needs_device(given):
        lines += device_lines(script, given)
    return lines


def _kind(scenario: Scenario) -> str:
    kinds = {CLASSIFIER: "label", SEQ2SEQ: "target"}
    return kinds.get(auto_class(scenario), "text")


_COLUMNS: Final = {
    "label": "text and label (0, 1, …)",
    "target": "text and target",
    "text": "text",
}


def _sample(scenario: Scenario) -> list[str]:
    """Rows that let the script run before there are any."""
    kind = _kind(scenario)
    if kind == "label":
        count = scenario.workload.loading.num_labels or 2
        row = '{"text": f"row {i}: " + "a word " * i, "label": i % LABELS}'
        return [f"LABELS = {count}", f"SAMPLE = [{row} for i in range(8)]"]
    if kind == "target":
        return ['SAMPLE = [{"text": f"count to {i}", "target": "one two three"} for i in range(8)]']
    return ['SAMPLE = [{"text": f"row {i}: " + "a word " * i} for i in range(8)]']


def _reader(script: Script) -> list[str]:
    script.modules |= {"json"}
    return [
        "",
        "def read(path):",
        "    if path is None:",
        "        return SAMPLE",
        '    if path.endswith(".jsonl"):',
        '        with open(path, encoding="utf-8") as lines:',
        "            return [json.loads(line) for line in lines if line.strip()]",
        "    import pandas as pd",
        "",
        '    frame = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)',
        '    return frame.to_dict("records")',
        "",
    ]


def _model(script: Script, scenario: Scenario, given: Arguments, training: Training) -> list[str]:
    lines = model_lines(script, scenario, given)
    if training.fp16:
        half = "torch.float16 if ON_GPU else torch.float32"
        lines = [_HALF.sub(rf"    \1={half},", line) for line in lines]
    lines += pad_lines(scenario)
    lines.append("model.config.use_cache = False  # no keys and values are kept in training")
    if given.freeze:
        lines += _frozen(given.freeze)
        if checkpointing_of(training):
            lines.append(_INPUTS)
    if given.prepare is not None:
        script.use("peft", given.prepare.name)
        lines += ["# float32 for all that is not quantised, embeddings and head included"]
        lines += call_lines("model", given.prepare, ["model"])
    if given.adapter is not None:
        lines += _adapted(script, given, training)
    return lines


_INPUTS: Final = "model.enable_input_require_grads()  # the embeddings are frozen"
"""Without it reentrant checkpointing finds no input that asks for a gradient."""


def _adapted(script: Script, given: Arguments, training: Training) -> list[str]:
    lines = adapter_lines(script, given)
    if given.trainable_dtype is not None:
        scaled = "fp16 training scales float32 gradients alone"
        why = scaled if training.fp16 else "the adapter's type"
        lines += _cast(given.trainable_dtype, why)
    if checkpointing_of(training):
        lines.append(_INPUTS)
    return [*lines, "model.print_trainable_parameters()"]


def _cast(dtype: DType, why: str) -> list[str]:
    return [
        f"for parameter in model.parameters():  # {why}",
        "    if parameter.requires_grad:",
        f"        parameter.data = parameter.data.to(torch.{dtype.name})",
    ]


def _frozen(names: tuple[str, ...]) -> list[str]:
    suffixes = tuple(f".{name}" for name in names)
    return [
        *assignment("FROZEN", suffixes, comment="left as they are"),
        "for name, module in model.named_modules():",
        '    if f".{name}".endswith(FROZEN):',
        "        module.requires_grad_(False)",
    ]


def _data(script: Script, scenario: Scenario, trainer: TrainerClass) -> list[str]:
    if trainer == "trl":
        script.use("datasets", "Dataset")
        return ['rows = Dataset.from_list([{"text": row["text"]} for row in read(DATA)])']
    columns, collator = _COLLATED[auto_class(scenario)]
    script.use("transformers", collator.name)
    return [
        "",
        "def tokenised(row):",
        '    tokens = tokenizer(row["text"], truncation=True, max_length=MAX_LENGTH)',
        *indented(columns),
        "    return dict(tokens)",
        "",
        "",
        "rows = [tokenised(row) for row in read(DATA)]",
        *call_lines("collator", collator, ["tokenizer"]),
    ]


def _collator(name: str, **arguments: object) -> Call:
    return Call(library="transformers", name=name, arguments=arguments)


_COLLATED: Final = {
    CAUSAL: ((), _collator("DataCollatorForLanguageModeling", mlm=False)),
    MASKED: ((), _collator("DataCollatorForLanguageModeling", mlm=True)),
    CLASSIFIER: (
        ('tokens["labels"] = int(row["label"])',),
        _collator("DataCollatorWithPadding"),
    ),
    SEQ2SEQ: (
        (
            'target = tokenizer(row["target"], truncation=True, max_length=MAX_LENGTH)',
            'tokens["labels"] = target["input_ids"]',
        ),
        _collator("DataCollatorForSeq2Seq"),
    ),
}
"""What a row has besides its tokens, and who makes a batch of rows (padded to its longest)."""


def _arguments(script: Script, given: Arguments) -> list[str]:
    assert given.training is not None
    script.use(given.training.library, given.training.name)
    lines = call_lines("arguments", given.training)
    more = ["    num_train_epochs=EPOCHS,"]
    if given.launch.strategy not in ("fsdp", "zero1", "zero2", "zero3"):
        more.append("    use_cpu=not ON_GPU,")
    lines[-1:] = [*more, ")"]
    return [_GPU_ALONE.sub(r"\1=ON_GPU", line) for line in lines]


_GPU_ALONE: Final = re.compile(r"\b(fp16|activation_offloading)=True")
"""Settings that the libraries refuse without an accelerator."""
_HALF: Final = re.compile(r"^    (dtype|torch_dtype)=torch\.float16,")
"""float16 weights, which only train under the scaler of ``fp16``; a CPU has it not."""


def _trainer(
    script: Script, scenario: Scenario, training: Training, trainer: TrainerClass
) -> list[str]:
    name, library = ("SFTTrainer", "trl") if trainer == "trl" else ("Trainer", "transformers")
    script.use(library, name)
    since = SFT_PROCESSING_CLASS_SINCE if trainer == "trl" else PROCESSING_CLASS_SINCE
    recent = scenario.stack.at_least(library, since)
    lines = [
        f"trainer = {name}(",
        "    model=model,",
        "    args=arguments,",
        "    train_dataset=rows,",
        f"    {'processing_class' if recent else 'tokenizer'}=tokenizer,",
    ]
    if trainer != "trl":
        lines.append("    data_collator=collator,")
    lines.append(")")
    lora = training.lora_config
    if trainer == "trl" and lora is not None and _quantised(scenario):
        lines += _cast(
            lora.dtype or FLOAT32, "SFTTrainer makes adapters of packed weights bfloat16"
        )
    return lines


def _quantised(scenario: Scenario) -> bool:
    return bool(scenario.workload.loading.quantization or scenario.model.quantization)


def _train(script: Script, given: Arguments) -> list[str]:
    lines = ["trainer.train()"]
    kernel = kernel_lines(script, given)
    if kernel:
        lines = [*kernel, *indented(lines)]
    if given.offload_activations:
        saved = "torch.autograd.graph.save_on_cpu(pin_memory=ON_GPU)"
        lines = [f"with {saved}:  # activations wait in host memory", *indented(lines)]
    what = "adapter" if given.adapter is not None else "model"
    return [*lines, f'trainer.save_model("{what}")', f'tokenizer.save_pretrained("{what}")']


def _probabilities() -> list[str]:
    return [
        "logits = torch.from_numpy(trainer.predict(rows).predictions)",
        "probabilities = logits.float().softmax(dim=-1)",
        "print(probabilities)",
    ]
