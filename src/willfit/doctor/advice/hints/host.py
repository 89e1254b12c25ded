"""The host's memory: nothing here is changed by what takes less of the GPU."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint

HINTS: Final = (
    Hint(
        causes=frozenset({"host_ram"}),
        id="who_killed_it",
        title="See who ended the process: the kernel writes it down, and so does the container",
        snippet=(
            "sudo dmesg -T | grep -i -E 'killed process|out of memory'\n"
            "cat /sys/fs/cgroup/memory.events   # oom_kill counts kills by the container's limit"
        ),
        families=("host-kill",),
    ),
    Hint(
        causes=frozenset({"host_ram", "loading_peak"}),
        id="load_in_half",
        title="Load in 16 bit from safetensors, straight to the GPU",
        snippet=(
            "model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16, "
            'device_map="auto")'
        ),
        stages=frozenset({"load", "unknown", "merge", "resume"}),
        not_families=("ollama", "jax", "ray", "mmap-paging", "llama.cpp"),
    ),
    Hint(
        causes=frozenset({"host_ram"}),
        id="fewer_copies",
        title="Fewer processes that each hold a copy: ranks, data loader workers",
        snippet="dataloader_num_workers=0   # and fsdp_cpu_ram_efficient_loading: true",
        not_families=("ollama", "llama.cpp", "notebook"),
    ),
    Hint(
        causes=frozenset({"host_ram"}),
        id="smaller_model_file",
        title="A smaller quantisation of the model, or a shorter context",
        snippet="ollama run MODEL:8b-q4_K_M\n/set parameter num_ctx 4096",
        families=("ollama",),
        quality="slight",
    ),
    Hint(
        causes=frozenset({"host_ram", "eval_accumulation"}),
        id="drop_eval_logits",
        title="Keep predictions instead of logits in evaluation",
        snippet=(
            "Trainer(..., preprocess_logits_for_metrics=lambda logits, labels: "
            "logits.argmax(dim=-1))"
        ),
        stages=frozenset({"eval"}),
    ),
    Hint(
        causes=frozenset({"host_ram"}),
        id="more_ram",
        title="More memory or swap for the machine or the container",
        snippet="docker run --memory 64g ...   # Windows: a larger paging file; WSL: .wslconfig",
    ),
    Hint(
        causes=frozenset({"shm"}),
        id="shm_size",
        title="More shared memory for the container, or loading in the main process",
        snippet="docker run --shm-size 16g ...   # or --ipc=host; or DataLoader(num_workers=0)",
    ),
    Hint(
        causes=frozenset({"pinned_host_memory"}),
        id="no_pinned_memory",
        title="Take less page-locked memory: WSL and Windows allow little of it",
        snippet="optim='adamw_8bit'   # not a paged one; DeepSpeed: pin_memory: false",
    ),
    Hint(
        causes=frozenset({"address_space"}),
        id="no_vmm",
        title="Build without virtual memory pools: this device reserves no such range",
        snippet="cmake -B build -DGGML_CUDA=ON -DGGML_CUDA_NO_VMM=ON",
    ),
)
