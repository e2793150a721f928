"""Chromium without a window, as Selenium drives it; asserts nothing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from .conftest import installed


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser of 1,280 by 900 pixels, installed first where it is missing."""
    for package, program in (("chromium", "chromium"), ("chromium-driver", "chromedriver")):
        installed(program, package)
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
