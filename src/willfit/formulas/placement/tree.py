"""The module tree that placement walks, with sizes as transformers counts them before loading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import ModelSpec, expand_pattern

Device = int | str
"""A GPU's index, ``"cpu"`` or ``"disk"``."""


@dataclass(kw_only=True)
class Node:
    """A module of the tree, or a tensor where ``is_module`` is False."""

    path: str
    size: float = 0
    children: dict[str, Node] = field(default_factory=dict)
    parameters: dict[str, Node] = field(default_factory=dict)
    buffers: dict[str, Node] = field(default_factory=dict)
    whole: bool = False
    """Whether placement keeps it in one piece."""
    composite: bool = False
    """Whether it has child modules without tensors besides tensors of its own."""
    is_module: bool = True

    @property
    def is_layer(self) -> bool:
        """Whether it is never split."""
        return self.whole or (not self.children and not self.composite)

    @property
    def own_size(self) -> float:
        """Bytes of the tensors that belong to no child."""
        return sum(tensor.size for tensor in (*self.parameters.values(), *self.buffers.values()))

    def parts(self) -> list[Node]:
        """What it is split into: its own parameters, then its children (buffers stay behind)."""
        return [*self.parameters.values(), *self.children.values()]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A model as placement sees it."""

    root: Node
    nodes: Mapping[str, Node]
    tied: tuple[tuple[str, ...], ...]
    """Groups of tensor names that share storage."""


def build_tree(model: ModelSpec, weights: LoadedWeights) -> Tree:
    """The module tree with sizes as transformers counts them: no absmax, tied tensors once.

    A 4-bit weight counts half a byte an element and an 8-bit one a byte (`param_element_size`).
    """
    nodes: dict[str, Node] = {"": Node(path="")}
    tied: dict[str, list[str]] = {}
    for loaded in weights.rows:
        size = loaded.counted_bytes(weights.dtype)
        for name in loaded.row.names():
            if loaded.row.tied_to is not None:
                tied.setdefault(loaded.row.tied_to, []).append(name)
            _insert(nodes, name, size, is_parameter=loaded.row.is_parameter)
    for node in _named(nodes, model.no_split):
        node.whole = True
    for node in _named(nodes, model.composite):
        node.composite = True
    for node in nodes.values():
        node.children = dict(sorted(node.children.items(), key=_numeric))
    groups = tuple(tuple(sorted([*names, target])) for target, names in tied.items())
    return Tree(root=nodes[""], nodes=nodes, tied=groups)


def _named(nodes: Mapping[str, Node], patterns: Iterable[str]) -> list[Node]:
    paths = (path for pattern in patterns for path in expand_pattern(pattern))
    return [nodes[path] for path in paths if path in nodes]


def _numeric(item: tuple[str, Node]) -> int:
    """Layers by number; the sort is stable, so named modules keep the order of the table."""
    return int(item[0]) if item[0].isdecimal() else -1


def _insert(nodes: dict[str, Node], name: str, size: float, *, is_parameter: bool) -> None:
    parts = name.split(".")
    nodes[""].size += size
    for end in range(1, len(parts)):
        path, parent = ".".join(parts[:end]), nodes[".".join(parts[: end - 1])]
        if path not in nodes:
            nodes[path] = parent.children[parts[end - 1]] = Node(path=path)
        nodes[path].size += size
    leaf = Node(path=name, size=size, is_module=False)
    owner = nodes[".".join(parts[:-1])]
    (owner.parameters if is_parameter else owner.buffers)[parts[-1]] = leaf
    nodes[name] = leaf
