"""The command `vilbert`: one table of commands. Their options are the fields of their settings dataclasses.

A command's module is imported when the command is called, so `vilbert --help` is fast and works without the
dependencies of other commands. Exit status: 0 success, 1 problems found, 2 usage error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vilbert.pipeline import __version__
from vilbert.pipeline.command_line import recorded_command
from vilbert.pipeline.config_file import default_config, read_config, shipped_config
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.renamed_options import refuse_renamed, replace_deprecated
from vilbert.pipeline.signals import noting_interrupts
from vilbert.pipeline.tasks.registry import TASKS
from vilbert.pipeline.terminal import accept_any_encoding, safe_streams
from vilbert.plugins import did_you_mean


class Command(NamedTuple):
    """The settings class, function and help line of a command."""

    module: str
    settings: str
    """Name of the settings class in `module`, or `module:class`."""
    function: str
    summary: str
    of_a_task: bool = False
    """Whether the first argument is the name of a task."""
    detects: bool = False
    """Whether it detects regions for a model; default detector: the one that the model was trained with."""


COMMANDS = {
    "shapes": Command(
        "vilbert.pipeline.shapes.write", "ShapesSettings", "write_shapes", "generate a small data set for trials"
    ),
    "manifest": Command(
        "vilbert.manifests.build",
        "vilbert.manifests.settings:ManifestSettings",
        "build_manifest",
        "list a data set's images and captions",
    ),
    "extract": Command(
        "vilbert.pipeline.extract.run",
        "vilbert.pipeline.extract.settings:ExtractSettings",
        "extract",
        "run a detector, write its regions to shards",
    ),
    "convert": Command(
        "vilbert.pipeline.rebuild.convert.command",
        "vilbert.pipeline.rebuild.convert.settings:ConvertSettings",
        "convert",
        "rebuild shards: merge, select, recaption, change fields",
    ),
    "extract --add-to": Command(
        "vilbert.pipeline.extract.add_to",
        "vilbert.pipeline.extract.add_to_settings:AddToSettings",
        "add_to",
        "run another detector at the boxes of a data set",
    ),
    "status": Command("vilbert.pipeline.jobs.status", "StatusSettings", "status", "show the progress of a job"),
    "verify": Command(
        "vilbert.pipeline.shards.checks.verify",
        "VerifySettings",
        "verify",
        "verify that shards are complete and undamaged",
    ),
    "index": Command(
        "vilbert.pipeline.shards.index.command",
        "IndexSettings",
        "index",
        "write side files with which other tools open a data set",
    ),
    "push": Command(
        "vilbert.pipeline.shards.hub.command", "PushSettings", "push", "upload a data set to the Hugging Face Hub"
    ),
    "column add": Command(
        "vilbert.pipeline.shards.columns.command",
        "AddColumnSettings",
        "add",
        "add values by image id to a data set",
    ),
    "column list": Command(
        "vilbert.pipeline.shards.columns.command",
        "ListColumnsSettings",
        "list_columns",
        "list the columns of a data set",
    ),
    "column drop": Command(
        "vilbert.pipeline.shards.columns.command", "DropColumnSettings", "drop", "delete a column of a data set"
    ),
    "score": Command(
        "vilbert.pipeline.rebuild.scores.run",
        "vilbert.pipeline.rebuild.scores.settings:ScoreSettings",
        "write_scores",
        "add scores of images and captions to select by",
    ),
    "select": Command(
        "vilbert.pipeline.rebuild.select.command",
        "SelectSettings",
        "select",
        "select samples by expressions, into a small file",
    ),
    "inspect": Command("vilbert.pipeline.inspect", "InspectSettings", "inspect", "show a data set or one sample"),
    "stats": Command(
        "vilbert.pipeline.shards.viewing.stats", "StatsSettings", "stats", "print statistics of a data set"
    ),
    "export": Command(
        "vilbert.pipeline.rebuild.export", "ExportSettings", "export", "write a data set in another format"
    ),
    "compare": Command(
        "vilbert.pipeline.rebuild.compare.command",
        "vilbert.pipeline.rebuild.compare.settings:CompareSettings",
        "compare",
        "compare two feature sets of the same images",
    ),
    "browse": Command("vilbert.pipeline.browse.command", "BrowseSettings", "browse", "browse data sets in a web page"),
    "pretrain": Command(
        "vilbert.pipeline.train.pretraining.command",
        "PretrainSettings",
        "pretrain",
        "train ViLBERT on captions and regions",
    ),
    "finetune": Command(
        "vilbert.pipeline.task_commands",
        "vilbert.pipeline.finetune.settings:FinetuneSettings",
        "finetune",
        "train a pre-trained ViLBERT on a task",
        of_a_task=True,
    ),
    "finetune multitask": Command(
        "vilbert.pipeline.task_commands",
        "vilbert.pipeline.finetune.multitask.settings:MultitaskSettings",
        "multitask",
        "train a pre-trained ViLBERT on several tasks",
    ),
    "evaluate": Command(
        "vilbert.pipeline.task_commands",
        "vilbert.pipeline.evaluate.settings:EvaluateSettings",
        "evaluate",
        "evaluate a fine-tuned ViLBERT, write a submission file",
        of_a_task=True,
    ),
    "predict": Command(
        "vilbert.pipeline.task_commands",
        "vilbert.pipeline.predict.settings:PredictSettings",
        "predict",
        "run a fine-tuned ViLBERT on photographs",
        of_a_task=True,
        detects=True,
    ),
    "report": Command(
        "vilbert.pipeline.report.command",
        "ReportSettings",
        "report",
        "write an HTML page about a fine-tuned model",
        detects=True,
    ),
    "convert-checkpoint": Command(
        "vilbert.pipeline.convert_checkpoint",
        "ConvertCheckpointSettings",
        "convert_checkpoint",
        "convert a published ViLBERT",
    ),
    "convert-detector": Command(
        "vilbert.pipeline.convert_detector",
        "ConvertDetectorSettings",
        "convert_detector",
        "convert a published Visual Genome detector",
    ),
    "demo": Command("vilbert.pipeline.demo", "DemoSettings", "demo", "run all of the above on the small data set"),
    "doctor": Command("vilbert.pipeline.doctor", "DoctorSettings", "doctor", "check the installation and the machine"),
}


def help_text() -> str:
    """Return the text of `vilbert --help`."""
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


def parse(name: str, arguments: Sequence[str]) -> Any:
    """Parse the arguments of a command; exit with status 2 and a message if they are invalid.

    Values from a recipe, a config file or a model's task.json become the defaults of the options, and `--help` shows
    them.

    Args:
        name: The command, a key of `COMMANDS`.
        arguments: The command line after the command's name.

    Returns:
        An instance of the command's settings class.

    Raises:
        ValueError: An option was renamed, belongs to another task, or the config file is invalid.
    """
    import tyro

    from vilbert.settings import default_instance

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # the search reads the metadata of all packages
    arguments = replace_deprecated(arguments)
    refuse_renamed(argument for argument in arguments if argument.startswith("--"))
    command, task = COMMANDS[name], None
    module, _, class_name = command.settings.rpartition(":")
    settings_class = described = getattr(importlib.import_module(module or command.module), class_name)
    if command.of_a_task:
        from vilbert.pipeline.task_settings import require_own_options, task_settings

        task, *arguments = arguments
        name = f"{name} {task}"
        require_own_options(command.function, task, arguments)
        settings_class = task_settings(command.function, task)
    config = argparse.ArgumentParser(prog=f"vilbert {name}", add_help=False, allow_abbrev=False)
    config.add_argument("--config", metavar="FILE", default=default_config(name))
    found, rest = config.parse_known_args(arguments)
    values = {} if found.config is None else read_config(shipped_config(name, found.config), settings_class)
    if command.detects:
        from vilbert.pipeline.predict.trained_detector import trained_values

        values = {**trained_values(rest, values, task), **values}
    with safe_streams(colored=True):
        return tyro.cli(
            settings_class,
            prog=f"vilbert {name}",
            description=inspect.getdoc(described),
            args=rest,
            default=default_instance(settings_class, values, fixed={} if task is None else {"task": task}),
            config=(tyro.conf.OmitArgPrefixes,),
        )


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
    """Run a command line with the safe streams that `main` has set up; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vilbert {__version__}")
        return 0
    name, *rest = arguments
    if name == "extract" and any(word.partition("=")[0] == "--add-to" for word in rest):
        name = "extract --add-to"  # its settings class has this option
        rest = ["--help"] if {"-h", "--help"} & set(rest) else rest  # `--add-to --help` names no folder
    elif rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        print(
            f"vilbert: no command {name!r}; the commands are: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    if COMMANDS[name].of_a_task and (not rest or rest[0] not in TASKS):
        return task_usage(name, rest[0] if rest else None)
    try:
        settings = parse(name, rest)
    except BrokenPipeError:  # `vilbert pretrain --help | head`: the reader closed the pipe
        return quiet()
    except (ValueError, OSError, RefusedError) as error:
        print(f"vilbert {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    with recorded_command(arguments):
        return call(name, settings, passing)


def task_usage(name: str, given: str | None) -> int:
    """Print the tasks of a command, for `--help` or an unknown task; return the exit status."""
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
    """Discard all further output to stdout; return exit status 0."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def call(name: str, settings: Any, passing: tuple[type[Exception], ...] = ()) -> int:
    """Run a command and return its exit status.

    Errors that the user can fix are printed as a message without a traceback. Errors of the types in `passing` are
    raised.
    """
    from vilbert.pipeline.socket_folder import shorten_multiprocessing_sockets

    with noting_interrupts() as interrupted:
        try:
            module = importlib.import_module(COMMANDS[name].module)  # takes seconds and can be interrupted by Ctrl-C
            function: Callable[[Any], int] = getattr(module, COMMANDS[name].function)
            shorten_multiprocessing_sockets()
            return function(settings)
        except passing:
            raise
        except BrokenPipeError:  # `vilbert stats DIR | head`: the reader closed the pipe
            return quiet()
        except (Exception, KeyboardInterrupt) as error:
            stopped = isinstance(error, KeyboardInterrupt) or interrupted.is_set()
            status = 130 if stopped else exit_status(error)
            if status is None:
                raise
            print(f"vilbert {name}: {'interrupted' if stopped else error}", file=sys.stderr)
            return status


def exit_status(error: BaseException) -> int | None:
    """Return 2 for a usage error, 1 for a problem with data, hardware or a run, None for a bug in this software."""
    from vilbert.extractors.extractor import ExtractorError
    from vilbert.manifests.record import ManifestError
    from vilbert.pipeline.errors import RefusedError, ShardError, TrainingError

    match error:
        case ManifestError() | ExtractorError() | RefusedError():
            return 2
        case ShardError() | TrainingError() | OSError():
            return 1
    return None


if __name__ == "__main__":
    sys.exit(main())
