"""``engine: vllm``: classify, generate and embed by vLLM's offline ``LLM``, which batches itself.

Written from the source of vLLM 0.33.0 (commit 4ba787ec9) and **never run with it**: every call and
keyword is one of that release, and the tests hold a record of its signatures, but no result was
ever compared. Differences to the transformers engine that are known from the source:

* a classifier's head reads the last token, transformers' the last that is not padding: they differ
  where a text ends with the padding token;
* ``gpu_memory_utilization`` keeps vLLM's default (0.92 of each GPU's whole memory, whatever the
  forecast says), and a GPU of which less than that is free is refused by vLLM;
* a sampled text is seeded by its own row, so that it does not depend on its neighbours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from willfit.errors import UnsupportedError
from willfit.runner.gpus import NvmlProbe, visible
from willfit.runner.prepared import INPUT_IDS, ROW, PreparedRows
from willfit.runner.protocol import Job
from willfit.worker.checkpoint import adapter_config_of, require_labels
from willfit.worker.columns import list_column
from willfit.worker.tasks.task import Task, row_seed
from willfit.worker.vllm_rules import GENERATION, RANKS, lora_rank, require_vllm_can

CHECKED: Final = "0.33.0"
"""The release whose source this was written from."""
POOLING: Final = {"mean": "MEAN", "last": "LAST", "cls": "CLS"}
TOP_K: Final = 50
"""transformers' own ``top_k`` where a text is sampled and nothing is said."""


def vllm_task(job: Job, rows: PreparedRows) -> Task:
    """The task of a job whose ``engine`` is vllm; raises `InputError` on what vLLM cannot do."""
    gpus = visible(NvmlProbe()).gpus.values()
    require_vllm_can(job, [live.gpu.sm for live in gpus])
    kinds = {"classify": Classify, "generate": Generate, "embed": Embed}
    return kinds[str(job.stage["task"])](job, rows)


def prompts_of(batch: pa.Table) -> list[dict[str, Any]]:
    """Each row's tokens in the form of a ``TokensPrompt``."""
    return [{"prompt_token_ids": ids} for ids in batch.column(INPUT_IDS).to_pylist()]


class VllmTask(Task):
    """A model in vLLM's engine, which runs in processes below this one."""

    batches_itself = True
    runner: ClassVar[str] = "pooling"

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        self.job, self.stage, self.rows = job, job.stage, rows
        self.llm: Any = None
        self.adapter: Any = None

    def load(self) -> tuple[str, ...]:
        """Start the engine.

        Its processes are spawned, as this one has threads; nothing is reported to vLLM's makers.
        """
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm  # type: ignore[import-not-found, unused-ignore]

        try:
            self.llm = vllm.LLM(**self.arguments())
        except RuntimeError:  # its engine's process: memory, or what its log says
            raise
        except Exception as error:
            raise UnsupportedError(
                f"vLLM {vllm.__version__} refuses {self.stage['model']} with these settings: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
            ) from error
        if self.stage.get("adapter") is not None:
            from vllm.lora.request import (  # type: ignore[import-not-found, unused-ignore]
                LoRARequest,
            )

            self.adapter = LoRARequest(
                lora_name=self.job.name, lora_int_id=1, lora_path=self.stage["adapter"]
            )
        return (
            f"vLLM {vllm.__version__} computed this: the engine was written from the source of "
            f"{CHECKED} and never compared with the other one",
        )

    def arguments(self) -> dict[str, Any]:
        """Keywords of ``vllm.LLM``; the last three are ``EngineArgs``'s."""
        lora = {}
        if self.stage.get("adapter") is not None:
            rank = lora_rank(adapter_config_of(self.job))
            lora = {"enable_lora": True, "max_lora_rank": next(r for r in RANKS if r >= rank)}
        return {
            "model": self.stage["model"],
            "tokenizer": self.stage.get("tokenizer") or self.stage["model"],
            "trust_remote_code": bool(self.stage.get("trust_remote_code")),
            "runner": self.runner,
            "dtype": self.stage.get("dtype") or "auto",
            "tensor_parallel_size": self.job.gpus,
            "seed": self.job.seed % 2**32,
            "max_model_len": self.job.context,
            **lora,
        }

    def compute(self, batch: pa.Table) -> pa.Table:
        """All rows at once; vLLM's own scheduler makes batches of them."""
        outputs = self.answers(batch)
        failed = next((o.error for o in outputs if getattr(o, "error", None) is not None), None)
        if failed is not None:
            raise ValueError(f"vLLM could not compute a row: {failed}")
        return self.columns(outputs)

    def answers(self, batch: pa.Table) -> Sequence[Any]:
        """What the engine answers to each row, in their order."""
        raise NotImplementedError

    def columns(self, outputs: Sequence[Any]) -> pa.Table:
        """The answers as columns."""
        raise NotImplementedError

    def close(self) -> None:
        """End the engine's processes."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()


class Classify(VllmTask):
    """Logits [rows, labels]: the head's output before vLLM would make probabilities of it."""

    def arguments(self) -> dict[str, Any]:
        """A language model becomes a classifier; its head comes with the adapter."""
        require_labels(self.job)
        labels = self.stage.get("labels")
        overrides = {} if labels is None else {"hf_overrides": {"num_labels": int(labels)}}
        return {**super().arguments(), "convert": "classify", **overrides}

    def answers(self, batch: pa.Table) -> Sequence[Any]:
        """Without activation."""
        from vllm import PoolingParams  # type: ignore[import-not-found, unused-ignore]

        found: Sequence[Any] = self.llm.classify(
            prompts_of(batch),
            pooling_params=PoolingParams(use_activation=False),
            use_tqdm=False,
            lora_request=self.adapter,
        )
        return found

    def columns(self, outputs: Sequence[Any]) -> pa.Table:
        """They are called ``probs`` all the same."""
        logits = np.asarray([output.outputs.probs for output in outputs], dtype=np.float32)
        return pa.table({"logits": list_column(logits)})


