"""What a run will take, before it starts: memory, work, communication and time."""

from statefilm.training.planning.devices import DEVICES, Device, find_device, parse_bytes
from statefilm.training.planning.layout import Layout
from statefilm.training.planning.plan import (
    Hardware,
    Plan,
    Planner,
    Settings,
    plan_recipe,
)
from statefilm.training.planning.preset import plan_preset, read_preset_run

__all__ = [
    "DEVICES",
    "Device",
    "Hardware",
    "Layout",
    "Plan",
    "Planner",
    "Settings",
    "find_device",
    "parse_bytes",
    "plan_preset",
    "plan_recipe",
    "read_preset_run",
]
