"""Read config files and shipped recipes into values of a command's settings; errors name file, key and reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.renamed_options import refuse_renamed
from vilbert.pipeline.tasks.registry import TASKS, find_task
from vilbert.plugins import did_you_mean
from vilbert.untrusted.documents import DocumentError, read_yaml

RECIPES = Path(__file__).parent / "recipes"
OF_A_TASK = ("finetune", "evaluate", "predict")
"""Commands whose first argument is a task."""


def recipes_folder(command: str) -> Path:
    """Return the folder of a command's recipes; a task of another package brings its own folder."""
    verb, _, task = command.partition(" ")
    folder = RECIPES / command.replace(" ", "/")
    if verb not in OF_A_TASK or folder.is_dir() or task not in TASKS or (own := find_task(task).recipes) is None:
        return folder
    return own if verb == "finetune" else own / verb


def shipped_config(command: str, name: str) -> str:
    """Return the path of a config file, or of the shipped recipe `name` if there is no such file.

    Raises:
        ValueError: There is neither a file nor a recipe of this name.
    """
    recipes = {path.stem: path for path in recipes_folder(command).glob("*.yaml")}
    if name in recipes and not Path(name).is_file():  # a folder of that name, such as the demo's, is not a file
        return str(recipes[name])
    if Path(name).exists():
        return name
    shipped = (
        f"the settings that come with the package are {', '.join(sorted(recipes))}"
        if recipes
        else (f"no settings come with the package for `vilbert {command}`")
    )
    raise ValueError(f"--config {name}: no such file; {shipped}{did_you_mean(name, recipes)}")


def default_config(command: str) -> str | None:
    """Return the name of the recipe that a task uses by default, or None."""
    return "default" if command.startswith(OF_A_TASK) and (recipes_folder(command) / "default.yaml").is_file() else None


def read_config(path: str, settings_class: type) -> dict[str, Any]:
    """Read a YAML or JSON file and return option values by field name, converted to the options' types.

    Raises:
        ValueError: The file is invalid, a key is not an option, or a value is rejected. The message names file and key.
    """
    from vilbert.settings import SettingsError, file_value, options_of

    options = options_of(settings_class)
    values: dict[str, Any] = {}
    for key, value in _mapping(path).items():
        name = str(key).replace("-", "_")
        if name not in options:
            _refuse_renamed(path, str(key))
            nearest = did_you_mean(name, options)
            raise ValueError(
                f"--config {path}: no option {key}{nearest}; names are those of --help, without the dashes"
            )
        if name in values:
            raise ValueError(f"--config {path}: {key} appears twice, with dashes and with underscores")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(it, list | dict) for it in value)):
            raise ValueError(f"--config {path}: {key} holds a mapping or a nested list; options are flat, as in --help")
        try:
            values[name] = file_value(options[name].type, value)
        except SettingsError as error:
            raise ValueError(f"--config {path}: {key}: {error}") from None
    return values


def _refuse_renamed(path: str, key: str) -> None:
    try:
        refuse_renamed([key])
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None


def _mapping(path: str) -> Mapping[Any, Any]:
    try:
        found = read_yaml(Path(path))  # JSON is YAML
    except OSError as error:
        raise ValueError(f"--config {path}: cannot be read: {error}") from error
    except DocumentError as error:
        raise ValueError(f"--config {path}: is neither YAML nor JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--config {path}: expected a mapping of option names to values")
    return found
