"""Stand-ins for torch_npu, acl, mooncake and the like, described by environment variables.

They hold just enough for vllm-ascend's Python to be imported and its startup
checks to run on a machine without an NPU. What the engine asks of the device
(build, name, SoC number, count, memory) is answered from the environment;
anything else is an inert object, so no check can pass or fail because of it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

# Top-level packages that exist only beside an NPU.
INERT_PACKAGES = ("torch_npu", "acl", "mooncake", "memfabric_hybrid", "memcache_hybrid")
# Packages whose presence changes what torch and transformers do: only the engine gets them.
SHY_PACKAGES = ("torchvision", "triton")
ENGINE_FOLDERS = ("/vllm/", "/vllm_ascend/", "/transformers/models/hunyuan_vl/")
GIB = 1 << 30


class Inert:
    """An object that accepts every call, attribute, subscript and comparison."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Used as a decorator it must hand the function back.
        if len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]
        return Inert()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Inert()

    def __getitem__(self, key: Any) -> Any:
        return Inert()


class InertModule(types.ModuleType):
    """A module whose missing attributes are inert classes, so they can be subclassed."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (Inert,), {"__module__": self.__name__})
        setattr(self, name, value)
        return value


class Device:
    """What the environment says about the chip."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.build = env["ASCEND_V4_CONTRACT_BUILD"]
        self.name = env["ASCEND_V4_CONTRACT_DEVICE_NAME"]
        self.soc = int(env["ASCEND_V4_CONTRACT_SOC"])
        self.count = int(env["ASCEND_V4_CONTRACT_DEVICES"])
        self.memory = int(env["ASCEND_V4_CONTRACT_MEMORY_GIB"]) * GIB


def _npu_module(device: Device) -> types.ModuleType:
    """Return the module that is both ``torch.npu`` and ``torch_npu.npu``."""
    npu = InertModule("torch_npu.npu")
    properties = types.SimpleNamespace(
        name=device.name,
        total_memory=device.memory,
        multi_processor_count=24,
        cube_core_num=24,
        vector_core_num=48,
        L2_cache_size=192 << 20,
    )
    npu.__dict__.update(
        is_available=lambda: True,
        is_initialized=lambda: False,
        device_count=lambda: device.count,
        current_device=lambda: 0,
        set_device=lambda *_: None,
        get_device_name=lambda *_: device.name,
        get_soc_version=lambda: device.soc,
        get_device_properties=lambda *_: properties,
        mem_get_info=lambda *_: (device.memory, device.memory),
        get_device_capability=lambda *_: None,
        is_bf16_supported=lambda: True,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda *_: None,
        get_amp_supported_dtype=lambda: [],
    )
    return npu


def _on_torch_npu(module: types.ModuleType, device: Device) -> None:
    """Give torch the ``npu`` device name and module, as importing torch_npu does."""
    import torch
    import torch.distributed

    torch.utils.rename_privateuse1_backend("npu")
    torch.distributed.is_hccl_available = lambda: True  # type: ignore[attr-defined]
    npu = _npu_module(device)
    module.npu = npu  # type: ignore[attr-defined]
    module.__version__ = "2.10.0"  # type: ignore[attr-defined]
    sys.modules["torch_npu.npu"] = npu
    torch._register_device_module("npu", npu)


def _asked_by_the_engine() -> bool:
    """Tell whether an ``import`` statement of the engine asks, not a test for availability.

    Transformers and torch look whether torchvision and triton are there, and must go
    on without them: they would call into what they find.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith("importlib/util.py") or "importlib.util" in file:
            return False
        if file != __file__ and "importlib" not in file:
            return any(part in file for part in ENGINE_FOLDERS)
        frame = frame.f_back
    return False


def _let_torch_look_first() -> None:
    """Have torch find that there is no triton, before the engine's stand-in is one.

    torch keeps what it found; with the stand-in it would read into its back-ends.
    """
    for name in ("torch._dynamo", "torch._inductor.lowering"):
        importlib.import_module(name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers imports of the packages that only an NPU host has."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def _ours(self, fullname: str) -> bool:
        top = fullname.partition(".")[0]
        if top in INERT_PACKAGES or fullname == "vllm_ascend._build_info":
            return True
        if fullname.startswith("triton.language.extra.cann"):
            return True
        return top in SHY_PACKAGES and _asked_by_the_engine()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not self._ours(fullname):
            return None
        if fullname == "triton":
            _let_torch_look_first()
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return InertModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__ == "torch_npu":
            _on_torch_npu(module, self.device)
        elif module.__name__ == "vllm_ascend._build_info":
            # Every wheel on the index is built for A2; the image of the chip is not.
            module.__device_type__ = self.device.build  # type: ignore[attr-defined]


def install(env: Mapping[str, str]) -> None:
    """Put the stand-ins before every other finder."""
    sys.meta_path.insert(0, Finder(Device(env)))
