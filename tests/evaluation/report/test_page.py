"""The report in a real browser: quiet, alone, and its controls do what they say."""

import inspect
import json

import numpy as np
import pytest

from mutualnet_det.evaluation.confusion import Confusion, confusion_file
from mutualnet_det.evaluation.report import write_report
from mutualnet_det.evaluation.scoring import AP_METRICS
from mutualnet_det.runtime import BudgetError, BudgetPredictor, frontier
from mutualnet_det.slimmable import OperatingPoint

CPU, GPU = "Some CPU, 1 thread", "Some GPU"
EVIL = '</script><img src=x onerror="window.hacked=1"><b>'


@pytest.fixture(scope="module")
def tab(browser):
    page = browser.new_page()
    page.set_default_timeout(60_000)  # ms: a browser is slow to start on a busy machine
    yield page
    page.close()


@pytest.fixture
def open_page(tab):
    """Opens a file. The test fails at its end if the page complained, or asked for another file."""
    errors, opened = [], []

    def complain(message):
        errors.append(getattr(message, "text", None) or str(message))

    def refuse(route):
        if route.request.url == opened[-1]:
            return route.continue_()
        errors.append(route.request.url)
        return route.abort()

    def open_page(path, width=1200, color_scheme="light"):
        opened.append(path.as_uri())
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=color_scheme, media="screen")
        tab.goto(path.as_uri())
        return tab

    tab.route("**/*", refuse)
    for event in ("console", "pageerror"):
        tab.on(event, complain)
    yield open_page
    tab.goto("about:blank")
    tab.unroute_all()
    for event in ("console", "pageerror"):
        tab.remove_listener(event, complain)
    assert errors == []


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, write_evaluation, write_pictures, run_facts):
    """A report of "Mutual" and of "US-Net", with pictures; their grids."""
    tmp_path = tmp_path_factory.mktemp("two_runs")
    root = tmp_path / "images"
    config = f"DATASETS:\n  COCO_FORMAT:\n  - [things_val, some.json, {root}]\n"
    grids = []
    for name, scale in (("Mutual", 1.0), ("US-Net", 0.8)):
        grid = write_evaluation(tmp_path / name, run=run_facts(config=config), scale=scale)
        write_pictures(tmp_path / name, root, [row.point for row in grid.rows])
        grids.append(grid)
    output = tmp_path / "report.html"
    write_report([tmp_path / "Mutual", tmp_path / "US-Net"], output)
    return output, grids


def shown_points(page, selector, run=0):
    return set(
        page.eval_on_selector_all(
            f"{selector}[data-run='{run}']", "shown => shown.map(each => each.dataset.point)"
        )
    )


def cells(page, selector):
    """The texts of a table's body, without the places of copy buttons and markers."""
    return page.eval_on_selector_all(
        f"{selector} tbody tr",
        "rows => rows.map(row => [...row.cells].map(c => c.innerText.trim()))",
    )


def pretty(point):
    return str(point).replace("x", "\u202f\u00d7\u202f")


@pytest.mark.parametrize("scheme, background", [("light", 250), ("dark", 19)])
def test_everything_shows_in_both_schemes(open_page, two_runs, scheme, background):
    output, grids = two_runs
    page = open_page(output, color_scheme=scheme)
    assert page.title() == "Mutual, US-Net: AP against cost"
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour.startswith(f"rgb({background}, ")
    figures = "#chart svg, #points-table table, .heat, #classes-table table, .frame, .run"
    sizes = page.eval_on_selector_all(
        figures,
        "all => all.map(e => [e.getBoundingClientRect()]).map(([b]) => [b.width, b.height])",
    )
    assert len(sizes) == 1 + 1 + 2 + 1 + 2 * 4 + 2
    assert all(width > 100 and height > 50 for width, height in sizes)
    images = page.eval_on_selector_all(".frame img", "all => all.map(e => e.naturalWidth)")
    assert images == [200] * 8
    for run, grid in enumerate(grids):
        assert shown_points(page, ".dot", run) == {str(row.point) for row in grid.rows}
    # Two points of other cost and score do not fall together.
    places = page.eval_on_selector_all(
        "#chart .dot", "all => all.map(e => e.getAttribute('transform'))"
    )
    assert len(set(places)) == 18


