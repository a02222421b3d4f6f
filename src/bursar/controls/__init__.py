"""What makes a call cheaper, on its way: a kept reply, a tier, a shorter history. Pure like the pipeline: it yields effects."""

from __future__ import annotations

from .aid import Again, Aid
from .own import Own
from .setting import Controls, compiled, reach

__all__ = ["Again", "Aid", "Controls", "Own", "compiled", "reach"]
