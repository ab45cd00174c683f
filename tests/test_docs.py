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


def test_plots_are_sharp_at_any_size(pages, site, root):
    "Where figures/ holds a plot as SVG, the page of the notebook that draws it shows that."
    text = (site/"timing.html").read_text()
    assert re.search(r'<img[^>]*src="_images/[^"]+\.svg"', text)
    shown = {b"".join(path.read_bytes().split()) for path in (site/"_images").glob("*.svg")}
    drawn = {b"".join(path.read_bytes().split()) for path in (root/"figures").glob("*.svg")}
    assert shown and shown <= drawn


def test_images_are_numbered_and_link_to_their_full_size(pages, site):
    shown = 0
    for path, page in pages.items():
        figures = re.findall(r'<span class="figure".*?href="([^"]+)".*?<img[^>]*src="([^"]+)".*?Figure (\d+)', page.text, flags=re.S)
        assert all(link == image and (site/link).exists() for link, image, _ in figures), path.name
        assert [int(number) for *_, number in figures] == list(range(1, len(figures) + 1)), path.name
        assert len(figures) == len(re.findall(r'<img[^>]*src="(?:_images|figures)/', page.text)), path.name
        shown += len(figures)
    assert shown > 50


def test_captions_say_what_figures_show(pages):
    "Words, and never the name of a file."
    for path, page in pages.items():
        for text in re.findall(r'<span class="caption">(Figure.*?) · ', page.text, flags=re.S):
            assert re.match(r"Figure \d+: .* .*", text, flags=re.S), (path.name, text)
            assert not re.search(r"\.png|‖", text), (path.name, text)


def test_short_implementations_stand_open_and_long_ones_are_folded(pages, site):
    "`underlying` is an equation: it is read without a click. No page shows its exported code twice."
    text = pages[site/"composition.html"].text
    folded = re.findall(r"<details.*?</details>", text, flags=re.S)
    opened = re.sub(r"<[^>]+>", "", re.sub(r"<details.*?</details>", "", text, flags=re.S))
    assert "return (still * shadow + light).clamp(0, 1)" in opened
    assert opened.count("def underlying(") == 1
    assert folded and any("Source of" in fold for fold in folded)


@pytest.fixture(scope="module")
def builder(root):
    import sys
    sys.path.insert(0, str(root/"scripts"))
    import build_docs
    return build_docs


def test_refusals_are_split_off(builder):
    tests = "test_eq(f(1), 2)\n# what it refuses\ntest_fail(lambda: f(0), contains='0')\ntest_fail(lambda: f(-1))"
    assert builder.split_refusals(tests) == (tests.split("\n")[0], "\n".join(tests.split("\n")[1:]))
    loop = "for bad in (0, 1):\n    test_fail(lambda: f(bad))"
    assert builder.split_refusals(loop) == ("", loop)
    for kept in ("test_eq(f(1), 2)\ntest_fail(lambda: f(0))", "test_fail(lambda: f(0),\n    contains='0')\ntest_eq(1, 1)", "%magic"):
        assert builder.split_refusals(kept) == (kept, "")
    behind = "test_eq(1, 1); test_fail(lambda: f(0))\ntest_fail(lambda: f(0),\n  contains='0')"
    assert builder.split_refusals(behind) == (behind.split("\n")[0], "\n".join(behind.split("\n")[1:]))


def test_where_captions_come_from(builder):
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
    above = new_markdown_cell("## A heading\n\nFirst of all. **Look at** the $\\lambda$ of `x`, please. No more.")
    image = new_output("display_data", data={"image/png": ""})
    drawn = new_code_cell("save_figure(figure, '00_x')", outputs=[image])
    told = new_code_cell("tell('')", outputs=[new_output("display_data", data={"text/markdown": "It is **so**, by 3 dB. Indeed."})])
    assert builder.caption([above, drawn], 1) == "Look at the λ of x, please."
    assert builder.caption([above, drawn, told], 1) == "It is so, by 3 dB."
    assert builder.caption([new_markdown_cell("## A heading"), drawn], 1) == "A heading"
    given = new_code_cell('#| fig-cap: "One"\n#| fig-cap: "Two"\nsave_figure(figure, "00_x")', outputs=[image, image])
    assert builder.caption([above, given, told], 1) == f"One{builder.NEXT}Two"


def test_only_directives_are_left_out(builder):
    "The line after a directive stays, and a directive may have a value or an argument."
    for head in ("#| exports", "#| eval: false", "#| export name", '#| code-summary: "Exported source"'):
        assert builder.DIRECTIVE.sub("", f"{head}\nA = 1\n\nB = 2") == "A = 1\n\nB = 2"


