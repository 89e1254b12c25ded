"""Bundles: a pipeline runs as it runs here where there is no network, and changes no package."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from tests.support.classifiers import adapter, classifier

from willfit.cli.main import main
from willfit.errors import InputError
from willfit.runner.bundle import bundle
from willfit.runner.bundle.code import code_of, foreign
from willfit.runner.bundle.disk import disk_of
from willfit.runner.bundle.image import Image, kaggle_image, normal
from willfit.runner.bundle.needs import CARRIED, MODELS, RUNNER, carried, needs
from willfit.runner.bundle.pack import pack
from willfit.runner.bundle.payload import cell, install, start
from willfit.runner.bundle.text import read_text
from willfit.runner.bundle.wheels import read_wheel
from willfit.runner.content import source_content
from willfit.runner.folder import RunFolder
from willfit.runner.pipeline import pipeline_from, read_pipeline
from willfit.runner.run import run

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LACKING = ("willfit", "cloudpickle", "nvidia-ml-py", "peft")
"""What the image of these tests does not have."""


# A pipeline as people have them: models, an adapter, a function with a module beside it.


def rows(count: int, path: Path) -> Path:
    rng = random.Random(0)
    made = [
        {
            "id": 1000 + i,
            "prompt": "abc " * rng.randint(1, 9),
            "response": "xyz " * rng.randint(1, 6),
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(made), path)
    return path


FUNCTION = """
import numpy as np
from lengths import total

def predict(rows):
    return np.array([[total(row), 1.0, 2.0] for row in rows])
"""
LENGTHS = "def total(row):\n    return float(len(row['prompt']))\n"


def function_files(folder: Path) -> None:
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    (folder / "stages" / "mine.py").write_text(FUNCTION)
    (folder / "stages" / "lengths.py").write_text(LENGTHS)


def function_pipeline(folder: Path, more: str = "") -> Path:
    """A pipeline that needs no torch."""
    function_files(folder)
    rows(60, folder / "test.parquet")
    path = folder / "p.yaml"
    path.write_text(
        "# ours\ndata: test.parquet\nstages:\n"
        "  mine: {run: 'stages/mine.py:predict', labels: 3, shards: 6}  # one\n"
        f"output: out/result.csv\n{more}"
    )
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are written from the current folder on."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels as ``pip download`` leaves them, made of what is installed: no network is needed."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("cloudpickle", "nvidia-ml-py", "peft"):
        pack(name, folder)
    return folder


# The whole of it.


def isolated() -> list[str]:
    """A command that cuts the network and may mount; skips where the system permits none."""
    mount = "mount -t tmpfs -o size=1m tmpfs /mnt"
    for flags in ("-mn", "-rmn"):
        command = ["unshare", flags]
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare here to cut the network with")
        if subprocess.run([*command, "sh", "-c", mount], capture_output=True).returncode == 0:
            return command
    pytest.skip("unshare is not permitted here: the network cannot be cut, nor a disk limited")


def image(folder: Path) -> Path:
    """Python as a notebook's image has it: everything that is installed here but `LACKING`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    target = folder / "lib" / f"python{PYTHON}" / "site-packages"
    absent = {"__pycache__", *(p.name for p in target.iterdir())}
    for name in LACKING:
        absent |= {file.parts[0] for file in importlib.metadata.files(name) or ()}
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(source).iterdir():
            if entry.name not in absent and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


SNAPSHOT = (
    "import importlib.metadata as m, json, re; print(json.dumps({re.sub('[-_.]+', '-', "
    "d.metadata['Name']).lower(): d.version for d in m.distributions()}))"
)


