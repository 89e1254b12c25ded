"""Pipeline files: read as they are written, or refused with one sentence that names the fix."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from willfit.errors import InputError
from willfit.runner.pipeline import (
    Pipeline,
    PipelineFile,
    StageDefaults,
    StageFile,
    fill_template,
    format_duration,
    json_schema,
    parse_duration,
    pipeline_from,
    read_pipeline,
    template_fields,
)
from willfit.runner.pipeline.merge import MEANT_FOR

SMALLEST = """
data: test.parquet            # needs a unique column `id`
stages:
  gemma: {model: /kaggle/input/gemma-2-9b-it, adapter: /kaggle/input/lora-a, labels: 3, quantize: int8}
  llama: {model: /kaggle/input/llama-3-8b,   adapter: /kaggle/input/lora-b, labels: 3, quantize: int8}
ensemble: {weights: {gemma: 2, llama: 1}}
output: submission.csv
"""
FULL = """
data: test.parquet
id: row_id
prepare: prep.py:build
defaults: {gpus: all, gpus_per_replica: 1, max_length: 2048, dtype: float16, deadline: "8h30m"}
stages:
  gemma: {model: gemma, labels: 3, template: "{prompt}{response_a}{response_b}", batch_tokens: auto}
  llama: {model: meta-llama/Meta-Llama-3-8B, labels: 3, columns: [1, 0, 2]}
  mine:  {run: my_stage.py:predict}
ensemble: {method: mean, weights: {gemma: 2, llama: 1, mine: 0.5}, missing: error}
output: {path: submission.csv, columns: [winner_model_a, winner_model_b, winner_tie]}
backend: local
"""
ONE = "data: d.csv\nstages:\n  gemma: {model: m, labels: 3%s}\n"


def read(folder: Path, text: str | bytes, name: str = "pipe.yaml") -> Pipeline:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_pipeline(path)


def refusal(folder: Path, text: str | bytes, name: str = "pipe.yaml") -> str:
    """The one sentence about a file, without its folder."""
    with pytest.raises(InputError) as caught:
        read(folder, text, name)
    sentence = str(caught.value)
    assert "\n" not in sentence and "pydantic" not in sentence
    return sentence.replace(f"{folder}/", "")


def stage(folder: Path, extra: str) -> StageFile:
    return read(folder, ONE % (", " + extra)).stages["gemma"]


# ---- what is legal


def test_the_smallest_file_of_the_documentation_is_complete(tmp_path: Path) -> None:
    pipeline = read(tmp_path, SMALLEST)
    assert list(pipeline.stages) == ["gemma", "llama"]
    assert {s.task for s in pipeline.stages.values()} == {"classify"}
    assert pipeline.file.weights == {"gemma": 2.0, "llama": 1.0}
    assert (pipeline.file.missing, pipeline.file.id) == ("error", "id")
    assert pipeline.file.output is not None and pipeline.file.output.path == "submission.csv"
    assert pipeline.folder == tmp_path and pipeline.path == tmp_path / "pipe.yaml"


def test_the_full_file_of_the_documentation_has_its_paths_and_its_deadline(tmp_path: Path) -> None:
    (tmp_path / "prep.py").touch()
    (tmp_path / "my_stage.py").touch()
    (tmp_path / "gemma").mkdir()
    file = read(tmp_path, FULL).file
    assert file.data == str(tmp_path / "test.parquet")
    assert file.prepare == f"{tmp_path}/prep.py:build"
    assert file.stages["mine"].run == f"{tmp_path}/my_stage.py:predict"
    assert file.stages["gemma"].model == str(tmp_path / "gemma")
    assert file.stages["llama"].model == "meta-llama/Meta-Llama-3-8B"
    assert file.deadline == 8.5 * 3600
    assert file.stages["gemma"].dtype == file.stages["llama"].dtype == "float16"
    assert (file.stages["gemma"].max_length, file.stages["mine"].max_length) == (2048, None)
    assert file.stages["llama"].columns == (1, 0, 2)


def test_yaml_json_toml_and_python_say_the_same(tmp_path: Path) -> None:
    mapping: dict[str, Any] = {
        "data": "d.csv",
        "deadline": "90m",
        "defaults": {"quantize": "nf4", "temperature": 1e-5},
        "stages": {"a": {"model": "m", "labels": 2}, "b": {"model": "n", "task": "generate"}},
    }
    toml = """
data = "d.csv"
deadline = "90m"
defaults = {quantize = "nf4", temperature = 1e-5}
[stages.a]
model = "m"
labels = 2
[stages.b]
model = "n"
task = "generate"
"""
    yaml = """
