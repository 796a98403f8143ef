"""Where networks run: the allocator, the device, the precision. torch is imported inside functions only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from i2i.backends.turns import torch_turns
from i2i.contracts import Array, Runtime
from i2i.cores import available_cores
from i2i.errors import UsageError

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def configure_allocator() -> bool:
    """Tell glibc to keep freed memory: it maps and unmaps every activation above 32 MB, and the page faults cost 2-5x.

    Call it before torch starts. One arena, for otherwise only the main thread profits. False where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20), (_M_ARENA_MAX, 1))
    done = [mallopt(key, value) == 1 for key, value in settings]  # each is to be called
    return all(done)


def configure_waiting() -> None:
    """Tell OpenMP that a thread which waits for others is to sleep soon. By itself it spins for milliseconds, and on a machine
    that others use too, it takes the cores from those it waits for. Call it before torch starts. What the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = "1000"


def start_torch(threads: int | None = None) -> None:
    """Import torch with the allocator and OpenMP set, on ``threads`` threads (all that this process may use, if None)."""
    configure_allocator()
    configure_waiting()
    import torch

    torch.set_num_threads(threads or available_cores())


def pick_device(asked: str) -> str:
    """``auto`` becomes cuda, mps or cpu, whichever is there. Raises ``UsageError`` for one that is not."""
    import torch

    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *present]
    if asked == "auto":
        return present[0]
    if asked not in present:
        raise UsageError(f"--device {asked}: this machine has {', '.join(present)}")
    return asked


def has_bf16(device: str) -> bool:
    """Whether bf16 is computed by the hardware of ``device``, and not emulated."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # no public query exists
    return False


def pick_precision(asked: str, device: str, vouched: Sequence[str]) -> str:
    """``auto``: the fastest of the precisions that the model's card vouches for and the device computes natively."""
    if asked != "auto":
        if asked == "fp16" and device == "cpu":
            raise UsageError("--precision fp16: needs cuda or mps; use bf16 or fp32 on the CPU")
        return asked
    if "fp16" in vouched and device != "cpu":
        return "fp16"
    return "bf16" if "bf16" in vouched and has_bf16(device) else "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that an accelerator's memory is full, so that a smaller batch may do. The machine's own memory is
    another matter: ``MemoryError`` and torch's failures on the CPU give False."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError)


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which a network computes in ``precision``; nothing for fp32."""
    import torch

    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.split(":", maxsplit=1)[0], dtype=dtype_of(precision))


def dtype_of(precision: str) -> torch.dtype:
    """torch's name for a precision: ``fp32``, ``bf16`` or ``fp16``."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def run_batch(network: Callable[[torch.Tensor], Any], windows: Sequence[Array], runtime: Runtime) -> Any:
    """Windows, HWC float32, through ``network`` (NCHW, channels_last) without gradients: what the network returns."""
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(np.stack(windows)))
    batch = batch.permute(0, 3, 1, 2).to(runtime.device, memory_format=torch.channels_last)
    with torch_turns.shared(), torch.inference_mode(), autocast(runtime.device, runtime.precision):
        return network(batch)


def to_array(raw: torch.Tensor) -> Array:
    """(N, C, H, W) on any device -> (N, H, W, C) float32."""
    array: Array = raw.float().permute(0, 2, 3, 1).cpu().numpy()
    return array
