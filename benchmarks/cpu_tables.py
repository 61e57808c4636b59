"""The documents' CPU tables: python benchmarks/cpu_tables.py FOLDER [--parts NAME ...] [--tiny].

Each part is a `statefilm bench` command with a folder of its own; `tables.md` holds the tables of
all parts that are there, with the commands that made them. A part that fails is reported, and the
next one runs.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from statefilm.cli.main import run

LENGTHS = "--lengths 256,1024,4096,16384,65536"
PAIR = "--models hth_300m,dit_300m"
PARTS = {
    "ops-float32": f"ops {LENGTHS} --dtype float32",
    "ops-bfloat16": f"ops {LENGTHS} --dtype bfloat16",
    "denoiser": f"denoiser {PAIR} --sizes 256p,1K --rounds 3 --dtype bfloat16",
    "denoiser-long": f"denoiser {PAIR} --sizes 180p,2K --sets 1 --rounds 3 --dtype bfloat16",
    "denoiser-float32": f"denoiser {PAIR} --sizes 1K --sets 1 --rounds 3 --dtype float32",
    "denoiser-training": f"denoiser {PAIR} --sizes 256p --sets 1 --backward --dtype bfloat16",
    "generate": "generate --batch-sizes 1,4 --rounds 3",
}
SMALL_OPS = "--lengths 48,96 --dim 32 --head-dim 16 --state-dim 16 --rounds 2"
TINY = {
    "ops-float32": f"ops --dtype float32 {SMALL_OPS}",
    "ops-bfloat16": f"ops --dtype bfloat16 {SMALL_OPS}",
    "denoiser": "denoiser --models hth_tiny,dit_tiny --tokens 16 --backward --rounds 1",
    "generate": "generate --steps 1 --batch-sizes 1 --no-video --rounds 1",
}


def main(args: list[str] | None = None) -> int:
    """Run all parts; 0 when each gave its table, else 3."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these, the others kept")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that all parts run")
    asked = parser.parse_args(args)

    parts = TINY if asked.tiny else PARTS
    failed = []
    for name in (name for name in parts if name in (asked.parts or parts)):
        command = ["bench", *parts[name].split(), "--device", "cpu"]
        if asked.threads is not None:
            command += ["--threads", str(asked.threads)]
        print(f"{name}: statefilm {' '.join(command)}", file=sys.stderr, flush=True)
        folder = asked.folder / name
        if run([*command, "--output", str(folder), "--force"]):
            failed.append(name)
            continue
        (folder / "command.txt").write_text(f"statefilm {' '.join(command)}\n", "utf-8")
        collect(asked.folder, parts)
    print(f"failed: {', '.join(failed)}" if failed else "all parts ran", file=sys.stderr)
    return 3 if failed else 0


def collect(folder: Path, parts: Iterable[str]) -> None:
    """Write tables.md from the folders of the parts that have run."""
    sections = []
    for part in (folder / name for name in parts):
        if (part / "command.txt").is_file():
            command = (part / "command.txt").read_text("utf-8").strip()
            table = (part / "table.md").read_text("utf-8")
            sections.append(f"## {part.name}\n\n`{command}`\n\n{table}")
    (folder / "tables.md").write_text("\n".join(sections), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