@pytest.mark.parametrize(
    "metric, cost", [("mask.APl", "gflops"), ("box.AP", f"ms {GPU}"), ("box.AP", "parameters")]
)
def test_curves_of_any_score_against_any_cost(open_page, two_runs, metric, cost):
    output, grids = two_runs
    page = open_page(output)
    page.select_option("#metric", metric)
    page.select_option("#cost", cost)
    kind, name = metric.split(".")
    costs = {
        "gflops": lambda row: row.gflops,
        f"ms {GPU}": lambda row: row.latency[GPU].p50,
        "parameters": lambda row: sum(row.cost.parameters.values()),
    }
    for run, grid in enumerate(grids):
        best = frontier(grid.rows, costs[cost], lambda row: row.scores[kind][name])
        assert shown_points(page, ".dot.best", run) == {str(row.point) for row in best}
    # The axis is logarithmic where costs span more than four times.
    titles = page.eval_on_selector_all("#chart .title", "all => all.map(e => e.textContent)")
    assert titles[0].endswith("logarithmic") == (cost != f"ms {GPU}")
    assert titles[1] == {"box.AP": "box AP, %", "mask.APl": "mask APl, %"}[metric]


@pytest.mark.parametrize(
    "cost, argument, device",
    [
        ("gflops", "gflops", None),
        (f"ms {CPU}", "milliseconds", CPU),
        (f"ms {GPU}", "milliseconds", GPU),
    ],
)
def test_a_budget_is_answered_as_the_query_table_does(open_page, two_runs, cost, argument, device):
    output, grids = two_runs
    page = open_page(output)
    page.select_option("#cost", cost)
    tables = [grid.query_table() for grid in grids]
    # Also with another score on the axis.
    page.select_option("#metric", "mask.AP50")

    def compare(budget):
        answers = page.eval_on_selector_all(
            ".answer", "all => all.map(e => [e.dataset.point, e.innerText])"
        )
        expected = []
        for table, (point, text) in zip(tables, answers, strict=True):
            try:
                chosen = table.lookup(**{argument: budget}, device=device).point
            except BudgetError:
                chosen = ""
                cheapest = table.lookup(**{argument: budget}, device=device, clamp=True)
                assert pretty(cheapest.point) in text and "Nothing fits" in text
            expected.append(str(chosen))
            assert point == str(chosen)
        for run, point in enumerate(expected):  # and marked in the curves and the table
            assert shown_points(page, ".chosen", run) == ({point} if point else set())
        marked = page.eval_on_selector_all("tr.chosen .point", "all => all.map(e => e.innerText)")
        shown = [pretty(point) for point in expected if point]
        assert sorted(text.strip() for text in marked) == sorted(shown)
        return expected

    values = {"gflops": [0, 0.3, 0.5275, 1.2, 7, 99], f"ms {CPU}": [5, 20.5, 60, 999]}
    seen = set()
    for budget in values.get(cost, [3, 7.2, 8.4, 9.6, 50]):
        page.fill("#budget-value", str(budget))
        seen.add(tuple(compare(budget)))
    for position in (0, 250, 500, 900, 1000):
        page.evaluate(
            """position => {
                const slider = document.getElementById("budget-slider");
                slider.value = position;
                slider.dispatchEvent(new Event("input"));
            }""",
            position,
        )
        page.locator("#metric").focus()
        seen.add(tuple(compare(float(page.input_value("#budget-value")))))
    assert len(seen) >= 3
    # What a program writes: its keywords are BudgetPredictor's.
    (line,) = page.eval_on_selector_all(".code code", "all => all.map(e => e.innerText)")
    maker, _, call = line.rpartition("(image, ")
    assert call.partition("=")[0] in inspect.signature(BudgetPredictor.__call__).parameters
    quoted = f"BudgetPredictor.from_pretrained(folder, latency_device={json.dumps(device)})"
    assert maker == (quoted if device else "predictor")


