"""The page in headless Chromium, at desktop and phone width, light and dark; answers are hostile."""

import base64
import re
from pathlib import Path

import numpy as np
import pytest

from tiebreak.cli import main
from tiebreak.data.predictions import write_predictions
from tiebreak.tables.cells import encode_json_cell

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "</pre></details><h1>mine</h1>",
    '"><svg onload="window.hacked = 3">',
    "{{ 7 * 7 }} {% raw %} &amp; &lt;b&gt;",
    "https://example.com/" + "a" * 400,
    "![pixel](https://example.com/pixel.png)",
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report in which prompts, answers, ids, model names and judges' names all hold markup."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    table = folder / "<b>labels.csv"
    lines = ["id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie"]
    ids = []
    for k in range(120):
        texts = [
            HOSTILE[(k + shift) % len(HOSTILE)] + f" {k} " + "word " * int(rng.integers(1, 60)) for shift in range(3)
        ]
        cells = ['"' + encode_json_cell([text]).replace('"', '""') + '"' for text in texts]
        ids.append(f"<i>{k}</i>")
        winner = ["1,0,0", "0,1,0", "0,0,1"][int(rng.integers(3))]
        lines.append(f"{ids[-1]},<b>gpt</b>-4,llama-<script>window.hacked=4</script>,{','.join(cells)},{winner}")
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = []
    for k in range(2):
        folder.joinpath(str(k)).mkdir()
        p = rng.dirichlet([1, 1, 1], 120)
        q = rng.dirichlet([1, 1, 1], 120)
        for name, part in (("predictions_ab", p), ("predictions_ba", q), ("predictions", (p + q) / 2)):
            write_predictions(folder / str(k) / f"{name}.csv", ids, part)
        files.append(f"<img src=x onerror=window.hacked=5> a rather long name of judge {k}={folder / str(k)}")
    log = '{"step": %d, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 10, "seconds": 1}\n'
    (folder / "<u>run").mkdir()
    (folder / "<u>run" / "log.jsonl").write_text("".join(log % k for k in range(1, 30)))
    command = ["report", *files, "--labels", str(table), "--out", str(folder / "out"), "--resamples", "100"]
    attacked = [str(folder / "1"), str(folder / "0")]
    assert main([*command, "--attacked", *attacked, "--runs", str(folder / "<u>run")]) == 0
    return folder / "out" / "index.html"


def test_nothing_hostile_stands_unescaped(page):
    text = page.read_text(encoding="utf-8")
    body = text.partition("<body>")[2].partition("<script>\nfor (const table")[0]
    assert "<script" not in body and "<svg" not in body and "<h1>mine" not in body and "<i>0" not in body
    assert "&lt;script&gt;window.hacked = 1&lt;/script&gt;" in body
    assert "{{ 7 * 7 }}" in body
    images = re.findall(r"<img [^>]*>", body)
    assert images and all('src="data:image/png;base64,' in image for image in images)
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", text), "the page refers to something outside itself"


def test_every_plot_has_a_title_and_a_text_and_a_dark_twin(page):
    text = page.read_text(encoding="utf-8")
    figures = re.findall(r"<figure>(.*?)</figure>", text, re.S)
    stored = list((page.parent / "plots").glob("*.png"))
    assert len(figures) == len(stored) / 2
    for figure in figures:
        assert len(re.search(r"<figcaption>(.+?)</figcaption>", figure)[1]) > 4
        assert len(re.search(r' alt="(.+?)"', figure)[1]) > 30
        for uri in re.findall(r'(?:src|srcset)="data:image/png;base64,([^"]+)"', figure):
            assert base64.b64decode(uri).startswith(b"\x89PNG")
        assert "prefers-color-scheme: dark" in figure


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page, browser, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = context.new_page()
    errors, requests = [], []
    tab.on("console", lambda message: errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    for details in tab.locator("details").all():
        details.locator("summary").click()
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.querySelectorAll('h1').length") == 1
    assert "<script>window.hacked = 1</script>" in tab.locator("pre").all_inner_texts()[0] + "".join(
        tab.locator("pre").all_inner_texts()
    )
    shown = tab.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt, image.currentSrc])")
    assert len(shown) > 10 and all(size > 0 and alt for size, alt, _ in shown)
    other = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "light" else "light"
    )
    twin = other.new_page()
    twin.goto(page.as_uri())
    sources = twin.evaluate("[...document.images].map(image => image.currentSrc)")
    assert all(mine[2] != theirs for mine, theirs in zip(shown, sources, strict=True)), (
        "light and dark show the same plot"
    )
    ground = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(ground) != twin.evaluate(ground)
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    other.close()
    context.close()


def test_tables_sort_by_number_and_by_name(page, browser):
    tab = browser.new_page()
    tab.goto(page.as_uri())
    table = tab.locator("#scores table.sortable").first
    values = "table => [...table.tBodies[0].rows].map(row => row.cells[%d].dataset.v)"
    before = table.evaluate(values % 1)
    table.locator("thead button").nth(1).click()
    rising = [float(value) for value in table.evaluate(values % 1)]
    assert rising == sorted(map(float, before)) and rising != [float(value) for value in before]
    assert table.locator("thead th").nth(1).get_attribute("aria-sort") == "ascending"
    table.locator("thead button").nth(1).click()
    assert [float(value) for value in table.evaluate(values % 1)] == rising[::-1]
    table.locator("thead button").nth(0).click()
    names = table.evaluate(values % 0)
    assert names == table.evaluate("(table, names) => names.slice().sort((a, b) => a.localeCompare(b))", names)
    assert table.locator("thead th").nth(1).get_attribute("aria-sort") is None
    tab.close()
