"""Prefixes: what loggers, launchers and containers put in front of a line, one row a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_LEVEL: Final = r"(?:TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL|ALERT|EMERGENCY)"
_DAY: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?"
_ISO: Final = rf"{_DAY}T{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_MONTH_DAY: Final = r"[A-Z][a-z]{2} [ \d]\d"
_SOURCE: Final = r"[\w./-]{1,120}\.\w{1,4}:\d{1,6}"
_PID: Final = r"pid=\d{1,9}"
_IP: Final = r"(?:, ip=[0-9a-f.:]{1,45})?"
_SPACE: Final = r"(?: |$)"


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A kind of prefix, and a line that shows it."""

    name: str
    pattern: str
    """At the start of a line; its group ``speaker`` is who wrote the line."""
    example: str
    rest: str
    """What the example says."""
    speaker: str = ""
    """Who says it."""
    origin: str = ""
    """The program that writes such prefixes, where only one does."""
    after: bool = False
    """Only behind another prefix: alone it may be the words of a message."""
    most: bool = False
    """Only where most lines of the text have it, for the same reason."""


PREFIXES: Final = (
    Prefix(
        name="compose", origin="docker",
        pattern=rf"(?P<speaker>[\w.-]{{1,100}}[-_]\d{{1,3}}) {{1,40}}\|{_SPACE}",
        example="deep-seek-1  | ggml_gallocr_reserve_n: failed to allocate CUDA1 buffer",
        rest="ggml_gallocr_reserve_n: failed to allocate CUDA1 buffer", speaker="deep-seek-1",
    ),
    Prefix(
        name="compose with container_name", origin="docker", most=True,
        pattern=rf"(?P<speaker>[A-Za-z][\w.-]{{0,100}}) {{1,40}}\|{_SPACE}",
        example="server  | RuntimeError: CUDA error: out of memory",
        rest="RuntimeError: CUDA error: out of memory", speaker="server",
    ),
    Prefix(
        name="Google Cloud", origin="kubernetes",
        pattern=rf"(?:DEFAULT|{_LEVEL}) {_ISO} "
        r"\[resource\.labels\.\w{1,40}: (?P<speaker>[^\]\s]{1,100})\]" + _SPACE,
        example="INFO 2025-11-19T20:16:36.096677269Z [resource.labels.containerName: vllm] Killed",
        rest="Killed", speaker="vllm",
    ),
    Prefix(
        name="Google Cloud without labels", pattern=rf"(?:DEFAULT|{_LEVEL}) {_ISO}{_SPACE}",
        example="ERROR 2025-11-19T20:16:36.096677269Z     loss.backward()",
        rest="    loss.backward()",
    ),
    Prefix(
        name="Kubernetes, GitHub Actions", pattern=_ISO + _SPACE,
        example="2021-12-08T01:25:15.387848564Z     output = input.matmul(weight.t())",
        rest="    output = input.matmul(weight.t())",
    ),
    Prefix(
        name="container runtime", origin="kubernetes", after=True,
        pattern=rf"(?:stdout|stderr) [FP]{_SPACE}",
        example="2024-05-01T10:00:00.123456789Z stderr F MemoryError", rest="MemoryError",
    ),
    Prefix(
        name="GitHub Actions command", pattern=r"##\[(?:error|warning|notice|debug|group)\]",
        example="##[error]Process completed with exit code 137.",
        rest="Process completed with exit code 137.",
    ),
    Prefix(
        name="Buildkite", pattern=rf"\[{_ISO}\]{_SPACE}",
        example="[2026-02-24T20:21:58Z] ValueError: Free memory on device cuda:0",
        rest="ValueError: Free memory on device cuda:0",
    ),
    Prefix(
        name="SGLang", origin="sglang",
        pattern=rf"\[{_DAY} {_CLOCK}(?P<speaker>(?: [A-Z]{{2,3}}\d{{1,4}}){{1,6}})\]{_SPACE}",
        example="[2025-07-02 07:41:58 DP0 TP0] Load weight end.", rest="Load weight end.",
        speaker="DP0 TP0",
    ),
    Prefix(
        name="date in brackets",
        pattern=rf"\[{_DAY},? {_CLOCK}(?: UTC| ?[+-]\d{{4}})?\]{_SPACE}",
        example="[2023-07-04 17:31:27,755] exits with return code = -9",
        rest="exits with return code = -9",
    ),
    Prefix(
        name="date of rich", pattern=rf"\[\d\d/\d\d/\d\d {_CLOCK}\] {{1,4}}",
        example="[04/12/23 10:00:00] Killed", rest="Killed",
    ),
    Prefix(
        name="time in brackets", pattern=rf"\[{_CLOCK}\]{_SPACE}",
        example="[12:31:28.521] CUDA error: out of memory", rest="CUDA error: out of memory",
    ),
    Prefix(
        name="kernel", pattern=r"\[ {0,8}\d{1,9}\.\d{6}\]" + _SPACE,
        example="[12345.678901] Out of memory: Killed process 77 (python)",
        rest="Out of memory: Killed process 77 (python)",
    ),
    Prefix(
        name="kernel with date",
        pattern=rf"\[[A-Z][a-z]{{2}} {_MONTH_DAY} {_CLOCK} \d{{4}}\]{_SPACE}",
        example="[Tue Apr 29 12:31:28 2025] oom_reaper: reaped process 77",
        rest="oom_reaper: reaped process 77",
    ),
    Prefix(
        name="journal",
        pattern=rf"{_MONTH_DAY} {_CLOCK} \S{{1,120}} "
        rf"(?P<speaker>[\w./@+-]{{1,80}}(?:\[\d{{1,9}}\])?):{_SPACE}",
        example="Apr 29 12:31:28 host ollama[1654667]: CUDA error: out of memory",
        rest="CUDA error: out of memory", speaker="ollama[1654667]",
    ),
    Prefix(
        name="syslog", after=True,
        pattern=rf"(?:[\w.-]{{1,120}} )?(?P<speaker>[\w./@+-]{{1,80}}\[[\w.]{{1,20}}\]):{_SPACE}",
        example="2025-04-29T12:31:28.521+02:00 host ollama[77]: Killed", rest="Killed",
        speaker="ollama[77]",
    ),
    Prefix(
        name="slog", pattern=r'time=(?:"[^"]{10,40}"|\S{10,40}) level=\w{4,8}' + _SPACE,
        example='time=2025-05-16T17:44:49.187+02:00 level=INFO source=server.go:168 msg=offload',
        rest="source=server.go:168 msg=offload",
    ),
    Prefix(
        name="vLLM", origin="vllm",
        pattern=rf"{_LEVEL} \d\d-\d\d {_CLOCK} \[?{_SOURCE}\]{_SPACE}",
        example="ERROR 04-05 01:12:55 [core.py:390] ValueError: No available memory",
        rest="ValueError: No available memory",
    ),
    Prefix(
        name="vLLM's process", origin="vllm",
        pattern=r"\((?P<speaker>(?:EngineCore|VllmWorker|Worker|APIServer|ApiServer|DPCoordinator)"
        rf"\w{{0,40}}(?: rank=\d{{1,5}})? {_PID})\){_SPACE}",
        example="(VllmWorker rank=1 pid=2978) torch.OutOfMemoryError: CUDA out of memory.",
        rest="torch.OutOfMemoryError: CUDA out of memory.", speaker="VllmWorker rank=1 pid=2978",
    ),
    Prefix(
        name="Ray", origin="ray",
        pattern=r"\((?P<speaker>[\w.:<>/-]{1,120}(?:\([^()\n]{0,80}\))? "
        rf"{_PID}{_IP})\){_SPACE}",
        example="(train_fn pid=123, ip=10.0.0.1)     loss.backward()", rest="    loss.backward()",
        speaker="train_fn pid=123, ip=10.0.0.1",
    ),
    Prefix(
        name="Ray's own", origin="ray",
        pattern=rf"\((?P<speaker>raylet{_IP}|{_PID}{_IP}|autoscaler \+\w{{1,12}})\){_SPACE}",
        example="(raylet) 2 Workers killed due to memory pressure", speaker="raylet",
        rest="2 Workers killed due to memory pressure",
    ),
    Prefix(
        name="torchrun", pattern=r"\[(?P<speaker>(?:rank|default)\d{1,5})\]: ?",
        example='[rank0]:   File "train.py", line 3, in main',
        rest='  File "train.py", line 3, in main', speaker="rank0",
    ),
    Prefix(
        name="rank in brackets", pattern=r"\[(?P<speaker>\d{1,5})\]:" + _SPACE,
        example="[3]: RuntimeError: CUDA error: out of memory",
        rest="RuntimeError: CUDA error: out of memory", speaker="3",
    ),
    Prefix(
        name="Open MPI", pattern=r"\[(?P<speaker>\d{1,5},\d{1,5})\]<std(?:out|err)>: ?",
        example="[1,7]<stderr>: MemoryError", rest="MemoryError", speaker="1,7",
    ),
    Prefix(
        name="srun --label", most=True, pattern=r"(?P<speaker>\d{1,5}): ",
        example="12: RuntimeError: CUDA error: out of memory",
        rest="RuntimeError: CUDA error: out of memory", speaker="12",
    ),
    Prefix(
        name="SUBPROCESS", pattern=r"SUBPROCESS:" + _SPACE,
        example="SUBPROCESS: RuntimeError: CUDA error: out of memory",
        rest="RuntimeError: CUDA error: out of memory",
    ),
    Prefix(
        name="pytest", pattern=r"E {3,8}(?=\S)",
        example="E       RuntimeError: CUDA out of memory.",
        rest="RuntimeError: CUDA out of memory.",
    ),
    Prefix(
        name="transformers",
        pattern=rf"\[{_LEVEL}\|[\w.]{{1,80}}:\d{{1,6}}\] {_DAY} {_CLOCK} >>" + _SPACE,
        example="[INFO|trainer.py:2128] 2024-07-06 02:12:04,333 >> ***** Running training *****",
        rest="***** Running training *****",
    ),
    Prefix(
        name="glog", pattern=rf"[IWEF]\d{{4,8}} {_CLOCK} {{1,8}}(?:\d{{1,9}} )?{_SOURCE}\]{_SPACE}",
        example="E1105 08:01:02.123000 140 torch/distributed/elastic/api.py:869] failed",
        rest="failed",
    ),
    Prefix(
        name="glog in brackets",
        pattern=rf"\[[IWEF]\d{{4,8}} {_CLOCK} {{1,8}}(?:\d{{1,9}} )?{_SOURCE}\]{_SPACE}",
        example="[rank3]:[W1105 08:01:02.123 ProcessGroupNCCL.cpp:1496] Warning", rest="Warning",
        speaker="rank3",
    ),
    Prefix(
        name="date", pattern=rf"(?:{_DAY}|\d\d/\d\d/\d{{4}}) {_CLOCK}(?: {{0,2}}[-|:])? {{1,2}}",
        example="2026-01-05 12:01:02,333 - CUDA out of memory.", rest="CUDA out of memory.",
    ),
    Prefix(
        name="loguru, level first",
        pattern=rf"{_LEVEL} {{1,6}}\| {_DAY} {_CLOCK} \| ",
        example="ERROR    | 2024-08-21 22:56:04 | autotrain.trainers.common:wrapper:121 - HIP out",
        rest="HIP out",
    ),
    Prefix(
        name="TensorFlow's own", origin="tensorflow", after=True,
        pattern=r"[IWEF] tensorflow/(?:core|python|stream_executor)/[\w./-]{1,140}:\d{1,6}\]"
        + _SPACE,
        example="2019-07-21 23:23:06.228049: E tensorflow/stream_executor/cuda.cc:828] failed",
        rest="failed",
    ),
    Prefix(
        name="TensorFlow", after=True, pattern=rf"[IWEF] [\w./-]{{1,160}}:\d{{1,6}}\]{_SPACE}",
        example="2023-01-01 12:00:00.123456: W tensorflow/core/bfc_allocator.cc:479] Allocator ran",
        rest="Allocator ran",
    ),
    Prefix(
        name="logger and level", after=True,
        pattern=rf"[\w.]{{1,100}} - {_LEVEL} - ",
        example="2026-01-05 12:01:02,333 - __main__ - ERROR - Killed", rest="Killed",
    ),
    Prefix(
        name="level", after=True, pattern=rf"\[?{_LEVEL}\b\]?(?: {{0,6}}[-|:])?(?: {{1,4}}|$)",
        example="2023-12-22T00:21:35.318928Z ERROR text_generation_client: Server error",
        rest="text_generation_client: Server error",
    ),
    Prefix(
        name="module", after=True,
        pattern=r"[\w<>]{1,80}(?:[.:][\w<>]{1,80}){1,10} {1,2}[-|] ",
        example="07/06/2024 02:12:04 - INFO - llamafactory.model.attention - Using torch SDPA",
        rest="Using torch SDPA",
    ),
    Prefix(
        name="source in braces", after=True,
        pattern=rf"\{{{_SOURCE}\}} {_LEVEL} - ",
        example="[2023-01-01, 12:00:00 UTC] {taskinstance.py:12} ERROR - Killed", rest="Killed",
    ),
    Prefix(
        name="source in brackets", pattern=rf"\[{_SOURCE}\]{_SPACE}",
        example="[multiproc_executor.py:492] ValueError: Free memory on device",
        rest="ValueError: Free memory on device",
    ),
    Prefix(
        name="logging", pattern=rf"{_LEVEL}:[\w.]{{1,100}}:(?=\S)",
        example="WARNING:root:Some parameters are on the meta device",
        rest="Some parameters are on the meta device",
    ),
)  # fmt: skip
"""In their precedence; each is tested by its example."""

PROGRAMS: Final = (
    ("ollama", "ollama"), ("vllm", "vllm"), ("sglang", "sglang"), ("raylet", "ray"),
    ("text-generation", "tgi"), ("text_generation", "tgi"), ("tgi", "tgi"),
    ("dockerd", "docker"), ("containerd", "docker"), ("kubelet", "kubernetes"),
    ("slurm", "slurm"),
)  # fmt: skip
"""Words of a speaker, and the program that they are a name of."""

WORDS: Final = (
    ("text_generation_client", "tgi"), ("text_generation_launcher", "tgi"),
    ("text_generation_router", "tgi"), ("/sglang/srt/", "sglang"), ("slurmstepd: ", "slurm"),
    ("srun: error: ", "slurm"), (":sigkill_handler] ", "deepspeed"),
    (":see_memory_usage] ", "deepspeed"), ("<ipython-input-", "notebook"),
    ("Cell In[", "notebook"), ("/ipykernel_", "notebook"), ("ray.exceptions.", "ray"),
)  # fmt: skip
"""Words of the text that stand in a prefix of their own kind or in a frame, and their program."""