def test_each_signature_gets_its_own_source(builder):
    from nbformat.v4 import new_code_cell, new_output
    mark = '#| code-fold: show\n#| code-summary: "Exported source"\n#| exports\n'
    long = "def b(\n    x, # a number\n):\n" + "\n".join("    x += 1" for _ in range(30))
    source = new_code_cell(f"{mark}A = 1\n\ndef a(): return A\n\n{long}\n\nC = 2")
    heading = lambda name: [new_output("display_data", {"text/markdown": f"### {name}"})]
    shown = [new_code_cell(f"#| output: asis\nshow_doc({name})", outputs=heading(name)) for name in "ab"]
    first, one, second, two = builder.interleaved(source, shown)
    assert (first, second) == tuple(shown) and one.short and not two.short
    private = new_code_cell(f"{mark}def _p(): pass")
    mixed = builder.sources_below([shown[1], shown[0], private, source, new_code_cell("a()")])
    assert [cell.source for cell in mixed][1::2] == [shown[0].source, shown[1].source, "a()"], "nbdev's order does not matter"
    assert one.source == f"{mark}A = 1\n\ndef a(): return A" and two.source == f"{mark}{long}\n\nC = 2"


def test_formulas_have_a_font_that_stretches_brackets(site):
    "One font is shipped with the site, with its licence; below, a browser shows that it does its work."
    font = site/"_static"/"fonts"/"htcv-math.woff2"
    assert font.read_bytes()[:4] == b"wOF2" and font.stat().st_size < 250_000
    assert (font.parent/"GUST-FONT-LICENSE.txt").exists()
    css = (site/"_static"/"site.css").read_text()
    assert "fonts/htcv-math.woff2" in css and re.search(r'^math \{ font-family: "htcv Math"', css, flags=re.M)


def test_the_site_has_an_icon(pages, site):
    for path, page in pages.items(): assert re.search(r'<link rel="[a-z ]*icon" href="_static/favicon.svg"', page.text), path.name
    assert (site/"_static"/"favicon.svg").exists()


# ---- as a browser shows it --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium or not shutil.which("chromedriver"): pytest.skip("no Chromium with its driver here")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                 "--disable-background-networking", "--disable-component-update", "--allow-file-access-from-files",
                 "--window-size=1400,1000", f"--user-data-dir={tmp_path_factory.mktemp('profile')}"): options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


CONTRAST = """
const cache = new Map(), probe = document.createElementNS('http://www.w3.org/1999/xhtml', 'canvas').getContext('2d', {willReadFrequently: true});
function rgba(text) {
  if (!cache.has(text)) {
    probe.clearRect(0, 0, 1, 1); probe.fillStyle = text; probe.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = probe.getImageData(0, 0, 1, 1).data; cache.set(text, [r, g, b, a/255]);
  }
  return cache.get(text);
}
const over = (top, below) => [0, 1, 2].map(i => top[3]*top[i] + (1 - top[3])*below[i]).concat(1);
function background(element) {
  if (!element) return rgba(getComputedStyle(document.documentElement).colorScheme == 'dark' ? '#000' : '#fff');
  const own = rgba(getComputedStyle(element).backgroundColor);
  return own[3] == 1 ? own : over(own, background(element.parentElement));
}
const linear = v => (v /= 255) <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4;
const luminance = c => .2126*linear(c[0]) + .7152*linear(c[1]) + .0722*linear(c[2]);
function contrast(front, back) {
  const [a, b] = [luminance(over(front, back)), luminance(back)];
  return (Math.max(a, b) + .05)/(Math.min(a, b) + .05);
}
document.querySelectorAll('details').forEach(d => d.open = true);
const seen = new Set(), found = [];
let texts = 0;
function judge(element, style, text) {
  let faint = 1;
  for (let e = element; e; e = e.parentElement) faint *= Number(getComputedStyle(e).opacity);
  const front = rgba(style.color).slice(), back = background(element);
  front[3] *= faint; texts++;
  const key = [front, back].join();
  if (seen.has(key)) return;
  seen.add(key);
  const ratio = contrast(front, back);
  found.push([Math.round(ratio*100)/100, `${element.tagName}.${element.className}`, text.trim().slice(0, 40), style.color, back.slice(0, 3).map(Math.round).join()]);
}
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const text = walk.currentNode.data, element = walk.currentNode.parentElement;
  if (!text.trim() || ['SCRIPT', 'STYLE', 'NOSCRIPT', 'TEMPLATE'].includes(element.tagName)) continue;
  if (!element.checkVisibility || !element.checkVisibility({checkVisibilityCSS: true})) continue;
  judge(element, getComputedStyle(element), text);
}
for (const input of document.querySelectorAll('input[placeholder]'))
  if (input.checkVisibility()) judge(input, getComputedStyle(input, '::placeholder'), input.placeholder);
return [texts, found.sort((a, b) => a[0] - b[0])];
"""


