"""The site, built once, in a real browser: every page, every link, the diffs, the search, the front page's steps."""

import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from common.versions import NOT_COUNTED, ROOT, STEPS, changed_lines, files
from docs.site import convolution, navigation, steps
from tests.browser import serve


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The directory of the built site."""
    if not shutil.which("npm"):
        pytest.skip("needs npm, of Node.js 20 or newer: on Debian, apt install npm")
    out = tmp_path_factory.mktemp("site") / "html"
    done = subprocess.run([sys.executable, "-m", "docs.site", "--out", out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def address(built):
    with serve(built) as url:
        yield url


def test_without_npm_one_line_says_so(tmp_path):
    command = [sys.executable, "-m", "docs.site", "--out", tmp_path / "html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert (
        done.returncode and re.fullmatch("error: the site needs npm.*\n", done.stderr) and not list(tmp_path.iterdir())
    )


def test_make_serves_to_this_machine_alone_and_cleans_up():
    for target, needed in {"serve": "-m http.server --bind 127.0.0.1 ", "clean": " docs/site/.build\n"}.items():
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert needed in done.stdout, done.stdout


def pages(built):
    return sorted(str(path.relative_to(built)) for path in built.rglob("*.html") if "_static" not in path.parts)


class Links(HTMLParser):
    """The ids of a page, and what it refers to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.targets, self.loaded = {""}, [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and "href" in attributes:
            self.targets.append(attributes["href"])
        elif tag in ("img", "script", "link", "iframe", "source") and {"src", "href"} & attributes.keys():
            self.loaded.append(attributes.get("src") or attributes.get("href"))


def broken(built):
    """All links and anchors of all pages that lead nowhere; nothing that a page loads lies elsewhere."""
    parsed = cache(lambda path: Links(path))
    found = []
    for page in pages(built):
        links = parsed(built / page)
        for target in links.targets + links.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                assert target not in links.loaded or parts.scheme == "data", f"{page} loads {target}"
                continue
            path = ((built / page).parent / unquote(parts.path)).resolve() if parts.path else built / page
            there = path.is_file() and (path.suffix != ".html" or unquote(parts.fragment) in parsed(path).ids)
            if not there:
                found.append(f"{page}: {target}")
    return found


def test_no_link_or_anchor_is_broken(built):
    assert not broken(built)


@pytest.mark.exhaustive
def test_a_second_language_stands_beside_the_first(built, tmp_path):
    translations = tmp_path / "locale" / "de" / "LC_MESSAGES" / "docs"
    translations.mkdir(parents=True)
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    (translations / "10-softmax.po").write_text(head + 'msgid "The formula"\nmsgstr "Die Formel"\n')
    command = [sys.executable, "-m", "docs.site", "--out", tmp_path / "html", "--locale", tmp_path / "locale"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    english, german = tmp_path / "html", tmp_path / "html" / "de"
    assert set(pages(german)) == set(pages(built)) and not broken(english)
    for page, other in ((english, "../de/docs/10-softmax.html"), (german, "../../docs/10-softmax.html")):
        assert f'href="{other}"' in (page / "docs/10-softmax.html").read_text("utf-8")
    assert "Die Formel" in (german / "docs/10-softmax.html").read_text("utf-8")
    assert "Die Formel" not in (english / "docs/10-softmax.html").read_text("utf-8")


def test_every_article_is_a_page_in_the_order_of_the_map(built):
    articles = [path.relative_to(ROOT).with_suffix(".html") for path in navigation.articles()]
    assert {str(path) for path in articles} <= set(pages(built))
    sidebar = re.search(r'class="sidebar-tree">.*?(?=</aside>)', (built / "README.html").read_text("utf-8"), re.S)[0]
    listed = [part for part in re.findall(r'href="([^"#]+)', sidebar) if part.endswith(".html")]
    assert {str(path) for path in articles} - {"README.html"} <= set(listed)
    mapped = [path for paths in navigation.sections().values() for path in paths]
    assert len(mapped) == len(set(mapped)) == len(articles)
    order = [str(path.relative_to(ROOT).with_suffix(".html")) for path in mapped if path != ROOT / "README.md"]
    assert [page for page in listed if page in order] == order


def test_formulas_and_code_need_no_script(built):
    text = (built / "docs/03-convolution.html").read_text("utf-8")
    assert text.count('class="katex"') > 10 and "katex-error" not in text and "$$" not in text
    assert '<span class="k">for</span>' in text


def test_every_page_loads_quietly_and_fits_a_narrow_screen(built, address, browser):
    """Of pages of source code, one: they are all made alike."""
    wanted = [page for page in pages(built) if not page.startswith("source/")] + ["source/v1_loops/ops.py.html"]
    assert len(wanted) > 40
    browser.resize(390)
    for page in wanted:
        browser.get(f"{address}/{page}")
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, f"{page} is {width} pixels wide"
        assert browser.errors() == [], page
    assert browser.requests_elsewhere() == []


def wait(browser, condition):
    return WebDriverWait(browser, 10).until(condition)


def drawn(browser):
    """The text of the count, once the diff is drawn."""
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, ".diff-text .d2h-file-wrapper"))
    return browser.find_element(By.CSS_SELECTOR, ".diff-count").text


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.version)
def test_the_counts_of_a_step(built, step):
    """The diff in the page has as many lines with + and - as the count says, and that is what the budget is held to."""
    before, after = files(step.after), files(step.version)
    found = steps.difference(before, after)
    names = (before.keys() | after.keys()) - NOT_COUNTED
    assert found["count"] == sum(changed_lines(before.get(name, []), after.get(name, [])) for name in names)
    hunks = "\n".join(line for line in found["diff"].splitlines() if not re.match(r"\+\+\+ |--- |diff |new ", line))
    assert len(re.findall(r"^[+-]", hunks, re.M)) == sum(count for _, count, _ in found["files"])
    shown = {name for name, *_ in found["files"]} | set(found["unchanged"])
    assert shown == (before.keys() | after.keys()) - {"README.md"}


