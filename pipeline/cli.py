"""The command `vilbert`: one table of commands, whose options are the fields of their settings dataclasses.

A command's module is imported when it is called, so `vilbert --help` stays fast and works without what other
commands need. Exit status: 0 fine, 1 problems found, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vilbert.pipeline import __version__
from vilbert.pipeline.command_line import recorded_command
from vilbert.pipeline.renamed_options import refuse_renamed
from vilbert.pipeline.shards.errors import RefusedError
from vilbert.pipeline.tasks.options import of_task, option_names, plain, require_own_options
from vilbert.pipeline.tasks.registry import TASKS, find_task
from vilbert.pipeline.terminal import accept_any_encoding, safe_streams
from vilbert.untrusted.documents import DocumentError, read_yaml


class Command(NamedTuple):
    """Where a command's settings and function live, and its line in `vilbert --help`."""

    module: str
    settings: str
    function: str
    summary: str
    of_a_task: bool = False
    """Whether the first argument is a task's name."""
    detects: bool = False
    """Whether it finds regions for a model, by default with the detector that the model was trained on."""


COMMANDS = {
    "shapes": Command(
        "vilbert.pipeline.shapes.write", "ShapesSettings", "write_shapes", "draw a small data set to try"
    ),
    "manifest": Command(
        "vilbert.manifests.build", "ManifestSettings", "build_manifest", "list a data set's images and captions"
    ),
    "extract": Command(
        "vilbert.pipeline.extract.run", "ExtractSettings", "extract", "run a detector, write its regions to shards"
    ),
    "status": Command("vilbert.pipeline.extract.status", "StatusSettings", "status", "say how an extraction is going"),
    "verify": Command(
        "vilbert.pipeline.shards.verify", "VerifySettings", "verify", "prove shards complete and undamaged"
    ),
    "inspect": Command(
        "vilbert.pipeline.shards.inspect", "InspectSettings", "inspect", "look at a data set or at one sample"
    ),
    "stats": Command("vilbert.pipeline.shards.stats", "StatsSettings", "stats", "count and summarise a data set"),
    "pretrain": Command(
        "vilbert.pipeline.train.command", "PretrainSettings", "pretrain", "train ViLBERT on captions and regions"
    ),
    "finetune": Command(
        "vilbert.pipeline.tasks.command",
        "FinetuneSettings",
        "finetune",
        "train a pre-trained ViLBERT on a task",
        of_a_task=True,
    ),
    "finetune multitask": Command(
        "vilbert.pipeline.tasks.command",
        "MultitaskSettings",
        "multitask",
        "train a pre-trained ViLBERT on several tasks",
    ),
    "evaluate": Command(
        "vilbert.pipeline.tasks.command",
        "EvaluateSettings",
        "evaluate",
        "score a fine-tuned ViLBERT, write its answers",
        of_a_task=True,
    ),
    "predict": Command(
        "vilbert.pipeline.tasks.command",
        "PredictSettings",
        "predict",
        "ask a fine-tuned ViLBERT about photographs",
        of_a_task=True,
        detects=True,
    ),
    "report": Command(
        "vilbert.pipeline.tasks.report",
        "ReportSettings",
        "report",
        "show what a fine-tuned model has learnt on one page",
        detects=True,
    ),
    "convert-checkpoint": Command(
        "vilbert.pipeline.convert_checkpoint",
        "ConvertCheckpointSettings",
        "convert_checkpoint",
        "read a published ViLBERT",
    ),
    "demo": Command("vilbert.pipeline.demo", "DemoSettings", "demo", "run all of the above on the small data set"),
    "doctor": Command("vilbert.pipeline.doctor", "DoctorSettings", "doctor", "say what this machine can do"),
}


RECIPES = Path(__file__).parent / "recipes"


def help_text() -> str:
    """Return what `vilbert --help` prints."""
    rows = "\n".join(f"  {name:<18} {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: vilbert COMMAND [OPTIONS]\n\n"
        "Region features from images, verified shards, and the models trained from them.\n\n"
        f"commands, in the order of a first run:\n{rows}\n\n"
        "`vilbert COMMAND --help` lists a command's options. Each takes --config FILE: YAML or JSON with the same\n"
        "option names (positional arguments stay on the command line), or the name of settings that come with this\n"
        "package, as `pretrain --config paper`; command-line options override the file.\n"
        "Start with the README: `make demo`."
    )


def recipes_folder(command: str) -> Path:
    """Return the folder of the settings that come with a command; a task of another package has its own."""
    verb, _, task = command.partition(" ")
    if task in TASKS and (own := find_task(task).recipes) is not None:
        return own if verb == "finetune" else own / verb
    return RECIPES / command.replace(" ", "/")


