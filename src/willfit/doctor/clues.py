"""Clues: what words around a report tell of the machine, the libraries and the moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Clue:
    """A fact, the words that give it and what it means."""

    name: str
    words: tuple[str, ...] = ()
    """Any of these, in lower case."""
    pattern: re.Pattern[str] | None = None
    """Or this, searched in the lower-case text; bounded repetitions only."""
    means: str
    """One sentence."""

    def is_in(self, text: str) -> bool:
        """Whether ``text``, in lower case, gives it."""
        if any(word in text and _stands(word, text) for word in self.words):
            return True
        return self.pattern is not None and self.pattern.search(text) is not None


_SHORT: Final = 5
"""Letters up to which a word may be a part of another: ``orin`` is in ``ignoring``."""
_GOES_ON: Final = (
    r"(?:checkpoint|config|decod|encod|engine|for|layer|linear|model|next|plugin|request|strateg"
    r"|trainer|worker|s\b)"
)
"""What class names put behind such a word: ``DPOTrainer``, ``LoraConfig``."""


def _stands(word: str, text: str) -> bool:
    """Whether a word that is in the text is one there, and not the middle of another."""
    return len(word) > _SHORT or _whole(word).search(text) is not None


@cache
def _whole(word: str) -> re.Pattern[str]:
    begin = "(?<![a-z0-9])" if word[0].isalnum() else ""
    end = rf"(?!(?!{_GOES_ON})[a-z])" if word[-1].isalnum() and len(word) < _SHORT else ""
    return re.compile(begin + re.escape(word) + end)


_TABLE: Final = (
    Clue(name="wsl", words=("microsoft-standard", "wsl2", "wsl "),
         pattern=re.compile(r"/mnt/[cd]/"),
         means="Windows Subsystem for Linux: pinned and managed memory are limited."),
    Clue(name="windows", pattern=re.compile(r"\b[a-z]:\\|winerror|\.dll\b|site-packages\\"),
         means="Windows: the driver may spill into shared system memory."),
    Clue(name="jetson", words=("jetson", "tegra", "orin", "xavier", "l4t", "jetpack", "igx"),
         means="The GPU has no memory of its own: host and page cache count."),
    Clue(name="mig", words=("mig-", "mig ", "3g.40gb", "1g.10gb", "2g.20gb", "7g.80gb", "1g.18gb"),
         means="A slice of a GPU: its memory is a fraction of the card's."),
    Clue(name="apple", words=("metal", "mps", "macos", "darwin", "mlx"),
         means="Memory is shared with the system; a watermark limits the GPU's part."),
    Clue(name="deepspeed", words=("deepspeed", "[launch.py:", "see_memory_usage", "zero_optim",
                                  "sigkill_handler"),
         means="DeepSpeed launched or shards the job."),
    Clue(name="zero_offload", words=("offload_optimizer", "offload_param", "cpuadam", "cpu_adam",
                                     "zero_offload", "zerooffload", "_offload.json"),
         means="States or weights live in host memory, pinned."),
    Clue(name="fsdp", words=("fsdp", "fully_sharded"), means="Weights are sharded over the GPUs."),
    Clue(name="ddp", words=("distributeddataparallel", "ddp", "torchrun", "local_rank", "elastic"),
         means="One process a GPU, each with a whole copy."),
    Clue(name="dataparallel", words=("dataparallel/", "data_parallel.py", "nn.dataparallel",
                                     "parallel_apply", "broadcast_coalesced", "comm.broadcast"),
         means="One process drives several GPUs; the first one gathers the outputs."),
    Clue(name="ray", words=("raylet", "ray::", "ray.exceptions", "rayworker"), means="Ray."),
    Clue(name="docker", words=("docker", "containerd", "container"),
         pattern=re.compile(r"(?m)^\S{1,40}-\d{1,3} {1,4}\|"),
         means="A container: process ids are the host's, memory may be limited by a cgroup."),
    Clue(name="kubernetes", words=("kubernetes", "k8s", "oomkilled", "containername"),
         means="A pod with a memory limit."),
    Clue(name="slurm", words=("slurm",), means="A batch job with a memory limit."),
    Clue(name="kaggle", words=("kaggle",), means="Two T4 or one P100, 30 GB of RAM."),
    Clue(name="colab", words=("colab", "/content/", "/usr/local/lib/python3"),
         means="A hosted notebook with little RAM."),
    Clue(name="notebook", words=("ipython", "ipykernel", "jupyter", "cell in[", ".ipynb", "---->",
                                 "--> "),
         pattern=re.compile(r"\b\d{1,3} frames\b"),
         means="Variables and the last exception of earlier cells are still alive."),
    Clue(name="resumed", words=("resume_from_checkpoint", "resuming training", "resume=true",
                                "--resume", "_load_optimizer_and_scheduler"),
         means="Optimizer states are loaded beside the model."),
    Clue(name="dpo", words=("dpo", "kto_trainer", "ref_model", "reference_model", "ref_logps"),
         means="Preference training: two sequences a sample, and a reference model."),
    Clue(name="grpo", words=("grpo", "rloo", "ppo_trainer", "ppotrainer"),
         means="Sequences are generated and scored in training."),
    Clue(name="lora", words=("lora", "qlora", "peft"), means="Most weights are frozen."),
    Clue(name="quantized", words=("bitsandbytes", "load_in_4bit", "load_in_8bit", "bnb", "gptq",
                                  "awq", "qlora"), means="Weights are quantised."),
    Clue(name="packing", words=("packing", "unpad", "bert_padding", "multipack", "cu_seqlens"),
         means="Samples are packed into one sequence."),
    Clue(name="contrastive_search", words=("contrastive_search", "penalty_alpha"),
         means="The KV cache is kept once for each of the top k candidates."),
    Clue(name="beam_search", words=("beam_search", "num_beams"),
         means="The KV cache is kept once a beam."),
    Clue(name="vision", words=("llava", "qwen2_vl", "qwen2-vl", "qwen2_5_vl", "pixel_values",
                               "image_grid", "vision_tower", "image index", "mm_processor"),
         means="Images become tokens."),
    Clue(name="diffusion", words=("diffusers", "unet", "comfyui", "vae", "stable-diffusion",
                                  "controlnet", "img2img", "latents", "denois"),
         means="Memory grows with pixels."),
    Clue(name="first_step", pattern=re.compile(
            r"\b(?:iteration|iter|step|epoch) ?[:=]? ?0\b(?![./]\d)|\b0%\|[^\n]{0,60}\| 0/\d"),
         means="At the first step: nothing of this run has piled up yet."),
    Clue(name="late_step", pattern=re.compile(
            r"\b(?:iteration|iter|step)s? ?[:=]? ?[1-9]\d{1,8}\b|\b[1-9]\d{0,2}%\|[^\n]{0,60}\| ?"
            r"[1-9]\d{1,8}/\d"),
         means="Steps before it worked: one long sample, or something piles up."),
    Clue(name="printed", pattern=re.compile(
            r"(?:print|warning|warn|skip\w{0,12}|ran out of memory)[^\n]{0,40}out of memory"),
         means="The exception was caught and printed: the program went on."),
    Clue(name="pytest", words=("pytest", "passed in", "short test summary"),
         pattern=re.compile(r"failed [^\n]{0,160}\.py::"),
         means="A test: workers may share a GPU."),
    Clue(name="sampler_warmup", words=("_dummy_sampler_run", "warming up sampler"),
         means="A serving engine sorts logits for its largest number of sequences."),
    Clue(name="graph_capture", words=("capture_model", "cuda graph", "capturing", "cudagraph",
                                      "graph_capture", "cuda_graph", "capture_graph"),
         means="CUDA graphs are captured after the cache was reserved."),
    Clue(name="non_blocking", words=("non_blocking", "non_bl", "pin_memory"),
         means="Copies go through pinned host memory."),
    Clue(name="sleep_mode", words=("sleep mode", "wake_up", "fall asleep"),
         means="A serving engine in the same process gave its memory up and wants it back."),
    Clue(name="loading", words=("loading checkpoint shards", "loading a checkpoint",
                                "loading weights", "loading pipeline", "loading model"),
         pattern=re.compile(r"\bloading [^\s/]{1,60}/?[^\s]{0,60}\.\.\."),
         means="Weights are being loaded."),
    Clue(name="vllm", words=("vllm",), means="vLLM."),
    Clue(name="sglang", words=("sglang", "mem-fraction-static", "mem_fraction_static"),
         means="SGLang."),
    Clue(name="tgi", words=("text-generation", "text_generation"), means="TGI."),
    Clue(name="ollama", words=("ollama", "[gin]"), means="ollama."),
)  # fmt: skip

CLUES: Final = {clue.name: clue.means for clue in _TABLE}
"""Every clue by its name, and what it means."""


def clues_in(text: str, origins: frozenset[str] = frozenset()) -> frozenset[str]:
    """Clues of a text; ``origins`` are programs that prefixes of its lines name."""
    lowered = text.lower()
    found = {clue.name for clue in _TABLE if clue.is_in(lowered)}
    return frozenset(found | (origins & CLUES.keys()))
