"""Names of files, recipes and bases as they may stand in Markdown that is published: inert, and without a place."""

import html
import re
from pathlib import Path

from tiebreak.terminal import one_line

MARKS = re.compile(r"([\\`*_{}\[\]<>#|!])")
PLACES = re.compile(r"(?<![\w.:/])(?:~|[A-Za-z]:)?(?:[/\\][^/\\\s`'\",;]+)+")


def as_code(name: object) -> str:
    """A name as a code span, in which nothing else is markup."""
    return "`" + one_line(name).replace("`", "'") + "`"


def as_text(name: object) -> str:
    """A name as plain words: no markup, no HTML, no line of its own."""
    return MARKS.sub(r"\\\1", html.escape(one_line(name), quote=False))


def without_place(name: object) -> str:
    """A folder or file of this machine by its last part; a hub's name stays."""
    text = str(name)
    local = text.startswith(("/", ".", "~")) or Path(text).exists()
    return Path(text).name or text if local else text


def without_places(text: str) -> str:
    """A sentence whose paths from the root are cut to their last parts."""
    return PLACES.sub(lambda found: re.split(r"[/\\]", found[0])[-1], text)
