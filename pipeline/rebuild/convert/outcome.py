"""The result of a conversion: arrays, names, fingerprint, and the entry in `converted`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.jobs.plan import differences
from vilbert.pipeline.rebuild.convert.operations import RegionOperations, add_descriptions, missing_groups
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.convert.sources import OpenSources
from vilbert.pipeline.rebuild.source import Source, SourceDescription
from vilbert.pipeline.shards.dataset import ConvertedSource, ConvertStep, fingerprint_digest
from vilbert.pipeline.shards.location.folder import Place, open_folder
from vilbert.pipeline.shards.sample import format_of
from vilbert.pipeline.shards.selection.file import SelectionFile
from vilbert.pipeline.shards.selection.match import open_selections, require_their_data


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Properties that all samples of a conversion share."""

    fields: dict[str, dict[str, Any]]
    """Arrays of a sample, as in dataset.json."""
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    images: bool
    """Whether samples have the bytes of their image."""
    added: list[list[str]]
    """Groups of fields that each source takes from `--add-fields-from`."""
    fingerprint: dict[str, Any]
    """Everything that the regions depend on."""
    step: ConvertStep
    """Operations and content of the sources, see `DatasetInfo.converted`."""


def region_operations(settings: ConvertSettings) -> RegionOperations:
    """Return the operations on regions from the settings."""
    return RegionOperations(
        min_score=settings.min_score,
        max_boxes=settings.max_boxes,
        max_classes=settings.max_classes,
        drop_fields=settings.drop_fields,
        feature_dtype=settings.feature_dtype,
    )


def describe_outcome(settings: ConvertSettings, opened: OpenSources) -> Outcome:
    """Return the result of the conversion.

    Raises:
        RefusedError: The sources are incompatible, or an operation needs a field that they lack.
    """
    operations = region_operations(settings)
    descriptions = [source.description for source in opened.sources]
    donor = None if opened.donor is None else opened.donor.description
    added = [[] if donor is None else missing_groups(one.fields, donor.fields) for one in descriptions]
    if donor is not None and not any(added):
        raise RefusedError("--add-fields-from: has no field that the sources lack")
    fields = [
        operations.describe(add_descriptions(one.fields, donor.fields, groups) if donor else one.fields)
        for one, groups in zip(descriptions, added, strict=True)
    ]
    images = [_has_images(one) and "images" not in settings.drop_fields for one in descriptions]
    for place, these, pictures in zip(settings.sources, fields, images, strict=True):
        if lines := "; ".join(_field_differences(fields[0], these)):
            raise RefusedError(
                f"{place}: its samples have different arrays from those of {settings.sources[0]} ({lines}); see "
                "--drop-fields, --feature-dtype and --max-classes"
            )
        if pictures != images[0]:
            raise RefusedError(f"{place}: only some sources keep images; leave them out with --drop-fields images")
    named = [*descriptions, *([donor] if donor is not None else [])]
    return Outcome(
        fields=fields[0],
        class_names=_names("class", named, used="object_ids" in fields[0] or "class_ids" in fields[0]),
        attribute_names=_names("attribute", named, used="attribute_ids" in fields[0]),
        images=images[0],
        added=added,
        fingerprint=_fingerprint(settings, opened, fields[0], images=images[0]),
        step=_step(settings, opened),
    )


def _field_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {_shape(other.get(name))} in place of {_shape(first.get(name))}"
        for name in sorted(first.keys() | other.keys())
        if first.get(name) != other.get(name)
    ]


def _shape(field: Mapping[str, Any] | None) -> str:
    return "absent" if field is None else f"{field['dtype']}[{', '.join(map(str, field['shape']))}]"


def _names(kind: str, descriptions: Sequence[SourceDescription], *, used: bool) -> tuple[str, ...]:
    """Return the class or attribute names of all sources, which must be equal if several sources have names."""
    if not used:
        return ()
    lists = {names for one in descriptions if (names := getattr(one, f"{kind}_names"))}
    if len(lists) > 1:
        raise RefusedError(f"the sources have different {kind} names, so the same id means a different {kind} in each")
    return next(iter(lists), ())


def _has_images(description: SourceDescription) -> bool:
    return bool(description.fingerprint.get("fingerprint_fields", {}).get("keep_images", False))


def _regions_of(source: Source) -> dict[str, Any]:
    """Return what the regions of a source depend on; for data sets, without the images.

    The detector of a published file is unknown, so the content of the file is used unless the user states an origin.
    """
    description = source.description
    if description.format == "vilbert":
        return dict(description.fingerprint["fingerprint_fields"])
    content = {} if "origin" in description.fingerprint else {"content": source.content}
    return {"format": description.format, **description.fingerprint, **content}


