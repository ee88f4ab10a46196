"""Screenshots of all tabs, to be looked at: ``python tests/shots.py FOLDER [URL]``, of a running studio or of one that
it starts. At three sizes, light and dark, as one finds them."""

import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TABS = ("Interpolate", "Morph", "Draw", "Edit")
SIZES = {"laptop": (1366, 768), "small": (1280, 720), "phone": (390, 844)}
PHONE = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
LONG = 60_000


def shots(browser, url, folder, sizes=tuple(SIZES), themes=("light", "dark"), tabs=TABS):
    """PNGs named size-theme-tab; those of a phone show the whole page."""
    folder.mkdir(parents=True, exist_ok=True)
    for size in sizes:
        for theme in themes:
            (width, height), phone = SIZES[size], size == "phone"
            how = PHONE if phone else {}
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme, **how)
            page.goto(f"{url}?__theme={theme}")
            for tab in tabs:
                show(page, tab)
                page.screenshot(path=folder / f"{size}-{theme}-{tab.lower()}.png", full_page=phone)
            page.close()


def show(page, tab):
    """A tab with its example in it."""
    page.get_by_role("tab", name=tab).click(timeout=LONG)
    page.locator(f"#{tab.lower()}-make").wait_for(timeout=LONG)
    page.locator(".stage.has.example:visible").wait_for(timeout=LONG)
    page.wait_for_timeout(700)


def main():
    from conftest import FLAGS, started
    from playwright.sync_api import sync_playwright

    folder, *url = sys.argv[1:]
    with nullcontext(url[0]) if url else started() as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        shots(browser, address, Path(folder))
        browser.close()


if __name__ == "__main__":
    main()