def test_functions_that_a_step_leaves_alone_are_no_places_of_its_diff():
    places = steps.difference(files("v2_vectorized"), files("v3_preload"))["functions"]
    assert "prepare" in places["weights.py"] and "conv2d" not in places["ops.py"] and "add" not in places["ops.py"]
    assert steps.changed_functions([], ["def f():", "    pass"]) == {"f": [1, 2]}
    both = ["def f():", "    a", "    b", "", "def g():", "    c"]
    assert steps.changed_functions(both, [*both[:2], *both[3:]]) == {"f": [1, 2]}  # a line less at its end


def test_the_diff_of_a_step(address, browser):
    browser.resize(1600)
    browser.get(f"{address}/v4_no_alloc/README.html")
    before, after = files("v3_preload"), files("v4_no_alloc")
    names = (before.keys() | after.keys()) - NOT_COUNTED
    count = sum(changed_lines(before.get(name, []), after.get(name, [])) for name in names)
    unchanged = sorted(name for name in before if before[name] == after.get(name))
    assert drawn(browser) == f"v3_preload → v4_no_alloc: {count} lines changed; unchanged: {', '.join(unchanged)}."
    titles = [title.text for title in browser.find_elements(By.CSS_SELECTOR, ".d2h-file-name")]
    assert titles == ["buffers.py", "ops.py", "resnet50.py"]
    browser.find_element(By.NAME, "sides").click()
    sides = browser.find_elements(By.CSS_SELECTOR, ".d2h-file-wrapper:nth-child(2) .d2h-file-side-diff")
    left, right = (side.get_attribute("textContent") for side in sides)
    assert "np.pad(" in left and "out" in right
    article = browser.find_element(By.CSS_SELECTOR, ".step-article").rect
    diff = browser.find_element(By.CSS_SELECTOR, ".diff").rect
    assert article["x"] + article["width"] <= diff["x"]


def test_a_link_in_the_article_moves_the_diff(address, browser):
    browser.resize(1600)
    browser.get(f"{address}/v4_no_alloc/README.html")
    drawn(browser)
    link = browser.find_element(By.CSS_SELECTOR, ".step-article a.moves-the-diff[href$='buffers.py.html']")
    browser.execute_script("arguments[0].click()", link)
    here = browser.find_element(By.CSS_SELECTOR, ".diff .here")
    assert "class BufferPlan" in here.text
    name = browser.find_element(By.XPATH, "//button[contains(@class, 'moves-the-diff')]/code[.='bottleneck']")
    browser.execute_script("arguments[0].click()", name)
    here = browser.find_element(By.CSS_SELECTOR, ".diff .here")
    wrapper = here.find_element(By.XPATH, "ancestor::div[contains(@class, 'd2h-file-wrapper')]")
    assert wrapper.find_element(By.CSS_SELECTOR, ".d2h-file-name").text == "resnet50.py"
    pane = browser.find_element(By.CSS_SELECTOR, ".diff").rect
    wait(browser, lambda _: 0 <= browser.execute_script("return arguments[0].getBoundingClientRect().top", here) < 900)
    assert pane["height"] <= 900 and browser.current_url.endswith("/v4_no_alloc/README.html")


