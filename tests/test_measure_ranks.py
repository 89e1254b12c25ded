"""One rank of several, measured where there is one GPU or none."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch")

import torch.distributed as dist

from willfit.cli.main import main
from willfit.cli.suite import scenario_of
from willfit.live.beside import estimated
from willfit.live.measured.here import measure_here
from willfit.live.measured.load_model import random_tensors
from willfit.live.measured.rank import as_rank, num_ranks
from willfit.live.measurement import Measurement
from willfit.live.suite.case import Case
from willfit.scenario import Scenario

TRAIN = "llama-3.2-1b --train full --max-length 64 --dtype float32 --optim adamw_torch"


def scenario(arguments: str) -> Scenario:
    return scenario_of(Case(name="", arguments=arguments, tiny=True))


def most(found: Measurement, phase: str) -> int:
    return max(one.allocated_bytes for one in found.readings if one.phase == phase)


def test_a_rank_of_ddp_has_buckets_as_large_as_its_gradients() -> None:
    """The real Trainer and torch's DDP; what is measured is the difference to one GPU alone."""
    alone = measure_here(scenario(TRAIN), device="cpu")
    rank = measure_here(scenario(f"{TRAIN} --strategy ddp --gpu A100x4"), device="cpu")
    assert (alone.failure, rank.failure) == ("", "")
    assert not dist.is_initialized()
    gradients = next(one.held_bytes for one in alone.readings if one.phase == "load")
    more = most(rank, "step") - most(alone, "step")
    assert more == pytest.approx(gradients, rel=0.02)
    assert any("rank 0 of 4" in note for note in rank.notes)


def test_buckets_are_tensors_without_a_gpu_too() -> None:
    """What stands beside a rank's measurement has them: as near as beside one GPU alone."""
    near = []
    for arguments in (TRAIN, f"{TRAIN} --strategy ddp --gpu A100x4"):
        asked = scenario(arguments)
        found = measure_here(asked, device="cpu")
        amounts = estimated(asked, "formula", on_gpu=False).amounts
        near.append(max(amounts.values()) / max(most(found, "forward"), most(found, "backward")))
    assert near[1] == pytest.approx(near[0], abs=0.02)


def test_a_rank_is_started_as_accelerate_would() -> None:
    before = dict(os.environ)
    asked = scenario(f"{TRAIN} --bf16 --strategy fsdp --gpu A100x4")
    with as_rank(asked):
        assert (dist.get_world_size(), dist.get_rank()) == (4, 0)
        assert os.environ["ACCELERATE_USE_FSDP"] == "true"
        assert os.environ["FSDP_VERSION"] == "2"
        assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    assert dict(os.environ) == before
    assert not dist.is_initialized()


def test_every_weight_has_an_address_of_its_own() -> None:
    """Accelerate maps an optimizer's weights to their shards by address."""
    import torch
    import transformers

    settings = transformers.AutoConfig.for_model(**scenario(TRAIN).model.config)
    tensors = random_tensors(transformers.LlamaForCausalLM, settings, torch.float32, shared=True)
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)


def test_one_gpu_is_no_rank() -> None:
    assert num_ranks(scenario(f"{TRAIN} --strategy fsdp --gpu A100x8")) == 8
    assert num_ranks(scenario(f"{TRAIN} --gpu A100x8")) == 1
    assert num_ranks(scenario("llama-3.2-1b --strategy device_map --gpu A100x8")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--strategy", "fsdp", "--gpu", "A100"), "how many ranks there are"),
        (("--strategy", "dp", "--gpu", "A100x2"), "one rank of ddp, fsdp or ZeRO"),
        (("--strategy", "fsdp", "--gpu", "A100x2", "--trainer", "loop"), "by the Trainer"),
        (("--strategy", "fsdp", "--gpu", "A100x2"), "FSDP runs on a GPU alone"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["measure", "distilbert/distilgpt2", "--train", "full", "--device", "cpu", *words])
    shown = capsys.readouterr()
    assert code in (1, 4, 5)
    assert said in " ".join((shown.out + shown.err).split())
    assert "Traceback" not in shown.err
