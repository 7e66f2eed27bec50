"""The site is whole and true: it builds without a warning, its links and anchors hold, its commands parse."""

import ast
import importlib
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from test_house import ORDER

import tiebreak
from tiebreak.cli import build_parser, main
from tiebreak.config import load_recipe, shipped
from tiebreak.overview import COMMANDS as COMMANDS_OF_TIEBREAK
from tiebreak.pipeline.recipe import load_pipeline
from tiebreak.structured import parse_yaml
from tiebreak.tables.layouts import LAYOUTS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import figures  # noqa: E402
import messages  # noqa: E402

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
STARTS = r"\w+=|srun |deepspeed |torchrun |python |tiebreak |sbatch |launch/|slurm/|make |head |echo |cp |pip "
PREFIX = re.compile(r"^(?:\w+=(?:\"[^\"]*\"|\S+) )*(?:/usr/bin/time -f \"[^\"]*\" )?(?:srun )?")


class Links(HTMLParser):
    """What a page refers to, what of it a browser fetches by itself, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {values.get("id") or "", values.get("name") or "" if tag == "a" else ""}
        found = [values[name] for name in ("href", "src") if values.get(name)]
        (self.links if tag == "a" else self.fetched).extend(str(value) for value in found)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with each warning as an error, by a process without a network's address."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_link_and_anchor_of_the_site_leads_somewhere(site, pages):
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.fetched):
            if urlsplit(link).scheme in ("http", "https", "mailto", "data"):
                continue
            address, anchor = urldefrag(link)
            target = (path.parent / unquote(address)).resolve() if address else path
            if path.name == "404.html" and address.startswith("/"):
                target = site / unquote(address).lstrip("/")
            if target.is_dir() or not target.exists() or (anchor and unquote(anchor) not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def errors_made() -> int:
    """How often the code makes a `UserError`, or derives from it, by another way than the site's own."""
    lines = [
        line for path in (ROOT / "src" / "tiebreak").rglob("*.py") for line in path.read_text("utf-8").splitlines()
    ]
    made = [line for line in lines if "UserError(" in line and not line.startswith("class ")]
    return len(made) + sum(bool(re.match(r"class \w+\(UserError\)", line)) for line in lines)


def test_every_user_error_has_an_anchor(site, pages):
    found = messages.collect()
    assert len(found) > 300
    assert len(found) == errors_made() == len({message.slug for message in found})
    assert {message.slug for message in found} <= pages[site / "troubleshooting.html"].anchors
    assert {message.group for message in found} == set(messages.GROUPS)


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("cellar.py", "raise UserError('lower the water')", "no group of GROUPS names cellar.py"),
        ("config.py", "raise UserError(f'{name}: {what}')", "which has no words of its own"),
    ],
)
def test_a_new_user_error_that_the_page_cannot_place_is_an_error_of_the_build(tmp_path, file, code, fault):
    (tmp_path / file).write_text(code)
    with pytest.raises(LookupError, match=fault):
        [message.group for message in messages.collect(tmp_path, notes={})]


def test_the_architecture_page_names_the_rooms_in_order_and_files_that_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    house, _, rest = text.partition("## The house")[2].partition("## The way of one row")
    assert re.findall(r"^\| (\w+) \|", house, re.M)[1:] == list(ORDER)
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", rest):
        assert any((ROOT / place / name).exists() for place in ("", "src/tiebreak")), name
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tiebreak").rglob("*.py"))
    for name in re.findall(r"`(\w+)` (?:of|in) `", rest):
        assert re.search(rf"^(?:def |class )?{name}\b", code, re.M), name


def test_pictures_are_those_that_the_script_draws():
    drawn = {f"{name}.svg": figures.draw(name) for name in figures.PICTURES}
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in figures.FOLDER.glob("*")}


def test_the_reference_names_what_the_code_has(site):
    for page, names in (
        ("recipe", ["model.lora.r", "train.lr", "distill.temperature", "predict.lease_s", *shipped()]),
        ("commands", [*COMMANDS_OF_TIEBREAK, "--on-bad-row"]),
        ("python", tiebreak.__all__),
        ("files", ["ModelManifest", "PredictionManifest", *(layout.name for layout in LAYOUTS)]),
        ("exit-codes", ["75", "130"]),
    ):
        text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert [name for name in names if name not in text] == [], page
    text = (site / "reference" / "recipe.html").read_text(encoding="utf-8")
    rank = re.search(r'<span id="model.lora.r">.*?</tr>', text, re.S)
    assert rank and "whole number, 1 to 65,536" in rank[0] and "16" in rank[0] and "Rank of the update" in rank[0]


