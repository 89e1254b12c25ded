"""What older transformers, accelerate and AutoGPTQ do otherwise than today's."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from tests.conftest import SHARED
from tests.support.meta_spec import meta_model, spec_of_model
from torch._subclasses.fake_tensor import FakeTensorMode

from willfit.devices import find_gpu
from willfit.dtypes import BFLOAT16, FLOAT32
from willfit.estimator import estimate
from willfit.formulas.placement import balanced_caps, build_tree
from willfit.formulas.weights import load_weights
from willfit.scenario import Inference, Loading, Machine, ModelSpec, Scenario, Stack, Workload
from willfit.scenario.stack import TESTED
from willfit.sources.catalogue import load
from willfit.sources.checkpoint import spec_of
from willfit.sources.structure import Checkpoint
from willfit.trace.cuda.flash_by_name import imported_by_name, is_imported_by_name

UTILS = "transformers.modeling_flash_attention_utils"
K, INNER, V = 256, 1024, 512
QWEN2: dict[str, Any] = {
    "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": K,
    "intermediate_size": INNER, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": V, "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "torch_dtype": "float16",
}  # fmt: skip


def of_config(config: dict[str, Any]) -> ModelSpec:
    return spec_of(Checkpoint(id="a model", source="local", config=config))


def test_a_release_without_lazy_imports_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import modeling_flash_attention_utils as utils

    assert not is_imported_by_name()
    monkeypatch.delattr(utils, "_lazy_imports")
    assert is_imported_by_name()


def test_flash_functions_stand_where_releases_import_them() -> None:
    def dense(*_: Any) -> torch.Tensor:
        raise NotImplementedError

    rows = {(owner.__name__, name): value for owner, name, value in imported_by_name(dense, dense)}
    assert rows[UTILS, "flash_attn_func"] is dense
    assert rows[UTILS, "flash_attn_varlen_func"] is dense
    config = type("Config", (), {})()
    enabled: Any = rows["PreTrainedModel", "_check_and_enable_flash_attn_2"]
    assert enabled.__func__(None, config)._attn_implementation == "flash_attention_2"


def test_positions_are_not_read() -> None:
    """``not (torch.diff(ids) >= 0).all()`` is false of one sequence; a largest position is 0."""

    def none(*_: Any) -> torch.Tensor:
        raise NotImplementedError

    rows = {name: value for _, name, value in imported_by_name(none, none)}
    with FakeTensorMode():
        ids = torch.arange(4)[None]
    assert (rows["torch"].diff(ids, dim=-1) >= 0).all()
    assert rows["torch"].float16 is torch.float16
    assert rows["item"](ids.max()) == 0
    assert rows["item"](torch.tensor(7)) == 7


@pytest.mark.parametrize("gpus", [2, 3, 4])
def test_transformers_4_balances_as_accelerate_does(gpus: int) -> None:
    """The buffer is 1.25 of a layer or of a mean leaf, not of the largest table."""
    theirs: Any = importlib.import_module("accelerate.utils").get_balanced_memory
    config: dict[str, Any] = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 176,
              "num_attention_heads": 4, "vocab_size": 20_000, "tie_word_embeddings": False}  # fmt: skip
    model = meta_model("llama", **config)
    spec = spec_of_model(model)
    tree = build_tree(spec, load_weights(spec, Loading(dtype=FLOAT32), Stack()))
    given: dict[int | str, int] = {**dict.fromkeys(range(gpus), 10**12), "cpu": 10**12}
    wanted = theirs(
        model, dict(given), no_split_module_classes=["LlamaDecoderLayer"], dtype=torch.float32
    )
    ours = balanced_caps(tree, {}, given, 0, by_accelerate=True)
    assert [ours[gpu] for gpu in range(gpus)] == [wanted[gpu] for gpu in range(gpus)]
    largest = balanced_caps(tree, {}, given, 0)
    assert largest[0] > ours[0]


@pytest.mark.parametrize(("gpus", "length"), [(2, 1), (2, 6144), (3, 14336)])
def test_what_qwen_measured_on_the_first_of_several_gpus(gpus: int, length: int) -> None:
    """Qwen2-72B over A100s, transformers 4.38: the page counts the first GPU's peak every time."""
    path: Path = SHARED / "measured" / "qwen_speed_benchmark.jsonl"
    if not path.is_file():
        pytest.skip("published measurements are not beside this checkout")
    (seen,) = (
        row["measured"][0]["bytes"]
        for row in map(json.loads, path.read_text().splitlines())
        if (row["model"], row["seq"]) == ("Qwen/Qwen2-72B-Instruct", length)
    )
    spec = load("Qwen/Qwen2-72B-Instruct")
    assert spec is not None
    inference = Inference(context_len=length + 2048, max_new_tokens=2048, attn="flash_attention_2")
    found = estimate(
        Scenario(
            model=spec,
            workload=Workload(loading=Loading(dtype=BFLOAT16), inference=inference),
            machine=Machine(gpus=(find_gpu("A100-SXM4-80GB"),) * gpus),
            stack=Stack(versions={**TESTED, "transformers": "4.38.2"}),
        ),
        search_limits=False,
    )
    peak = max(phase.allocated_bytes for phase in found.gpus[0].phases)
    assert gpus * peak == pytest.approx(seen, rel=0.01)


