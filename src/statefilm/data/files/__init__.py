"""A user's own images and clips: folders, tables, tars and arrays as an index, buckets, batches."""

from statefilm.data.files.buckets import (
    RATIOS,
    Assignment,
    Bucket,
    assign,
    choose_bucket,
    make_buckets,
)
from statefilm.data.files.entry import BadItem, Entry, Item, Limits
from statefilm.data.files.layouts import LAYOUTS, SPLITS
from statefilm.data.files.load import load
from statefilm.data.files.plan import BucketPlan
from statefilm.data.files.quarantine import Quarantine
from statefilm.data.files.report import Report, inspect
from statefilm.data.files.samples import FileBatch, FileSamples
from statefilm.data.files.source import Source, open_source
from statefilm.data.files.verify import verify

__all__ = [
    "LAYOUTS",
    "RATIOS",
    "SPLITS",
    "Assignment",
    "BadItem",
    "Bucket",
    "BucketPlan",
    "Entry",
    "FileBatch",
    "FileSamples",
    "Item",
    "Limits",
    "Quarantine",
    "Report",
    "Source",
    "assign",
    "choose_bucket",
    "inspect",
    "load",
    "make_buckets",
    "open_source",
    "verify",
]
