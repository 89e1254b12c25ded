"""Sides beside each other: the steps add up, the arithmetic is exact, what is unfair is said."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.test_cli import run

from willfit.cli.parser import Parser
from willfit.cli.quoted import quoted_estimate
from willfit.cli.sides import Side, side_parser, sides_of
from willfit.comparing import Compared, Comparison, compare
from willfit.comparing.cache import cache_words
from willfit.comparing.fairness import letter
from willfit.comparing.parts import weight_parts
from willfit.comparing.settings import differing
from willfit.errors import InputError
from willfit.formulas.weights import load_weights
from willfit.report.comparison import comparison_json, render_comparison
from willfit.report.text import Style
from willfit.scenario import Loading, Scenario, Workload
from willfit.scenario.workload import Quantization
from willfit.sources.catalogue import load
from willfit.units import format_bytes

FAMILIES = (
    "gpt2", "llama-3-8b", "mistral-7b", "gemma-2-9b", "bert-base-cased", "facebook/opt-125m",
    "bigscience/bloom-560m", "google/flan-t5-base", "deepseek-ai/DeepSeek-V3", "openai/gpt-oss-20b",
    "mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen2.5-0.5B", "state-spaces/mamba-130m-hf",
)  # fmt: skip


def sides(*settings: str) -> Comparison:
    return compare([Compared(label=text, estimate=quoted_estimate(text)) for text in settings])


# The question of the mission's first document.


def test_mistral_and_llama_in_8_bit_differ_in_their_vocabulary_alone() -> None:
    found = sides(*(f"{m} --quantize int8 --gpu T4" for m in ("mistral-7b", "llama-3-8b")))
    (difference,) = found.differences
    moved = {part.name: part.change_bytes for part in difference.components if part.change_bytes}
    # two tables (in and out) in 16 bit, 128,256 − 32,000 rows of 4,096
    assert moved == {"weights": 2 * (128_256 - 32_000) * 4_096 * 2}
    assert difference.change_bytes == moved["weights"] > 0  # the 7B is the smaller one
    (reason,) = difference.reasons
    assert "2 × 128,256 × 4,096 × 2 B = 1.96 GiB against 2 × 32,000 × 4,096 × 2 B" in reason
    assert "vocabulary 128,256 against 32,000" in reason
    assert set(found.facts) == {"parameters", "vocabulary", "window", "longest context"}


def test_either_loads_on_a_t4_so_that_size_cannot_be_why_one_fails() -> None:
    words = "--quantize int8 --gpu T4 --task load"
    found = sides(f"mistral-7b {words}", f"llama-3-8b {words}")
    smaller, larger = (entry.estimate for entry in found.entries)
    assert smaller is not None and larger is not None
    assert smaller.verdict == larger.verdict == "fits"
    assert smaller.binding.peak.device_bytes < larger.binding.peak.device_bytes
    after_llama = f"mistral-7b {words} --in-use {larger.binding.peak.allocated_bytes}B"
    assert quoted_estimate(after_llama).verdict == "does_not_fit"


# What moved.

PAIRS = [
    ("llama-3-8b --gpu T4", "llama-3-8b --gpu T4 --quantize nf4 --batch-size 4"),
    ("llama-3-8b --gpu T4", "gemma-2-9b --gpu L4 --context 1024 --padded"),
    ("gpt2 --gpu T4 --train full", "gpt2 --gpu T4 --train lora --lora-r 4 --optim sgd"),
    ("gpt2 --gpu T4", "gpt2 --gpu T4 --train full --max-length 256"),
    ("llama-3-8b --gpu T4x2 --dtype float16", "llama-3-8b --gpu T4x2 --quantize int8"),
    ("llama-3-8b --gpu L4 --stack transformers=4.46", "mistral-7b --gpu L4 --kv-dtype float16"),
    ("llama-3-8b --gpu T4 --num-labels 3 --train qlora", "mistral-7b --gpu T4 --train qlora"),
    ("gpt2", "gpt2 --gpu T4"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_steps_lead_from_one_side_to_the_other_and_add_up(a: str, b: str) -> None:
    found = sides(a, b)
    (difference,) = found.differences
    one, other = (entry.estimate for entry in found.entries)
    assert one is not None and other is not None
    settings = differing(one.scenario, other.scenario)
    assert settings and len(difference.steps) <= len(settings)
    assert sum(step.change_bytes for step in difference.steps) == difference.change_bytes
    assert sum(part.change_bytes for part in difference.components) == difference.change_bytes
    for step in difference.steps:
        assert sum(part.change_bytes for part in step.components) == step.change_bytes
    named = [part.path for step in difference.steps for part in step.parts]
    assert len(named) == len(set(named)) == len(settings)
    scenario = one.scenario
    for setting in settings:
        scenario = setting.put_into(scenario)
    assert scenario == other.scenario


def test_equal_scenarios_differ_in_nothing() -> None:
    (difference,) = sides("gpt2 --gpu T4", "gpt2 --gpu T4").differences
    assert difference.steps == () and difference.change_bytes == 0 and not difference.reasons


@pytest.mark.parametrize(
    ("a", "b", "sentence"),
    [
        (
            "gpt2",
            "gpt2 --trust-remote-code",
            "--trust-remote-code no → yes: no effect on the memory",
        ),
        ("gpt2 --gpu T4", "gpt2 --gpu T4 --in-use 1GiB", "takes the same, of another budget"),
        ("gpt2", "gpt2", "the same peak"),
    ],
)
def test_a_setting_without_effect_is_said_to_have_none(a: str, b: str, sentence: str) -> None:
    assert sentence in render_comparison(sides(a, b))


def test_a_type_that_one_model_has_by_default_is_not_moved_there_and_back() -> None:
    """Gemma-2-9b is stored in float32, Llama-3 in bfloat16: in which order must not matter."""
    words = ("llama-3-8b --gpu L4", "gemma-2-9b --gpu L4 --dtype bfloat16")
    for pair in (words, words[::-1]):
        (difference,) = sides(*pair).differences
        dtype = [s for s in difference.steps if s.parts[0].path == "workload.loading.dtype"]
        assert [step.change_bytes for step in dtype] == [0]


# The arithmetic.


@pytest.mark.parametrize("scheme", [None, "int8", "nf4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_parts_add_up_and_their_products_are_their_bytes(name: str, scheme: Any) -> None:
    model = load(name)
    assert model is not None
    quantization = Quantization(scheme=scheme) if scheme and not model.quantization else None
    scenario = Scenario(model=model, workload=Workload(loading=Loading(quantization=quantization)))
    parts = weight_parts(scenario)
    weights = load_weights(model, scenario.workload.loading, scenario.stack)
    assert sum(part.num_bytes for part in parts.values()) == weights.weight_bytes
    for part in parts.values():
        if part.arithmetic:
            assert product(part.arithmetic) == part.num_bytes, part
    assert any(part.arithmetic for part in parts.values())


PARTS = [
    ("llama-3-8b", {"vocabulary tables", "attention", "MLP", "norms and biases"}),
    ("openai/gpt-oss-20b", {"vocabulary tables", "attention", "experts", "norms and biases", "MLP"}),
    ("timm/resnet50.a1_in1k", {"convolutions", "norms and biases", "single matrices"}),
    ("state-spaces/mamba-130m-hf", {"vocabulary tables", "mixers", "convolutions", "norms and biases"}),
    ("answerdotai/ModernBERT-base", {"vocabulary tables", "attention", "MLP", "norms and biases", "single matrices"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts"), PARTS, ids=[name for name, _ in PARTS])
def test_tensors_are_told_apart_by_place_and_shape(name: str, parts: set[str]) -> None:
    model = load(name)
    assert model is not None
    assert set(weight_parts(Scenario(model=model))) == parts


def product(text: str) -> int:
    """The value of ``(64 × 4,096 + 2 × 3) × 2 B``."""
    text = text.replace(",", "").replace("½ B", "0.5").replace(" B", "")
    head, _, rest = text.partition(") × ") if text.startswith("(") else ("", "", "")
    if rest:
        terms = head.removeprefix("(").split(" + ")
        return int(sum(map(product, terms)) * float(rest))
    return int(math.prod(float(number) for number in text.split(" × ")))


@pytest.mark.parametrize("name", ["gpt2", "llama-3-8b", "Qwen/Qwen2.5-0.5B", "openai/gpt-oss-20b"])
def test_what_a_token_adds_to_the_cache_is_what_the_estimate_adds(name: str) -> None:
    """Below every window one token more is exactly that."""
    made = [quoted_estimate(f"{name} --context {n} --max-new-tokens 1") for n in (64, 65)]
    sizes = [one.kv_cache_bytes for one in made]
    assert sizes[0] is not None and sizes[1] is not None
    said = re.findall(r"= ([\d.]+ \w+) a token", cache_words(made[0].scenario))
    assert said == [format_bytes(sizes[1] - sizes[0])]


# What is unfair.

UNFAIR = [
    ("llama-3-8b", "gemma-2-9b", "A loads bfloat16, B loads float32"),
    ("llama-3-8b", "gpt2", "A takes 4,096 tokens, B takes 1,024 tokens"),
    ("gpt2 --gpu T4", "gpt2 --gpu L4", "not the same GPU: A on NVIDIA T4, B on NVIDIA L4"),
    ("gpt2", "gpt2 --stack torch=2.6", "not the same libraries: A torch 2.13.0, B torch 2.6"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "remark"), UNFAIR)
def test_what_nobody_meant_to_differ_is_said(a: str, b: str, remark: str) -> None:
    assert any(remark in said for said in sides(a, b).remarks)


def test_another_level_is_said() -> None:
    traced = quoted_estimate("gpt2 --context 64", trace=True)
    plain = quoted_estimate("gpt2 --context 64")
    found = compare([Compared(label=x.level, estimate=x) for x in (traced, plain)])
    assert any("A by trace, B by formula" in said for said in found.remarks)
    other = quoted_estimate("gpt2 --context 64 --batch-size 2")
    found = compare([Compared(label=x.level, estimate=x) for x in (traced, other)])
    assert "one setting at a time, by formula:" in render_comparison(found)


def test_fair_sides_get_no_remark() -> None:
    assert sides("llama-3-8b --quantize int8", "llama-3-8b --quantize nf4").remarks == ()


# Its forms.


@pytest.mark.parametrize("count", [2, 5, 6, 13])
def test_any_number_of_sides_stays_within_80_columns(count: int) -> None:
    found = sides(*(f"{name} --gpu L4 --dtype float16" for name in FAMILIES[:count]))
    lines = render_comparison(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"{letter(count - 1)}  ") for line in lines)
    assert sum(line.startswith("  weights") for line in lines) >= (count < 6)


def test_letters_never_repeat() -> None:
    assert [letter(n) for n in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "AB", "BA"]
    assert len({letter(n) for n in range(1000)}) == 1000


def test_colour_is_for_terminals() -> None:
    found = sides("gpt2 --gpu T4", "llama-3-8b --gpu T4")
    assert "\x1b[31m" in render_comparison(found, Style(color=True))
    assert "\x1b" not in render_comparison(found)


def test_the_json_has_every_side_whole() -> None:
    found = sides("gpt2 --gpu T4", "gpt2 --gpu T4 --batch-size 2")
    content = json.loads(json.dumps(comparison_json(found)))
    assert content["schema"] == "willfit.compare/1"
    assert [side["estimate"]["schema"] for side in content["sides"]] == ["willfit.estimate/1"] * 2
    assert [side["measurement"] for side in content["sides"]] == [None, None]
    (difference,) = content["differences"]
    (step,) = difference["steps"]
    assert step["settings"] == [
        {"path": "workload.inference.batch_size", "title": "--batch-size", "a": "1", "b": "2"}
    ]
    assert step["change_bytes"] == difference["change_bytes"]
    assert all(isinstance(size, int) for size in content["same"]["components"].values())


def test_a_side_without_a_number_does_not_end_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["timm/resnet50.a1_in1k --batch-size 4", "gpt2", "gpt2 --batch-size 2"]
    code, out, _ = run(capsys, "compare", *words, "--gpu", "T4")
    assert code == 0
    assert "not supported in A" in out or "no number for A" in out
    assert run(capsys, "compare", *words, "--gpu", "T4", "--check")[0] == 4


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["gpt2", "llama-3-8b", "--gpu", "T4"], 0),
        (["gpt2", "llama-3-8b", "--gpu", "T4", "--check"], 3),
        (["gpt2", "bert-base-cased", "--gpu", "T4", "--check"], 0),
        (["gpt2", "bert-base-cased", "--check"], 1),
        (["gpt2"], 1),
    ],
)
def test_exit_codes(capsys: pytest.CaptureFixture[str], words: list[str], code: int) -> None:
    assert run(capsys, "compare", *words)[0] == code


def test_files_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, picture = tmp_path / "a.html", tmp_path / "a.svg"
    words = ["gpt2", "gpt2 --batch-size 2", "--gpu", "T4"]
    assert run(capsys, "compare", *words, "--html", str(page), "--picture", str(picture))[0] == 0
    assert "gpt2 --batch-size 2" in page.read_text()
    assert picture.read_text().startswith("<svg") and "gpt2 --batch-size 2" in picture.read_text()


# What is typed.


def typed(*words: str) -> tuple[Side, ...]:
    from willfit.cli.compare import _OWN, configure
    from willfit.cli.parser import with_dashes

    parser = Parser(prog="willfit compare")
    configure(parser)
    arguments = parser.parse_args(with_dashes(words))
    given = {k: v for k, v in vars(arguments).items() if k not in _OWN and v is not None}
    return sides_of(arguments, given)


VARIED = [
    (["gpt2", "bert-base-cased"], ["gpt2", "bert-base-cased"]),
    (["gpt2", "--gpu", "T4", "llama-3-8b"], ["gpt2", "llama-3-8b"]),
    (["gpt2", "--vary", "quantize=int8,none"], ["gpt2 --quantize int8", "gpt2"]),
    (["gpt2", "--vary", "batch_size=1,8,1"], ["gpt2 --batch-size 1", "gpt2 --batch-size 8"]),
    (
        ["a", "b", "--vary", "dtype=float16,bfloat16"],
        ["a --dtype float16", "a --dtype bfloat16", "b --dtype float16", "b --dtype bfloat16"],
    ),
    (
        ["gpt2", "--vary", "quantize=int8,nf4", "--vary", "batch-size=1,2"],
        [
            f"gpt2 --quantize {scheme} --batch-size {size}"
            for scheme in ("int8", "nf4")
            for size in (1, 2)
        ],
    ),
    (
        ["gpt2 --train full", "--vary", "gradient-checkpointing=yes,no,none"],
        [
            "gpt2 --train full --gradient-checkpointing",
            "gpt2 --train full --no-gradient-checkpointing",
            "gpt2 --train full",
        ],
    ),
    (["gpt2", "--vary", "padded=yes,no"], ["gpt2 --padded", "gpt2"]),
    (
        ["gpt2 --train lora", "--vary", "lora-target-modules=c_attn,c_attn+c_proj"],
        [
            "gpt2 --train lora --lora-target-modules c_attn",
            "gpt2 --train lora --lora-target-modules c_attn c_proj",
        ],
    ),
    (
        ["--model", "gpt2", "--batch-size 1", "--attn eager --batch-size 2"],
        ["gpt2 --batch-size 1", "gpt2 --attn eager --batch-size 2"],
    ),
    (["--model", "gpt2", "--vary", "gpu=T4,L4"], ["gpt2 --gpu T4", "gpt2 --gpu L4"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "labels"), VARIED)
def test_sides_as_people_name_them(words: list[str], labels: list[str]) -> None:
    assert [side.label for side in typed(*words)] == labels


def test_a_sides_own_settings_win() -> None:
    found = typed("gpt2", "gpt2 --batch-size 4 --trace", "--batch-size", "2", "--gpu", "T4")
    one, other = (side.arguments for side in found)
    assert one is not None and other is not None
    assert (one.batch_size, one.gpu, one.trace) == (2, "T4", None)
    assert (other.batch_size, other.gpu, other.trace) == (4, "T4", True)


BAD = [
    ([], "nothing to compare"),
    (["gpt2"], "1 to compare"),
    (["gpt2", "--vary", "quantise=int8"], "did you mean quantize?"),
    (["gpt2", "--vary", "quantize"], "names no values"),
    (["gpt2", "--vary", "quantize="], "names no values"),
    (["gpt2", "--vary", "quantize=int9,nf4"], "int9"),
    (["gpt2", "--vary", "padded=perhaps,no"], "expected yes or no"),
    (["gpt2", "--vary", "batch-size=1,2", "--batch-size", "3"], "both given to all and varied"),
    (["gpt2", "--vary", "batch-size=" + ",".join(map(str, range(1, 28)))], "more than 26"),
    (["gpt2", 'gpt2 --quantize "nf4'], "cannot read the settings"),
    (["gpt2", "gpt2 --jsn"], "in 'gpt2 --jsn'"),
    (["gpt2", "gpt3"], "in 'gpt3'"),
    (["gpt2", "gpt2 --train full", "--context", "9"], "in 'gpt2 --train full': --context"),
    (["gpt2", "gpt2", "--repeat", "2"], "add --measure"),
    (["gpt2", "gpt2", "--picture", "a.gif"], ".svg or .png"),
    (["gpt2", "gpt2", "--html", "/no/such/folder/a.html"], "make it first"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_gets_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    code, out, err = run(capsys, "compare", *words)
    assert code == 1 and out == ""
    assert said in err and err.startswith("willfit: ") and err.count("\n") == 1


def test_every_setting_can_be_varied() -> None:
    """The flags of a side are those of an estimate."""
    flags = [a for a in side_parser()._actions if a.option_strings and a.choices]
    assert len(flags) > 5
    for action in flags:
        value = str(next(iter(action.choices or ())))
        name = action.option_strings[0][2:]
        first, second = typed("gpt2", "--vary", f"{name}={value},none")
        assert first.label == f"gpt2 --{name} {value}" and second.label == "gpt2"


def test_a_name_with_underscores_in_quoted_settings_stays() -> None:
    with pytest.raises(InputError, match="my_adapter"):
        quoted_estimate("gpt2 --adapter my_adapter.json")
    found = typed("gpt2", "gpt2 --adapter my_adapter.json")
    assert found[1].arguments is not None
    assert found[1].arguments.adapter == "my_adapter.json"


def test_a_comparison_by_formula_costs_no_torch() -> None:
    code = (
        "import sys; from willfit.cli.main import main; "
        "main(['compare', 'gpt2', 'gpt2 --batch-size 2', '--gpu', 'T4']); "
        "sys.exit(sorted(n for n in ('torch', 'transformers', 'numpy') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "kv_cache" in done.stdout and done.stderr.strip() in ("", "[]"), done.stderr
