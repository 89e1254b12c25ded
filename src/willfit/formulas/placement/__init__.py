"""``device_map``: which module goes to which device, as transformers would decide.

Equal to transformers 5.23 integrations/accelerate.py (`compute_module_sizes`,
`get_balanced_memory`, `infer_auto_device_map`) and accelerate 1.15 utils/modeling.py
(`get_max_layer_size`), on the tensor table instead of a torch module tree. Not followed:
``_no_placement_params``, which only the Qwen4 preview class has.
"""

from __future__ import annotations

from willfit.formulas.placement.caps import (
    BALANCE_BUFFER,
    BITSANDBYTES_SHARE,
    SINGLE_GPU_SHARE,
    Mode,
    balanced_caps,
)
from willfit.formulas.placement.infer import infer_device_map, smallest_maps
from willfit.formulas.placement.placer import Placement, device_of, place
from willfit.formulas.placement.stages import layer_stacks, stage_layers
from willfit.formulas.placement.tree import Device, Node, Tree, build_tree

__all__ = [
    "BALANCE_BUFFER",
    "BITSANDBYTES_SHARE",
    "SINGLE_GPU_SHARE",
    "Device",
    "Mode",
    "Node",
    "Placement",
    "Tree",
    "balanced_caps",
    "build_tree",
    "device_of",
    "infer_device_map",
    "layer_stacks",
    "place",
    "smallest_maps",
    "stage_layers",
]