@pytest.mark.parametrize("beside", [False, True])
def test_a_functions_name_moves_the_diff_to_its_lines(address, browser, beside):
    """Its lines in the new file, in one column or two: both have the old file's numbers, too."""
    browser.resize(1600)
    browser.get(f"{address}/v5_codegen/README.html")
    drawn(browser)
    if beside:
        browser.find_element(By.NAME, "sides").click()
        drawn(browser)
    name = browser.find_element(By.XPATH, "//button[contains(@class, 'moves-the-diff')]/code[.='Network']")
    browser.execute_script("arguments[0].click()", name)
    assert "class Network" in browser.find_element(By.CSS_SELECTOR, ".diff .here").text


def test_any_two_versions(address, browser):
    browser.get(f"{address}/compare.html")
    drawn(browser)
    for name, version in (
        ("before", "v8_int8"),
        ("after", "v3_preload"),
    ):  # the diff goes from the earlier to the later
        Select(browser.find_element(By.NAME, name)).select_by_visible_text(version)
    count = steps.difference(files("v3_preload"), files("v8_int8"))["count"]
    expected = f"v3_preload → v8_int8: {count:,} lines changed"
    wait(browser, lambda browser: expected in drawn(browser))
    assert "dot.h" in browser.find_element(By.CSS_SELECTOR, ".diff-files").text
    browser.refresh()  # the address names the two
    wait(browser, lambda browser: expected in drawn(browser))
    Select(browser.find_element(By.NAME, "before")).select_by_visible_text("v3_preload")
    wait(browser, lambda browser: "Twice the same version" in browser.find_element(By.CSS_SELECTOR, ".diff-count").text)


def test_the_rungs_beside_the_ladder(address, browser):
    rungs = steps.rungs()
    assert len(rungs) > 5
    browser.get(f"{address}/docs/ladder.html")
    drawn(browser)
    chosen = list(rungs)[-2:]
    for name, rung in zip(("before", "after"), chosen):
        Select(browser.find_element(By.NAME, name)).select_by_visible_text(rung)
    count = changed_lines(*(rungs[rung]["kernel.c"] for rung in chosen))
    wait(browser, lambda browser: drawn(browser) == f"{' → '.join(chosen)}: {count} lines changed.")


