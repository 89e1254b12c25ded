"""Keys of results: any change that counts makes another key, nothing else does, and it is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

from willfit.errors import InputError
from willfit.runner.atomic import read_json, write_json
from willfit.runner.content import (
    PARTS,
    Content,
    DigestCache,
    Part,
    PartName,
    digest_bytes,
    digest_file,
    model_content,
    source_content,
)
from willfit.runner.content.cache import MOST
from willfit.runner.content.digests import NUM_SAMPLES, SAMPLE_BYTES, sample_starts
from willfit.runner.content.user_code import MAX_FILES
from willfit.runner.fingerprint import Ingredients, differences, fingerprint, version_remarks
from willfit.units import MIB

MODEL: dict[str, tuple[PartName, bytes]] = {
    "model-00001-of-00002.safetensors": ("weights", b"first half " * 400),
    "model-00002-of-00002.safetensors": ("weights", b"second half"),
    "model.safetensors.index.json": ("weights", b'{"weight_map": {}}'),
    "config.json": ("config", b'{"model_type": "gemma2"}'),
    "generation_config.json": ("config", b'{"do_sample": true}'),
    "tokenizer.json": ("tokenizer", b'{"version": "1.0"}'),
    "tokenizer.model": ("tokenizer", b"\x00\x01"),
    "tokenizer_config.json": ("tokenizer", b"{}"),
    "special_tokens_map.json": ("tokenizer", b"{}"),
    "chat_template.jinja": ("tokenizer", b"{{ messages }}"),
    "additional_chat_templates/tool.jinja": ("tokenizer", b"{{ tools }}"),
    "modeling_mine.py": ("code", b"import torch\n"),
}
ASIDE = (
    "README.md", ".gitattributes", "training_args.bin", "optimizer.pt", "rng_state_0.pth",
    "trainer_state.json", "eval_results.json", "onnx/model.onnx", "checkpoint-5/model.safetensors",
)  # fmt: skip

_opened: list[str] | None = None


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None:
        _opened.append(str(given[0]))


sys.addaudithook(_hear)


@contextmanager
def opened() -> Iterator[list[str]]:
    """Every path that this process opens meanwhile."""
    global _opened
    heard: list[str] = []
    _opened = heard
    try:
        yield heard
    finally:
        _opened = None


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def lay_model(folder: Path) -> Path:
    return lay(folder, {name: content for name, (_, content) in MODEL.items()})


def content(path: Path | str, **asked: Any) -> Content:
    asked.setdefault("cache", DigestCache(None))
    asked.setdefault("trust_remote_code", True)
    return model_content(str(path), asked.pop("revision", None), **asked)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_model(tmp_path_factory.mktemp("model"))


@given(data=st.data())
def test_any_bit_of_any_file_counts_and_for_its_part_alone(
    model: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(MODEL)))
    part, whole = MODEL[name]
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    before = content(model)
    try:
        (model / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        after = content(model)
    finally:
        (model / name).write_bytes(whole)
    assert after.digest != before.digest
    changed = {other for other in PARTS if before.part(other).digest != after.part(other).digest}
    assert changed == {part}
    files = before.part(part).files.items() ^ after.part(part).files.items()
    assert {file for file, _ in files} == {name}


@given(data=st.data())
def test_a_file_that_comes_goes_or_is_cut_counts(model: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(set(MODEL) - {"model-00002-of-00002.safetensors"})))
    if "00001-of" in name:
        name = "adapter_model.safetensors"
    _, whole = MODEL.get(name, ("weights", b"adapter"))
    before = content(model).digest
    try:
        lay(model, {name: whole[: data.draw(st.integers(0, len(whole) - 1))]})
        cut = content(model).digest
        (model / name).unlink()
        gone = content(model).digest
    finally:
        (model / name).unlink(missing_ok=True)
        lay_model(model)
    assert cut != before and cut != gone and content(model).digest == before
    assert (gone == before) == (name not in MODEL)


def test_where_it_lies_when_it_was_written_and_in_what_order_do_not_count(tmp_path: Path) -> None:
    first = lay_model(tmp_path / "a")
    second = lay(tmp_path / "elsewhere" / "b", {n: MODEL[n][1] for n in reversed(MODEL)})
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
    assert content(first).plain() == content(second).plain()
    assert content(first).digest == content(second).digest


def test_what_trainers_leave_beside_the_weights_does_not_count(model: Path, tmp_path: Path) -> None:
    same = lay(lay_model(tmp_path), dict.fromkeys(ASIDE, b"x"))
    assert content(same).digest == content(model).digest


def test_the_files_of_each_part_are_those_that_the_table_says(model: Path) -> None:
    found = content(model)
    for part in PARTS:
        assert set(found.part(part).files) == {n for n, (of, _) in MODEL.items() if of == part}
    assert found.how == "full" and found.path == model
    digest = digest_bytes(MODEL["config.json"][1])
    assert found.config.files["config.json"] == f"full:{digest}"
    assert digest == digest_file(model / "config.json") and len(digest) == 32


def test_a_part_has_one_digest_in_whatever_order_its_files_are_given() -> None:
    files = {"a": "full:1", "b": "full:2"}
    assert Part(files=files).digest == Part(files=dict(reversed(files.items()))).digest
    others: list[dict[str, str]] = [
        files, {"a": "full:1"}, {"a": "full:2", "b": "full:1"}, {"a": "full:1b=full:2"}, {},
    ]  # fmt: skip
    assert len({Part(files=other).digest for other in others}) == 5


def test_code_counts_only_where_it_may_run(model: Path) -> None:
    trusted, untrusted = content(model), content(model, trust_remote_code=False)
    assert not untrusted.code.files and "code" not in untrusted.plain()
    assert trusted.weights == untrusted.weights and trusted.digest != untrusted.digest


def test_code_of_another_repository_counts_too(tmp_path: Path, hub: Path) -> None:
    config = {"auto_map": {"AutoModel": "org/code--modeling.Mine", "AutoTokenizer": ["x.Y", None]}}
    lay(lay_model(tmp_path), {"config.json": json.dumps(config).encode()})
    with pytest.raises(InputError, match="org/code is not in the cache"):
        content(tmp_path)
    snapshot(hub, "org/code", {"modeling.py": b"1", "config.json": b"{}"})
    assert set(content(tmp_path).code.files) == {"modeling_mine.py", "org/code--modeling.py"}
    assert set(content(tmp_path, trust_remote_code=False).code.files) == set()


def test_a_part_may_be_asked_for_alone(tmp_path: Path) -> None:
    lay(tmp_path, {"tokenizer.json": b"{}", "config.json": b"{}"})
    found = content(tmp_path, parts=("tokenizer",))
    assert set(found.plain()) == {"tokenizer"}
    with pytest.raises(InputError, match="it holds no weights"):
        content(tmp_path)


def test_an_adapter_is_its_weights_and_config(tmp_path: Path) -> None:
    lay(tmp_path, {"adapter_model.safetensors": b"w", "adapter_config.json": b"{}"})
    assert set(content(tmp_path).plain()) == {"weights", "config"}


def test_folders_of_sentence_transformers_count(tmp_path: Path) -> None:
    rows = [
        {"path": ""},
        {"path": "1_Pooling"},
        {"path": "../up"},
        {"path": f"{tmp_path}/up"},
        {"path": 5},
        5,
    ]
    files = {"model.safetensors": b"w", "1_Pooling/config.json": b"{}", "2_Not/config.json": b"{}"}
    lay(tmp_path / "in", {**files, "modules.json": json.dumps(rows).encode()})
    lay(tmp_path / "up", {"config.json": b"{}"})
    assert set(content(tmp_path / "in").config.files) == {"modules.json", "1_Pooling/config.json"}


def test_one_file_is_its_set_and_what_lies_beside_it(tmp_path: Path) -> None:
    shards = [f"big-0000{number}-of-00002.gguf" for number in (1, 2)]
    lay(tmp_path, {**dict.fromkeys(shards, b"w"), "other.gguf": b"o", "tokenizer.json": b"{}"})
    for named in shards:
        found = content(tmp_path / named)
        assert set(found.weights.files) == set(shards)
        assert set(found.tokenizer.files) == {"tokenizer.json"}
    assert set(content(tmp_path / "other.gguf").weights.files) == {"other.gguf"}
    (tmp_path / shards[0]).unlink()
    with pytest.raises(InputError, match=r"big-00001-of-00002\.gguf is missing"):
        content(tmp_path / shards[1])


# Files of huggingface_hub's cache


def snapshot(
    hub: Path, repo: str, files: dict[str, bytes], *, commit: str = "c" * 40, ref: str = "main"
) -> Path:
    """A repository in the cache, laid out as huggingface_hub does."""
    home = hub / f"models--{repo.replace('/', '--')}"
    for name, whole in files.items():
        link = home / "snapshots" / commit / name
        blob = home / "blobs" / blob_name(name)
        lay(blob.parent, {blob.name: whole})
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    lay(home / "refs", {ref: commit.encode()})
    return home / "snapshots" / commit


def blob_name(name: str) -> str:
    digest = digest_bytes(name.encode()) * 2
    return digest if name.endswith((".safetensors", ".gguf")) else digest[:40]


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_blobs_of_the_hub_are_known_by_name_and_never_opened(hub: Path) -> None:
    folder = snapshot(hub, "org/gemma", {name: whole for name, (_, whole) in MODEL.items()})
    os.truncate((folder / "model-00001-of-00002.safetensors").resolve(), 2**40)  # 1 TiB
    with opened() as paths:
        found = content("org/gemma", trust_remote_code=False)
    assert not [path for path in paths if "blobs" in path or "snapshots" in path]
    assert found.how == "hub blobs" and found.path == folder
    for part in ("weights", "config", "tokenizer"):
        files = found.part(part).files
        assert files and all(files[name] == f"hub:{blob_name(name)}" for name in files)
    assert content(folder, trust_remote_code=False).plain() == found.plain()


def test_a_blob_that_is_itself_a_link_is_known_by_its_own_name(hub: Path, tmp_path: Path) -> None:
    folder = snapshot(hub, "org/gemma", {"config.json": b"{}", "model.safetensors": b"w"})
    blob = (folder / "model.safetensors").resolve()
    blob.rename(tmp_path / "shared")
    blob.symlink_to(tmp_path / "shared")
    assert content("org/gemma").weights.files["model.safetensors"] == f"hub:{blob.name}"


def test_a_link_to_anything_else_is_read(hub: Path, tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"store/weights": b"w", "blobs/name": b"{}", "model/generation_config.json": b"{}"},
    )
    (tmp_path / "model" / "model.safetensors").symlink_to("../store/weights")
    (tmp_path / "model" / "config.json").symlink_to("../blobs/name")
    found = content(tmp_path / "model")
    assert found.how == "full"
    assert found.weights.files["model.safetensors"] == f"full:{digest_bytes(b'w')}"
    assert found.config.files["config.json"] == f"full:{digest_bytes(b'{}')}"


def test_a_revision_is_its_own_snapshot(hub: Path) -> None:
    old = {"config.json": b"{}", "model.safetensors": b"w"}
    snapshot(hub, "org/gemma", old)
    snapshot(hub, "org/gemma", {**old, "tokenizer.json": b"{}"}, commit="d" * 40, ref="v2")
    assert not content("org/gemma").tokenizer.files
    assert content("org/gemma", revision="v2").tokenizer.files
    assert content("org/gemma", revision="d" * 40) == content("org/gemma", revision="v2")
    with pytest.raises(
        InputError,
        match=r"at revision v3: download it first \(hf download org/gemma --revision v3\)",
    ):
        content("org/gemma", revision="v3")


def test_one_gguf_of_a_repository_is_named_by_its_file(hub: Path) -> None:
    snapshot(hub, "org/gguf", {"q4.gguf": b"a", "q8.gguf": b"b"})
    found = content("org/gguf/q4.gguf")
    assert found.plain() == {"weights": {"q4.gguf": f"hub:{blob_name('q4.gguf')}"}}
    with pytest.raises(InputError, match=r"hf download org/gguf q5\.gguf"):
        content("org/gguf/q5.gguf")


# What cannot be used

SHARDS = {f"model-0000{n}-of-00003.safetensors": b"w" for n in (1, 2, 3)}
INDEX = {"model.safetensors.index.json": b"{}"}
PICKLED = {f"pytorch_model-0000{n}-of-00003.bin": b"w" for n in (1, 3)}
TWO = {name: SHARDS[name] for name in list(SHARDS)[:2]}
INCOMPLETE = [
    ({}, "it holds no weights"), (INDEX, "no file that it lists"),
    (TWO, "model-00003-of-00003.safetensors is missing"),
    ({**TWO, **INDEX}, "model-00003-of-00003.safetensors is missing"),
    ({**TWO, **INDEX, "consolidated.safetensors": b"w"}, "model-00003-of-00003.safetensors is missing"),
    (PICKLED, "pytorch_model-00002-of-00003.bin is missing"),
    ({"training_args.bin": b"x"}, "it holds no weights"),
    ({**SHARDS, **INDEX}, ""), (SHARDS, ""), ({**SHARDS, **PICKLED}, ""), ({"model.safetensors": b"w"}, ""),
    ({"model.safetensors": b"w", **TWO}, ""), ({"pytorch_model.bin": b"w"}, ""), ({**INDEX, "odd.safetensors": b"w"}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("files", "why"), INCOMPLETE)
def test_a_half_downloaded_model_has_no_key(
    hub: Path, tmp_path: Path, files: dict[str, bytes], why: str
) -> None:
    """It would get another one when the rest has come."""
    whole = {"config.json": b"{}", **files}
    lay(tmp_path / "model", whole)
    snapshot(hub, "org/gemma", whole)
    for source in (str(tmp_path / "model"), "org/gemma"):
        if why:
            with pytest.raises(InputError, match="download it completely") as error:
                content(source)
            assert why in str(error.value) and source in str(error.value)
        else:
            assert content(source).weights.files


REFUSED = [
    ("org/none", "not in the cache of huggingface_hub: download it first"),
    ("./none", "there is no file or folder"), ("/none/model", "there is no file or folder"),
    ("https://host/x", "there is no file or folder"), ("a/b/c", "it is no Hub id"), ("../a/b.gguf", "there is no file"),
    ("x/../y.gguf", "it is no Hub id"), ("", "names no model"), ("a\nb", "names no model"), ("a\0b", "names no model"),
    ("{0}/config.json", "holds no weights"), ("{0}/loop", "symbolic links"),
    ("{0}/looped", "symbolic links"), ("{0}/dangling", "which is not there"), ("{0}/pipe", "no regular file"), ("{0}/piped", "no regular file"),
    ("{0}/listed", "not valid JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "why"), REFUSED)
def test_what_cannot_be_read_is_one_sentence(
    hub: Path, tmp_path: Path, source: str, why: str
) -> None:
    lay(
        tmp_path,
        {
            f"{name}/model.safetensors": b"w"
            for name in ("looped", "dangling", "pipe", "piped", "listed")
        },
    )
    lay(tmp_path, {"config.json": b"{}", "listed/modules.json": b"["})
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "looped" / "config.json").symlink_to("generation_config.json")
    (tmp_path / "looped" / "generation_config.json").symlink_to("config.json")
    (tmp_path / "dangling" / "config.json").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe" / "config.json")
    os.mkfifo(tmp_path / "piped" / "modules.json")
    with pytest.raises(InputError, match=why) as error:
        content(source.format(tmp_path))
    assert "\n" not in str(error.value) and not str(error.value).endswith(".")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    lay_model(tmp_path)
    (tmp_path / "config.json").chmod(0)
    with pytest.raises(InputError, match="no permission to read"):
        content(tmp_path)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, {"model.safetensors": b"w", "config.json": b"{}"})
    with pytest.raises(InputError, match=r"model\.safetensors changed while it was read"):
        content(tmp_path, progress=lambda *_: lay(tmp_path, {"model.safetensors": b"ww"}))


# Reading once


def test_the_second_time_nothing_is_opened(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "digests.json"
    first = content(model, cache=DigestCache(path, settled_seconds=0))
    with opened() as paths:
        second = content(model, cache=DigestCache(path), trust_remote_code=False)
    assert not [path for path in paths if str(model) in path and not path.endswith("templates")
                and path != str(model)]  # fmt: skip
    assert second.weights == first.weights and second.how == "full"


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_file_that_changed_at_equal_size_is_read_again(tmp_path: Path, keep_times: bool) -> None:
    lay(tmp_path, {"model.safetensors": b"old", "config.json": b"{}"})
    cache, path = DigestCache(None, settled_seconds=0), tmp_path / "model.safetensors"
    before, facts = content(tmp_path, cache=cache), path.stat()
    path.write_bytes(b"new")
    if keep_times:  # as `cp --preserve` does
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = content(tmp_path, cache=cache)
    assert after.weights.files["model.safetensors"] == f"full:{digest_bytes(b'new')}"
    assert before.config == after.config


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    """It could change again within the same tick of the file system's clock."""
    lay(tmp_path / "model", {"model.safetensors": b"w", "config.json": b"{}"})
    content(tmp_path / "model", cache=DigestCache(tmp_path / "digests.json"))
    assert not (tmp_path / "digests.json").exists()


