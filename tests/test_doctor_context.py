"""Context: frames however a traceback was printed, the stage that they tell, and clues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.growth import grows_at_most

from willfit.doctor.clues import CLUES, clues_in
from willfit.doctor.context import context_of, stage_of
from willfit.doctor.frames import MOST, frames_of
from willfit.doctor.passage import Line, Passage
from willfit.doctor.report import Context, Frame, Report

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."


def _context(text: str, *, at: str = "out of memory", speaker: str = "") -> Context:
    lines = [Line(number=i, text=x, speaker=speaker) for i, x in enumerate(text.splitlines(), 1)]
    number = next(line.number for line in lines if at in line.text)
    quote = lines[number - 1].text
    report = Report(
        family="pytorch-cuda", line=number, last_line=number, quote=quote, speaker=speaker
    )
    return context_of(Passage(lines), report)


STANDARD = f"""Traceback (most recent call last):
  File "/x/train.py", line 12, in <module>
    trainer.train()
    ^^^^^^^^^^^^^^^
  File "/x/torch/nn/modules/linear.py", line 116, in forward
    return F.linear(input, self.weight, self.bias)
{OOM}
"""
NO_SOURCE = f"""Traceback (most recent call last):
  File "/x/train.py", line 12, in <module>
  File "/x/torch/nn/modules/linear.py", line 116, in forward
{OOM}
"""
ONE_LINE = f"""Traceback (most recent call last):
  File ".../trainer/sft.py", in fit
  File ".../low_level_optim.py", in step  self.optim.step()
{OOM}
"""
IPYTHON_7 = f"""13 frames
/usr/local/lib/python3.10/dist-packages/accelerate/utils/operations.py in _convert_to_fp32(tensor)
    780     def _convert_to_fp32(tensor):
--> 781         return tensor.float()
    782
{OOM}
"""
IPYTHON_8 = f"""---------------------------------------------------------------------------
OutOfMemoryError                          Traceback (most recent call last)
Cell In[5], line 3
      1 import torch
----> 3 trainer.train()

File /usr/lib/python3.11/site-packages/torch/nn/modules/module.py:1553, in Module._call_impl(self, *args)
   1551 else:
-> 1553     return forward_call(*args, **kwargs)
{OOM}
"""
RICH = f"""╭───────────────────── Traceback (most recent call last) ──────────────────────╮
│ /x/generate.py:105 in main                                                   │
│                                                                              │
│ ❱ 105 │   module.weight.data = module.weight.data.to(device)                 │
╰──────────────────────────────────────────────────────────────────────────────╯
{OOM}
"""
PYTEST = f"""tests/test_a.py:7: in test_it
    model(x)
src/model.py:31: in forward
>   return self.out(x)
E   {OOM}
"""
CHAINED = f"""Traceback (most recent call last):
  File "/x/first.py", line 1, in opened
    open("a")
FileNotFoundError: a

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/second.py", line 2, in loaded
    model.to("cuda")
{OOM}
"""
CPP = f"""Traceback (most recent call last):
  File "/x/a.py", line 2, in f
    y = g(x)
frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x57 (0x7f in /x/libc10.so)
frame #3: at::native::empty_cuda in /x/EmptyTensor.cpp
{OOM}
"""
FRAMES = [
    (STANDARD, [("/x/train.py", "<module>", 12, "trainer.train()"),
                ("/x/torch/nn/modules/linear.py", "forward", 116, "return F.linear(input, self.weight, self.bias)")]),
    (NO_SOURCE, [("/x/train.py", "<module>", 12, ""), ("/x/torch/nn/modules/linear.py", "forward", 116, "")]),
    (ONE_LINE, [(".../trainer/sft.py", "fit", None, ""), (".../low_level_optim.py", "step", None, "self.optim.step()")]),
    (IPYTHON_7, [("/usr/local/lib/python3.10/dist-packages/accelerate/utils/operations.py", "_convert_to_fp32", 781, "return tensor.float()")]),
    (IPYTHON_8, [("In[5]", "", 3, "trainer.train()"),
                 ("/usr/lib/python3.11/site-packages/torch/nn/modules/module.py", "Module._call_impl", 1553, "return forward_call(*args, **kwargs)")]),
    (RICH, [("/x/generate.py", "main", 105, "module.weight.data = module.weight.data.to(device)")]),
    (PYTEST, [("tests/test_a.py", "test_it", 7, "model(x)"), ("src/model.py", "forward", 31, "return self.out(x)")]),
    (CHAINED, [("/x/second.py", "loaded", 2, 'model.to("cuda")')]),
    (CPP, [("/x/a.py", "f", 2, "y = g(x)")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FRAMES)
def test_frames_of_every_print_of_a_traceback(
    text: str, expected: list[tuple[str, str, int | None, str]]
) -> None:
    found = _context(text).frames
    assert [(x.file, x.function, x.line, x.code) for x in found] == expected


def test_a_traceback_that_was_pasted_behind_the_message_counts() -> None:
    text = f'{OOM}\nOutput generated in 2 s\nTraceback (most recent call last):\n  File "/x/utils.py", in contrastive_search\n'
    assert [x.function for x in _context(text).frames] == ["contrastive_search"]


def test_the_traceback_of_an_earlier_failure_does_not_count() -> None:
    earlier = (
        'Traceback (most recent call last):\n  File "/x/a.py", line 1, in save_model\nOSError\n'
    )
    text = earlier + STANDARD
    assert [x.function for x in _context(text).frames] == ["<module>", "forward"]


def test_a_source_line_that_is_left_of_a_cut_traceback_is_a_frame() -> None:
    text = f"    model.to('cuda:0')\n{OOM}"
    context = _context(text)
    assert [x.code for x in context.frames] == ["model.to('cuda:0')"]
    assert context.stage == "load"


def test_lines_of_other_ranks_are_no_frames_of_this_one() -> None:
    mine = ['  File "/x/a.py", line 1, in mine', OOM]
    others = ['  File "/x/b.py", line 1, in other'] * 3
    lines = [
        Line(number=i, text=text, speaker="rank1" if text in others else "rank0")
        for i, text in enumerate([mine[0], *others, mine[1]], 1)
    ]
    report = Report(family="pytorch-cuda", line=5, last_line=5, quote=OOM, speaker="rank0")
    assert [x.function for x in context_of(Passage(lines), report).frames] == ["mine"]


def _frame(place: str) -> Frame:
    file, function, code = place.split("|")
    return Frame(file=file, function=function, code=code)


STAGES = [
    ("x/modeling_utils.py|_load_state_dict_into_meta_model|", "load"),
    ("run.py|<module>|model = AutoModelForCausalLM.from_pretrained(name)", "load"),
    ("run.py|<module>|self.model.cuda()", "load"),
    ("run.py|main|loss.backward()", "train-backward"),
    ("torch/autograd/function.py|backward|", "train-backward"),
    ("torch/optim/adamw.py|step|", "optimizer-step"),
    ("a.py|_multi_tensor_adamw|torch._foreach_sqrt(x)", "optimizer-step"),
    ("a.py|f|denom = (exp_avg_sq.sqrt() / bias).add_(eps)", "optimizer-step"),
    ("transformers/trainer.py|evaluation_loop|", "eval"),
    ("accelerate/utils/operations.py|pad_across_processes|", "eval"),
    ("transformers/trainer.py|_save_checkpoint|", "save"),
    ("a.py|f|cpu_state = model.state_dict()", "save"),
    ("peft/tuners/lora/model.py|merge_and_unload|", "merge"),
    ("transformers/trainer.py|_load_optimizer_and_scheduler|", "resume"),
    ("a.py|main|trainer.train(resume_from_checkpoint=True)", "resume"),
    ("transformers/generation/utils.py|generate|", "generate"),
    ("transformers/generation/utils.py|_sample|", "generate"),
    ("vllm/v1/worker/gpu_worker.py|determine_available_memory|", "serve-init"),
    ("vllm/v1/worker/gpu_model_runner.py|capture_model|", "serve-init"),
    ("vllm/v1/worker/gpu_model_runner.py|execute_model|", "serve-run"),
    ("transformers/trainer.py|compute_loss|", "train-forward"),
    ("diffusers/pipelines/x.py|__call__|", "inference"),
    ("torch/nn/modules/linear.py|forward|", "unknown"),
]


@pytest.mark.parametrize(("place", "stage"), STAGES)
def test_the_stage_is_that_of_the_frames(place: str, stage: str) -> None:
    assert stage_of((_frame(place),)) == stage


def test_what_is_inside_a_training_loop_is_told_by_the_inner_frames() -> None:
    outer = _frame("transformers/trainer.py|_inner_training_loop|")
    resumed = _frame("a.py|main|trainer.train(resume_from_checkpoint=True)")
    assert stage_of((outer, _frame("transformers/trainer.py|evaluation_loop|"))) == "eval"
    assert stage_of((outer, _frame("a.py|save_model|"))) == "save"
    assert stage_of((resumed, outer, _frame("a.py|compute_loss|"))) == "train-forward"


def test_words_tell_the_stage_where_frames_do_not() -> None:
    assert stage_of((), "Loading checkpoint shards:  38%|###| 3/8 [00:02<00:03]Killed") == "load"
    assert stage_of((), "No available memory for the cache blocks.") == "serve-init"
    assert stage_of((), "nothing of the kind") == "unknown"


CLUE_TEXTS = {
    "wsl": "Linux 5.15.90.1-microsoft-standard-WSL2",
    "windows": r'File "C:\Users\x\torch\a.py"',
    "jetson": "NVIDIA Jetson AGX Orin",
    "mig": "MIG 3g.40gb",
    "apple": "MPS backend out of memory",
    "deepspeed": "[launch.py:315:sigkill_handler] Killing subprocess",
    "zero_offload": '"offload_optimizer": {"device": "cpu"}',
    "fsdp": "fully_sharded_data_parallel.py",
    "ddp": "failed (exitcode: 1) local_rank: 0",
    "dataparallel": "torch/nn/parallel/data_parallel.py",
    "ray": "(raylet) worker died",
    "docker": "web-app-1  | started",
    "kubernetes": "OOMKilled",
    "slurm": "slurmstepd: error",
    "kaggle": "/kaggle/working",
    "colab": "/content/train.py",
    "notebook": "Cell In[5], line 3",
    "resumed": "trainer.train(resume_from_checkpoint=True)",
    "dpo": "trl/trainer/dpo_trainer.py",
    "grpo": "GRPOTrainer",
    "lora": "peft/tuners/lora/layer.py",
    "quantized": "bitsandbytes/autograd/_functions.py",
    "packing": "flash_attn/bert_padding.py",
    "contrastive_search": "in contrastive_search",
    "beam_search": "num_beams=4",
    "vision": "pixel_values",
    "diffusion": "diffusers/pipelines",
    "first_step": "at iteration 0",
    "late_step": "step 18853",
    "printed": "print: CUDA out of memory",
    "pytest": "FAILED tests/test_a.py::test_b - torch.OutOfMemoryError",
    "sampler_warmup": "self.model_runner._dummy_sampler_run(x)",
    "graph_capture": "Capturing the model for CUDA graphs",
    "non_blocking": "x.to(device, non_blocking=True)",
    "sleep_mode": "Sleep mode freed 9.19 GiB memory",
    "loading": "Loading checkpoint shards:   0%",
    "vllm": "vllm/worker/worker.py",
    "sglang": "--mem-fraction-static",
    "tgi": "text_generation_client",
    "ollama": "ollama[6012]:",
}


def test_every_clue_has_words_and_a_meaning() -> None:
    assert CLUE_TEXTS.keys() == CLUES.keys()
    missed = [name for name, text in CLUE_TEXTS.items() if name not in clues_in(text)]
    assert missed == []
    assert all(means.endswith(".") for means in CLUES.values())


def test_a_plain_message_has_no_clues() -> None:
    assert clues_in(OOM) == frozenset()
    assert clues_in("Epoch 3/10, step size 0.1, loss 0.2, 10 % done") == frozenset()


def test_programs_that_prefixes_name_are_clues() -> None:
    assert clues_in(OOM, frozenset({"vllm", "no such program"})) == {"vllm"}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.text(max_size=60)
        | st.sampled_from([OOM, "Traceback (most recent call last):", '  File "a.py", line 1, in f',
                           "--> 3   x = 1", "│ ❱ 105 │ y", "During handling of the above exception"]),
        min_size=1, max_size=60,
    ),
    st.integers(0, 59),
)  # fmt: skip
def test_any_lines_give_a_bounded_context(texts: list[str], index: int) -> None:
    lines = [Line(number=i, text=text) for i, text in enumerate(texts, 1)]
    number = min(index, len(lines) - 1) + 1
    report = Report(family="pytorch-cuda", line=number, last_line=number, quote=texts[number - 1])
    context = context_of(Passage(lines), report)
    assert len(context.frames) <= MOST
    assert sum(map(len, context.nearby)) <= 49 * 320
    assert context.clues <= CLUES.keys()


def test_time_does_not_grow_with_the_passage() -> None:
    """A window is looked at: 100 times the lines cost at most a few times as much."""

    def looking(count: int) -> Callable[[], object]:
        lines = [Line(number=i, text='  File "' + "a" * 5000) for i in range(1, count + 1)]
        report = Report(family="pytorch-cuda", line=count, last_line=count, quote=OOM)
        passage = Passage(lines)
        return lambda: [context_of(passage, report) for _ in range(3)]

    assert grows_at_most(20, looking(400), looking(40_000), least=0.01)


def test_frames_of_no_lines() -> None:
    assert frames_of([], 0) == ()
