"""Answers to VQA v2: as the official evaluation compares them, and as a classifier learns them.

`normalize` does what `vqaEval.py` of github.com/GT-Vision-Lab/VQA does before it compares, faults included: scores
depend on them. The ten answers of a question become soft scores of classes as in the features of
bottom-up-attention-vqa (Anderson et al. 2018), which ViLBERT's targets come from; there raw answers were looked up
among normalised ones, and those that differ got lost, here both are normalised.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.untrusted import pickles
from vilbert.untrusted.documents import parse_json

ARTICLES = ("a", "an", "the")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)} | {"none": "0"}
# What is written for each word that lost one of its apostrophes.
_WITH_APOSTROPHES = """
'ow's'at 'twas I'd've I'm I've ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've
mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in _WITH_APOSTROPHES.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Digits are 0 to 9 alone: the official code is Python 2, whose patterns know no others.
_COMMA_IN_NUMBER = re.compile(r"\d,\d", re.ASCII)
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)", re.ASCII)  # a look-behind was meant: so any period goes that no digit follows
_PERIODS = int(re.UNICODE)  # and a flag, which `re.sub` takes for how many to leave out
PEOPLE = 10
"""Who answered each question of the published files."""
ENOUGH = 3
"""An answer that as many gave is right."""
SOFT_SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""By how many of ten people gave an answer: the mean of min(1, matches / 3) over those left by leaving one out."""
MAX_VOCABULARY_BYTES = 16_000_000
"""Size of a list of answers; the published ones have 100,000 bytes."""


def strip(answer: str) -> str:
    """Return an answer in one line without white space at its ends, as it is compared in any case."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 17)
def normalize(answer: str) -> str:
    """Return an answer without punctuation and articles, with digits for numbers and apostrophes where they belong."""
    answer = strip(answer)
    kept = answer
    for mark in PUNCTUATION:
        at_a_space = f"{mark} " in answer or f" {mark}" in answer
        kept = kept.replace(mark, "" if at_a_space or _COMMA_IN_NUMBER.search(answer) else " ")
    kept = _PERIOD.sub("", kept, count=_PERIODS)
    words = [NUMBERS.get(word, word) for word in kept.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def soft_score(matches: int, people: int = PEOPLE) -> float:
    """Return the score, 0 to 1, of an answer that `matches` of `people` gave.

    Of ten it is the published one. With fewer, none is left out: it is the fraction of three, or of all where they are
    fewer than three, and one person's answer is right.
    """
    if people < PEOPLE:
        return min(1.0, matches / min(ENOUGH, people))
    return SOFT_SCORES[min(matches, len(SOFT_SCORES) - 1)]


def soft_targets(answers: Sequence[str], label_of: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the classes that people's answers are of, in the order in which they first come, and their soft scores.

    label_of: classes by normalised answer. Answers of no class are left out.
    """
    counts = Counter(normalize(answer) for answer in answers)
    people = len(answers)
    found = [(label_of[answer], soft_score(count, people)) for answer, count in counts.items() if answer in label_of]
    return tuple(label for label, _ in found), tuple(score for _, score in found)


def build_vocabulary(chosen: Iterable[str], *, least: int = 9) -> tuple[str, ...]:
    """Return the normalised answers that at least `least` questions have, the most frequent first.

    chosen: the `multiple_choice_answer` of each question. Equally frequent answers come by the alphabet. The published
    3,129 answers are those of `least` 9 over train and val, the empty one among them (what is left of `a`); their order
    came from a hash table and is in published lists alone (`load_vocabulary`).
    """
    counts = Counter(normalize(answer) for answer in chosen)
    frequent = [answer for answer, count in counts.items() if count >= least]
    return tuple(sorted(frequent, key=lambda answer: (-counts[answer], answer)))


def load_vocabulary(path: Path) -> tuple[str, ...]:
    """Return the answers of a classifier by class, from a published list.

    path: `trainval_label2ans.pkl` or `trainval_ans2label.pkl`, read without running anything in them; JSON of a list,
    of a mapping from answers to classes, or the task.json of a run; or text, an answer a line. Raises RefusedError for
    any other content.
    """
    try:
        if path.stat().st_size > MAX_VOCABULARY_BYTES:
            raise ValueError(f"has {path.stat().st_size:,} bytes, too many for a list of answers")
        data = path.read_bytes()
        if path.suffix == ".pkl":
            found: Any = pickles.load(data)
        elif path.suffix == ".json":
            found = parse_json(data)
        else:
            found = data.decode("utf-8-sig").splitlines()
        return _in_order(found)
    except FileNotFoundError:
        raise RefusedError(f"--answers {path}: no such file") from None
    except (OSError, ValueError) as error:  # PickleError and DocumentError are ValueErrors
        raise RefusedError(
            f"--answers {path}: is not a list of answers ({error}); give label2ans or ans2label as .pkl or .json, or a "
            "text file with one answer per line"
        ) from error


def _in_order(found: Any) -> tuple[str, ...]:
    if isinstance(found, dict) and isinstance(found.get("labels"), list):
        found = found["labels"]
    if isinstance(found, dict):
        numbers = list(found.values())
        if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(found))):
            raise ValueError(f"its {len(found)} classes are not numbered from 0")
        found = sorted(found, key=found.__getitem__)
    if not isinstance(found, list) or not found or not all(isinstance(answer, str) for answer in found):
        raise ValueError("expected strings")
    if len(set(found)) != len(found):
        raise ValueError("an answer appears twice")
    return tuple(found)