def test_what_was_read_before_an_error_is_remembered(tmp_path: Path) -> None:
    lay(tmp_path / "model", {"model.safetensors": b"w", "config.json": b"{}"})
    path = tmp_path / "digests.json"

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        content(tmp_path / "model", cache=DigestCache(path, settled_seconds=0), progress=stop)
    kept = read_json(path)
    assert kept is not None and len(kept["files"]) == 1


BROKEN_CACHES = (
    b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "files": []}', b'{"format": 2, "files": {}}',
    b'{"format": 1, "files": {"full:MODEL": [1, 2], "x": 3, "y": [1, 2, 3, true, "x"], "z": {}}}',
)  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN_CACHES)
def test_a_broken_cache_is_started_anew(model: Path, tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "digests.json"
    path.write_bytes(broken.replace(b"MODEL", os.fsencode(model / "config.json")))
    assert content(model, cache=DigestCache(path, settled_seconds=0)) == content(model)
    kept = read_json(path)
    assert kept is not None and len(kept["files"]) == len(MODEL)


def test_a_cache_that_cannot_be_written_is_done_without(model: Path, tmp_path: Path) -> None:
    lay(tmp_path, {"file": b""})
    cache = DigestCache(tmp_path / "file" / "digests.json", settled_seconds=0)
    assert content(model, cache=cache) == content(model)


def test_the_cache_keeps_what_was_asked_for_last(tmp_path: Path) -> None:
    cache, facts = DigestCache(tmp_path / "digests.json", settled_seconds=0), tmp_path.stat()
    for number in range(MOST + 10):
        cache.put(tmp_path / str(number), facts, "full", "d", looked_at=2e9)
        cache.get(tmp_path / "0", facts, "full")
    cache.save()
    kept = read_json(tmp_path / "digests.json")
    assert kept is not None and len(kept["files"]) == MOST
    again = DigestCache(tmp_path / "digests.json")
    assert again.get(tmp_path / "0", facts, "full") == "d"
    assert again.get(tmp_path / "1", facts, "full") is None
    assert again.get(tmp_path / "0", facts, "quick") is None


def test_progress_counts_every_byte_that_is_read_and_no_other(model: Path) -> None:
    seen: list[tuple[int, int]] = []
    cache = DigestCache(None, settled_seconds=0)
    content(model, cache=cache, progress=lambda done, total: seen.append((done, total)))
    total = sum(len(whole) for _, whole in MODEL.values())
    assert seen[-1] == (total, total) and seen == sorted(seen)
    seen.clear()
    content(model, cache=cache, progress=lambda done, total: seen.append((done, total)))
    assert not seen


# Quick looks


def large(folder: Path, num_bytes: int, **at: bytes) -> Path:
    """A model whose weights are zeros but for what stands at some places."""
    lay(folder, {"config.json": b"{}"})
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(num_bytes)
        for place, written in at.items():
            file.seek(int(place[1:]))
            file.write(written)
    return folder


def test_a_quick_look_sees_the_size_and_the_samples_and_says_that_it_was_quick(
    tmp_path: Path,
) -> None:
    size = 80 * MIB
    last = sample_starts(size)[-2]
    between = f"_{last + SAMPLE_BYTES}"
    models = {
        "size": large(tmp_path / "1", size + 1),
        "first": large(tmp_path / "2", size, _0=b"x"),
        "last": large(tmp_path / "3", size, **{f"_{size - 1}": b"x"}),
        "sample": large(tmp_path / "4", size, **{f"_{last}": b"x"}),
    }
    plain = content(large(tmp_path / "0", size), quick=True)
    looks = {name: content(folder, quick=True) for name, folder in models.items()}
    assert len({plain.digest, *(look.digest for look in looks.values())}) == 5
    assert {plain.how, *(look.how for look in looks.values())} == {"quick"}
    assert plain.weights.files["model.safetensors"].startswith("quick:")
    assert plain.config.files["config.json"].startswith("full:")
    unseen = large(tmp_path / "5", size, **{between: b"x"})
    assert content(unseen, quick=True).digest == plain.digest
    assert content(unseen).digest != content(tmp_path / "0").digest  # all bytes see it


def test_small_files_are_always_read_whole(model: Path) -> None:
    assert content(model, quick=True) == content(model)


def test_large_files_are_looked_at_quickly_where_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(tmp_path, 65 * MIB)
    assert content(tmp_path).how == "full"
    seen: list[int] = []
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    assert content(tmp_path, progress=lambda *now: seen.append(now[1])).how == "quick"
    assert seen[0] == NUM_SAMPLES * SAMPLE_BYTES + len(b"{}")


@given(size=st.integers(0, 2**45))
def test_samples_reach_from_end_to_end(size: int) -> None:
    starts = sample_starts(size)
    assert starts[0] == 0 and len(starts) <= NUM_SAMPLES and list(starts) == sorted(set(starts))
    assert starts[-1] + SAMPLE_BYTES >= size and starts[-1] <= size


# The user's code

STAGE = {
    "my_stage.py": b"import json, tools\nfrom parts import heads\ndef predict(rows):\n    from late import x\n",
    "tools.py": b"import numpy\nimport my_stage\n",
    "late.py": b"x = 1\n",
    "parts/__init__.py": b"",
    "parts/heads.py": b"from . import base\nfrom .deep.layers import Layer\nfrom .. import outside\n",
    "parts/base.py": b"",
    "parts/deep/layers.py": b"class Layer: ...\n",
    "outside.py": b"",
}
BESIDE = {"unused.py": b"", "parts/unused.py": b"", "json/readme.txt": b"", "data.csv": b""}


def test_code_is_the_module_and_all_that_it_imports_from_beside_it(tmp_path: Path) -> None:
    lay(tmp_path, {**STAGE, **BESIDE})
    found = source_content("my_stage.py:predict", base=tmp_path)
    assert set(found.files) == set(STAGE) and next(iter(found.files)) == "my_stage.py"
    assert (found.path, found.function) == (tmp_path / "my_stage.py", "predict")
    assert found == source_content(f"{tmp_path}/my_stage.py:predict")
    for name, whole in STAGE.items():
        lay(tmp_path, {name: whole + b"#"})
        changed = source_content("my_stage.py:predict", base=tmp_path)
        assert {n for n in STAGE if changed.files[n] != found.files[n]} == {name}
        assert changed.digest != found.digest
        lay(tmp_path, {name: whole})


def test_code_has_the_same_digest_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "a", STAGE)
    lay(tmp_path / "b" / "c", {**STAGE, **BESIDE})
    first = source_content("a/my_stage.py:predict", base=tmp_path)
    monkeypatch.chdir(tmp_path / "b")
    second = source_content("c/my_stage.py:predict")
    assert first.plain() == second.plain() and first.digest == second.digest


