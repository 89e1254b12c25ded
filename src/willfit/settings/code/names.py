"""Names in scripts: which classes load models, and what Kaggle's input folders hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from willfit.sources.catalogue import find

_NO_MODEL: Final = re.compile(
    r"(?:Tokenizer(?:Fast)?|Processor|Config|FeatureExtractor|Pipeline|Scheduler|VAE|Dataset|"
    r"PeftModel\w*|AutoencoderKL|UNet\w*|ControlNet\w*)$|^(?:ORT|OV|TF|Flax|TFAuto|FlaxAuto)"
)
_MODEL: Final = re.compile(
    r"(?:AutoModel\w*|AutoPeftModel\w*|\w*For[A-Z]\w+|\w*LMHeadModel|\w*Model|Fast\w*Model)$"
)


def loads_a_model(owner: str) -> bool:
    """Whether ``owner.from_pretrained`` loads a transformers model."""
    return _MODEL.match(owner) is not None and _NO_MODEL.search(owner) is None


PIPELINES: Final[Mapping[str, str]] = {
    "text-generation": "AutoModelForCausalLM",
    "conversational": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "sentiment-analysis": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "ner": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
}
"""Auto class of a pipeline by its task (transformers/pipelines/__init__.py, SUPPORTED_TASKS)."""

HEADS: Final = (
    ("SequenceClassification", "AutoModelForSequenceClassification"),
    ("TokenClassification", "AutoModelForTokenClassification"),
    ("QuestionAnswering", "AutoModelForQuestionAnswering"),
    ("MaskedLM", "AutoModelForMaskedLM"),
    ("CausalLM", "AutoModelForCausalLM"),
    ("LMHeadModel", "AutoModelForCausalLM"),
    ("Seq2SeqLM", "AutoModelForSeq2SeqLM"),
)
"""Auto class by what a class's name ends in: ``LlamaForCausalLM``."""


def auto_class_of(owner: str) -> str | None:
    """The auto class that builds what ``owner`` does; None where the declared class is meant."""
    for ending, name in HEADS:
        if owner.endswith(ending):
            return name
    return "AutoModel" if owner in ("AutoModel", "AutoPeftModel") or _BARE.match(owner) else None


_BARE: Final = re.compile(r"(?!Fast|AutoPeft)[A-Z][A-Za-z0-9]*[a-z0-9A-Z]Model$")

