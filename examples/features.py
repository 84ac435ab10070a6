"""Extract region features of your own images and read them.

    python examples/features.py photographs/ features/ --detector torchvision

Writes features.parquet (the manifest) and features/ (the data set). After an interruption run the same command again:
finished shards are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import vilbert
from vilbert.pipeline.cli import main as run_command


def main() -> int:
    """Extract the features of a folder of images, and print what each sample holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images; a.txt beside a.jpg holds its captions")
    parser.add_argument("output", type=Path, help="folder of the data set")
    parser.add_argument("--detector", default="torchvision", help="torchvision, detectron2 or shapes")
    options = parser.parse_args()

    # Every command is also a function: it takes the options of the command line and returns the exit status.
    manifest = options.output.with_suffix(".parquet")
    if not manifest.exists() and (status := run_command(["manifest", str(options.images), "--output", str(manifest)])):
        return status
    extract = ["extract", str(manifest), "--output", str(options.output), "--detector", options.detector]
    if status := run_command([*extract, "--boxes", "10-36", "--backend", "local"]):
        return status

    with vilbert.open_dataset(options.output) as dataset:
        names = dataset.info.class_names
        for sample in dataset:
            regions = sample.regions
            if regions.object_ids is None or regions.object_scores is None:
                print(f"{sample.meta['image_id']}: {len(regions)} regions, features {regions.features.shape}")
                continue
            best = regions.object_scores.argmax()
            print(
                f"{sample.meta['image_id']}: {len(regions.boxes)} regions, features {regions.features.shape}, most "
                f"probable object {names[regions.object_ids[best]]} at {regions.boxes[best].round().tolist()}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