def test_imports_from_the_base_folder_are_followed_too(tmp_path: Path) -> None:
    lay(tmp_path, {"stages/mine.py": b"import shared\ndef f(): ...\n", "shared.py": b""})
    assert set(source_content("stages/mine.py:f", base=tmp_path).files) == {
        "mine.py",
        "../shared.py",
    }
    assert set(source_content(f"{tmp_path}/stages/mine.py:f").files) == {"mine.py"}


NAMES = [
    "def f(): ...", "async def f(): ...", "class f: ...", "f = 1", "f: int = 1", "import f", "import f.g",
    "import x as f", "from x import f", "from x import y as f", "from x import *", "a, (f, *b) = c",
    "if x:\n    def f(): ...", "try:\n    f = 1\nexcept E:\n    pass", "with x as f:\n    pass",
]  # fmt: skip
NOT_NAMES = [
    "", "def g():\n    f = 1", "g.f = 1", "print(f)", "import x.f", "from f import x", "class g:\n    f = 1",
    "g = lambda: (f := 1)", "def g(f): ...",
]  # fmt: skip


@pytest.mark.parametrize("code", NAMES)
def test_a_name_may_be_bound_in_every_way(tmp_path: Path, code: str) -> None:
    lay(tmp_path, {"m.py": code.encode()})
    assert source_content("m.py:f", base=tmp_path).function == "f"


