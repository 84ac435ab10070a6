"""Find the shards of a folder: tars or folders of files, with the Parquet file and statistics of img2dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vilbert.manifests.readers.images import is_hidden
from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The parts of one shard, from one listing of its folder, so that a network disk is not accessed again."""

    name: Path
    """Path without suffix."""
    tar: bool
    parquet: bool
    stats: bool

    @property
    def data(self) -> Path:
        """The tar, or the folder of loose files."""
        return self.name.with_name(self.name.name + ".tar") if self.tar else self.name


def find_shards(root: Path, report: Report) -> list[Shard]:
    """Return a folder's shards sorted by name. Count files that belong to no shard."""
    entries = {entry.name: entry for entry in root.iterdir()}
    for name in sorted(filter(is_hidden, entries)):
        is_shard = name.endswith((".tar", ".parquet"))
        report.count("hidden-file" if is_shard else "other-file", str(entries.pop(name)))
    tars = {name.removesuffix(".tar") for name in entries if name.endswith(".tar")}
    folders = {
        name
        for name, path in entries.items()
        if path.is_dir() and (name.isdecimal() or {f"{name}.parquet", f"{name}_stats.json"} & entries.keys())
    }
    if both := sorted(tars & folders):
        raise ManifestError(f"{root}: shard {both[0]} exists both as a tar and as loose files; remove one of them")
    shards = tars | folders
    _count_others(root, set(entries) - folders - {f"{name}.tar" for name in tars}, shards, report)
    return [
        Shard(
            name=root / name,
            tar=name in tars,
            parquet=f"{name}.parquet" in entries,
            stats=f"{name}_stats.json" in entries,
        )
        for name in sorted(shards)
    ]


def _count_others(root: Path, names: set[str], shards: set[str], report: Report) -> None:
    """Count the entries of the folder that belong to no shard."""
    for name in sorted(names):
        shard = name.removesuffix(".parquet").removesuffix("_stats.json")
        if shard != name and shard in shards:
            continue
        if shard != name and shard.isdecimal():
            if name.endswith(".parquet") or f"{shard}.parquet" not in names:
                report.count("incomplete-shard", f"{root / name}: neither {shard}.tar nor the folder {shard} exists")
        else:
            report.count("other-file", str(root / name))
