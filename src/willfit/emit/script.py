"""What every emitted script has: its heading, environment, imports, names, model and adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from willfit.emit.arguments import Arguments
from willfit.emit.call import Call, Variable
from willfit.emit.code import assignment, call_lines, imports, literal, said
from willfit.emit.loading import CAUSAL, auto_class
from willfit.scenario import Scenario


@dataclass(kw_only=True)
class Script:
    """Blocks of code with the names that they import."""

    modules: set[str] = field(default_factory=set)
    names: dict[str, set[str]] = field(default_factory=dict)
    blocks: list[list[str]] = field(default_factory=list)

    def use(self, library: str, *names: str) -> None:
        """Names that the code takes from a library."""
        self.names.setdefault(library, set()).update(names)

    def add(self, *lines: str) -> None:
        """A block of code: what stands together."""
        if lines:
            self.blocks.append(list(lines))

    def text(self, heading: Iterable[str], environment: Iterable[str]) -> str:
        """The whole script; the environment comes before the imports that read it."""
        before = list(environment)
        head = ["\n".join(heading)]
        if before:
            head += ["import os", "\n".join(before)]
            self.modules.discard("os")
        standard = sorted(self.modules & _STANDARD)
        if standard:
            head.append("\n".join(f"import {name}" for name in standard))
        head.append("\n".join(imports(self.names, self.modules - _STANDARD)))
        return "\n\n".join([*head, *("\n".join(block) for block in self.blocks)]) + "\n"


_STANDARD = {"os", "json", "sys", "subprocess"}


def heading(scenario: Scenario, doing: str, run: str) -> list[str]:
    """What the script does, for what it was written, how it is run."""
    versions = scenario.stack.versions
    with_ = ", ".join(f"{name} {said(versions[name], 20)}" for name in _USED if name in versions)
    return [f'"""{said(scenario.model.id)}: {doing}{machine_words(scenario)}."""', "",
            f"# Written for {with_}.", f"# Run: {run}"]  # fmt: skip


_USED = ("torch", "transformers", "peft", "bitsandbytes", "trl")


def machine_words(scenario: Scenario) -> str:
    """`` on 2 × NVIDIA T4``; empty where no GPU was named."""
    if scenario.machine is None:
        return ""
    names = [gpu.name for gpu in scenario.machine.gpus]
    kinds = list(dict.fromkeys(names))
    return " on " + ", ".join(f"{names.count(kind)} × {said(kind, 40)}" for kind in kinds)


def environment_lines(arguments: Arguments) -> list[str]:
    """Set before torch is imported; a value that is there already stays."""
    return [
        f"os.environ.setdefault({literal(name)}, {literal(value)})"
        for name, value in arguments.environment.items()
    ]


def device_lines(script: Script, arguments: Arguments) -> list[str]:
    """``DEVICE``: this process's GPU, or the CPU where there is none."""
    script.modules.add("torch")
    if arguments.launch.starter == "python":
        return ['DEVICE = 0 if torch.cuda.is_available() else "cpu"']
    script.modules.add("os")
    return [
        'RANK = int(os.environ.get("LOCAL_RANK", "0"))  # the launcher numbers its processes',
        'DEVICE = RANK if torch.cuda.is_available() else "cpu"',
    ]


def needs_device(arguments: Arguments) -> bool:
    """Whether the loading call names ``DEVICE``."""
    placed = arguments.load.arguments.get("device_map")
    return isinstance(placed, dict) and any(isinstance(v, Variable) for v in placed.values())


def tokenizer_lines(script: Script, scenario: Scenario, *, padding_side: str = "") -> list[str]:
    """The tokenizer, with a padding token where it has none."""
    script.use("transformers", "AutoTokenizer")
    keywords = {"padding_side": padding_side} if padding_side else {}
    if scenario.workload.loading.trust_remote_code:
        keywords["trust_remote_code"] = True  # type: ignore[assignment]  # a literal of its own
    call = Call(library="transformers", name="AutoTokenizer.from_pretrained", arguments=keywords)
    return [
        *call_lines("tokenizer", call, ["MODEL"]),
        "if tokenizer.pad_token is None:",
        "    tokenizer.pad_token = tokenizer.eos_token",
    ]


def model_lines(script: Script, scenario: Scenario, arguments: Arguments) -> list[str]:
    """The model as it is loaded."""
    script.use("transformers", auto_class(scenario))
    for value in arguments.load.arguments.values():
        if isinstance(value, Call):
            script.use(value.library, value.name)
    script.modules.add("torch")
    return call_lines("model", arguments.load, ["MODEL"])


def model_name(scenario: Scenario) -> list[str]:
    """``MODEL``."""
    return assignment("MODEL", scenario.model.id)


def pad_lines(scenario: Scenario) -> list[str]:
    """A decoder that classifies looks for the last token before the padding."""
    if auto_class(scenario) == CAUSAL:
        return []
    return ["model.config.pad_token_id = tokenizer.pad_token_id"]


def adapter_lines(script: Script, arguments: Arguments, *, path: str = "") -> list[str]:
    """``get_peft_model``; with a path, a trained adapter from there."""
    if arguments.adapter is None:
        return []
    call = arguments.adapter
    script.use("peft", call.name, "get_peft_model")
    lines = call_lines("adapter", call)
    if path:
        script.use("peft", "PeftModel")
        lines += [
            f"if {path} is None:",
            "    model = get_peft_model(model, adapter)  # untrained: changes nothing yet",
            "else:",
            f"    model = PeftModel.from_pretrained(model, {path})",
        ]
    else:
        lines.append("model = get_peft_model(model, adapter)")
    if arguments.merge_adapter:
        lines.append("model = model.merge_and_unload()  # the adapter's products in the weights")
    return lines


def kernel_lines(script: Script, arguments: Arguments) -> list[str]:
    """``with sdpa_kernel(…):`` around a step, where one kernel alone is allowed."""
    if arguments.sdpa_kernel is None:
        return []
    script.use("torch.nn.attention", "SDPBackend", "sdpa_kernel")
    return [f"with sdpa_kernel(SDPBackend.{arguments.sdpa_kernel}):  # no other kernel"]


def indented(lines: Iterable[str], by: int = 4) -> list[str]:
    """The lines one level deeper."""
    return [" " * by + line if line else line for line in lines]
