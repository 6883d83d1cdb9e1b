"""The console in a real browser: Debian's Chromium, driven by Playwright. Skipped where either is missing."""

import re
from pathlib import Path

import pytest

from tests.server.marked_guard import marked_guard
from tests.server.services import open_service, served
from tests.server.test_proxy_openai import echo

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

    def open_page(*, context=None, view="", **tables):
        service = open_service(tmp_path, guard=marked_guard(), **{"console": {"live_text": True}, **tables})
        opened.append(service)
        state = service.__enter__()
        address = served(state.app)
        opened.append(address)
        url = address.__enter__()
        page = browser.new_context(base_url=url, **(context or {})).new_page()
        opened.append(page.context)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.set_default_timeout(20_000)
        page.goto(f"/{view}")
        return page, state

    yield open_page
    for each in reversed(opened):
        each.close() if hasattr(each, "close") else each.__exit__(None, None, None)
    assert complaints == []


@pytest.fixture
def policies(tmp_path):
    """Settings of a folder with one policy, which blocks at a single token."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "quick.toml").write_text(
        'name = "quick"\nversion = "2"\n[response]\nconsecutive_tokens = 1\n'
        "[response.thresholds]\nunsafe = 0.6\ncontroversial = 0.3\n"
        '[response.categories.PII]\nunsafe = "flag"\n[[detectors]]\ntype = "email"\n'
    )
    return {"folder": str(folder)}


def write(page, response, prompt="hello"):
    page.fill("#prompt", prompt)
    page.fill("#response", response)
    page.click("#write")
    expect(page.locator("#judge")).to_be_enabled()


def judge(page, response, prompt="hello"):
    page.fill("#prompt", prompt)
    page.fill("#response", response)
    page.click("#judge")
    expect(page.locator("#card .card")).to_be_visible()


def ready(page):
    expect(page.locator("#connection")).to_have_text("live")


def test_a_stream_is_shown_as_it_is_judged_with_its_cut(visit):
    page, _ = visit()
    ready(page)
    write(page, "one two ## three")
    entry = page.locator("#streams li").first
    expect(entry.locator(".state .action")).to_have_text("block: the response is Unsafe, Violent")
    expect(entry.locator(".cut")).to_have_text("cut: Unsafe, Violent")
    assert entry.locator(".text").inner_text() == "one two cut: Unsafe, Violent##"
    assert entry.locator(".withheld").all_inner_texts() == ["#", "#"]
    expect(page.locator("#announcer")).to_contain_text("was cut")
    assert page.locator("#judged .text").inner_text() == "one two cut: Unsafe, Violent##"


def test_the_playground_judges_a_prompt_and_a_response(visit):
    page, _ = visit()
    ready(page)
    page.fill("#prompt", "a # b")
    page.click("#judge")
    expect(page.locator("#outcome")).to_have_text(
        "block: the prompt is Unsafe, Violent (unsafe 100 %; unsafe or controversial 100 %)"
    )
    page.fill("#prompt", "")
    page.fill("#response", "\U0001f600 é one # two")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#card .action")).to_have_text("allow")
    assert page.locator("#judged .text").inner_text() == "\U0001f600 é one # two"
    assert page.locator("#judged .r3").all_inner_texts() == ["#"]


def test_a_verdict_is_a_card_with_thresholds_drawn_in(visit, policies):
    page, _ = visit(policies=policies)
    ready(page)
    page.select_option("#policy", "quick")
    judge(page, "one # two")
    card = page.locator("#card .card")
    expect(card).to_have_class("card block")
    for term, said in (("Level", "Unsafe"), ("Category", "Violent"), ("Policy", "quick, version 2"), ("Tokens", "10")):
        assert card.locator("dl div", has_text=term).locator("dd").first.inner_text() == said
    assert re.fullmatch(r"[\d.]+ ms", card.locator("dl div", has_text="Guard time").locator("dd").inner_text())
    expect(card.get_by_role("img", name="unsafe 100 %, reaches the threshold 60 %")).to_be_visible()
    expect(card.get_by_role("img", name="unsafe or controversial 100 %, reaches the threshold 30 %")).to_be_visible()
    places = card.locator(".tick").evaluate_all("(all) => all.map((each) => each.style.left)")
    assert places == ["60%", "30%"]
    card.get_by_text("Show as curl").click()
    expect(card.locator("pre")).to_contain_text('"policy":"quick"')


def test_what_detectors_found_stands_in_the_card(visit, policies):
    page, _ = visit(policies=policies)
    ready(page)
    page.select_option("#policy", "quick")
    judge(page, "one two", prompt="write to ann@example.org or bob@example.org")
    card = page.locator("#card .card")
    expect(card).to_contain_text("email (mask) 2 times")
    expect(card).to_contain_text("Masked prompt: write to [EMAIL] or [EMAIL]")
    expect(card).not_to_contain_text("Masked response")


def test_a_token_tells_its_probabilities_to_the_keyboard(visit):
    page, _ = visit()
    ready(page)
    judge(page, "ab # c")
    page.locator("#judged .text").focus()
    readout = page.locator("#judged .readout")
    expect(readout).to_contain_text("“#”, token 4: Unsafe, Violent. Unsafe 100 %")
    page.keyboard.press("Home")
    expect(readout).to_contain_text("“a”, token 1: Safe.")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("“b”, token 2: Safe.")
    chosen = page.locator("#judged .text").get_attribute("aria-activedescendant")
    expect(page.locator(f"#{chosen}")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Escape")
    expect(readout).to_be_hidden()


def test_a_token_tells_its_probabilities_to_a_finger(visit):
    page, _ = visit(context={"has_touch": True, "viewport": {"width": 390, "height": 844}})
    ready(page)
    judge(page, "ab # c")
    page.locator("#judged .r3").tap()
    expect(page.locator("#judged .readout")).to_contain_text("“#”, token 4: Unsafe, Violent. Unsafe 100 %")


def test_a_text_that_is_being_written_can_be_stopped(visit):
    page, _ = visit()
    ready(page)
    page.fill("#response", "word " * 400)
    page.click("#write")
    page.click("#stop")
    expect(page.locator("#judge")).to_be_enabled()
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#outcome")).to_have_text("stopped")
    (row,) = page.request.get("/v1/decisions").json()["decisions"]
    assert row["details"]["ended"] == "closed"
    assert row["response_chars"] < 2000


def test_a_guarded_models_answer_is_cut_and_its_logged_decision_is_the_card(visit):
    with served(echo()) as upstream:
        page, _ = visit(upstreams={"echo": {"base_url": f"{upstream}/v1", "models": ["m"]}})
        ready(page)
        expect(page.locator("#model")).to_have_value("m")
        page.fill("#prompt", "one @@ two")
        page.click("#ask")
        card = page.locator("#card .card")
        expect(card).to_contain_text("the response is Unsafe, Violent")
        assert page.locator("#answer").inner_text() == "one cut"
        assert re.fullmatch(r"[\d.]+ ms", card.locator("dl div", has_text="Writing time").locator("dd").inner_text())
        page.fill("#prompt", "one two")
        page.click("#ask")
        expect(card.locator(".action")).to_have_text("allow")
        assert page.locator("#answer").inner_text() == "one two"


def test_samples_fill_the_form_and_are_judged(visit):
    page, _ = visit()
    ready(page)
    assert page.locator("#samples button").all_inner_texts() == [
        "Harmless",
        "Harmful",
        "An answer that turns",
        "Jailbreak",
    ]
    page.click("#samples button:last-child")
    expect(page.locator("#card .action")).to_have_text("allow")  # this guard knows one mark only
    expect(page.locator("#prompt")).to_have_value(re.compile("^Ignore all previous instructions"))


@pytest.mark.parametrize("side", ["playground", "live"])
def test_hostile_text_is_shown_and_never_run(visit, side):
    page, _ = visit()
    ready(page)
    write(page, HOSTILE, prompt=HOSTILE)
    place = page.locator("#judged .text" if side == "playground" else "#streams .text").first
    expect(place).to_contain_text("<script>")
    assert place.inner_text() == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "Streamward"


def test_without_text_every_token_is_a_block(visit):
    page, _ = visit(console={"live_text": False})
    ready(page)
    write(page, "one # two")
    entry = page.locator("#streams li").first
    expect(entry.locator(".state .action")).to_have_text("allow")
    assert entry.locator(".text").inner_text().strip() == ""
    assert entry.locator(".no-text").count() == 9
    assert entry.locator(".no-text.r3").count() == 1


def test_the_live_view_is_a_line_while_nothing_happens(visit):
    page, _ = visit()
    ready(page)
    assert page.locator("#live").get_attribute("open") is None
    page.clock.install()
    write_done = page.locator("#live-summary")
    page.fill("#response", "one two")
    page.click("#judge")
    page.evaluate(
        "async () => { const ask = (path, body) => fetch(path, { method: 'POST', body: JSON.stringify(body),"
        " headers: { 'Content-Type': 'application/json' } }).then((each) => each.json());"
        " const { stream } = await ask('/v1/streams', {});"
        " await ask(`/v1/streams/${stream}/append`, { text: 'one' }); await ask(`/v1/streams/${stream}/close`, {}); }"
    )
    page.clock.run_for(100)
    expect(page.locator("#live")).to_have_attribute("open", "")
    page.clock.run_for(31_000)
    expect(page.locator("#live")).not_to_have_attribute("open", "")
    expect(write_done).to_have_text("Live: nothing is being judged, 1 recent")


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
    write(other, "and mine")
    expect(other.locator("#streams")).to_contain_text("and mine")
    assert "alone" not in other.content()
    other.click("text=Decisions")
    expect(other.locator("#recent tr")).to_have_count(1)
    other.context.close()


def test_signing_out_forgets_the_key_and_what_was_seen(visit):
    page, service = visit(auth={"required": True})
    page.fill("#key", service.key("one")["Authorization"].removeprefix("Bearer "))
    page.keyboard.press("Enter")
    ready(page)
    write(page, "swordfish")
    page.click("#sign-out")
    expect(page.locator("#key")).to_be_focused()
    assert page.evaluate("() => sessionStorage.length") == 0
    expect(page.locator("#streams, #judged")).not_to_contain_text(["swordfish", "swordfish"])
    assert page.locator("#response").input_value() == ""
    assert not service.state.feed.is_watched or page.wait_for_timeout(2500) is None
    page.reload()
    expect(page.locator("#main")).to_be_hidden()


def test_decisions_are_filtered_and_each_opens_in_a_drawer(visit):
    page, _ = visit()
    ready(page)
    judge(page, "", prompt="a #")
    write(page, "one two")
    page.click("text=Decisions")
    rows = page.locator("#recent tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#decisions-status")).to_have_text("2 decisions")
    page.select_option("#filter-action", "block")
    expect(rows).to_have_count(1)
    assert rows.first.locator("td").all_inner_texts()[1:7] == [
        "block",
        "prompt",
        "Unsafe, Violent",
        "strict",
        "guard",
        "1",
    ]
    page.click("#filters button[type=reset]")
    expect(rows).to_have_count(2)
    opener = rows.first.locator("button")
    opener.focus()
    page.keyboard.press("Enter")
    drawer = page.get_by_role("dialog")
    expect(drawer).to_contain_text("Waiting for the guard")
    assert re.search(r"Writing the text\n[\d.]+ ms", drawer.inner_text())
    expect(drawer).to_contain_text("strict, version 1")
    page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    expect(opener).to_be_focused()


def test_two_policies_are_compared_on_one_text(visit, policies):
    page, _ = visit(view="#policies", policies=policies)
    ready(page)
    assert page.locator("#policy-list h3").all_inner_texts() == ["strict default", "loose", "quick"]
    quick = page.locator(".policy").last
    expect(quick).to_contain_text("Unsafe P(Unsafe) from 60 % (this policy's): block")
    expect(quick.locator("table")).to_contain_text("PII")
    expect(quick).to_contain_text("email (mask)")
    page.fill("#compare-response", "one # two")
    page.select_option("#second-policy", "quick")
    page.click("#compare button[type=submit]")
    expect(page.locator("#compare-status")).to_have_text("strict: allow; quick: block.")
    assert page.locator("#compare-results .card .action").all_inner_texts() == ["allow", "block"]
    expect(page.locator("#compare-results .card").first).to_contain_text("the policy asks for more of them in a row")


def test_the_state_of_guard_and_upstreams_is_shown(visit):
    upstreams = {"mine": {"base_url": "http://127.0.0.1:9/v1", "models": ["small"]}}
    page, _ = visit(view="#status", upstreams=upstreams)
    ready(page)
    expect(page.locator("#guard-badge")).to_have_text("guard ready, 1 warning")
    expect(page.locator("#upstream-state")).to_contain_text("takes no connections; models: small")
    expect(page.locator("#latencies")).to_have_text("Nothing was judged in the last hour.")


def test_the_console_is_used_with_the_keyboard_alone(visit):
    page, _ = visit()
    ready(page)
    seen = []
    for _ in range(15):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("() => { const e = document.activeElement; return e.id || e.className || e.hash; }"))
    views = ["#playground", "#decisions", "#policies", "#status"]
    assert seen == ["skip", *views, *["chip"] * 4, "prompt", "response", "policy", "judge", "write", "live-summary"]
    page.locator("nav a").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#decisions-title")).to_be_focused()
    expect(page.locator("nav a[aria-current]")).to_have_text("Decisions")


@pytest.mark.parametrize("view", ["playground", "decisions", "policies", "status"])
def test_nothing_is_cut_off_on_a_phone(visit, policies, view):
    page, _ = visit(context={"viewport": {"width": 390, "height": 844}}, view=f"#{view}", policies=policies)
    for prompt in ("hello", "a #"):
        page.request.post("/v1/guard", data={"prompt": prompt})
    page.reload()
    ready(page)
    expect(page.locator(f"#{view}")).to_be_visible()
    cut = page.evaluate(
        "() => [...document.querySelectorAll('body *')].filter((each) => !each.closest('.skip, .unseen, thead, svg')"
        " && each.getBoundingClientRect().right > 391).map((each) => each.outerHTML.slice(0, 80))"
    )
    assert cut == []


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
        for selector in (
            "h2",
            ".quiet",
            ".cut",
            ".r3",
            "label",
            ".block .reason",
            ".block .action",
            "#judge",
            "#write",
        ):
            assert _contrast(page, selector) >= 4.5, (scheme, selector)


@pytest.mark.parametrize(("is_shown", "expected"), [(True, "Take poison tea"), (False, "Take tea")])
def test_dropped_tokens_are_struck_through_where_they_may_be_seen(visit, is_shown, expected):
    page, _ = visit()
    ready(page)
    page.evaluate(
        """async (isShown) => {
            const { TokenList } = await import("/assets/token_list.js");
            const root = document.getElementById("judged");
            const list = new TokenList(root, { label: "Changed" });
            const level = (unsafe) => (unsafe ? "Unsafe" : "Safe");
            const token = (text, unsafe) => ({ text, risk_level: level(unsafe), unsafe, controversial: 0 });
            list.put(0, [token("Take", 0), token(" poison", 0.9)]);
            list.drop(1, { isShown });
            list.put(1, [token(" tea", 0)]);
        }""",
        is_shown,
    )
    text = page.locator("#judged .text")
    assert text.inner_text() == expected
    assert text.locator(".dropped").all_inner_texts() == ([" poison"] if is_shown else [])
    text.press("End")
    expect(page.locator("#judged .readout")).to_contain_text("“tea”, token 2: Safe.")


MARKS = {
    ".legend .r1": "borderBottomColor",
    ".legend .r2": "borderBottomColor",
    ".legend .r3": "borderBottomColor",
    ".legend .withheld": "textDecorationColor",
    ".legend .cut": "borderLeftColor",
    ".card .shape": "backgroundColor",
    ".card .track": "stroke",
    ".card .fill.unsafe": "fill",
    ".card .fill.controversial": "fill",
    ".strip .unsafe": "fill",
    ".chip": "borderTopColor",
    "#prompt": "borderTopColor",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_mark_stands_out_by_contrast_and_levels_by_shape(visit, scheme):
    page, _ = visit(context={"color_scheme": scheme})
    ready(page)
    write(page, "one ## two")
    for selector, name in MARKS.items():
        assert _contrast(page, selector, name, beside="parent") >= 3, selector
        if name == "borderBottomColor":  # it stands on the token's own tint too
            assert _contrast(page, selector, name) >= 3, selector
    shapes = page.locator(".legend .token").evaluate_all(
        "(all) => all.map((e) => getComputedStyle(e).borderBottomStyle)"
    )
    assert shapes[:3] == ["dotted", "dashed", "solid"]


def _contrast(page, selector, name="color", *, beside="self"):
    """Contrast of a colour of an element with what is behind it, or around it, as WCAG 2 defines it."""
    colours = page.locator(f"main {selector} >> visible=true").first.evaluate(
        """(element, [name, beside]) => {
            let behind = beside === "parent" ? element.parentElement : element;
            const clear = (each) => getComputedStyle(each).backgroundColor === "rgba(0, 0, 0, 0)";
            while (behind.parentElement && clear(behind)) behind = behind.parentElement;
            return [getComputedStyle(element)[name], getComputedStyle(behind).backgroundColor];
        }""",
        [name, beside],
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
