"""Models on this disk: a folder, a ``config.json``, a ``.safetensors`` file or its index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from willfit.errors import InputError, ModelNotFoundError
from willfit.scenario.collapse import NamedTensor
from willfit.scenario.model import ModelSpec
from willfit.sources.checkpoint import spec_of, spec_of_config
from willfit.sources.configs import check_config
from willfit.sources.limits import MAX_CONFIG_BYTES, json_object, read_bounded, unreadable
from willfit.sources.safetensors import joined, read_header, read_index
from willfit.sources.source import Asked, Source
from willfit.sources.structure import Checkpoint
from willfit.sources.weight_files import WeightFiles, pick_weights, shard

ONLY_CONFIG: Final = "only the config was named: shapes from the config"
"""What stands beside a model of which nothing but a ``config.json`` was read."""
_FILE_ENDINGS: Final = (".json", ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")
_PATH_STARTS: Final = ("/", "./", "../", "~", ".\\", "..\\")
_PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class LocalSource(Source):
    """What lies on this disk under the given path."""

    asked: Asked = field(default_factory=Asked)

    def find(self, name: str) -> ModelSpec | None:
        """The model at that path, None where the name is no path."""
        if "://" in name:
            return None
        path = Path(name).expanduser() if name.startswith("~") else Path(name)
        if not os.path.exists(path):  # noqa: PTH110 - false, not an error, for names of any kind
            _refuse_missing(name)
            return None
        if path.is_dir():
            return self._folder(path, name)
        return self._file(path)

    def _folder(self, path: Path, name: str) -> ModelSpec | None:
        names = _names(path)
        if "config.json" in names:
            return self._from_config(path)
        if "adapter_config.json" in names:
            raise adapter_error(path / "adapter_config.json")
        weights = pick_weights(names)
        if weights.index or weights.files:
            return self._spec(path, {}, _headers(path, weights), "")
        if weights.gguf:
            return self._gguf(path, weights.gguf)
        if "model_index.json" in names:
            raise pipeline_error(str(path), _parts(path, names))
        if not is_path_like(name):
            return None
        raise ModelNotFoundError(
            f"the folder {path} holds no model: expected a config.json, .safetensors or .gguf "
            f"files in it, found {', '.join(sorted(names)[:5]) or 'nothing'}"
        )

    def _from_config(self, path: Path) -> ModelSpec:
        return self._spec(path, *read_checkpoint_folder(path))

    def _gguf(self, path: Path, files: tuple[str, ...]) -> ModelSpec:
        if len(files) > 1:
            raise InputError(
                f"{path} holds {len(files)} GGUF models: name one of them, such as "
                f"{path / files[0]}"
            )
        return self._file(path / files[0])

    def _file(self, path: Path) -> ModelSpec:
        if path.suffix == ".gguf":
            from willfit.sources.gguf import read_gguf

            return read_gguf(path)
        if path.suffix == ".safetensors":
            return self._safetensors(path)
        if path.suffix in _PICKLED:
            raise InputError(
                f"{path} is pickled and is not opened, since that can run code: name the folder "
                "with its config.json, or a .safetensors file"
            )
        if path.name.endswith(".index.json"):
            return self._index(path)
        return self._json(path)

    def _json(self, path: Path) -> ModelSpec:
        content = json_object(read_bounded(path, MAX_CONFIG_BYTES), str(path))
        if "peft_type" in content:
            raise adapter_error(path)
        if "weight_map" in content:
            return self._index(path)
        return spec_of_config(content, str(path), ONLY_CONFIG)

    def _index(self, path: Path) -> ModelSpec:
        tensors = joined(read_index(path).values(), str(path))
        return self._spec(path, _config_beside(path), tensors, "")

    def _safetensors(self, path: Path) -> ModelSpec:
        part = shard(path.name)
        if part is not None:
            index = path.with_name(f"{part[0]}.safetensors.index.json")
            if index.exists():
                return self._index(index)
            raise InputError(
                f"{path} is part {part[1]} of {part[2]} of a model: name the folder, or the "
                f"index {index.name}"
            )
        return self._spec(path, _config_beside(path), read_header(path).tensors, "")

    def _spec(
        self,
        path: Path,
        config: Mapping[str, Any],
        tensors: tuple[NamedTensor, ...],
        why_none: str,
    ) -> ModelSpec:
        return spec_of(
            Checkpoint(
                id=str(path),
                source="local",
                config=config,
                tensors=tensors,
                why_no_headers=why_none,
            )
        )


def is_path_like(name: str) -> bool:
    """Whether a name can only be meant as a path on this disk."""
    return name.startswith(_PATH_STARTS) or name in (".", "..") or os.sep * 2 in name


def read_config(path: Path) -> dict[str, Any]:
    """A ``config.json``, bounded and checked to be a model's."""
    config = json_object(read_bounded(path, MAX_CONFIG_BYTES), str(path))
    check_config(config, str(path))
    return config


def read_checkpoint_folder(path: Path) -> tuple[dict[str, Any], tuple[NamedTensor, ...], str]:
    """Config, tensors of the headers, and why there are none, of a folder with a config."""
    config = read_config(path / "config.json")
    weights = pick_weights(_names(path))
    return config, _headers(path, weights), weights.why_none


def adapter_error(path: Path) -> InputError:
    """The sentence for an adapter: it names the model it belongs to."""
    base = json_object(read_bounded(path, MAX_CONFIG_BYTES), str(path)).get(
        "base_model_name_or_path"
    )
    known = isinstance(base, str) and base.isprintable() and base
    model = str(base)[:100] if known else "the model that it adapts"
    return InputError(
        f"{path.parent} is a PEFT adapter, not a model: name {model} and add "
        f"--peft-config {path} to train it"
    )


def pipeline_error(where: str, parts: list[str]) -> InputError:
    """The sentence for a diffusers pipeline: several models, of which one can be named."""
    return InputError(
        f"{where} is a diffusers pipeline of several models: name the folder of one of them"
        + (f", such as {parts[0]}" if parts else "")
    )


def _refuse_missing(name: str) -> None:
    """Names that can only be paths end here; others may be a model's name."""
    if is_path_like(name):
        raise ModelNotFoundError(f"there is no file or folder {name}: check the path")
    remote = name.endswith(".gguf") and name.count("/") >= 2  # org/repo/file.gguf
    if name.endswith(_FILE_ENDINGS) and not remote:
        raise ModelNotFoundError(f"there is no file {name} here: check the path")


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208 - names, not paths
    except OSError as error:
        raise unreadable(path, error) from error


def _parts(path: Path, names: Iterable[str]) -> list[str]:
    return [str(path / name) for name in names if (path / name / "config.json").is_file()]


def _headers(path: Path, weights: WeightFiles) -> tuple[NamedTensor, ...]:
    if weights.index:
        index = path / weights.index
        return joined(read_index(index).values(), str(index))
    return joined((read_header(path / name) for name in weights.files), str(path))


def _config_beside(path: Path) -> dict[str, Any]:
    config = path.with_name("config.json")
    return read_config(config) if config.is_file() else {}
