"""The pictures of the docs: `python docs/hooks/figures.py` draws docs/figures/*.svg.

Lines and letters have the colour of the text around them, fills are pale, so a picture can be read on light and dark
pages; it is narrow, so that it can be read on a phone.
"""

import html
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "figures"
BLUE, ORANGE, GREEN, GREY = "#4a86d8", "#e08a2e", "#3aa076", "#888888"
WIDTH = 420
OUTLINE = 'fill="none" stroke="currentColor" stroke-opacity="0.5"'
DASHED = 'stroke-dasharray="3 3"'
STYLE = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} %d" role="img" aria-label="%s" '
    'font-family="system-ui, sans-serif" font-size="14" fill="currentColor">'
)
TIP = (
    '<defs><marker id="%s-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
)


def words(x: float, y: float, text: str, size: int = 14, anchor: str = "start", bold: bool = False) -> str:
    """A line of text."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{html.escape(text)}</text>'


def box(x: float, y: float, w: float, h: float, *lines: str, fill: str = GREY, size: int = 13) -> str:
    """A box with lines of text in its middle, the first bold where there are several."""
    shape = (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" fill="{fill}" fill-opacity="0.22" '
        f'stroke="{fill}" stroke-width="1.3"/>'
    )
    top = y + h / 2 - (len(lines) - 1) * (size + 3) / 2 + size * 0.35
    text = [
        words(x + w / 2, top + k * (size + 3), line, size, "middle", bold=k == 0 and len(lines) > 1)
        for k, line in enumerate(lines)
    ]
    return shape + "".join(text)


def arrow(name: str, *points: tuple[float, float], dashed: bool = False) -> str:
    """A line through points that ends in a tip."""
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<path d="M{path}" fill="none" stroke="currentColor" stroke-width="1.4" marker-end="url(#{name}-tip)"{dash}/>'
    )


def line(*points: tuple[float, float], colour: str = "currentColor", width: float = 1.2, dash: str = "") -> str:
    """A plain line through points."""
    path = " L".join(f"{x:g} {y:g}" for x, y in points)
    extra = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{extra}/>'


def overview() -> tuple[int, str, list[str]]:
    """The way from a table to predictions, and of teachers to a student."""
    n, steps = "overview", []
    stages = [
        ("Table", "CSV, Parquet, JSON; every cell checked", GREY),
        ("Text and tokens", "template and truncation; an Arrow cache", GREY),
        ("Steps", "sets of rows, fixed by seed; laid on any ranks", BLUE),
        ("Judge", "packed forward, one training loop, any engine", BLUE),
        ("Prediction", "shards, merged by id: predictions.csv", GREEN),
        ("Report and use", "report, compare, decide, leaderboard, export", GREEN),
    ]
    for k, (title, text, fill) in enumerate(stages):
        steps.append(box(10, 10 + 66 * k, 330, 46, title, text, fill=fill))
        if k:
            steps.append(arrow(n, (175, 10 + 66 * k - 20), (175, 10 + 66 * k - 2)))
    way = [(340, 297), (385, 297), (385, 163), (343, 163)]
    text = '<text x="0" y="0" font-size="13" text-anchor="middle" transform="translate(403 230) rotate(-90)">%s</text>'
    steps += [arrow(n, *way, dashed=True), text % "teachers teach a student"]
    return 408, "From a table to predictions: six stages; teachers' predictions go back into training", steps


def steps() -> tuple[int, str, list[str]]:
    """A step is a set of rows; one rank, two ranks and small micro-batches lay it out differently."""
    n = "steps"
    rows = [(1, 88), (2, 30), (3, 52), (4, 40), (5, 70), (6, 34)]
    lengths = dict(rows)
    parts = [words(10, 22, "Step 17 is a set of six rows, by the seed alone", bold=True)]
    x = 10.0
    for k, length in rows:
        parts.append(box(x, 34, length, 28, str(k), fill=BLUE))
        x += length + 8
    layouts = [
        ("one process, two micro-batches", [("rank 0", [[1, 3, 6], [5, 4, 2]])]),
        ("two ranks, one micro-batch each", [("rank 0", [[1, 3, 6]]), ("rank 1", [[5, 4, 2]])]),
        ("two ranks, half the memory", [("rank 0", [[1], [3, 6]]), ("rank 1", [[5], [4, 2]])]),
    ]
    y = 92
    for title, ranks in layouts:
        parts.append(words(10, y, title))
        y += 10
        for rank, batches in ranks:
            parts.append(words(10, y + 19, rank, 12))
            x = 62.0
            for batch in batches:
                wide = sum(lengths[k] + 4 for k in batch) + 4
                parts.append(
                    f'<rect x="{x:g}" y="{y}" width="{wide:g}" height="28" rx="4" fill="none" stroke="currentColor"/>'
                )
                inner = x + 4
                for k in batch:
                    parts.append(box(inner, y + 4, lengths[k], 20, str(k), fill=BLUE, size=12))
                    inner += lengths[k] + 4
                x += wide + 8
            y += 34
        y += 22
    parts += [arrow(n, (210, y - 18), (210, y + 4)), box(30, y + 8, 360, 46, "the same gradient, the same weights")]
    parts.append(words(210, y + 74, "sum over all rows / 6, whoever computed them", 13, "middle"))
    return y + 86, "One step's six rows laid on one process, two ranks, and smaller micro-batches: one result", parts


def packed() -> tuple[int, str, list[str]]:
    """A padded batch wastes its empty cells; a packed one has none, and attention stays within a row."""
    parts = [words(10, 20, "Padded: rows filled up to the longest", bold=True)]
    rows, scale = [("a", 17, BLUE), ("b", 7, ORANGE), ("c", 11, GREEN)], 22
    for k, (_, length, fill) in enumerate(rows):
        y = 32 + 28 * k
        parts.append(box(10, y, length * scale, 22, f"row {'abc'[k]}: {length} tokens", fill=fill))
        if length < 17:
            empty = (17 - length) * scale
            parts.append(f'<rect x="{10 + length * scale}" y="{y}" width="{empty}" height="22" {DASHED} {OUTLINE}/>')
            parts.append(words(10 + length * scale + empty / 2, y + 16, "padding", 12, "middle"))
    parts.append(words(10, 144, "Packed: one after another, 35 tokens, not 51", bold=True))
    x, narrow = 10.0, 11.0
    for name, length, fill in rows:
        parts.append(box(x, 156, length * narrow, 26, name, fill=fill))
        parts.append(words(x + 2, 200, f"0 … {length - 1}", 12))
        parts.append(arrow("packed", (x + length * narrow - 5, 216), (x + length * narrow - 5, 186)))
        x += length * narrow
    parts.append(words(10, 232, "positions start anew; ↑ the token that is judged", 13))
    parts.append(words(10, 268, "Attention: each row sees itself alone", bold=True))
    left, top, side = 130.0, 280.0, 4.6
    total = 35 * side
    parts.append(f'<rect x="{left}" y="{top}" width="{total:g}" height="{total:g}" fill="none" stroke="currentColor"/>')
    at = 0.0
    for name, length, fill in rows:
        size = length * side
        parts.append(box(left + at, top + at, size, size, name, fill=fill))
        at += size
    return 452, "Padded rows against packed rows; attention of packed rows is block-diagonal", parts


def out_of_fold() -> tuple[int, str, list[str]]:
    """Each teacher predicts only rows whose prompts it was not trained on."""
    n = "out-of-fold"
    parts = [words(10, 20, "Prompts are dealt into folds; a prompt stays whole", bold=True)]
    fills = [BLUE, ORANGE, GREEN]
    for k, fill in enumerate(fills):
        parts.append(box(10 + 136 * k, 32, 128, 30, f"fold {k}", fill=fill))
    for k, fill in enumerate(fills):
        y = 92 + 62 * k
        others = [j for j in range(3) if j != k]
        parts.append(words(10, y + 24, "trained on", 13))
        for place, j in enumerate(others):
            parts.append(box(84 + 52 * place, y, 46, 38, f"{j}", fill=fills[j]))
        parts.append(arrow(n, (190, y + 19), (212, y + 19)))
        parts.append(box(216, y, 82, 38, "teacher", f"not {k}", fill=GREY, size=12))
        parts.append(arrow(n, (298, y + 19), (320, y + 19)))
        parts.append(box(324, y, 86, 38, "predicts", f"fold {k}", fill=fill, size=12))
    parts += [
        arrow(n, (367, 258), (367, 286)),
        box(200, 290, 210, 46, "out-of-fold table", "every row, seen by nobody"),
    ]
    parts += [arrow(n, (200, 313), (160, 313)), box(10, 290, 146, 46, "student", "learns from it", fill=BLUE)]
    return (
        346,
        "Three folds; each teacher predicts the fold that it was not trained on; a student learns from all",
        parts,
    )


def calibration() -> tuple[int, str, list[str]]:
    """A reliability curve: what a judge says against how often it is right."""
    left, top, side = 70.0, 20.0, 290.0
    parts = [f'<rect x="{left}" y="{top}" width="{side}" height="{side}" {OUTLINE}/>']

    def at(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * (1 - y)

    parts.append(line(at(0, 0), at(1, 1), dash="5 4"))
    parts.append(
        line(
            *(at(k / 20, k / 20 + 0.28 * (k / 20) * (k / 20 - 1) * (2 * k / 20 - 0.2)) for k in range(21)),
            colour=ORANGE,
            width=3,
        )
    )
    for value in (0.0, 0.5, 1.0):
        parts.append(words(at(value, 0)[0], top + side + 20, f"{value:g}", 13, "middle"))
        parts.append(words(left - 8, at(0, value)[1] + 5, f"{value:g}", 13, "end"))
    parts.append(words(left + side / 2, top + side + 42, "probability that the judge says", 14, "middle"))
    turned = f'transform="translate(28 {top + side / 2:g}) rotate(-90)"'
    parts.append(f'<text font-size="14" text-anchor="middle" {turned}>share that is right</text>')
    parts.append(words(left + 14, top + 40, "on the line: as sure", 13))
    parts.append(words(left + 14, top + 57, "as it should be", 13))
    x, y = at(0.76, 0.76 + 0.28 * 0.76 * -0.24 * 1.32)
    parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{ORANGE}"/>')
    parts.append(line((x, y + 6), (x, at(0, 0.15)[1] - 18)))
    parts.append(words(left + side - 8, at(0, 0.15)[1], "says 76 %, right in 70 %:", 13, "end"))
    parts.append(words(left + side - 8, at(0, 0.15)[1] + 17, "too sure, temperature above 1", 13, "end"))
    return 378, "A reliability curve that lies below the diagonal: the judge is too sure", parts


def biases() -> tuple[int, str, list[str]]:
    """Both orders of a pair, and what their difference says."""
    n = "biases"
    parts = [words(10, 20, "Position: ask twice, in both orders", bold=True)]
    for k, (first, second, a, b) in enumerate(
        (("answer 1", "answer 2", 0.62, 0.24), ("answer 2", "answer 1", 0.46, 0.40))
    ):
        y = 34 + 84 * k
        parts.append(box(10, y, 84, 28, first, fill=BLUE if k == 0 else ORANGE))
        parts.append(box(10, y + 32, 84, 28, second, fill=ORANGE if k == 0 else BLUE))
        parts.append(arrow(n, (98, y + 30), (122, y + 30)))
        parts.append(box(126, y, 284 * a, 60, "A", f"{a:.2f}", fill=BLUE if k == 0 else ORANGE))
        parts.append(box(126 + 284 * a, y, 284 * (1 - a - b), 60, "tie", fill=GREY, size=12))
        parts.append(box(126 + 284 * (1 - b), y, 284 * b, 60, "B", f"{b:.2f}", fill=ORANGE if k == 0 else BLUE))
    parts.append(words(10, 214, "Mean of both: answer 1 wins .51, answer 2 .35, tie .14", 13))
    parts.append(words(10, 232, "The first place is .22 ahead on average: position bias", 13))
    parts.append(words(10, 270, "Verbosity: the longer answer, beside people", bold=True))
    for k, (who, share, fill) in enumerate((("people", 0.61, GREEN), ("a judge", 0.72, ORANGE))):
        y = 284 + 36 * k
        parts.append(words(10, y + 19, who, 13))
        parts.append(box(78, y, 332 * share, 28, f"longer wins {share * 100:.0f} %", fill=fill))
        parts.append(f'<rect x="78" y="{y}" width="332" height="28" rx="4" {OUTLINE}/>')
    parts.append(line((78 + 166, 280), (78 + 166, 352), dash="3 3"))
    parts.append(words(78 + 166, 368, "½", 13, "middle"))
    return 378, "The same pair in both orders, and the share of the longer answer by people and by a judge", parts


PICTURES = {
    "overview": overview,
    "steps": steps,
    "packed": packed,
    "out-of-fold": out_of_fold,
    "calibration": calibration,
}
PICTURES["biases"] = biases


def draw(name: str) -> str:
    """A picture as the text of its file."""
    height, title, parts = PICTURES[name]()
    body = "\n".join([TIP % name, *parts])
    return f"{HEAD % (height, html.escape(title))}\n{STYLE}\n{body}\n</svg>\n"


if __name__ == "__main__":
    for name in PICTURES:
        (FOLDER / f"{name}.svg").write_text(draw(name), encoding="utf-8")
