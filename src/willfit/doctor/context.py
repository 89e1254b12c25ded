"""Context: the traceback around a report, the stage in which it happened, and clues."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Final

from willfit.doctor.clues import CLUES, clues_in
from willfit.doctor.frames import frames_of
from willfit.doctor.passage import Line, Passage
from willfit.doctor.report import Context, Frame, Report, Stage

__all__ = ["CLUES", "context_of", "stage_of"]

BEFORE: Final = 160
"""Lines before a report that are looked at: the longest tracebacks of training run to about 100."""
AFTER: Final = 40
NEAR: Final = 24
"""Lines kept on each side for people and for later rules."""
WIDE: Final = 320
"""Characters of a line that are looked at."""

_FRAMES: Final[tuple[tuple[Stage, str], ...]] = (
    ("merge", r"merge_and_unload|merge_adapter|merge_lora|get_delta_weight"),
    ("optimizer-step", r"optim\S{0,40}\|step\||optimizer_step|_multi_tensor_|_foreach_|exp_avg"
        r"|optimizer\.step\(|optim\.step\(|/optim/(?:adam|sgd|optimizer)"),
    ("train-backward", r"\.backward\(|\|backward\||_engine_run_backward|C\+\+ engine to run"
        r"|training_step_backward"),
    ("resume", r"_load_optimizer_and_scheduler|_load_from_checkpoint|load_optimizer"
        r"|_load_rng_state|\A(?![\s\S]*(?:training_step|compute_loss|\|forward\|))"
        r"[\s\S]*resume_from_checkpoint"),
    ("eval", r"evaluation_loop|prediction_loop|prediction_step|pad_across_processes"
        r"|nested_concat|_maybe_log_save_evaluate|\|evaluate\||\.evaluate\(|validation_step"
        r"|compute_metrics|gather_for_metrics|\|validate\|"),
    ("save", r"\|_?save_(?:model|checkpoint|pretrained|state)|save_model_and|\.save_model\("
        r"|\.save_pretrained\(|checkpoint_handler|clone\(\) tensor with name"
        r"|(?<!load_)\bstate_dict\(|full_state_dict|_optim_state_dict"),
    ("serve-init", r"determine_(?:num_)?available|initialize_kv_cache|profile_run|capture_model"
        r"|_dummy_(?:sampler_)?run|compile_or_warm_up|init_device|raise_if_cache_size"
        r"|init_cache_engine|_initialize_kv_caches|\|warmup\||init_memory_pool"
        r"|_run_profile|profile_num_available"),
    ("load", r"_load_pretrained_model|_load_state_dict_into_meta|from_pretrained"
        r"|from_single_file|set_module_tensor_to_device|dispatch_model|load_state_dict"
        r"|\|load_model\||load_weights"
        r"|(?:model|pipe|pipeline|unet|net|encoder|transformer)\w*\.(?:to|cuda|half|float)\("
        r"|\|_apply\||\|convert\||_copy_device_array_to_device|weight\.data\.to\("),
    ("generate", r"\|(?:generate|_generate|contrastive_search|_?beam_search|greedy_search"
        r"|generate_reply\w*)\||\.generate\(|generation/utils\.py\|_?sample"),
    ("serve-run", r"forward_fill_batch|prepare_for_extend|execute_model|\|prefill\||\|decode\|"
        r"|process_input_requests|run_batch|event_loop|/chat/completions"),
    ("train-forward", r"training_step|compute_loss|_inner_training_loop|\|train\w*\||\.train\("
        r"|\|fit\||\.fit\(|labels=|/train\w*\.py|train_step|_convert_to_fp32|/trainer"
        r"|loss\w*\s?=|cross_entropy|lightning|sft_\w*\.py"),
    ("inference", r"\|(?:predict|infer\w*|inference|encode|detect|transcribe)\||infer\w*\.py"
        r"|InferenceCore|diffusers/pipelines|pipe\w*\(|no_grad|gradio|webui|comfy"),
)  # fmt: skip
"""By words of a frame ``file|function|code``, most telling stage first: a save inside a training
loop is a save."""

_WORDS: Final[tuple[tuple[Stage, str], ...]] = (
    ("serve-init", r"cache blocks|max seq len|on startup is less|warming up (?:sampler|pooler)"
        r"|warmup\{|mem-fraction-static|larger than the profiled value|total_gpu_memory"
        r"|modelinstancestate|graph_reserve|failed to create context|kv self size"
        r"|error loading llama server|_dummy_sampler_run|engine core initialization"),
    ("generate", r"output generated in|llm -f"),
    ("load", r"dispatched on the cpu|unused kwargs|meta device|unable to mmap|winerror 1455"
        r"|requires more system memory|unable to allocate backend buffer|model loading was"
        r"|insufficient system resources"),
    ("serve-run", r"graph_compute|kv_cache_update|server error: |batch_prefill_tmp"),
    ("load", r"loading checkpoint shards|loading a checkpoint|loading (?:model|weights)"),
    ("save", r"clone\(\) tensor with name|saving model checkpoint"),
    ("eval", r"\*{3,} running (?:evaluation|prediction)"),
    ("train-forward", r"num epochs|\bepoch[ :]\s?\d|\|\s?\d+/\d+ \[[^\]]{0,60}loss"
        r"|test_\w{0,40}train\w{0,30}"),
)  # fmt: skip
"""By words of the message or the lines at it, where frames tell nothing."""
STAGES: Final = tuple((stage, re.compile(pattern)) for stage, pattern in _FRAMES)
WORDS: Final = tuple((stage, re.compile(pattern, re.IGNORECASE)) for stage, pattern in _WORDS)


def context_of(passage: Passage, report: Report) -> Context:
    """What stands around ``report`` in the passage that it was found in."""
    lines = _window(passage, report)
    own = [x for x in lines if x.speaker == report.speaker] if report.speaker else lines
    frames = frames_of([x.text[:WIDE] for x in own], _last(own, report))
    near = _near(lines, report)
    words = "\n".join((report.quote, *near))
    return Context(
        frames=frames,
        stage=stage_of(frames, words),
        clues=clues_in("\n".join([report.quote, *(x.text[:WIDE] for x in lines)]), passage.origins),
        nearby=near,
    )


def stage_of(frames: tuple[Frame, ...], words: str = "") -> Stage:
    """The stage that frames tell, else the words at the report; ``unknown`` where neither does."""
    text = "\n".join(f"{x.file}|{x.function}|{x.code}"[:WIDE] for x in frames)
    for table, said in ((STAGES, text), (WORDS, words)):
        for stage, pattern in table if said else ():
            if pattern.search(said):
                return stage
    return "unknown"


def _window(passage: Passage, report: Report) -> list[Line]:
    end = max(report.line, report.last_line)
    first = max(0, bisect_left(passage.lines, report.line, key=_number) - BEFORE)
    last = bisect_right(passage.lines, end, key=_number) + AFTER
    return list(passage.lines[first:last])


def _last(lines: list[Line], report: Report) -> int:
    """Index of the report's first line among ``lines``."""
    return max(0, bisect_right(lines, report.line, key=_number) - 1)


def _number(line: Line) -> int:
    return line.number


def _near(lines: list[Line], report: Report) -> tuple[str, ...]:
    low, high = report.line - NEAR, report.last_line + NEAR
    return tuple(x.text[:WIDE] for x in lines if low <= x.number <= high and x.text.strip())
