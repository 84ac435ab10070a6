"""Ask a fine-tuned model of VQA about photographs.

    python examples/ask.py runs/vqa "What colour is the cat?" photo.jpg https://example.org/cat.jpg

`vilbert finetune vqa` writes such a run; `make demo` has one in demo/vqa.
"""

from __future__ import annotations

import argparse
import sys

import vilbert


def main() -> int:
    """Print the three most probable answers about each photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run of `vilbert finetune vqa`")
    parser.add_argument("question")
    parser.add_argument("photographs", nargs="+", help="paths or URLs")
    options = parser.parse_args()

    predictor = vilbert.Predictor.load(options.run)  # builds the detector that the model was trained with
    failed = 0
    for name, photograph in zip(options.photographs, predictor.detect_each(options.photographs), strict=True):
        if isinstance(photograph, Exception):  # a file that is missing or damaged does not stop the others
            print(f"{name}: {photograph}", file=sys.stderr)
            failed += 1
            continue
        [answers] = predictor.answer([photograph], [options.question], top=3)
        print(f"{name}: {len(photograph.regions.boxes)} regions")
        for answer in answers:
            print(f"  {answer.probability:.3f}  {answer.answer}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
