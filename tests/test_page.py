"""The page: what it says, and what it does in a browser."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from airpipe.reporting import page
from airpipe.reporting.figures.charts import open_figure
from airpipe.reporting.scenes import Scene, Shown
from airpipe.reporting.table import Block, Cell, Line, Part, Table, words, write_table
from airpipe.settings.scoring import ReportSettings

REPORT = ReportSettings(title="A <title>").model_dump(mode="json")
CARD = {
    "settings_hash": "0123456789abcdef",
    "git": {"commit": "a" * 40, "dirty": True},
    "finished": "2026-01-01T00:00:00Z",
    "device": "cpu",
}
PSNR = {"none": 20.0, "one/net_5d/train": 25.5, "two/net_3d/train": 23.25}
OTHER = "three/net_9d/train"
IMAGES = ("<b>dog", "cat")


def scores_table() -> Table:
    """Two protocols, a printed row in one of them, a folded block without facts."""

    def line(label, value, mark, about, kind="ours", **facts):
        first = Cell((Part(f"{value:.2f}", value, mark), Part("0.900", 0.9)), about)
        return Line(label, (first, Cell((Part(f"{-value:.2f}", -value),))), kind, facts)

    lines = (
        line("no restoration", 20.0, "", ("none", "dogs.test"), "none"),
        line("one/net_5d", 25.5, "best", ("model one/net_5d/seed0/train", "commit aaaa"), method="one", task="5d"),
        line("two/net_3d", 3.25, "worse", ("model two/net_3d/seed0/train",), method="two", task="3d"),
        line("<i>Print", 30.0, "tie", (), "published", method="Print"),
    )
    head = ("model", "noise 25", "negative")
    blocks = [
        Block(f"Protocol {name}", head, lines[:count], {"protocol": name}) for name, count in (("a", 4), ("b", 3))
    ]
    folded = Block(
        "More", ("name", "word"), (Line("first", words("beta")), Line("second", words("alpha"))), folded=True
    )
    return Table("dogs", "Table of dogs", (*blocks, folded), ("A note.",))


def scenes(root) -> list[Scene]:
    """Two images that look the same, restored by the two chosen models, the first one by another model, too."""
    shown = []
    for value, (model, psnr) in enumerate({**PSNR, OTHER: 22.0}.items(), 100):
        file = root / f"{value}.png"
        Image.new("RGB", (60, 40), (value,) * 3).save(file)
        shown.append(Shown(model, file, psnr, model))
    *shown, other = shown
    pictures = (*shown, Shown("clean", shown[0].file))
    return [Scene("dogs_noise", image, pictures, others=(other,) * (image == IMAGES[0])) for image in IMAGES]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page as a file."""
    root = tmp_path_factory.mktemp("page")
    write_table(scores_table(), root)
    gains = {
        "model": "one/net_5d/seed0/train",
        "test": "dogs_noise",
        "image": "cat",
        "protocol": "airpipe",
        "gain": -1.0,
    }
    pd.DataFrame([gains, gains | {"image": "dog", "gain": 2.0}]).to_csv(root / "gains.csv", index=False)
    figure = root / "dogs" / "bars.png"
    figure.parent.mkdir()
    with open_figure(figure, 8, 2):
        pass
    sources = page.Sources({"dogs": [root / "dogs.json"]}, [figure], [root / "gains.csv"], [], root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "read_scenes", lambda *_: scenes(root))
        page.write_page(sources, {"one/net_5d/seed0/train": CARD}, REPORT, "demo", root / "index.html")
    return root / "index.html"


@pytest.fixture(scope="module")
def text(written):
    return written.read_text(encoding="utf-8")


def test_the_page_asks_nothing_from_outside(text):
    assert not re.search(r"https?://", text)
    assert not re.search(r"""src=(?!"data:)|href=(?!"#)|url\((?!data:)|@import|<link""", text)
    assert "default-src 'none'" in text


def test_every_picture_is_embedded_once_however_many_sliders_show_it(text):
    assert text.count('<input type="range"') == len(IMAGES) * 2 + 1
    assert text.count("data:image/jpeg") == 3 + 2  # both images look the same; those of the other model are small


def test_names_are_escaped(text):
    assert not {"<b>dog", "<i>Print", "A <title>"} & {
        name for name in ("<b>dog", "<i>Print", "A <title>") if name in text
    }
    assert "&lt;b&gt;dog" in text and "&lt;i&gt;Print" in text and "A &lt;title&gt;" in text


