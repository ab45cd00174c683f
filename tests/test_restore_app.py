"The app in a real JupyterLab, driven by a headless Chromium: upload, run, move sliders, see the picture change."
import ast, base64, contextlib, io, json, os, re, shlex, shutil, socket, subprocess, sys, time, urllib.request, zipfile

import nbformat
import numpy as np
import pytest
from PIL import Image

from htcv.app_files import in_app_words
from htcv.rendering import benchmark_folder

PATIENCE = 120  # seconds for one thing to happen: a busy machine takes its time
DRAWN_ANEW = ("StaleElementReferenceException", "ElementClickInterceptedException", "ElementNotInteractableException")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1500,1150"]


def make_lab_settings(root):
    "The server's settings in `make lab`."
    line = next(line for line in (root/"Makefile").read_text().splitlines() if "jupyter lab" in line)
    return [word for word in shlex.split(line) if word.startswith("--ServerApp")]


@contextlib.contextmanager
def started_lab(root, home, settings, path=()):
    "A JupyterLab on a copy of the opening of 60_restore, as far as the app; its address."
    token = "for-tests-only"
    opening = nbformat.read(root/"nbs"/"60_restore.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(opening.cells) if cell.source.endswith("restore_app()"))
    needed = [cell for cell in opening.cells[:last + 1] if "restore_app" in cell.source]  # the import, and the call
    opening.cells = [cell for cell in opening.cells[:last + 1] if cell.cell_type == "markdown" or cell in needed]
    (home/"notebooks").mkdir()
    nbformat.write(opening, home/"notebooks"/"restore.ipynb")
    (home/"JUPYTER_CONFIG_DIR"/"labconfig").mkdir(parents=True)  # no question about news lies over the page
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (home/"JUPYTER_CONFIG_DIR"/"labconfig"/"page_config.json").write_text(json.dumps(quiet))
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    variables = {name: str(home/name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    path = os.pathsep.join([*map(str, path), str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
            f"--IdentityProvider.token={token}", f"--notebook-dir={home/'notebooks'}", *settings]
    with open(home/"lab.log", "w") as log:
        server = subprocess.Popen(call, cwd=home, env=os.environ | variables | {"PYTHONPATH": path}, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token={token}"), "JupyterLab to answer")
        yield f"http://127.0.0.1:{port}/lab/tree/restore.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def home(tmp_path_factory): return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(root, home):
    "As anybody starts it: messages of 10 MB at most."
    with started_lab(root, home, []) as address: yield address


def answers(address):
    try: return json.load(urllib.request.urlopen(address, timeout=5))
    except OSError: return False


def wait_for(look, what, patience=PATIENCE):
    "What `look` finds, as soon as it finds something; a page that is drawn anew while it is read is read again."
    end = time.time() + patience
    while time.time() < end:
        try: found = look()
        except Exception as error:
            if type(error).__name__ not in DRAWN_ANEW: raise
            found = None
        if found: return found
        time.sleep(.3)
    pytest.fail(f"waited {patience} s for {what}")


def test_an_element_that_was_replaced_is_looked_for_again():
    StaleElementReferenceException = type("StaleElementReferenceException", (Exception,), {})
    looks = iter([StaleElementReferenceException(), None, "found"])
    def look():
        found = next(looks)
        if isinstance(found, Exception): raise found
        return found
    assert wait_for(look, "it", 5) == "found"
    def broken(): raise ValueError("another fault")
    with pytest.raises(ValueError): wait_for(broken, "it", 5)


class Page:
    "What a hand and an eye do to the app."
    def __init__(self, driver, shots): self.driver, self.shots = driver, shots

    def all(self, selector): return self.driver.find_elements("css selector", selector)

    def one(self, selector): return wait_for(lambda: self.all(selector), selector)[0]

    def button(self, text):
        return wait_for(lambda: [b for b in self.all(".jp-OutputArea button") if text in b.text], f"a button {text}")[0]

    def is_enabled(self, text): return wait_for(lambda: [self.button(text).is_enabled()], f"a button {text}")[0]

    def press(self, text): self.click(".jp-OutputArea button", lambda b: text in b.text, f"a button {text}")

    def click(self, selector, fits, what):
        def click():
            found = [e for e in self.all(selector) if fits(e)]
            if found: found[0].click()
            return found
        wait_for(click, what)

    def pictures(self):
        "The bytes of the pictures that are shown: the large one and the film strip."
        read = ("return Promise.all([...document.querySelectorAll('.jp-OutputArea img.widget-image')].map(async i => "
                "[i.naturalWidth, [...new Uint8Array(await (await fetch(i.src)).arrayBuffer())].reduce((a, b) => (a*31 + b) % 1000000007, 7)]))")
        return self.driver.execute_script(read)

    def message(self):
        "All lines of text, read at once: the app may change them at any moment."
        return self.driver.execute_script("return [...document.querySelectorAll('.jp-OutputArea .widget-html-content')].map(e => e.innerText).join(' ')")

    def until_changed(self, before): return wait_for(lambda: (now := self.pictures()) != before and now, "the picture to change")

    def upload(self, paths):
        "Gives files to the drop zone's own input: what its button opens is a dialog of the system."
        self.one(".htcv-drop input").send_keys("\n".join(map(str, paths)))

    def give(self, event, paths):
        "Drops or pastes files on the zone."
        made = {"drop": "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
                "paste": "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})"}[event]
        files = [(path.name, base64.b64encode(path.read_bytes()).decode()) for path in paths]
        self.driver.execute_script("const data = new DataTransfer(); for (const [name, text] of arguments[1]) "
            "data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name)); "
            f"arguments[0].dispatchEvent({made})", self.one(".htcv-drop"), files)

    def link(self, name): return self.one(f".jp-OutputArea a[download='{name}']")

    def fetched(self, link):
        "The bytes behind a link, as this browser gets them."
        text = self.driver.execute_async_script("const [link, done] = arguments; fetch(link.href).then(r => r.ok ? r.arrayBuffer() : r.status)"
            ".then(b => done(b.byteLength === undefined ? b : [...new Uint8Array(b)].map(c => String.fromCharCode(c)).join('')))", link)
        assert isinstance(text, str), f"the server says {text}"
        return text.encode("latin-1")

    def shoot(self, name):
        self.shots.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(self.shots/f"{name}.png"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    "A Chromium without a window, with a profile of its own."
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here: pip install 'htcv[dev]'")
    browser, engine = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None), shutil.which("chromedriver")
    if not browser or not engine: pytest.skip("no Chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]: options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(engine))
    try:
        driver.set_script_timeout(60)
        yield driver
    finally: driver.quit()


@pytest.fixture
def page(root, driver, lab):
    "The notebook, opened and run."
    driver.get(lab)
    page = Page(driver, root/"scratch"/"browser")
    run_all(page)
    return page


def run_all(page):
    "Run All Cells, from the menu."
    wait_for(lambda: "| Idle" in page.one("#jp-bottom-panel").text, "the kernel to be ready")
    wait_for(lambda: [e for e in page.all(".jp-Notebook .jp-CodeCell .cm-content") if e.is_displayed()], "the cell")
    page.click(".lm-MenuBar-itemLabel", lambda e: e.text.strip() == "Run", "the menu Run")
    page.click(".lm-Menu-itemLabel", lambda e: e.text.strip() == "Run All Cells", "Run All Cells")
    page.button("Restore")
    wait_for(lambda: len(page.pictures()) == 2, "the first frames")


def move(page, name):
    "Two steps up, on the slider of this name."
    from selenium.webdriver import ActionChains, Keys
    handle = wait_for(lambda: [s.find_element("css selector", ".noUi-handle") for s in page.all(".widget-slider")
                               if s.text.startswith(name)], f"the slider {name}")[0]
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", handle)
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT*2).perform()


@pytest.mark.browser
def test_a_person_restores_photographs(page, home, tmp_path):
    page.shoot("1-opened")
    wait_for(lambda: "10 photographs" in page.message(), "the first photographs")

    # a letter that calls itself a photograph is refused by name, without a traceback
    (tmp_path/"letter.png").write_text("Dear all")
    shots = [benchmark_folder()/"7"/f"{n}.png" for n in (1, 3, 4, 5)]
    page.upload([*shots, tmp_path/"letter.png"])
    wait_for(lambda: "letter.png is damaged or no picture" in page.message(), "the refusal")
    page.shoot("2-refused")
    assert not page.is_enabled("Restore") and not page.all(".jp-RenderedText[data-mime-type*=stderr]")

    # three good ones are dropped, the fourth is pasted
    page.give("drop", shots[:3])
    wait_for(lambda: "3 photographs. Press Restore." in page.message(), "the dropped ones")
    page.give("paste", shots[3:])
    wait_for(lambda: "4 photographs. Press Restore." in page.message(), "the pasted one")
    uploaded = wait_for(page.pictures, "their pictures")
    assert len(uploaded) == 2
    page.press("Restore")
    wait_for(lambda: "4 photographs of 256×256 pixels restored." in page.message(), "the restored picture")
    now = page.until_changed(uploaded)
    page.shoot("3-restored")

    # every slider is answered by another picture
    for name in ("before | after", "show mask", "shadow", "light", "occlusion", "frame"):
        move(page, name)
        now = page.until_changed(now)
    page.shoot("4-lit-again")

    # files beside the notebook, and links to them that this browser may follow
    page.press("All layers (.zip)")
    content = page.fetched(page.link("restored-layers.zip"))
    assert len(zipfile.ZipFile(io.BytesIO(content)).namelist()) == 18
    assert content == (home/"notebooks"/"restored-layers.zip").read_bytes()
    page.press("Layers (.ora)")
    assert "/files/restored-layers.ora" in page.link("restored-layers.ora").get_attribute("href")
    page.shoot("5-saved")

    # a path on disk
    field = page.one(".jp-OutputArea input[placeholder*='on disk']")
    field.send_keys(str(benchmark_folder()/"6") + "\n")
    wait_for(lambda: "10 photographs. Press Restore." in page.message(), "those on disk")
    page.press("Browse")
    wait_for(lambda: [e for e in page.all(".jp-OutputArea select option") if e.text == "gt.png"], "the listing")
    page.shoot("6-on-disk")
    assert not page.all(".jp-RenderedText[data-mime-type*=error]")


def photographs_of_a_phone(folder, n, megabytes):
    "JPEGs of 12 megapixels and together of so many megabytes, with noise as a phone's have."
    source = np.asarray(Image.open(benchmark_folder()/"7"/"gt.png").convert("RGB").resize((4000, 3000), Image.BICUBIC), np.int16)
    grain = np.random.default_rng(0).integers(-12, 13, (3000, 4000, 1), np.int16)
    for i in range(n):
        image = Image.fromarray((source + np.roll(grain, 97*i, 0) - 10*(i % 3)).clip(0, 255).astype(np.uint8))
        for quality in (95, 92, 88, 84, 80, 75, 70, 60, 50) if not i else (quality,):
            image.save(folder/f"IMG_{i:02d}.jpg", quality=quality)
            if (folder/f"IMG_{i:02d}.jpg").stat().st_size < megabytes/n*1e6: break
    return sorted(folder.glob("*.jpg"))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("settings", ["make lab", "plain"])
def test_sixteen_photographs_of_a_phone_arrive(root, driver, tmp_path_factory, settings):
    "40 MB, through `make lab` and through a server with its own limit of 10 MB."
    home, folder = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("phone")
    shots = photographs_of_a_phone(folder, 16, 40)
    assert 25e6 < sum(path.stat().st_size for path in shots) < 41e6
    with started_lab(root, home, make_lab_settings(root) if settings == "make lab" else []) as address:
        driver.get(address)
        page = Page(driver, root/"scratch"/"browser")
        run_all(page)
        page.upload(shots)
        wait_for(lambda: "Sending" in page.one(".htcv-drop").text, "the upload to begin")
        wait_for(lambda: "16 photographs. Press Restore." in page.message(), "all of them to arrive")
        page.shoot(f"7-uploaded-{settings.replace(' ', '-')}")

        # Cancel is answered at once, and the app goes on working
        page.press("Restore")
        wait_for(lambda: " left" in page.message(), "the time that is left")
        page.shoot("8-running")
        began = time.time()
        page.press("Cancel")
        wait_for(lambda: "Cancelled." in page.message() and page.button("Restore").is_displayed(), "the end", 10)
        assert time.time() - began < 3
        if settings == "plain": return

        page.press("Restore")
        wait_for(lambda: "16 photographs of 4000×3000 pixels restored." in page.message(), "the restored picture", 1500)
        page.press("Save image")
        wait_for(lambda: "Saved restored.png" in page.message(), "the image")
        page.shoot("9-saved")
        assert Image.open(home/"notebooks"/"restored.png").size == (4000, 3000)
        assert "/files/restored.png" in page.link("restored.png").get_attribute("href")


@pytest.mark.browser
def test_without_anywidget_there_is_a_button_and_its_limit_is_told(root, driver, tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    (home/"without").mkdir()
    (home/"without"/"anywidget.py").write_text("raise ImportError('not here')")
    with started_lab(root, home, [], [home/"without"]) as address:
        driver.get(address)
        page = Page(driver, root/"scratch"/"browser")
        run_all(page)
        wait_for(lambda: "At most 10 MB together arrive" in page.message(), "the limit")
        page.shoot("10-without-anywidget")
        assert not page.all(".htcv-drop")
        driver.execute_script("HTMLInputElement.prototype.click = function() { this.value = ''; this.id = 'files'; this.style.display = ''; document.body.append(this) }")
        page.press("Upload")
        page.one("#files").send_keys("\n".join(str(benchmark_folder()/"7"/f"{n}.png") for n in (1, 3)))
        wait_for(lambda: "2 photographs. Press Restore." in page.message(), "the upload")


def test_make_lab_lets_large_messages_through(root):
    from htcv.app_files import message_limit
    assert message_limit(make_lab_settings(root)) == 500_000_000


def test_no_message_of_the_app_speaks_of_the_command(root):
    "Whatever the chapters below say of options and arguments, the app says it in terms of its controls."
    said = 0
    for name in ("photographs", "restore", "images", "registration", "files", "colour_profiles", "tiff_images"):
        for node in ast.walk(ast.parse((root/f"htcv/{name}.py").read_text())):
            if not isinstance(node, ast.Raise) or node.exc is None: continue
            text = "".join(n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant) and isinstance(n.value, str))
            said += 1
            words = in_app_words(text)
            assert not re.search(r"--[a-z]|\w=True", words), f"{name}, line {node.lineno}: {words}"
    assert said > 20
