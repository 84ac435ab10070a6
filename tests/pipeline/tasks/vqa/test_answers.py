"""Answers: normalisation, vocabularies, soft targets."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.vqa.answers import build_vocabulary, load_vocabulary, normalize, soft_targets


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("The Dog.", "dog"), ("two", "2"), ("none", "0"), ("dont", "don't"), ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"), ("1,000", "1000"), ("red/white", "red white"), ("red / white", "red white"),
        ("t-shirt", "t shirt"), ("1.5", "1.5"), ("u.s.", "us"), ("somebody'd", "somebodyd"), ("a", ""),
        ("  yes\n", "yes"),
        ("\uff11,\uff12", "\uff11 \uff12"), ("\u0661.\u0662", "\u0661\u0662"),  # digits of Python 2 are ASCII
        ("." * 40, "." * 8),  # a flag is taken for a count: the 33rd period stays
    ],
)  # fmt: skip
def test_normalisation_is_the_official_one_with_its_faults(raw: str, normal: str) -> None:
    assert normalize(raw) == normal


@given(
    st.lists(st.sampled_from(["cat", "a cat", "Dog", "dog.", "two", "2", "??", "a"]), min_size=1, max_size=40),
    st.integers(1, 4),
)
def test_a_vocabulary_holds_frequent_answers_once_and_in_order(chosen: list[str], least: int) -> None:
    found = build_vocabulary(chosen, least=least)
    counts = {answer: sum(normalize(raw) == answer for raw in chosen) for answer in found}
    assert all(count >= least for count in counts.values())
    assert len(set(found)) == len(found)
    assert list(found) == sorted(found, key=lambda answer: (-counts[answer], answer))
    assert set(found) == {a for a in map(normalize, chosen) if sum(normalize(raw) == a for raw in chosen) >= least}
    assert found == build_vocabulary(reversed(chosen), least=least)


def test_ten_answers_become_soft_scores() -> None:
    answers = ["cat"] * 3 + ["a cat"] + ["dogs"] * 2 + ["bird"] * 3 + ["fish"]
    labels = {"cat": 5, "bird": 0, "fish": 2}
    assert soft_targets(answers, labels) == ((5, 0, 2), (1.0, 0.9, 0.3))


@pytest.mark.parametrize("kind", ["list.json", "mapping.json", "answers.txt", "label2ans.pkl", "ans2label.pkl"])
def test_published_lists_of_every_form_are_read(tmp_path: Path, kind: str) -> None:
    path, answers = tmp_path / kind, ["net", "pitcher", "yes"]
    mapping = {answer: number for number, answer in enumerate(answers)}
    match kind:
        case "list.json":
            path.write_text(json.dumps(answers))
        case "mapping.json":
            path.write_text(json.dumps(dict(reversed(mapping.items()))))
        case "answers.txt":
            path.write_text("\n".join(answers))
        case "label2ans.pkl":
            path.write_bytes(pickle.dumps(answers, protocol=0))
        case _:
            path.write_bytes(pickle.dumps(mapping, protocol=2))
    assert load_vocabulary(path) == tuple(answers)


class Harm:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{"), ("a.json", b'{"yes": 1, "no": 3}'), ("a.json", b'{"yes": 0, "no": "1"}'),
        ("a.json", b"[1, 2]"), ("a.json", b'["a", "a"]'), ("a.json", b"[" * 100_000), ("a.txt", b""),
        ("a.pkl", b""), ("a.pkl", b"nonsense"), ("a.pkl", pickle.dumps([Harm()])), ("a.pkl", b"}]Ns."),
        ("a.txt", b"caf\xe9"), ("a.pkl", pickle.dumps(["yes", "no"])[:-4]),
    ],
)  # fmt: skip
def test_anything_else_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RefusedError, match=name):
        load_vocabulary(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


def test_a_missing_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no such file"):
        load_vocabulary(tmp_path / "none.json")
