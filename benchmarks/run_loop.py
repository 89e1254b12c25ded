"""The plain loop that `benchmarks.run_speed` compares the runner with: prints its seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.run_speed import batches


def main(model_path: str, prepared: str) -> None:
    """Load, then time the batches alone."""
    loader: Any = transformers.AutoModelForSequenceClassification
    model = loader.from_pretrained(model_path).eval()
    model.config.use_cache = False
    work = batches(Path(prepared))
    began = time.perf_counter()
    results = []
    with torch.inference_mode():
        for batch in work:
            longest = max(map(len, batch))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
            results.append(model(input_ids=ids, attention_mask=mask).logits.float().numpy())
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