@pytest.mark.parametrize("code", NOT_NAMES)
def test_a_name_that_is_not_at_the_top_level_is_refused(tmp_path: Path, code: str) -> None:
    lay(tmp_path, {"m.py": code.encode()})
    with pytest.raises(InputError, match=r"has no 'f' at its top level"):
        source_content("m.py:f", base=tmp_path)


def test_nothing_is_run(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {"m.py": b"from pathlib import Path\nPath(__file__ + '.ran').touch()\ndef f(): ...\n"},
    )
    source_content("m.py:f", base=tmp_path)
    assert not (tmp_path / "m.py.ran").exists()


NO_CODE = [
    ("m.py", "such as my_stage.py:predict"), ("m:f", "such as"), ("m.py:", "such as"), ("m.py:a.b", "such as"),
    ("", "such as"), ("none.py:f", "there is no file"), ("folder.py:f", "there is no file"),
    ("m.py:g", r"has no 'g' at its top level: expected one of what it has \(f\)"),
    ("bad.py:f", "is not valid Python at line 2"), ("null.py:f", "is not valid Python"),
    ("uses_bad.py:f", r"bad\.py is not valid Python at line 2"), ("deep.py:f", "is not valid Python"),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "why"), NO_CODE)
def test_code_that_is_not_there_is_one_sentence(tmp_path: Path, reference: str, why: str) -> None:
    lay(tmp_path, {"m.py": b"def f(): ...", "bad.py": b"\ndef f(:", "null.py": b"f = 1\0", "folder.py/x": b"",
                   "uses_bad.py": b"import bad\nf = 1", "deep.py": b"f = " + b"(" * 9999})  # fmt: skip
    with pytest.raises(InputError, match=why) as error:
        source_content(reference, base=tmp_path)
    assert "\n" not in str(error.value)