def shipped_config(command: str, name: str) -> str:
    """Return the path of the settings that come with the package under `name`, where it is no file of the user's.

    Raises ValueError where it is neither.
    """
    recipes = {path.stem: path for path in recipes_folder(command).glob("*.yaml")}
    if name in recipes and not Path(name).is_file():  # a folder of that name, such as the demo's, is no settings
        return str(recipes[name])
    if Path(name).exists():
        return name
    shipped = (
        f"the settings that come with the package are {', '.join(sorted(recipes))}"
        if recipes
        else (f"no settings come with the package for `vilbert {command}`")
    )
    raise ValueError(f"--config {name}: no such file; {shipped}{did_you_mean(name, recipes)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the known name nearest to a mistyped one; empty where none is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def config_arguments(path: str, options: Container[str]) -> list[str]:
    """Return a config file's settings as command-line arguments, so that a file and flags mean the same.

    options: the names there are, in underscores. Raises ValueError where the file is not a mapping of them to values.
    """
    try:
        settings = read_yaml(Path(path))  # JSON is YAML
    except OSError as error:
        raise ValueError(f"--config {path}: cannot be read: {error}") from error
    except DocumentError as error:
        raise ValueError(f"--config {path}: is neither YAML nor JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"--config {path}: expected a mapping of option names to values")
    refuse_renamed(map(str, settings))
    arguments: list[str] = []
    for name, value in settings.items():
        if str(name).replace("-", "_") not in options:
            raise ValueError(f"--config {path}: no option {name}; names are those of --help, without the dashes")
        option = "--" + str(name).replace("_", "-")
        match value:
            case bool():
                arguments.append(option if value else option.replace("--", "--no-", 1))
            case list() if any(isinstance(part, list | dict) for part in value):
                raise ValueError(f"--config {path}: {name} holds a list or a mapping; give plain values")
            case list():
                arguments += [option, *map(str, value)]
            case dict():
                raise ValueError(f"--config {path}: {name} is a mapping; options are flat, named as in --help")
            case _:
                arguments += [option, str(value)]
    return arguments


def before_options(arguments: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Return a command line with further options, which its own options override.

    They stand behind the positionals, which a list would take in.
    """
    first = next((at for at, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return [*arguments[:first], *defaults, *arguments[first:]]


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Return the settings of command `name`; leave with status 2 and a message where they are wrong."""
    import tyro

    refuse_renamed(argument for argument in arguments if argument.startswith("--"))
    command, task = COMMANDS[name], None
    settings_class = shown = getattr(importlib.import_module(command.module), command.settings)
    if command.of_a_task:
        task, *arguments = arguments
        name = f"{name} {task}"
        require_own_options(settings_class, task, arguments)
        shown = of_task(settings_class, task)
    # What is published for a task, or for several, holds without being asked for.
    default = "default" if " " in name and (recipes_folder(name) / "default.yaml").is_file() else None
    config = argparse.ArgumentParser(prog=f"vilbert {name}", add_help=False, allow_abbrev=False)
    config.add_argument("--config", metavar="FILE", default=default)
    found, rest = config.parse_known_args(arguments)
    if found.config is not None:
        found.config = shipped_config(name, found.config)
        rest = before_options(rest, config_arguments(found.config, option_names(shown)))
    if command.detects:
        from vilbert.pipeline.tasks.trained_detector import trained_options

        rest = before_options(rest, trained_options(rest, task))
    with safe_streams(colored=True):
        settings = tyro.cli(shown, prog=f"vilbert {name}", args=rest, config=(tyro.conf.OmitArgPrefixes,))
    return plain(settings_class, settings) if command.of_a_task else settings


def main(arguments: Sequence[str] | None = None, *, passing: tuple[type[Exception], ...] = ()) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: The command line without the leading `vilbert`; by default that of the process.
        passing: Errors of the command that the caller handles; they are raised, not printed.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    accept_any_encoding()
    with safe_streams():
        return run(arguments, passing)


def run(arguments: Sequence[str], passing: tuple[type[Exception], ...] = ()) -> int:
    """Run a command line, which `main` gave streams that are safe to print to."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vilbert {__version__}")
        return 0
    name, *rest = arguments
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        print(
            f"vilbert: no command {name!r}; there are: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    if COMMANDS[name].of_a_task and (not rest or rest[0] not in TASKS):
        return task_usage(name, rest[0] if rest else None)
    try:
        settings = parse(name, rest)
    except BrokenPipeError:  # `vilbert pretrain --help | head`: whoever read has read enough
        return quiet()
    except (ValueError, OSError, RefusedError) as error:
        print(f"vilbert {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    with recorded_command(arguments):
        return call(name, settings, passing)


def task_usage(name: str, given: str | None) -> int:
    """Print which tasks a command has, in answer to `--help` or to a name that is no task; return the exit status."""
    tasks = [*TASKS, *(command.removeprefix(f"{name} ") for command in COMMANDS if command.startswith(f"{name} "))]
    usage = (
        f"usage: vilbert {name} TASK [OPTIONS]\n\nTASK is one of: {', '.join(tasks)}.\n"
        f"`vilbert {name} TASK --help` lists its options; docs/tasks.md has a page for each."
    )
    if given in ("-h", "--help"):
        print(usage)
        return 0
    if given is not None:
        problem = f"the task comes first, before {given}" if given.startswith("-") else f"no task {given!r}"
        print(f"vilbert {name}: {problem}{did_you_mean(given, tasks)}", file=sys.stderr)
    print(usage, file=sys.stderr)
    return 2


def quiet() -> int:
    """Let what is still to be printed go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def call(name: str, settings: Any, passing: tuple[type[Exception], ...] = ()) -> int:
    """Run command `name`; a problem that its user can solve becomes a message, never a traceback.

    Errors of the types in `passing` are raised.
    """
    from vilbert.extractors.extractor import ExtractorError
    from vilbert.manifests.record import ManifestError
    from vilbert.pipeline.shards.errors import RefusedError, ShardError
    from vilbert.pipeline.socket_folder import shorten_multiprocessing_sockets
    from vilbert.pipeline.train.errors import TrainingError

    function: Callable[[Any], int] = getattr(importlib.import_module(COMMANDS[name].module), COMMANDS[name].function)
    try:
        shorten_multiprocessing_sockets()
        return function(settings)
    except passing:
        raise
    except (ManifestError, ExtractorError, RefusedError) as error:
        status = 2
        message = str(error)
    except BrokenPipeError:  # `vilbert stats DIR | head`: whoever read has read enough
        return quiet()
    except (ShardError, TrainingError, OSError) as error:
        status = 1
        message = str(error)
    except KeyboardInterrupt:
        status = 130
        message = "interrupted"
    print(f"vilbert {name}: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
