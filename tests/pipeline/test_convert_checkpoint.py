"""`vilbert convert-checkpoint`: what it writes loads again, and what it refuses leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vilbert.model.checkpoint import read_state_dict, save_reference
from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel
from vilbert.pipeline.cli import main

REFERENCE: dict[str, Any] = {
    "model": "bert", "fast_mode": False, "in_batch_pairs": False, "visual_target": 0, "predict_feature": False,
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 10, "v_feature_size": 6, "v_target_size": 5, "v_hidden_size": 4,
    "v_num_hidden_layers": 2, "v_num_attention_heads": 2, "v_intermediate_size": 6, "bi_hidden_size": 4,
    "bi_num_attention_heads": 2, "v_biattention_id": [0, 1], "t_biattention_id": [1, 2],
}  # fmt: skip


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(REFERENCE))
    return path


def checkpoint(path: Path, kind: Any = ViLBertForTasks, prefix: str = "", **changes: Any) -> dict[str, Tensor]:
    """Write a checkpoint with random weights; return them under the reference's names."""
    model = kind(ViLBertConfig.from_reference(REFERENCE, **changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_reference(model, path)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, path)
    return state


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("flavour", "answers"), [("beta", 1), ("multitask", 9)])
def test_a_published_task_model_becomes_ours_and_goes_back(
    flavour: str, answers: int, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = checkpoint(tmp_path / "vqa.bin", task_heads=flavour, num_answers=answers, num_gqa_answers=4)
    source, there, back = tmp_path / "vqa.bin", tmp_path / "ours", tmp_path / "back"
    assert main(["convert-checkpoint", str(source), "--output", str(there), "--model-config", str(config_file)]) == 0
    printed = capsys.readouterr().out
    assert "wrote ViLBertForTasks" in printed
    model = ViLBertForTasks.from_pretrained(there)
    assert (model.config.task_heads, model.config.num_answers) == (flavour, answers)
    assert same(model.state_dict(), expected)
    assert main(["convert-checkpoint", str(there), "--output", str(back), "--to", "reference"]) == 0
    assert same(read_state_dict(back), expected)
    written = json.loads((back / "config.json").read_text())
    assert written["model"] == "bert"
    again = ViLBertConfig.from_reference(written)
    assert all(getattr(again, name) == getattr(model.config, name) for name in ViLBertConfig.__annotations__)


@pytest.mark.parametrize("kind", [ViLBertModel, ViLBertForPreTraining])
def test_the_model_has_the_heads_that_the_file_has(
    kind: Any, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = checkpoint(tmp_path / "c.pth", kind, prefix="model.")
    options = ["--output", str(tmp_path / "out"), "--model-config", str(config_file), "--to", "reference", "--json"]
    assert main(["convert-checkpoint", str(tmp_path / "c.pth"), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["layout"], report["form"]) == (kind.__name__, "mmf", "reference")
    assert report["missing"] == report["unexpected"] == report["mismatched"] == report["unused"] == []
    assert same(read_state_dict(tmp_path / "out"), expected)


def test_the_config_beside_the_weights_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    expected = checkpoint(folder / "pytorch_model.bin", ViLBertForPreTraining)
    (folder / "config.json").write_text(json.dumps(REFERENCE))
    assert main(["convert-checkpoint", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert same(ViLBertForPreTraining.from_pretrained(tmp_path / "out").state_dict(), expected)


def test_what_starts_at_random_comes_from_the_seed(config_file: Path, tmp_path: Path) -> None:
    state = checkpoint(tmp_path / "c.bin")
    lacking = "bert.encoder.v_layer.0.output.dense.weight"
    torch.save({name: tensor for name, tensor in state.items() if name != lacking}, tmp_path / "c.bin")
    generator_before = torch.get_rng_state()
    found = []
    for index, seed in enumerate(("3", "3", "4")):
        out = tmp_path / str(index)
        options = ["--output", str(out), "--model-config", str(config_file), "--seed", seed]
        assert main(["convert-checkpoint", str(tmp_path / "c.bin"), *options]) == 1
        assert not out.exists()
        assert main(["convert-checkpoint", str(tmp_path / "c.bin"), *options, "--allow-missing"]) == 0
        found.append(read_state_dict(out)[lacking])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), generator_before)


def test_damage_and_misfit_are_status_1_and_leave_nothing(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(tmp_path / "good.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "good.bin").read_bytes()[:5000])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors.index.json").write_text("{}")
    out = str(tmp_path / "out")
    assert main(["convert-checkpoint", str(tmp_path / "cut.bin"), "--output", out]) == 1
    assert "cut.bin: cannot be read" in capsys.readouterr().err
    assert main(["convert-checkpoint", str(tmp_path / "folder"), "--output", out]) == 1
    assert "not an index of weights" in capsys.readouterr().err
    assert main(["convert-checkpoint", str(tmp_path / "good.bin"), "--output", out, "--model-config", str(config_file),
                 "--layout", "volta"]) == 1  # fmt: skip
    assert "VOLTA" in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_checkpoint_of_more_layers_is_described_and_no_option_that_drops_them_is_advised(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {"v_num_hidden_layers": 3, "v_biattention_id": [0, 1, 2], "t_biattention_id": [0, 1, 2]}
    checkpoint(tmp_path / "more.bin", **layers)
    command = ["convert-checkpoint", str(tmp_path / "more.bin"), "--output", str(tmp_path / "out")]
    assert main([*command, "--model-config", str(config_file)]) == 1
    said = capsys.readouterr().err
    assert "the file has 3 co-attention layers, the configuration 2" in said
    assert "the file has 3 image layers, the configuration 2" in said
    assert "--model-config" in said
    assert "unexpected" not in said


def test_a_checkpoint_of_nan_is_refused(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = checkpoint(tmp_path / "nan.bin")
    state["vil_logit.bias"] = torch.full_like(state["vil_logit.bias"], float("nan"))
    torch.save(state, tmp_path / "nan.bin")
    command = ["convert-checkpoint", str(tmp_path / "nan.bin"), "--output", str(tmp_path / "out")]
    assert main([*command, "--model-config", str(config_file)]) == 1
    assert "1 tensor holds NaN or infinity: vil_logit.bias" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_usage_is_status_2(config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint(tmp_path / "c.bin")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "bad.json").write_text('{"hidden": 3}')
    (tmp_path / "zero.json").write_text('{"num_attention_heads": 0}')
    (tmp_path / "deep.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    (tmp_path / "large.json").write_text('{"hidden_size": 12000000000}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "typed.json").write_text('{"v_biattention_id": 5}')
    source, out = str(tmp_path / "c.bin"), str(tmp_path / "out")
    for arguments, message in (
        ([str(tmp_path / "no.bin"), "--output", out], "no such file"),
        ([source, "--output", str(tmp_path / "full")], "not empty"),
        ([source, "--output", out, "--model-config", "bert_huge"], "bert_base_6layer_6conect"),
        (
            [source, "--output", out, "--model-config", str(tmp_path / "bad.json")],
            "unknown settings of ViLBERT: hidden",
        ),
        ([source, "--output", out, "--model-config", str(tmp_path / "zero.json")], "num_attention_heads 0"),
        ([source, "--output", out, "--model-config", str(tmp_path / "typed.json")], "v_biattention_id"),
        ([source, "--output", out, "--model-config", str(tmp_path / "deep.json")], "nested deeper than"),
        ([source, "--output", out, "--model-config", str(tmp_path / "large.json")], "parameters"),
        ([source, "--output", out, "--model-config", str(tmp_path / "list.json")], "is not a JSON object"),
        ([str(tmp_path), "--output", str(tmp_path / "inside")], "inside"),
        ([source, "--output", source], "--output"),
    ):
        status: Any
        try:
            status = main(["convert-checkpoint", *arguments])
        except SystemExit as leaving:
            status = leaving.code
        assert status == 2
        assert message in capsys.readouterr().err
    assert not Path(out).exists()