data: d.csv
deadline: 90m
defaults: {quantize: nf4, temperature: 1e-5}
stages: {a: {model: m, labels: 2}, b: {model: n, task: generate}}
"""
    expected = pipeline_from(mapping, tmp_path).file
    assert read(tmp_path, json.dumps(mapping), "p.json").file == expected
    assert read(tmp_path, yaml, "p.yml").file == expected
    if sys.version_info >= (3, 11):
        assert read(tmp_path, toml, "p.toml").file == expected
    else:
        assert "Python reads from 3.11 on" in refusal(tmp_path, toml, "p.toml")


def test_a_stage_goes_through_a_job_file_unchanged(tmp_path: Path) -> None:
    for stage in read(tmp_path, SMALLEST).stages.values():
        assert StageFile.model_validate(json.loads(stage.model_dump_json())) == stage
        assert StageFile.model_validate(stage.model_dump()) == stage


def test_the_digest_is_of_the_text(tmp_path: Path) -> None:
    first, second = read(tmp_path, SMALLEST), read(tmp_path, SMALLEST + "# more\n", "q.yaml")
    assert first.file == second.file and first.digest != second.digest
    assert first.digest == read(tmp_path, SMALLEST, "q.yaml").digest and len(first.digest) == 32
    python = pipeline_from({"stages": {"a": {"run": "m:f"}}, "data": Path("d")}, tmp_path)
    assert python == pipeline_from({"data": Path("d"), "stages": {"a": {"run": "m:f"}}}, tmp_path)


def test_python_may_give_paths_and_tuples(tmp_path: Path) -> None:
    given = {"model": tmp_path, "labels": 3, "columns": (2, 0, 1), "gpus": (0,)}
    made = pipeline_from({"data": tmp_path / "d.csv", "stages": {"a": given}}, Path("elsewhere"))
    assert made.stages["a"].model == str(tmp_path) and made.stages["a"].columns == (2, 0, 1)
    assert made.path is None and made.folder == Path.cwd() / "elsewhere"


def test_an_output_is_relative_to_the_current_folder_since_inputs_may_be_read_only(
    tmp_path: Path,
) -> None:
    output = read(tmp_path, ONE % "" + "output: {path: out/x.parquet, id: key}").file.output
    assert output is not None and (output.path, output.id) == ("out/x.parquet", "key")


# ---- YAML's traps

TRAPS: list[tuple[str, str, object]] = [
    # setting, how YAML 1.1 reads it, how it must be read
    ("id: no", "False", "no"), ("id: on", "True", "on"), ("id: 1.10", "1.1", "1.10"),
    ("id: 12:30:00", "45000", "12:30:00"), ("id: 2024-01-01", "a date", "2024-01-01"),
    ("id: 010", "8", "010"), ("id: 1_000", "1000", "1_000"), ("id: 0x1F", "31", "0x1F"),
    ("seed: 010", "8", 10), ("seed: 0x10", "16", 16), ("deadline: 1e-5", "text", 1e-5),
    ("deadline: 1e3", "text", 1000.0), ("id: '3'", "text", "3"), ("id: =", "an error", "="),
]  # fmt: skip


@pytest.mark.parametrize(("line", "older", "expected"), TRAPS)
def test_scalars_are_read_as_they_are_written(
    tmp_path: Path, line: str, older: str, expected: object
) -> None:
    assert getattr(read(tmp_path, ONE % "" + line).file, line.split(":")[0]) == expected


STAGE_TRAPS: list[tuple[str, object]] = [
    ("temperature: 1e-5", 1e-5), ("temperature: 2", 2.0), ("temperature: +1.5E+1", 15.0),
    ("revision: 12e4567", "12e4567"), ("revision: 0012345", "0012345"), ("attn: yes", "yes"),
    ("chat: yes", True), ("chat: no", False), ("trust_remote_code: Off", False), ("gpus: none", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "expected"), STAGE_TRAPS)
def test_a_stages_scalars_are_read_as_they_are_written(
    tmp_path: Path, setting: str, expected: object
) -> None:
    value = getattr(stage(tmp_path, setting), setting.split(":")[0])
    assert value == expected and type(value) is type(expected)


def test_choices_and_names_may_be_yes_and_no(tmp_path: Path) -> None:
    text = "data: d.csv\nstages: {no: {model: m, choices: [yes, no, 1, 1.0]}, 1.10: {run: m:f}}"
    stages = read(tmp_path, text).stages
    assert stages["no"].choices == ("yes", "no", "1", "1.0") and stages["no"].task == "choose"
    assert list(stages) == ["no", "1.10"]


def test_arguments_of_generate_are_plain_values(tmp_path: Path) -> None:
    given = "task: generate, generation: {do_sample: true, top_p: 0.9, k: 5, t: 1e-5, s: [a, 1], n: null}"
    text = f"data: d.csv\nstages: {{g: {{model: m, {given}}}}}"
    found = read(tmp_path, text).stages["g"].generation
    assert found == {"do_sample": True, "top_p": 0.9, "k": 5, "t": 1e-5, "s": ("a", 1), "n": None}
    assert [type(value) for value in found.values()] == [bool, float, int, float, tuple, type(None)]


def test_anchors_and_merges_are_followed(tmp_path: Path) -> None:
    text = """
