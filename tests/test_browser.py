"""The browser that the tests of pages use must itself notice what it is there to notice."""

import pytest

from tests.browser import serve

PAGES = {
    "quiet.html": "<link rel=icon href=data:,><h1>quiet</h1>",
    "error.html": "<link rel=icon href=data:,><script>undefined_function()</script>",
    "away.html": "<link rel=icon href=data:,><img src='http://picture.example/a.png'>",
    "missing.html": "<link rel=icon href=data:,><img src='missing.png'>",
    "stored.html": "<link rel=icon href=data:,><script>document.title = localStorage.x; localStorage.x = 1</script>",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pages")
    for name, text in PAGES.items():
        (directory / name).write_text(text)
    with serve(directory) as url:
        yield url


def test_a_quiet_page(browser, address):
    browser.get(f"{address}/quiet.html")
    assert browser.errors() == [] and browser.requests_elsewhere() == []
    assert f"{address}/quiet.html" in browser.requests()


@pytest.mark.parametrize(("name", "error"), [("error", "undefined_function"), ("missing", "missing.png")])
def test_an_error_is_noticed(browser, address, name, error):
    browser.get(f"{address}/{name}.html")
    assert any(error in message for message in browser.errors())


def test_a_request_that_leaves_is_noticed(browser, address):
    browser.get(f"{address}/away.html")
    assert browser.requests_elsewhere() == ["http://picture.example/a.png"]


@pytest.mark.parametrize("_", range(2))
def test_nothing_is_left_from_the_test_before(browser, address, _):
    assert browser.requests() == []
    browser.get(f"{address}/stored.html")
    assert browser.title == "undefined"


def test_the_window_and_the_colour_scheme(browser, address):
    browser.get(f"{address}/quiet.html")
    dark = "return matchMedia('(prefers-color-scheme: dark)').matches"
    assert browser.execute_script("return innerWidth") == 1280 and not browser.execute_script(dark)
    browser.resize(390)
    browser.prefer("dark")
    assert browser.execute_script("return innerWidth") == 390 and browser.execute_script(dark)
