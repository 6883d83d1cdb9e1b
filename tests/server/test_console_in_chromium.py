"""The console in a real browser: Debian's Chromium, driven by Playwright. Skipped where either is missing."""

import re
from pathlib import Path

import pytest

from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> &lt;b&gt; \u202e ok"
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Open a service with these settings and its console; gives both. What the page complains of fails the test."""
    opened, complaints = [], []

    def open_page(**tables):
        service = open_service(tmp_path, guard=marked_guard(), **{"console": {"live_text": True}, **tables})
        opened.append(service)
        state = service.__enter__()
        address = served(state.app)
        opened.append(address)
        page = browser.new_context().new_page()
        opened.append(page.context)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.set_default_timeout(20_000)
        page.goto(address.__enter__())
        return page, state

    yield open_page
    for each in reversed(opened):
        each.close() if hasattr(each, "close") else each.__exit__(None, None, None)
    assert complaints == []


def write(page, response, prompt="hello"):
    page.fill("#prompt", prompt)
    page.fill("#response", response)
    page.click("#write")
    expect(page.locator("#judge")).to_be_enabled()


def ready(page):
    expect(page.locator("#connection")).to_have_text("live")


def test_a_stream_is_shown_as_it_is_judged_with_its_cut(visit):
    page, _ = visit()
    ready(page)
    write(page, "one two ## three")
    entry = page.locator("#streams li").first
    expect(entry.locator(".state")).to_have_text("block: the response is Unsafe, Violent")
    expect(entry.locator(".cut")).to_have_text("cut: Unsafe, Violent")
    assert entry.locator(".text").inner_text() == "one two cut: Unsafe, Violent##"
    assert entry.locator(".withheld").all_inner_texts() == ["#", "#"]
    expect(page.locator("#announcer")).to_contain_text("was cut")
    expect(page.locator("#recent tr").first).to_contain_text("Violent")


def test_the_playground_judges_a_prompt_and_a_response(visit):
    page, _ = visit()
    ready(page)
    page.fill("#prompt", "a # b")
    page.click("#judge")
    expect(page.locator("#outcome")).to_have_text("block: the prompt is Unsafe, Violent")
    page.fill("#prompt", "")
    page.fill("#response", "\U0001f600 é one # two")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#outcome")).to_have_text("allow")
    assert page.locator("#judged").inner_text() == "\U0001f600 é one # two"
    assert page.locator("#judged .r3").all_inner_texts() == ["#"]


@pytest.mark.parametrize("side", ["playground", "live"])
def test_hostile_text_is_shown_and_never_run(visit, side):
    page, _ = visit()
    ready(page)
    write(page, HOSTILE, prompt=HOSTILE)
    place = page.locator("#judged" if side == "playground" else "#streams .text").first
    expect(place).to_contain_text("<script>")
    assert place.inner_text() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Streamward"


def test_without_text_every_token_is_a_block(visit):
    page, _ = visit(console={"live_text": False})
    ready(page)
    write(page, "one # two")
    entry = page.locator("#streams li").first
    expect(entry.locator(".state")).to_have_text("allow")
    assert entry.locator(".text").inner_text().strip() == ""
    assert entry.locator(".no-text").count() == 9
    assert entry.locator(".no-text.r3").count() == 1


def test_a_key_is_asked_for_where_one_is_needed_and_other_tenants_see_nothing(visit):
    page, service = visit(auth={"required": True})
    one, two = (service.key(tenant)["Authorization"].removeprefix("Bearer ") for tenant in ("one", "two"))
    expect(page.locator("#main")).to_be_hidden()
    page.fill("#key", "sw-wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-problem")).to_contain_text("wrong, revoked or expired")
    page.fill("#key", one)
    page.keyboard.press("Enter")
    ready(page)
    other = page.context.browser.new_context().new_page()
    other.goto(page.url)
    other.fill("#key", two)
    other.keyboard.press("Enter")
    ready(other)
    write(page, "mine alone")
    expect(page.locator("#streams")).to_contain_text("mine alone")
    expect(page.locator("#recent")).to_contain_text("streams")
    write(other, "and mine")
    expect(other.locator("#streams")).to_contain_text("and mine")
    assert "alone" not in other.content()
    assert other.locator("#recent tr").count() == 1
    other.context.close()


def test_the_console_is_used_with_the_keyboard_alone(visit):
    page, _ = visit()
    ready(page)
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    assert seen == ["skip", "prompt", "response", "policy", "judge", "write", *seen[6:]]


def test_every_control_has_a_name_and_every_colour_contrast(visit):
    page, _ = visit()
    ready(page)
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('main input, main select, main textarea')]"
        ".filter((each) => !each.labels.length).map((each) => each.id)"
    )
    assert unnamed == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        write(page, "one ## two")
        for selector in ("h2", ".quiet", ".cut", ".r3", "label", ".block", "#judge", "#write"):
            assert _contrast(page, selector) >= 4.5, (scheme, selector)


def _contrast(page, selector):
    """Contrast of an element's text with what is behind it, as WCAG 2 defines it."""
    colours = page.locator(f"main {selector} >> visible=true").first.evaluate(
        """(element) => {
            let behind = element;
            const clear = (each) => getComputedStyle(each).backgroundColor === "rgba(0, 0, 0, 0)";
            while (behind.parentElement && clear(behind)) behind = behind.parentElement;
            return [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
        }"""
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
