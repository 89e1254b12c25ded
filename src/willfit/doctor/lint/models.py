"""Models of a program: which call loads each, how it is quantised, placed and stored."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from willfit.doctor.lint.code import Argument, Arguments, Code
from willfit.doctor.lint.values import UNKNOWN, dtype_of

_NO_MODEL: Final = re.compile(
    r"^TF|^Flax|Tokenizer|Processor|FeatureExtractor|Config$|Dataset|Adapter|Collator|Backbone$|Pipeline"
)
_MODEL: Final = re.compile(r"^AutoModel|For[A-Z]\w+$|Model$|LMHeadModel|^AutoPeftModel")
_WRAPPERS: Final = frozenset(
    {
        "peft.get_peft_model", "peft.prepare_model_for_kbit_training", "torch.compile",
        "peft.PeftModel.from_pretrained", "peft.PeftModelForCausalLM.from_pretrained",
        "peft.PeftModelForSequenceClassification.from_pretrained",
        "torch.nn.DataParallel", "torch.nn.parallel.DistributedDataParallel",
        "optimum.bettertransformer.BetterTransformer.transform",
    }
)  # fmt: skip
"""Calls whose first argument is the model that they give back, changed or wrapped."""
_SAME: Final = frozenset(
    {"to", "cuda", "cpu", "eval", "train", "half", "float", "bfloat16", "requires_grad_",
     "to_bettertransformer", "reverse_bettertransformer", "merge_and_unload"}
)  # fmt: skip
"""Methods that give back the model they are called on."""
FOUR_BIT_UNLESS_EIGHT: Final = "4.38"
"""From this transformers on, a bitsandbytes configuration that is not 8 bit is 4 bit
(quantizers/auto.py, `AutoHfQuantizer.from_config`); before, it was none."""
SPREAD: Final = frozenset({"auto", "balanced", "balanced_low_0", "sequential"})
"""Values of ``device_map`` that place a model over every GPU."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One ``from_pretrained`` of a model class."""

    call: ast.Call
    owner: str
    """Dotted name of the class: ``transformers.AutoModelForCausalLM``."""
    arguments: Arguments
    checkpoint: str
    """Name of the checkpoint; "" where it cannot be told."""

    def argument(self, name: str) -> Argument | None:
        """A keyword, where it is given."""
        return self.arguments.named.get(name)

    @property
    def is_causal(self) -> bool:
        """Whether it is a language model that gives a score to every token."""
        return self.owner.endswith(("ForCausalLM", "LMHeadModel"))


