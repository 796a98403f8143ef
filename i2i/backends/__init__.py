"""Where and how networks run: the allocator, the device, the precision, the backend. torch and OpenVINO are imported inside
functions only."""

from __future__ import annotations

from i2i.backends.choice import (
    AUTO_PIXELS,
    TOLERANCE,
    activation_share,
    compile_network,
    confirm_backend,
    installed_backends,
    overhead_bytes,
    pick_backend,
)
from i2i.backends.devices import (
    autocast,
    configure_allocator,
    dtype_of,
    has_bf16,
    is_out_of_memory,
    pick_device,
    pick_precision,
    run_batch,
    start_torch,
    to_array,
)
from i2i.cores import available_cores

__all__ = [
    "AUTO_PIXELS",
    "TOLERANCE",
    "activation_share",
    "autocast",
    "available_cores",
    "compile_network",
    "configure_allocator",
    "confirm_backend",
    "dtype_of",
    "has_bf16",
    "installed_backends",
    "is_out_of_memory",
    "overhead_bytes",
    "pick_backend",
    "pick_device",
    "pick_precision",
    "run_batch",
    "start_torch",
    "to_array",
]
