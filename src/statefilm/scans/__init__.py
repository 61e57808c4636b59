"""Scan orders over a [T, H, W] grid of tokens: transposes for axis orders, tables for curves."""

from statefilm.scans.axes import ALIASES, AXIS_ORDERS
from statefilm.scans.curves import CURVES
from statefilm.scans.scan import SCANS, Scan, get_scan, resolve

__all__ = ["ALIASES", "AXIS_ORDERS", "CURVES", "SCANS", "Scan", "get_scan", "resolve"]
