"""The detectors by name. docs/extending/detector.md shows how a package adds one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vilbert.plugins import PluginError, Registry

if TYPE_CHECKING:
    from vilbert.extractors.extractor import DetectorSettings, Extractor
    from vilbert.extractors.selection import SelectionSettings

    Build = Callable[[DetectorSettings, SelectionSettings], Extractor]

T = TypeVar("T")

DETECTORS = Registry(
    kind="detector",
    group="vilbert.detectors",
    built_in={
        "torchvision": "vilbert.extractors.detectors.torchvision:SPEC",
        "detectron2": "vilbert.extractors.detectors.detectron2:SPEC",
        "transformers": "vilbert.extractors.detectors.transformers.spec:SPEC",
        "vit": "vilbert.extractors.encoders.spec:VIT",
        "grid": "vilbert.extractors.encoders.spec:GRID",
        "shapes": "vilbert.extractors.detectors.shapes:SPEC",
        "butd-r101": "vilbert.extractors.detectors.visual_genome.specs:BUTD_R101",
        "vmb-x152": "vilbert.extractors.detectors.visual_genome.specs:VMB_X152",
        "vmb-x101": "vilbert.extractors.detectors.visual_genome.specs:VMB_X101",
        "vinvl-x152c4": "vilbert.extractors.detectors.visual_genome.specs:VINVL_X152C4",
    },
    references=True,
)


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """A detector's own facts, in a module that imports nothing heavy."""

    build: Build | str
    """Makes the extractor from its settings, or `module:function` that does."""
    summary: str
    """One line of help."""
    options: tuple[str, ...] = ()
    """Fields of `DetectorSettings` that this detector takes and others may not."""
    ignores: tuple[str, ...] = ()
    """Fields of `DetectorSettings` that have no effect with this detector, though most detectors take them."""
    required: tuple[str, ...] = ()
    """Options that must be given."""
    settings: type | None = None
    """Its own settings, a dataclass or a pydantic model: `--opts KEY VALUE ...` are checked against its fields."""
    needs_files: bool = False
    """Whether a user must provide files, so that a trained model's task.json is not enough to build it again."""
    package: str | None = None
    """An import name that it needs beyond what this package installs."""
    install: str = ""
    """How to install that package."""
    recorded: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda facts: {}
    """From `Extractor.fingerprint()` to fields of `DetectorSettings`, beside those that every detector records; None
    for a field that the detector does not have."""

    def load_build(self) -> Build:
        """Import and return the function that builds the extractor."""
        if callable(self.build):
            return self.build
        module, _, function = self.build.partition(":")
        build: Build = getattr(importlib.import_module(module), function)
        return build


ENCODED = "vilbert.extractors.encoders.encoded"
OPTIONAL_FIELDS = ("config_file", "opts", "torchvision_model", "vocabulary")
"""Fields of `DetectorSettings` that only the detectors take which name them in `DetectorSpec.options`."""


def find_detector(name: str) -> DetectorSpec:
    """Return the spec of a detector.

    Args:
        name: A built-in name, a name of the entry-point group `vilbert.detectors`, or `package.module:attribute`.

    Raises:
        PluginError: There is no such detector, or its package cannot be imported.
    """
    found = DETECTORS.load(name)
    if isinstance(found, DetectorSpec):
        return found
    if not callable(found):
        raise PluginError(f"detector {name!r}: expected a function or a DetectorSpec, found {type(found).__name__}")
    return DetectorSpec(build=found, summary=(found.__doc__ or name).strip().partition("\n")[0], options=("opts",))


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Check the options that differ from their defaults against what the detector takes and needs.

    Of `OPTIONAL_FIELDS` it may only be given what the detector names; of all fields, what it requires must be given.

    Raises:
        ValueError: An option has no effect with this detector, is missing, or a value of `--opts` is wrong.
    """
    spec = find_detector(name)
    takes = (*spec.options, *(("opts",) if spec.settings else ()))
    for field in given:
        if field in OPTIONAL_FIELDS and field not in takes:
            others = [it for it in DETECTORS.built_in if field in find_detector(it).options]
            raise ValueError(
                f"--{field.replace('_', '-')} is an option of --detector {' or '.join(others)}, and has no effect "
                f"with --detector {name}; leave it out, or choose that detector"
            )
        if field in spec.ignores:
            raise ValueError(
                f"--{field.replace('_', '-')} is an option of detectors with a Faster R-CNN head, and has no effect "
                f"with --detector {name}; leave it out"
            )
    for field in spec.required:
        if field not in given:
            raise ValueError(f"--detector {name} needs --{field.replace('_', '-')}")
    if spec.settings is not None:
        own_settings(spec.settings, given.get("opts", ()))


def own_settings(settings: type[T], opts: Sequence[str]) -> T:
    """Return a detector's own settings from `--opts KEY VALUE ...`.

    Args:
        settings: A dataclass or a pydantic model; text is converted to the types of its fields.
        opts: Keys and values in turn.

    Raises:
        ValueError: A key is no field of the settings, or a value has the wrong type.
    """
    from dataclasses import fields, is_dataclass

    from pydantic import TypeAdapter, ValidationError

    values = dict(zip(opts[::2], opts[1::2], strict=True))
    known = [it.name for it in fields(settings)] if is_dataclass(settings) else list(vars(settings)["__annotations__"])
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"--opts {unknown[0]}: no such setting; there are {', '.join(known)}")
    try:
        return TypeAdapter(settings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"--opts {key} {first['input']}: {first['msg']}") from error


def detector_help() -> str:
    """Return the help text of `--detector`: a line for each built-in detector, then the names of installed ones."""
    lines = [f"{name}: {find_detector(name).summary}" for name in DETECTORS.built_in]
    installed = DETECTORS.installed()
    lines += [f"installed: {', '.join(installed)}."] if installed else []
    return " ".join([*lines, "package.module:function: a detector of your own, see docs/extending/detector.md."])


def add_encoder(extractor: Extractor, settings: DetectorSettings) -> Extractor:
    """Return a detector whose features are pooled by `DetectorSettings.encoder`, which is imported here by its name."""
    encoded: Extractor = importlib.import_module(ENCODED).EncodedExtractor(extractor, settings)
    return encoded


def describe_extractor(extractor: Extractor, name: str, opts: Sequence[str] = ()) -> dict[str, object]:
    """Return an extractor's fingerprint; for a detector of another package with the version of its distribution.

    Args:
        extractor: The detector as built.
        name: `DetectorSettings.detector`.
        opts: `DetectorSettings.opts`.

    Raises:
        PluginError: The fingerprint does not name the kind of device, or has values that JSON does not have.
    """
    import json

    facts = extractor.fingerprint()
    source = DETECTORS.source(name)
    if source is None:
        return facts
    described = {"extractor": name, **facts, **({"opts": list(opts)} if opts else {}), "source": source}
    try:
        described = dict(json.loads(json.dumps(described, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise PluginError(f"detector {name!r}: fingerprint() must return JSON values: {error}") from error
    if not isinstance(described.get("device"), str):
        raise PluginError(f"detector {name!r}: fingerprint() must name the device, as 'cpu' or 'cuda'")
    return described
