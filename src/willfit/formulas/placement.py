"""``device_map="auto"``: which module goes to which device, as transformers would decide.

Equal to transformers 5.23 integrations/accelerate.py (`get_balanced_memory`,
`infer_auto_device_map`) and accelerate 1.15 utils/modeling.py (`get_max_layer_size`,
`get_module_size_with_ties`), on the tensor table instead of a torch module tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from willfit.formulas.weights import LoadedWeights
from willfit.scenario.model import ModelSpec, expand_pattern

Device = int | str
"""A GPU's index, ``"cpu"`` or ``"disk"``."""

SINGLE_GPU_SHARE: Final = 0.9
"""One GPU without max_memory: this part of its free memory (`get_balanced_memory`)."""
BITSANDBYTES_SHARE: Final = 0.9
"""bitsandbytes takes this part of every cap (quantizer_bnb_4bit.py `adjust_max_memory`)."""
BALANCE_BUFFER: Final = 1.25
"""Times the largest indivisible module, added to each GPU's even share."""


@dataclass(kw_only=True)
class Node:
    """A module of the tree, or a parameter where ``is_module`` is False."""

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


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A model as placement sees it."""

    root: Node
    nodes: Mapping[str, Node]
    tied: tuple[tuple[str, ...], ...]
    """Groups of tensor names that share storage."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where every module goes."""

    device_of: Mapping[str, Device]
    """Device by module path; a tensor belongs to its longest placed prefix."""
    caps: Mapping[Device, float]
    """Bytes that each device may take, after balancing and the quantizer's share."""
    first_refused: str | None = None
    """First module that no GPU had room for; None where all are on GPUs."""
    refused_bytes: int = 0
    """What that module takes."""

    def device(self, name: str) -> Device:
        """Device of a tensor or module."""
        path = name
        while path not in self.device_of and "." in path:
            path = path.rpartition(".")[0]
        return self.device_of.get(path, self.device_of.get("", "cpu"))

    @property
    def off_gpu(self) -> bool:
        """Whether anything is in host memory or on disk."""
        return any(device in ("cpu", "disk") for device in self.device_of.values())


def build_tree(model: ModelSpec, weights: LoadedWeights) -> Tree:
    """The module tree with sizes as transformers counts them: no absmax, tied tensors once.

    A 4-bit weight counts half a byte an element and an 8-bit one a byte (`param_element_size`).
    """
    root = Node(path="")
    nodes: dict[str, Node] = {"": root}
    tied: dict[str, list[str]] = {}
    for loaded in weights.rows:
        for name in loaded.row.names():
            size = loaded.weight_bytes
            if loaded.row.tied_to is not None:
                tied.setdefault(loaded.row.tied_to, []).append(name)
            _insert(nodes, name, size, is_parameter=loaded.row.is_parameter)
    for pattern in model.no_split:
        for path in expand_pattern(pattern):
            if path in nodes:
                nodes[path].whole = True
    for pattern in model.composite:
        for path in expand_pattern(pattern):
            if path in nodes:
                nodes[path].composite = True
    for node in nodes.values():
        node.children = dict(sorted(node.children.items(), key=_numeric))
    groups = tuple(tuple(sorted([*names, target])) for target, names in tied.items())
    return Tree(root=root, nodes=nodes, tied=groups)


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


def balanced_caps(
    tree: Tree, free: Mapping[int, int], max_memory: Mapping[int | str, int] | None, cpu: int
) -> dict[Device, float]:
    """Caps of ``device_map="auto"``: each GPU but the last its even share plus a buffer.

    A user's map is taken as given; without one a single GPU gives 90 % of what is free.
    """
    caps: dict[Device, float] = {}
    for device, cap in (max_memory or free).items():
        caps[device] = cap
    if max_memory is None:
        caps["cpu"] = cpu * 0.9
    gpus = sorted(d for d, cap in caps.items() if isinstance(d, int) and cap > 0)
    if not gpus:
        return caps
    if len(gpus) == 1 and max_memory is None:
        caps[gpus[0]] *= SINGLE_GPU_SHARE
    layers = max((n.size for n in tree.nodes.values() if n.whole), default=0)
    leaves = max(
        (sum(t.size for t in (*n.parameters.values(), *n.buffers.values()))
         for n in tree.nodes.values() if n.is_module),
        default=0,
    )  # fmt: skip
    share = tree.root.size // len(gpus) + int(BALANCE_BUFFER * max(layers, leaves))
    for index in gpus[:-1]:
        caps[index] = min(share, caps[index])
    return caps


