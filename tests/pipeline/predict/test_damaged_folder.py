"""A model folder that is damaged, or made by somebody else, is refused with a message: whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.regions import Regions
from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.evaluate.evaluation import Trained
from vilbert.pipeline.predict.photographs import Detected
from vilbert.pipeline.predict.predictor import Predictor
from vilbert.pipeline.predict.reader import Reader
from vilbert.pipeline.predict.trained_detector import choose_extractor, trained_values
from vilbert.pipeline.tasks.task_card import read_task_card, require_card
from vilbert.pipeline.tasks.texts import encode
from vilbert.pipeline.tasks.trained_folder import trained_folder
from vilbert.pipeline.tasks.trained_model import load_its_tokenizer, load_model
from vilbert.pipeline.train.engine.loop import model_tensors
from vilbert.pipeline.train.run.checkpoints import save_checkpoint

from .tiny_predictor import SIZES, write_model
from .tiny_predictor import load as load_predictor

FILES = ("config.json", "model.safetensors", "task.json", "tokenizer.json", "tokenizer_config.json")
JSON_FILES = tuple(name for name in FILES if name.endswith(".json"))
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
WHOLE_FILES: dict[str, Callable[[bytes], bytes | None]] = {
    "absent": lambda _: None,
    "empty": lambda _: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "a byte longer": lambda data: data + b"x",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda _: b"<html>not found</html>",
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "a list": lambda _: b"[]",
    "a number": lambda _: b"3",
    "null": lambda _: b"null",
    "an object without fields": lambda _: b"{}",
    "nested": lambda _: DEEP,
    "a field nested": lambda data: b'{"task":' + DEEP + b"," + data.lstrip()[1:],
}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 7, 10**9, 10**30, 1e300, 0.5, "", "x", "\x00", [], [[]], ["a", 3], {}, {"a": {}}, [10**9] * 3,
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole"), "vqa") / "final"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def regions() -> Regions:
    draw = np.random.default_rng(0)
    return Regions(
        boxes=np.array([[0, 0, 5, 5], [2, 2, 9, 9]], np.float32),
        features=draw.random((2, 256)).astype(np.float16),
        object_ids=np.ones(2, np.uint16),
        object_scores=np.ones(2, np.float32),
        class_ids=np.ones((2, 1), np.uint16),
        class_probs=np.ones((2, 1), np.float16),
        width=10,
        height=10,
    )


def ask(folder: Path) -> str:
    """Load a folder as `Predictor.load` does, ask about regions, and return the best answer."""
    place = trained_folder(folder)
    card = read_task_card(place.card)
    device = torch.device("cpu")
    model = load_model(ViLBertForTasks, place, device)
    tokenizer = load_its_tokenizer(place, model.config)
    require_card(card, model.config, place.card)
    reader = Reader(trained=Trained(model, tokenizer, card, place.model, device), extractor=None)  # type: ignore[arg-type]
    return Predictor(reader=reader).answer([Detected("a", regions())], ["what is red", "zz \u9f98"])[0][0].answer


def ask_of(name: str) -> Callable[[Path], object]:
    """Return what reads one file of a folder and uses what it says; the other files are read once, not each time."""
    device = torch.device("cpu")
    if name == "task.json":
        return lambda folder: require_card(read_task_card(folder), ViLBertConfig(**SIZES, vocab_size=99), folder)
    if name.startswith("tokenizer"):
        return lambda folder: encode(
            load_its_tokenizer(trained_folder(folder), ViLBertConfig(**SIZES, vocab_size=99)),
            [("a red ring",), ("zz \u9f98",)],
            max_words=9,
        )
    return lambda folder: look(load_model(ViLBertForTasks, trained_folder(folder), device))


def look(model: PreTrainedModel) -> None:
    """Let a model read some words and regions."""
    with torch.inference_mode():
        model(torch.ones(1, 16, dtype=torch.long), torch.ones(1, 3, 256), torch.ones(1, 3, 5))


def refused(folder: Path, use: Callable[[Path], object] = ask) -> str:
    """Return the message with which a folder is refused, or "" where it is taken; any other error goes through."""
    try:
        use(folder)
    except (RefusedError, ShardError) as error:
        return str(error)
    return ""


def test_a_whole_folder_answers(folder: Path) -> None:
    assert ask(folder).startswith("answer ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_whole_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    before = path.read_bytes()
    for what, damage in WHOLE_FILES.items():
        path.unlink()
        if (content := damage(before)) is not None:
            path.write_bytes(content)
        said = refused(folder, ask_of(name))
        # A tokenizer is known by tokenizer.json alone, and transformers adds defaults to an empty object.
        if name != "tokenizer_config.json" or what not in ("absent", "an object without fields"):
            assert said, (name, what)
            assert len(said) < 1000
        path.write_bytes(before)
    path.unlink()
    path.mkdir()
    assert refused(folder, ask_of(name))


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_field_of_another_type_or_size_is_refused_or_without_effect(folder: Path, name: str) -> None:
    path = folder / name
    before = json.loads(path.read_text())
    use = ask_of(name)
    for number, field in enumerate(before):
        # Each field gets a third of the values, and each value comes to a third of the fields.
        for value in ODD[number % 3 :: 3]:
            path.write_text(json.dumps({**before, field: value}))
            assert len(refused(folder, use)) < 1000
        path.write_text(json.dumps({other: value for other, value in before.items() if other != field}))
        assert len(refused(folder, use)) < 1000


@pytest.mark.parametrize("name", FILES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_refused_or_without_effect(whole: Path, tmp_path: Path, name: str, flips: Any) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    data = bytearray((folder / name).read_bytes())
    first = 4096 if name == "model.safetensors" else len(data)  # of the tensors' file mostly the header matters
    for at, mask in flips:
        data[at % first] ^= mask
    (folder / name).write_bytes(data)
    assert len(refused(folder, ask_of(name))) < 1000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 10**9, "num_attention_heads": 1}, "a text hidden size of 16, the configuration 1000000000"),
        ({"v_feature_size": 10**9}, "a region feature size of 256"),
        ({"vocab_size": 10**9}, "words in its vocabulary, the configuration 1000000000"),
        ({"max_position_embeddings": 10**9}, "the file has 24 text positions"),
        ({"num_hidden_layers": 900}, "the file has 2 text layers, the configuration 900"),
        ({"num_hidden_layers": 10**9}, "expected at most 1000"),
        ({"num_answers": 10**9}, "the file has 12 answers, the configuration 1000000000"),
        ({"v_biattention_id": [0], "t_biattention_id": [0]}, "the file has 2 co-attention layers, the configuration 1"),
        ({"model_type": "bert"}, "a 'bert' model, not of a ViLBERT"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps 0.0"),
    ],
)
def test_a_configuration_that_is_not_the_files_is_described(folder: Path, changes: dict[str, Any], said: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert said in refused(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["a"]}, "names 1 answers and the classifier has 12 classes"),
        ({"max_words": 25}, "max_words is 25, the model has 24 positions"),
        ({"max_words": "9"}, "max_words is '9': must be "),
        ({"max_regions": 10**9}, "max_regions is 1000000000: must be "),
        ({"task": "gqa"}, "names 12 answers and the classifier has 3 classes"),
        ({"task": ["vqa"]}, "task is ['vqa']: must be a text"),
        ({"labels": [1, 2]}, "labels[0] is 1: must be a text"),
        ({"colour": 1}, "colour is not a field of this format"),
        ({"extractors": ["shapes"]}, "extractors[0] is 'shapes': must be an object"),
    ],
)
def test_a_card_that_is_not_the_models_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    path = folder / "task.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert said in refused(folder)


def test_parameters_that_are_not_finite_or_no_numbers_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    for value in (float("nan"), float("inf")):
        damaged = {**tensors, "vil_logit.bias": torch.full_like(tensors["vil_logit.bias"], value)}
        save_file(damaged, folder / "model.safetensors")
        assert "1 tensor holds NaN or infinity: vil_logit.bias" in refused(folder)
    for kind in (torch.int64, torch.float8_e4m3fn, torch.complex64):
        save_file({**tensors, "vil_logit.bias": tensors["vil_logit.bias"].to(kind)}, folder / "model.safetensors")
        assert "not floating-point numbers: vil_logit.bias" in refused(folder)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert ask(folder)


def test_a_pickle_is_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "is not a complete model, model.safetensors is missing; `vilbert convert-checkpoint`" in refused(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["vocab"]["farther"] = 10**6
    path.write_text(json.dumps(document))
    assert "has word ids up to 1,000,000, the model embeds" in refused(folder)


def test_what_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("empty", "file", "gone", "file/below"):
        with pytest.raises((RefusedError, ShardError, NotADirectoryError)):
            load_predictor(tmp_path / name)


def test_a_checkpoint_of_a_run_says_what_is_wrong_with_it(whole: Path, tmp_path: Path) -> None:
    model = ViLBertForTasks.from_pretrained(whole)
    shutil.copy(whole / "task.json", tmp_path / "task.json")
    shutil.copytree(whole, tmp_path / "tokenizer")
    config = model.config.to_dict()
    for step, run in enumerate(odd_descriptions(config), 1):
        path = save_checkpoint(tmp_path, step, model=model_tensors(model), optimizer={}, info={"run": run})
        assert bool(refused(path)) is (run != {"model": config})


def odd_descriptions(config: dict[str, Any]) -> Iterator[Any]:
    yield {"model": config}
    yield {"model": {**config, "hidden_size": 10**9}}
    yield {"model": []}
    yield {"model": {}}
    yield []
    yield None


@pytest.mark.parametrize(
    "facts",
    [
        {"extractor": 5},
        {"extractor": "shapes", "top_classes": "--weights"},
        {"extractor": "shapes", "selection": {"boxes": 3}},
        {"extractor": "shapes", "selection": {"output": "out.jpg"}},
        {"extractor": "shapes", "selection": []},
        {"extractor": "torchvision", "model": ["x"]},
        {"extractor": "torchvision", "precision": None},
    ],
)
def test_facts_of_a_detector_become_no_other_options(folder: Path, facts: dict[str, Any]) -> None:
    path = folder / "task.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "extractors": [facts]}))
    assert trained_values(["--checkpoint", str(folder)], {}, "vqa") == {}
    with pytest.raises((RefusedError, ExtractorError)):
        choose_extractor(read_task_card(folder), None, None, device="cpu")
