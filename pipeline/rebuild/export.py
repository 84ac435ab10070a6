"""`vilbert export`: write a data set in a format that other code reads."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.progress_line import ProgressLine
from vilbert.pipeline.rebuild.formats.detect import find_format
from vilbert.pipeline.rebuild.formats.lost import lost_lines, parts_of
from vilbert.pipeline.rebuild.formats.registry import FORMATS, ExportWriter, FormatSpec
from vilbert.pipeline.rebuild.image_id_format import UNCHANGED, ImageNames, check_template
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.terminal import counted, one_line, print_lines
from vilbert.pipeline.urls import is_remote
from vilbert.settings import validated

if TYPE_CHECKING:
    from vilbert.pipeline.rebuild.source import SourceDescription
    from vilbert.pipeline.shards.dataset import DatasetInfo
    from vilbert.pipeline.shards.sample import Sample

MEASURED = 16
"""Number of samples that a dry run writes to estimate the size."""


def export_formats() -> dict[str, FormatSpec]:
    """Return the formats that come with this package and can be exported, by name."""
    specs = {name: find_format(name) for name in FORMATS.built_in}
    return {name: spec for name, spec in sorted(specs.items()) if spec.exporter is not None}


def _formats_help() -> str:
    return "Format to write. " + " ".join(f"{name}: {spec.summary}" for name, spec in export_formats().items())


@validated
class ExportSettings:
    """Write a data set (DIR or URL) in another format.

    Use `vilbert convert` first to select samples, boxes or captions. Nothing appears at --output before everything is
    written; if the export is interrupted, run the same command again.

    Example: vilbert export features --to vilbert-lmdb --output coco.lmdb
    """

    directory: Positional[PlaceOption]
    """The data set."""
    to: Annotated[str, arg(metavar="FORMAT", help=_formats_help())]
    """Format to write."""
    output: Path
    """File or folder to write; it must not exist."""
    image_id_format: str = UNCHANGED
    """Names of the images in the export: text with {id}, {stem} (the image's file name without its extension), {number}
    (the digits at the end of the image id) or {number:012} (12 digits): 'COCO_train2014_{number:012}'."""
    dry_run: bool = False
    """Check that the format can store the data set and estimate its size; write nothing."""
    json: bool = False
    """Print one JSON object instead of text."""

    def __post_init__(self) -> None:
        """Refuse unknown formats, unknown fields in names, and URLs."""
        if self.to not in FORMATS:
            raise ValueError(f"--to: {FORMATS.unknown(self.to)}")
        if find_format(self.to).exporter is None:
            raise ValueError(
                f"--to {self.to}: can only be imported; the export formats are {', '.join(export_formats())}"
            )
        try:
            check_template(self.image_id_format)
        except ValueError as error:
            raise ValueError(f"--image-id-format {error}") from None
        if is_remote(str(self.output)) or ":/" in str(self.output):
            raise ValueError(f"--output {self.output}: give a path on this machine and copy the result afterwards")
        if isinstance(self.directory, Path) and self.output.resolve().is_relative_to(self.directory.resolve()):
            raise ValueError(f"--output {self.output}: is inside the data set; give a path outside it")


def export(settings: ExportSettings) -> int:
    """Export a data set and print what was written and what the format cannot store."""
    from vilbert.pipeline.rebuild.formats.exporters.staging import require_free
    from vilbert.pipeline.shards.open_dataset import open_dataset

    spec = find_format(settings.to)
    with open_dataset(settings.directory) as dataset:
        info = dataset.info
        if not len(dataset):
            raise ShardError(f"{settings.directory}: has no samples; there is nothing to export")
        require_free(settings.output)
        report: dict[str, Any] = {
            "format": settings.to,
            "output": str(settings.output),
            "samples": len(dataset),
            "failed_rows": sum(info.totals.failures.values()),
        }
        found: set[str] = set()
        if settings.dry_run:
            share = len(dataset) / min(MEASURED, len(dataset))
            report["estimated_bytes"] = round(_measure(settings, spec, info, dataset, found) * share)
        else:
            _write(settings, spec, info, dataset, settings.output, found)
            report["bytes"] = _size(settings.output)
        report["lost"] = lost_lines(spec.lost, found)
    if settings.json:
        print(json.dumps(report, indent=2))
    else:
        print_lines(_lines(report))
    return 0


def describe(info: DatasetInfo) -> SourceDescription:
    """Return the description of a data set for an exporter."""
    from vilbert.pipeline.rebuild.source import SourceDescription
    from vilbert.pipeline.shards.sample import read_fields

    return SourceDescription(
        format="vilbert",
        fields=read_fields(info.fields),
        class_names=info.class_names,
        attribute_names=info.attribute_names,
        fingerprint={"fingerprint": info.fingerprint, "records_sha256": info.records_sha256},
    )


def require_fields(sample: Sample, info: DatasetInfo) -> Sample:
    """Return a sample that has the arrays of dataset.json; ShardError for others, which only a forged shard has."""
    found = {
        name: {"dtype": str(array.dtype), "shape": ["N", *array.shape[1:]]} for name, array in sample.arrays().items()
    }
    if found != info.fields:
        differing = ", ".join(name for name in {**found, **info.fields} if found.get(name) != info.fields.get(name))
        raise ShardError(f"sample {sample.key}: its {differing} do not match dataset.json; run `vilbert verify`")
    return sample


def noted(samples: Iterable[Sample], found: set[str]) -> Iterator[Sample]:
    """Yield samples, and add the `PARTS` that they have to a set."""
    for sample in samples:
        found |= parts_of(sample)
        yield sample


def _measure(
    settings: ExportSettings, spec: FormatSpec, info: DatasetInfo, samples: Iterable[Sample], found: set[str]
) -> int:
    """Return the size of the first samples, which are written to a temporary folder. found: see `_write`."""
    first = list(itertools.islice(samples, MEASURED))
    with tempfile.TemporaryDirectory(prefix="vilbert-export-") as folder:
        output = Path(folder) / settings.output.name
        _write(settings, spec, info, first, output, found)
        return _size(output)


def _write(
    settings: ExportSettings, spec: FormatSpec, info: DatasetInfo, samples: Iterable[Sample], output: Path,
    found: set[str],
) -> None:  # fmt: skip
    """Write samples. found: the `PARTS` that they have are added to it."""
    exporter = spec.load_exporter()
    assert exporter is not None  # ExportSettings refuses the others
    names = ImageNames(settings.image_id_format)
    try:
        with exporter.create(output, describe(info)) as writer:
            described = (require_fields(sample, info) for sample in samples)
            _add_all(writer, names, noted(described, found), total=info.totals.samples, quiet=settings.dry_run)
            names.require_unique()
            writer.finish()
    except RefusedError as error:
        raise RefusedError(f"--to {settings.to}: {error}") from error
    except OSError as error:
        raise ShardError(
            f"{output}: cannot be written ({error.strerror or error}); free space or check the folder's permissions, "
            "then run the same command again"
        ) from error


def _add_all(writer: ExportWriter, names: ImageNames, samples: Iterable[Sample], *, total: int, quiet: bool) -> None:
    from tqdm import tqdm

    progress = ProgressLine(sys.stderr)

    def line(done: int) -> str:
        meter: str = tqdm.format_meter(
            done, total, progress.seconds, unit="img", prefix="export", ncols=100, ascii=not progress.in_place
        )
        return meter

    done = 0
    for sample in samples:
        writer.add(names.rename(sample))
        done += 1
        if not quiet:
            progress.show(lambda: line(done))  # noqa: B023  # it is called before the next iteration
    if not quiet:
        progress.close(line(done))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _lines(report: dict[str, Any]) -> Iterable[str]:
    size = report.get("bytes", report.get("estimated_bytes", 0)) / 1e6
    samples = counted(report["samples"], "sample")
    if "bytes" in report:
        yield f"wrote {samples} to {report['output']} ({report['format']}, {size:,.1f} MB)"
    else:
        yield f"would write {samples} to {report['output']} ({report['format']}, about {size:,.1f} MB)"
    if report["failed_rows"]:
        yield f"not in it: {counted(report['failed_rows'], 'row')} of the manifest that failed at extraction"
    for lost in report["lost"]:
        yield one_line(f"not in it: {lost}")
