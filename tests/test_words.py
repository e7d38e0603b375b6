"""Docs, docstrings, comments and messages are plain American English: they hold no phrase of `BANNED`.

`python tests/test_words.py [PATH ...]` lists what is left, by default everywhere.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED = {
    # British spelling: American, as torch and Dagster write
    r"colour\w*": "color",
    r"(?:re)?cent(?:re|res|red|ring)": "center",
    r"(?:kilo|centi)?metres?": "meter",
    r"(?:un)?labell\w+": "labeled, labeling",
    r"model(?:led|ling|ler)": "modeled, modeling",
    r"cancell(?:ed|ing)": "canceled, canceling",
    r"travell\w+": "traveled, traveling",
    r"neighbour\w*": "neighbor",
    r"behaviour\w*": "behavior",
    r"favour\w*": "favor",
    r"artefacts?": "artifact",
    r"distils?": "distill",
    r"(?:de)?(?:normal|optim|material|initial|organ|recogn|summar|serial|vector|parametr|discret|regular|visual|"
    r"general|special|synchron|token|quant|factor|random|standard|real|util|minim|maxim|local|penal|emphas)is"
    r"(?:e|ed|es|er|ers|ing|ation|ations)": "-ize",
    r"analys(?:e|ed|es|ing)": "analyze",
    r"grey": "gray",
    r"whilst": "while",
    r"towards": "toward",
    # words of the field
    r"how to mend(?: it| this)?|mend(?:s|ed|ing)?": "fix, hint",
    r"made (?:city|cities|town|trips)": "synthetic city",
    r"(?:made|drawn|copied|taken|written|read|set|trained|asked|begun|built|run) anew|anew|afresh": "again, rebuilt",
    r"made (?:already|alike)": "finished, comparable",
    r"as if (?:it|they) had been made": "as if it existed",
    r"surprise[sd]?|surprising": "negative log-likelihood",
    r"(?:trivial|blind) guess": "baseline",
    r"(?:most )?usual next road": "the most frequent next road",
    r"tells? (?:\w+ ){0,3}apart": "distinguishes",
    r"take note of": "record",
    r"opinions?": "probabilities",
    r"letters:": "Shapes:",
    r"pictures?": "figure, plot, image",
    r"(?:key|trip|whose|those|which|best|its|their|the same) figures?(?! \d)": ("metrics (a figure is a drawing)"),
    r"figures? (?:a|per|of (?:an?|the) (?:epoch|trip|student|seed|run))": "metrics",
    r"(?:trips|steps|roads|tokens|models|samples) a second": "trips/s",
    r"(?:one|a token|a line|a file|a class|a module|a row|made once|once|bytes|twice|a pass|tokens) an? "
    r"(?:road|seed|trip|step|group|city|stage|kind|run|figure|row|point|month|day|week|change|epoch|call)": "per",
    r"way to go": "remaining distance",
    # inverted or indirect sentences
    r"what there is|(?:those|seeds|cities|whatever|all|as many \w+ as) there (?:is|are)": "existing ...",
    r"whoever|whosoever": "a user, a caller",
    r"goes on|go on|going on|went on": "continues, resumes",
    r"(?:nobody|no one) has made": "is not materialized",
    r"have you an?|has one an?": "if you have a",
    r"as (?:often|many|much) as one likes": "repeatedly, any number",
    r"nothing of the kind|of that kind is|helps nobody": "(say what it is)",
    r"in words": "as text",
    r"somebody|nobody": "a user, no process, none",
    r"(?:process|session|server|profile|message|row|setting|sequence) of (?:its|their) own|one of (?:its|their) own": (
        "its own ..., a separate ..."
    ),
    r"hardly": "barely, almost no",
    r"learned nothing": "is not better than the baseline",
    r"wants? it|knows? nothing": "(say what it does)",
    r"for a while": "temporarily",
    r"something else than": "something other than",
    r"on purpose": "intentionally",
    r"yardstick": "reference",
    r"plain (?:and (?:a|the) distilled|students?|HOSER)": "vanilla",
    r"kept aside|laid aside": "reserved",
    r"cut short": "truncated",
    r"let go": "released",
    r"at rest": "unchanged",
    r"came of it|comes of it|becomes of it": "the result",
    r"for want of|lest|whence|thereof|thereby|ere": "(plain words)",
    r"beforehand told|is told|are told|was told|were told|been told|be told": "reports, receives",
    # models and programs are not persons
    r"teacher (?:that |which |itself )?knows": "destination-conditioned target",
    r"(?:be )?confident and wrong": "assigns high probability to wrong roads",
    r"(?:teacher|student|model|search|trainer|sensor|daemon|grid|stage)s? "
    r"(?:knows?|thinks?|says?|asks?|wants?|tells?|believes?|is silent|are silent|is asked|are asked|is sure|hears?)": (
        "predicts, computes, requires"
    ),
}
"""What must not be written, as a pattern of whole words, and what to write instead."""

PLACES = (
    *(
        f"{folder}/{path.name}"
        for folder in ("hoser_kd", "tests")
        for path in sorted((ROOT / folder).iterdir())
        if path.name not in ("__pycache__", "golden")
    ),
    "assets",
    "dagster_project",
    "config",
    "docs",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "Makefile",
    "pyproject.toml",
    "dagster.yaml-template",
)

OWN = {Path(__file__), ROOT / "docs" / "settings.md"}
"""This file, and a page that is generated from docstrings."""
_PATTERNS = {
    re.compile(r"(?<![\w`./-])(?:" + pattern.replace(" ", r"\s+(?:#\s*)?") + r")(?![\w`/-])", re.IGNORECASE): better
    for pattern, better in BANNED.items()
}


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield what a person reads in a file, with its first line: docstrings, comments and sentences, or everything."""
    source = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        yield 1, source
        return
    docstrings_only = file.is_relative_to(ROOT / "tests")
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.add(node.value)
            yield node.lineno, node.value.value
    if docstrings_only:
        return
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
        if is_text and " " in node.value.strip():  # a sentence, not a key
            yield node.lineno, node.value
    comments = [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    while comments:  # consecutive comment lines are one text
        first, text = comments.pop(0)
        while comments and comments[0][0] == first + text.count("\n") + 1:
            text += "\n" + comments.pop(0)[1]
        yield first, text


def banned(place: str) -> list[str]:
    """Return every banned phrase of a file or folder as `file:line: phrase -> what to write`."""
    path = ROOT / place
    assert path.exists(), path
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    lines = []
    for file in files:
        if file in OWN or file.suffix not in (".py", ".md", ".html", ".yaml", ".toml", "", ".yaml-template"):
            continue
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        for first, text in texts(file):
            for pattern, better in _PATTERNS.items():
                for match in pattern.finditer(text):
                    line = first + text.count("\n", 0, match.start())
                    phrase = " ".join(match[0].split())
                    lines.append(f"{file.relative_to(ROOT)}:{line}: {phrase!r} -> {better}")
    return lines


@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_written_in_plain_words(place):
    lines = banned(place)
    assert not lines, "\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ('def f():\n    """The colour\n    of it."""\n', "x.py:2: 'colour'"),
        ("x = 1\n# it goes\n# on here\n", "x.py:2: 'goes # on'"),
        ('raise ValueError(f"no {1}, so mend the row")\n', "x.py:1: 'mend'"),
        ('x = "mend"\n', None),  # a key
        ("colour = metres = 1\n", None),  # names
    ],
)
def test_phrases_are_found_in_what_a_person_reads(tmp_path, monkeypatch, text, phrase):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "x.py").write_text(text)
    lines = banned("x.py")
    assert (lines == []) if phrase is None else (len(lines) == 1 and lines[0].startswith(phrase)), lines


if __name__ == "__main__":
    found = [line for place in sys.argv[1:] or PLACES for line in banned(place)]
    print(*found, sep="\n")
    sys.exit(bool(found))
