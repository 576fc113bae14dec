"""Prints the whole book into one PDF with Chromium: no TeX is needed.

    python -m book.tools.pdf

The first page of the site becomes the book: the articles of the others follow in the
order of the course, with their links led to where they now stand.
"""

from playwright.sync_api import sync_playwright

from book import ROOT, settings
from book.tools.host import chromium, serve

JOIN = """async () => {
  const order = [...document.querySelectorAll(".bd-docs-nav a.reference.internal")];
  const pages = order.map((a) => new URL(a.getAttribute("href"), location).pathname);
  pages[0] = new URL("README.html", location).pathname;
  const name = (path) => path.split("/").at(-1).replace(".html", "");
  const home = document.querySelector("article");
  const joined = [];
  for (const path of pages) {
    const text = await (await fetch(path)).text();
    const article = new DOMParser().parseFromString(text, "text/html").querySelector("article");
    const here = new URL(path, location);
    for (const e of article.querySelectorAll("[id]")) e.id = `${name(path)}:${e.id}`;
    for (const e of article.querySelectorAll("img")) {
      e.src = new URL(e.getAttribute("src"), here).href;
      e.loading = "eager";
    }
    for (const e of article.querySelectorAll("a[href]")) {
      const to = new URL(e.getAttribute("href"), here);
      if (pages.includes(to.pathname))
        e.setAttribute("href", `#${name(to.pathname)}:${to.hash.slice(1)}`);
      else if (to.host === location.host) e.replaceWith(...e.childNodes);
    }
    article.querySelector("section").id ||= `${name(path)}:`;
    const top = document.createElement("div");
    top.id = `${name(path)}:`;
    top.style.breakBefore = joined.length ? "page" : "auto";
    joined.push(top, ...article.childNodes);
  }
  home.replaceChildren(...joined);
  // Names and brackets look as plain text does, and each span weighs in the file.
  for (const e of home.querySelectorAll("pre :is(.n, .nn, .p, .w)")) e.replaceWith(...e.childNodes);
  home.normalize();
  for (const section of document.querySelectorAll("section"))
    section.style.contentVisibility = "visible";
  await Promise.all([...document.images].map((image) => image.decode()));
  await document.fonts.ready;
  return pages.length;
}"""


def main() -> None:
    """Write `_build/html/<name>.pdf`."""
    known = settings()
    target = ROOT / "_build" / "html" / f"{known['repo']}.pdf"
    with serve(target.parent) as address, sync_playwright() as playwright:
        browser = chromium(playwright)
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        page.goto(address)
        joined = page.evaluate(JOIN)
        number = '<span class="pageNumber"></span>'
        style = "font: 8pt sans-serif; width: 100%; text-align: center; color: #555"
        page.pdf(
            path=target,
            format="A4",
            margin={"top": "18mm", "bottom": "18mm", "left": "18mm", "right": "18mm"},
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=f'<div style="{style}">{number}</div>',
            outline=True,
            tagged=True,
        )
        browser.close()
    print(f"{joined} pages of the site are in {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
