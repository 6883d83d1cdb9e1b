"""Makes `cut.png`: the console shows how the embedded guard cuts an answer that turns harmful. Run by `make picture`.

It fails where the cut is not correct: all text before the harm must be released, and of the harm a few words at most.
"""

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from playwright.sync_api import Page, sync_playwright

from streamward.server.app import create_app
from streamward.server.config import ServeConfig
from streamward.server.state import open_state

PICTURE = Path(__file__).parent / "cut.png"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SAMPLE = "An answer that turns"
HARMLESS_END = "And before you leave,"  # the sample's harm begins behind it
MAX_LEAKED_CHARS = 10  # an adverb, but no harmful word
WIDTH = 1400
MAX_BYTES = 200_000


def main() -> None:
    """Start the service, let the console judge its sample, check the cut and write the picture."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": 700}, color_scheme="light")
        page.set_default_timeout(120_000)  # a busy machine takes its time
        page.goto(address)
        page.get_by_role("button", name=SAMPLE).click(timeout=30_000)
        page.locator("#card .card").wait_for()
        check(page)
        page.locator("#judged .text").focus()  # chooses the first unsafe token, and shows its probabilities
        page.screenshot(path=PICTURE, clip={"x": 0, "y": 0, "width": WIDTH, "height": height(page)}, full_page=True)
        browser.close()
    if PICTURE.stat().st_size > MAX_BYTES:
        sys.exit(f"{PICTURE} has {PICTURE.stat().st_size} bytes; at most {MAX_BYTES} are allowed")


def check(page: Page) -> None:
    """Exit unless the cut lies where the harm begins."""
    action = page.locator("#card .action").inner_text()
    shown, cut, withheld = page.locator("#judged .text").inner_text().partition("cut:")
    if action != "block" or not cut:
        sys.exit(f"the guard did not cut the sample: {action}")
    harmless, end, leaked = shown.partition(HARMLESS_END)
    if not end:
        sys.exit(f"the guard cut before the harm begins: ... {harmless[-40:]!r}")
    if len(leaked.strip()) > MAX_LEAKED_CHARS:
        sys.exit(f"the guard released too much of the harm: {leaked.strip()!r}")
    print(f"Released of the harmful part: {leaked.strip()!r}. Withheld: {withheld.strip()!r}.")


def height(page: Page) -> float:
    """Return how much of the page is the picture: the header and the playground."""
    box = page.locator("#playground .desk").bounding_box()
    if box is None:
        sys.exit("the playground is not shown")
    return box["y"] + box["height"] + 14


@contextmanager
def service(folder: Path) -> Iterator[str]:
    """Serve with the embedded guard on a free port of this machine; yields the address."""
    config = ServeConfig.parse(
        {
            "auth": {"required": False},
            "store": {"url": f"sqlite:///{folder / 'service.sqlite3'}"},
            "console": {"live_text": True},
            "log": {"level": "error"},
        },
        source="picture",
    )
    state = open_state(config)
    try:
        server = uvicorn.Server(uvicorn.Config(create_app(config, state=state), port=0, log_config=None))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started and thread.is_alive():
            thread.join(0.05)
        try:
            (listening,) = server.servers[0].sockets
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    finally:
        state.close()


if __name__ == "__main__":
    main()