def test_the_page_says_what_was_run_and_where_models_come_from(text):
    assert "the smallest gain of a single picture is -1.00 dB, and 1 of 2 gains are negative" in text
    assert "do not compare them with published ones" in text
    for said in ("0123456789ab", "aaaaaaaaaaaa with uncommitted changes", "2026-01-01"):
        assert said in text
    assert text.count("model one/net_5d/seed0/train") == 2  # once a block, however many cells say it


def noise_pictures(root, count, side) -> list[tuple[Scene, Shown]]:
    """An image, restored by `count` - 1 models, all of them noise."""
    generator, shown = np.random.default_rng(0), []
    for number in range(count):
        file = root / f"{number}.png"
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
        shown.append(Shown(str(number), file, 1.0, "m/s"))
    return [(Scene("t", "i", tuple(shown)), one) for one in shown[1:]]


def test_pictures_shrink_until_they_fit_the_budget(tmp_path):
    pairs, sizes = noise_pictures(tmp_path, 3, 500), {}
    for budget in (10**7, 300_000, 1):
        pictures, sliders = page.embed_pictures(pairs, page.SIDES, budget, 90)
        sizes[budget] = (sliders[0].width, sum(map(len, pictures.values())) * 3 // 4)
    assert sizes[10**7][0] == page.SIDES[0] and sizes[1][0] == page.SIDES[-1]
    assert sizes[300_000][0] in page.SIDES[1:-1] and sizes[300_000][1] < 301_000


def test_every_picture_is_encoded_once_beside_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SAMPLED", 3)
    encoded, jpeg = [], page.jpeg
    monkeypatch.setattr(page, "jpeg", lambda *given: encoded.append(given) or jpeg(*given))
    pictures, sliders = page.embed_pictures(noise_pictures(tmp_path, 40, 40), (32, 24, 16), 45_000, 90)
    assert len(pictures) == 40 and len(sliders) == 39 and {slider.width for slider in sliders} == {24}
    assert len(encoded) == 40 + 2 * 3  # the sample at 32 and at 24 pixels
    assert sum(map(len, pictures.values())) * 0.75 < 46_000


def test_filters_offer_what_lines_and_blocks_have_several_of():
    assert page.choices([scores_table()]) == {
        "method": ["Print", "one", "two"],
        "task": ["3d", "5d"],
        "protocol": ["a", "b"],
    }


def test_the_page_needs_neither_torch_nor_plotting():
    code = "import sys, airpipe.reporting.page; print({'torch', 'matplotlib', 'seaborn', 'scipy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"


# In a browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.environ.get("AIRPIPE_REQUIRE_CHROMIUM") != "1", "no chromium on PATH"
        pytest.skip("no chromium on PATH: the page is not tried in a browser (AIRPIPE_REQUIRE_CHROMIUM=1 insists)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium)
        yield started
        started.close()


@pytest.fixture
def opened(browser, written):
    """The page in a tab; afterwards nothing may have gone wrong or been asked for."""
    tab = browser.new_page(viewport={"width": 1000, "height": 800})
    tab.set_default_timeout(5000)
    wrong, asked = [], []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(written.as_uri())
    yield tab
    tab.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]


def labels(tab, block=0):
    """Visible labels of a block."""
    rows = tab.locator(".block").nth(block).locator("tbody th")
    return [row.inner_text() for row in rows.all() if row.is_visible()]


def test_sliders_move_by_mouse_and_by_keyboard(opened):
    slider = opened.locator(".slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    opened.mouse.move(box["x"] + box["width"] * 0.5, middle)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] * 0.2, middle, steps=3)
    opened.mouse.up()
    cut = float(slider.evaluate("element => element.style.getPropertyValue('--cut')").rstrip("%"))
    assert 15 <= cut <= 25
    opened.keyboard.press("End")
    opened.keyboard.press("ArrowLeft")
    assert slider.evaluate("element => element.style.getPropertyValue('--cut')") == "99%"
    moved = opened.get_by_role("slider", name="<b>dog, dogs_noise, restored by one/net_5d").first
    assert moved.get_attribute("aria-valuetext") == "99 % degraded"


def test_tables_sort_by_click_and_by_keyboard(opened):
    column = opened.locator(".block").first.get_by_role("button", name="noise 25")
    column.click()
    assert labels(opened) == ["two/net_3d", "no restoration", "one/net_5d", "<i>Print †"]
    opened.keyboard.press("Enter")
    assert labels(opened) == ["<i>Print †", "one/net_5d", "no restoration", "two/net_3d"]
    sorts = opened.locator(".block").first.locator("thead th").evaluate_all("all => all.map(th => th.ariaSort)")
    assert sorts == ["none", "descending", "none"]
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Space")
    assert labels(opened) == ["<i>Print †", "one/net_5d", "no restoration", "two/net_3d"]  # negative, smallest first
    opened.locator("summary", has_text="More").click()
    opened.locator(".block").nth(2).get_by_role("button", name="word").click()
    assert labels(opened, 2) == ["second", "first"]


def test_filters_hide_what_does_not_fit_and_keep_no_restoration(opened):
    opened.locator("select[name=method]").select_option("one")
    assert labels(opened) == ["no restoration", "one/net_5d"]
    assert opened.get_by_text(OTHER, exact=True).count() == 1 and not opened.get_by_text(OTHER, exact=True).is_visible()
    assert opened.locator("figure[data-facts]:visible").count() == len(IMAGES)
    assert opened.locator("output").inner_text().endswith(f"of {4 + 3 + 2 + 1} rows")
    opened.locator("select[name=protocol]").select_option("b")
    assert labels(opened) == [] and labels(opened, 1) == ["no restoration", "one/net_5d"]
    opened.locator("select[name=method]").select_option("Print")
    assert labels(opened, 1) == []  # nothing of ours is left
    opened.get_by_role("button", name="Show all").click()
    opened.wait_for_function("!document.querySelector('.block').hidden")
    assert len(labels(opened)) == 4 and len(labels(opened, 1)) == 3


def test_the_list_of_other_models_opens_to_their_pictures(opened):
    summary = opened.locator("summary", has_text=OTHER)
    assert opened.locator(".picker figure:visible").count() == 0
    summary.click()
    caption = opened.locator(".picker figcaption:visible")
    assert caption.all_inner_texts() == [f"dogs_noise, <b>dog, {OTHER}: 20.00 → 22.00 dB"]


def test_a_number_tells_where_it_comes_from_on_hover_and_on_focus(opened):
    told = opened.get_by_role("tooltip")
    cell = opened.locator(".block").first.locator("tbody tr").nth(1).locator("td").first
    cell.hover()
    assert told.inner_text() == "model one/net_5d/seed0/train\ncommit aaaa"
    opened.keyboard.press("Escape")
    assert told.is_hidden()
    stops = opened.evaluate(
        "[...document.querySelectorAll('table')].map(t => t.querySelectorAll('[tabindex=\"0\"]').length)"
    )
    assert stops == [1] * len(stops)
    opened.locator(".block").first.get_by_role("button", name="model").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight"):
        opened.keyboard.press(key)
    assert told.inner_text() == "model two/net_3d/seed0/train"
    assert opened.evaluate("document.activeElement.getAttribute('aria-describedby')") == "about"


def test_a_phone_scrolls_tables_and_not_the_page(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == 390


def test_paper_shows_all_without_controls(opened):
    opened.emulate_media(media="print")
    assert not opened.locator(".filters").is_visible()
    assert opened.locator(".block").nth(2).locator("td").first.bounding_box()["height"] > 5  # was folded
    before, after = (opened.locator(f".{name}").first.bounding_box() for name in ("before", "after"))
    assert (
        before["width"] == pytest.approx(after["width"], abs=1)
        and abs(before["x"] - after["x"]) > before["width"] * 0.99
    )


def test_nothing_is_hidden_without_javascript(browser, written):
    tab = browser.new_page(java_script_enabled=False)
    tab.goto(written.as_uri())
    assert tab.locator("tbody tr:visible").count() == 4 + 3 + 1  # the folded block opens by itself
    assert not tab.locator(".filters").is_visible() and not tab.locator(".slider input").first.is_visible()
    boxes = [tab.locator(f".{name}").first.bounding_box() for name in ("before", "after")]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=1) and boxes[0]["x"] != boxes[1]["x"]
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(opened, scheme):
    from axe_playwright_python.sync_playwright import Axe

    opened.emulate_media(color_scheme=scheme)
    opened.locator("summary", has_text="More").click()
    opened.locator("td[data-about]").first.hover()
    found = Axe().run(opened).response
    assert len(found["passes"]) > 20
    serious = [
        (each["id"], each["nodes"][0]["html"])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
