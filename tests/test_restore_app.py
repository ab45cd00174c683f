"The app in a real JupyterLab, driven by a headless Chromium: upload, run, move sliders, see the picture change."
import json, os, shutil, socket, subprocess, sys, time, urllib.request

import nbformat
import pytest

from htcv.rendering import benchmark_folder

PATIENCE = 120  # seconds for one thing to happen: a busy machine takes its time
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--window-size=1500,1150"]


@pytest.fixture(scope="module")
def lab(root, tmp_path_factory):
    "A JupyterLab on a copy of the opening of 60_restore, as far as the app; its address."
    home, token = tmp_path_factory.mktemp("lab"), "for-tests-only"
    opening = nbformat.read(root/"nbs"/"60_restore.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(opening.cells) if cell.source.endswith("restore_app()"))
    opening.cells = [cell for cell in opening.cells[:last + 1] if cell.cell_type == "markdown"] + [opening.cells[last]]
    (home/"notebooks").mkdir()
    nbformat.write(opening, home/"notebooks"/"restore.ipynb")
    (home/"JUPYTER_CONFIG_DIR"/"labconfig").mkdir(parents=True)  # no question about news lies over the page
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (home/"JUPYTER_CONFIG_DIR"/"labconfig"/"page_config.json").write_text(json.dumps(quiet))
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); port = free.getsockname()[1]
    settings = {name: str(home/name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    call = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
            f"--IdentityProvider.token={token}", f"--notebook-dir={home/'notebooks'}"]
    with open(home/"lab.log", "w") as log:
        server = subprocess.Popen(call, cwd=home, env=os.environ | settings | {"PYTHONPATH": path}, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token={token}"), "JupyterLab to answer")
        yield f"http://127.0.0.1:{port}/lab/tree/restore.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


def answers(address):
    try: return json.load(urllib.request.urlopen(address, timeout=5))
    except OSError: return False


def wait_for(look, what, patience=PATIENCE):
    "What `look` finds, as soon as it finds something."
    end = time.time() + patience
    while time.time() < end:
        found = look()
        if found: return found
        time.sleep(.3)
    pytest.fail(f"waited {patience} s for {what}")


class Page:
    "What a hand and an eye do to the app."
    def __init__(self, driver, shots): self.driver, self.shots = driver, shots

    def all(self, selector): return self.driver.find_elements("css selector", selector)

    def one(self, selector): return wait_for(lambda: self.all(selector), selector)[0]

    def button(self, text): return wait_for(lambda: [b for b in self.all(".jp-OutputArea button") if text in b.text], f"a button {text}")[0]

    def pictures(self):
        "The bytes of the pictures that are shown: the large one and the film strip."
        read = ("return Promise.all([...document.querySelectorAll('.jp-OutputArea img.widget-image')].map(async i => "
                "[i.naturalWidth, [...new Uint8Array(await (await fetch(i.src)).arrayBuffer())].reduce((a, b) => (a*31 + b) % 1000000007, 7)]))")
        return self.driver.execute_script(read)

    def message(self): return " ".join(e.text for e in self.all(".jp-OutputArea .widget-html-content"))

    def until_changed(self, before): return wait_for(lambda: (now := self.pictures()) != before and now, "the picture to change")

    def upload(self, paths):
        "Presses the button; instead of a dialog of the system, the hidden input comes into the page and takes the paths."
        self.driver.execute_script("HTMLInputElement.prototype.click = function() { this.value = ''; this.id = 'files'; this.style.display = ''; document.body.append(this) }")
        self.button("Upload").click()
        self.one("#files").send_keys("\n".join(map(str, paths)))
        self.driver.execute_script("document.getElementById('files').remove()")

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
    def item(selector, text): return wait_for(lambda: [e for e in page.all(selector) if e.text.strip() == text], text)[0]
    item(".lm-MenuBar-itemLabel", "Run").click()
    item(".lm-Menu-itemLabel", "Run All Cells").click()
    page.button("Restore")
    wait_for(lambda: len(page.pictures()) == 2, "the first frames")


def move(page, name):
    "Two steps up, on the slider of this name."
    from selenium.webdriver import ActionChains, Keys
    row = next(s for s in page.all(".widget-slider") if s.text.startswith(name))
    handle = row.find_element("css selector", ".noUi-handle")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", handle)
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT*2).perform()


@pytest.mark.browser
def test_a_person_restores_photographs(page, tmp_path):
    page.shoot("1-opened")
    assert "10 photographs" in page.message()

    # a letter that calls itself a photograph is refused by name, without a traceback
    (tmp_path/"letter.png").write_text("Dear all")
    shots = [benchmark_folder()/"7"/f"{n}.png" for n in (1, 3, 4, 5)]
    page.upload([*shots, tmp_path/"letter.png"])
    wait_for(lambda: "letter.png is damaged or no picture" in page.message(), "the refusal")
    page.shoot("2-refused")
    assert not page.button("Restore").is_enabled() and not page.all(".jp-RenderedText[data-mime-type*=stderr]")

    # four good ones
    page.upload(shots)
    wait_for(lambda: "4 photographs. Press Restore." in page.message(), "the upload")
    uploaded = wait_for(page.pictures, "their pictures")
    assert len(uploaded) == 2
    page.button("Restore").click()
    wait_for(lambda: "4 photographs of 256×256 pixels restored." in page.message(), "the restored picture")
    now = page.until_changed(uploaded)
    page.shoot("3-restored")

    # every slider is answered by another picture
    for name in ("before | after", "show mask", "shadow", "light", "occlusion", "frame"):
        move(page, name)
        now = page.until_changed(now)
    page.shoot("4-lit-again")

    page.button("All layers (.zip)").click()
    link = page.one(".jp-OutputArea a[download='restored.zip']")
    assert link.get_attribute("href").startswith("data:application/zip;base64,UEsD")
    page.button("Layers (.ora)").click()
    page.one(".jp-OutputArea a[download='restored.ora']")
    page.shoot("5-download")
    assert not page.all(".jp-RenderedText[data-mime-type*=error]")
