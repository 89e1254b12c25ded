"""Settings files: keys that their reader refuses, drops or takes for something else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from willfit.doctor.lint.finding import Finding, Severity
from willfit.doctor.lint.renames import ADVICE, RENAMES
from willfit.doctor.lint.rules.memory_limits import misread
from willfit.doctor.lint.signatures import Signature, Signatures, here
from willfit.doctor.lint.spelling import near
from willfit.scenario.stack import Stack

MAX_BYTES: Final = 2**20
"""Bound on a settings file; a real one has a few kilobytes."""
_MAX_NODES: Final = 20_000
"""Bound on values once YAML's references are followed."""
_MAX_DEPTH: Final = 40
_TRAINER: Final = frozenset(
    {"per_device_train_batch_size", "num_train_epochs", "learning_rate", "output_dir",
     "gradient_accumulation_steps", "lr_scheduler_type", "logging_steps", "save_steps"}
)  # fmt: skip
_TRL: Final = (
    "trl.SFTConfig", "trl.DPOConfig", "trl.GRPOConfig", "trl.KTOConfig", "trl.RewardConfig",
    "trl.RLOOConfig", "trl.ModelConfig", "trl.ScriptArguments", "transformers.TrainingArguments",
)  # fmt: skip
_OFF: Final = frozenset({"false", "no", "off", "0"})
_BNB: Final = re.compile(r"bnb_8bit_\w+|load_in_[48]bits")
_PEFT: Final = {"LORA": "peft.LoraConfig", "ADALORA": "peft.AdaLoraConfig", "IA3": "peft.IA3Config"}


@dataclass(frozen=True, kw_only=True)
class _Value:
    """One key of a settings file, however deep."""

    path: tuple[str, ...]
    value: Any
    line: int


@dataclass(frozen=True, kw_only=True)
class _File:
    content: Mapping[str, Any]
    values: tuple[_Value, ...]
    signatures: Signatures

    def top(self) -> Iterator[_Value]:
        return (value for value in self.values if len(value.path) == 1)

    def below(self, *path: str) -> Iterator[_Value]:
        """Keys of the mapping under a path."""
        return (v for v in self.values if v.path[:-1] == path)

    def signature(self, key: str) -> Signature:
        found = self.signatures.of(key)
        assert found is not None  # every key that is asked for here is recorded
        return found


def lint_settings(
    settings: Mapping[str, Any] | str, path: str = "", *, stack: Stack | None = None
) -> list[Finding]:
    """Findings of a YAML or JSON file, as text or already read, by line (1 where it was read).

    Known are files of the Trainer and TRL, axolotl, PEFT, accelerate, DeepSpeed and vLLM. A file
    of another kind is looked at for limits and bitsandbytes keys alone. Text that cannot be parsed
    gives one finding, ``unreadable-settings``.
    """
    if isinstance(settings, str):
        content, problem = _parsed(settings, path)
        if problem is not None:
            return [problem]
        text = settings
    else:
        content, text = settings, ""
    if not isinstance(content, Mapping):
        return []
    values = tuple(_values(content, text))
    file = _File(content=content, values=values, signatures=Signatures(stack=stack or here()))
    found = [finding for check in _CHECKS for finding in check(file)]
    return sorted(dict.fromkeys(found), key=lambda f: (f.line, f.rule, f.message))


def _parsed(text: str, path: str) -> tuple[Any, Finding | None]:
    import yaml

    if len(text) > MAX_BYTES:
        return None, _unreadable(1, "it is larger than 1 MiB")
    if path.endswith(".json") or text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text), None
        except RecursionError:
            return None, _unreadable(1, "it nests too deep")
        except ValueError as error:
            if path.endswith(".json"):
                return None, _unreadable(getattr(error, "lineno", 1), "it is not valid JSON")
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), None
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        if "single document" in str(error):
            return None, None
        return None, _unreadable(mark.line + 1 if mark is not None else 1, "it is not valid YAML")


def _unreadable(line: int, why: str) -> Finding:
    return Finding(
        rule="unreadable-settings",
        line=max(1, line),
        severity="error",
        message=f"these settings cannot be read: {why}",
        fix="give YAML or JSON: one 'name: value' a line",
    )


