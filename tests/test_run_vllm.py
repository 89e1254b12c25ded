"""``engine: vllm`` against a record of vLLM's signatures: it never ran here, only its calls did.

The record is of vLLM 0.33.0 (commit 4ba787ec9): ``vllm/entrypoints/llm.py``,
``vllm/entrypoints/pooling/offline.py``, ``vllm/engine/arg_utils.py``, ``vllm/sampling_params.py``,
``vllm/pooling_params.py``, ``vllm/config/pooler.py``, ``vllm/lora/request.py``, ``vllm/outputs.py``.
A stand-in refuses every other name. Where vLLM is installed, the record itself is compared with it.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pa = pytest.importorskip("pyarrow")
np = pytest.importorskip("numpy")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("pydantic")

import pyarrow.parquet as pq  # noqa: E402 - after the extras are known to be there
from tests.support import classifiers  # noqa: E402

from willfit.errors import InputError, UnsupportedError  # noqa: E402
from willfit.live.nvml import FakeCard, FakeNvml  # noqa: E402
from willfit.runner.gpus import NvmlProbe  # noqa: E402
from willfit.runner.pipeline import pipeline_from  # noqa: E402
from willfit.runner.prepared import open_rows  # noqa: E402
from willfit.runner.protocol import Job  # noqa: E402
from willfit.runner.shards import Range  # noqa: E402
from willfit.units import GIB  # noqa: E402
from willfit.worker.oom import is_dead_context, is_out_of_memory  # noqa: E402
from willfit.worker.prepare import prepare  # noqa: E402
from willfit.worker.tasks import task_of  # noqa: E402
from willfit.worker.tasks.vllm import CHECKED  # noqa: E402
from willfit.worker.vllm_rules import GENERATION, lora_rank  # noqa: E402

TEXTS = classifiers.sentences(9, seed=3)

RECORD: dict[str, tuple[str, ...]] = {
    "LLM": (
        "model", "runner", "convert", "tokenizer", "tokenizer_mode", "skip_tokenizer_init",
        "trust_remote_code", "allowed_local_media_path", "allowed_media_domains",
        "tensor_parallel_size", "dtype", "quantization", "revision", "tokenizer_revision",
        "chat_template", "seed", "gpu_memory_utilization", "cpu_offload_gb", "offload_group_size",
        "offload_num_in_group", "offload_prefetch_step", "offload_params", "enforce_eager",
        "enable_return_routed_experts", "return_sampling_mask", "disable_custom_all_reduce",
        "hf_token", "hf_overrides", "mm_processor_kwargs", "pooler_config",
        "structured_outputs_config", "profiler_config", "attention_config", "kv_cache_memory_bytes",
        "compilation_config", "quantization_config", "logits_processors", "spec_method",
        "spec_model", "spec_tokens", "kwargs",
    ),
    "generate": ("prompts", "sampling_params", "use_tqdm", "lora_request", "priority",
                 "tokenization_kwargs", "mm_processor_kwargs"),
    "classify": ("prompts", "pooling_params", "use_tqdm", "lora_request", "tokenization_kwargs"),
    "embed": ("prompts", "use_tqdm", "pooling_params", "lora_request", "tokenization_kwargs"),
    "PoolingParams": (
        "use_activation", "dimensions", "step_tag_id", "returned_token_ids", "task",
        "requires_token_ids", "skip_reading_prefix_cache", "late_interaction_params",
        "extra_kwargs", "output_kind", "late_chunking_params",
    ),
    "SamplingParams": (
        "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature",
        "watermarking", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "ignore_eos",
        "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "prompt_logprob_token_ids",
        "prompt_logprob_start", "logprob_token_ids", "flat_logprobs", "detokenize",
        "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output",
        "output_kind", "stream_interval", "skip_clone", "output_text_buffer_length",
        "structured_outputs", "logit_bias", "allowed_token_ids", "extra_args", "bad_words",
        "skip_reading_prefix_cache", "thinking_token_budget", "repetition_detection",
        "routed_experts_prompt_start", "trace_decode_token_ids",
    ),
    "PoolerConfig": (
        "task", "pooling_type", "seq_pooling_type", "tok_pooling_type", "use_activation",
        "enable_flash_late_interaction", "dimensions", "enable_chunked_processing",
        "max_embed_len", "logit_mean", "logit_sigma", "step_tag_id", "returned_token_ids",
    ),
    "LoRARequest": ("lora_name", "lora_int_id", "lora_path", "base_model_name", "load_inplace",
                    "is_3d_lora_weight"),
}  # fmt: skip
"""Names of parameters, in their order."""
ENGINE_ARGS = ("max_model_len", "enable_lora", "max_lora_rank")
"""Fields of ``EngineArgs`` that reach it through the ``**kwargs`` of ``LLM``."""
REQUIRED = {"LLM": ("model",), "LoRARequest": ("lora_name", "lora_int_id")}
SEQ_POOLING = ("CLS", "LAST", "MEAN")


def recorded(name: str, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; raises `TypeError` on one that vLLM does not have, as vLLM would."""
    names, more = RECORD[name], ENGINE_ARGS if name == "LLM" else ()
    given = {**dict(zip(names, args, strict=False)), **keywords}
    wrong = set(given) - set(names) - set(more)
    lacking = set(REQUIRED.get(name, ())) - set(given)
    if wrong or lacking or len(args) > len(names):
        raise TypeError(f"{name}: unexpected {wrong}, missing {lacking}")
    return given


