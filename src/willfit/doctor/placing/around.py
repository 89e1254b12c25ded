"""What stands around the calls: the allocator's variable, the one kernel that is allowed."""

from __future__ import annotations

from willfit.doctor.edits import Edit, before_line, replaced, wrapped
from willfit.doctor.placing import Code, Nowhere
from willfit.emitting.launch import environment
from willfit.scenario import Scenario
from willfit.settings.code.surroundings import ALLOCATOR
from willfit.settings.code.values import Site


def place_environment(code: Code, before: Scenario, after: Scenario) -> list[Edit]:
    """``os.environ[…] = …`` above the first import, which may be torch's."""
    if before.stack.alloc_conf == after.stack.alloc_conf:
        return []
    found = [(k, v) for k, v in environment(after).items() if k in ALLOCATOR]
    if before.stack.alloc_conf or not found:
        raise Nowhere
    (name, value), = found  # fmt: skip
    lines = ["import os", f'os.environ["{name}"] = "{value}"']
    index, statement = code.first_import()
    return [before_line(index, statement.lineno, lines)]


def place_kernel(code: Code, old: str | None, new: str | None, step: str) -> list[Edit]:
    """``with sdpa_kernel(…):`` around the statement of a step, or another kernel in it."""
    if old == new:
        return []
    if new is None:
        raise Nowhere
    imports = code.imports("torch.nn.attention", ["SDPBackend", "sdpa_kernel"])
    if code.has("kernel"):
        return [*imports, _other(code.site("kernel"), new)]
    return [*imports, wrapped(code.site(step), f"with sdpa_kernel(SDPBackend.{new}):", code.cells)]


def _other(site: Site, new: str) -> Edit:
    if site.last != "sdpa_kernel" or not site.node.args:
        raise Nowhere
    return replaced(site.cell, site.node.args[0], f"SDPBackend.{new}")