def test_search_finds_winograd(address, browser):
    browser.get(f"{address}/index.html")
    browser.find_element(By.CSS_SELECTOR, ".sidebar-search").send_keys("Winograd", Keys.ENTER)
    wait(browser, lambda browser: browser.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    wait(browser, lambda browser: "finished" in browser.find_element(By.ID, "search-results").text.lower())
    found = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#search-results li a")]
    assert any("/v7_winograd/README.html" in link for link in found)
    assert browser.errors() == [] and browser.requests_elsewhere() == []


class TestTheFrontPage:
    """Sums on the page against NumPy's."""

    @pytest.fixture
    def page(self, address, browser):
        browser.get(f"{address}/index.html")
        return browser

    @pytest.fixture
    def sums(self):
        picture = np.stack([np.array(plane) for plane in convolution.PLANES.values()], axis=-1)
        kernels = np.array(list(convolution.KERNELS.values()))
        windows = np.lib.stride_tricks.sliding_window_view(picture, (3, 3), axis=(0, 1))
        return np.einsum("rcqij,oijq->rco", windows, kernels)

    def shown(self, page):
        """The outputs [row][column][kernel], None where there is no sum yet."""
        tables = page.execute_script(
            "return [...document.querySelectorAll('#output table')].map(table => [...table.rows].map(row => "
            "[...row.cells].map(cell => cell.textContent === '' ? null : Number(cell.textContent))))"
        )
        return np.moveaxis(np.array(tables, dtype=object), 0, -1)

    def press(self, page, keys):
        if page.execute_script("return !lab.contains(document.activeElement)"):
            page.execute_script("lab.focus()")
        ActionChains(page).send_keys(keys).perform()

    def test_a_click_moves_the_window_and_a_key_the_next(self, page, sums):
        lit = "return [...document.querySelectorAll('#planes table:first-child td.window')].map(td => td.cellIndex)"
        assert (self.shown(page) == None).all()  # noqa: E711  (elementwise)
        page.find_element(By.CSS_SELECTOR, "[data-do=window]").click()
        assert self.shown(page)[0, 0].tolist() == sums[0, 0].tolist() and self.shown(page)[0, 1].tolist() == [None] * 4
        assert sorted(set(page.execute_script(lit))) == [0, 1, 2]
        self.press(page, Keys.ARROW_DOWN)
        assert self.shown(page)[0, 1].tolist() == sums[0, 1].tolist()
        assert sorted(set(page.execute_script(lit))) == [1, 2, 3]

    def test_a_step_is_one_multiply_add_and_lights_its_loop(self, page):
        for _ in range(4):
            self.press(page, Keys.ARROW_RIGHT)
        indices = {name: page.find_element(By.CSS_SELECTOR, f"[data-index={name}]").text for name in ("j", "channel")}
        assert indices == {"j": "j = 1", "channel": "channel = 0"}
        terms, _, total = page.find_element(By.ID, "terms").text.partition(" = ")
        products = [int(a) * int(b) for a, b in re.findall(r"(\d+)·\(?(-?\d+)", terms.replace("−", "-"))]
        assert len(products) == 4 and sum(products) == int(total.replace("−", "-")) == self.shown(page)[0, 0, 0]
        self.press(page, Keys.ARROW_LEFT)
        self.press(page, Keys.HOME)
        assert (self.shown(page) == None).all()  # noqa: E711

    @pytest.mark.parametrize("way", [1, 2, 3])
    def test_every_way_ends_with_the_same_sums(self, page, sums, way):
        self.press(page, str(way))
        for _ in range(sums.shape[0] * (27 if way == 3 else sums.shape[1])):
            page.execute_script("document.querySelector('[data-do=window]').click()")
        assert self.shown(page).tolist() == sums.tolist()
        assert page.errors() == []

    def test_it_plays_and_stops(self, page):
        page.execute_script("document.querySelector('[name=speed]').value = 10")
        self.press(page, " ")
        wait(page, lambda page: (self.shown(page) != None).sum() > 4)  # noqa: E711
        self.press(page, " ")
        before = self.shown(page).tolist()
        page.execute_async_script("setTimeout(arguments[0], 200)")
        assert self.shown(page).tolist() == before

    def test_it_reads_without_a_script(self, built, sums):
        text = (built / "index.html").read_text("utf-8")
        outputs = re.search(r'id="output">(.*?)<script', text, re.S)[1]
        assert [int(value) for value in re.findall(r"<td>(-?\d+)</td>", outputs)] == np.moveaxis(
            sums, -1, 0
        ).ravel().tolist()

    def test_its_script_is_short(self):
        assert len((ROOT / "docs/site/static/convolution.js").read_text().splitlines()) <= 400


def test_results_show_their_values(address, browser):
    browser.get(f"{address}/results.html")
    wait(browser, lambda browser: len(browser.find_elements(By.CSS_SELECTOR, ".plot .main-svg")) > 3)
    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h3")]
    assert "The steps" in headings and "Roofline" in headings
    race = browser.find_elements(By.CSS_SELECTOR, ".plot")[1]
    bar = race.find_element(By.CSS_SELECTOR, ".bars .point path")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", bar)
    ActionChains(browser).move_to_element(bar).move_by_offset(2, 0).perform()
    shown = "return arguments[0].querySelector('.hoverlayer').textContent"
    wait(browser, lambda _: re.search(r"[\d.]+ ± [\d.]+ ms, \d+ rounds", browser.execute_script(shown, race)))
    assert browser.errors() == [] and browser.requests_elsewhere() == []


def test_dark_and_light(address, browser):
    for scheme, dark in (("light", False), ("dark", True)):
        browser.prefer(scheme)
        browser.get(f"{address}/v4_no_alloc/README.html")
        drawn(browser)
        for element in ("body", ".d2h-code-line-ctn"):
            script = f"return getComputedStyle(document.querySelector('{element}')).color.match(/\\d+/g)"
            ink = [int(part) for part in browser.execute_script(script)[:3]]
            assert (sum(ink) > 3 * 128) == dark, (scheme, element, ink)
