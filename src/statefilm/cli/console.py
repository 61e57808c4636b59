"""What commands say: notes and progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Console:
    """Where words go. Results are for programs (stdout), notes for people (stderr)."""

    json: bool = False
    quiet: bool = False

    @property
    def progress(self) -> bool:
        """Whether progress bars are shown."""
        return sys.stderr.isatty() and not self.quiet

    def note(self, text: str) -> None:
        """A remark that `--quiet` silences."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A remark about something that is probably not as meant."""
        self.note(f"warning: {text}")

    def result(self, path: Path, **fields: Any) -> None:
        """A written file: its path, or with `--json` an object."""
        line = json.dumps({"path": str(path), **fields}) if self.json else str(path)
        print(line, flush=True)


def hide_library_bars() -> None:
    """Turn off the bars that diffusers and transformers show while they write weights."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
