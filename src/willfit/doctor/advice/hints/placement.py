"""Models on the wrong device, settings that are ignored, failures that are none of memory."""

from __future__ import annotations

from typing import Final

from willfit.doctor.advice.hints.hint import Hint

HINTS: Final = (
    Hint(
        causes=frozenset({"placement_bug"}),
        id="choose_gpu",
        title="Name the device before the first import that uses CUDA",
        snippet="import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'   # first line of the program",
    ),
    Hint(
        causes=frozenset({"config_mistake"}),
        id="choose_gpu",
        title="Check that the GPU is seen and that placement may use all of it",
        snippet="import torch\nprint(torch.cuda.device_count(), torch.cuda.mem_get_info())",
    ),
    Hint(
        causes=frozenset({"config_ignored"}),
        id="drop_ignored_keys",
        title="Take the keys out that do nothing, and compare what the settings come to",
        snippet=(
            "willfit doctor train.py   # names keys that the library ignores\n"
            "willfit compare MODEL_A MODEL_B --measure   # each in a fresh process"
        ),
    ),
    Hint(
        causes=frozenset({"corrupted_shape_bug"}),
        id="print_shapes",
        title="Print the shapes before the line that failed: the size comes from data, not from "
        "the model, and a smaller batch does not change it",
        snippet="print(tensor.shape, tensor.dtype)   # before the failing line",
    ),
    Hint(
        causes=frozenset({"not_a_memory_problem"}),
        id="read_first_error",
        title="Look for the first error above this one: memory was not what was missing",
        snippet="export CUDA_LAUNCH_BLOCKING=1   # errors are then raised at their own line",
        not_families=("sdpa-kernel", "lmstudio"),
    ),
    Hint(
        causes=frozenset({"not_a_memory_problem"}),
        id="sdpa_kernel=efficient",
        title="Allow the other attention kernels: the one that was forced does not exist here",
        snippet=(
            "from torch.nn.attention import SDPBackend, sdpa_kernel\n"
            "with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION,\n"
            "                  SDPBackend.MATH]):\n"
            "    ...   # flash needs float16 or bfloat16 and sm_80 or newer; a T4 is sm_75"
        ),
        families=("sdpa-kernel",),
    ),
    Hint(
        causes=frozenset({"multi_gpu_imbalance", "scheduler_split"}),
        id="max_memory",
        title="Say how much each GPU may take",
        snippet='max_memory={0: "12GiB", 1: "14GiB"}, device_map="auto"',
        not_families=("ollama", "llama.cpp"),
    ),
    Hint(
        causes=frozenset({"scheduler_split"}),
        id="num_gpu",
        title="Put fewer layers on the GPU than the scheduler chose, or keep more of it free",
        snippet=(
            "OLLAMA_GPU_OVERHEAD=1073741824 ollama serve   # 1 GiB kept free\n"
            "/set parameter num_gpu 20"
        ),
        families=("ollama", "llama.cpp"),
    ),
)
