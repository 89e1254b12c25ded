"""timm models by name: from the catalogue, from the Hub, or built by timm on the meta device."""

from __future__ import annotations

from dataclasses import dataclass, field

from willfit.errors import InputError, ModelAccessError, ModelNotFoundError, UnsupportedError
from willfit.scenario.model import ModelSpec
from willfit.sources.source import Asked, Source


@dataclass(frozen=True, kw_only=True)
class TimmSource(Source):
    """``timm/NAME``, or any NAME where the user says that the library is timm."""

    asked: Asked = field(default_factory=Asked)

    def find(self, name: str) -> ModelSpec | None:
        """The timm model of that name; None for names of other libraries."""
        if not name.startswith("timm/") and self.asked.library_name != "timm":
            return None
        from willfit.sources import catalogue

        full = name if "/" in name else f"timm/{name}"
        found = catalogue.load(full)
        if found is not None and found.library != "timm":
            raise InputError(
                f"{found.id} is a {found.library} model, not a timm one: leave --library-name out"
            )
        return found or self._from_hub(full)

    def _from_hub(self, name: str) -> ModelSpec | None:
        from willfit.sources.hub import HubSource

        try:
            return HubSource(asked=self.asked).find(name)
        except (ModelNotFoundError, ModelAccessError) as error:
            built = _built(name)
            if built is None:
                raise type(error)(
                    f"{error} (with timm and willfit[trace] installed it could be built from "
                    "its name alone)"
                ) from error
            return built


def _built(name: str) -> ModelSpec | None:
    """The model as timm builds it on the meta device; None without torch and timm."""
    from importlib.util import find_spec

    if find_spec("torch") is None or find_spec("timm") is None:
        return None
    from willfit.meta.timm_build import build_timm

    try:
        return build_timm(name)
    except UnsupportedError:
        return None
