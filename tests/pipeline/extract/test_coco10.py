"""Ten real photographs and their captions, from the published format to verified shards."""

import json
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.storage.store import open_shard

COCO10 = Path(__file__).parents[4] / "shared" / "data" / "coco10"


@pytest.mark.skipif(not COCO10.is_dir(), reason="the ten COCO photographs are not beside the project")
def test_ten_photographs_end_to_end(tmp_path: Path) -> None:
    manifest, output = tmp_path / "m.parquet", tmp_path / "features"
    arguments = ["manifest", str(COCO10 / "captions_sample.json"), "--images", str(COCO10 / "images")]
    assert main([*arguments, "--output", str(manifest)]) == 0
    options = ["--detector", "torchvision", "--torchvision-model", "mobilenet_v3_large_320_fpn", "--weights", "random"]
    options += ["--boxes", "10-100", "--shard-size", "4", "--backend", "local", "--no-exif-orientation"]
    assert main(["extract", str(manifest), "--output", str(output), *options]) == 0
    assert main(["verify", str(output), "--deep"]) == 0
    samples = [sample for path in sorted(output.glob("shards/*.tar")) for sample in open_shard(path)]
    published = {image["id"]: image for image in json.loads((COCO10 / "captions_sample.json").read_text())["images"]}
    assert [int(sample.meta["image_id"]) for sample in samples] == list(published)
    for sample in samples:
        image = published[int(sample.meta["image_id"])]
        assert (sample.regions.width, sample.regions.height) == (image["width"], image["height"])
        assert 10 <= len(sample.regions) <= 100
        assert len(sample.meta["captions"]) == 2
        assert np.ptp(sample.regions.features) > 0
    assert main(["inspect", f"{output}:3", "--image", str(tmp_path / "drawn.png")]) == 0
    assert (tmp_path / "drawn.png").stat().st_size > 10_000