def snapshot(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-c", SNAPSHOT], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


SESSION = """
set -e
mount --bind "$INPUT" "$INPUT"
mount -o remount,ro,bind "$INPUT"
mount -t tmpfs -o size=48m tmpfs "$WORKING"
if touch "$INPUT/x" 2>/dev/null; then exit 91; fi
"$PYTHON" -c 'import socket; assert [n for _, n in socket.if_nameindex()] == ["lo"]'
cd "$WORKING"
set +e
"$PYTHON" "$CELL"
code=$?
cp -a "$WORKING/." "$KEPT"
exit $code
"""


def session(python: Path, kaggle: Path, cell: str, kept: Path) -> str:
    """Run a cell as a notebook without internet does; what it printed."""
    kept.mkdir()
    (kaggle / "working").mkdir(exist_ok=True)
    for name in ("input", "working"):
        cell = cell.replace(f'Path("/kaggle/{name}")', f"Path({str(kaggle / name)!r})")
    (kaggle / "cell.py").write_text(cell)
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        [*isolated(), "sh", "-c", SESSION],
        env={
            **inherited, "INPUT": str(kaggle / "input"), "WORKING": str(kaggle / "working"),
            "CELL": str(kaggle / "cell.py"), "KEPT": str(kept), "PYTHON": str(python),
        },
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_bundle_gives_the_same_file_offline_and_leaves_every_version_as_it_was(
    tmp_path: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    isolated()
    here, kaggle = tmp_path / "here", tmp_path / "kaggle"
    gemma, llama = classifier("gemma2", here), classifier("llama", here)
    lora = adapter(llama, "SEQ_CLS", here)
    data = rows(120, here / "test.parquet")
    function_files(here)
    (here / "p.yaml").write_text(
        "data: test.parquet\n"
        "defaults: {template: '{prompt}{response}', labels: 3, shards: 4, max_length: 100,\n"
        f"  tokenizer: {gemma.name}}}\n"
        "stages:\n"
        f"  gemma: {{model: {gemma.name}}}\n"
        f"  llama: {{model: {llama}, adapter: {lora.name}, columns: [1, 0, 2]}}\n"
        "  mine: {run: stages/mine.py:predict}\n"
        "ensemble: {weights: {gemma: 2, llama: 1, mine: 1}}\n"
        f"output: {here}/plain.csv\n"
    )
    run(here / "p.yaml", run_dir=here / "run")

    arguments = ["bundle", str(here / "p.yaml"), "--for", "kaggle", "--out", str(here / "b.zip")]
    arguments += ["--wheels", str(wheels), "--python", PYTHON, "--include", str(lora)]
    arguments += ["--map", "test.parquet=/kaggle/input/comp/test.parquet"]
    arguments += [f"{gemma}=/kaggle/input/gemma2", f"{llama}=/kaggle/input/models/meta/llama/t/1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "attach: /kaggle/input/comp/test.parquet" in said and "peft" in said

    inputs = kaggle / "input"
    ours = inputs / "datasets" / "me" / "p-bundle"
    with zipfile.ZipFile(here / "b.zip") as archive:
        archive.extractall(ours)
    (inputs / "competitions" / "comp").mkdir(parents=True)
    shutil.copy(data, inputs / "competitions" / "comp")
    shutil.move(gemma, inputs / "gemma2")  # one layout, and the other:
    shutil.move(llama, inputs / "llama" / "t" / "1")

    python, source = image(tmp_path / "image"), (ours / "cell.py").read_text()
    before = snapshot(python)
    assert not set(LACKING) & set(before) and "torch" in before
    first = session(python, kaggle, source, tmp_path / "first")
    after = snapshot(python)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == set(LACKING)
    assert f"unchanged: the versions of all {len(before)} packages" in first
    assert (tmp_path / "first" / "submission.csv").read_bytes() == (here / "plain.csv").read_bytes()
    ended = re.findall(r"^willfit: (\w+) is done: 120 rows", first, re.MULTILINE)
    assert ended == ["gemma", "llama", "mine"]

    shutil.copytree(tmp_path / "first" / "run", inputs / "notebooks" / "me" / "before" / "run")
    second = session(python, kaggle, source, tmp_path / "second")
    assert "installed: nothing" in second and snapshot(python) == after
    assert second.count("120 rows are taken over") == 3 and second.count("rows, all kept") == 6
    outputs = [(tmp_path / name / "submission.csv").read_bytes() for name in ("first", "second")]
    assert outputs[0] == outputs[1]


# What an image lacks, and what it has.

VERSIONS = (
    "0.9", "1.0.dev3", "1.0a1", "1.0rc1", "1.0", "1.0.0", "1.0.post2", "1.0.1", "1.4.2+cu124", "1.10",
    "2.0rc1", "2.0", "2.0.1", "2.12.3", "1!0.5", "13.615.71", "2026.10.19.post1",
)  # fmt: skip
SPECIFIERS = (
    "", ">=1.0", ">1.0", "<=1.0", "<2.0", "<2", "==1.0", "==1.*", "!=2.*", "!=1.0", "~=1.0", "~=1.0.0",
    ">=1.4,<2,!=1.10", "<3,>=2.4", "~=2.12.0", ">=1!0", "==1.0.post2", ">=2.0rc1",
)  # fmt: skip


@pytest.mark.parametrize("specifier", SPECIFIERS)
def test_versions_are_judged_as_packaging_judges_them(specifier: str) -> None:
    for version in VERSIONS:
        expected = SpecifierSet(specifier).contains(version, prereleases=True)
        assert install.satisfies(version, specifier) == expected, (version, specifier)


def facts(
    requires: Mapping[str, str], *wheels: tuple[str, str, Mapping[str, str]]
) -> dict[str, Any]:
    return {
        "requires": [{"name": n, "specifier": s, "why": "willfit"} for n, s in requires.items()],
        "wheels": [{"name": n, "version": v, "requires": dict(r)} for n, v, r in wheels],
    }


def test_only_what_lacks_is_installed_with_what_it_needs() -> None:
    asked = facts(
        {"torch": ">=2.6", "peft": ">=0.13"},
        ("peft", "0.21", {"torch": ">=1.13", "tqdm": "", "loop": ""}),
        ("tqdm", "4.67", {}),
        ("loop", "1.0", {"peft": ">=0.2", "loop": ">=1"}),
        ("unasked", "1.0", {}),
    )
    there = {"torch": "2.10.0+cu128"}
    names = {wheel["name"] for wheel in install.lacks(asked, there)}
    assert names == {"peft", "tqdm", "loop"}
    assert install.lacks(asked, {**there, "peft": "0.13.1"}) == []


REFUSED = (
    ({"torch": "2.5.1"}, "torch 2.5.1 is installed and willfit needs >=2.6: nothing that is"),
    ({"torch": "2.6", "peft": "0.12"}, "peft 0.12 is installed and willfit needs >=0.13"),
    ({"torch": "3.0"}, "torch 3.0 is installed and peft 0.21 needs <3: nothing that is"),
    ({}, "torch is not installed here and the bundle has no wheel of it (willfit needs it)"),
)


@pytest.mark.parametrize(("installed", "sentence"), REFUSED)
def test_a_version_that_does_not_do_is_refused_and_never_changed(
    installed: dict[str, str], sentence: str
) -> None:
    asked = facts({"torch": ">=2.6", "peft": ">=0.13"}, ("peft", "0.21", {"torch": "<3"}))
    with pytest.raises(install.RefusedError) as caught:
        install.lacks(asked, installed)
    assert str(caught.value).startswith(sentence)


def test_a_changed_version_is_an_error_and_so_is_a_package_that_did_not_arrive() -> None:
    wheel = {"name": "peft", "version": "0.21"}
    with pytest.raises(install.RefusedError, match=r"numpy 2\.0 → 2\.4, tqdm 4 → gone"):
        install.check_unchanged({"numpy": "2.0", "tqdm": "4"}, {"numpy": "2.4"}, [])
    with pytest.raises(install.RefusedError, match="pip put peft where"):
        install.check_unchanged({}, {}, [wheel])
    install.check_unchanged({"tqdm": "4"}, {"tqdm": "4", "peft": "0.21"}, [wheel])


OTHER = f"cp3{sys.version_info.minor + 1}"
OWN = f"cp3{sys.version_info.minor}"
FILES = [
    ("a-1-py3-none-any.whl", True), ("a-1-py2.py3-none-any.whl", True), ("a-1-py2-none-any.whl", False),
    (f"a-1-{OWN}-{OWN}-manylinux_2_5_x86_64.whl", True),
    (f"a-1-{OTHER}-{OTHER}-manylinux_2_5_x86_64.whl", False),
    ("a-1-cp38-abi3-manylinux2014_x86_64.whl", True), (f"a-1-{OTHER}-abi3-linux_x86_64.whl", False),
    ("a-1-py3-none-manylinux_2_999_x86_64.whl", False), ("a-1-py3-none-win_amd64.whl", False),
    ("a-1-py3-none-manylinux_2_999_x86_64.manylinux_2_17_x86_64.whl", True),
    ("a-1-2-py3-none-manylinux_2_17_aarch64.whl", False),
]  # fmt: skip


@pytest.mark.parametrize(("file", "runs"), FILES)
def test_a_wheel_is_refused_where_its_name_says_that_it_does_not_run(
    file: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(install.platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.setattr(install.sys, "platform", "linux")
    assert install.runs_here(file) == runs


def test_a_wheel_that_was_cut_on_the_way_is_not_installed(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(wheels, tmp_path / "wheels")
    monkeypatch.setattr(install, "HERE", tmp_path)
    (path,) = (tmp_path / "wheels").glob("cloudpickle*.whl")
    wheel = read_wheel(path, PYTHON).json()
    install.check_wheel(wheel)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(install.RefusedError, match="is not as it was made: upload"):
        install.check_wheel(wheel)


def test_another_willfit_of_the_same_version_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    path = pack("willfit", tmp_path / "wheels")
    wheel = read_wheel(path, PYTHON).json()
    monkeypatch.setattr(install, "HERE", tmp_path)
    with zipfile.ZipFile(path) as archive:
        record = archive.read(next(n for n in archive.namelist() if n.endswith("RECORD"))).decode()

    class Installed:
        def read_text(self, _name: str) -> str:
            return record

    monkeypatch.setattr(install.importlib.metadata, "distribution", lambda _: Installed())
    install.check_same(wheel, {"willfit": wheel["version"]})
    record = record.replace("willfit/units.py,sha256=", "willfit/units.py,sha256=x")
    with pytest.raises(install.RefusedError, match="another willfit of the same version"):
        install.check_same(wheel, {"willfit": wheel["version"]})


def test_the_published_image_is_complete_and_has_its_sources() -> None:
    known = kaggle_image()
    assert known.checked and all(known.sources.values())
    assert all(name == normal(name) for name in known.packages)
    assert not known.has("bitsandbytes") and known.has("torch") and known.has("PyYAML")


def test_what_is_required_is_what_pyproject_requires() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python reads TOML from 3.11 on")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    stated = {}
    for line in (*project["dependencies"], *extras["data"], *extras["run"], *extras["trace"]):
        match = re.fullmatch(r"([\w-]+)(>=[\d.]+)", line)
        if match:
            stated[normal(match[1])] = match[2]
    assert stated.pop("pillow")
    assert stated == {**RUNNER, **MODELS}


def stages(**given: Any) -> Any:
    model = {"model": "/m", "labels": 3}
    return pipeline_from({"data": "d.parquet", "stages": {"s": {**model, **given}}}, Path("/"))


def test_a_pipeline_brings_what_its_stages_import() -> None:
    names = {need.name for need in needs(stages())}
    assert {"torch", "transformers", "accelerate"} <= names and not {"peft", "bitsandbytes"} & names
    assert "peft" in {need.name for need in needs(stages(adapter="/a"))}
    assert "bitsandbytes" in {need.name for need in needs(stages(quantize="int8"))}
    with pytest.raises(InputError, match="stage s has engine vllm"):
        needs(stages(engine="vllm"))


def test_a_bundle_carries_what_the_image_lacks_or_got_late() -> None:
    wanted = needs(stages(adapter="/a", quantize="int8"), ("polars", "unheard"))
    assert set(carried(wanted, kaggle_image())) == {*CARRIED, "unheard"}
    bare = Image(python="3.12", glibc=(2, 35), packages={}, checked="2026-11", sources={})
    assert set(carried(wanted, bare)) == {need.name for need in wanted}


def test_a_wheel_is_made_again_from_an_installed_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = pack("willfit", tmp_path / "one")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target"]
    subprocess.run([*pip, site, first], check=True)
    second = pack("willfit", tmp_path / "two", path=[str(site)])
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
    read = read_wheel(second, PYTHON)
    assert (read.name, read.version) == ("willfit", importlib.metadata.version("willfit"))


def test_a_source_that_has_gone_on_since_it_was_installed_makes_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "site" / "ours-1.0.dist-info"
    (tmp_path / "source" / "ours").mkdir(parents=True)
    info.mkdir(parents=True)
    for name in ("__init__", "_version"):
        (tmp_path / "source" / "ours" / f"{name}.py").write_text('__version__ = "1.0"\n')
    (info / "METADATA").write_text("Name: ours\nVersion: 1.0\n")
    (info / "WHEEL").write_text("Tag: py2-none-any\nTag: py3-none-any\n")
    (info / "RECORD").write_text(
        "_ours.pth,,\n" + "".join(f"{info.name}/{n},,\n" for n in ("METADATA", "WHEEL", "RECORD"))
    )
    monkeypatch.syspath_prepend(str(tmp_path / "source"))
    path = pack("ours", tmp_path, path=[str(tmp_path / "site")])
    assert path.name == "ours-1.0-py2.py3-none-any.whl"
    assert "ours/_version.py" in zipfile.ZipFile(path).namelist()
    (tmp_path / "source" / "ours" / "_version.py").write_text('__version__ = "1.1"\n')
    with pytest.raises(InputError, match=r"ours was installed as 1\.0 and its source folder"):
        pack("ours", tmp_path, path=[str(tmp_path / "site")])
    with pytest.raises(InputError, match="unheard is not installed as a package"):
        pack("unheard", tmp_path)


def test_requirements_of_a_wheel_are_those_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "a-1.0.dist-info/METADATA",
            "Name: a\nVersion: 1.0\nRequires-Python: >=3.9\nRequires-Dist: Foo_Bar>=1,<2\n"
            'Requires-Dist: win; sys_platform == "win32"\nRequires-Dist: more; extra == "x"\n'
            'Requires-Dist: old; python_version < "3.12"\n',
        )
    assert read_wheel(path, "3.12").requires == {"foo-bar": "<2,>=1"}
    assert set(read_wheel(path, "3.11").requires) == {"foo-bar", "old"}


# The pipeline and the user's code in a bundle.


def test_only_paths_of_the_pipeline_change_and_its_comments_stay(
    tmp_path: Path, wheels: Path
) -> None:
    path = function_pipeline(tmp_path, "deadline: 8h30m\n")
    made = bundle(path, out=tmp_path / "b", wheels=wheels, include=[tmp_path / "test.parquet"])
    text = (tmp_path / "b" / "pipeline.yaml").read_text()
    expected = path.read_text().replace("test.parquet", '"files/test.parquet"')
    expected = expected.replace("'stages/mine.py:predict'", '"code/mine.py:predict"')
    assert text == expected.replace("out/result.csv", '"submission.csv"')
    assert made.sentences == (
        "the output out/result.csv is written as /kaggle/working/submission.csv",
    )
    read_pipeline(tmp_path / "b" / "pipeline.yaml")


def test_code_keeps_its_fingerprint_in_a_bundle(tmp_path: Path, wheels: Path) -> None:
    path = function_pipeline(tmp_path)
    bundle(path, out=tmp_path / "b", wheels=wheels)
    moved = source_content(str(tmp_path / "b" / "code" / "mine.py:predict"))
    assert moved.plain() == source_content(str(tmp_path / "stages" / "mine.py:predict")).plain()
    assert set(moved.files) == {"mine.py", "lengths.py"}


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_other_formats_become_yaml(tmp_path: Path, wheels: Path, suffix: str) -> None:
    if suffix == ".toml" and sys.version_info < (3, 11):
        pytest.skip("Python reads TOML from 3.11 on")
    content = yaml.safe_load(function_pipeline(tmp_path).read_text())
    path = tmp_path / f"q{suffix}"
    path.write_text(
        json.dumps(content)
        if suffix == ".json"
        else 'data = "test.parquet"\n[stages.mine]\nrun = "stages/mine.py:predict"\nlabels = 3\n'
    )
    bundle(path, out=tmp_path / "b", wheels=wheels)
    read = read_pipeline(tmp_path / "b" / "pipeline.yaml")
    assert read.stages["mine"].run == str(tmp_path / "b" / "code" / "mine.py:predict")


def test_every_reference_is_found_wherever_yaml_has_it(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "data: d.csv\nprepare: prep.py:build\noutput: {path: o.csv, columns: [a, b]}\n"
        "defaults: &all\n  tokenizer: tok\n"
        "stages:\n  a: &a {model: m, adapter: \"it's\"}\n  b: {<<: *a, model: n}\n  c: *a\n"
        "  d: {run: f.py:g, template: 'model: x'}\n"
    )  # fmt: skip
    read = read_text(path)
    found = [(reference.where, reference.value) for reference in read.references]
    assert [value for _, value in found] == [
        "d.csv", "prep.py:build", "o.csv", "tok", "m", "it's", "n", "f.py:g",
    ]  # fmt: skip
    assert "".join(read.pieces(lambda _: None)) == path.read_text()
    again = "".join(read.pieces(lambda r: json.dumps(r.value)))
    assert yaml.safe_load(again) == yaml.safe_load(path.read_text())


def sentences_of(tmp_path: Path, wheels: Path, text: str, **given: Any) -> tuple[str, ...]:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return bundle(path, out=tmp_path / "b", wheels=wheels, **given).sentences


def test_what_stays_outside_is_said_in_one_sentence_each(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "lora").mkdir()
    text = (
        "data: test.csv\ndeadline: 8h\noutput: submission.csv\n"
        "stages: {g: {model: google/gemma-2-9b, adapter: lora, labels: 3}}\n"
    )
    said = sentences_of(tmp_path, wheels, text)
    assert said == (
        f"data is {tmp_path}/test.csv, a file of this machine: upload it and add --map "
        f"{tmp_path}/test.csv=/kaggle/input/test.csv, or put it into the bundle with --include "
        f"{tmp_path}/test.csv",
        "stages.g.model is google/gemma-2-9b, which the notebook cannot download: attach it as a "
        "model or a dataset and add --map google/gemma-2-9b=/kaggle/input/gemma-2-9b",
        f"stages.g.adapter is {tmp_path}/lora, a folder of this machine: upload it and add --map "
        f"{tmp_path}/lora=/kaggle/input/lora, or put it into the bundle with --include "
        f"{tmp_path}/lora",
    )
    maps = [
        "test.csv=/kaggle/input/c/test.csv", "google/gemma-2-9b=/kaggle/input/g",
        f"{tmp_path}=/kaggle/input/all",
    ]  # fmt: skip
    assert sentences_of(tmp_path, wheels, text, maps=maps) == ()
    facts = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert facts["refers"] == [
        "/kaggle/input/c/test.csv",
        "/kaggle/input/g",
        "/kaggle/input/all/lora",
    ]


def test_settings_that_suit_a_submission_badly_are_said(tmp_path: Path, wheels: Path) -> None:
    text = "data: /kaggle/input/c/test.csv\nstages: {g: {model: /kaggle/input/g, labels: 3}}\n"
    none, output = sentences_of(tmp_path, wheels, text)
    assert none.endswith("write deadline: 8h45m") and output.endswith("submission.csv: name it")
    (late, _) = sentences_of(tmp_path, wheels, f"{text}deadline: 9h\n")
    assert late == (
        "the deadline is 9h and a submission has 9 hours: write deadline: 8h45m or less"
    )


def test_packages_that_the_code_imports_and_nobody_brings_are_said(tmp_path: Path) -> None:
    function_files(tmp_path)
    mine = tmp_path / "stages" / "mine.py"
    mine.write_text("import json, unheard_of.x\nimport yaml, sklearn\nfrom . import y\n" + FUNCTION)
    code = code_of(["stages/mine.py:predict"], tmp_path)
    assert foreign(code, kaggle_image(), []) == [("mine.py", "unheard-of")]
    assert foreign(code, kaggle_image(), ["unheard-of"]) == []


WRONG = [
    ({"maps": ["a=/data/b"]}, "--map 'a=/data/b' is no mapping: expected a path here and one under"),
    ({"maps": ["x=/kaggle/input/x"]}, "--map names x, which nothing of the pipeline is or is under"),
    ({"include": ["nowhere"]}, "there is no nowhere to include"),
    ({"python": "2.7"}, "--python '2.7' is no version"),
    ({"wheels": "nowhere"}, "nowhere is no folder: expected one with wheels"),
    ({"extra": ["unheard"]}, "has no wheel of unheard for Python 3.12: put one there"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sentence"), WRONG)
def test_what_cannot_be_used_is_refused_and_nothing_is_left_behind(
    tmp_path: Path, wheels: Path, given: dict[str, Any], sentence: str
) -> None:
    path = function_pipeline(tmp_path / "p")
    with pytest.raises(InputError) as caught:
        bundle(path, **{"out": tmp_path / "out" / "b", "wheels": wheels, **given})
    assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, wheels: Path) -> None:
    path = function_pipeline(tmp_path)
    bundle(path, out=tmp_path / "b", wheels=wheels)
    bundle(path, out=tmp_path / "b", wheels=wheels)
    (tmp_path / "b" / "bundle.json").unlink()
    with pytest.raises(InputError, match="has other files in it"):
        bundle(path, out=tmp_path / "b", wheels=wheels)


def test_the_notebook_is_the_cell_and_a_valid_one(tmp_path: Path, wheels: Path) -> None:
    maps = ["test.parquet=/kaggle/input/comp/test.parquet"]
    bundle(function_pipeline(tmp_path), out=tmp_path / "b", wheels=wheels, maps=maps)
    notebook = json.loads((tmp_path / "b" / "notebook.ipynb").read_text())
    (cell,) = notebook["cells"]
    source = "".join(cell["source"])
    assert source == (tmp_path / "b" / "cell.py").read_text()
    compile(source, "cell", "exec")
    assert (
        'BUNDLE = "p"' in source and "# - what the pipeline reads at /kaggle/input/comp" in source
    )
    assert notebook["metadata"]["kaggle"]["isInternetEnabled"] is False


CELL = "import sys; from willfit.runner.bundle.payload import cell; cell.run('-c', sys.argv[1])"


def test_a_cell_shows_lines_as_they_come_and_ends_what_it_started_when_it_is_interrupted() -> None:
    waiting = "import os, time; print(os.getpid()); time.sleep(60)"
    notebook = subprocess.Popen(
        [sys.executable, "-c", CELL, waiting], stdout=subprocess.PIPE, text=True
    )
    assert notebook.stdout is not None
    process = int(notebook.stdout.readline())
    notebook.send_signal(signal.SIGINT)
    assert notebook.wait(timeout=20) != 0
    notebook.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


START = """
import pathlib, sys
if sys.argv[1:]:
    report = pathlib.Path(sys.argv[2]) / "run/report.json"
    report.parent.mkdir(exist_ok=True)
    {write}
    print("the reason")
    sys.exit({code})
"""
ENDS = [
    (1, "pass", "start.py failed (1), see above"),
    (5, "pass", "start.py failed (5), see above"),
    (1, 'report.write_text(\'{"output": "o.csv"}\')', "start.py failed (1), see above"),
    (5, 'report.write_text(\'{"output": "o.csv"}\')', None),
    (0, 'report.write_text(\'{"output": "o.csv"}\')', None),
]


@pytest.mark.parametrize(("code", "write", "error"), ENDS)
def test_a_cell_fails_where_the_run_fails_unless_a_file_was_written(
    code: int, write: str, error: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A stage that failed must not cost the submission that was made without it."""
    monkeypatch.setattr(cell, "bundle", lambda: tmp_path)
    monkeypatch.setattr(cell, "WORKING", tmp_path)
    (tmp_path / "install.py").write_text("")
    (tmp_path / "start.py").write_text(START.format(write=write, code=code))
    if error is None:
        cell.main()
    else:
        with pytest.raises(RuntimeError, match=re.escape(error)):
            cell.main()
    said = capsys.readouterr().out
    assert "the reason\n" in said
    assert ("o.csv was made from what there is" in said) is (code == 5 and error is None)


def test_a_cell_finds_its_bundle_in_either_layout_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell, "INPUT", tmp_path)
    monkeypatch.setattr(cell, "BUNDLE", "p")
    with pytest.raises(RuntimeError, match="the bundle p is not attached"):
        cell.bundle()
    for place, name in (("datasets/me/b/p-bundle", "p"), ("other", "q"), ("old", "p")):
        (tmp_path / place).mkdir(parents=True)
        facts = {"name": name, "made": "2026-11-26T20:12:23Z"}
        (tmp_path / place / "bundle.json").write_text(json.dumps(facts))
    assert cell.bundle() == tmp_path / "old"
    shutil.rmtree(tmp_path / "old")
    assert cell.bundle() == tmp_path / "datasets/me/b/p-bundle"


# Where things are attached.


def attached(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")
    return folder


LAYOUTS = [
    ("/kaggle/input/comp/test.csv", "comp/test.csv"),
    ("/kaggle/input/comp/test.csv", "competitions/comp/test.csv"),
    ("/kaggle/input/competitions/comp/test.csv", "comp/test.csv"),
    ("/kaggle/input/lora/a/config.json", "datasets/me/lora/a/config.json"),
    ("/kaggle/input/datasets/me/lora/a/config.json", "lora/a/config.json"),
    ("/kaggle/input/gemma/t/9b/2/config.json", "models/google/gemma/t/9b/2/config.json"),
    ("/kaggle/input/models/google/gemma/t/9b/2/config.json", "gemma/t/9b/2/config.json"),
    ("/kaggle/input/before/run", "notebooks/me/before/run"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "place"), LAYOUTS)
def test_inputs_are_found_in_either_layout(path: str, place: str, tmp_path: Path) -> None:
    inputs = attached(tmp_path, place, "datasets/me/other/test.csv", "other/config.json")
    assert start.located(path, inputs) == inputs / place


def test_what_is_not_attached_or_is_there_twice_starts_nothing(tmp_path: Path) -> None:
    inputs = attached(tmp_path, "datasets/me/comp/x.csv", "datasets/you/comp/x.csv", "o/test.csv")
    with pytest.raises(
        start.RefusedError, match=r"/kaggle/input/c/test\.csv, which is not attached"
    ):
        start.located("/kaggle/input/c/test.csv", inputs)
    with pytest.raises(
        start.RefusedError, match=r"there are .*/me/comp/x\.csv and .*/you/comp/x\.csv"
    ):
        start.located("/kaggle/input/comp/x.csv", inputs)


def test_the_latest_run_that_is_attached_is_gone_on_from(tmp_path: Path) -> None:
    assert start.earlier_run(tmp_path) is None
    for name, began in (("one", 2.0), ("two", 9.0), ("three", 1.0)):
        folder = tmp_path / "notebooks" / "me" / name / "run"
        (folder / "stages").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"began": began}))
    assert start.earlier_run(tmp_path) == tmp_path / "notebooks" / "me" / "two" / "run"
    command = start.command_of(tmp_path / "p.yaml", tmp_path, start.earlier_run(tmp_path))
    assert command[-2:] == ["--resume-from", str(tmp_path / "notebooks" / "me" / "two" / "run")]


# What the run's folder takes.


def test_the_disk_is_bounded_by_what_a_run_takes(tmp_path: Path) -> None:
    path = function_pipeline(tmp_path)
    run(path, run_dir=tmp_path / "run")
    taken = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*") if f.is_file())
    disk = disk_of(read_pipeline(path), None)
    assert disk.rows_known and disk.num_rows == 60 and taken < disk.num_bytes


def test_the_disk_grows_with_rows_and_length(tmp_path: Path) -> None:
    # 1,000 rows × 512 tokens × 4 B, twice the length is twice as much
    def took(rows: int, length: int) -> int:
        return disk_of(stages(max_length=length), rows).num_bytes

    assert took(1_000, 1024) - took(1_000, 512) == 1_000 * 512 * 4
    assert took(2_000, 512) - took(1_000, 512) == 1_000 * (512 * 4 + 2 * 64 + 3 * 4)
    unknown = disk_of(stages(max_length=512), None)
    assert not unknown.rows_known and unknown.num_bytes == took(unknown.num_rows, 512)


# Going on from another folder.


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished run of six shards of ten rows, in a folder of its own."""
    path = function_pipeline(tmp_path / "p", "\n")
    run(path, run_dir=tmp_path / "earlier")
    return tmp_path / "earlier"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("stages/mine/*/shards/*.parquet"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_run_goes_on_from_another_folder_which_it_leaves_alone(
    tmp_path: Path, earlier: Path
) -> None:
    cut, lost = shards(earlier)[1], shards(earlier)[4]
    cut.write_bytes(cut.read_bytes()[:-1] + b"?")
    lost.unlink()
    before = contents(earlier)
    report = run(tmp_path / "p" / "p.yaml", run_dir=tmp_path / "later", resume_from=earlier)
    assert report.stages[0].num_computed == 20 and report.complete
    assert contents(earlier) == before
    assert [p.name[:19] for p in shards(tmp_path / "later")] == [
        f"{i * 10:09d}-{i * 10 + 10:09d}" for i in range(6)
    ]


def test_results_of_other_code_are_not_taken_over(tmp_path: Path, earlier: Path) -> None:
    lengths = tmp_path / "p" / "stages" / "lengths.py"
    lengths.write_text(LENGTHS.replace("len(", "2 * len("))
    report = run(tmp_path / "p" / "p.yaml", run_dir=tmp_path / "later", resume_from=earlier)
    assert report.stages[0].num_computed == 60


def test_only_a_run_of_another_folder_can_be_gone_on_from(tmp_path: Path, earlier: Path) -> None:
    path = tmp_path / "p" / "p.yaml"
    with pytest.raises(InputError, match="is no run folder: expected the folder of an earlier run"):
        run(path, run_dir=tmp_path / "later", resume_from=tmp_path / "p")
    with pytest.raises(InputError, match="is the folder of this run"):
        run(path, run_dir=earlier, resume_from=earlier)
    with pytest.raises(InputError, match="keep one"):
        run(path, run_dir=tmp_path / "later", resume_from=earlier, fresh=True)
    assert not RunFolder(path=tmp_path / "later").stages("mine")


# The story.

STORY = Path(__file__).parents[1] / "docs" / "stories" / "kaggle-ensemble.md"
LORA = {
    "peft_type": "LORA", "task_type": "SEQ_CLS", "r": 16, "lora_alpha": 32,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "modules_to_save": ["score"],
}  # fmt: skip


def test_the_figures_of_the_story_are_current(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STORY.read_text()
    commands = re.findall(r"^willfit (estimate .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        file = tmp_path / re.search(r"--adapter (\S+)", command)[1]  # type: ignore[index]
        file.parent.mkdir()
        file.write_text(json.dumps(LORA))
        main(command.split())
        said = capsys.readouterr().out
        found = [
            re.search(pattern, said)[1]  # type: ignore[index]
            for pattern in (
                r"device +([\d.]+ GiB)", r"weights {3,}([\d.]+ GiB)", r"headroom ([\d.]+ GiB)",
                r"largest .* batch (\d+)",
            )
        ]  # fmt: skip
        assert f"| {' | '.join(found)} |" in text, found


def test_the_pipeline_of_the_story_is_one(tmp_path: Path, wheels: Path) -> None:
    (tmp_path / "lmsys.yaml").write_text(
        re.search(r"```yaml\n(.*?)```", STORY.read_text(), re.S)[1]
    )  # type: ignore[index]
    read = read_pipeline(tmp_path / "lmsys.yaml")
    assert list(read.stages) == ["gemma", "llama"] and read.file.missing == "available"
    wanted = {need.name for need in needs(read)}
    assert {"peft", "bitsandbytes"} <= wanted