def struct(name: str) -> type:
    def init(self: Any, *args: Any, **keywords: Any) -> None:
        self.__dict__.update(recorded(name, args, keywords))

    return type(name, (), {"__init__": init})


class StandIn:
    """In the place of ``vllm.LLM``: keeps what it is called with, and answers with made-up numbers."""

    refuses: Exception | None = None
    defaults: Mapping[str, Any] = {}
    error: str | None = None
    made: list[StandIn] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.arguments = recorded("LLM", args, keywords)
        if self.refuses is not None:
            raise self.refuses
        self.calls: list[dict[str, Any]] = []
        self.ended = 0
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._end))
        self.model_config = SimpleNamespace(get_diff_sampling_param=lambda: dict(self.defaults))
        StandIn.made.append(self)

    def _end(self) -> None:
        self.ended += 1

    def _answer(
        self, name: str, args: Any, keywords: Any, output: Callable[[list[int]], Any]
    ) -> list[Any]:
        call = {"name": name, **recorded(name, args, keywords)}
        self.calls.append(call)
        assert all(set(prompt) == {"prompt_token_ids"} for prompt in call["prompts"])
        return [
            SimpleNamespace(outputs=output(prompt["prompt_token_ids"]), error=self.error)
            for prompt in call["prompts"]
        ]

    def classify(self, *args: Any, **keywords: Any) -> list[Any]:
        return self._answer(
            "classify",
            args,
            keywords,
            lambda ids: SimpleNamespace(probs=[float(len(ids)), -1.0, 9.0]),
        )

    def embed(self, *args: Any, **keywords: Any) -> list[Any]:
        return self._answer(
            "embed", args, keywords, lambda ids: SimpleNamespace(embedding=[float(ids[-1]), 0.5])
        )

    def generate(self, *args: Any, **keywords: Any) -> list[Any]:
        return self._answer(
            "generate", args, keywords,
            lambda ids: [SimpleNamespace(text=f"t{len(ids)}", token_ids=ids[-2:])],
        )  # fmt: skip


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """The record in the place of the library, and one L4 of compute capability 8.9."""
    package: Any = ModuleType("vllm")
    package.LLM, package.__version__ = StandIn, CHECKED
    package.PoolingParams, package.SamplingParams = (
        struct("PoolingParams"),
        struct("SamplingParams"),
    )
    config: Any = ModuleType("vllm.config")
    config.PoolerConfig = struct("PoolerConfig")
    request: Any = ModuleType("vllm.lora.request")
    request.LoRARequest = struct("LoRARequest")
    for module in (package, config, request, ModuleType("vllm.lora")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(StandIn, "made", [])
    monkeypatch.delenv("VLLM_WORKER_MULTIPROC_METHOD", raising=False)
    monkeypatch.delenv("VLLM_NO_USAGE_STATS", raising=False)
    on("NVIDIA L4", (8, 9), monkeypatch)
    return StandIn


def on(name: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU that the worker sees."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    cards = (FakeCard(name=name, total=16 * GIB, capability=capability),)
    probe = NvmlProbe(nvml=FakeNvml(cards=cards))
    monkeypatch.setattr("willfit.worker.tasks.vllm.NvmlProbe", lambda: probe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def task(stage: Mapping[str, Any], tmp: Path, *, gpus: int = 1, seed: int = 0) -> Any:
    """The task of a stage over `TEXTS`, not yet loaded."""
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp / "d.parquet")
    given = {"engine": "vllm", **stage}
    file = pipeline_from({"data": str(tmp / "d.parquet"), "stages": {"s": given}}, tmp).file
    job = Job(
        kind="stage", name="s", stage=file.stages["s"].model_dump(mode="json"), parent=0, gpus=gpus,
        seed=seed, rows=str(tmp / "rows.arrow"), data=str(tmp / "d.parquet"), context=77,
    )  # fmt: skip
    prepare(job, SimpleNamespace(tell=lambda _: None))
    return task_of(job, open_rows(Path(job.rows)))


def run_all(task: Any) -> tuple[Any, StandIn]:
    """All rows as one batch, and the engine that was made."""
    task.remarks = task.load()
    table = task.compute(task.rows.table(Range(0, len(TEXTS))))
    return table, StandIn.made[-1]


def test_classes_are_logits_in_the_order_of_the_rows(folder: Path, tmp_path: Path) -> None:
    """Without activation: vLLM would give probabilities under the same name."""
    model = classifiers.classifier("llama", folder)
    found, llm = run_all(task({"model": str(model), "labels": 3}, tmp_path, gpus=2, seed=5))
    rows = open_rows(tmp_path / "rows.arrow").source
    assert found.column("logits").to_pylist() == [
        [float(length), -1.0, 9.0] for length in rows.column("#length").to_pylist()
    ]
    assert llm.arguments == {
        "model": str(model), "tokenizer": str(model), "trust_remote_code": False,
        "runner": "pooling", "convert": "classify", "hf_overrides": {"num_labels": 3},
        "dtype": "auto", "tensor_parallel_size": 2, "seed": 5, "max_model_len": 77,
    }  # fmt: skip
    (call,) = llm.calls
    assert call["pooling_params"].use_activation is False
    assert call["lora_request"] is None
    assert [p["prompt_token_ids"] for p in call["prompts"]] == rows.column("#input_ids").to_pylist()


def test_the_report_says_that_this_engine_was_never_compared(folder: Path, tmp_path: Path) -> None:
    made = task({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, tmp_path)
    run_all(made)
    (remark,) = made.remarks
    assert "vLLM 0.33.0" in remark
    assert "never compared with the other one" in remark


def test_the_engine_s_processes_are_spawned_and_ended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork of a process with threads may hang."""
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "0")
    made = task({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, tmp_path)
    made.close()
    _, llm = run_all(made)
    import os

    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "0"  # what the user says stays
    made.close()
    assert llm.ended == 1
    assert made.batches_itself


def test_an_adapter_is_a_request_with_its_rank_s_buffers(folder: Path, tmp_path: Path) -> None:
    base = classifiers.causal_lm("llama", folder)
    adapter = classifiers.adapter(base, "SEQ_CLS", folder)
    _, llm = run_all(task({"model": str(base), "adapter": str(adapter), "labels": 3}, tmp_path))
    assert (llm.arguments["enable_lora"], llm.arguments["max_lora_rank"]) == (True, 8)
    request = llm.calls[0]["lora_request"]
    assert vars(request) == {"lora_name": "s", "lora_int_id": 1, "lora_path": str(adapter)}


def test_the_largest_rank_counts() -> None:
    assert lora_rank({"r": 4, "rank_pattern": {"q_proj": 64}}) == 64
    assert lora_rank({"r": 4}) == 4


@pytest.mark.parametrize(("pooling", "named"), [("mean", "MEAN"), ("last", "LAST"), ("cls", "CLS")])
@pytest.mark.parametrize("unit", [True, False])
def test_embeddings_have_the_stage_s_pooling(
    folder: Path, tmp_path: Path, pooling: str, named: str, unit: bool
) -> None:
    stage = {"model": str(classifiers.encoder("llama", folder)), "task": "embed", "pooling": pooling,
             "normalize_embeddings": unit}  # fmt: skip
    found, llm = run_all(task(stage, tmp_path))
    assert llm.arguments["convert"] == "embed"
    assert llm.arguments["pooler_config"].seq_pooling_type == named in SEQ_POOLING
    assert llm.calls[0]["pooling_params"].use_activation is unit
    assert found.column("embedding").to_pylist()[0][1] == 0.5


SAMPLING: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # the stage's generation, the model's own, what vLLM is given besides the seed
    ({}, {}, {"temperature": 0.0, "max_tokens": 6}),
    ({}, {"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.05, "max_tokens": 2048},
     {"temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.05, "max_tokens": 6}),
    ({"do_sample": True}, {"temperature": 0.6},
     {"temperature": 0.6, "top_k": 50, "max_tokens": 6}),
    ({"do_sample": True, "temperature": 0.9, "top_k": 5, "min_new_tokens": 2}, {"temperature": 0.6},
     {"temperature": 0.9, "top_k": 5, "min_tokens": 2, "max_tokens": 6}),
    ({"stop_strings": ["x"], "eos_token_id": 7, "num_beams": 1}, {},
     {"stop": ["x"], "include_stop_str_in_output": True, "stop_token_ids": [7], "temperature": 0.0,
      "max_tokens": 6}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "own", "given"), SAMPLING)
def test_generation_has_the_arguments_of_transformers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, own: Any, given: Any
) -> None:
    monkeypatch.setattr(StandIn, "defaults", own)
    stage = {"model": str(classifiers.causal_lm("llama", folder)), "task": "generate",
             "max_new_tokens": 6, "generation": asked}  # fmt: skip
    found, llm = run_all(task(stage, tmp_path, seed=3))
    assert llm.arguments["runner"] == "generate"
    numbers = open_rows(tmp_path / "rows.arrow").numbers().tolist()
    params = [vars(p) for p in llm.calls[0]["sampling_params"]]
    assert params == [{**given, "seed": 3 * 1_000_003 + row} for row in numbers]
    assert found.column("num_new_tokens").to_pylist() == [2] * len(TEXTS)
    assert found.column("text").to_pylist()[0].startswith("t")


def test_every_argument_of_generation_has_a_name_in_the_record() -> None:
    assert set(GENERATION.values()) <= set(RECORD["SamplingParams"])


# ---- refusals

GEMMA_ON_T4 = r"it refuses gemma2 in float16 .* T4, have no bfloat16: leave engine out"
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # GPU, stage, changes of the adapter's config, sentence
    ("L4", {"task": "choose", "choices": ["a", "b"]}, {}, "it has classify, generate and embed"),
    ("L4", {"labels": 3, "quantize": "int8"}, {}, r"bitsandbytes left it with 0\.28"),
    ("L4", {"labels": 3, "quantize": "nf4"}, {}, r"bitsandbytes left it with 0\.28"),
    ("L4", {"labels": 3, "attn": "eager"}, {}, "attn chooses transformers' attention"),
    ("L4", {"labels": 3, "dtype": "float16", "family": "gemma2"}, {}, GEMMA_ON_T4),
    ("T4", {"labels": 3, "family": "gemma2"}, {}, GEMMA_ON_T4),
    ("T4", {"labels": 3, "dtype": "bfloat16"}, {}, r"bfloat16 needs compute capability 8\.0"),
    ("L4", {"labels": 3, "dtype": "float32"}, {"r": 4}, "LoRA kernels take 16-bit inputs alone"),
    ("L4", {"labels": 3}, {"use_dora": True}, "its LoRA has no DoRA"),
    ("L4", {"labels": 3}, {"lora_bias": True}, "its LoRA has no lora_bias"),
    ("L4", {"labels": 3}, {"bias": "all"}, "its LoRA has no bias: all"),
    ("L4", {"labels": 3}, {"init_lora_weights": "pissa"}, "no init_lora_weights: pissa"),
    ("L4", {"labels": 3}, {"layer_replication": [[0, 1]]}, "its LoRA has no layer_replication"),
    ("L4", {"labels": 3}, {"modules_to_save": ["score", "embed_tokens"]},
     "no modules_to_save: embed_tokens"),
    ("L4", {"labels": 3}, {"r": 1024}, "its LoRA has no rank 1024"),
    ("L4", {"labels": 3}, {"rank_pattern": {"q_proj": 600}}, "its LoRA has no rank 600"),
    ("L4", {"labels": 3}, {"peft_type": "IA3"}, "its adapters are LoRA and this is IA3"),
    ("L4", {"task": "generate", "generation": {"num_beams": 4}}, {},
     r"generation\.num_beams is no argument of its sampling"),
    ("L4", {"task": "generate", "generation": {"penalty_alpha": 0.6}}, {},
     r"generation\.penalty_alpha is no argument"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("gpu", "stage", "adapter", "sentence"), REFUSED,
    ids=[f"{gpu}-{'-'.join(map(str, stage.values()))}-{'-'.join(adapter)}" for gpu, stage, adapter, _ in REFUSED],
)  # fmt: skip
def test_what_vllm_cannot_do_is_refused_before_it_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    gpu: str, stage: dict[str, Any], adapter: dict[str, Any], sentence: str,
) -> None:  # fmt: skip
    on(*{"L4": ("NVIDIA L4", (8, 9)), "T4": ("Tesla T4", (7, 5))}[gpu], monkeypatch)
    given = dict(stage)
    family = given.pop("family", "llama")
    make = classifiers.classifier if "labels" in given and not adapter else classifiers.causal_lm
    given["model"] = str(make(family, folder))
    if adapter:
        trained = classifiers.adapter(Path(given["model"]), "SEQ_CLS", tmp_path)
        config = json.loads((trained / "adapter_config.json").read_text())
        (trained / "adapter_config.json").write_text(json.dumps({**config, **adapter}))
        given["adapter"] = str(trained)
    with pytest.raises(InputError, match=rf"^stage s cannot run in vLLM: .*{sentence}") as error:
        task(given, tmp_path)
    assert "\n" not in str(error.value)
    assert not StandIn.made


def test_gemma_runs_on_newer_gpus_and_llama_on_old_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(task({"model": str(classifiers.classifier("gemma2", folder)), "labels": 3}, tmp_path))
    on("Tesla T4", (7, 5), monkeypatch)
    run_all(task({"model": str(classifiers.classifier("llama", folder)), "labels": 3,
                  "dtype": "float16"}, tmp_path))  # fmt: skip
    assert len(StandIn.made) == 2


def test_without_a_gpu_it_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {"model": str(classifiers.classifier("llama", folder)), "labels": 3}
    with pytest.raises(InputError, match="it runs on NVIDIA GPUs and the stage has none"):
        task(stage, tmp_path, gpus=0)
    monkeypatch.setattr(
        "willfit.worker.tasks.vllm.NvmlProbe", lambda: NvmlProbe(nvml=FakeNvml(failure="no driver"))
    )
    with pytest.raises(InputError, match="it runs on NVIDIA GPUs and the stage has none"):
        task(stage, tmp_path)


def test_a_head_that_nobody_trained_is_refused_too(folder: Path, tmp_path: Path) -> None:
    """The engine would read memory that nobody wrote: it checks no weights of plain layers."""
    stage = {"model": str(classifiers.causal_lm("llama", folder)), "labels": 3}
    with pytest.raises(InputError, match="score of the head is neither in the model's files"):
        task(stage, tmp_path)


def test_what_the_engine_refuses_is_told_in_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, tmp_path)
    monkeypatch.setattr(StandIn, "refuses", ValueError("User-specified max_model_len (77)\nis …"))
    with pytest.raises(
        UnsupportedError, match=r"vLLM 0.33.0 refuses .*: ValueError: User-spec"
    ) as error:
        made.load()
    assert "\n" not in str(error.value)
    failed = RuntimeError("Engine core initialization failed. See root cause above.")
    monkeypatch.setattr(StandIn, "refuses", failed)
    with pytest.raises(RuntimeError, match="See root cause above") as other:
        made.load()
    assert other.value is failed


def test_a_row_that_the_engine_refuses_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "error", "too long")
    made = task({"model": str(classifiers.classifier("llama", folder)), "labels": 3}, tmp_path)
    with pytest.raises(ValueError, match="vLLM could not compute a row: too long"):
        run_all(made)


def test_an_engine_that_died_is_not_asked_again() -> None:
    dead = type("EngineDeadError", (Exception,), {})("EngineCore encountered an issue.")
    assert is_dead_context(dead)
    assert not is_out_of_memory(dead)


def test_the_stand_in_refuses_what_vllm_would() -> None:
    """The record can fail: a keyword of another release, or a missing one."""
    for keywords in (
        {"model": "m", "swap_space": 4},
        {"runner": "pooling"},
        {"model": "m", "task": "embed"},
    ):
        with pytest.raises(TypeError):
            StandIn(**keywords)
    with pytest.raises(TypeError):
        StandIn(model="m").classify([], truncate_prompt_tokens=3)
    with pytest.raises(TypeError):
        struct("PoolerConfig")(normalize=True)


def test_the_record_is_that_of_an_installed_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
    real = pytest.importorskip("vllm")
    if real.__version__.partition("+")[0] != CHECKED:
        pytest.skip(f"vLLM {real.__version__} is installed, the record is of {CHECKED}")
    from vllm.config import PoolerConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest

    places: dict[str, Any] = {
        "LLM": real.LLM.__init__, "generate": real.LLM.generate, "classify": real.LLM.classify,
        "embed": real.LLM.embed, "PoolingParams": real.PoolingParams,
        "SamplingParams": real.SamplingParams, "PoolerConfig": PoolerConfig,
        "LoRARequest": LoRARequest,
    }  # fmt: skip
    for name, place in places.items():
        found = [
            p for p in inspect.signature(place).parameters if p != "self" and not p.startswith("_")
        ]
        assert tuple(found) == RECORD[name]
    assert set(ENGINE_ARGS) <= set(inspect.signature(EngineArgs).parameters)
