"""Every combination that the guides name works or is refused with its reason, and the page says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.tiny import tiny

from willfit.live.combinations import COMBINATIONS, MACHINES, Combination, judge
from willfit.live.here import look
from willfit.live.load import load
from willfit.scenario.stack import TESTED

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tested_release = pytest.mark.skipif(
    transformers.__version__ != TESTED["transformers"],
    reason=f"classes are those of transformers {TESTED['transformers']}",
)

WORKS: dict[str, tuple[bool, bool, bool]] = {
    # T4, T4x2, A100
    "fa2-fp16": (False, False, True),
    "fa2-bf16": (False, False, True),
    "fa2-fp32": (False, False, False),
    "fa2-int8": (False, False, True),
    "fa2-nf4": (False, False, True),
    "fa2-fp4": (False, False, True),
    "fa2-lora": (False, False, True),
    "fa2-lora-int8": (False, False, True),
    "fa2-lora-nf4": (False, False, True),
    "fa2-lora-inference": (False, False, True),
    "fa2-missing": (False, False, True),
    "fa2-hub": (False, False, True),
    "fa2-t5": (False, False, False),
    "fp4": (True, True, True),
    "nf4": (True, True, True),
    "nf4-double": (True, True, True),
    "int8": (True, True, True),
    "fp4-guide": (False, False, False),
    "int8-guide": (False, False, False),
    "fp4-several": (False, True, False),
    "int8-several": (False, True, False),
    "int8-offload": (False, False, False),
    "fp16-offload": (True, True, True),
    "t5-11b-int8": (False, True, True),
    "t5-11b-int8-fp16": (False, True, True),
    "t5-11b-int8-bf16": (True, True, True),
    "gemma-2-9b-int8": (True, True, True),
    "llama-3-8b-int8": (True, True, True),
    "sdpa-flash": (False, False, True),
    "sdpa-flash-fp32": (False, False, False),
    "sdpa-flash-int8": (False, False, True),
    "sdpa-flash-nf4": (False, False, True),
    "sdpa-flash-fp4": (False, False, True),
    "sdpa-flash-padded": (False, False, False),
    "sdpa-flash-eager": (False, False, False),
    "encoder-sdpa": (True, True, True),
    "encoder-fa2": (False, False, True),
    "encoder-bettertransformer": (True, True, True),
    "decoder-bettertransformer": (True, True, True),
    "bloom-bettertransformer": (False, False, False),
    "audio-bettertransformer": (True, True, True),
    "image-bettertransformer": (True, True, True),
    "bettertransformer-nf4": (True, True, True),
}


@tested_release
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda combination: combination.id)
def test_a_combination_works_or_says_why_not(combination: Combination) -> None:
    judged = [judge(combination, machine) for machine in MACHINES]
    assert tuple(result.works for result in judged) == WORKS[combination.id]
    for result in judged:
        assert len(result.reason) > 10
        assert "\n" not in result.reason
        assert "--" not in result.reason, "load has arguments, not flags"


def test_no_combination_is_there_twice_or_unheard_of() -> None:
    assert [combination.id for combination in COMBINATIONS] == list(WORKS)


FAMILIES = {
    "meta-llama/Meta-Llama-3-8B": ("llama", "bfloat16"),
    "facebook/opt-350m": ("opt", "float16"),
    "bigscience/bloom-3b": ("bloom", "float16"),
    "google-bert/bert-base-uncased": ("bert", "float32"),
    "google-t5/t5-11b": ("t5", "float32"),
    "google/gemma-2-9b": ("gemma2", "bfloat16"),
    "openai/whisper-small": ("whisper", "float32"),
    "google/vit-base-patch16-224": ("vit", "float32"),
}
REAL = [c for c in COMBINATIONS if WORKS[c.id][2] and c.model in FAMILIES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA, also where there is a GPU."""
    found = replace(look(), gpus=(), in_use_bytes=(), holders=())
    monkeypatch.setattr("willfit.live.load.look", lambda: found)


