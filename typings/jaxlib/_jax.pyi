"""The type of a device, which jaxlib has in compiled code only.

Without it pyright knows the type of no function of `jax.numpy` that has an argument ``device``.
"""

from typing import Any

class Device:
    id: int
    platform: str
    device_kind: str
    process_index: int

    def memory_stats(self) -> dict[str, int] | None: ...
    def __getattr__(self, name: str) -> Any: ...
