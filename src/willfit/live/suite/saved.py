"""A checkpoint of random weights on disk for as long as a case needs it: loading from files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from willfit.scenario import Scenario


@contextmanager
def saved(scenario: Scenario) -> Iterator[str]:
    """The folder of a checkpoint of the scenario's model in bfloat16, gone at the end.

    It is made in host memory: the GPU is read before this process is on it.
    """
    import torch
    import transformers

    from willfit.live.measured.load_model import random_tensors

    with tempfile.TemporaryDirectory(prefix="willfit-checkpoint-") as folder:
        cls = getattr(transformers, scenario.model.model_class)
        settings = transformers.AutoConfig.for_model(**scenario.model.config)
        tensors = random_tensors(cls, settings, torch.bfloat16, shared=False)
        model = cls.from_pretrained(None, config=settings, state_dict=tensors, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model, tensors
        yield folder
