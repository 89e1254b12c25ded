"""The allocator's configuration is read as the installed torch reads it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from willfit.allocator.config import KEYS, AllocatorConfig, parse_alloc_conf
from willfit.allocator.rounding import round_power2, size_class
from willfit.errors import InputError
from willfit.units import GIB, MIB


class TorchConfig:
    """torch's own parser, which its builds without CUDA have too (c10/core/AllocatorConfig.h)."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        if not torch.__version__.startswith("2.13."):
            pytest.skip("the layout of AcceleratorAllocatorConfig is that of torch 2.13")
        self.folder = Path(torch.__file__).parent
        library: Any = ctypes.CDLL(str(self.folder / "lib/libc10.so"))
        prefix = "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig"
        self._instance = library[f"{prefix}8instanceEv"]
        self._instance.restype = ctypes.c_void_p
        self.divisions = library[f"{prefix}24roundup_power2_divisionsEm"]
        self.divisions.restype = ctypes.c_size_t
        self.divisions.argtypes = [ctypes.c_size_t]
        self._keys = library[f"{prefix}7getKeysB5cxx11Ev"]
        self._keys.restype = ctypes.c_void_p
        self._set = torch._C._accelerator_setAllocatorSettings
        self.reset()

    def reset(self) -> None:
        """Back to the defaults: an empty text leaves two settings as they are."""
        self._set("large_segment_size_mb:20,expandable_segments:False")

    def keys(self) -> set[str]:
        """Names in the library's std::unordered_set: nodes of (next, text, length, …)."""
        names = set()
        node = ctypes.c_size_t.from_address(self._keys() + 16).value
        while node:
            node, start, length = (ctypes.c_size_t * 3).from_address(node)
            names.add(ctypes.string_at(start, length).decode())
        return names

    def read(self, text: str) -> AllocatorConfig:
        """What torch makes of a configuration; raises its error."""
        self.reset()
        self._set(text)
        start = self._instance()
        large, split, rounding = (ctypes.c_size_t * 3).from_address(start)
        divisions = tuple(self.divisions(MIB << index) for index in range(16))
        return AllocatorConfig(
            large_segment_bytes=large,
            max_split_bytes=split if split < 2**60 else None,
            max_non_split_rounding_bytes=rounding,
            power2_divisions=divisions if any(divisions) else (),
            gc_threshold=ctypes.c_double.from_address(start + 48).value,
            expandable_segments=ctypes.c_bool.from_address(start + 56).value,
        )


@pytest.fixture(name="torch_config")
def _torch_config() -> Iterator[TorchConfig]:
    config = TorchConfig()
    yield config
    config.reset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "max_split_size_mb:128",
        "max_split_size_mb:20,",
        "max_split_size_mb:-1",
        "expandable_segments:True",
        " expandable_segments : True , max_split_size_mb:64 ",
        "large_segment_size_mb:64",
        "max_split_size_mb:64,large_segment_size_mb:64",
        "max_non_split_rounding_mb:32,large_segment_size_mb:11",
        "garbage_collection_threshold:0.6,max_split_size_mb:128",
        "roundup_power2_divisions:4",
        "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]",
        "roundup_power2_divisions:[64:8,256:4,>:1]",
        "roundup_power2_divisions:[64:8,256:4],max_split_size_mb:64",
        "roundup_power2_divisions:[64:8,256:4,]",
        "roundup_power2_divisions:[64:8,>:0]",
        "roundup_power2_divisions:[>:4]",
        "roundup_power2_divisions:[512:8,64:4,>:2]",
        "roundup_power2_divisions:[65536:4]",
        "roundup_power2_divisions:[1:2,2:4]",
    ],
)
def test_settings_mean_what_torch_makes_of_them(torch_config: TorchConfig, text: str) -> None:
    expected = torch_config.read(text)
    read = parse_alloc_conf(text)
    assert read.ignored == (("garbage_collection_threshold:0.6",) if "garbage" in text else ())
    assert AllocatorConfig(**{**vars(read), "ignored": ()}) == expected


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:19",
        "max_split_size_mb:lots",
        "max_split_size_mb",
        "max_split_size_mb:",
        "max_split_size_mb=128",
        "max_split_size_mb:128;expandable_segments:True",
        "large_segment_size_mb:10",
        "large_segment_size_mb:64,max_split_size_mb:32",
        "max_non_split_rounding_mb:19",
        "garbage_collection_threshold:0",
        "garbage_collection_threshold:1",
        "garbage_collection_threshold:1.5",
        "garbage_collection_threshold:high",
        "expandable_segments:true",
        "expandable_segments:1",
        "roundup_power2_divisions:3",
        "roundup_power2_divisions:0",
        "roundup_power2_divisions:[64:3]",
        "roundup_power2_divisions:[63:4]",
        "roundup_power2_divisions:[64:8",
        "pinned_use_background_threads:yes",
    ],
)
def test_what_torch_refuses_is_refused_in_one_sentence(
    torch_config: TorchConfig, text: str
) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        torch_config.read(text)
    with pytest.raises(InputError, match=r"\A(cannot read '|the allocator has no setting ').*\Z"):
        parse_alloc_conf(text)


