"""BLEU, ROUGE-L, CIDEr and METEOR of captions with the standard package, pycocoevalcap, and the results file.

The metrics depend on the tokenization of captions. The standard is Stanford's PTB tokenizer, which needs Java, as
METEOR does. Without Java, captions are tokenized by `words_without_java` and METEOR is left out; the metrics record
which tokenizer was used.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import RefusedError

_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ALIKE = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": " -- ", "\u2014": " -- ", "\u2026": " ... "}
)
_DROPPED = frozenset(["''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_TITLES = "mr|mrs|ms|dr|st|jr|sr|vs|etc|prof|gen|rev|inc|co|corp|ltd|ave"
_WORD = re.compile(
    r"(?P<number>\d+(?:[.,:/]\d+)+)"  # 3,000 10:30 1/2
    rf"|(?P<short>(?:[a-z]\.){{2,}}(?![a-z])|\b(?:{_TITLES}|[a-z])\.(?!\w)|\bno\.(?=\s*\d))"  # u.s. p.m. mr.
    r"|(?P<word>[^\W_]+(?:(?:[-./_](?=[^\W_])|'(?=[a-z]))[^\W_]+)*'?)"  # black-and-white a/b dog's dogs'
    r"|(?P<ending>(?<!\w)'(?:s|m|d|re|ve|ll)\b)"  # of a word that is cut already
    r"|(?P<marks>\.{2,}|[?!]+|-+)"
    r"|(?P<other>\S)"
)
_ENDING = re.compile(r"(n't|'(?:s|m|d|re|ve|ll|n))$")
_JOINED = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "wanna": ("wan", "na"), "gotta": ("got", "ta"),
    "lemme": ("lem", "me"), "gimme": ("gim", "me"),
}  # fmt: skip


def words_without_java(caption: str) -> str:
    """Tokenize a caption like the standard tokenizer; return tokens separated by spaces.

    The text is lower-cased. `dog's` and `don't` become `dog 's` and `do n't`; words with hyphens, numbers and
    abbreviations (`p.m.`) are kept whole; brackets become `-lrb-`. Punctuation is removed as in pycocoevalcap: quotes,
    . ? ! , : ; - -- and three dots, but not `?!`. Rare forms (web addresses, smileys, `'90s`) may be tokenized
    differently.
    """
    words: list[str] = []
    for match in _WORD.finditer(caption.lower().translate(_ALIKE)):
        token = match[0]
        if match["word"]:
            words += _apart(token)
        elif match["marks"] and len(token) > 1 and token[0] == ".":
            continue
        elif token not in _DROPPED:
            words.append(_BRACKETS.get(token, token))
    return " ".join(words)


def _apart(word: str) -> Sequence[str]:
    """Split `don't` into `do` and `n't`; a trailing quote is removed."""
    bare = word.rstrip("'")
    if bare in _JOINED:
        return _JOINED[bare]
    ending = _ENDING.search(bare)
    return [bare[: ending.start()], ending[0]] if ending and ending.start() else [bare]


def _words_by_java(captions: Sequence[str]) -> list[str]:
    """Tokenize captions with the standard tokenizer.

    Its Java program is called directly, because the package's wrapper writes into its installation folder.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    options = ("-preserveLines", "-lowerCase", "-encoding", "utf8")
    java = shutil.which("java") or "java"
    text = "".join(f"{' '.join(caption.split())}\n" for caption in captions)
    try:
        ran = subprocess.run(  # noqa: S603 (the package's own program; captions go through standard input)
            [java, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", *options],
            input=text.encode(),
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise RefusedError(f"Java cannot tokenize the captions ({error}); fix it, or score without Java") from error
    lines = ran.stdout.decode().split("\n")[: len(captions)]
    if len(lines) != len(captions):
        raise RefusedError(f"Java returned {len(lines)} lines for {len(captions)} captions; score without Java")
    dropped = frozenset(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split(" ") if word not in dropped) for line in lines]


def _in_words(captions: Iterable[str], java: bool) -> dict[str, str]:
    """Return the tokenized text of each caption."""
    different = sorted(set(captions))
    cut = _words_by_java(different) if java else list(map(words_without_java, different))
    return dict(zip(different, cut, strict=True))


def _meteor(references: Mapping[str, list[str]], candidates: Mapping[str, list[str]]) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    program = Meteor()
    try:
        score, _ = program.compute_score(references, candidates)
    except (OSError, ValueError) as error:  # ValueError: the program ended and its empty output is not a number
        program.lock.release()  # otherwise the package waits for ever at cleanup
        with suppress(OSError):
            program.meteor_p.stdin.close()
        raise RefusedError(
            f"METEOR's Java program failed ({error}): it needs 2 GB of memory; score without Java"
        ) from error
    return float(score)


def _require_pairs(references: Mapping[str, Sequence[str]], candidates: Mapping[str, str]) -> None:
    if not candidates:
        raise RefusedError("no captions to score; give at least one")
    for image_id in sorted(references.keys() | candidates.keys()):
        if image_id not in candidates:
            raise RefusedError(f"image {image_id}: has no caption to score; write one, or leave its references out")
        if not references.get(image_id):
            raise RefusedError(f"image {image_id}: has a caption but no reference; leave it out")


def require_pycocoevalcap() -> None:
    """Raise RefusedError with installation instructions if the optional package pycocoevalcap is missing."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        raise RefusedError(
            "scoring captions needs the package pycocoevalcap, which is not installed: "
            "pip install 'vilbert-pipeline[captioning]'"
        )


def caption_scores(
    references: Mapping[str, Sequence[str]], candidates: Mapping[str, str], *, java: bool | None = None
) -> dict[str, float]:
    """Compute bleu_1 to bleu_4, rouge_l, cider and, with Java, meteor with the standard package.

    All metrics are in [0, 1] except CIDEr, which is in [0, 10]. CIDEr weights words by the number of images whose
    references contain them, so it is left out for a single image. `ptb_tokenizer` is 1 if the standard tokenizer was
    used, 0 for `words_without_java`. Source: https://github.com/salaniz/pycocoevalcap (from tylin/coco-caption).

    Args:
        references: Reference captions by image id.
        candidates: Generated captions by image id.
        java: Whether to use Java; default: if it is installed. METEOR then takes seconds to start.

    Returns:
        The metrics by name.

    Raises:
        RefusedError: An image has no candidate or no references, Java fails, or pycocoevalcap is not installed.
    """
    require_pycocoevalcap()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    _require_pairs(references, candidates)
    use_java = shutil.which("java") is not None if java is None else java
    words = _in_words([*candidates.values(), *(text for texts in references.values() for text in texts)], use_java)
    order = sorted(candidates)  # floating-point sums depend on the order
    true = {image_id: [words[text] for text in references[image_id]] for image_id in order}
    said = {image_id: [words[candidates[image_id]]] for image_id in order}
    bleu, _ = Bleu(4).compute_score(true, said, verbose=0)
    figures = {f"bleu_{size}": float(score) for size, score in enumerate(bleu, start=1)}
    figures["rouge_l"] = float(Rouge().compute_score(true, said)[0])
    if len(order) > 1:
        figures["cider"] = float(Cider().compute_score(true, said)[0])
    if use_java:
        figures["meteor"] = _meteor(true, said)
    return {**figures, "ptb_tokenizer": float(use_java)}


def coco_results(candidates: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return captions in COCO's results format, `image_id` and `caption`, in the order of ids.

    Numeric ids are written as numbers. Source: cocodataset.org/#format-results.
    """
    ids = {image_id: int(image_id) if re.fullmatch("0|[1-9][0-9]*", image_id) else image_id for image_id in candidates}
    numbers_first = sorted(candidates, key=lambda it: (isinstance(ids[it], str), ids[it]))
    return [{"image_id": ids[image_id], "caption": candidates[image_id]} for image_id in numbers_first]
