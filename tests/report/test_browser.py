"""What the page's script does, in a real browser where there is one."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kmod
from kmod.report import parts
from kmod.report.page import render_page

BROWSERS = (
    *("chromium", "chromium-browser", "chromium-headless-shell"),
    *("google-chrome", "chrome"),
)
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]
AXE = importlib.util.find_spec("axe_core_python")
# Leaves what axe-core calls serious or critical in the title.
AXE_RUN = """
axe.run().then((found) => {
  const grave = found.violations.filter(
    (each) => ["serious", "critical"].includes(each.impact));
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.title = JSON.stringify([isDark, found.passes.length, grave.map(
    (each) => [each.id, ...each.nodes.map((node) => node.html)])]);
});
"""
# Does what a user does and leaves in the title what is then to be seen.
USER = """
// A window that nobody has brought to the front tells no one of its focus.
const focus = HTMLElement.prototype.focus;
HTMLElement.prototype.focus = function () {
  focus.call(this);
  if (!document.hasFocus())
    this.dispatchEvent(new FocusEvent("focusin", { bubbles: true }));
};
const names = () => [...document.querySelectorAll(".sortable tbody th")].map(
  (each) => each.textContent);
const heading = document.querySelectorAll(".sortable thead th")[1];
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const readout = document.querySelector(".readout");
const seen = [];
for (const _ of [1, 2]) {
  heading.querySelector("button").click();
  seen.push([heading.getAttribute("aria-sort"), names()]);
}
document.querySelector("[role=grid] td[tabindex]").focus();
seen.push(readout.textContent);
for (const key of ["ArrowRight", "ArrowDown", "ArrowDown", "Home"]) {
  press(key);
  seen.push(readout.textContent);
}
seen.push(document.querySelectorAll("[role=grid] td[tabindex]").length);
document.title = JSON.stringify(seen);
"""


@pytest.fixture
def in_browser(tmp_path):
    """Opens a page, runs a script as a user would act, returns the DOM."""

    def in_browser(text, script="", *more):
        policy = re.search(r'<meta http-equiv="Content-Sec.*?>', text)[0]
        if script:  # It is not the page's own, which alone may run.
            text = text.replace(policy, "")
            text = text.replace("</body>", f"<script>{script}</script></body>")
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        done = subprocess.run(
            [BROWSER, *flags, *more, path.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return in_browser


def page():
    rows = [["ant", parts.number(9)], ["bee", parts.number(10)]]
    rows.append(["eel", parts.number(None)])
    shares = np.array([[0.1, 0.2], [0.3, 0.4]])
    heat = parts.HeatMap("m", ["a", "b"], ["x", "y"], "class", "layer", shares)
    table = parts.Table("t", ["name", "legs"], rows)
    section = parts.Section("first", "First", [table, heat])
    return render_page(parts.Page("kind", "Page", "A page", [section]))


def test_tables_sort_and_heat_maps_answer_to_keys(in_browser):
    found = in_browser(page(), USER)
    title = html.unescape(re.search("<title>(.*?)</title>", found)[1])
    assert json.loads(title) == [
        ["descending", ["bee", "ant", "eel"]],
        ["ascending", ["ant", "bee", "eel"]],
        "class a, layer x: 10 %",
        "class a, layer y: 20 %",
        "class b, layer y: 40 %",
        "class b, layer y: 40 %",
        "class b, layer x: 30 %",
        1,
    ]


def test_policy_lets_the_pages_own_script_run_and_no_other(in_browser):
    text = page()
    assert 'class="tip"' in in_browser(text)
    other = text.replace('"use strict";', '"use strict"; ', 1)
    assert 'class="tip"' not in in_browser(other)


@pytest.fixture
def findings(in_browser):
    """Lists what axe-core finds in a page that is serious or critical."""
    if AXE is None:
        pytest.skip("axe-core-python is not installed")
    axe = Path(AXE.origin).with_name("axe.min.js").read_text("utf-8")

    def findings(text, dark=False):
        found = in_browser(
            text,
            axe + AXE_RUN,
            "--virtual-time-budget=60000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        )
        title = html.unescape(re.findall("<title>(.*?)</title>", found)[0])
        is_dark, passes, grave = json.loads(title)
        assert is_dark == dark and passes > 10
        return grave

    return findings


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("subject", ["donor", "patched"])
def test_pages_are_accessible(
    findings, subject, dark, request, digits, tmp_path
):
    path = tmp_path / "report.html"
    thing = request.getfixturevalue(subject)
    kmod.write_report(thing, path, data=digits)
    assert findings(path.read_text("utf-8"), dark) == []


def test_a_grave_fault_of_a_page_is_found(findings):
    text = page().replace("</main>", '<img src="data:,"></main>')
    assert [name for name, *_ in findings(text)] == ["image-alt"]
