"""Hooks of mkdocs: which pages the site has, in which order, and links between them.

Pages lie where they belong in the repository (README.md, docs/, web/docs/, models/), and their
links lead to files. The site brings them together, and a link to a file that is no page leads to
the repository, where its address is known, or becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = "docs/"
NODES = "web/docs/"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
# (title, pages in their order); pages that are not there are left out, others in docs/ come last.
MENU: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Use it",
        (
            "references.md",
            "faces.md",
            "several_subjects.md",
            "weights.md",
            "compatibility.md",
            "troubleshooting.md",
            "comparison.md",
            "responsible_use.md",
        ),
    ),
    ("Nodes", ()),
    ("Train", ("training.md",)),
    ("Measured", ("miniature.md", "styles.md", "performance.md", "reliability.md", "browser.md")),
    ("Run it for others", ("threats.md",)),
)
# Code in a line or a block, which holds no links; or a link.
_LINK = re.compile(
    r"(```.*?```|~~~.*?~~~|`[^`\n]*`)|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", re.S
)


def sources(root: Path = ROOT) -> dict[str, str]:
    """Every page and picture from outside docs/: {path in the site: path in the repository}."""
    found = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
    for page in sorted((root / NODES).glob("*.md")):
        found[f"nodes/{page.name}"] = f"{NODES}{page.name}"
    for file in sorted((root / "models").iterdir()):
        if file.suffix in (".md", *PICTURES):
            name = "index.md" if file.name == "README.md" else file.name
            found[f"models/{name}"] = f"models/{file.name}"
    return found


def site_path(source: str, generated: dict[str, str]) -> str | None:
    """Where a file of the repository lies in the site; None if it does not."""
    for path, original in generated.items():
        if original == source:
            return path
    inside = source.startswith(DOCS) and source.endswith((".md", *PICTURES))
    return source.removeprefix(DOCS) if inside else None


def menu(root: Path = ROOT) -> list[dict[str, Any]]:
    """The site's menu, of the pages that exist."""
    generated = sources(root)
    present = sorted(page.relative_to(root / DOCS).as_posix() for page in root.glob("docs/*.md"))
    listed: list[dict[str, Any]] = [{"Home": "index.md"}]
    taken: set[str] = set()
    for title, wanted in MENU:
        pages = [page for page in wanted if page in present]
        if title == "Nodes":
            pages = [page for page in generated if page.startswith("nodes/")]
        taken |= set(pages)
        if pages:
            listed.append({title: pages})
    more = [page for page in present if page not in taken]
    models = sorted(page for page in generated if page.startswith("models/") and page[-3:] == ".md")
    listed.append({"More": [*more, *models, "changelog.md"]})
    return listed


def with_site_links(text: str, source: str, repository: str = "", root: Path = ROOT) -> str:
    """A page's text with links that fit its place in the site."""
    generated = sources(root)
    here = posixpath.dirname(site_path(source, generated) or "")

    def changed(match: re.Match[str]) -> str:
        code, mark, label, target = match.groups()
        if code or re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        place = site_path(file, generated)
        if place is not None:
            anchor = f"#{anchor}" if anchor else ""
            return f"{mark}[{label}]({posixpath.relpath(place, here or '.')}{anchor})"
        if repository:
            return f"{mark}[{label}]({repository.rstrip('/')}/blob/HEAD/{file})"
        return label

    return _LINK.sub(changed, text)


# What mkdocs calls


def on_config(config: Any) -> Any:
    from pymdownx.slugs import slugify  # pyright: ignore[reportMissingImports]

    config.nav = menu()
    # As GitHub makes anchors of headings, so that one link serves both.
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for path, source in sources().items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    path: str = page.file.src_uri
    source = sources().get(path, DOCS + path)
    return with_site_links(markdown, source, config.repo_url or "")