def test_parameters_are_no_budget(open_page, two_runs):
    page = open_page(two_runs[0])
    page.select_option("#cost", "parameters")
    assert page.locator("#budget-value").is_disabled()
    assert "GFLOPs or for milliseconds" in page.inner_text("#answers")
    assert page.locator(".budget-mark").count() == 0


def test_numbers_of_a_point_by_pointer_and_keys(open_page, two_runs):
    output, grids = two_runs
    page = open_page(output)
    (row,) = [row for row in grids[1].rows if row.point == OperatingPoint(0.5, 360)]
    page.locator(".dot[data-run='1'][data-point='0.50x360']").hover()
    tip = page.inner_text("#tip")
    assert pretty(row.point) in tip and "US-Net" in tip
    for number in (row.score("box"), row.score("mask"), row.latency[GPU].p95):
        assert f"{number:.1f}" in tip
    page.mouse.move(1, 1)
    assert page.locator("#tip").is_hidden()
    page.locator("#chart svg").focus()
    page.keyboard.press("End")
    dearest = max(grids[0].rows + grids[1].rows, key=lambda row: row.gflops)
    assert pretty(dearest.point) in page.inner_text("#tip")
    assert str(dearest.point) in page.inner_text("#said")
    page.keyboard.press("Enter")  # asks for what this point costs
    assert page.locator(".answer").first.get_attribute("data-point") == str(dearest.point)
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_a_click_on_the_curves_moves_the_budget(open_page, two_runs):
    page = open_page(two_runs[0])
    page.locator(".dot.best[data-run='0'][data-point='0.50x480']").click()
    assert page.locator(".answer").first.get_attribute("data-point") == "0.50x480"


def test_runs_are_shown_and_hidden(open_page, two_runs):
    page = open_page(two_runs[0])
    button = page.locator(".toggle[data-run='1']")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not shown_points(page, ".dot", 1) and len(shown_points(page, ".dot", 0)) == 9
    assert {row[1] for row in cells(page, "#points-table")} == {"Mutual"}
    assert page.locator(".heat").count() == page.locator(".answer").count() == 1
    page.locator(".toggle[data-run='0']").click()
    assert "No run is shown" in page.inner_text("#chart")
    page.keyboard.press("Space")  # the focus has stayed where it was
    assert len(shown_points(page, ".dot", 0)) == 9


def test_heat_maps_of_scores_and_costs(open_page, two_runs):
    output, grids = two_runs
    page = open_page(output)
    for value, of in (
        ("mask.AP", lambda row: f"{row.score('mask'):.1f}"),
        (f"p95 {CPU}", lambda row: f"{row.latency[CPU].p95:.1f}"),
    ):
        page.select_option("#heat-value", value)
        for index, grid in enumerate(grids):
            shown = page.locator(".heat").nth(index).locator("td[data-point]")
            cells = shown.evaluate_all("all => all.map(e => [e.dataset.point, e.firstChild.data])")
            assert dict(cells) == {str(row.point): of(row) for row in grid.rows}
    framed = page.locator(".heat").first.locator(".framed")
    table = grids[0].query_table()
    points = framed.evaluate_all("all => all.map(e => e.dataset.point)")
    assert set(points) == {str(entry.point) for entry in table.entries}


def test_the_table_is_sorted_and_its_points_copied(open_page, two_runs):
    output, grids = two_runs
    page = open_page(output)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tables = [grid.query_table() for grid in grids]
    assert len(cells(page, "#points-table")) == sum(len(table.entries) for table in tables)
    page.check("#all-points")
    assert len(cells(page, "#points-table")) == 18
    for expected in ("descending", "ascending"):
        page.click("#points-table th button[data-key='box AP']")
        head = page.locator("#points-table th:has(button[data-key='box AP'])")
        assert head.get_attribute("aria-sort") == expected
        scores = [float(row[3]) for row in cells(page, "#points-table")]
        assert scores == sorted(scores, reverse=expected == "descending")
        best = max(row.score("box") for row in grids[0].rows)
        assert f"{best:.1f}" == f"{scores[0 if expected == 'descending' else -1]:.1f}"
    page.locator("#points-table tbody .copy").first.click()
    page.locator("#said", has_text="Copied").wait_for(state="attached")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert pretty(copied) == cells(page, "#points-table")[0][0]


