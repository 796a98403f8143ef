"""``i2i doctor``: what this machine and this installation have, and what would help."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from i2i.backends import available_cores, configure_allocator, has_bf16, installed_backends, pick_device
from i2i.cli import console
from i2i.memory import total_memory
from i2i.models import cache_dir, offline
from i2i.registry import Registry

_EXTRAS = {
    "openvino": (("openvino",), "a second backend, for Intel and AMD processors"),
    "onnx": (("onnx", "onnxscript", "onnxruntime"), "i2i models export to ONNX"),
    "bioimageio": (("yaml", "onnxruntime"), "i2i bioimage: model folders of bioimage.io"),
    "slides": (("tiffslide",), "Leica slides (SCN)"),
    "tensorboard": (("tensorboard",), "i2i train ... --tensorboard"),
}
"""By the extra's name: the modules that it installs, and what they are for."""


def _missing_extras() -> list[str]:
    return [name for name, (modules, _) in _EXTRAS.items() if not all(find_spec(module) for module in modules)]


def facts(registry: Registry) -> dict[str, Any]:
    """What there is, by name; it imports torch and every plugin."""
    plugins = registry.all()
    allocator = configure_allocator()
    import imagecodecs
    import torch

    device, missing = pick_device("auto"), _missing_extras()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "backends": ", ".join(installed_backends()),
        "cores": available_cores(),
        "memory": console.size_text(total_memory()),
        "bf16": "computed by the hardware" if has_bf16(device) else "emulated: slower, fp32 is used",
        "allocator": "told to keep memory" if allocator else "not glibc: left as it is",
        "codecs": imagecodecs.__version__,
        "extras": ", ".join(name for name in _EXTRAS if name not in missing) or "none",
        "cache": f"{cache_dir()}" + ("" if os.access(_existing(cache_dir()), os.W_OK) else " (not writable)"),
        "offline": "yes (I2I_OFFLINE)" if offline() else "no",
        "plugins": ", ".join(f"{plugin.name} ({plugin.distribution})" for plugin in plugins),
    }


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def advice(registry: Registry, facts: Mapping[str, Any]) -> list[str]:
    """What would help, a line each."""
    lines = [f"the plugin {b.name} of {b.distribution} is broken: {b.reason}" for b in registry.broken]
    if facts["device"] == "cpu":
        lines.append("no accelerator: networks run on the CPU; a CUDA GPU or Apple silicon is used by itself where there is one")
    if total_memory() < 4e9:
        lines.append("less than 4 GB of memory: close other programs, and give --memory 1.5GB")
    if "not writable" in facts["cache"]:
        lines.append("the cache cannot be written: set I2I_CACHE_DIR to a folder that can")
    return lines + [f"for {_EXTRAS[name][1]}: pip install 'i2i-engine[{name}]'" for name in _missing_extras()]