def test_every_key_of_the_installed_torch_is_known(torch_config: TorchConfig) -> None:
    header = (torch_config.folder / "include/c10/cuda/CUDAAllocatorConfig.h").read_text()
    listed = re.search(r"std::string> keys\{(.*?)\};", header, re.DOTALL)
    assert listed is not None
    joined = re.sub(r'"\s+"', "", re.sub(r"//.*", "", listed[1]))  # the header splits some names
    cuda = set(re.findall(r'"(\w+)"', joined))
    core = torch_config.keys()
    assert (len(cuda), len(core)) == (11, 9)
    assert cuda | core == KEYS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("per_process_memory_fraction:2", "a number from 0 to 1"),
        ("per_process_memory_fraction:half", "a number from 0 to 1"),
        ("throw_on_cudamalloc_oom:on", "True or False"),
        ("backend:jemalloc", "native or cudaMallocAsync"),
        ("pinned_num_register_threads:256", "a power of two up to 128"),
        ("pinned_reserve_segment_size_mb:0", "a whole number, 1 or more"),
        ("release_lock_on_cudamalloc:", "True or False"),
        ("max_split_mb:128", "it reads expandable_segments, max_split_size_mb"),
    ],
)
def test_wrong_values_of_cuda_s_own_keys_say_what_is_expected(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_alloc_conf(text)


def test_what_changes_nothing_is_said() -> None:
    config = parse_alloc_conf(
        "backend:cudaMallocAsync,release_lock_on_cudamalloc:True,garbage_collection_threshold:0.8"
    )
    assert config.ignored == (
        "backend:cudaMallocAsync",
        "release_lock_on_cudamalloc:True",
        "garbage_collection_threshold:0.8",  # torch collects only below a limit
    )
    limited = "garbage_collection_threshold:0.8,per_process_memory_fraction:0.9,backend:native"
    config = parse_alloc_conf(limited)
    assert (config.ignored, config.gc_threshold, config.memory_fraction) == ((), 0.8, 0.9)
    assert parse_alloc_conf("throw_on_cudamalloc_oom:True").rejects_early


@pytest.mark.parametrize(
    ("size", "divisions", "rounded"),
    [
        (1200 * MIB, 4, 1280 * MIB),  # 1024 + 256
        (1200 * MIB, 8, 1280 * MIB),  # 1024 + 2·128
        (1024 * MIB, 4, 1024 * MIB),
        (2000, 4, 2048),  # not above 512·4: multiples of 512
        (1200 * MIB, 1, 1200 * MIB),
    ],
)
def test_rounding_by_power_two_divisions(size: int, divisions: int, rounded: int) -> None:
    assert round_power2(size, divisions) == rounded


@pytest.mark.parametrize(
    ("size", "found"),
    [(1, 0), (2 * MIB - 1, 0), (2 * MIB, 1), (64 * MIB, 6), (32 * GIB, 15), (200 * GIB, 15)],
)
def test_size_classes_are_powers_of_two_mib(
    torch_config: TorchConfig, size: int, found: int
) -> None:
    assert size_class(size) == found
    listed = ",".join(f"{1 << index}:{1 << (index % 5)}" for index in range(16))
    divisions = parse_alloc_conf(f"roundup_power2_divisions:[{listed}]").power2_divisions
    torch_config.read(f"roundup_power2_divisions:[{listed}]")
    assert divisions[size_class(size)] == torch_config.divisions(size) == 1 << (found % 5)
