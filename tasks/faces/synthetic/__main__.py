"""Command line: generate the cache, export it in WFLW's format, draw contact sheets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srrl.cli import Parser, at_most, guarded
from srrl.errors import RunError, UserError

from . import SyntheticSettings, ensure, export_wflw
from .settings import SPLITS, cache_root


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m srrl_tasks.faces.synthetic", description="Synthetic faces with 68 and 98 landmarks."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = SyntheticSettings()
    for name, text in (
        ("generate", "fill the cache (continues where an interrupted run stopped)"),
        ("export", "write the set as a WFLW folder"),
        ("sheet", "draw contact sheets as PNG"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        for split in SPLITS:
            value = getattr(defaults, f"n_{split}")
            command.add_argument(
                f"--n-{split}", type=int, default=value, help=f"faces of {split} (default {value})"
            )
        command.add_argument(
            "--size", type=int, default=defaults.size, help=f"picture side (default {defaults.size})"
        )
        command.add_argument("--seed", type=int, default=defaults.seed)
        command.add_argument("--cache-dir", type=Path, help=f"default $SRRL_CACHE or {cache_root()}")
        if name == "generate":
            command.add_argument("--split", choices=SPLITS, help="only this split")
            command.add_argument(
                "--processes", type=at_most(1024), help="worker processes (default: the cores)"
            )
        else:
            command.add_argument("out", type=Path, help="folder to write to")
    return parser


def _sheets(settings: SyntheticSettings, out: Path, cache_dir: Path | None) -> None:
    import cv2

    from . import assets

    assets.require()
    from . import sheet

    out.mkdir(parents=True, exist_ok=True)
    sheets = {
        f"numbered-{points}-yaw{yaw}.png": image
        for yaw in (0, 35)
        for points, image in sheet.numbered(cache_dir, yaw=yaw).items()
    }
    sheets["definitions.png"] = sheet.definitions(cache_dir)
    sheets["samples.png"] = sheet.samples(settings, "train", 5, 8, cache_dir)
    sheets["samples-98.png"] = sheet.samples(settings, "train", 5, 8, cache_dir, points=98)
    for name, image in sheets.items():
        if not cv2.imwrite(str(out / name), image):  # which says nothing of a full disk
            raise RunError(f"could not save {out / name}: is the disk full?")
    print(out)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    return guarded(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    try:
        fields = {name: getattr(options, name) for name in SyntheticSettings.model_fields}
        try:
            settings = SyntheticSettings(**fields)
        except ValueError as error:
            raise UserError(
                f"synthetic settings: {str(error).splitlines()[1]} {str(error).splitlines()[2].strip()}"
            ) from error
        if options.command == "generate":
            print(ensure(settings, options.split, cache_dir=options.cache_dir, processes=options.processes))
        elif options.command == "export":
            print(export_wflw(settings, options.out, cache_dir=options.cache_dir))
        else:
            _sheets(settings, options.out, options.cache_dir)
    except KeyboardInterrupt:
        print("interrupted: finished shards are kept; run the same command to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