def contrasts(browser, mode):
    "Number of texts, and the different pairs of text and ground on the page that is open, faintest first; folds opened."
    browser.execute_script(f"document.body.dataset.theme = '{mode}'; "
                           "document.head.append(Object.assign(document.createElement('style'), "
                           "{textContent: '* { transition: none !important; animation: none !important; }'}))")
    return browser.execute_script(CONTRAST)


WIDTHS = 390, 1000, 1400, 1600
WIDER = ("return Math.max(...[document.documentElement, ...document.querySelectorAll('.main, .content, article')]"
         ".filter((e, i) => !i || getComputedStyle(e).overflowX != 'visible').map(e => e.scrollWidth - e.clientWidth))")


def overhang(browser):
    "How many pixels the open page is wider than a window of each width: what a reader would push sideways."
    found = []
    for width in WIDTHS:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", dict(width=width, height=900, deviceScaleFactor=1, mobile=False))
        found.append(browser.execute_script(WIDER))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    return found


@pytest.fixture(scope="module")
def measured(pages, browser):
    "Every page, opened once: how wide it is, and its contrasts in both modes."
    found = {}
    for path in pages:
        browser.get(path.as_uri())
        found[path.name] = dict(wider=overhang(browser), light=contrasts(browser, "light"), dark=contrasts(browser, "dark"))
    return found


@pytest.mark.browser
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(measured, mode):
    "At least 4.5:1 (WCAG AA) for every text of every page: comments and numbers of code, captions, folds, the sidebar."
    faint = {name: pale for name, page in measured.items() if (pale := [pair for pair in page[mode][1] if pair[0] < 4.5])}
    assert sum(page[mode][0] for page in measured.values()) > 20_000
    assert not faint, f"{sum(map(len, faint.values()))} pairs: {list(faint.items())[:3]}"


@pytest.mark.browser
def test_the_measure_of_contrast_can_fail(browser, tmp_path):
    "Grey #767676 on white is the well-known limit of 4.54; see-through and faint text counts as what is seen of it."
    page = tmp_path/"page.html"
    page.write_text("<body style='background:#fff'><p style='color:#767676'>limit</p><p style='color:#ccc'>pale</p>"
                    "<div style='background:#000'><p style='color:#fff;opacity:.4'>faint</p></div>"
                    "<p style='color:rgba(0,0,0,.3)'>thin</p><details><summary>s</summary><p style='color:#ddd'>folded</p></details></body>")
    browser.get(page.as_uri())
    _, found = contrasts(browser, "light")
    said = {text: ratio for ratio, _, text, *_ in found}
    assert said["limit"] == pytest.approx(4.54, abs=.01) and said["pale"] == pytest.approx(1.61, abs=.01)
    assert said["faint"] < 4.5 and said["thin"] < 4.5 and said["folded"] < 1.5


