"""The loop that gives modules to devices in order (`infer_auto_device_map`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from willfit.formulas.placement.tree import Device, Node, Tree


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
    bytes_per_device: Mapping[Device, int] = field(default_factory=dict)
    """Bytes of weights and quantisation states on each device, as allocated."""
    refused: str | None = None
    """Why transformers would not load it so, in one sentence; None where it would."""
    assumptions: tuple[str, ...] = ()

    def device(self, name: str) -> Device:
        """Device of a tensor or module."""
        return device_of(name, self.device_of)

    @property
    def off_gpu(self) -> bool:
        """Whether anything is in host memory or on disk."""
        return any(device in ("cpu", "disk") for device in self.device_of.values())


def device_of(name: str, device_map: Mapping[str, Device]) -> Device:
    """Device of a tensor or module: that of its longest placed prefix, else the host."""
    path = name
    while path not in device_map and "." in path:
        path = path.rpartition(".")[0]
    return device_map.get(path, device_map.get("", "cpu"))


def place(tree: Tree, caps: Mapping[Device, float]) -> Placement:
    """Modules to devices in order; the first device keeps room for the largest layer."""
    return _Placer(tree, caps).run()


class _Placer:
    """What the loop carries along."""

    def __init__(self, tree: Tree, caps: Mapping[Device, float]) -> None:
        self.tree = tree
        self.caps = caps
        self.devices: list[Device] = [*caps, *([] if "disk" in caps else ["disk"])]
        gpus = [device for device in self.devices if device not in ("cpu", "disk")]
        self.main = [gpus[0], "cpu"] if gpus else ["cpu"]
        self.used: dict[Device, float] = dict.fromkeys(self.devices, 0)
        self.current = 0
        self.device_of: dict[str, Device] = {}
        self.lost_tie: str | None = None
        self.todo: list[Node] = [*tree.root.parts(), *tree.root.buffers.values()]
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
            refused=_lost(self.lost_tie) if self.lost_tie is not None else None,
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
        room = None if device == "disk" else self.caps[device] - reserved - self.used[device]
        ties = self._tied_outside(node)
        with_ties = node.size + sum(module.size for module in ties)
        if room is None or with_ties <= room:
            self._put(node, ties, device, with_ties)
        elif ties and node.size <= room and self._split_tied(node, ties):
            pass
        elif node.is_module and not node.is_layer:
            self.todo = [*node.parts(), *self.todo]
            self._find_largest()
        else:
            self.used[device] += reserved
            self.current += 1
            self.todo.insert(0, node)

    def _tied_outside(self, node: Node) -> list[Node]:
        """Waiting modules with tensors tied to one of ``node``'s, each once and counted whole."""
        modules: dict[str, Node] = {}
        for name in self._tied_names(node):
            module = next((m for m in self.todo if name.startswith(m.path + ".")), None)
            if module is None:
                self.lost_tie = self.lost_tie or name
            else:
                modules[module.path] = module
        return list(modules.values())

    def _tied_names(self, node: Node) -> list[str]:
        outside: list[str] = []
        for group in self.tree.tied:
            inside = {name for name in group if node.path + "." in name + "."}
            if inside and len(inside) < len(group):
                outside.extend(name for name in group if node.path + "." not in name + ".")
        return outside

    def _put(self, node: Node, tied: list[Node], device: Device, size: float) -> None:
        self.used[device] += size
        self.device_of[node.path] = device
        for module in tied:
            self.todo.remove(module)
            self.device_of[module.path] = device

    def _split_tied(self, node: Node, ties: list[Node]) -> bool:
        """Open up the first tied module that can be, and try again."""
        module = next((tied for tied in ties if not tied.is_layer), None)
        if module is None:
            return False
        index = self.todo.index(module)
        self.todo[index : index + 1] = module.parts()
        self.todo.insert(0, node)
        self._find_largest()
        return True


def _lost(name: str) -> str:
    return (
        f"transformers' own placement fails for these limits (IndexError: {name} is tied to a "
        "module that is already placed): give one GPU room for all of it, or other max_memory"
    )


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