def _fingerprint(
    settings: ConvertSettings, opened: OpenSources, fields: Mapping[str, Any], *, images: bool
) -> dict[str, Any]:
    """Return the fingerprint of the output.

    It is that of the sources if they have the same one and no region is changed. Changes become part of the extractor's
    description, which training compares.
    """
    regions: list[dict[str, Any]] = []
    for one in map(_regions_of, opened.sources):
        one.pop("keep_images", None)
        if one not in regions:
            regions.append(one)
    operations = settings.region_operations()
    if opened.donor is not None:
        operations["add_fields_from"] = _regions_of(opened.donor)
    kept = {"keep_images": True} if images else {}
    if len(regions) == 1 and opened.sources[0].description.format == "vilbert":
        extractor = regions[0].get("extractor")
        if not operations:
            return {**regions[0], **kept}
        if isinstance(extractor, dict):
            before = extractor.get("converted", [])
            changed = {"extractor": {**extractor, "converted": [*before, operations]}}
            return {**regions[0], **changed, "format": format_of(fields), **kept}
    return {"format": format_of(fields), "sources": regions, "operations": operations, **kept}


def _step(settings: ConvertSettings, opened: OpenSources) -> ConvertStep:
    """Return this command's entry of `DatasetInfo.converted`."""
    sources = [
        source_entry(place_name(place), source) for place, source in zip(settings.sources, opened.sources, strict=True)
    ]
    operations: dict[str, Any] = settings.region_operations()
    if "images" in settings.drop_fields:
        operations["drop_images"] = True
    if opened.donor is not None:
        operations["add_fields_from"] = opened.donor.content
    if settings.columns:
        operations["columns"] = [source.description.fingerprint["columns"] for source in opened.sources]
    if settings.ids is not None:
        operations["ids"] = _file_hash(settings.ids, "--ids")
    if settings.selection:
        operations["selection"] = sorted(file.digest for file in source_selections(settings, opened).values())
    if settings.split is not None:
        operations["split"] = sorted(set(settings.split))
    if settings.join:
        operations["join"] = [_file_hash(path, "--join") for path in settings.join]
        operations["unjoined"] = settings.unjoined
        if settings.join_fields is not None:
            operations["join_fields"] = sorted(set(settings.join_fields))
    for name in ("where", "deduplicate", "shuffle_seed"):
        if (value := getattr(settings, name)) is not None:
            operations[name] = value
    if settings.one_split_per_shard:
        operations["one_split_per_shard"] = True
    return {"rows": sum(source.rows for source in opened.sources), "sources": sources, "operations": operations}


def source_selections(settings: ConvertSettings, opened: OpenSources) -> dict[str, SelectionFile]:
    """Return the files of `--selection` by the content of their source; RefusedError if one matches no source."""
    files = open_selections(settings.selection)
    names = {source.content: place_name(place) for place, source in zip(settings.sources, opened.sources, strict=True)}
    require_their_data(files, names)
    return files


def source_entry(name: str, source: Source) -> ConvertedSource:
    """Return the entry of a source in `DatasetInfo.converted`."""
    description = source.description
    return {
        "name": name,
        "format": description.format,
        "rows": source.rows,
        "content": source.content,
        "fingerprint": fingerprint_digest(_regions_of(source)),
    }


def place_name(place: Place) -> str:
    """Return a source's location as a JSON string, without credentials."""
    return open_folder(place).name if isinstance(place, str) else os.fsencode(place).decode("utf-8", "backslashreplace")


def _file_hash(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RefusedError(f"{option} {path}: cannot be read ({error.strerror})") from None


def mixed_fingerprints(opened: OpenSources) -> str:
    """Return the differences in extraction among the sources that are data sets; empty if they are equal."""
    fields = [
        dataclasses.asdict(source.description)["fingerprint"]["fingerprint_fields"]
        for source in opened.sources
        if source.description.format == "vilbert"
    ]
    return "; ".join(line for other in fields[1:] for line in differences(fields[0], other))[:500]


def nameless(step: ConvertStep) -> dict[str, Any]:
    """Return a step without the locations of its sources, which may change."""
    sources = [{name: value for name, value in source.items() if name != "name"} for source in step["sources"]]
    return {**step, "sources": sources}


def described(outcome: Outcome) -> dict[str, Any]:
    """Return the workers' description of an outcome: equal if they read the same sources."""
    return {**outcome.fingerprint, "step": nameless(outcome.step)}
