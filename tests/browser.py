"""The viewer's page in headless Chromium."""

import base64
import re
import shutil

import numpy as np
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

#: Windows that the page is tested in: what playwright calls a context.
WINDOWS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
        "color_scheme": "dark",
    },
}
PIXELS = """
() => {
  const canvas = document.getElementById("picture");
  const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return [canvas.height, canvas.width, btoa(text)];
}
"""
#: Resolves when all that was asked for has been painted.
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Viewer:
    """A page on which nothing may go wrong: no error, no message on the console, no request but for the file itself."""

    def __init__(self, browser, path, window):
        self.context = browser.new_context(offline=True, accept_downloads=True, **WINDOWS[window])
        self.page = self.context.new_page()
        self.page.set_default_timeout(20000)
        self.troubles = []
        self.requests = []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]")
        self.painted()

    def close(self):
        urls = [url for url in self.requests[1:] if not url.startswith(("data:", "blob:"))]
        self.context.close()
        assert self.requests[0].startswith("file:")
        assert (self.troubles, urls) == ([], []), (self.troubles, urls)

    def painted(self):
        self.page.evaluate(PAINTED)

    def pixels(self):
        """What the canvas shows, uint8 [H,W,4]."""
        self.painted()
        height, width, text = self.page.evaluate(PIXELS)
        return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)

    def text(self, name):
        return self.page.locator(f"#{name}").text_content()

    @property
    def tokens(self):
        return int(self.text("tokens").replace(",", ""))

    def fill(self, name):
        self.page.get_by_text(name, exact=True).click()

    def budget(self, tokens):
        """Type it into the number field."""
        self.page.get_by_label("At most this many tokens").fill(str(tokens))
        self.painted()

    def transform(self):
        """Scale, and place of the picture's corner in the window of the page."""
        text = self.page.locator("#world").evaluate("(world) => getComputedStyle(world).transform")
        scale, _, _, _, x, y = (float(number) for number in re.findall(r"-?[\d.e-]+", text))
        box = self.page.locator("#stage").bounding_box()
        return scale, box["x"] + x, box["y"] + y

    def center(self):
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def border_pixels(self):
        """How many pixels of the canvas of borders are inked."""
        self.painted()
        count = """
        (lines) => {
          const copy = new OffscreenCanvas(lines.width, lines.height).getContext("2d");
          copy.drawImage(lines, 0, 0);
          const bytes = copy.getImageData(0, 0, lines.width, lines.height).data;
          return bytes.filter((byte, i) => i % 4 === 3 && byte > 0).length;
        }
        """
        return self.page.locator("#lines").evaluate(count)

    def save(self):
        """Press the button; name and text of the file that was saved."""
        with self.page.expect_download() as started:
            self.page.get_by_role("button", name="Save SVG").click()
        return started.value.suggested_filename, started.value.path().read_text("utf-8")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
