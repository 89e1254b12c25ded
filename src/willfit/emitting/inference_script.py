"""``transformers``: load a model, then generate, classify, embed or pass forward."""

from __future__ import annotations

from typing import Final

from willfit.emitting.arguments import Arguments, arguments
from willfit.emitting.code import assignment, call_lines
from willfit.emitting.generation import generates, prompt_length
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
from willfit.errors import InputError
from willfit.scenario import Inference, Scenario

_TEXT_CLASSES: Final = (
    CAUSAL, CLASSIFIER, SEQ2SEQ, "AutoModel", "AutoModelForMaskedLM",
    "AutoModelForTokenClassification", "AutoModelForQuestionAnswering",
)  # fmt: skip


def inference_script(scenario: Scenario, *, to_file: bool = False) -> str:
    """A script over a list of texts, in batches of the scenario's size.

    ``to_file`` writes the results to a file, as replicas always do.
    """
    inference = scenario.workload.inference
    _refuse(scenario, inference)
    given, script = arguments(scenario), Script()
    texts = [*model_name(scenario)]
    if inference is not None:
        texts += _inputs(scenario, given, inference)
    if needs_device(given) or given.launch.starter != "python":
        texts += device_lines(script, given)
    if given.launch.starter == "replicas" and inference is not None:
        texts.append(f"TEXTS = TEXTS[RANK::{given.launch.num_processes}]  # this replica's part")
    script.add(*texts)
    if inference is not None:
        side = "left" if auto_class(scenario) == CAUSAL and inference.batch_size > 1 else ""
        script.add(*tokenizer_lines(script, scenario, padding_side=side))
    script.add(*model_lines(script, scenario, given))
    if inference is not None and auto_class(scenario) == CLASSIFIER:
        script.add(*pad_lines(scenario))
        if not inference.use_cache:
            script.add("model.config.use_cache = False  # nothing is generated")
    script.add(*adapter_lines(script, given, path="ADAPTER"))
    script.add("model.eval()")
    if inference is not None:
        _run(script, scenario, given, to_file=to_file)
    return script.text(
        heading(scenario, _doing(scenario), _launch_words(given)), environment_lines(given)
    )


def _refuse(scenario: Scenario, inference: Inference | None) -> None:
    if inference is not None and inference.engine != "transformers":
        raise InputError(
            f"the scenario runs in {inference.engine}: emit "
            f"{'vllm' if inference.engine == 'vllm' else 'llama-server'} instead of transformers"
        )
    text = auto_class(scenario) in _TEXT_CLASSES and reads_text_alone(scenario)
    if inference is not None and not text:
        raise InputError(
            f"{scenario.model.model_class} reads more than text, and emitted scripts are of text "
            "alone: use --task load for the loading code"
        )


def _doing(scenario: Scenario) -> str:
    if scenario.workload.inference is None:
        return "load"
    if generates(scenario):
        return "generate"
    return {CLASSIFIER: "classify", "AutoModel": "embed"}.get(auto_class(scenario), "forward pass")


def _launch_words(given: Arguments) -> str:
    if given.launch.starter == "python":
        return "python infer.py"
    return f"torchrun --nproc-per-node {given.launch.num_processes} infer.py"


def _inputs(scenario: Scenario, given: Arguments, inference: Inference) -> list[str]:
    return [
        *(["ADAPTER = None  # path of a trained adapter"] if given.adapter is not None else []),
        'TEXTS = ["What is the capital of France?", "Name three primes."]',
        *assignment("BATCH_SIZE", inference.batch_size),
        *assignment("MAX_LENGTH", prompt_length(scenario), comment="tokens of a text at most"),
    ]


def _run(script: Script, scenario: Scenario, given: Arguments, *, to_file: bool) -> None:
    step = _step(scenario, given)
    kernel = kernel_lines(script, given)
    if kernel:
        step = [*kernel, *indented(step)]
    script.add(
        "results = []",
        "for start in range(0, len(TEXTS), BATCH_SIZE):",
        *indented(
            [
                "batch = TEXTS[start : start + BATCH_SIZE]",
                *_TOKENISED,
                "with torch.inference_mode():",
                *indented(step),
                *_kept(scenario),
            ]
        ),
    )
    replicas = given.launch.starter == "replicas"
    if replicas or to_file:
        name = 'f"results-{RANK}.jsonl"' if replicas else '"results-0.jsonl"'
        script.modules.add("json")
        script.add(
            "# The process ends here, and with it every byte on its GPU.",
            f'with open({name}, "w", encoding="utf-8") as file:',
            '    file.writelines(json.dumps(result) + "\\n" for result in results)',
        )
    else:
        script.add(
            "for text, result in zip(TEXTS, results, strict=True):", '    print(text, "→", result)'
        )


_TOKENISED: Final = (
    "inputs = tokenizer(",
    '    batch, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"',
    ").to(model.device)",
)


def _step(scenario: Scenario, given: Arguments) -> list[str]:
    if given.generate is not None:
        return call_lines("outputs", given.generate, ["**inputs"])
    if auto_class(scenario) == CAUSAL:
        return ["outputs = model(**inputs)  # logits of every position are kept"]
    if auto_class(scenario) == SEQ2SEQ:
        return ['outputs = model(**inputs, decoder_input_ids=inputs["input_ids"])']
    return ["outputs = model(**inputs)"]


def _kept(scenario: Scenario) -> list[str]:
    """What of the outputs goes to the host; all else is freed with the next batch."""
    if generates(scenario):
        causal = auto_class(scenario) == CAUSAL
        cut = ['outputs = outputs[:, inputs["input_ids"].shape[1] :]  # without the prompt']
        decoded = ["results += tokenizer.batch_decode(outputs, skip_special_tokens=True)"]
        return [*(cut if causal else []), *decoded]
    if auto_class(scenario) == CLASSIFIER:
        return ["results += outputs.logits.float().softmax(dim=-1).tolist()"]
    if auto_class(scenario) == "AutoModel":
        return [
            'mask = inputs["attention_mask"].unsqueeze(-1)',
            "mean = (outputs.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)",
            "results += mean.float().tolist()",
        ]
    if auto_class(scenario) == "AutoModelForQuestionAnswering":
        return ["results += outputs.start_logits.argmax(dim=-1).tolist()"]
    return ["results += outputs.logits.argmax(dim=-1).tolist()"]
