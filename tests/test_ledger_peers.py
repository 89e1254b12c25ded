"""Other tools beside willfit: each figure is what the tool itself says, and is compared fairly."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from benchmarks.ledger import judging
from benchmarks.ledger.peers import (
    ALL,
    Comparison,
    NotPredicted,
    Peer,
    PeerFigure,
    accelerate_docs,
    accelerate_estimate,
    beside,
    compare,
    eleutherai,
    figures,
    hf_mem,
    peers,
    record,
    recorded,
    sampled,
)
from benchmarks.ledger.peers import __main__ as command
from benchmarks.ledger.peers import _answers as answers
from benchmarks.ledger.peers import mem_tracker as tracker
from benchmarks.ledger.peers._asked import asked
from benchmarks.ledger.peers._peer import AboutPeer
from benchmarks.ledger.reading import Reading
from benchmarks.ledger.row import Expressed, Outcome

from willfit.devices import parse_machine
from willfit.dtypes import BFLOAT16, FLOAT32
from willfit.scenario import (
    Inference,
    Loading,
    Lora,
    Machine,
    Quantization,
    Scenario,
    Training,
    Workload,
)
from willfit.sources.checkpoint import spec_of
from willfit.sources.resolve import resolve
from willfit.sources.structure import Checkpoint

GIB = 2**30
LLAMA = "meta-llama/Llama-3.1-8B"
LLAMA_PARAMS = 8_030_261_248
GPT2_PARAMS = 124_439_808
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "float32",
}  # fmt: skip


def inference(model: str = LLAMA, *, new: int = 1, length: int = 8192) -> Scenario:
    asks = Inference(context_len=length, max_new_tokens=new)
    return Scenario(
        model=resolve(model),
        workload=Workload(loading=Loading(dtype=BFLOAT16), inference=asks),
    )


def tiny(training: Training | None, **inference: int) -> Scenario:
    asks = Inference(**inference) if inference else None
    return Scenario(
        model=spec_of(Checkpoint(id="tiny", source="local", config=TINY)),
        workload=Workload(loading=Loading(dtype=FLOAT32), training=training, inference=asks),
    )


FULL = Training(
    method="full", trainer="loop", optimizer="adamw_torch", micro_batch_size=2, max_length=32,
    gradient_checkpointing=False, max_grad_norm=None,
)  # fmt: skip


def bytes_of(answer: int | NotPredicted) -> int:
    if isinstance(answer, NotPredicted):
        if "cannot be" in answer.reason:
            pytest.skip(answer.reason)
        pytest.fail(answer.reason)
    return answer


# --- the tools


def test_every_tool_says_what_it_is() -> None:
    names = [peer.name for peer in peers()]
    assert names == [
        "accelerate_docs", "accelerate_estimate", "eleutherai", "hf_mem", "mem_tracker",
    ]  # fmt: skip
    for peer in peers():
        assert all((peer.about.title, peer.about.version, peer.about.licence, peer.about.called))
        assert peer.about.source.startswith("https://")
        told = {c for c in ("allocated", "reserved", "device") if peer.predicts(c)}
        assert told == set(peer.about.counters)


def test_accelerate_says_what_its_command_prints(tmp_path: Path) -> None:
    """GPT-2 without its tied head: 497.8 MB in float32, of which Adam takes four."""
    config = dict(resolve("openai-community/gpt2").config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    module = accelerate_estimate._command()
    question = Namespace(
        model_name=str(tmp_path), library_name="transformers", trust_remote_code=False,
        dtypes=["float32", "float16", "int8", "int4"],
    )  # fmt: skip
    printed = io.StringIO()
    known = SimpleNamespace(library_name="transformers", config=config)
    with (
        mock.patch.object(module, "verify_on_hub", return_value=known),
        redirect_stdout(printed),
    ):
        module.estimate_command(question)
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in printed.getvalue().split("\n")
    ]
    by_dtype = {line[0]: line[2:] for line in lines if len(line) == 4}

    def asked_for(loading: Loading, training: Training | None = None) -> int:
        model = resolve("openai-community/gpt2")
        work = Workload(loading=loading, training=training)
        return bytes_of(accelerate_estimate.predict(Scenario(model=model, workload=work)))

    plain = asked_for(Loading(dtype=FLOAT32))
    assert plain == 4 * GPT2_PARAMS
    assert by_dtype["float32"][0] == f"{round(plain / 2**20, 2)} MB"
    adam = asked_for(Loading(dtype=FLOAT32), FULL)
    assert adam == 4 * plain
    assert by_dtype["float32"][1] == f"{round(adam / GIB, 2)} GB"
    half = asked_for(Loading(dtype=BFLOAT16))
    assert half == 2 * GPT2_PARAMS
    assert by_dtype["float16"][0] == f"{round(half / 2**20, 2)} MB"
    assert asked_for(Loading(dtype=BFLOAT16), FULL) == 2 * plain
    four = asked_for(Loading(quantization=Quantization(scheme="nf4")))
    assert four == plain // 8
    assert by_dtype["int4"] == [f"{round(four / 2**20, 2)} MB", "N/A"]


def test_accelerate_leaves_out_an_untied_head_and_its_guide_adds_a_fifth() -> None:
    without_head = 2 * (LLAMA_PARAMS - 128_256 * 4096)
    said = bytes_of(accelerate_estimate.predict(inference()))
    assert without_head <= said <= without_head + 4096  # rotary frequencies
    assert accelerate_docs.predict(inference()) == said + said // 5
    load = replace(inference(), workload=Workload(loading=Loading(dtype=BFLOAT16)))
    assert isinstance(accelerate_docs.predict(load), NotPredicted)


@pytest.mark.parametrize(
    ("training", "word"),
    [
        (replace(FULL, method="lora", lora=Lora()), "adapters"),
        (replace(FULL, optimizer="adamw_bnb_8bit"), "adamw_bnb_8bit"),
    ],
)
def test_what_accelerate_has_no_line_for_is_a_reason(training: Training, word: str) -> None:
    answer = accelerate_estimate.predict(tiny(training))
    assert isinstance(answer, NotPredicted)
    assert word in answer.reason


def test_hf_mem_adds_stored_weights_and_cache() -> None:
    """K and V of 32 layers, 8 heads, 128 wide, 8,192 tokens in 2 bytes are 1 GiB."""
    assert bytes_of(hf_mem.predict(inference())) == 2 * LLAMA_PARAMS + GIB
    load = replace(inference(), workload=Workload(loading=Loading(dtype=BFLOAT16)))
    assert bytes_of(hf_mem.predict(load)) == 2 * LLAMA_PARAMS


def test_hf_mem_is_given_the_cache_type_that_its_error_asks_for() -> None:
    """GPTQ: the tool names no type for the cache by itself."""
    model = resolve("TheBloke/Llama-2-7B-GPTQ")
    work = Workload(inference=Inference(context_len=1024, max_new_tokens=1))
    with_cache = bytes_of(hf_mem.predict(Scenario(model=model, workload=work)))
    alone = bytes_of(hf_mem.predict(Scenario(model=model, workload=Workload())))
    assert with_cache - alone == 2 * 32 * 1024 * 4096 * 2


def test_hf_mem_does_not_read_another_type_than_is_stored() -> None:
    scenario = replace(inference(), workload=Workload(loading=Loading(dtype=FLOAT32)))
    answer = hf_mem.predict(scenario)
    assert isinstance(answer, NotPredicted)
    assert "as stored" in answer.reason


@pytest.mark.parametrize("size", [99_980, 99_983, 99_984, 99_995, 100_000, 100_001, 250_000])
def test_a_header_of_any_size_is_read_whole(size: int) -> None:
    """The tool asks twice where the header is longer than its first request."""
    table = {"w": {"dtype": "BF16", "shape": [4, 4], "pad": ""}}
    table["w"]["pad"] = "x" * (size - len(json.dumps(table)))
    assert len(json.dumps(table)) == size
    load = replace(inference(), workload=Workload(loading=Loading(dtype=BFLOAT16)))
    with mock.patch.object(hf_mem, "_tensors", return_value=table):
        assert bytes_of(hf_mem.predict(load)) == 32


def test_eleutherai_prints_its_published_arithmetic() -> None:
    """Inference of Llama-3.1-8B, 8,191 tokens and one: its file, by hand."""
    hidden, layers, vocab, prompt = 4096, 32, 128_256, 8191
    params = (
        2 * vocab * hidden  # both ends
        + hidden * prompt  # positions, which it always counts
        + 8 * hidden * layers + 2 * hidden  # norms
        + int(2 * (1 + 8 / 32) * layers * hidden**2)
        + 3 * layers * hidden * 3.5 * hidden
    )  # fmt: skip
    activations = prompt * hidden * (16 * 2 + 2)
    cache = 2 * hidden * layers * (prompt + 1)  # neither two tensors nor fewer heads
    by_hand = round((2 * params + activations + cache) / GIB, 2)
    assert bytes_of(eleutherai.predict(inference())) == round(by_hand * GIB)


def test_eleutherai_counts_a_mixed_precision_step() -> None:
    """GPT-2-like, autocast: 2 + 4 + 12 bytes a parameter, and attention's scores in every layer."""
    training = replace(FULL, bf16=True)
    model = resolve("openai-community/gpt2")
    work = Workload(loading=Loading(dtype=FLOAT32), training=training)
    hidden, layers, length, batch = 768, 12, 32, 2
    params = (
        2 * 50_257 * hidden + hidden * length + 8 * hidden * layers + 2 * hidden
        + 4 * layers * hidden**2 + 2 * layers * hidden * 4 * hidden
    )  # fmt: skip
    scores = 5 * 12 * length / hidden
    activations = length * batch * hidden * layers * (34 + scores)
    by_hand = round((18 * params + activations) / GIB, 2)
    answer = eleutherai.predict(Scenario(model=model, workload=work))
    assert bytes_of(answer) == round(by_hand * GIB)