def test_brackets_that_need_not_grow_are_plain(root):
    "A browser leaves a hole beside a bracket that could stretch: only those around something tall may."
    import importlib.util
    from latex2mathml.converter import convert
    spec = importlib.util.spec_from_file_location("site_conf", root/"docs"/"conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    stretching = lambda tex: conf.with_plain_brackets(convert(tex)).count('stretchy="true"')
    assert stretching(r"\bigl(S - T\bigr)^2") == stretching(r"f\left(2^{e_t} S + g\right)") == 0
    assert stretching(r"\left(\frac{a}{b}\right)^2") == 2 and stretching(r"\left(1 + \left(a\right) + \frac{a}{b}\right)") == 2
    assert convert(r"f\left(a\right)").count("stretchy=") == stretching(r"f\left(a\right)") + 2


def test_double_bars_are_bars(root, pages):
    "Not a backslash and what follows it."
    import importlib.util
    from latex2mathml.converter import convert
    spec = importlib.util.spec_from_file_location("site_conf", root/"docs"/"conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    for tex in (r"\bigl\lVert S \bigr\rVert^2", r"\big\| S \big\|_1", r"\Big\Vert S \Big\Vert"):
        assert convert(conf.known(tex)).count("‖") + convert(conf.known(tex)).count("&#x02016;") == 2, tex
    assert "\\" in convert(r"\bigl\lVert S \bigr\rVert") and conf.known(r"\|S\|") == r"\|S\|"
    left = [path.name for path, page in pages.items() if re.search(r"<m[io][^>]*>\\", page.text)]
    assert not left


@pytest.mark.browser
def test_brackets_grow_with_what_they_hold(site, browser, tmp_path):
    "With the site's font, on a machine that may have no other with a MATH table, a bracket around a fraction is taller."
    page = tmp_path/"page.html"
    page.write_text(f"""<!doctype html><link rel="stylesheet" href="{(site/'_static'/'site.css').as_uri()}">
    <math display="block"><mo id="low">(</mo><mi>x</mi><mo>)</mo></math>
    <math display="block"><mrow><mo id="tall">(</mo><mfrac><mfrac><mi>x</mi><mi>y</mi></mfrac><mfrac><mi>x</mi><mi>y</mi></mfrac></mfrac><mo>)</mo></mrow></math>""")
    browser.get(page.as_uri())
    browser.set_window_size(1400, 1000)
    loaded = browser.execute_async_script(
        """const done = arguments[0]; document.fonts.load('20px "htcv Math"').then(fonts => done(fonts.length))""")
    assert loaded == 1
    height = lambda name: browser.execute_script(f"return document.getElementById('{name}').getBoundingClientRect().height")
    assert height("tall") > 2*height("low")


IN_PLOTS = CONTRAST[:CONTRAST.index("document.querySelectorAll('details')")] + """
const found = [], groups = document.querySelectorAll('g[id^="text_"]');
for (const group of groups) {
  const letter = group.querySelector('use'), box = group.getBoundingClientRect();
  if (!letter) continue;
  const style = getComputedStyle(letter), front = rgba(style.fill).slice();
  for (let e = letter; e instanceof Element; e = e.parentElement) front[3] *= Number(getComputedStyle(e).opacity);
  front[3] *= Number(style.fillOpacity);
  for (const place of [.02, .5, .98]) {
    let below = [255, 255, 255, 1];
    const stack = document.elementsFromPoint(box.left + place*box.width, box.top + box.height/2);
    for (const e of stack.reverse()) {
      const own = getComputedStyle(e);
      if (own.fill == 'none' || !(e instanceof SVGGeometryElement)) continue;  // letters are <use>: no geometry
      const ground = rgba(own.fill).slice();
      ground[3] *= Number(own.opacity)*Number(own.fillOpacity);
      below = over(ground, below);
    }
    found.push([Math.round(contrast(front, below)*100)/100, group.id, group.innerHTML.match(/<!--(.*?)-->/s)?.[1].trim().slice(0, 40)]);
  }
}
return [groups.length, found.sort((a, b) => a[0] - b[0])];
"""


def plot_contrasts(browser, path):
    "Number of texts of an SVG that matplotlib drew, and the contrast of each to what lies below it at three places."
    browser.set_window_size(2400, 2400)  # what lies outside the window is not below any point
    browser.get(path.as_uri())
    return browser.execute_script(IN_PLOTS)


@pytest.mark.browser
def test_texts_of_plots_stand_out(root, browser):
    "Tick labels, legends, names beside lines and in bars: 4.5:1 to what they are written on."
    texts, faint = 0, {}
    for path in sorted((root/"figures").glob("*.svg")):
        n, found = plot_contrasts(browser, path)
        texts += n
        if pale := [text for text in found if text[0] < 4.5]: faint[path.name] = pale
    assert texts > 1000 and not faint, faint


@pytest.mark.browser
def test_the_measure_of_contrast_in_plots_can_fail(browser, tmp_path):
    "A white name is lost on white, at the limit on #767676, and half of it where it stands out of a dark bar."
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(4, 2))
    axis.set(xlim=(0, 4), ylim=(0, 1)); axis.axis("off")
    axis.bar([1, 3], 1, width=[1.6, .2], color=["#767676", "black"])
    for at, word, colour in ((1, "limit", "w"), (2, "lost", "w"), (3, "half", "w")):
        axis.text(at, .5, word, color=colour, ha="center")
    axis.text(2, .8, "seen", color="black", alpha=.5, ha="center")
    axis.text(1, .8, "boxed", color="black", ha="center", bbox=dict(facecolor="white"))
    figure.savefig(tmp_path/"plot.svg"); plt.close(figure)
    n, found = plot_contrasts(browser, tmp_path/"plot.svg")
    said = {}
    for ratio, _, text in found: said.setdefault(text, []).append(ratio)
    assert n == 5 and said["boxed"] == [21]*3 and said["limit"] == [4.54]*3 and said["lost"] == [1]*3 and said["seen"] == pytest.approx([3.95]*3, abs=.05)
    assert said["half"][0] == 1 and said["half"][-1] == 21


@pytest.mark.browser
def test_no_page_scrolls_sideways(measured):
    assert {name: page["wider"] for name, page in measured.items() if max(page["wider"]) > 0} == {}


@pytest.mark.browser
def test_the_measure_of_width_can_fail(browser, tmp_path):
    page = tmp_path/"page.html"
    page.write_text("<!doctype html><body style='margin:0'><div style='width:1200px'>wide</div></body>")
    browser.get(page.as_uri())
    assert overhang(browser) == [810, 200, 0, 0]
