"""MkDocs hook: the pages that are not files of docs/, and links that hold in the repository and on the site alike."""

import re
from pathlib import Path

import messages
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OF_REPOSITORY = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository that are pages of the site, too."""
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.S | re.M)
PICTURE = re.compile(r"^!\[([^\]]*)\]\([\w./]*figures/([\w-]+)\.svg\)$", re.M)
LINK = re.compile(r"\]\((\.\./)?(docs/)?([\w/.-]+)(#[\w-]*)?\)")
MENTION = re.compile(r"(?<![\w/\[(])(\(?)docs/(\w+)\.md")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name at the end of "How to"."""
    assert config.nav is not None
    named = set(_leaves(config.nav))
    (guides,) = (section["How to"] for section in config.nav if "How to" in section)
    guides += sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    return config


def _leaves(nav: list | dict | str) -> list[str]:
    """File names in a navigation tree."""
    if isinstance(nav, str):
        return [nav]
    return [leaf for part in (nav.values() if isinstance(nav, dict) else nav) for leaf in _leaves(part)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's own pages and those that are made from the code."""
    for name, page in OF_REPOSITORY.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for page, make in reference.PAGES.items():
        files.append(File.generated(config, page, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository, and mentions of `docs/NAME.md`, into links between pages."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    up = "../" * page.file.src_uri.count("/")
    parts = CODE.split(markdown)
    parts[::2] = [MENTION.sub(rf"\1[docs/\2.md]({up}\2.md)", LINK.sub(_page_of, part)) for part in parts[::2]]
    text = PICTURE.sub(_inline, "".join(parts))
    # Last, as messages name files of docs/ in words of their own.
    return text.replace(messages.MARK, messages.render()) if messages.MARK in text else text


def _inline(picture: re.Match[str]) -> str:
    """A picture as a part of its page, where it takes the colour of the text."""
    text = (ROOT / "docs" / "figures" / f"{picture[2]}.svg").read_text(encoding="utf-8")
    drawing = re.sub(r"<style>.*?</style>|\n", "", text)
    return f'<figure class="picture">{drawing}</figure>'


def _page_of(link: re.Match[str]) -> str:
    up, folder, path, anchor = link.groups()
    page = OF_REPOSITORY.get(path)
    return f"]({page or ('' if folder else up or '') + path}{anchor or ''})"
