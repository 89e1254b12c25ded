"""``generate``, the forward pass, the batch and the length of prompts in a user's code."""

from __future__ import annotations

from willfit.doctor.edits import Edit, after_statement
from willfit.doctor.placing import Code, Nowhere, changed
from willfit.doctor.placing.around import place_kernel
from willfit.emitting import Arguments
from willfit.emitting.generation import prompt_length
from willfit.scenario import Inference, Scenario


def place_inference(
    code: Code, before: Scenario, after: Scenario, old: Arguments, new: Arguments
) -> list[Edit]:
    """Edits for every setting of the inference that differs."""
    first, then = before.workload.inference, after.workload.inference
    if first is None or then is None:
        return []
    edits = _batch(code, then.batch_size) if first.batch_size != then.batch_size else []
    if first.use_cache and not then.use_cache:
        line = f"{code.variable()}.config.use_cache = False"
        edits.append(after_statement(code.site("load"), [line], code.cells))
    if first.full_logits and not then.full_logits:
        return [*edits, code.set(code.site("forward"), "logits_to_keep", 1, "num_logits_to_keep")]
    edits += _lengths(code, before, after, first, then)
    step = "generate" if code.has("generate") else "forward"
    edits += _generate(code, old, new)
    return edits + place_kernel(code, old.sdpa_kernel, new.sdpa_kernel, step)


def _generate(code: Code, old: Arguments, new: Arguments) -> list[Edit]:
    edits: list[Edit] = []
    for name, value in changed(old.generate, new.generate).items():
        if value is None:
            raise Nowhere
        edits.append(code.set(code.site("generate"), name, value))
    return edits


def _lengths(
    code: Code, before: Scenario, after: Scenario, first: Inference, then: Inference
) -> list[Edit]:
    """The prompt's part of the context is cut where it is tokenised."""
    if first.context_len == then.context_len or prompt_length(before) == prompt_length(after):
        return []
    length = prompt_length(after)
    if length < 1:
        raise Nowhere
    if code.loaded.rows:
        return code.cut_rows(length)
    site = code.site("tokens")
    given = [] if "truncation" in site.given else [code.set(site, "truncation", True)]
    return [*given, code.set(site, "max_length", length)]


def _batch(code: Code, value: int) -> list[Edit]:
    """Of the loader, of the stride over the rows, or of a pipeline's call."""
    if code.has("loader"):
        return [code.set(code.site("loader"), "batch_size", value)]
    if code.has("strides"):
        return [code.stride(value)]
    site = code.site("generate")
    if "batch_size" not in site.given:
        raise Nowhere
    return [code.set(site, "batch_size", value)]