def test_copying_where_there_is_no_clipboard(open_page, two_runs):
    page = open_page(two_runs[0])
    page.evaluate(
        """() => {
            navigator.clipboard.writeText = () => Promise.reject(new Error("not allowed"));
            document.addEventListener("copy", () => { window.copied = String(getSelection()); });
        }"""
    )
    page.locator("#points-table tbody .copy").first.click()
    page.locator("#said", has_text="Copied").wait_for(state="attached")
    assert page.evaluate("window.copied") == "0.25x240"
    assert page.locator("textarea").count() == 0


def test_classes_of_one_point_against_another(open_page, two_runs):
    output, grids = two_runs
    page = open_page(output)
    page.select_option("#classes-a", "0 1.00x480")
    page.select_option("#classes-b", "1 0.25x240")
    page.select_option("#classes-kind", "mask")
    ap = {
        name: [
            next(row for row in grid.rows if str(row.point) == point).scores["mask"]["per_class"][
                name
            ]
            for grid, point in zip(grids, ("1.00x480", "0.25x240"), strict=True)
        ]
        for name in ("cat", "dog")
    }
    expected = [
        [name, "", f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}".replace("-", "\u2212")]
        for name, (a, b) in sorted(ap.items(), key=lambda each: each[1][1] - each[1][0])
    ]
    assert cells(page, "#classes-table") == expected
    assert f"Most is lost on {expected[0][0]}" in page.inner_text("#classes-about")
    link = page.locator(".dumbbell .link").first.bounding_box()["width"]
    line = page.locator(".dumbbell").first.bounding_box()["width"]
    (a, b), top = ap[expected[0][0]], max(max(pair) for pair in ap.values())
    assert link / line == pytest.approx((a - b) / top, abs=0.01)