def _values(content: Mapping[str, Any], text: str) -> Iterator[_Value]:
    """Every key in the order of the text, with its line."""
    lines = _Lines(text)
    todo: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen = 0
    while todo:
        path, value = todo.pop()
        seen += 1
        if seen > _MAX_NODES or len(path) > _MAX_DEPTH:
            return
        if path and path[-1] != "[]":
            yield _Value(path=path, value=value, line=lines.of(path[-1]))
        if isinstance(value, Mapping):
            todo += [((*path, str(k)), v) for k, v in reversed(list(value.items()))]
        elif isinstance(value, list):
            todo += [((*path, "[]"), v) for v in reversed(value) if isinstance(v, Mapping | list)]


class _Lines:
    """Finds the line of each key, asked for in the order of the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def of(self, key: str) -> int:
        quote = "[\"']?"
        pattern = re.compile(rf"(?<![\w.-]){quote}{re.escape(key)}{quote}\s*:(?!\w)")
        found = pattern.search(self._text, self._at, self._at + 2**16) if self._text else None
        if found is not None:
            self._line += self._text.count("\n", self._at, found.start())
            self._at = found.start()
        return self._line


def _finding(value: _Value, rule: str, severity: Severity, message: str, fix: str) -> Finding:
    return Finding(rule=rule, line=value.line, severity=severity, message=message, fix=fix)


def _trainer(file: _File) -> Iterator[Finding]:
    """Files for TrainingArguments or TRL's command line."""
    keys = set(file.content)
    if len(keys & _TRAINER) < 2 or _is_axolotl(file) or _is_deepspeed(file):
        return
    signatures = [file.signature(key) for key in _TRL]
    known = frozenset().union(*(s.parameters.names for s in signatures))
    ever = frozenset().union(*(s.ever for s in signatures))
    booleans = signatures[-1].parameters.booleans
    pure = all(str(key) in known | ever or near(str(key), known) for key in keys)
    for value in file.top():
        name = value.path[0]
        if name in booleans and isinstance(value.value, str) and value.value.lower() in _OFF:
            yield _finding(
                value,
                "text-for-boolean",
                "error",
                f'{name}: "{value.value}" is a text and not empty: it switches on',
                f"{name}: false, without quotes",
            )
        if name in known:
            continue
        meant = near(name, known)
        if name in ever and pure:
            yield _refused(value, signatures, known)
        elif name not in ever and meant is not None and meant not in keys:
            yield _finding(
                value, "unknown-setting", "error", f"there is no setting {name}", f"{meant}: …"
            )
    yield from _checkpointing(file)


def _refused(value: _Value, signatures: list[Signature], known: frozenset[str]) -> Finding:
    name = value.path[0]
    owner = next(s for s in signatures if name in s.ever)
    new = RENAMES.get(name)
    fix = f"{new}: …" if new in known else ADVICE.get(name, f"remove {name}")
    return _finding(
        value, "unknown-setting", "error", f"{name} is gone ({owner.version}): it is refused", fix
    )


def _checkpointing(file: _File) -> Iterator[Finding]:
    names = ("gradient_checkpointing", "activation_checkpointing")
    if any(
        key.startswith(("max_length", "packing", "beta", "max_completion"))
        for key in map(str, file.content)
    ):
        return  # TRL's configurations switch it on by themselves
    for value in file.top():
        base = value.path[0].removesuffix("_kwargs")
        if base == value.path[0] or base not in names or not value.value:
            continue
        if file.content.get(base) is False:
            yield _finding(
                value,
                "checkpointing-settings-alone",
                "ignored",
                f"{value.path[0]} does nothing while {base} is off",
                f"{base}: true",
            )


def _is_axolotl(file: _File) -> bool:
    return "base_model" in file.content and bool(
        {"datasets", "micro_batch_size", "adapter", "sequence_len"} & set(file.content)
    )


def _misspelt(file: _File, known: frozenset[str], said: str) -> Iterator[Finding]:
    """Keys that are nearly a known one, where that one is not given."""
    for value in file.top():
        name = value.path[0]
        meant = near(name, known) if name not in known else None
        if meant is not None and meant not in file.content:
            said_of = said.format(name)
            yield _finding(value, "unknown-setting", "ignored", said_of, f"{meant}: …")


def _axolotl(file: _File) -> Iterator[Finding]:
    """Axolotl reads the keys that it knows and drops the rest."""
    if not _is_axolotl(file):
        return
    known = file.signature("axolotl.AxolotlInputConfig").parameters.names
    yield from _misspelt(file, known, "axolotl has no setting {}: it is dropped")


def _adapter(file: _File) -> Iterator[Finding]:
    """adapter_config.json of PEFT."""
    key = _PEFT.get(str(file.content.get("peft_type")).upper())
    if key is None:
        return
    known = file.signature(key).parameters.names
    yield from _misspelt(file, known, "PEFT has no setting {}: it is dropped with a warning")


