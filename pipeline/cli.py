"""The command `vilbert`: one table of commands, whose options are the fields of their settings dataclasses.

A command's module is imported when it is called, so `vilbert --help` stays fast and works without what other
commands need. Exit status: 0 fine, 1 problems found, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import __version__


class Command(NamedTuple):
    """Where a command's settings and function live, and its line in `vilbert --help`."""

    module: str
    settings: str
    function: str
    summary: str


COMMANDS = {
    "shapes": Command("pipeline.shapes.write", "ShapesSettings", "write_shapes", "draw a small data set to try"),
    "manifest": Command(
        "manifests.build", "ManifestSettings", "build_manifest", "list a data set's images and captions"
    ),
    "extract": Command(
        "pipeline.extract.run", "ExtractSettings", "extract", "run a detector, write its regions to shards"
    ),
    "verify": Command("pipeline.shards.verify", "VerifySettings", "verify", "prove shards complete and undamaged"),
    "inspect": Command("pipeline.shards.inspect", "InspectSettings", "inspect", "look at a data set or at one sample"),
    "stats": Command("pipeline.shards.stats", "StatsSettings", "stats", "count and summarise a data set"),
    "demo": Command("pipeline.demo", "DemoSettings", "demo", "run all of the above on the small data set"),
    "doctor": Command("pipeline.doctor", "DoctorSettings", "doctor", "say what this machine can do"),
}


def help_text() -> str:
    """Return what `vilbert --help` prints."""
    rows = "\n".join(f"  {name:<9} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: vilbert COMMAND [OPTIONS]\n\n"
        "Region features from images, verified shards, and the models trained from them.\n\n"
        f"commands, in the order of a first run:\n{rows}\n\n"
        "`vilbert COMMAND --help` lists a command's options. Each takes --config FILE (YAML or JSON) with the same\n"
        "names; options on the command line go over it. Start with the README: `make demo`."
    )


def config_arguments(path: str) -> list[str]:
    """Return a config file's settings as command-line arguments, so that a file and flags mean the same.

    Raises ValueError where the file is not a mapping of option names to values.
    """
    import yaml  # JSON is YAML

    try:
        settings = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path}: is neither YAML nor JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config {path}: expected a mapping of option names to values")
    arguments: list[str] = []
    for name, value in settings.items():
        option = "--" + str(name).replace("_", "-")
        match value:
            case bool():
                arguments.append(option if value else option.replace("--", "--no-", 1))
            case list():
                arguments += [option, *map(str, value)]
            case dict():
                raise ValueError(f"--config {path}: {name} is a mapping; options are flat, named as in --help")
            case _:
                arguments += [option, str(value)]
    return arguments


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Return the settings of command `name`; leave with status 2 and a message where they are wrong."""
    import tyro

    command = COMMANDS[name]
    settings_class = getattr(importlib.import_module(command.module), command.settings)
    arguments = list(arguments)
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments):
            raise ValueError("--config needs a file")
        path = arguments[at + 1]
        del arguments[at : at + 2]
        arguments = config_arguments(path) + arguments
    return tyro.cli(settings_class, prog=f"vilbert {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vilbert {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"vilbert: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        settings = parse(name, rest)
    except (ValueError, OSError) as error:
        print(f"vilbert {name}: {error}", file=sys.stderr)
        return 2
    return call(name, settings)


def call(name: str, settings: Any) -> int:
    """Run command `name`; a problem that its user can solve becomes a message, never a traceback."""
    from extractors.extractor import ExtractorError
    from manifests.record import ManifestError
    from pipeline.shards.errors import FingerprintError, LockedError, ShardError

    run: Callable[[Any], int] = getattr(importlib.import_module(COMMANDS[name].module), COMMANDS[name].function)
    try:
        return run(settings)
    except (ManifestError, ExtractorError, FingerprintError, LockedError) as error:
        status = 2
        message = str(error)
    except (ShardError, OSError) as error:
        status = 1
        message = str(error)
    except KeyboardInterrupt:
        status = 130
        message = "interrupted"
    print(f"vilbert {name}: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
