"""What `mkdocs build` is told beyond mkdocs.yml: pages link to benchmarks/, recipes/ and examples/, which lie beside docs/.

Whatever a page links to becomes a file of the site, at its own path in the repository: Markdown as a page, code as a page that
shows it, pictures as they are. Links are written anew to match. So one link serves the forge and the site.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs_reference import filled_in

ROOT = Path(__file__).parent.parent
PICTURES = {".png", ".svg"}
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to, and every benchmark."""
    missing = sorted((ROOT / "benchmarks").glob("*.md"))
    nav = [{"Measured": [shown(path) for path in missing]}, {"Why": sorted(design_pages(files))}]
    config.nav = [*(config.nav or [])[:-1], *nav, *(config.nav or [])[-1:]]
    missing += [ROOT / name for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    missing += [path for file in files.documentation_pages() for path in linked(ROOT / "docs" / file.src_uri)]
    known = {ROOT / "docs" / file.src_uri for file in files}
    while missing:
        path = missing.pop()
        if path in known or not path.is_file():
            continue
        known.add(path)
        files.append(as_site_file(path, config))
        missing += linked(path) if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to where their targets are in the site, and fill in what is generated."""
    here = PurePosixPath(page.file.src_uri)
    source = repository_path(here)

    def moved(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(source.parent / link[1]))
        if not target.is_relative_to(ROOT) or not target.is_file():
            return link[0]
        return f"]({os.path.relpath(site_path(target), here.parent)}{link[2] or ''})"

    return filled_in(LINK.sub(moved, markdown))


def design_pages(files: Files) -> list[str]:
    return [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith("design/")]


def linked(page: Path) -> list[Path]:
    """Files outside docs/ that a page links to."""
    targets = [Path(os.path.normpath(page.parent / link[0])) for link in LINK.findall(page.read_text("utf-8"))]
    return [path for path in targets if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs")]


def as_site_file(path: Path, config: MkDocsConfig) -> File:
    if path.suffix in PICTURES:
        return File.generated(config, shown(path), abs_src_path=str(path))
    text = path.read_text("utf-8")
    if path.suffix != ".md":
        text = f"# {shown(path)}\n\n````{path.suffix[1:]}\n{text}````\n"
    return File.generated(config, site_path(path), content=text)


def site_path(path: Path) -> str:
    """Where a file of the repository is in the site."""
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return shown(path) + ("" if path.suffix in {*PICTURES, ".md"} else ".md")


def repository_path(uri: PurePosixPath) -> Path:
    """The other way round."""
    within = ROOT / "docs" / uri
    return within if within.is_file() else ROOT / uri


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