def _accelerate(file: _File) -> Iterator[Finding]:
    """Files of ``accelerate config``: an unknown key ends the launch."""
    marks = {"compute_environment", "distributed_type", "num_machines", "machine_rank"}
    elsewhere = "SAGEMAKER" in str(file.content.get("compute_environment"))
    if elsewhere or len(marks & set(file.content)) < 2:
        return
    signature = file.signature("accelerate.ClusterConfig")
    options = file.signature("accelerate.launch").parameters.names
    old = {"fp16", "dynamo_backend"}  # converted by accelerate itself
    for value in file.top():
        name = value.path[0]
        if name in old or not signature.refuses(name):
            continue
        meant = near(name, signature.parameters.names)
        if meant is None and name in options:
            continue
        yield _finding(
            value,
            "unknown-setting",
            "error",
            f"accelerate's configuration has no key {name} ({signature.version}): ValueError",
            f"{meant}: …" if meant else f"remove {name}",
        )
    for group, prefix in (("deepspeed_config", ""), ("fsdp_config", "fsdp_")):
        for value in file.below(group):
            name = value.path[-1]
            meant = near(name, options) if name not in options else None
            if meant is not None and meant.startswith(prefix):
                yield _finding(
                    value,
                    "unknown-setting",
                    "ignored",
                    f"accelerate reads no {name} in {group}",
                    f"{meant}: …",
                )


def _is_deepspeed(file: _File) -> bool:
    return isinstance(file.content.get("zero_optimization"), Mapping)


def _deepspeed(file: _File) -> Iterator[Finding]:
    """DeepSpeed refuses unknown keys of its ZeRO settings, and reads the others by name."""
    if not _is_deepspeed(file):
        return
    groups = {
        (): "deepspeed.constants",
        ("zero_optimization",): "deepspeed.DeepSpeedZeroConfig",
        ("zero_optimization", "offload_optimizer"): "deepspeed.DeepSpeedZeroOffloadOptimizerConfig",
        ("zero_optimization", "offload_param"): "deepspeed.DeepSpeedZeroOffloadParamConfig",
    }
    for path, key in groups.items():
        known = file.signature(key).parameters.names
        for value in file.below(*path):
            name = value.path[-1]
            meant = near(name, known) if name not in known else None
            if meant is not None:
                yield _finding(
                    value,
                    "unknown-setting",
                    "error" if path else "ignored",
                    f"DeepSpeed has no setting {'.'.join(value.path)}: "
                    + ("it is refused" if path else "nobody reads it"),
                    f"{meant}: …",
                )


def _engine(file: _File) -> Iterator[Finding]:
    """``vllm serve --config``: keys are its options."""
    names = {str(key).replace("-", "_"): key for key in file.content}
    marks = {"tensor_parallel_size", "gpu_memory_utilization", "max_model_len", "max_num_seqs"}
    if "model" not in names or not marks & set(names) or len(_TRAINER & set(names)) > 1:
        return
    signature = file.signature("vllm.EngineArgs")
    if len(set(names) & signature.ever) < min(3, len(names)):
        return
    for value in file.top():
        name = value.path[0].replace("-", "_")
        if name in signature.ever:
            continue
        meant = near(name, signature.parameters.names)
        if meant is not None and meant not in names:
            yield _finding(
                value,
                "unknown-engine-argument",
                "error",
                f"vllm serve does not take {value.path[0]}",
                f"{meant.replace('_', '-')}: …",
            )


def _limits(file: _File) -> Iterator[Finding]:
    """Amounts of ``max_memory`` and keys of bitsandbytes, wherever they stand."""
    for value in file.values:
        if len(value.path) > 1 and value.path[-2] == "max_memory":
            said = misread(value.value)
            if said is not None:
                yield _finding(value, "limit-misread", "error", *said)
        if _BNB.fullmatch(value.path[-1]):
            fix = value.path[-1].removesuffix("s") if "load_in" in value.path[-1] else ""
            yield _finding(
                value,
                "bnb-unknown-key",
                "ignored",
                f"bitsandbytes has no setting {value.path[-1]}: it is dropped",
                f"{fix}: …" if fix else f"remove {value.path[-1]}",
            )


_CHECKS: Final[tuple[Callable[[_File], Iterator[Finding]], ...]] = (
    _trainer, _axolotl, _adapter, _accelerate, _deepspeed, _engine, _limits,
)  # fmt: skip
