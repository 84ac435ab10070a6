"""No folder of a model may run its own Python code, and no pickle of one is read by transformers."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.examples.words import load_tokenizer

ROOT = Path(__file__).parents[2]
PACKAGES = ("extractors", "manifests", "model", "pipeline", "vilbert")


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Yield each call of a `from_pretrained` in the source: where, the call, and what it is called on."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = ast.unparse(node.func.value)
                    if node.func.attr == "from_pretrained" and owner != "super()":
                        yield f"{path}:{node.lineno}", node, owner


def test_every_call_of_from_pretrained_refuses_remote_code_and_pickles() -> None:
    found = list(calls())
    assert found
    for where, call, owner in found:
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("trust_remote_code") == "False", where
        if not any(kind in owner for kind in ("Tokenizer", "Config", "processor")):  # these have no weights
            assert options.get("use_safetensors") == "True", where


def test_a_tokenizer_that_is_code_in_its_folder_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass T: pass\n")
    settings = {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["evil.T", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(RefusedError):
        load_tokenizer(str(tmp_path), None)
    assert not mark.exists()


def test_a_pickle_is_not_read_in_place_of_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vilbert"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(OSError, match="safetensors"):
        ViLBertForPreTraining.from_pretrained(tmp_path)
