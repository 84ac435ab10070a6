"""`import vilbert` is cheap, offers the public names, and makes ViLBERT known to transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..pipeline.predict.tiny_predictor import write_model

HEAVY = ("torch", "transformers", "ray", "PIL", "numpy")


def in_child(code: str, *arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_import_is_cheap() -> None:
    code = f"import sys, json, vilbert; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    assert in_child(code) == []


def test_public_names_are_those_of_their_modules() -> None:
    import vilbert
    from vilbert.extractors.extractor import build_extractor
    from vilbert.model.checkpoint import load_checkpoint
    from vilbert.pipeline.predict.predictor import Predictor
    from vilbert.pipeline.shards.open_dataset import open_dataset

    assert (vilbert.Predictor, vilbert.build_extractor) == (Predictor, build_extractor)
    assert (vilbert.load_checkpoint, vilbert.open_dataset) == (load_checkpoint, open_dataset)
    assert {"Predictor", "build_extractor", "load_checkpoint", "open_dataset"} <= set(dir(vilbert))
    with pytest.raises(AttributeError, match="no attribute 'Predicter'"):
        vilbert.Predicter  # noqa: B018


FIRST_OURS = "import vilbert; from transformers import AutoConfig, AutoModel, AutoTokenizer"
FIRST_THEIRS = "from transformers import AutoConfig, AutoModel, AutoTokenizer; import vilbert"


@pytest.mark.parametrize("imports", [FIRST_OURS, pytest.param(FIRST_THEIRS, marks=pytest.mark.slow)])
def test_auto_classes_read_an_exported_folder_in_a_fresh_process(imports: str, tmp_path: Path) -> None:
    final = write_model(tmp_path, "vqa") / "final"
    code = f"""
import json, sys
{imports}
config = AutoConfig.from_pretrained(sys.argv[1])
model = AutoModel.from_pretrained(sys.argv[1])
ids = AutoTokenizer.from_pretrained(sys.argv[1])("what is red")["input_ids"]
print(json.dumps([type(config).__name__, type(model).__name__, len(ids)]))
"""
    assert in_child(code, str(final)) == ["ViLBertConfig", "ViLBertModel", 5]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["layers", pytest.param("meeting", marks=pytest.mark.slow)])
def test_a_part_of_the_model_can_be_imported_first(first: str) -> None:
    code = (
        f"import json, vilbert.model.{first}; from transformers import AutoModel; "
        "from vilbert.model.config import ViLBertConfig; print(json.dumps(ViLBertConfig in AutoModel._model_mapping))"
    )
    assert in_child(code) is True
