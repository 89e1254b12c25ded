"""What this project may take of a GPU: fails where a component grows past its record."""

import pytest

QLORA = "llama-3-8b --train qlora --gpu T4 --gradient-checkpointing --batch-size 1 --max-length 512"


def test_fine_tuning(memory_gate):
    estimate = memory_gate(QLORA, allow="1%")
    assert estimate.verdict == "fits"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_inference(memory_gate, batch_size):
    memory_gate(f"llama-3-8b --quantize nf4 --gpu L4 --batch-size {batch_size}", allow="64MiB")