def test_a_library_of_hundreds_of_files_is_no_stage(tmp_path: Path) -> None:
    for number in range(MAX_FILES):
        lay(tmp_path, {f"m{number}.py": f"import m{number + 1}\nf = 1\n".encode()})
    assert len(source_content("m0.py:f", base=tmp_path).files) == MAX_FILES
    lay(tmp_path, {f"m{MAX_FILES}.py": b""})
    with pytest.raises(InputError, match="imports more than 200 files beside it"):
        source_content("m0.py:f", base=tmp_path)


def test_links_that_lead_round_in_a_circle_end(tmp_path: Path) -> None:
    lay(tmp_path, {"m.py": b"import p\nf = 1", "p/__init__.py": b"from . import p"})
    (tmp_path / "p" / "p").symlink_to(".")
    assert set(source_content("m.py:f", base=tmp_path).files) == {"m.py", "p/__init__.py"}


# The key

A, B, C = (digest_bytes(letter) for letter in (b"a", b"b", b"c"))
INGREDIENTS: dict[str, Any] = {
    "data": A,
    "model": {"weights": {"a.safetensors": f"full:{A}"}, "config": {"config.json": f"full:{A}"}},
    "template": "{prompt}\n{answer}",
    "max_length": 1024,
    "dtype": "float16",
    "labels": 3,
}


