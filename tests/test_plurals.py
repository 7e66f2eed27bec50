"""Counts in messages."""

import re
from pathlib import Path

from tiebreak.plurals import plural

SRC = Path(__file__).parent.parent / "src" / "tiebreak"


def test_a_count_has_its_noun():
    assert [plural(count, "bad row") for count in (0, 1, 1200)] == ["0 bad rows", "1 bad row", "1,200 bad rows"]


def test_no_message_leaves_the_plural_to_the_reader():
    unfinished = re.compile(r"[a-z]{3}\(s\) ")
    assert [path.name for path in SRC.rglob("*.py") if unfinished.search(path.read_text(encoding="utf-8"))] == []