KAGGLE: Final[Mapping[str, str]] = {
    "llama-2/7b-hf": "meta-llama/Llama-2-7b-hf",
    "llama-2/7b-chat-hf": "meta-llama/Llama-2-7b-chat-hf",
    "llama-2/13b-hf": "meta-llama/Llama-2-13b-hf",
    "llama-2/13b-chat-hf": "meta-llama/Llama-2-13b-chat-hf",
    "llama-2/70b-hf": "meta-llama/Llama-2-70b-hf",
    "llama-2/70b-chat-hf": "meta-llama/Llama-2-70b-chat-hf",
    "llama-3/8b-hf": "meta-llama/Meta-Llama-3-8B",
    "llama-3/8b-chat-hf": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-3/70b-hf": "meta-llama/Meta-Llama-3-70B",
    "llama-3/70b-chat-hf": "meta-llama/Meta-Llama-3-70B-Instruct",
    "llama-3.1/8b": "meta-llama/Llama-3.1-8B",
    "llama-3.1/8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "llama-3.1/70b": "meta-llama/Llama-3.1-70B",
    "llama-3.1/70b-instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "llama-3.2/1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2/1b-instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2/3b": "meta-llama/Llama-3.2-3B",
    "llama-3.2/3b-instruct": "meta-llama/Llama-3.2-3B-Instruct",
    "gemma/2b": "google/gemma-2b",
    "gemma/2b-it": "google/gemma-2b-it",
    "gemma/7b": "google/gemma-7b",
    "gemma/7b-it": "google/gemma-7b-it",
    "gemma/1.1-2b-it": "google/gemma-1.1-2b-it",
    "gemma/1.1-7b-it": "google/gemma-1.1-7b-it",
    "gemma-2/gemma-2-2b": "google/gemma-2-2b",
    "gemma-2/gemma-2-2b-it": "google/gemma-2-2b-it",
    "gemma-2/gemma-2-9b": "google/gemma-2-9b",
    "gemma-2/gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2/gemma-2-27b": "google/gemma-2-27b",
    "gemma-2/gemma-2-27b-it": "google/gemma-2-27b-it",
    "gemma-3/gemma-3-1b-it": "google/gemma-3-1b-it",
    "gemma-3/gemma-3-4b-it": "google/gemma-3-4b-it",
    "gemma-3/gemma-3-12b-it": "google/gemma-3-12b-it",
    "gemma-3/gemma-3-27b-it": "google/gemma-3-27b-it",
    "mistral/7b-v0.1-hf": "mistralai/Mistral-7B-v0.1",
    "mistral/7b-instruct-v0.1-hf": "mistralai/Mistral-7B-Instruct-v0.1",
    "mixtral/8x7b-v0.1-hf": "mistralai/Mixtral-8x7B-v0.1",
    "mixtral/8x7b-instruct-v0.1-hf": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "phi/2": "microsoft/phi-2",
    "phi-3/phi-3-mini-4k-instruct": "microsoft/Phi-3-mini-4k-instruct",
    "phi-3/phi-3-mini-128k-instruct": "microsoft/Phi-3-mini-128k-instruct",
}
"""Checkpoints by model and variation of kaggle.com/models, whose folders are
``/kaggle/input/MODEL/FRAMEWORK/VARIATION/VERSION`` (kaggle.com/models/metaresearch/llama-3,
google/gemma-2, mistral-ai/mistral, Microsoft/phi; the framework is ``transformers``)."""

_INPUT: Final = re.compile(
    r"/?kaggle/input/(?:models/)?(?:[\w.-]{1,80}/)??(?P<model>[\w.-]{1,80})/"
    r"(?:transformers|pytorch)/(?P<variation>[\w.-]{1,80})(?:/\d{1,4})?/?$",
    re.IGNORECASE,
)
_FOLDER: Final = re.compile(r"(?:\.{0,2}/)?(?:[\w.-]{1,80}/){0,12}(?P<name>[\w.-]{1,120})/?$")


def checkpoint_of(path: str) -> tuple[str | None, str]:
    """The model that a name or a path means, and what was assumed; None where that is not told.

    A Hub id stays as it is. Of a folder the name alone is known: it counts where the catalogue
    has a checkpoint of exactly that name.
    """
    text = path.strip()
    kaggle = _INPUT.match(text)
    if kaggle is not None:
        known = KAGGLE.get(f"{kaggle['model']}/{kaggle['variation']}".lower())
        known = known or _named(kaggle["variation"])
        if known is not None:
            return known, f"{text[:100]} holds {known}"
    local = text.startswith(("/", ".", "~")) or text.count("/") > 1 or "\\" in text
    if not local:
        return text or None, ""
    folder = _FOLDER.search(text[-400:])
    if folder is not None and not text.endswith(_FILES):
        for part in reversed([p for p in text.split("/") if p][-3:]):
            found = _named(part)
            if found is not None:
                return found, f"{text[:100]} holds {found}, going by its name"
    return None, f"which model is in {text[:100]} is not in the text: name it"


_FILES: Final = (".gguf", ".bin", ".pt", ".pth", ".safetensors", ".ckpt")


def _named(folder: str) -> str | None:
    """A checkpoint whose own name is the folder's; short ones such as ``llama3`` are none."""
    sized = re.search(r"\d(?:\.\d+)?[bm](?![a-z])|base|large|small", folder.lower())
    return find(folder) if sized else None