class Embed(VllmTask):
    """Vectors [rows, hidden]."""

    def arguments(self) -> dict[str, Any]:
        """With the stage's pooling."""
        from vllm.config import PoolerConfig  # type: ignore[import-not-found, unused-ignore]

        pooling = POOLING[str(self.stage.get("pooling", "mean"))]
        pooler = PoolerConfig(seq_pooling_type=pooling)
        return {**super().arguments(), "convert": "embed", "pooler_config": pooler}

    def answers(self, batch: pa.Table) -> Sequence[Any]:
        """The activation of an embedding is to give it the length 1."""
        from vllm import PoolingParams

        unit = bool(self.stage.get("normalize_embeddings", True))
        found: Sequence[Any] = self.llm.embed(
            prompts_of(batch),
            pooling_params=PoolingParams(use_activation=unit),
            use_tqdm=False,
            lora_request=self.adapter,
        )
        return found

    def columns(self, outputs: Sequence[Any]) -> pa.Table:
        """As they come."""
        vectors = np.asarray([output.outputs.embedding for output in outputs], dtype=np.float32)
        return pa.table({"embedding": list_column(vectors)})


class Generate(VllmTask):
    """``text`` and ``num_new_tokens``."""

    runner = "generate"

    def __init__(self, job: Job, rows: PreparedRows) -> None:
        super().__init__(job, rows)
        self.new_tokens = int(job.stage.get("max_new_tokens") or 256)

    def sampling(self) -> dict[str, Any]:
        """Keywords of ``SamplingParams``: the model's own defaults, then the stage's settings."""
        asked = dict(self.stage.get("generation") or {})
        samples = bool(asked.get("do_sample", False))
        given = {GENERATION[name]: value for name, value in asked.items() if name in GENERATION}
        ends = given.get("stop_token_ids")
        if isinstance(ends, int):
            given["stop_token_ids"] = [ends]
        if "stop" in given:
            given["include_stop_str_in_output"] = True  # as transformers has it
        return {
            **({"top_k": TOP_K} if samples else {}),
            **self.llm.model_config.get_diff_sampling_param(),
            **given,
            **({} if samples else {"temperature": 0.0}),
            "max_tokens": self.new_tokens,
        }

    def answers(self, batch: pa.Table) -> Sequence[Any]:
        """Each prompt with its row's seed."""
        from vllm import SamplingParams

        settings = self.sampling()
        seeds = [row_seed(self.job.seed, row) for row in batch.column(ROW).to_pylist()]
        found: Sequence[Any] = self.llm.generate(
            prompts_of(batch),
            [SamplingParams(seed=seed, **settings) for seed in seeds],
            use_tqdm=False,
            lora_request=self.adapter,
        )
        return found

    def columns(self, outputs: Sequence[Any]) -> pa.Table:
        """One text a prompt; the token that ends it counts."""
        first = [output.outputs[0] for output in outputs]
        counts = pa.array([len(text.token_ids) for text in first], pa.int32())
        return pa.table({"text": [text.text for text in first], "num_new_tokens": counts})
