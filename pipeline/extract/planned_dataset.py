"""The data set that an extraction will write.

Shard i holds manifest rows [i·n, (i+1)·n), so its content depends on the manifest and the fingerprint alone.
"""

from __future__ import annotations

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.worker import Description
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest
from vilbert.pipeline.shards.sample import describe_fields


def plan_dataset(settings: ExtractSettings, manifest: Manifest, description: Description) -> DatasetInfo:
    """Return what the output folder is to hold; it holds no shard yet."""
    detector = settings.detector
    return DatasetInfo(
        storage=settings.format,
        shard_size=settings.shard_size,
        rows=min(manifest.rows, settings.limit or manifest.rows),
        limit=settings.limit,
        manifest=str(settings.manifest.resolve()),
        manifest_hash=manifest.hash,
        fields=describe_fields(
            feature_dim=description.feature_dim,
            top_classes=min(detector.top_classes, len(description.class_names)) if description.soft_labels else 0,
            objects=bool(description.class_names),
            object_boxes=settings.selection.saved_box == "both",
            attributes=bool(description.attribute_names),
        ),
        feature_dim=description.feature_dim,
        class_names=description.class_names,
        attribute_names=description.attribute_names,
        fingerprint=fingerprint_digest(description.fingerprint),
        fingerprint_fields=description.fingerprint,
        software=description.software,
    )