def test_keys_of_earlier_runs_stay_what_they_were() -> None:
    """If this fails, every kept result is computed again: raise FORMAT only for that."""
    assert fingerprint(INGREDIENTS) == "30b53099dde82ce9666d57dc637e7fc6"


def test_the_order_of_names_is_kept_and_does_not_count() -> None:
    turned = Ingredients(dict(reversed(INGREDIENTS.items())))
    assert list(turned) == list(reversed(INGREDIENTS)) == list(turned.plain())
    assert fingerprint(turned) == fingerprint(INGREDIENTS) and turned == INGREDIENTS


def test_ingredients_come_back_from_their_file_with_the_same_key(tmp_path: Path) -> None:
    first = Ingredients(
        {**INGREDIENTS, "temperature": 0.1, "columns": (1, 0, 2), "note": "\ud800→"}
    )
    write_json(tmp_path / "stage.json", {"ingredients": first.plain()})
    kept = read_json(tmp_path / "stage.json")
    assert kept is not None and differences(kept["ingredients"], first) == ()
    assert fingerprint(kept["ingredients"]) == fingerprint(first)


def test_ingredients_do_not_change_with_what_they_were_made_of() -> None:
    given = {"columns": [1, 0]}
    made = Ingredients(given)
    given["columns"].append(2)
    made.plain()["columns"].append(2)
    assert made["columns"] == [1, 0]


SAME = [
    ({"a": 1}, {"a": 1.0}), ({"a": 0.0}, {"a": -0.0}), ({"a": None}, {}), ({"a": {"b": None}}, {"a": {}}),
    ({"a": (1, 2)}, {"a": [1, 2]}), ({"a": 0.1}, {"a": 0.1000000000000000055}),
]  # fmt: skip
OTHER = [
    ({"a": 1}, {"a": True}), ({"a": 1}, {"a": "1"}), ({"a": 0.1}, {"a": 0.1 + 2**-56}), ({"a": [1, 2]}, {"a": [2, 1]}),
    ({"a": [None]}, {"a": []}), ({"a": {}}, {}), ({"a": ""}, {}), ({"a": 0}, {"a": False}), ({"a": "b"}, {"b": "a"}),
    ({"a": "é"}, {"a": "e\u0301"}), ({"a": 2**53}, {"a": 2**53 + 1}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "two"), SAME)
