"""build.py SOURCE TARGET: makes a page of every text file and an index of them."""
import html
import pathlib
import sys

source, target = map(pathlib.Path, sys.argv[1:])
links = []
for page in sorted(source.rglob("*.txt")):
    out = (target / page.relative_to(source)).with_suffix(".html")
    out.parent.mkdir(parents=True, exist_ok=True)
    title, _, body = page.read_text().partition("\n")
    out.write_text(f"<h1>{html.escape(title)}</h1><p>{html.escape(body.strip())}</p>\n")
    links.append(f'<li><a href="{out.relative_to(target)}">{html.escape(title)}</a></li>')
(target / "index.html").write_text("<ul>" + "".join(links) + "</ul>\n")