@pytest.fixture(scope="module")
def mem_tracker() -> Iterator[None]:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return


@pytest.mark.usefixtures("mem_tracker")
def test_mem_tracker_says_on_fakes_what_it_says_of_real_tensors_as_shipped() -> None:
    import torch
    import transformers
    from torch.distributed._tools.mem_tracker import MemTracker

    config = transformers.AutoConfig.for_model(**TINY)
    model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    shipped = MemTracker()
    shipped.track_external(model, optimizer)
    with shipped:
        for _ in range(2):
            ids = torch.zeros((2, 32), dtype=torch.int64)
            outputs = model(input_ids=ids, labels=ids)
            outputs.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            shipped.reset_mod_stats()
    peak = shipped.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert bytes_of(tracker.predict(tiny(FULL))) == peak


@pytest.mark.usefixtures("mem_tracker")
def test_mem_tracker_counts_weights_without_blocks() -> None:
    """Rounding to 512 bytes is for CUDA tensors, which no process without a GPU can make."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**TINY)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)
    tensors = [*model.parameters(), *model.buffers()]
    assert tracker.predict(tiny(None)) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.usefixtures("mem_tracker")
def test_mem_tracker_refuses_frozen_parameters_as_shipped_and_not_here() -> None:
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker

    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    with pytest.raises(RuntimeError, match="doesn't require gradient"), MemTracker():
        layer(torch.zeros(1, 4))
    lora = Lora(r=4, target_modules=("q_proj", "v_proj"))
    pytest.importorskip("peft")
    adapted = bytes_of(tracker.predict(tiny(replace(FULL, method="lora", lora=lora))))
    assert bytes_of(tracker.predict(tiny(None))) < adapted < bytes_of(tracker.predict(tiny(FULL)))


@pytest.mark.usefixtures("mem_tracker")
def test_mem_tracker_sees_the_cache_grow() -> None:
    short, long = (
        bytes_of(tracker.predict(tiny(None, context_len=length, max_new_tokens=length - 8)))
        for length in (128, 256)
    )
    cached = 2 * 2 * 2 * 16 * 4  # K and V, layers, heads, width, bytes: of a token
    assert long - short >= 128 * cached


# --- what they are asked


def expressed(reading: Reading, scenario: Scenario | None = None) -> Expressed:
    return Expressed(kind="k", scenario=scenario or tiny(FULL), reading=reading)


def test_the_loaded_model_is_asked_without_the_run() -> None:
    for reading in (Reading(moment="loaded"), Reading(phases=("load",), amount="reserved")):
        question = asked(expressed(reading))
        assert question is not None
        assert question.scenario.workload.task == "load"
        assert question.window == ("load",)


@pytest.mark.parametrize(
    "reading",
    [
        Reading(moment="forward"),
        Reading(components=("gradients",)),
        Reading(phases=("forward",)),
        Reading(plus_bytes=-1),
    ],
)
def test_a_part_of_a_run_is_asked_of_no_tool(reading: Reading) -> None:
    assert asked(expressed(reading)) is None
    assert asked(replace(expressed(reading), reading=lambda _: 1)) is None


def test_a_rule_that_is_a_counter_on_our_own_estimate_is_that_counter() -> None:
    gpu = Machine(gpus=parse_machine("T4").gpus)
    run = replace(tiny(None, context_len=64, max_new_tokens=1), machine=gpu)
    rule = replace(expressed(Reading(), run), reading=lambda e: Reading(amount="reserved")(e))
    question = asked(rule)
    assert question is not None
    assert question.counter == "reserved"


def test_layers_that_are_spread_and_summed_are_one_model() -> None:
    gpus = parse_machine("2xT4").gpus
    spread = replace(inference(), machine=Machine(gpus=gpus))
    summed = asked(expressed(Reading(gpus="sum"), spread))
    fullest = asked(expressed(Reading(), spread))
    assert summed is not None
    assert fullest is not None
    assert summed.scenario.machine is not None
    assert fullest.scenario.machine is not None
    assert len(summed.scenario.machine.gpus) == 1
    assert len(fullest.scenario.machine.gpus) == 2
    assert isinstance(hf_mem.predict(fullest.scenario), NotPredicted)


# --- how they are compared


ABOUT = AboutPeer(
    title="t", version="1", licence="l", source="https://x", claims="c", called="d",
    counters=("allocated", "reserved"),
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WILLFIT_PEERS", str(tmp_path))
    monkeypatch.setattr(answers, "_ANSWERS", {})
    return tmp_path


def fake(predict: object, **about: object) -> Peer:
    return Peer(
        "fake",
        replace(ABOUT, **about),  # type: ignore[arg-type]
        predict,  # type: ignore[arg-type]
        __file__,
    )


def rows(count: int, **bytes_by_kind: int) -> list[dict[str, object]]:
    entries = [{"kind": kind, "bytes": amount} for kind, amount in bytes_by_kind.items()]
    return [
        {"id": f"s:{n}", "tier": "A", "task": "t", "measured": entries, "n": n}
        for n in range(count)
    ]


def by_kind(monkeypatch: pytest.MonkeyPatch, **results: Expressed) -> None:
    listed = [replace(result, kind=kind) for kind, result in results.items()]
    monkeypatch.setattr(judging, "importer", lambda *_: lambda _row: iter(listed))


@pytest.mark.usefixtures("home")
def test_a_tool_is_held_to_the_counter_that_it_counts_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_kind(
        monkeypatch,
        nvml=expressed(Reading(amount="device")),
        held=expressed(Reading(amount="reserved")),
        live=expressed(Reading()),
    )
    found = compare(rows(1, nvml=400, held=200, live=100), [fake(lambda _: 110)])
    assert [(one.kind, one.counter, one.error) for one in found] == [("live", "allocated", 0.1)]


@pytest.mark.usefixtures("home")
def test_unknown_settings_are_the_tools_range_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = replace(
        expressed(Reading(plus_bytes=5)),
        low_scenario=tiny(replace(FULL, max_length=16)),
        high_scenario=tiny(replace(FULL, max_length=64)),
        unknown_bytes=(-1, 2),
    )
    by_kind(monkeypatch, live=ends)

    def length(scenario: Scenario) -> int:
        assert scenario.workload.training is not None
        return scenario.workload.training.max_length or 0

    def only(measured: int) -> Comparison:
        (found,) = compare(rows(1, live=measured), [fake(length)])
        return found

    found = only(50)
    assert (found.predicted_bytes, found.low_bytes, found.high_bytes) == (37, 20, 71)
    assert found.error == 0
    assert only(100).error == pytest.approx(-0.29)


@pytest.mark.usefixtures("home")
def test_an_error_of_a_tool_is_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Scenario) -> int:
        raise KeyError("num_layers")

    by_kind(monkeypatch, live=expressed(Reading()))
    (found,) = compare(rows(1, live=100), [fake(fails)])
    assert found.predicted_bytes is None
    assert found.error is None
    assert "KeyError" in str(found.reason)


@pytest.mark.usefixtures("home")
def test_an_answer_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Scenario] = []
    by_kind(monkeypatch, live=expressed(Reading()))
    peer = fake(lambda scenario: calls.append(scenario) or 100)
    compare(rows(3, live=100), [peer])
    answers._ANSWERS.clear()  # what is on disk is enough
    compare(rows(3, live=100), [peer])
    assert len(calls) == 1


@pytest.mark.usefixtures("home")
def test_a_slow_tool_is_asked_about_a_sample_chosen_by_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    by_kind(monkeypatch, live=expressed(Reading()))
    slow = fake(lambda _: 100, slow=True)
    one = sampled(rows(5, live=100), slow)
    assert len(one) == 1
    assert len(sampled(rows(25, live=100), slow)) == 3
    assert len(sampled(rows(400, live=100), slow)) == 3
    assert sampled(list(reversed(rows(5, live=100))), slow) == one
    nothing = fake(lambda _: NotPredicted(reason="too large"), slow=True)
    monkeypatch.setattr(answers, "_ANSWERS", {})
    assert len(sampled(rows(5, live=100), nothing._replace(name="other"))) == 5


def comparison(predicted: int | None, source: str = "s", measured: int = 100) -> Comparison:
    return Comparison(
        id="s:1", source=source, kind="k", peer="fake", counter="allocated",
        measured_bytes=measured, predicted_bytes=predicted, low_bytes=predicted,
        high_bytes=predicted, reason=None if predicted else "cannot",
    )  # fmt: skip


def test_figures_are_of_the_rows_that_the_tool_has(tmp_path: Path) -> None:
    some = [comparison(90), comparison(150), comparison(80), comparison(None)]
    outcome = Outcome(
        id="s:1", source="s", tier="A", task="t", level="formula", kind="k", measured_bytes=100,
        estimated_bytes=97, unknown_low_bytes=97, unknown_high_bytes=97, reason=None,
    )  # fmt: skip
    found = figures(beside([*some, comparison(101, source="z")], [outcome]))
    first = found[0]
    assert (first.peer, first.source, first.rows, first.expressed) == ("fake", "s", 4, 3)
    assert first.median == pytest.approx(0.2)
    assert first.p95 == pytest.approx(0.5)
    assert first.worst == pytest.approx(0.5)
    assert first.bias == pytest.approx(-0.1)
    assert first.willfit_formula_median == pytest.approx(0.03)
    assert first.willfit_trace_median is None
    assert first.reasons == (("cannot", 1),)
    assert [(one.source, one.expressed) for one in found] == [("s", 3), ("z", 1), (ALL, 4)]
    assert found[2].median == pytest.approx((0.2 + 0.01) / 2)  # sources weigh the same
    record(found, tmp_path / "r.json")
    again = recorded(tmp_path / "r.json")
    assert [(one.source, one.counters, one.reasons) for one in again] == [
        (one.source, one.counters, one.reasons) for one in found
    ]
    assert again[0].median == first.median
    record(figures([comparison(120, source="z")]), tmp_path / "r.json")
    assert [(one.source, one.median) for one in recorded(tmp_path / "r.json")] == [
        ("s", 0.2), ("z", 0.2), (ALL, 0.2),
    ]  # fmt: skip
    assert recorded(tmp_path / "none.json") == []


def test_the_recorded_figures_are_of_these_tools() -> None:
    found = recorded()
    assert {one.peer for one in found} <= {peer.name for peer in peers()}
    assert all(isinstance(one, PeerFigure) and one.expressed <= one.rows for one in found)


def test_the_command_prints_a_table(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = (shared / "measured" / "qwen_speed_benchmark.jsonl").read_text().splitlines()
    (folder / "qwen_speed_benchmark.jsonl").write_text("\n".join(lines[:2]))
    kept = tmp_path / "kept.json"
    arguments = ["--rows", str(folder), "--peer", "hf_mem", "--reasons", "--json", str(kept)]
    assert command.main(arguments) == 0
    assert "hf_mem · qwen_speed_benchmark" in capsys.readouterr().out
    assert {one["peer"] for one in json.loads(kept.read_text())["rows"]} == {"hf_mem"}
    assert command.main(["--rows", str(tmp_path / "nowhere")]) == 1