def test_many_classes_are_folded(open_page, tmp_path, write_evaluation):
    names = [f"class {number}" for number in range(80)]
    write_evaluation(tmp_path / "a", classes=names)
    write_report([tmp_path / "a"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    assert len(cells(page, "#classes-table")) == 24
    page.click("text=Show all 80 classes")
    assert len(cells(page, "#classes-table")) == 80


def write_confusion(folder, classes, counts, points):
    for point in points:
        Confusion(tuple(classes), np.array(counts)).save(confusion_file(folder / "grid", point))


def test_confusions_of_the_chosen_point(open_page, tmp_path, write_evaluation):
    grid = write_evaluation(tmp_path / "a")
    counts = [[1200, 0, 30], [5, 45, 0], [7, 0, 0]]
    write_confusion(tmp_path / "a", ("cat", EVIL), counts, [OperatingPoint(1.0, 480)])
    write_report([tmp_path / "a"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    page.select_option("#classes-a", "0 1.00x480")
    assert cells(page, "#confusion-table") == [
        ["cat", "1,200", "", "30"],
        [EVIL, "5", "45", ""],
        ["in vain", "7", "", ""],
    ]
    assert f"Most often {EVIL} is taken for cat (5)." in page.inner_text("#confusion-about")
    assert page.locator("#confusion-table td[title='10.0 % of 50']").count() == 1
    # A point that was evaluated before there were any.
    page.select_option("#classes-a", f"0 {grid.rows[0].point}")
    assert not page.locator("#confusion").is_visible()


def test_confusions_of_many_classes_show_the_worst(open_page, tmp_path, write_evaluation):
    grid = write_evaluation(tmp_path / "a")
    counts = np.diag([*range(1, 81), 0])
    counts[70, 20] = 1
    write_confusion(
        tmp_path / "a", [*map(str, range(80))], counts, [row.point for row in grid.rows]
    )
    write_report([tmp_path / "a"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    shown = cells(page, "#confusion-table")
    names = [row[0] for row in shown]
    assert len(shown) == 25 and {"20", "70"} < set(names)
    assert [int(name) for name in names[:-1]] == sorted(int(name) for name in names[:-1])
    assert "Shown are the 24 classes" in page.inner_text("#confusion-about")


def test_pictures_of_any_point(open_page, two_runs):
    page = open_page(two_runs[0])
    selects = page.locator(".sheet .head select")
    selects.nth(0).select_option("0 0.50x480")
    cell = page.locator(".cell").nth(1)  # after the ground truth
    label = cell.locator(".frame").get_attribute("aria-label")
    assert label == f"1.png, Mutual {pretty('0.50x480')}: cat 90 %, dog 50 %"
    assert cell.locator("rect").count() == 2 and cell.locator(".mask").count() == 2
    page.uncheck("#pictures-masks")
    assert cell.locator("rect").count() == 2 and cell.locator(".mask").count() == 0
    page.locator("#pictures-score").fill("55")
    assert cell.locator("rect").count() == 1
    page.locator("#pictures-score").fill("95")
    assert "nothing above 0.95" in cell.inner_text()
    page.locator("#pictures-score").fill("30")

    cell.click()
    viewer = page.locator("#viewer")
    assert viewer.is_visible() and viewer.locator("#viewer-truth rect").count() == 1
    page.keyboard.press("Home")  # the slider has the focus
    cheap = page.inner_text("#viewer-shown")
    page.keyboard.press("End")
    dear = page.inner_text("#viewer-shown")
    assert cheap.startswith(pretty("0.25x240")) and dear.startswith(pretty("1.00x480"))
    assert viewer.locator("#viewer-found rect").count() == 2
    page.click("#viewer-next")
    assert page.inner_text("#viewer-title") == "2.png"
    page.select_option("#viewer-run", "1")
    assert "US-Net" in page.inner_text("#viewer-found figcaption")
    page.keyboard.press("Escape")
    assert viewer.is_hidden()


@pytest.mark.parametrize("width", [320, 820])
def test_narrow_windows_do_not_scroll_sideways(open_page, two_runs, width):
    page = open_page(two_runs[0], width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".cell").first.click()
    box = page.locator("#viewer").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_every_control_has_a_name(open_page, two_runs):
    page = open_page(two_runs[0])
    page.locator(".cell").first.click()
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, select, input, a, [tabindex]")].filter(each =>
            !each.textContent.trim() && !each.labels?.length && !each.ariaLabel
            && !each.hasAttribute("aria-labelledby") || each.tagName === "SELECT"
            && !each.labels.length && !each.ariaLabel).map(each => each.outerHTML)"""
    )
    assert unnamed == []


def test_names_are_never_markup(open_page, tmp_path, write_evaluation, run_facts):
    config = "DATASETS:\n  COCO_FORMAT: []\n" + "X: |\n  " + EVIL
    run = run_facts(EVIL, config, device=EVIL, weights=EVIL)
    for name in ("a", "b"):
        write_evaluation(tmp_path / name, run=run, classes=(EVIL, "dog"))
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html", [EVIL, "other"])
    page = open_page(tmp_path / "r.html")
    page.locator("#chart .dot").first.hover(force=True)
    assert page.locator("img, b").count() == 0
    assert page.evaluate("window.hacked") is None
    assert EVIL in page.inner_text("#title") and EVIL in page.inner_text("#classes-table")


ODD = {
    "without AP": {"ap": "none"},
    "one point": {"points": [OperatingPoint(1.0, 480)]},
    "classifier": {"kinds": ("class",)},
}
ODDER = {
    "all zero": {"ap": 0.0},
    "one width": {"points": [OperatingPoint(0.5, r) for r in (240, 480)]},
    "one resolution": {"points": [OperatingPoint(w, 480) for w in (0.25, 1 / 3, 1.0)]},
    "holes": {"points": [OperatingPoint(0.25, 240), OperatingPoint(1.0, 480)]},
    "boxes alone": {"kinds": ("box",)},
    "semantic": {"kinds": ("semantic",)},
    "panoptic": {"kinds": ("panoptic", "box", "mask", "semantic")},
    "keypoints": {"kinds": ("box", "keypoint")},
}


@pytest.mark.parametrize("case", [*ODD, *(pytest.param(c, marks=pytest.mark.slow) for c in ODDER)])
def test_odd_grids(open_page, tmp_path, write_evaluation, case):
    grid = write_evaluation(tmp_path / "a", **(ODD | ODDER)[case])
    write_report([tmp_path / "a"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    drawn = set() if case == "without AP" else {str(row.point) for row in grid.rows}
    assert shown_points(page, ".dot") == drawn
    assert page.locator(".heat td[data-point]").count() == len(grid.rows)
    counts = choose_each(page, "#metric", "document.querySelectorAll('#chart .dot').length")
    assert counts == [] if case == "without AP" else [len(drawn)] * len(metrics(grid))
    # GFLOPs, two devices and parameters; of devices also p95 and memory (of the GPU), detections.
    assert len(choose_each(page, "#cost", "null")) == 4
    assert len(choose_each(page, "#heat-value", "null")) == 8 + len(counts)
    page.check("#all-points")
    assert len(cells(page, "#points-table")) == len(grid.rows)
    drawing = page.inner_text("body") + page.inner_html("#chart")
    assert not any(word in drawing for word in ("NaN", "Infinity", "undefined", "null"))


def choose_each(page, select, value):
    """Choose each option, one after the other; gives a JavaScript value after each."""
    return page.evaluate(
        f"""() => {{
            const select = document.querySelector("{select}");
            return [...select.options].map((option) => {{
                select.value = option.value;
                select.dispatchEvent(new Event("change"));
                return {value};
            }});
        }}"""
    )


def metrics(grid):
    row = grid.rows[0]
    return [(k, m) for k in row.kinds for m, v in row.scores[k].items() if m != "per_class"]


def test_single_scores_that_are_missing(open_page, tmp_path, write_evaluation):
    """No small objects; and no AP at one point."""
    write_evaluation(tmp_path / "a")
    path = tmp_path / "a" / "grid" / "grid.json"
    grid = json.loads(path.read_text())
    for row in grid["rows"]:
        row["box"]["APs"] = None
    grid["rows"][3]["box"]["AP"] = grid["rows"][3]["box"]["per_class"]["cat"] = None
    path.write_text(json.dumps(grid))
    write_report([tmp_path / "a"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    assert "0.50x240" not in shown_points(page, ".dot") and len(shown_points(page, ".dot")) == 8
    assert page.locator("#metric option[value='box.APs']").count() == 0
    assert len(AP_METRICS) == 6 and page.locator("#metric option").count() == 11
    page.check("#all-points")
    (row,) = [r for r in cells(page, "#points-table") if r[0] == pretty("0.50x240")]
    assert row[2] == "\u2013"
    page.select_option("#classes-b", "0 0.50x240")
    (cat,) = [row for row in cells(page, "#classes-table") if row[0] == "cat"]
    assert cat[3:] == ["\u2013", "\u2013"]


def test_a_device_that_only_one_run_has(open_page, tmp_path, write_evaluation):
    for name in ("a", "b"):
        write_evaluation(tmp_path / name)
    path = tmp_path / "b" / "grid" / "grid.json"
    grid = json.loads(path.read_text())
    for row in grid["rows"]:
        del row["latency"][GPU]
    path.write_text(json.dumps(grid))
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    page.select_option("#cost", f"ms {GPU}")
    assert len(shown_points(page, ".dot", 0)) == 9 and not shown_points(page, ".dot", 1)
    answers = page.locator(".answer").all_inner_texts()
    assert f"Not measured on {GPU}" in answers[1] and "\u00d7" in answers[0]


def test_runs_of_several_data_sets(open_page, tmp_path, write_evaluation, run_facts):
    write_evaluation(tmp_path / "a")
    write_evaluation(tmp_path / "b", run=run_facts("others_val"))
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html")
    page = open_page(tmp_path / "r.html")
    assert "different data sets" in page.locator("[role=alert]").inner_text()


def test_on_paper(open_page, two_runs):
    page = open_page(two_runs[0], color_scheme="dark")
    page.emulate_media(media="print")
    assert page.locator(".sections").is_hidden() and page.locator("#chart svg").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