@pytest.mark.parametrize("combination", REAL, ids=lambda combination: combination.id)
def test_what_works_is_loaded_for_real(folder: Path, combination: Combination) -> None:
    """The same arguments on a tiny model of the same class: packed, typed, adapted, and run."""
    settings = {"context": 32, **combination.settings}
    settings.pop("max_memory", None)
    loaded = load(tiny(folder, *FAMILIES[combination.model]), gpu="A100", **settings)
    model = loaded.model
    if settings.get("task") != "train":
        _runs(loaded)
    assert (settings.get("adapter") is not None) is hasattr(model, "peft_config")
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    wanted = settings.get("dtype")
    if wanted is not None:
        assert base.dtype is getattr(torch, wanted)
    _packed(base, settings.get("quantize"))
    fused = "attn" in settings or "better_transformer" in settings
    assert base.config._attn_implementation == "sdpa" if fused else True


def _runs(loaded: Any) -> None:
    model, ids = loaded.model, torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad(), loaded.kernels():
        if model.main_input_name == "pixel_values":
            out = model(pixel_values=torch.ones(1, 3, 16, 16)).logits
        elif model.main_input_name == "input_features":
            out = model(input_features=torch.ones(1, 8, 40), decoder_input_ids=ids).logits
        elif model.can_generate():
            out = model.generate(input_ids=ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
            assert out.shape[1] in (7, 4)  # a decoder repeats its prompt, T5 its start token
        else:
            out = model(input_ids=ids).logits
    assert out.isfinite().all()


def _packed(model: Any, quantize: str | None) -> None:
    import bitsandbytes

    layers: Any = bitsandbytes.nn
    four = sum(isinstance(module, layers.Linear4bit) for module in model.modules())
    eight = sum(isinstance(module, layers.Linear8bitLt) for module in model.modules())
    assert bool(four) is (quantize or "").startswith(("nf4", "fp4"))
    assert bool(eight) is (quantize == "int8")


@tested_release
def test_the_page_is_current() -> None:
    from tools.build_combinations import TARGET, document

    assert TARGET.read_text("utf-8") == document(), "python -m tools.build_combinations"


STORY = Path(__file__).resolve().parents[1] / "docs" / "stories" / "gemma-llama-int8.md"


def test_the_story_s_formulas_are_what_is_computed() -> None:
    from tools.build_gemma_llama import BY_TRACE, before_trace

    assert STORY.read_text("utf-8").partition(BY_TRACE)[0] == before_trace()


@tested_release
@pytest.mark.parametrize("spread", ["replicas", "device_map"])
@pytest.mark.parametrize("model", ["google/gemma-2-9b", "meta-llama/Meta-Llama-3-8B"])
def test_the_story_s_traces_are_what_is_traced(model: str, spread: Any) -> None:
    from tools.build_gemma_llama import BY_TRACE, by_trace, row

    assert row(by_trace(model, spread), spread) in STORY.read_text("utf-8").partition(BY_TRACE)[2]


def test_the_story_s_commands_and_code_run(capsys: pytest.CaptureFixture[str]) -> None:
    import shlex

    from willfit.cli.main import main

    text = STORY.read_text("utf-8")
    (shell,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    for command in shell.strip().splitlines():
        assert main(shlex.split(command)[1:]) == 0
        printed = capsys.readouterr().out
        model, spread = shlex.split(command)[2], shlex.split(command)[-1]
        word = "one replica" if spread == "replicas" else "split"
        (line,) = re.findall(rf"\| {model} \| {word}.* batch .*", text)
        peak = re.findall(r"\| (\d+\.\d\d GiB) \(", line)[0]
        assert peak in printed
        assert line.rsplit("|", 2)[1].strip() in printed
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "story", "exec"), {})
    reports = capsys.readouterr().out
    assert reports.count("planned (dry run)") == 4
    assert "device_map='auto'" in reports
    assert "device_map={'': 0}" in reports