def place(tree: Tree, caps: Mapping[Device, float]) -> Placement:
    """Modules to devices in order; the first device keeps room for the largest layer."""
    return _Placer(tree, caps).run()


class _Placer:
    """The loop of `infer_auto_device_map`; its state is what that loop carries along."""

    def __init__(self, tree: Tree, caps: Mapping[Device, float]) -> None:
        self.tree = tree
        self.caps = caps
        self.devices: list[Device] = [*caps, *([] if "disk" in caps else ["disk"])]
        gpus = [device for device in self.devices if device not in ("cpu", "disk")]
        self.main = [gpus[0], "cpu"] if gpus else ["cpu"]
        self.used: dict[Device, float] = dict.fromkeys(self.devices, 0)
        self.current = 0
        self.device_of: dict[str, Device] = {}
        root = tree.root
        self.todo: list[Node] = [
            *root.parameters.values(), *root.children.values(), *root.buffers.values(),
        ]  # fmt: skip
        self.largest, self.largest_names = largest_layers(self.todo)

    def run(self) -> Placement:
        while self.todo:
            node = self.todo.pop(0)
            self._forget(node)
            self._treat(node)
        off = next((p for p, d in self.device_of.items() if d in ("cpu", "disk")), None)
        return Placement(
            device_of=self.device_of,
            caps=dict(self.caps),
            first_refused=off,
            refused_bytes=int(self.tree.nodes[off].size) if off is not None else 0,
        )

    def _forget(self, node: Node) -> None:
        """The largest remaining layer may change once this one is taken."""
        self.largest_names = [
            name
            for name in self.largest_names
            if name != node.path and not name.startswith(node.path + ".")
        ]
        if not self.largest_names:
            self._find_largest()

    def _find_largest(self) -> None:
        self.largest, self.largest_names = largest_layers(n for n in self.todo if n.is_module)

    def _treat(self, node: Node) -> None:
        device = self.devices[self.current]
        reserved = self.largest if device in self.main else 0
        cap = None if device == "disk" else self.caps[device] - reserved
        ties = self._tied_outside(node)
        with_ties = node.size + sum(
            module.size - self.tree.nodes[name].size for name, module in ties
        )
        if cap is None or self.used[device] + with_ties <= cap:
            self._put(node, [module for _, module in ties], device, with_ties)
        elif ties and self.used[device] + node.size <= cap and self._split_tied(node, ties):
            pass
        elif node.is_module and not node.is_layer:
            self.todo = [*node.parameters.values(), *node.children.values(), *self.todo]
            self._find_largest()
        else:
            self.used[device] += reserved
            self.current += 1
            self.todo.insert(0, node)

    def _tied_outside(self, node: Node) -> list[tuple[str, Node]]:
        """(tensor, waiting module) for tensors tied to one of ``node``'s but outside it."""
        ties: list[tuple[str, Node]] = []
        for group in self.tree.tied:
            inside = [name for name in group if node.path + "." in name + "."]
            if inside and len(inside) < len(group):
                for name in group:
                    if name not in inside:
                        module = next((m for m in self.todo if name.startswith(m.path + ".")), None)
                        if module is not None:
                            ties.append((name, module))
        return ties

    def _put(self, node: Node, tied: list[Node], device: Device, size: float) -> None:
        self.used[device] += size
        self.device_of[node.path] = device
        for module in tied:
            if module in self.todo:
                self.todo.remove(module)
            self.device_of[module.path] = device

    def _split_tied(self, node: Node, ties: list[tuple[str, Node]]) -> bool:
        """Open up the first tied module that can be, and try again."""
        for _, module in ties:
            if module.is_layer:
                continue
            index = self.todo.index(module)
            parts = [*module.parameters.values(), *module.children.values()]
            self.todo[index : index + 1] = parts
            self.todo.insert(0, node)
            self._find_largest()
            return True
        return False


def largest_layers(nodes: Iterable[Node]) -> tuple[float, list[str]]:
    """Size of the largest indivisible module among these, and the names of all of that size."""
    largest: float = 0
    names: list[str] = []
    todo = list(nodes)
    while todo:
        node = todo.pop(0)
        if not node.is_layer and node.is_module:
            todo = [*node.children.values(), *todo]
        elif node.size > largest:
            largest, names = node.size, [node.path]
        elif node.size == largest:
            names.append(node.path)
    return largest, names
