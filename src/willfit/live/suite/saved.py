"""A checkpoint of random weights on disk for as long as a case needs it: loading from files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from willfit.scenario import Scenario


@contextmanager
def saved(scenario: Scenario) -> Iterator[str]:
    """The folder of a checkpoint of the scenario's model in bfloat16, gone at the end."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory(prefix="willfit-checkpoint-") as folder:
        cls = getattr(transformers, scenario.model.model_class)
        settings = transformers.AutoConfig.for_model(**scenario.model.config)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = cls._from_config(settings, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield folder
