"""The steps of transformers' Trainer or TRL's SFTTrainer, with the arguments that `emit` writes."""

from __future__ import annotations

import importlib
import tempfile
from typing import Any, Final

from willfit.emitting.call import Call
from willfit.emitting.training import trainer_class, training_call
from willfit.formulas.training.settings import TrainingSettings
from willfit.live import realise
from willfit.live.measured.adapters import cast_trained
from willfit.live.measured.batches import rows_of, token_rows, training_batch
from willfit.live.measured.rank import answer_for_others, num_ranks, zero_settings
from willfit.live.measured.steps import STEPS, Steps
from willfit.live.meter import Meter
from willfit.scenario import Scenario

GPU_ALONE: Final = ("fp16", "activation_offloading")
"""Settings that the libraries refuse without an accelerator."""
OWN: Final[dict[str, Any]] = {
    "max_steps": STEPS, "learning_rate": 1e-5, "logging_strategy": "no", "save_strategy": "no",
    "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False,
}  # fmt: skip
"""What a measurement sets itself; no memory depends on it."""


def run_trainer(
    scenario: Scenario,
    model: Any,
    settings: TrainingSettings,
    meter: Meter,
    steps: Steps,
    notes: list[str],
) -> None:
    """The trainer that the scenario names, on rows of random tokens in their order."""
    model.config.use_cache = False
    sft = trainer_class(scenario) == "trl"
    make = _sft_trainer() if sft else _trainer()
    with tempfile.TemporaryDirectory(prefix="willfit-measure-") as folder:
        given = _arguments(scenario, meter, folder, notes)
        data = _sft_data(scenario, model, settings) if sft else _data(scenario, model, settings)
        trainer = make(model=model, args=given, callbacks=[_callback(steps)], **data)
        _watch(trainer, steps)
        _alone(trainer, num_ranks(scenario))
        if sft and hasattr(model, "peft_config"):
            _cast_back(scenario, model)
        trainer.train()


def _arguments(scenario: Scenario, meter: Meter, folder: str, notes: list[str]) -> Any:
    call = training_call(scenario)
    given = {name: realise.realised(value) for name, value in call.arguments.items()}
    if not meter.cuda:
        for name in GPU_ALONE:
            if given.get(name):
                given[name] = False
                notes.append(f"without {name}, which the library refuses without a GPU")
    given |= {**OWN, "output_dir": folder, "use_cpu": not meter.cuda, **zero_settings(scenario)}
    if call.name == "TrainingArguments":
        given["remove_unused_columns"] = False
    return realise.realised(Call(library=call.library, name=call.name, arguments=given))


def _data(scenario: Scenario, model: Any, settings: TrainingSettings) -> dict[str, Any]:
    training = scenario.workload.training
    assert training is not None
    rows = rows_of(training_batch(model, training, settings))
    return {"train_dataset": rows * _repeats(scenario, settings)}


def _repeats(scenario: Scenario, settings: TrainingSettings) -> int:
    """Batches of all steps; ranks share them out among themselves."""
    return settings.accumulation * STEPS * num_ranks(scenario)


def _sft_data(scenario: Scenario, model: Any, settings: TrainingSettings) -> dict[str, Any]:
    """A data set of tokens, and a tokenizer that has nothing to do but to pad."""
    training = scenario.workload.training
    assert training is not None
    rows = token_rows(model, training, settings) * _repeats(scenario, settings)
    datasets: Any = importlib.import_module("datasets")
    return {
        "train_dataset": datasets.Dataset.from_dict({"input_ids": rows}),
        "processing_class": _tokenizer(),
    }


def _tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, models

    words: Any = models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")
    make: Any = transformers.PreTrainedTokenizerFast
    return make(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _trainer() -> Any:
    import transformers

    return transformers.Trainer


def _sft_trainer() -> Any:
    return importlib.import_module("trl").SFTTrainer


def _cast_back(scenario: Scenario, model: Any) -> None:
    """SFTTrainer makes adapters of packed weights bfloat16; what `emit` writes undoes it."""
    training = scenario.workload.training
    lora = training.lora_config if training is not None else None
    packed = scenario.workload.loading.quantization or scenario.model.quantization
    if lora is None or packed is None:
        return
    import torch

    if lora.dtype is not None:
        cast_trained(scenario, model)
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def _watch(trainer: Any, steps: Steps) -> None:
    """Let the trainer say when a forward pass is done, and take its rows in their order.

    The object is changed, not its class: data sets are told apart by a pickle of what made them.
    """
    import torch

    compute = trainer.compute_loss

    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        steps.mark("forward")
        return loss

    trainer.compute_loss = compute_loss
    trainer._get_train_sampler = lambda *_, **__: torch.utils.data.SequentialSampler(
        trainer.train_dataset
    )


def _alone(trainer: Any, ranks: int) -> None:
    """One rank of several has no others that answer."""
    import transformers

    class Answering(transformers.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            answer_for_others(trainer.model_wrapped, ranks)

    if ranks > 1:
        trainer.add_callback(Answering())


def _callback(steps: Steps) -> Any:
    import transformers

    class Watcher(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.begin()

        def on_substep_end(self, *_: Any, **__: Any) -> None:
            steps.mark("backward")

        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.mark("backward")

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps.mark("step")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.end()

    return Watcher()
