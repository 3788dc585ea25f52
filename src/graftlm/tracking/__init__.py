"""Where metrics go: JSON Lines in the artifact, always, and a tracker of experiments (W&B …) where one is wanted.

The JSON Lines are what everything of ours reads. A sink that fails is named once and left alone: it never stops a run.
"""

from __future__ import annotations

from graftlm.tracking.lines import METRICS, read_metrics, validation_losses
from graftlm.tracking.sink import Sink
from graftlm.tracking.tracker import Tracker, tracker

__all__ = ["METRICS", "Sink", "Tracker", "read_metrics", "tracker", "validation_losses"]
