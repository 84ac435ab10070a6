"""Checkpoints of every published form and layout load into the same model, and nothing in a file is run."""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vilbert.model.checkpoint import CheckpointError, load_checkpoint, read_state_dict, save_reference
from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 10, "v_feature_size": 6, "v_target_size": 5, "v_hidden_size": 4,
    "v_num_hidden_layers": 2, "v_num_attention_heads": 2, "v_intermediate_size": 6, "bi_hidden_size": 4,
    "bi_num_attention_heads": 2, "v_biattention_id": [0, 1], "t_biattention_id": [1, 2], "num_answers": 7,
    "num_gqa_answers": 3,
}  # fmt: skip
KINDS = (ViLBertModel, ViLBertForPreTraining, ViLBertForTasks)


def make(kind: type[PreTrainedModel] = ViLBertForTasks, seed: int = 0, **changes: Any) -> Any:
    """A tiny model whose every parameter is drawn, biases and LayerNorms too."""
    model = kind(ViLBertConfig(**{**SIZES, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def copies(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: PreTrainedModel, expected: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


class Logger:
    """What vilbert-multi-task pickles beside its tensors."""

    def __init__(self) -> None:
        self.path, self.values = "here", {"TASK1": [1.0, 2.0]}


def bare(state: dict[str, Tensor]) -> Any:
    return state


def tasks(state: dict[str, Tensor]) -> Any:
    return {"model_state_dict": state, "stop": {"TASK1": Logger()}, "tb_logger": Logger()}


def pretraining(state: dict[str, Tensor]) -> Any:
    return {
        "model_state_dict": state,
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}},
        "global_step": 3,
    }


def mmf(state: dict[str, Tensor]) -> Any:
    return {"model": state, "optimizer": {}, "best_update": 2, "config/version": "1", "full_config": Logger()}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", [bare, tasks, pretraining, mmf])
def test_every_form_of_torch_file(wrap: Callable[..., Any], zipped: bool, tmp_path: Path) -> None:
    expected = copies(make(seed=1))
    torch.save(wrap(expected), tmp_path / "c.tar", _use_new_zipfile_serialization=zipped)
    model = make(seed=2)
    report = load_checkpoint(model, tmp_path / "c.tar")
    assert (report.missing, report.unexpected, report.mismatched, report.unused) == ((), (), (), ())
    assert_same(model, expected)


def test_archives_folders_and_safetensors(tmp_path: Path) -> None:
    expected = copies(make(seed=1))
    folder = tmp_path / "folder"
    folder.mkdir()
    torch.save(expected, folder / "pytorch_model.bin")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(folder / "pytorch_model.bin", "../../x/pytorch_model.bin")
    safetensors.torch.save_file(expected, tmp_path / "c.safetensors")
    for path in (folder, tmp_path / "b.tar.gz", tmp_path / "c.safetensors"):
        model = make(seed=2)
        load_checkpoint(model, path)
        assert_same(model, expected)
    (tmp_path / "c.safetensors").write_bytes((tmp_path / "c.safetensors").read_bytes()[:300])
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        read_state_dict(tmp_path / "c.safetensors")
    with tarfile.open(tmp_path / "empty.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        read_state_dict(tmp_path / "empty.tar")
    with pytest.raises(CheckpointError, match=r"contains none of"):
        read_state_dict(tmp_path)
    torch.save({"weights": 3}, tmp_path / "no.bin")
    with pytest.raises(CheckpointError, match=r"no state dict .* it holds: weights"):
        read_state_dict(tmp_path / "no.bin")


@pytest.mark.parametrize(
    "weight_map",
    [
        *({"a": file} for file in ("", ".", "..", 5, None, ["x"], "../x.safetensors", "sub", "absent.safetensors")),
        *({"a": file} for file in ("a" * 5000, "\0")),
        {"a": "x.safetensors", "b": 5},
        [],
        3,
    ],
)
def test_an_index_names_files_beside_it(tmp_path: Path, weight_map: Any) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (folder, folder / "sub", tmp_path):
        safetensors.torch.save_file({"a": torch.zeros(1)}, place / "x.safetensors")
    safetensors.torch.save_file({"secret": torch.zeros(1)}, tmp_path / "model.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json: "):
        read_state_dict(folder)
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    assert set(read_state_dict(folder)) == {"a"}


def test_a_sparse_member_of_an_archive_is_refused_before_it_is_written(tmp_path: Path) -> None:
    size = 1 << 40
    info = tarfile.TarInfo("model.safetensors")
    info.size = 4
    info.pax_headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": f"0,4,{size},0"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"abcd"))
    with pytest.raises(CheckpointError, match=r"a\.tar: model\.safetensors in the archive is sparse"):
        read_state_dict(tmp_path / "a.tar")


def test_a_member_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    info = tarfile.TarInfo("model.safetensors")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    with pytest.raises(CheckpointError, match="contains none of"):
        read_state_dict(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}},
        {"a": {"dtype": "U64", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F6_E2M3", "shape": [32], "data_offsets": [0, 24]}},
        {"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2**64 - 1, 0], "data_offsets": [0, 0]}},
    ],
)
def test_a_safetensors_file_of_odd_types_and_shapes_is_read_or_refused(tmp_path: Path, header: dict[str, Any]) -> None:
    path = tmp_path / "x.safetensors"
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(header["a"]["data_offsets"][1]))
    told = ""
    try:
        read_state_dict(path)
    except CheckpointError as error:
        told = str(error)
    assert not told or told.startswith(f"{path}: is not a safetensors file, or damaged: ")


@pytest.mark.parametrize("flavour", ["beta", "multitask"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_the_references_form_comes_back_bit_for_bit(kind: Any, flavour: Any, suffix: str, tmp_path: Path) -> None:
    source = make(kind, seed=1, task_heads=flavour, task_specific_tokens=True, dynamic_attention=True)
    path = tmp_path / f"m{suffix}"
    save_reference(source, path)
    written = read_state_dict(path)
    assert all(name.partition(".")[0] in {"bert", "cls", *dir(source)} for name in written)
    assert any(name.startswith("bert.encoder.c_layer.1.") for name in written)
    assert ("cls.predictions.decoder.weight" in written) is (kind is not ViLBertModel)
    if suffix == ".bin":  # what the reference reads: a plain dict of tensors
        assert type(torch.load(path, weights_only=True)) is dict
    again = make(kind, seed=2, task_heads=flavour, task_specific_tokens=True, dynamic_attention=True)
    report = load_checkpoint(again, path)
    assert (report.missing, report.unread, report.unexpected, report.unused) == ((), (), (), ())
    assert_same(again, copies(source))
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_folder(kind: Any, tmp_path: Path) -> None:
    source, again = make(kind, seed=1), make(kind, seed=2)
    source.save_pretrained(tmp_path)
    assert load_checkpoint(again, tmp_path).missing == ()
    assert_same(again, copies(source))


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_any_model_takes_what_any_other_has(source: Any, target: Any) -> None:
    state, model = copies(make(source, seed=1)), make(target, seed=2)
    before = copies(model)
    report = load_checkpoint(model, state)
    missing_heads = {ViLBertModel: 0, ViLBertForPreTraining: 1, ViLBertForTasks: 2}
    assert bool(report.missing) is (missing_heads[target] > missing_heads[source])
    assert bool(report.unused) is (missing_heads[target] < missing_heads[source])
    theirs = {
        name if name.startswith(("bert.", "cls.", "vil", "vision", "ling")) else f"bert.{name}": t
        for name, t in state.items()
    }
    tied = {"cls.predictions.decoder.weight": theirs["bert.embeddings.word_embeddings.weight"]}
    for name, tensor in model.state_dict().items():
        full = f"bert.{name}" if target is ViLBertModel else name
        assert torch.equal(tensor, {**theirs, **tied}.get(full, before[name])), name
    assert all(not name.startswith("bert.") for name in report.missing)


def test_a_lacking_backbone_is_an_error_unless_allowed() -> None:
    state = copies(make(seed=1))
    del state["bert.encoder.c_layer.0.biattention.query1.weight"]
    model = make(seed=2)
    before = copies(model)
    with pytest.raises(
        CheckpointError, match=r"lacks 1 parameters.*c_layer\.0\.biattention\.query1\.weight.*allow_missing"
    ):
        load_checkpoint(model, state)
    assert_same(model, before)
    report = load_checkpoint(model, state, allow_missing=True)
    assert report.missing == ("bert.encoder.c_layer.0.biattention.query1.weight",)
    expected = {**state, report.missing[0]: before[report.missing[0]]}
    assert_same(model, expected)


def test_parameters_that_nothing_reads_may_be_absent() -> None:
    state = {name: tensor for name, tensor in copies(make(seed=1)).items() if "q_dense" not in name}
    report = load_checkpoint(make(seed=2), state)
    assert report.missing == ()
    assert len(report.unread) == 2 * 2 * 2
    assert all(".biOutput.q_dense" in name for name in report.unread)


def test_unknown_names_are_an_error_unless_allowed() -> None:
    state = copies(make(seed=1)) | {"bert.encoder.w_layer.0.x": torch.ones(1), "head.weight": torch.ones(1)}
    model = make(seed=2)
    with pytest.raises(CheckpointError, match=r"2 names are in no layout.*bert\.encoder\.w_layer\.0\.x, head\.weight"):
        load_checkpoint(model, state)
    report = load_checkpoint(model, state, allow_unexpected=True)
    assert report.unexpected == ("bert.encoder.w_layer.0.x", "head.weight")
    assert torch.equal(model.vil_logit.weight, state["vil_logit.weight"])


def test_heads_of_another_size_are_skipped_only_where_asked() -> None:
    state, model = copies(make(seed=1, num_answers=9)), make(seed=2)
    before = copies(model)
    with pytest.raises(CheckpointError, match=r"the file has 9 answers, the configuration 7; skip_mismatched_heads"):
        load_checkpoint(model, state)
    assert_same(model, before)
    report = load_checkpoint(model, state, skip_mismatched_heads=True)
    assert set(report.mismatched) == {
        ("vil_prediction.logit_fc.3.weight", (9, 8), (7, 8)),
        ("vil_prediction.logit_fc.3.bias", (9,), (7,)),
    }
    assert torch.equal(model.vil_prediction.logit_fc[3].weight, before["vil_prediction.logit_fc.3.weight"])
    assert torch.equal(model.vil_prediction.logit_fc[0].weight, state["vil_prediction.logit_fc.0.weight"])
    assert "2 skipped because of their size: vil_prediction.logit_fc.3.weight [9, 8], not [7, 8]" in str(report)
    assert json.loads(report.to_json())["mismatched"][0][1:] in ([[9, 8], [7, 8]], [[9], [7]])


def test_a_backbone_of_another_size_is_always_an_error() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"the file has 32 words in its vocabulary, the configuration 31; make the model with the config",
    ):
        load_checkpoint(make(), copies(make(vocab_size=32)), skip_mismatched_heads=True, allow_missing=True)


def test_a_decoder_of_its_own_is_not_lost_in_silence() -> None:
    state = copies(make(seed=1))
    state["cls.predictions.decoder.weight"] = state["cls.predictions.decoder.weight"] + 1
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings=False"):
        load_checkpoint(make(seed=2), state)
    model = make(seed=2, tie_word_embeddings=False)
    load_checkpoint(model, state)
    assert_same(model, state)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers of ../shared/golden are not here")
@pytest.mark.parametrize("case", ["pretraining_beta", "pretraining_multitask", "tasks_beta", "tasks_multitask"])
def test_golden_weights_load_in_full(case: str, tmp_path: Path) -> None:
    config = ViLBertConfig.from_reference(
        json.loads((GOLDEN / case / "config.json").read_text()),
        task_heads=case.partition("_")[2], num_answers=11, num_gqa_answers=7,
    )  # fmt: skip
    model = (ViLBertForTasks if case.startswith("tasks") else ViLBertForPreTraining)(config)
    weights = safetensors.torch.load_file(GOLDEN / case / "weights.safetensors")
    report = load_checkpoint(model, GOLDEN / case / "weights.safetensors")
    assert (report.missing, report.unread, report.unexpected, report.unused, report.mismatched) == ((), (), (), (), ())
    save_reference(model, tmp_path / "m.bin")
    written = torch.load(tmp_path / "m.bin", weights_only=True)
    assert set(written) == set(weights)
    assert all(torch.equal(written[name], weights[name]) for name in weights)


def safetensors_file(tensors: dict[str, object], data: bytes, *, length: int | None = None) -> bytes:
    """Return a safetensors file with any header; length: what it says of its header."""
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


WHOLE = safetensors_file({"a": entry(0, 16, 4), "b": entry(16, 32, 2, 2)}, bytes(32))
HOSTILE = {
    "a header of 2^60 bytes": safetensors_file({}, bytes(16), length=1 << 60),
    "a header of 2 GB": safetensors_file({}, bytes(16), length=1 << 31),
    "a shape of 4 terabytes": safetensors_file({"a": entry(0, 16, 1 << 20, 1 << 20)}, bytes(16)),
    "a shape that overflows 64 bits": safetensors_file({"a": entry(0, 16, 1 << 40, 1 << 40)}, bytes(16)),
    "offsets of 4 terabytes": safetensors_file({"a": entry(0, 1 << 42, 1 << 20, 1 << 20)}, bytes(16)),
    "overlapping tensors": safetensors_file({"a": entry(0, 16, 4), "b": entry(8, 24, 4)}, bytes(24)),
    "the same bytes twice": safetensors_file({"a": entry(0, 16, 4), "b": entry(0, 16, 4)}, bytes(16)),
    "bytes of no tensor between two": safetensors_file({"a": entry(0, 16, 4), "b": entry(24, 40, 4)}, bytes(40)),
    "bytes of no tensor at the end": WHOLE + bytes(8),
    "an end before its beginning": safetensors_file({"a": entry(16, 0, 4)}, bytes(16)),
    "an unknown type": safetensors_file({"a": entry(0, 16, 4, dtype="O")}, bytes(16)),
    "a negative side": safetensors_file({"a": entry(0, 16, -4)}, bytes(16)),
    "a header that is no JSON": struct.pack("<Q", 8) + b"{{{{{{{{" + bytes(16),
    "half of a header": WHOLE[:40],
    "half of the tensors": WHOLE[:-16],
    "no header": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_are_refused_before_anything_is_allocated(tmp_path: Path, name: str) -> None:
    """By the safetensors package itself; nothing of ours stands before it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE)
    assert read_state_dict(path).keys() == {"a", "b"}
    path.write_bytes(HOSTILE[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="is not a safetensors file, or damaged"):
        read_state_dict(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB
