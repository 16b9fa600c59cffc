"""A monitor of a user's own training loop: what noise, curvature and momentum do there, within a stated cost.

`Monitor` is attached with one line and asked with another; `read` gives what one has stored as a polars frame, and
`says` what such a frame shows, in words. `LightningMonitor` and `TransformersMonitor` are the same as callbacks of
Lightning and of Hugging Face's Trainer; they are made on first use, since they need those packages.
"""

from typing import Any

from ravine.monitor.monitor import Monitor
from ravine.monitor.records import read
from ravine.monitor.remarks import LIMITS, Remark, Thresholds, says

__all__ = ["LIMITS", "LightningMonitor", "Monitor", "Remark", "Thresholds", "TransformersMonitor", "read", "says"]


def __getattr__(name: str) -> Any:
    if name == "LightningMonitor":
        from ravine.monitor import lightning

        return lightning.callback()
    if name == "TransformersMonitor":
        from ravine.monitor import transformers

        return transformers.callback()
    raise AttributeError(f"module 'ravine.monitor' has no attribute {name!r}")
