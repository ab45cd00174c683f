"The built site: every internal link and anchor leads somewhere, and no page scrolls sideways on a phone."
import json, re, shutil, subprocess
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest


class Page(HTMLParser):
    "What a page links to and what can be linked to on it."
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.text = [], set(), text
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        self.links += [attrs[key] for key in ("href", "src") if attrs.get(key)]


@pytest.fixture(scope="module")
def site(root):
    html = root/"docs/_build/html"
    if not (html/"index.html").exists(): pytest.skip("the site is not built: `make docs`")
    return html


@pytest.fixture(scope="module")
def pages(site): return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.glob("*.html"))}


def test_every_notebook_has_its_page(pages, notebooks):
    names = {path.stem for path in pages}
    assert {re.sub(r"^\d+[a-zA-Z0-9]*_", "", name) for name in notebooks} <= names


def test_every_internal_link_leads_somewhere(pages, site):
    dead, followed = [], 0
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc: continue
            followed += 1
            target = (path.parent/unquote(url.path)).resolve() if url.path else path
            if not target.is_relative_to(site.resolve()) or not target.exists(): dead.append(f"{path.name}: {link}")
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids: dead.append(f"{path.name}: {link} (anchor)")
    assert not dead and followed > 100


def test_backticks_lead_to_definitions(pages):
    "At least one page links to a signature on another page, by its anchor."
    links = [link for page in pages.values() for link in page.links]
    assert any(re.match(r"composition\.html#api-composition-", link) for link in links)


def test_signatures_sources_and_figures_are_there(pages, site):
    composition = pages[site/"composition.html"].text
    assert "api-composition-compose" in composition and "Source of" in composition and "<img" in composition
    assert "#| " not in re.sub(r"<[^>]+>", "", composition), "nbdev's directives are left in the page"


def test_no_markdown_link_is_left_unrendered(pages):
    for path, page in pages.items():
        assert not re.search(r"\]\((https?:|\w+\.ipynb)", re.sub(r"<[^>]+>", "", page.text)), path.name


def test_the_site_needs_nothing_from_elsewhere(pages):
    "No script, style sheet, font or picture is fetched from another host."
    for path, page in pages.items():
        assert not re.findall(r"<(?:script|img)[^>]+src=\"https?:|<link[^>]+rel=\"(?:stylesheet|preload)\"[^>]+href=\"https?:", page.text), path.name


def test_the_search_finds_functions(site):
    assert "compose" in (site/"searchindex.js").read_text(encoding="utf-8")


@pytest.mark.browser
def test_no_page_scrolls_sideways(pages, site, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium: pytest.skip("no Chromium here")
    names = [path.name for path in pages if path.name not in ("search.html", "genindex.html")]
    frames = "".join(f'<iframe id="{n}@{w}" src="{(site/n).as_uri()}" style="width:{w}px;height:900px"></iframe>' for n in names for w in (390, 1000, 1400, 1600))
    measure = ("const wider = f => Math.max(...[f.contentDocument.documentElement, ...f.contentDocument.querySelectorAll('.main, .content, article')].filter((e, i) => !i || getComputedStyle(e).overflowX != 'visible')"
               ".map(e => e.scrollWidth - e.clientWidth));"
               "onload = () => document.title = JSON.stringify([...document.querySelectorAll('iframe')].map(f => [f.id, wider(f)]))")
    (tmp_path/"all.html").write_text(f"<html><body>{frames}<script>{measure}</script></body></html>")
    done = subprocess.run([chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                           "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
                           "--virtual-time-budget=20000", f"--user-data-dir={tmp_path/'profile'}", "--dump-dom", (tmp_path/"all.html").as_uri()],
                          capture_output=True, text=True, timeout=180)
    title = re.search(r"<title>(.*?)</title>", done.stdout, flags=re.S)
    assert title, done.stderr[-1000:]
    widths = dict(json.loads(title[1].replace("&quot;", '"')))
    assert len(widths) == 4*len(names)
    assert {name: wider for name, wider in widths.items() if wider > 0} == {}