class Models:
    """All loads of a program."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self.loads = list(self._loads())
        self._by_call = {load.call: load for load in self.loads}
        self._bits: dict[ast.Call, int | None] = {}
        self._of: dict[ast.expr, Load | None] = {}

    def _loads(self) -> Iterator[Load]:
        for call in self._code.methods.get("from_pretrained", []):
            assert isinstance(call.func, ast.Attribute)
            owner = self._code.dotted(call.func.value) or ""
            name = owner.rpartition(".")[2]
            library = owner.partition(".")[0]
            if library in ("transformers", "unsloth") and is_model(name):
                yield Load(
                    call=call,
                    owner=owner,
                    arguments=self._code.arguments(call),
                    checkpoint=self._checkpoint(call),
                )

    def _checkpoint(self, call: ast.Call) -> str:
        found: ast.expr | None = call.args[0] if call.args else None
        named = self._code.arguments(call).named.get("pretrained_model_name_or_path")
        value = self._code.value(found if found is not None else named.value if named else None)
        return value if isinstance(value, str) else ""

    def of(self, node: ast.expr, depth: int = 0) -> Load | None:
        """The load behind an expression; None where it is no model or not certain."""
        if depth > 8:
            return None
        if node not in self._of:
            self._of[node] = self._behind(node, depth)
        return self._of[node]

    def _behind(self, node: ast.expr, depth: int) -> Load | None:
        node = self._code.origin(node)
        if not isinstance(node, ast.Call):
            return None
        if node in self._by_call:
            return self._by_call[node]
        inner = self.wrapped(node)
        return self.of(inner, depth + 1) if inner is not None else None

    def wrapped(self, call: ast.Call) -> ast.expr | None:
        """The model that a call gives back changed: ``get_peft_model(model, …)``, ``m.eval()``."""
        name = self._code.dotted(call.func) or ""
        if name in _WRAPPERS and call.args:
            return call.args[0]
        if name.startswith("peft.") and name.endswith(".from_pretrained") and call.args:
            return call.args[0]
        if isinstance(call.func, ast.Attribute):
            if call.func.attr in _SAME:
                return call.func.value
            if call.func.attr == "prepare" and len(call.args) == 1 and not call.keywords:
                return call.args[0]
        return None

    def config(self, load: Load) -> ast.Call | ast.Dict | None:
        """What ``quantization_config`` is, as it stands in the program."""
        argument = load.argument("quantization_config")
        if argument is None:
            return None
        origin = self._code.origin(argument.value)
        return origin if isinstance(origin, ast.Call | ast.Dict) else None

    def bits(self, load: Load) -> int | None:
        """8 or 4 where bitsandbytes packs it so; 0 where nothing does; None where not known."""
        if load.call not in self._bits:
            self._bits[load.call] = self._found_bits(load)
        return self._bits[load.call]

    def _found_bits(self, load: Load) -> int | None:
        code = self._code
        for name, bits in (("load_in_8bit", 8), ("load_in_4bit", 4)):
            argument = load.argument(name)
            if argument is not None and code.value(argument.value) is True:
                return bits
        argument = load.argument("quantization_config")
        if argument is None:
            return None if load.arguments.open else 0
        if code.value(argument.value) is None:
            return 0
        origin = self.config(load)
        if not isinstance(origin, ast.Call):
            return None
        if code.key(origin.func) != "transformers.BitsAndBytesConfig":
            return None
        return config_bits(code, origin)

    def dtype(self, load: Load) -> Any:
        """``float16`` of ``dtype=`` or ``torch_dtype=``; None where absent; else `UNKNOWN`."""
        argument = load.argument("dtype") or load.argument("torch_dtype")
        if argument is None:
            return UNKNOWN if load.arguments.open else None
        value = self._code.value(argument.value)
        return dtype_of(value) or ("auto" if value == "auto" else UNKNOWN)

    def device_map(self, load: Load) -> Any:
        """Value of ``device_map``; None where absent, `UNKNOWN` where it cannot be told."""
        argument = load.argument("device_map")
        if argument is None:
            return UNKNOWN if load.arguments.open else None
        return self._code.value(argument.value)

    def on_gpu(self, load: Load) -> bool:
        """Whether it is certain to be put on a GPU."""
        if self.bits(load) in (4, 8):
            return True
        place = self.device_map(load)
        if isinstance(place, str):
            return place in SPREAD or place.startswith("cuda")
        if isinstance(place, int) and not isinstance(place, bool):
            return True
        if isinstance(place, dict):
            return any(v != "cpu" and v != "disk" and v is not UNKNOWN for v in place.values())
        return place is None and load.call in self._moved

    @cached_property
    def _moved(self) -> set[ast.Call]:
        """Loads on whose model ``.cuda()`` or ``.to(GPU)`` is called."""
        methods = self._code.methods
        found: set[ast.Call] = set()
        for call in [*methods.get("to", []), *methods.get("cuda", [])]:
            assert isinstance(call.func, ast.Attribute)
            if call.func.attr == "cuda" or is_gpu(self._code, call):
                load = self.of(call.func.value)
                found |= {load.call} if load is not None else set()
        return found


def spreads(place: object) -> bool:
    """Whether a ``device_map`` places a model over every GPU."""
    return isinstance(place, str) and place in SPREAD


def is_gpu(code: Code, call: ast.Call) -> bool:
    """Whether ``.to(…)`` names a GPU, or what is one where there is one."""
    for argument in call.args[:1]:
        value = code.value(argument)
        if isinstance(value, str):
            return value.startswith("cuda")
        if isinstance(value, int) and not isinstance(value, bool):
            return True
        origin = code.origin(argument)
        if isinstance(origin, ast.Call) and code.dotted(origin.func) == "torch.device":
            origin = origin.args[0] if origin.args else origin
        texts = [n.value for n in ast.walk(origin) if isinstance(n, ast.Constant)]
        return any(isinstance(text, str) and text.startswith("cuda") for text in texts)
    return False


def is_model(name: str) -> bool:
    """Whether a class of transformers is a model by its name."""
    return bool(_MODEL.search(name)) and not _NO_MODEL.search(name)


def config_bits(code: Code, call: ast.Call) -> int | None:
    """8 or 4 of a ``BitsAndBytesConfig`` that says so; None where it cannot be told."""
    arguments = code.arguments(call)
    if call.args or arguments.open:
        return None
    if is_set_later(code, call):
        return None
    eight = arguments.named.get("load_in_8bit")
    if eight is not None:
        value = code.value(eight.value)
        if value is True:
            return 8
        if value not in (False, None):
            return None
    if code.signatures.stack.at_least("transformers", FOUR_BIT_UNLESS_EIGHT):
        return 4
    four = arguments.named.get("load_in_4bit")
    value = code.value(four.value) if four is not None else False
    return 4 if value is True else 0 if value in (False, None) else None


def is_set_later(code: Code, call: ast.Call) -> bool:
    """Whether the program sets attributes of what a call gives: ``config.load_in_8bit = True``."""
    statement = code.statement(call)
    if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
        return False
    name = statement.targets[0].id
    return any(
        isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
        for node in code.each(ast.Attribute)
    )
