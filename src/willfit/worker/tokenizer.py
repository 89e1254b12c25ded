"""The tokenizer of a stage, from where the driver found it."""

from __future__ import annotations

from typing import Any

from willfit.errors import InputError
from willfit.runner.protocol import Job


def load_tokenizer(job: Job) -> Any:
    """The stage's own, or the model's; raises `InputError` where there is none."""
    import transformers

    source = job.stage.get("tokenizer") or job.stage["model"]
    more = {
        name: job.stage[name] for name in ("revision", "trust_remote_code") if job.stage.get(name)
    }
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **more)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(
            f"stage {job.name} has no tokenizer in {source} "
            f"({' '.join(str(error).split())[:120]}): name a folder that has one with tokenizer:"
        ) from error


def longest_prompt(job: Job, tokenizer: Any) -> int | None:
    """Most tokens of a row: as given, else what the model was made for; None without either.

    Where text is generated, the model's bound holds the prompt and the new tokens together.
    """
    given = job.stage.get("max_length")
    if given is not None:
        return int(given)
    known = [n for n in (_positions(job), int(tokenizer.model_max_length)) if n and n < 10**9]
    new = int(job.stage.get("max_new_tokens") or 0) if job.stage["task"] == "generate" else 0
    return max(1, min(known) - new) if known else None


def one_token(tokenizer: Any) -> int:
    """What stands for an empty text: the token that begins one, else the one that ends it."""
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    return next((int(token) for token in known if token is not None), 0)


def _positions(job: Job) -> int | None:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            job.stage["model"], trust_remote_code=bool(job.stage.get("trust_remote_code"))
        ).get_text_config()
    except (OSError, ValueError, KeyError):
        return None
    return getattr(config, "max_position_embeddings", None)
