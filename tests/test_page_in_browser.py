"""The page in a real browser, headless and without a network: what a reader does with it."""

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotdistill.reporting import browse, page
from cotdistill.reporting.publication import publish
from cotdistill.reporting.run_files import read_run, report_of
from synthetic_run import make_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no browser here: apt-get install chromium chromium-driver"
)
READY = "return document.documentElement.dataset.ready !== undefined"


@pytest.fixture(scope="module")
def browser() -> Iterator["webdriver.Chrome"]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    # Every name resolves to nothing: whatever the page tried to load would be an error in the console.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900",
                     "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_run(tmp_path_factory.mktemp("run") / "made up & odd", 90, more=True)
    publish(directory)
    return directory / "7_report.html"


@pytest.fixture
def reader(browser, made) -> "Reader":
    return Reader(browser, made.as_uri())


class Reader:
    """Somebody who looks at a page."""

    def __init__(self, driver: "webdriver.Chrome", url: str) -> None:
        self.driver = driver
        driver.get_log("browser")  # of the page before
        driver.get(url)
        if self.run("return Boolean(localStorage.length)"):  # the colours that a reader before chose
            self.run("localStorage.clear()")
            driver.refresh()
        self.wait(lambda: self.run(READY))

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def wait(self, until) -> None:
        end = time.monotonic() + 20
        while not until():
            assert time.monotonic() < end, "the page never got there"
            time.sleep(0.05)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def chip(self, name: str):
        return next(chip for chip in self.all(".chips button") if chip.text.startswith(name))

    @property
    def count(self) -> str:
        return self.driver.find_element("id", "count").text

    @property
    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


def outcomes(made: Path) -> dict[str, int]:
    pair = report_of(read_run(made.parent)).paired
    return {"gained": pair.only_student, "lost": pair.only_base, "both right": pair.both, "both wrong": pair.neither}


def test_filters_show_the_questions_they_name_and_say_how_many(reader, made):
    assert reader.count == "90 questions."
    for name, count in outcomes(made).items():
        chip = reader.chip(name)
        assert chip.text == f"{name}{count}"
        chip.click()
        assert reader.count == f"{count} of 90 questions."
        assert set(reader.texts("#rows .outcome")) == {name}
        assert reader.chip(name).get_attribute("aria-pressed") == "true"
    reader.chip("lost").click()
    reader.chip("an answer cut off").click()
    shown = len(reader.all("#rows > li"))
    assert 0 < shown < outcomes(made)["lost"]
    for button in reader.all("#rows > li > button"):
        button.click()
    assert len([text for text in reader.texts("#rows .open") if "cut off" in text]) == shown


def test_slices_and_categories_choose_among_the_rows(reader):
    reader.chip("Another kind").click()
    assert reader.count == "6 questions."
    reader.chip("Training traces").click()
    assert reader.count == "90 traces."
    reader.chip("wrong").click()
    assert set(reader.texts("#rows .outcome")) == {"wrong"}
    reader.chip("Held-out").click()
    select = reader.driver.find_element("id", "category")
    options = [option.text for option in select.find_elements("tag name", "option")]
    assert options == ["every category", "kind 0", "kind 1", "kind 2"]
    reader.run("arguments[0].value = 'kind 1'; arguments[0].dispatchEvent(new Event('change'))", select)
    assert reader.count.endswith(" of 90 questions.")


def test_search_reads_questions_and_answers(reader):
    search = reader.driver.find_element("id", "search")
    search.send_keys("question Q17:")
    assert reader.count == "1 of 90 questions."
    search.clear()
    search.send_keys("hens and ducks.")  # some models' answers, no question
    assert 0 < len(reader.all("#rows > li")) < 90
    search.send_keys("nothing like this")
    assert (reader.count, len(reader.all("#rows > li"))) == ("0 of 90 questions.", 0)


def test_a_question_opens_with_its_answers_side_by_side_their_answer_and_false_steps_marked(reader):
    reader.chip("gained").click()
    reader.chip("false arithmetic").click()
    button = reader.all("#rows > li > button")[0]
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    answers = reader.all(".answer")
    assert [answer.get_attribute("aria-label") for answer in answers] == ["teacher", "base", "student", "answer_only"]
    assert len({answer.location["y"] for answer in answers}) == 1
    assert reader.all(".answer mark.marked")
    bad = reader.all(".answer .bad")[0]
    assert "=" in bad.text
    assert "wavy" in bad.value_of_css_property("text-decoration")


