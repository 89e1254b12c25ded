"""``from_pretrained`` and ``BitsAndBytesConfig`` in a user's code."""

from __future__ import annotations

from typing import Any, Final

from willfit.doctor.edits import Edit, dropped, instead
from willfit.doctor.placing import Code, Nowhere, changed, written
from willfit.emitting import Call
from willfit.settings.code.values import Site

_DIRECT: Final = ("load_in_8bit", "load_in_4bit")


def place_loading(code: Code, old: Call, new: Call) -> list[Edit]:
    """Edits of the loading call for every argument that differs."""
    edits: list[Edit] = []
    differing = changed(old, new)
    for name, value in differing.items():
        edits += _place(code, name, value, old, differing)
    return edits


def _place(code: Code, name: str, value: Any, old: Call, differing: dict[str, Any]) -> list[Edit]:
    site = code.site("load")
    if name == "device_map":
        return _device_map(code, site, value, differing)
    if site.last != "from_pretrained" or site.owner.startswith("Fast"):
        raise Nowhere  # a pipeline's, a trainer's or an engine's own way of loading
    if name == "quantization_config":
        return _quantization(code, site, old.arguments.get(name), value)
    if value is None:
        edit = dropped(site, name)
        if edit is None and name in site.given:
            raise Nowhere
        return [edit] if edit is not None else []
    aliases = {"dtype": ("torch_dtype",), "torch_dtype": ("dtype",)}.get(name, ())
    if name in ("dtype", "torch_dtype") and code.loaded.casts:
        raise Nowhere  # ``.half()`` after loading decides
    edits = code.needs(written(value))
    if name == "attn_implementation" and "use_flash_attention_2" in site.given:
        edits += _drop(site, "use_flash_attention_2")
    return [*edits, code.set(site, name, value, *aliases)]


def _device_map(code: Code, site: Site, value: Any, differing: dict[str, Any]) -> list[Edit]:
    """Only with caps, which ask for ``auto``, or where quantised weights need a place."""
    capped = differing.get("max_memory") is not None
    if value is None or ("device_map" in site.given and not capped):
        return []
    if site.last != "from_pretrained" or site.owner.startswith("Fast"):
        raise Nowhere
    return [code.set(site, "device_map", value)]


def _drop(site: Site, name: str) -> list[Edit]:
    edit = dropped(site, name)
    if edit is None:
        raise Nowhere
    return [edit]


def _quantization(code: Code, site: Site, old: Any, new: Any) -> list[Edit]:
    if not isinstance(new, Call):
        raise Nowhere
    direct = [name for name in _DIRECT if name in site.given]
    if code.has("quantization") and isinstance(old, Call):
        return _config(code, code.site("quantization"), old, new)
    if code.loaded.moved:
        raise Nowhere  # ``.to()`` and ``.half()`` refuse a quantised model
    edits = [edit for name in direct for edit in _drop(site, name)]
    edits += code.imports("transformers", ["BitsAndBytesConfig"])
    edits += code.needs(written(new))
    return [*edits, code.set(site, "quantization_config", new)]


def _config(code: Code, site: Site, old: Call, new: Call) -> list[Edit]:
    """Arguments of the config that is there; those of the other method go."""
    differing = changed(old, new)
    gone = [name for name, value in differing.items() if value is None and name in site.given]
    edits: list[Edit] = []
    for name, value in differing.items():
        if value is None:
            continue
        edits += code.needs(written(value))
        if gone and name not in site.given:
            edit = instead(site, gone.pop(0), f"{name}={written(value)}")
            if edit is None:
                raise Nowhere
            edits.append(edit)
        else:
            edits.append(code.set(site, name, value))
    return [*edits, *(edit for name in gone for edit in _drop(site, name))]