def test_two_spellings_of_one_value_have_one_key(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert fingerprint(one) == fingerprint(two) and differences(one, two) == ()


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_two_values_have_two_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert fingerprint(one) != fingerprint(two) and differences(one, two) != ()


VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 1.0, 2.5, "", "a", "b c", A, f"full:{A}", f"hub:{B}", "x" * 50]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
NAMED = st.dictionaries(st.sampled_from(["data", "model", "weights", "template", "files"]), VALUES)


@given(old=NAMED, new=NAMED)
def test_a_difference_is_told_exactly_where_keys_differ(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    told = differences(old, new)
    assert (told == ()) == (fingerprint(old) == fingerprint(new))
    assert all(text and "\n" not in text and len(text) < 200 for text in told)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}]])
def test_what_is_no_number_has_no_key(value: Any) -> None:
    with pytest.raises(InputError, match=r"^ingredients: temperature.* expected a finite number"):
        Ingredients({"temperature": value})
    with pytest.raises(InputError, match="finite"):
        fingerprint({"temperature": value})


@pytest.mark.parametrize("value", [{1, 2}, Path("a"), b"a", {1: "a"}, object()])
def test_what_json_does_not_have_is_a_mistake_of_ours(value: Any) -> None:
    with pytest.raises(TypeError, match="ingredients: a: expected"):
        Ingredients({"a": value})


# What changed, in words

WEIGHTS = {f"model-0000{n}-of-00004.safetensors": f"full:{A}" for n in (1, 2, 3, 4)}
ALL_OTHER = dict.fromkeys(WEIGHTS, f"full:{B}")
LONG = "Compare the two answers to the question and say which of them is better.\n\n{prompt}\n\n{a}"


def model_of(**parts: dict[str, str]) -> dict[str, Any]:
    return {"model": {"weights": WEIGHTS, "tokenizer": {"tokenizer.json": f"full:{A}"}, **parts}}