def test_the_keyboard_reaches_everything(reader):
    here = "return document.activeElement"
    reader.press("j")
    first = reader.run(here)
    assert first == reader.all("#rows > li > button")[0]
    reader.press("j", "\ue015")  # and the arrow down
    assert reader.run(here) == reader.all("#rows > li > button")[2]
    reader.press("k", "\ue013")
    assert reader.run(here) == first
    reader.press("\ue007")
    assert first.get_attribute("aria-expanded") == "true"
    reader.press("/", "q17:j")
    assert reader.run(here).get_attribute("id") == "search"
    assert reader.run("return document.activeElement.value") == "q17:j"
    reader.press("\ue00c")
    assert reader.count == "90 questions."
    for _ in range(70):
        reader.press("j")
    assert len(reader.all("#rows > li")) == 90  # the next ones came by themselves
    reader.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    reader.run("document.querySelector('.skip').focus()")
    assert reader.run(here).is_displayed()
    reader.press("\ue007")
    assert reader.run(here).get_attribute("id") == "questions"


def test_a_chip_that_was_pressed_keeps_the_focus(reader):
    reader.chip("lost").click()
    assert reader.run("return document.activeElement.textContent").startswith("lost")


def test_text_of_models_stays_text(browser, tmp_path):
    directory = make_run(tmp_path / "hostile", 30, hostile=True)
    publish(directory)
    reader = Reader(browser, (directory / "7_report.html").as_uri())
    for slice_ in ("Held-out", "Training traces"):
        reader.chip(slice_).click()
        for button in reader.all("#rows > li > button"):
            reader.run("arguments[0].click()", button)
    assert reader.driver.title.startswith("Made up <img src=x")
    assert reader.run("return document.querySelectorAll('img, b b, main script, iframe').length") == 0
    with pytest.raises(Exception, match="no such alert"):
        _ = reader.driver.switch_to.alert.text
    shown = reader.run("return document.body.textContent")
    assert "</script><script>document.title='taken'</script>" in shown
    assert "\\u202e" in shown
    assert "{{ 7 * 7 }}" in shown
    assert reader.console == []
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                  {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True})  # fmt: skip
    assert reader.run("return document.documentElement.scrollWidth") == 360
    reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_console_stays_silent_and_nothing_is_loaded(reader):
    for chip in ("Training traces", "Another kind", "Held-out"):
        reader.chip(chip).click()
    reader.all("#rows > li > button")[0].click()
    reader.driver.find_element("id", "theme").click()
    assert reader.console == []
    assert reader.run("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_in_the_way_of_a_reader_who_sees_hears_or_taps_it(reader, scheme, width):
    axe = pytest.importorskip("axe_core_python.selenium", reason="axe-core-python is not installed")
    device = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    reader.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        background = reader.run("return getComputedStyle(document.documentElement).backgroundColor")
        assert (background == "rgb(253, 252, 249)") == (scheme == "light")
        assert reader.run("return document.documentElement.scrollWidth") <= width
        reader.run("document.querySelector('details').open = true")
        for button in reader.all("#rows > li > button")[:3]:
            reader.run("arguments[0].click()", button)
        found = axe.Axe().run(reader.driver)["violations"]
        assert [(rule["id"], [node["target"] for node in rule["nodes"]][:3]) for rule in found] == []
    finally:
        reader.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_the_colours_are_the_readers_choice(reader):
    button = reader.driver.find_element("id", "theme")
    seen = []
    for _ in range(3):
        button.click()
        seen.append(reader.run("return getComputedStyle(document.documentElement).backgroundColor"))
    assert seen[0] != seen[1]
    assert button.text == "Colours: system"


@pytest.mark.parametrize("served", [False, True])
def test_rows_beside_the_page_are_found_and_their_absence_is_said(browser, made, tmp_path, monkeypatch, served):
    monkeypatch.setattr(browse, "PAGE_BYTES", 40_000)
    monkeypatch.setattr(page, "MOST_INLINE", 20_000)
    run = read_run(made.parent)
    whole = page.render(run, report_of(run))
    (tmp_path / "7_report.html").write_text(whole.html, encoding="utf-8")
    for name, content in whole.rows.items():
        (tmp_path / name).write_text(content)
    assert len(whole.rows) > 1
    with serving(tmp_path, served) as base:
        reader = Reader(browser, f"{base}/7_report.html")
        assert reader.count == "90 questions."
        assert reader.chip("Training traces").text.endswith("90")
        lost = list(whole.rows)[-1]
        (tmp_path / lost).unlink()
        reader = Reader(browser, f"{base}/7_report.html")
        assert f"Not all are here: {lost} could not be read" in reader.count


class serving:
    """The address of a directory: of its files, or of a server on this machine."""

    def __init__(self, directory: Path, served: bool) -> None:
        self.directory, self.served = directory, served

    def __enter__(self) -> str:
        if not self.served:
            return self.directory.as_uri()
        handler = functools.partial(Quiet, directory=str(self.directory))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        if self.served:
            self.server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_on_paper_the_figures_stand_and_the_controls_do_not(reader):
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not reader.driver.find_element("id", "controls").is_displayed()
        assert not reader.driver.find_element("id", "theme").is_displayed()
        assert reader.driver.find_element("css selector", ".bars").is_displayed()
        assert len(reader.driver.print_page()) > 10_000
    finally:
        reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
