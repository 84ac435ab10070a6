"""Issues found while reading sources, counted by name, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from vilbert.manifests.uri import mask_credentials

EXAMPLES = 10


class Issue(NamedTuple):
    """One kind of issue."""

    left_out: bool
    """Whether the row is absent from the manifest because of it."""
    meaning: str


ISSUES = {
    "malformed-row": Issue(
        True, "rows that cannot be read: columns, JSON, id, file name or URL missing or of another type"
    ),
    "excluded-id": Issue(True, "rows that --exclude-ids names"),
    "duplicate-id": Issue(True, "rows whose id an earlier row has (--duplicate-ids first)"),
    "failed-download": Issue(True, "rows that img2dataset could not download or resize"),
    "unlisted-download": Issue(True, "rows that img2dataset's statistics count but its shard does not list"),
    "incomplete-shard": Issue(True, "whole img2dataset shards without _stats.json (--incomplete-shards read)"),
    "caption-file-without-image": Issue(
        True, "caption files that no image of their folder takes: none has the name, or it has another caption file"
    ),
    "unlisted-image": Issue(True, "images of an img2dataset shard that its Parquet file does not list"),
    "no-image": Issue(True, "captions and metadata of a shard without an image of their key"),
    "repeated-image": Issue(True, "images of a tar that a later member of the same name replaces"),
    "unreadable-member": Issue(True, "members of a shard without bytes of their own: links to nothing, pipes, devices"),
    "damaged-tar": Issue(True, "tars that end early or hold a damaged header; what follows it is not read"),
    "outside-name": Issue(True, "files of a shard whose name leads out of it: absolute, or with `..`"),
    "unreadable-name": Issue(True, "files whose name is not valid UTF-8, or holds the `::` of chained URLs"),
    "other-file": Issue(True, "files that are no image by their name"),
    "hidden-file": Issue(
        True, "images, shards and tables that are hidden, or in a hidden folder (.name, __MACOSX, @eaDir)"
    ),
    "missing-file": Issue(False, "rows whose image file is not there; extraction will list them as failed"),
    "duplicate-uri": Issue(False, "rows whose path or URL an earlier row has"),
    "merged-row": Issue(False, "rows that name the image of an earlier row, whose captions were added to it"),
    "image-without-metadata": Issue(False, "images that their folder's metadata file does not name, without caption"),
    "embedded-image": Issue(False, "rows of Parquet files that hold the image too, which is read from its path or URL"),
    "unreadable-caption": Issue(False, "caption files that cannot be read; the image is kept without their captions"),
    "empty-caption": Issue(False, "captions that are null or blank, left away from their row"),
    "bad-caption": Issue(False, "captions that are no text (NaN, numbers, lists, objects), left away from their row"),
    "no-caption": Issue(False, "images without any caption, or with null alone"),
    "shared-key": Issue(False, "images of a shard with one key (what stands before the first dot); each has its row"),
    "caption-conflict": Issue(False, "images of a shard with one caption in .txt and another in .json: .txt is taken"),
    "repeated-side-file": Issue(False, ".txt and .json of a tar that a later member of the same name replaces"),
    "caption-without-image": Issue(False, "caption annotations of images that the file does not list"),
    "replaced-characters": Issue(False, "rows with U+FFFD, which stands for bytes that are not valid UTF-8"),
    "resized-image": Issue(False, "images smaller than the original: features of resized images differ"),
    "no-given-boxes": Issue(False, "rows without given boxes; the detector will choose its own"),
    "boxes-without-image": Issue(False, "images with given boxes but without a row"),
    "low-score-box": Issue(False, "given boxes with a score below --min-box-score, not taken"),
    "unreadable-annotation": Issue(False, "annotation files of --given-boxes that cannot be read, or are too large"),
    "crowd-box": Issue(False, "crowd annotations, not taken as given boxes"),
    "bad-box": Issue(False, "given boxes that are no box (not four finite numbers, or empty), not taken"),
    "box-within-pixel": Issue(
        False, "rows whose given boxes all lie within 0..1, which extraction refuses: fractions? see --box-format"
    ),
    "box-outside": Issue(
        False, "given boxes more than a pixel outside their image, which extraction refuses: are they xyxy?"
    ),
    "unmatched-exclusion": Issue(False, "ids of --exclude-ids that no row has"),
}


class Report:
    """Counts and first examples by issue, and the rows of every source before duplicate ids were removed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.sources: list[dict[str, object]] = []
        self.rows: list[int] = []

    def start_source(self, path: str, kind: str) -> None:
        """Set the source of the following rows."""
        self.sources.append({"path": path, "kind": kind})
        self.rows.append(0)

    def add_rows(self, number: int) -> None:
        """Add rows to the current source."""
        self.rows[-1] += number

    def count(self, issue: str, example: str, number: int = 1) -> None:
        """Add `number` to an issue of ISSUES. Keep the example (where, what) if there are fewer than EXAMPLES."""
        if issue not in ISSUES:
            raise KeyError(issue)
        self.counts[issue] += number
        examples = self.examples.setdefault(issue, [])
        if len(examples) < EXAMPLES:
            examples.append(mask_credentials(example))

    def lines(self) -> list[str]:
        """Return the counts as text, one issue per line, issues with dropped rows first."""
        found = [name for name in ISSUES if self.counts[name]]
        return [
            f"{self.counts[name]:>12,} {name} ({'left out' if ISSUES[name].left_out else 'kept'}): "
            f"{ISSUES[name].meaning}; first: {self.examples[name][0]}"
            for name in found
        ]

    def to_json(self) -> dict[str, object]:
        """Return sources and counts as JSON values, in the order of ISSUES."""
        sources = [{**source, "rows": rows} for source, rows in zip(self.sources, self.rows, strict=True)]
        issues = {
            side: {
                name: {"count": self.counts[name], "meaning": issue.meaning, "examples": self.examples[name]}
                for name, issue in ISSUES.items()
                if issue.left_out is left_out and self.counts[name]
            }
            for side, left_out in (("left_out", True), ("kept", False))
        }
        return {"sources": sources, **issues}
