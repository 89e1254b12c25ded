"""The user's own code: ``module.py:function``, imported from its file, its folder on the path."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from willfit.errors import InputError


def load_function(reference: str) -> tuple[Callable[..., Any], ModuleType]:
    """The function and its module; raises `InputError` where there is none."""
    file, _, name = reference.rpartition(":")
    path = Path(file)
    if not path.is_file() or not name:
        raise InputError(f"{reference!r} names no function: expected module.py:function")
    module = _imported(path)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{path.name} has no function {name!r}: expected one of its own names")
    return function, module


def _imported(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
