"""transformers' own common model tests, run on the three ViLBERT models.

The suite is not in transformers' wheel. Where TRANSFORMERS_SOURCE names an unpacked source distribution of the
installed version (or a checkout of its tag), it is imported from there; elsewhere everything here is skipped. What it
assumes of single-stream outputs (`hidden_states`, `attentions`) is checked on the fields that two streams have.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import sys
import unittest
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from vilbert.model.config import ViLBertConfig
from vilbert.model.tasks import TASK_HEADS, ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

SUITE = "transformers_tests"  # its own name for the package, `tests`, is ours here
VERSION = transformers.__version__
HOW = (
    f"set TRANSFORMERS_SOURCE to transformers {VERSION} as unpacked from "
    f"`pip download --no-binary :all: --no-deps transformers=={VERSION}`"
)


def expand(cases: Iterable[Any]) -> Callable[[Callable[..., None]], None]:
    """Put one method for each case into the class under construction, as `parameterized.expand` does."""
    namespace = sys._getframe(1).f_locals

    def add(test: Callable[..., None]) -> None:
        for number, case in enumerate(cases):
            given = case if isinstance(case, tuple) else (case,)

            def method(self: Any, given: tuple[Any, ...] = given) -> None:
                test(self, *given)

            name = f"{test.__name__}_{number}" + (f"_{given[0]}" if isinstance(given[0], str) else "")
            method.__name__ = name
            namespace[name] = method

    return add


class Unmarked:
    """Stand for `pytest.mark`: the suite's marks are not ours, and unknown ones are refused here."""

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        return lambda test: test


# What the suite imports and the source distribution leaves out; none of it tests a model like ours.
STAND_INS: dict[str, dict[str, Any]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {
        "config_common_kwargs": {"return_dict": False, "output_attentions": True, "dtype": "float16"}
    },
}


def provide(name: str, contents: dict[str, Any], paths: list[str]) -> None:
    """Register a module that is made here; paths are where its submodules lie."""
    module = sys.modules[name] = ModuleType(name)
    module.__path__ = paths
    vars(module).update(contents)


def bring_in(source: str | None) -> tuple[Any, Any]:
    """Return the suite's modules for models and for configurations; skips without a source, saying how."""
    if source is None:
        pytest.skip(HOW, allow_module_level=True)
    version = Path(source, "src", "transformers", "__init__.py")
    if not version.is_file() or f'__version__ = "{VERSION}"' not in version.read_text(encoding="utf-8"):
        pytest.fail(f"TRANSFORMERS_SOURCE {source} is not the installed version: {HOW}", pytrace=False)
    folder = Path(source, "tests")
    provide(SUITE, {}, [str(folder)])
    if importlib.util.find_spec("parameterized") is None:
        provide("parameterized", {"parameterized": SimpleNamespace(expand=expand)}, [])
    for name, contents in STAND_INS.items():
        if not (folder / name.replace(".", "/")).with_suffix(".py").is_file():
            provide(f"{SUITE}.{name.partition('.')[0]}", {}, [])
            provide(f"{SUITE}.{name}", contents, [])
    library = mock.patch("transformers.utils.direct_transformers_import", return_value=transformers)
    with library, mock.patch.object(pytest, "mark", Unmarked()):
        return (
            importlib.import_module(f"{SUITE}.test_modeling_common"),
            importlib.import_module(f"{SUITE}.test_configuration_common"),
        )


MODELS, CONFIGS = bring_in(os.environ.get("TRANSFORMERS_SOURCE"))


class SmallModel:
    """A tiny model and a batch for it, in the form the suite asks for."""

    batch_size, seq_length, regions, is_training = 4, 7, 5, True
    hidden_size, num_hidden_layers, num_attention_heads, vocab_size = 32, 2, 4, 99

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.settings: dict[str, Any] = {}

    def get_config(self) -> ViLBertConfig:
        return ViLBertConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads, intermediate_size=37, max_position_embeddings=24,
            v_feature_size=6, v_target_size=9, v_hidden_size=24, v_num_hidden_layers=2, v_num_attention_heads=2,
            v_intermediate_size=20, bi_hidden_size=32, bi_num_attention_heads=2, v_biattention_id=[0, 1],
            t_biattention_id=[1, 1], num_answers=5, num_gqa_answers=3, **self.settings,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self) -> tuple[ViLBertConfig, dict[str, Tensor]]:
        words, regions = (self.batch_size, self.seq_length), (self.batch_size, self.regions)
        return self.get_config(), {
            "input_ids": MODELS.ids_tensor(words, self.vocab_size - 1) + 1,
            "image_feat": MODELS.floats_tensor((*regions, 6)),
            "image_loc": MODELS.floats_tensor((*regions, 5)),
            "token_type_ids": MODELS.ids_tensor(words, 2),
            "attention_mask": MODELS.random_attention_mask(words),
            "image_attention_mask": MODELS.random_attention_mask(regions),
        }


def eager_matches_sdpa(
    self: Any, name: str, dtype: str, padding: str, masked: bool, output_attentions: bool, kernels: bool
) -> None:
    """Check every output of both paths, with one row padded on either side (masked words are computed as any other)."""
    tolerance = {"fp32": 2e-6, "fp16": 5e-3, "bf16": 3e-2}[dtype]
    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for model_class in self.all_model_classes:
        torch.manual_seed(42)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = model_class(config).eval().to(kind)
        inputs = {key: value.to(kind) if value.is_floating_point() else value for key, value in inputs.items()}
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"]) if masked else None
        if masked:
            inputs["attention_mask"][-1, slice(2) if padding == "left" else slice(-2, None)] = 0
        asked = {"output_hidden_states": True, "output_attentions": output_attentions}
        with torch.no_grad(), MODELS.sdpa_kernel(kernels, True, kernels):
            model.set_attn_implementation("sdpa")
            fused = model(**inputs, **asked)
            model.set_attn_implementation("eager")
            assert model.base_model.config._attn_implementation == "eager"
            eager = model(**inputs, **asked)
        assert fused.keys() == eager.keys()
        torch.testing.assert_close(fused.to_tuple(), eager.to_tuple(), atol=tolerance, rtol=max(tolerance, 1e-4))