@pytest.mark.slow
def test_on_a_phone_pages_fit_and_fetch_nothing_and_the_search_finds_a_message(site, browser):
    """As files, in the dark and without a network; pictures have the colour of the text."""
    context = browser.new_context(viewport={"width": 390, "height": 900}, color_scheme="dark", offline=True)
    tab = context.new_page()
    requests, errors = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    for name in ("index", "troubleshooting", "reference/recipe", "concepts/biases", "tables", "engines"):
        tab.goto((site / f"{name}.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), name
    tab.goto((site / "concepts/biases.html").as_uri())
    drawn, written = (tab.locator(place).first for place in (".picture text", ".md-content p"))
    assert drawn.evaluate("it => getComputedStyle(it).fill") == written.evaluate("it => getComputedStyle(it).color")
    tab.locator("label[for=__search]:visible, .md-search__input:visible").first.click()
    tab.keyboard.type("embeddings tokenizer belong two models")
    tab.locator(".md-search-result__item a").first.wait_for()
    assert "troubleshooting.html" in (tab.locator(".md-search-result__item a").first.get_attribute("href") or "")
    assert errors == [] and not [url for url in requests if url.startswith("http")]
    context.close()


@pytest.mark.slow
def test_the_first_hour_runs_as_it_stands(tmp_path, monkeypatch):
    """Every command of two hours that needs no installation, no network and none of Kaggle's folders."""
    monkeypatch.chdir(tmp_path)
    lines = [line for name in ("laptop", "kaggle") for line in commands_of(ROOT / f"docs/first-hour/{name}.md")]
    few = {"train": "--set train.max_steps=2 --set data.max_tokens=96", "report": "--resamples 100"}
    ran = []
    for line in lines:
        program, *words = shlex.split(line)
        if program == "tiebreak" and words and words[0] != "weights" and not re.search("minilm|/kaggle/", line):
            assert main([*words, *few.get(words[0], "").split()]) == 0, line
            ran.append(words[0])
    assert ran == "sample sample check baseline train predict report compare sample predict".split()
    assert (tmp_path / "runs/first/report/index.html").is_file()
    assert (tmp_path / "runs/kaggle/predictions.csv").read_text().count("\n") == 101


def test_pages_fetch_nothing_from_elsewhere(site, pages):
    outside = {link for page in pages.values() for link in page.fetched if urlsplit(link).scheme in ("http", "https")}
    assert outside == set()
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere_in_the_repository_too(page: Path):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            assert (page.parent / link.partition("#")[0]).exists() or link.startswith("#"), link


def commands_of(page: Path) -> list[str]:
    """What a reader types: the lines of a page's blocks; in an example with its output, those that begin with `$`."""
    commands: list[str] = []
    for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
        block = re.sub(r"\\\n\s*", "", block)
        if language == "console":
            commands += re.findall(r"^\$ (.*)", block, re.M)
        elif not language:
            commands += re.findall(rf'^ *!?((?:{STARTS})(?:.*"\n(?:.*\n)*?"$|.*))', block, re.M)
    return [command.split("  #")[0].strip() for command in commands]


COMMANDS = [(page.name, line) for page in PAGES for line in commands_of(page)]


def test_commands_are_found_on_the_pages():
    assert len(COMMANDS) > 100 and {"README.md", "slurm.md", "trust.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_parse(page: str, command: str):
    """As far as this goes without data: files named must exist, variables be read, options and settings parse."""
    variables = dict(re.findall(r'(\w+)=("[^"]*"|\S+) ', PREFIX.match(command)[0]))
    words = shlex.split(PREFIX.sub("", command).replace("$k/", "0/"))
    for word in words:
        if word.startswith(("src/", "ds_configs/", "slurm/", "launch/", "tests/", "benchmarks/")):
            assert (ROOT / word).exists(), word
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    elif words[:2] == ["python", "-c"]:
        compile(words[2], page, "exec")
    elif any(word.startswith(("slurm/", "launch/")) for word in words):
        scripts = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("[ls][al]*/*.*h"))
        assert all(name in scripts or name.startswith("SBATCH_") for name in variables), variables
    if own := our_words(words):
        options = build_parser().parse_args(own)
        if options.command == "pipeline":
            load_pipeline(options.recipe)
        elif getattr(options, "recipe", None) and options.command != "ladder":
            load_recipe(options.recipe, getattr(options, "set", []))


def our_words(words: list[str]) -> list[str]:
    """The words of a `tiebreak` command, whatever starts it; none where a command is not ours."""
    if words[0] == "tiebreak":
        return words[1:]
    script = next((k for k, word in enumerate(words) if word.startswith(("src/", "slurm/"))), None)
    if script is None:
        return []
    (name,) = {"predict", "train", "distill", "pipeline", "sweep"} & set(re.split(r"\W|_", words[script]))
    if "--log" in words:
        return []
    rest = [word for word in words[script + 1 :] if word not in ("--dry-run", "--status")]  # the script's own
    given = {"train": [], "predict": ["--model", "m", "--data", "d", "--out", "o"], "distill": ["--teachers", "bayes"]}
    return [name, *(given.get(name, []) if words[0] == "sbatch" else []), *rest]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_the_pages_uses_names_that_exist_and_yaml_is_readable(page: Path):
    for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            tree = ast.parse(block, page.name)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiebreak"):
                    module = importlib.import_module(str(node.module))
                    assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    place = {"tiebreak": tiebreak, "judge": tiebreak.Judge}.get(node.value.id)
                    assert place is None or hasattr(place, node.attr), ast.unparse(node)
        elif language == "yaml":
            assert parse_yaml(block)


def test_the_page_on_trust_lists_what_is_installed_at_which_least_version_and_under_which_licence():
    text = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'"([\w-]+)>=([\d.]+)', text[text.index("\ndependencies = [") : text.index("\ndocs = [")])
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| (\w+)", (ROOT / "docs" / "trust.md").read_text(), re.M)
    assert {(name, least) for name, least, _ in rows} == set(wanted)
    for name, _, licence in rows:
        if name in ("flash-attn", "mlflow-skinny"):  # which tests do not install
            continue
        told = importlib.metadata.metadata(name)
        words = [told.get("License-Expression"), told.get("License"), *(told.get_all("Classifier") or [])]
        assert licence.split("-")[0].lower() in " ".join(filter(None, words)).lower(), name