TOLD: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"max_length": 1024}, {"max_length": 2048}, ("max_length 1024 → 2048",)),
    ({"dtype": "float16"}, {"dtype": "bfloat16"}, ("dtype float16 → bfloat16",)),
    ({"quantize": None}, {"quantize": "int8"}, ("quantize none → int8",)),
    ({"quantize": "int8"}, {}, ("quantize int8 → none",)),
    ({"trust": False}, {"trust": True}, ("trust false → true",)),
    ({"temperature": 0.5}, {"temperature": 1.0}, ("temperature 0.5 → 1",)),
    ({"columns": [0, 1, 2]}, {"columns": [1, 0, 2]}, ("columns [0, 1, 2] → [1, 0, 2]",)),
    ({"columns": list(range(50))}, {"columns": list(range(51))}, ("columns changed: 50 → 51 entries",)),
    ({"columns": ["x" * 50]}, {"columns": ["y" * 50]}, ("columns changed",)),
    ({"columns": [1, 0]}, {"columns": "swapped"}, ("columns [1, 0] → swapped",)),
    ({"generation": {"top_p": 1, "seed": 1}}, {"generation": {"seed": 2}}, ("generation.seed 1 → 2", "generation.top_p 1 → none")),
    ({"generation": {"seed": 1}}, {"generation": 5}, ("generation changed",)),
    ({"data": A}, {"data": B}, ("the data changed",)),
    ({"data": {"digest": A, "rows": 25000}}, {"data": {"digest": B, "rows": 25100}}, ("the data changed: 25,000 → 25,100 rows",)),
    ({"data": {"digest": A, "rows": 25000}}, {"data": {"digest": B, "rows": 25000}}, ("the data changed",)),
    ({}, {"adapter": {"weights": {"adapter_model.bin": f"full:{A}"}}}, ("adapter added",)),
    ({"adapter": {"weights": {"adapter_model.bin": f"full:{A}"}}}, {}, ("adapter removed",)),
    ({"adapter": {"weights": {"a.bin": f"full:{A}"}}}, {"adapter": {"weights": {"a.bin": f"full:{B}"}}},
     ("weights of the adapter changed: a.bin",)),
    (model_of(), model_of(weights={**WEIGHTS, "model-00001-of-00004.safetensors": f"full:{B}"}),
     ("weights of gemma changed: model-00001-of-00004.safetensors",)),
    (model_of(), model_of(weights=ALL_OTHER, tokenizer={"tokenizer.json": f"full:{B}"}),
     ("weights of gemma changed: model-00001-of-00004.safetensors, model-00002-of-00004.safetensors, "
      "model-00003-of-00004.safetensors and 1 more", "tokenizer of gemma changed: tokenizer.json")),
    (model_of(), model_of(tokenizer={"vocab.json": f"full:{A}"}),
     ("tokenizer of gemma changed: vocab.json (new) and tokenizer.json (gone)",)),
    (model_of(), model_of(tokenizer={"tokenizer.json": f"full:{A}", "vocab.json": f"full:{A}"}),
     ("tokenizer of gemma changed: vocab.json (new)",)),
    (model_of(), model_of(code={"modeling.py": f"full:{A}"}), ("code of gemma added",)),
    (model_of(code={"modeling.py": f"full:{B}"}), model_of(code={"modeling.py": f"full:{A}"}), ("modeling.py changed",)),
    (model_of(), model_of(tokenizer={"tokenizer.json": f"quick:{B}"}),
     ("tokenizer of gemma known by samples instead of all bytes",)),
    (model_of(), model_of(weights=dict.fromkeys(WEIGHTS, f"hub:{B}{B}")),
     ("weights of gemma known by the Hub's digests instead of all bytes",)),
    (model_of(), model_of(tokenizer={"tokenizer.json": f"quick:{B}", "vocab.json": f"quick:{B}"}),
     ("tokenizer of gemma changed: tokenizer.json and vocab.json (new)",)),
    ({"weights": WEIGHTS, "code": {"my_stage.py": A}}, {"weights": {**WEIGHTS, "a.bin": f"full:{A}"}, "code": {"my_stage.py": B}},
     ("weights of gemma changed: a.bin (new)", "my_stage.py changed")),
    ({"adapter": {"adapter_model.bin": f"full:{A}"}}, {"adapter": {"adapter_model.bin": f"full:{B}"}},
     ("adapter changed: adapter_model.bin",)),
    ({"tokenizer": {"tokenizer": {"t.json": f"full:{A}"}}}, {"tokenizer": {"tokenizer": {"t.json": f"full:{B}"}}},
     ("tokenizer changed: t.json",)),
    ({"run": {"function": "f", "files": {"my_stage.py": A}}}, {"run": {"function": "f", "files": {"my_stage.py": B}}},
     ("my_stage.py changed",)),
    ({"run": {"function": "f", "files": {"my_stage.py": A, "x.py": A, "y.py": A, "z.py": A}}},
     {"run": {"function": "g", "files": {"my_stage.py": B, "x.py": B, "y.py": B, "w.py": A}}},
     ("run.function f → g", "my_stage.py, x.py, y.py and 2 more changed")),
    ({"template": "{a} {b}"}, {"template": "{b} {a}"}, ('template changed: "{a} {b}" → "{b} {a}"',)),
    ({"template": "a\nb"}, {"template": "a\n\nb"}, ('template changed: "a\\nb" → "a\\n\\nb"',)),
    ({"template": LONG}, {"template": LONG.replace("better", "worse")},
     ('template changed from character 66 on: …"f them is better.\\n\\n{prompt}\\n\\n{"… → '
      '…"f them is worse.\\n\\n{prompt}\\n\\n{a"… (87 → 86 characters)',)),
    ({"template": LONG}, {"template": LONG + "{b}"},
     ('template changed from character 88 on: …"ompt}\\n\\n{a}" → …"ompt}\\n\\n{a}{b}" (87 → 90 characters)',)),
    ({"template": "a b"}, {}, ("template removed",)), ({}, {"template": LONG}, ("template added",)),
    ({"new": 1, "old": 1, "gone": 1}, {"old": 2, "new": 2}, ("old 1 → 2", "new 1 → 2", "gone 1 → none")),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), TOLD)
def test_what_changed_is_told_in_words(
    old: dict[str, Any], new: dict[str, Any], told: tuple[str, ...]
) -> None:
    assert differences(old, new, of="gemma") == told


def test_without_a_name_the_weights_are_just_the_weights() -> None:
    assert differences(model_of(), model_of(weights=ALL_OTHER))[0].startswith("weights changed: ")


def test_real_changes_of_a_model_and_a_stage_are_told(tmp_path: Path) -> None:
    lay(lay_model(tmp_path), STAGE)

    def now() -> dict[str, Any]:
        return {"model": content(tmp_path, trust_remote_code=False).plain(),
                "run": source_content("my_stage.py:predict", base=tmp_path).plain()}  # fmt: skip

    before = now()
    lay(
        tmp_path,
        {"model-00002-of-00002.safetensors": b"x", "config.json": b"{} ", "late.py": b"x = 2"},
    )
    assert differences(before, now()) == (
        "weights changed: model-00002-of-00002.safetensors", "config changed: config.json",
        "late.py changed",
    )  # fmt: skip


def test_other_versions_of_libraries_are_remarked_on_and_change_no_key() -> None:
    old = {"torch": "2.6.0", "transformers": "4.46.0", "peft": "0.13.0"}
    assert version_remarks(old, old) == ()
    assert version_remarks(old, {"torch": "2.6.0", "transformers": "4.57.1", "vllm": "0.9"}) == (
        "peft 0.13.0 → none since results that are kept were computed: --fresh computes them again",
        "transformers 4.46.0 → 4.57.1 since results that are kept were computed: --fresh computes them again",
        "vllm none → 0.9 since results that are kept were computed: --fresh computes them again",
    )


def test_nothing_heavy_is_imported_to_make_a_key(model: Path) -> None:
    code = (
        "import sys; from willfit.runner import fingerprint; from willfit.runner.content import *\n"
        f"model_content({str(model)!r}, None, cache=DigestCache(None))\n"
        "print([m for m in ('torch', 'transformers', 'pyarrow', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