data: d.csv
stages:
  a: &a {model: m, labels: 3, quantize: nf4}
  b: {<<: *a, quantize: fp4}
  c: {labels: 2, <<: [{quantize: int8}, *a]}
"""
    stages = read(tmp_path, text).stages
    assert [s.quantize for s in stages.values()] == ["nf4", "fp4", "int8"]
    assert [s.labels for s in stages.values()] == [3, 3, 2]


# ---- what is refused, with the whole sentence

MAPPING = "expected a pipeline with data and stages, one 'name: value' a line"
YAML = "check the indentation and brackets there, and put text with braces or ': ' in quotes"
ENDLESS = "pipe.yaml unfolds to more than 20,000 values or nests too deep: expected a pipeline of some stages"
FILES: list[tuple[str | bytes, str]] = [
    ("", f"pipe.yaml is empty: {MAPPING}"),
    ("# nothing", f"pipe.yaml is empty: {MAPPING}"),
    ("no", f"pipe.yaml is 'no': {MAPPING}"),
    ("- 1\n- a", f"pipe.yaml is [1, 'a']: {MAPPING}"),
    ("data: d\n\tid: x", f"pipe.yaml is not valid YAML at line 2, column 1 (found character '\\t' that cannot start a…): {YAML}"),
    ("data: {prompt}{answer}", f"pipe.yaml is not valid YAML at line 1, column 15 (expected <block end>, but found '{{'): {YAML}"),
    ("data: a: b", f"pipe.yaml is not valid YAML at line 1, column 8 (mapping values are not allowed here): {YAML}"),
    ("a: 1\n---\nb: 2", f"pipe.yaml is not valid YAML at line 2, column 1 (but found another document): {YAML}"),
    ("a: *b", f"pipe.yaml is not valid YAML at line 1, column 4 (found undefined alias 'b'): {YAML}"),
    ("a: 1\nb: \x00", "pipe.yaml is not valid YAML at line 2: it has the unprintable character #x0000, take it out"),
    (b"a: 1\nb: \xff", "pipe.yaml is not UTF-8 text at line 2: save it as UTF-8"),
    ("data: d\ndata: e", "pipe.yaml has 'data' twice at line 2, column 1: keep one of them"),
    ("stages:\n  a: {}\n  a: {}", "pipe.yaml has 'a' twice at line 3, column 3: keep one of them"),
    ("a: !!python/object:os.system x", "pipe.yaml has the tag 'tag:yaml.org,2002:python/object:os.syst… at line 1, column 4: leave it out"),
    ("a: !!set {b}", "pipe.yaml has the tag 'tag:yaml.org,2002:set' at line 1, column 4: leave it out"),
    ("a: !!int abc", "pipe.yaml has 'abc' as a number at line 1, column 4: leave out its tag"),
    ("? [a]\n: 1", "pipe.yaml has a list or a mapping for a name at line 1, column 3: write text"),
    ("a: {<<: 3}", "pipe.yaml merges what is no mapping at line 1, column 9: write <<: *name"),
    ("a: &a [*a]", ENDLESS),
    ("[" * 5000, ENDLESS),
    ("a: &a [1, 1]\n" + "".join(f"{y}: &{y} [*{x}, *{x}]\n" for x, y in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)), ENDLESS),
    ("a: &a {x: 1}\n" + "".join(f"{y}: &{y} {{<<: [*{x}, *{x}]}}\n" for x, y in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)), ENDLESS),
    ("a: " + "x" * 2**20, "pipe.yaml is larger than 1.0 MiB, which no real file of its kind is: check that it is the file you meant"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), FILES, ids=range(len(FILES)))
def test_a_file_that_is_no_pipeline_has_its_sentence(
    tmp_path: Path, text: str | bytes, sentence: str
) -> None:
    assert refusal(tmp_path, text) == sentence


OTHERS: list[tuple[str, str, str]] = [
    ("p.json", '{"a" 1}', "p.json is not valid JSON at line 1, column 6 (Expecting ':' delimiter): check its brackets, commas and quotes"),
    ("p.json", '{"data": 1, "data": 2}', "p.json has 'data' twice in one object: keep one of them"),
    ("p.json", '{"seed": NaN}', "p.json has NaN, which is no JSON number: write a finite one"),
    ("p.json", "[" * 100_000, "p.json nests too deep: expected a pipeline"),
    ("p.json", '{"data": "d", "id": 3, "stages": {"a": {"run": "m:f"}}}', "p.json: id is 3, expected text: put it in quotes"),
    ("p.json", '{"data": "d", "stages": {"a": {"model": "m", "labels": "3"}}}', "p.json: stages.a.labels is '3', expected a whole number of at least 1: remove the quotes"),
    ("p.txt", "data: d", "p.txt has no suffix of a pipeline file: expected one of .yaml, .yml, .toml, .json"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "sentence"), OTHERS)
def test_other_formats_have_their_sentences(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    assert refusal(tmp_path, text, name) == sentence


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no TOML in Python 3.10")
def test_toml_has_its_sentences(tmp_path: Path) -> None:
    assert refusal(tmp_path, "data = ", "p.toml").startswith(
        "p.toml is not valid TOML: Invalid value"
    )
    clock = 'data = "d"\nid = 12:30:00\n[stages.a]\nrun = "m:f"\n'
    assert (
        refusal(tmp_path, clock, "p.toml")
        == "p.toml: id is 12:30:00, expected text: put it in quotes"
    )


def test_what_is_not_there_or_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.yaml: check the path"):
        read_pipeline(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder: name the pipeline file in it"):
        read_pipeline(tmp_path)


DURATION = "a duration such as 8h30m, 90m or 3600 (seconds)"
ORDER = "every label's number once, such as [1, 0, 2]"
GPUS = "all, none or a list of GPU numbers such as [0, 1]"
NAMES = "names of columns in braces, such as '{prompt}{response_a}'"
WORDS = "1 to 64 letters, digits, '_', '.' or '-', beginning with a letter or digit"
STAGES: list[tuple[str, str]] = [
    # one stage's settings, the sentence after its path
    ("quantize: int-8", ".quantize is 'int-8', expected int8, nf4, fp4, nf4-double or fp4-double: did you mean int8?"),
    ("quantize: 8", ".quantize is 8, expected int8, nf4, fp4, nf4-double or fp4-double"),
    ("quantise: int8", ".quantise is no setting of a stage: did you mean quantize?"),
    ("max_lenght: 5", ".max_lenght is no setting of a stage: did you mean max_length?"),
    ("deadline: 8h", ".deadline is no setting of a stage: it belongs at the top of the file"),
    ("weights: {}", ".weights is no setting of a stage: it belongs in ensemble"),
    ("dtype:", ".dtype is empty, expected auto, float32, float16 or bfloat16"),
    ("dtype: fp16", ".dtype is 'fp16', expected auto, float32, float16 or bfloat16: did you mean float16?"),
    ("chat: maybe", ".chat is 'maybe', expected true or false"),
    ("chat: 1", ".chat is 1, expected true or false"),
    ("attn: true", ".attn is true, expected text: put it in quotes"),
    ("attn: ''", ".attn is '', expected text"),
    ("adapter: [a]", ".adapter is ['a'], expected text"),
    ("template: {prompt}", ".template is a mapping, expected text: put it in quotes"),
    ("template: '{a'", f".template is '{{a', expected {NAMES}: a brace has no partner, write {{{{ or }}}} for one that is meant"),
    ("template: '{a.b}'", f".template is '{{a.b}}', expected {NAMES}: {{a.b}} has more than a name in it"),
    ("template: '{a!r}'", f".template is '{{a!r}}', expected {NAMES}: {{a}} has more than a name in it"),
    ("template: '{a:>9}'", f".template is '{{a:>9}}', expected {NAMES}: {{a}} has more than a name in it"),
    ("template: '{}'", f".template is '{{}}', expected {NAMES}: {{}} has no name"),
    ("template: '{ a}'", f".template is '{{ a}}', expected {NAMES}: {{ a}} has spaces about the name"),
    ("template: 'hi {{a}}'", f".template is 'hi {{{{a}}}}', expected {NAMES}: it names none, all rows would be the same"),
    ("system: be kind", ".system is a message of a chat: add chat: true, or write it in the template"),
    ("max_length: 12:30:00", ".max_length is '12:30:00', expected a whole number of at least 1"),
    ("max_length: 2048.0", ".max_length is 2048.0, expected a whole number of at least 1"),
    ("max_length: true", ".max_length is true, expected a whole number of at least 1"),
    ("max_length: '2048'", ".max_length is '2048', expected a whole number of at least 1: remove the quotes"),
    ("max_length: 0", ".max_length is 0, expected a whole number of at least 1"),
    ("temperature: 0", ".temperature is 0, expected a number above 0"),
    ("temperature: .inf", ".temperature is .inf, expected a number above 0"),
    ("temperature: .nan", ".temperature is .nan, expected a number above 0"),
    ("temperature: 1e999", ".temperature is 1e999, expected a number above 0"),
    ("columns: 1", f".columns is 1, expected {ORDER}"),
    ("columns: [1.0, 0, 2]", f".columns is [1.0, 0, 2], expected {ORDER}"),
    ("columns: [1, 0, 3]", ".columns is [1, 0, 3], expected each number from 0 to 2 once, such as [1, 0, 2]"),
    ("columns: [1, 0]", ".columns has 2 numbers for 3 labels: give each its place"),
    ("batch_tokens: many", ".batch_tokens is 'many', expected auto or a whole number of at least 1"),
    ("stall_timeout: 12:30:00", f".stall_timeout is '12:30:00', expected {DURATION}: write 12h30m"),
    ("stall_timeout: 8:30", f".stall_timeout is '8:30', expected {DURATION}: write 8h30m or 8m30s"),
    ("stall_timeout: 0", f".stall_timeout is 0, expected {DURATION}"),
    ("stall_timeout: null", f".stall_timeout is empty, expected {DURATION}"),
    ("gpus: null", f".gpus is empty, expected {GPUS}"),
    ("gpus: [0, true]", f".gpus is [0, true], expected {GPUS}"),
    ("gpus: [-1]", f".gpus is [-1], expected {GPUS}"),
    ("gpus: [0, 0]", ".gpus is [0, 0], expected each number once, or all or none"),
    ("gpus: []", ".gpus is [], expected each number once, or all or none"),
    ("gpus: [0], device: cpu", ".gpus is [0] and device is cpu: keep one of them"),
    ("gpus: [0, 1], replicas: 2, gpus_per_replica: 2", ".gpus has 2 GPUs and gpus_per_replica × replicas is 4: list more, or lower one of them"),
    ("max_new_tokens: 9", ".max_new_tokens has no meaning with task classify: remove it, it is for generate"),
    ("pooling: last", ".pooling has no meaning with task classify: remove it, it is for embed"),
    ("task: generate", ".labels has no meaning with task generate: remove it, it is for classify and run"),
    ("task: clasify", ".task is 'clasify', expected classify, generate, embed or choose: did you mean classify?"),
    ("run: x.py:f", " has both model 'm' and run 'x.py:f': keep one, a function loads its own model"),
    ("choices: [a, b]", ".task is missing: labels are of task: classify and choices of task: choose, keep one"),
    ("zzz: 1, chat: 3", f".zzz is no setting of a stage: known are {', '.join(list(StageFile.model_fields)[:-1])} and device; and 1 more"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "sentence"), STAGES, ids=[s for s, _ in STAGES])
def test_a_stages_settings_are_refused_by_name(
    tmp_path: Path, settings: str, sentence: str
) -> None:
    assert refusal(tmp_path, ONE % (", " + settings)) == f"pipe.yaml: stages.gemma{sentence}"


def alone(settings: str) -> str:
    return f"data: d.csv\nstages: {{s: {{{settings}}}}}"


TWO = ONE % "" + "  llama: {model: m, labels: 3}\n"
KNOWN = "data, id, prepare, defaults, stages, ensemble, output, deadline, backend and seed"
PIPELINES: list[tuple[str, str]] = [
    ("data: d", "stages is missing: add one, such as stages: {gemma: {model: google/gemma-2-9b-it, labels: 3}}"),
    ("data: d\nstages: {}", "stages is empty: add one, such as stages: {gemma: {model: google/gemma-2-9b-it, labels: 3}}"),
    ("data: d\nstages: [a]", "stages is ['a'], expected a mapping, one 'name: value' a line"),
    ("dta: d\nstages: {s: {run: m:f}}", "dta is no setting of a pipeline: did you mean data?; and 1 more"),
    ("1: d\n" + ONE % "", f"1 is no setting of a pipeline: known are {KNOWN}"),
    (ONE % "" + "  e: foo", "stages.e is 'foo', expected a mapping, one 'name: value' a line"),
    (ONE % "" + "  true: {run: m:f}", f"stages has the name true, expected {WORDS}"),
    (ONE % "" + "  a b: {run: m:f}", f"stages has the name 'a b', expected {WORDS}"),
    (ONE % "" + '  "a\\n": {run: m:f}', f"stages has the name 'a\\n', expected {WORDS}"),
    (ONE % "" + "id: true", "id is true, expected text: put it in quotes"),
    (ONE % "" + "seed: -1", "seed is -1, expected a whole number of at least 0"),
    (ONE % "" + "backend: kubernetes", "backend is 'kubernetes', expected local or ray"),
    (ONE % "" + "missing: error", "missing is no setting of a pipeline: it belongs in ensemble"),
    (ONE % "" + "prepare: prep", "prepare is 'prep', expected a file and a function such as prep.py:build"),
    (ONE % "" + "prepare: 'prep.py:'", "prepare is 'prep.py:', expected a file and a function such as prep.py:build"),
    (ONE % "" + "prepare: prep.py:build", "prepare names prep.py, and there is no such file: check the path"),
    (ONE % "" + "deadline: 3h\ndefaults: {deadline: 8h}", "deadline is at the top of the file and in defaults: keep one of them"),
    (ONE % "" + "defaults: {deadline: soon}", f"defaults.deadline is 'soon', expected {DURATION}"),
    (ONE % "" + "defaults: {quantise: int8}", "defaults.quantise is no setting of the defaults: did you mean quantize?"),
    (alone(""), "stages.s has neither model nor run: name a model, or a function as module.py:function"),
    (alone("model: m"), "stages.s.task is missing: write task: classify, generate, embed or choose, or give labels to classify"),
    (alone("model: m, task: choose"), "stages.s.choices is missing: list them, or name the column that has them"),
    (alone("model: m, choices: [a]"), "stages.s.choices is ['a'], expected two or more texts, or the name of the column that has them"),
    (alone("model: m, choices: [a, a]"), "stages.s.choices is ['a', 'a'], expected each of them once"),
    (alone("model: m, choices: [a, b], columns: [0]"), "stages.s.columns has 1 numbers for 2 choices: give each its place"),
    (alone("model: m, choices: [a, b], labels: 2, task: choose"), "stages.s.labels has no meaning with task choose: remove it, it is for classify and run"),
    (alone("run: m:f, quantize: int8"), "stages.s.quantize has no meaning with run: remove it, it is for models"),
    (alone("run: m:f, task: embed, batch_tokens: 9"), "stages.s.task has no meaning with run: remove it, it is for models; and 1 more"),
    (alone("model: m, task: generate, generation: {max_new_tokens: 3}"), "stages.s.generation.max_new_tokens is not for generation: write it as max_new_tokens of the stage"),
    (alone("model: m, task: generate, generation: {a: {b: 1}}"), "stages.s.generation.a is a mapping, expected a plain value: text, a number, true, false or a list of these"),
    (alone("model: m, task: generate, generation: [a]"), "stages.s.generation is ['a'], expected a mapping such as {do_sample: true, top_p: 0.9}"),
    (TWO + "ensemble: mean", "ensemble is 'mean', expected a mapping such as {method: mean}"),
    (TWO + "ensemble: {method: average}", "ensemble.method is 'average', expected mean, logit, vote or rank"),
    (TWO + "ensemble: {wieghts: {}}", "ensemble.wieghts is no setting of the ensemble: did you mean weights?"),
    (TWO + "ensemble: {weights: [2, 1]}", "ensemble.weights is [2, 1], expected a mapping such as {gemma: 2, llama: 1}"),
    (TWO + "ensemble: {weights: {gemma: -1, llama: 1}}", "ensemble.weights.gemma is -1, expected a number of at least 0"),
    (TWO + "ensemble: {weights: {gemma: '2', llama: 1}}", "ensemble.weights.gemma is '2', expected a number of at least 0: remove the quotes"),
    (TWO + "ensemble: {weights: {gema: 1}}", "ensemble.weights names gema, which is no stage: did you mean gemma?"),
    (TWO + "ensemble: {weights: {qwen: 1}}", "ensemble.weights names qwen, which is no stage: there is gemma and llama"),
    (TWO + "ensemble: {weights: {gemma: 1}}", "ensemble.weights leaves out llama: give it a weight, 0 to leave it out"),
    (TWO + "ensemble: {weights: {gemma: 0, llama: 0.0}}", "ensemble.weights are all 0: give one stage a weight above 0"),
    (TWO + "  g: {model: m, task: generate}\nensemble: {}", "stages.g has task generate, which no ensemble takes: give it the weight 0 in ensemble.weights"),
    (TWO + "  g: {model: m, labels: 2}\nensemble: {}", "the ensemble would average 3 of gemma, 3 of llama and 2 of g labels: stages need the same labels"),
    (TWO + "output: x.csv", "output is one file and there are 2 stages: say how they become one with ensemble: {method: mean}"),
    (ONE % "" + "output: [x.csv]", "output is ['x.csv'], expected a path, or a mapping such as {path: submission.csv}"),
    (ONE % "" + "output: {columns: [a, b, c]}", "output.path is missing: add the file's name, such as path: submission.csv"),
    (ONE % "" + "output: x.xls", "the output x.xls has no format: end its name with one of .csv, .csv.gz, .parquet, .jsonl"),
    (ONE % "" + "output: {path: x.csv, columns: [a, b]}", "output.columns has 2 names and stages.gemma 3 labels: name each label"),
    (ONE % "" + "output: {path: x.csv, columns: [a, b, a]}", "output.columns is ['a', 'b', 'a'], expected names that differ, the id's too"),
    (ONE % "" + "output: {path: x.csv, columns: [a, b, id]}", "output.columns is ['a', 'b', 'id'], expected names that differ, the id's too"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), PIPELINES, ids=range(len(PIPELINES)))
def test_a_pipeline_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    assert refusal(tmp_path, text).replace(f"{tmp_path}/", "") == f"pipe.yaml: {sentence}"


def test_weight_0_leaves_a_stage_out_of_the_ensemble(tmp_path: Path) -> None:
    others = "  g: {model: m, task: generate}\n  h: {model: m, labels: 2}\n"
    weights = "ensemble: {weights: {gemma: 1, llama: 1, g: 0, h: 0}}\n"
    output = "output: {path: x.csv, columns: [a, b, c]}"
    assert read(tmp_path, TWO + others + weights + output).file.weights["g"] == 0


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ("", "error"), ("deadline: 8h", "available"), ("defaults: {deadline: 8h}", "available"),
        ("deadline: 8h\nensemble: {missing: error}", "error"), ("ensemble: {missing: available}", "available"),
    ],
)  # fmt: skip
def test_with_a_deadline_what_is_available_is_ensembled(
    tmp_path: Path, lines: str, missing: str
) -> None:
    assert read(tmp_path, TWO + lines).file.missing == missing


def test_weights_are_1_unless_given_and_none_without_an_ensemble(tmp_path: Path) -> None:
    assert read(tmp_path, TWO).file.weights == {}
    assert read(tmp_path, TWO + "ensemble: {}").file.weights == {"gemma": 1.0, "llama": 1.0}


# ---- defaults

DEFAULTS: list[tuple[str, str, Mapping[str, object]]] = [
    # defaults, the stage, what it becomes
    ("max_length: 9", "model: m, labels: 3", {"max_length": 9, "labels": 3}),
    ("max_length: 9", "model: m, labels: 3, max_length: 5", {"max_length": 5}),
    ("max_length: 9", "model: m, labels: 3, max_length: null", {"max_length": None}),
    ("quantize: int8, labels: 3", "run: m:f", {"quantize": None, "labels": 3, "task": None}),
    ("model: m, labels: 3", "adapter: a", {"model": "m", "task": "classify", "adapter": "a"}),
    ("model: m, labels: 3", "choices: [a, b]", {"task": "choose", "labels": None}),
    ("model: m, labels: 3", "task: generate", {"labels": None, "max_new_tokens": 256}),
    ("task: generate, max_new_tokens: 9", "model: m", {"task": "generate", "max_new_tokens": 9}),
    ("task: generate, max_new_tokens: 9", "model: m, labels: 3", {"task": "classify", "max_new_tokens": None}),
    ("run: m:f", "gpus: none", {"run": "m:f", "gpus": "none"}),
    ("run: m:f, labels: 3", "model: m", {"run": None, "model": "m", "task": "classify"}),
    ("labels: 3", "model: m, labels: null, task: classify", {"labels": None, "task": "classify"}),
    ("deadline: 8h", "run: m:f", {"run": "m:f"}),
]  # fmt: skip


@pytest.mark.parametrize(("defaults", "own", "expected"), DEFAULTS)
def test_a_stages_own_settings_win_and_defaults_hold_where_they_mean_something(
    tmp_path: Path, defaults: str, own: str, expected: Mapping[str, object]
) -> None:
    merged = read(tmp_path, f"{alone(own)}\ndefaults: {{{defaults}}}").stages["s"]
    assert {name: getattr(merged, name) for name in expected} == expected


def test_every_setting_of_a_stage_has_a_default_for_all() -> None:
    assert set(StageDefaults.model_fields) - set(StageFile.model_fields) == {"deadline"}
    assert set(MEANT_FOR) <= set(StageFile.model_fields)


# ---- durations

DURATIONS = [
    ("8h30m", 30_600), ("90m", 5400), ("3600", 3600), (3600, 3600), (0.5, 0.5), ("1.5s", 1.5),
    ("1d", 86_400), (" 8h 30m ", 30_600), ("8H30M", 30_600), ("1.5h", 5400), ("0.001s", 0.001),
    ("366d", 366 * 86_400),
]  # fmt: skip


@pytest.mark.parametrize(("text", "seconds"), DURATIONS)
def test_durations_are_read_in_every_unit(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


NO_DURATIONS: list[Any] = [
"", "h", "30m8h", "8h8h", "-1", "-1h", "1e3", "0", "0h", 0, -5, True, None, [], "٣h", "8h30", "1:2:3:4",
    float("nan"), float("inf"), "367d", 10**400, "1" * 5000, "1w",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_DURATIONS, ids=range(len(NO_DURATIONS)))
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match="is no duration, expected a duration such as 8h30m"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=366 * 86_400_000))
@example(1)
@example(86_400_000)
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    text = format_duration(seconds)
    assert parse_duration(text) == seconds
    assert re.fullmatch(r"(\d+d)?(\d+h)?(\d+m)?([\d.]+s)?", text)


# ---- templates

PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
COLUMN = st.text("abcXYZ019_ -é", min_size=1, max_size=6).filter(lambda name: name == name.strip())


@given(st.lists(st.tuples(PLAIN, COLUMN), min_size=1, max_size=5), PLAIN)
def test_a_template_is_its_literals_and_its_columns(parts: list[tuple[str, str]], end: str) -> None:
    def escaped(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    template = "".join(f"{escaped(text)}{{{name}}}" for text, name in parts) + escaped(end)
    assert template_fields(template) == tuple(dict.fromkeys(name for _, name in parts))
    row = {name: f"<{name}>" for _, name in parts}
    assert fill_template(template, row) == "".join(f"{a}<{name}>" for a, name in parts) + end


@given(st.text("{}ab.:![] ", max_size=12))
def test_a_template_is_filled_or_refused_but_never_evaluated(text: str) -> None:
    try:
        names = template_fields(text)
    except InputError:
        return
    assert names and not any(sign in name for name in names for sign in ".:![]{}")
    fill_template(text, dict.fromkeys(names, "x"))


def test_a_null_fills_in_nothing_and_a_number_itself() -> None:
    assert fill_template("{a}|{b}|{0}", {"a": None, "b": 7, "0": "z"}) == "|7|z"


# ---- schema


def test_the_schema_describes_every_setting() -> None:
    schema = json_schema()
    json.dumps(schema)
    for model in (schema, *schema["$defs"].values()):
        assert model["additionalProperties"] is False and model["description"]
        for name, setting in model["properties"].items():
            described = setting.get("description")
            assert described and described[-1] in ".:…", name


def accepts(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> bool:
    """As much of JSON Schema as ours uses."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], value, root)
    if "anyOf" in schema:
        return any(accepts(each, value, root) for each in schema["anyOf"])
    kinds: dict[str, Any] = {"string": str, "integer": int, "number": (int, float), "boolean": bool,
             "array": list, "object": dict, "null": type(None)}  # fmt: skip
    kind = schema.get("type")
    if kind and not (
        isinstance(value, kinds[kind]) and isinstance(value, bool) == (kind == "boolean")
    ):
        return False
    if kind == "object" and isinstance(value, dict):
        known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        named = {
            k: known.get(k) or next((s for p, s in patterns.items() if re.search(p, k)), None)
            for k in value
        }
        open_ended = schema.get("additionalProperties", True)
        return set(schema.get("required", ())) <= set(value) and all(
            accepts(inner, value[k], root) if inner else bool(open_ended)
            for k, inner in named.items()
        )
    if kind == "array" and isinstance(value, list):
        return all(accepts(schema.get("items", {}), item, root) for item in value)
    return value in schema["enum"] if "enum" in schema else value == schema.get("const", value)


def test_the_schema_takes_the_files_of_the_documentation_and_no_typo() -> None:
    yaml = pytest.importorskip("yaml")
    schema = json_schema()
    for text in (SMALLEST, FULL):
        content = yaml.safe_load(text)
        assert accepts(schema, content, schema)
        content["stages"]["gemma"]["quantise"] = "int8"
        assert not accepts(schema, content, schema)
    for wrong in (
        {"data": "d"},
        {"data": 3, "stages": {"a": {}}},
        {"data": "d", "stages": {"a b": {}}},
    ):
        assert not accepts(schema, wrong, schema)


# ---- structure


def test_a_pipeline_cannot_be_changed(tmp_path: Path) -> None:
    pipeline = read(tmp_path, SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        pipeline.stages["gemma"].labels = 4
    assert isinstance(pipeline.file, PipelineFile)


def test_reading_a_pipeline_imports_no_torch() -> None:
    code = (
        "import sys, willfit.runner.pipeline, willfit.runner.table;"
        "print(sorted({'torch', 'transformers', 'willfit.worker', %r} & set(sys.modules)))"
    )
    for planted, found in (("none", "[]"), ("json", "['json']")):
        run = subprocess.run(
            [sys.executable, "-c", code % planted], capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == found