def test_autogptqs_older_kernel_dequantises_from_128_rows() -> None:
    """Six bytes a weight at once: int16 masked, int16 without zeros, float16 scaled."""
    settings = {"quant_method": "gptq", "bits": 8, "group_size": 128, "backend": "cuda_old"}
    spec = of_config({**QWEN2, "quantization_config": settings})

    def prefill(rows: int) -> int:
        work = Workload(inference=Inference(context_len=rows + 1, max_new_tokens=1))
        machine = Machine(gpus=(find_gpu("A100-SXM4-80GB"),))
        found = estimate(Scenario(model=spec, workload=work, machine=machine), trace=True)
        return next(p.allocated_bytes for p in found.gpus[0].phases if p.name == "prefill")

    wide = 128 * INNER * 2
    more = prefill(128) - prefill(127)
    assert 6 * K * INNER - 4 * wide <= more <= 6 * K * INNER + 2 * wide


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_packed_experts_count_one_by_one(method: str) -> None:
    """Eight experts of (gate, up, down) take eight times three packed matrices, not one."""
    experts, inner = 8, 128
    config = {
        **QWEN2, "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": inner,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "head_dim": 64,
        "quantization_config": {"quant_method": method, "bits": 4, "group_size": 128},
    }  # fmt: skip
    rows = [row for row in of_config(config).tensors if ".experts." in row.name]
    packed = sum(row.count * row.num_elements * 4 for row in rows if "qweight" in row.name)
    assert packed == 4 * experts * 3 * K * inner // 2
    if method == "gptq":
        order = sum(row.count * row.num_elements for row in rows if row.name.endswith("g_idx"))
        assert order == 4 * experts * (K + inner)  # gate and up share one, fused as they are
    older = Stack(versions={**TESTED, "transformers": "4.51.3"})
    apart = [r.row for r in load_weights(of_config(config), Loading(), older).rows]
    names = {row.name.rpartition("experts.")[2]: row for row in apart if ".experts." in row.name}
    assert names["{0-7}.gate_proj.qweight"].count == 4 * experts
    assert (
        sum(row.count * row.num_elements * 4 for name, row in names.items() if "qweight" in name)
        == packed
    )


def test_quantised_experts_stay_quantised_before_transformers_5() -> None:
    """Qwen3-30B-A3B in FP8: 30.5e9 weights at a byte, tables and scales besides."""
    spec = load("Qwen/Qwen3-30B-A3B-FP8")
    assert spec is not None
    today, older = (
        load_weights(spec, Loading(), Stack(versions={**TESTED, "transformers": version}))
        for version in (TESTED["transformers"], "4.51.3")
    )
    assert older.weight_bytes == pytest.approx(today.weight_bytes, rel=0.001)
    assert 30e9 < older.weight_bytes < 32e9