class TestCommon(MODELS.ModelTesterMixin, unittest.TestCase):  # type: ignore[misc,name-defined] # imported at run time
    """The suite itself."""

    all_model_classes = (ViLBertModel, ViLBertForPreTraining, ViLBertForTasks)
    additional_model_inputs = ("image_feat", "image_loc")
    test_can_init_all_missing_weights_before_2023 = True  # run it, though our files tell no year
    task_heads: list[str] | None = None

    def setUp(self) -> None:
        self.model_tester = SmallModel(self)
        for patch in (
            mock.patch.dict(MODEL_MAPPING_NAMES, {"vilbert": "ViLBertModel"}),
            mock.patch.object(MODELS, "_test_eager_matches_sdpa_inference", eager_matches_sdpa),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def _prepare_for_class(
        self, inputs: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs = copy.deepcopy(inputs)
        if return_labels and model_class is ViLBertForPreTraining:
            regions = inputs["image_feat"][:, 1:]
            inputs["masked_lm_labels"] = inputs["input_ids"].clone()
            inputs["image_label"] = torch.ones(regions.shape[:2], dtype=torch.long)
            inputs["image_target"] = torch.cat([regions, regions[..., :3]], dim=-1).softmax(-1)
            inputs["next_sentence_label"] = torch.arange(len(regions)) % 2
        if self.task_heads is not None and model_class is ViLBertForTasks:
            inputs["heads"] = self.task_heads
        return inputs

    @contextmanager
    def only(self, *model_classes: type) -> Iterator[None]:
        with mock.patch.object(self, "all_model_classes", model_classes):
            yield

    def check_training_gradient_checkpointing(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None
    ) -> None:
        with self.only(ViLBertForPreTraining):  # the one with a loss of its own
            super().check_training_gradient_checkpointing(gradient_checkpointing_kwargs)

    def test_training(self) -> None:
        with self.only(ViLBertForPreTraining):
            super().test_training()

    def test_inputs_embeds(self) -> None:
        with self.only(ViLBertModel):  # the only signature that spells the argument out; the others hand it on
            super().test_inputs_embeds()

    def test_batching_equivalence(self) -> None:
        unpaired = [name for name in TASK_HEADS["multitask"] if name != "vil_binary_prediction"]
        for settings, heads in (({"task_heads": "beta"}, None), ({}, unpaired)):  # that head takes rows two by two
            self.model_tester.settings, self.task_heads = settings, heads
            super().test_batching_equivalence()

    def outputs(self, model_class: type[Any], what: str) -> list[Any]:
        """Return the outputs of a call that asks for something, and of one whose config does."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        asking = self.model_tester.get_config()
        setattr(asking, what, True)
        assert not [key for key in model_class(config)(**inputs) if key.endswith(("_attentions", "_hidden_states"))]
        return [model_class(config)(**inputs, **{what: True}), model_class(asking)(**inputs)]

    def test_attention_outputs(self) -> None:
        rows, words, regions = self.model_tester.batch_size, self.model_tester.seq_length, self.model_tester.regions
        for model_class in self.all_model_classes:
            for output in self.outputs(model_class, "output_attentions"):
                assert [maps.shape for maps in output.text_attentions] == [(rows, 4, words, words)] * 2
                assert [maps.shape for maps in output.image_attentions] == [(rows, 2, regions, regions)] * 2
                assert [text.shape for text, _ in output.co_attentions] == [(rows, 2, words, regions)] * 2
                assert [image.shape for _, image in output.co_attentions] == [(rows, 2, regions, words)] * 2

    def test_hidden_states_output(self) -> None:
        rows, words, regions = self.model_tester.batch_size, self.model_tester.seq_length, self.model_tester.regions
        for model_class in self.all_model_classes:
            for output in self.outputs(model_class, "output_hidden_states"):
                # The embeddings, two layers and two co-attention layers.
                assert [states.shape for states in output.text_hidden_states] == [(rows, words, 32)] * 5
                assert [states.shape for states in output.image_hidden_states] == [(rows, regions, 24)] * 5

    def test_retain_grad_hidden_states_attentions(self) -> None:
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        output: Any = ViLBertModel(config)(**inputs, output_hidden_states=True, output_attentions=True)
        kept = [states[0] for states in (output.text_hidden_states, output.image_hidden_states)]
        kept += [output.text_attentions[0], output.image_attentions[0], *output.co_attentions[0]]
        for tensor in kept:
            tensor.retain_grad()
        (output.text_output.sum(-1)[0, 0] * output.image_output[0, 0, 0] + output.text_output[0, 0, 0]).backward()
        for tensor in kept:
            assert tensor.grad is not None


class TestConfig(unittest.TestCase):
    """The suite's checks of a configuration."""

    def test_common(self) -> None:
        self.model_tester = SmallModel(self)
        sizes = {"hidden_size": 48, "v_hidden_size": 64, "bi_hidden_size": 32}
        CONFIGS.ConfigTester(self, config_class=ViLBertConfig, **sizes).run_common_tests()
