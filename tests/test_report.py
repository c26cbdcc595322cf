"""The reports of a run that was made up: the same numbers everywhere, on a page that needs nothing but itself."""

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from collections import Counter
from hashlib import sha256
from html import escape
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from made_up_analysis import MODELS, TEXT, row, rows, run

from stagebench.analysis import narrative
from stagebench.analysis.report import write_report
from stagebench.analysis.report.document import COLORS, Figure, Folded, brief, ticks, to_html, to_trace
from stagebench.analysis.report.report_data import report_data, shared, timeline
from stagebench.analysis.report.sections import headlines, sections, title
from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples, thumbnail_of
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import write_bytes, write_json
from stagebench.core.shown import MS, Table
from stagebench.core.stages import STAGE_NAMES, STAGES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    write_json(out / "run.json", run())
    (out / "samples.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows()))
    write_report(out)
    return out


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, and the text of each cell of its tables."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.in_cell = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("td", "th"):
            self.cells.append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.cells[-1] += data

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


def test_the_page_asks_nothing_of_the_network_and_runs_no_script_but_its_own(folder, page):
    text = (folder / "report.html").read_text()
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base", "form"} == set()
    assert [each for each in page.values("href") if not each.startswith(("#", "data:application/json;base64,"))] == []
    assert [each for each in page.values("src") if not each.startswith("data:image/")] == []
    assert re.findall(r"@import|url\(|https?:", text) == []
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert page.values("content")[0] == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_every_section_is_in_the_table_of_contents_and_once(page):
    titles = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert [f"#{each}" for each in titles] == [each for each in page.values("href") if each.startswith("#")]
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert len(titles) == 15


def test_what_a_model_wrote_is_shown_and_not_run(folder):
    assert f">{escape(TEXT)}<" in (folder / "report.html").read_text()


def test_every_picture_has_a_text_and_every_table_that_may_scroll_is_reached_by_keyboard(page):
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert (len(pictures), all(each["aria-label"] for each in pictures)) == (10, True)
    scrolled = [attributes for _, attributes in page.tags if attributes.get("class") == "wide"]
    assert {(each["tabindex"], each["role"], each["aria-label"] != "") for each in scrolled} == {("0", "group", True)}


def test_the_parts_of_a_bar_fill_it(folder):
    """A bar of all passes is as long as the row, whatever the pass took."""
    bars = re.findall(
        r'<td colspan="\d+"><svg class="bar">(.*?)</svg>', (folder / "report.html").read_text(), re.DOTALL
    )
    lengths = [sum(map(float, re.findall(r'width="([\d.]+)%"', bar))) for bar in bars]
    assert lengths == pytest.approx([100] * (len(rows()) - 1), abs=0.01)


def test_the_rows_of_stages_have_their_colours_and_no_other_rows(folder):
    text = (folder / "report.html").read_text()
    assert re.findall(r'<th scope="row"><i class="key s-(\w+)"></i>', text) == [*STAGE_NAMES, "unattributed"] * 4


def test_what_is_lost_is_dashed_left_of_the_line():
    bars = [{"name": "Loading", "stage": "load", "saved": saved, "interval": None} for saved in (-0.25, 0.75)]
    page = to_html("x", {"Why": [Figure("x", "saved", bars)]})
    assert re.findall(r'<rect x="(.*?)" y="1" width="(.*?)" .*? stroke="#444"(.*?)/>', page) == [
        ("0.000%", "25.000%", ' fill-opacity=".3" stroke-dasharray="4 3" stroke-width="2"'),
        ("25.000%", "75.000%", ""),
    ]


def test_a_stage_has_its_colour_from_the_table_of_stages_and_nowhere_another(folder):
    text = (folder / "report.html").read_text()
    colors = [(stage.name, stage.color) for stage in (*STAGES, COLORS["unattributed"])]
    assert re.findall(r"\.s-(\w+) \{ --fill: (#\w+); \}", text) == colors
    assert set(re.findall(r'<rect .*? fill="(#\w+)".*?><title>(\w+)', text)) == {color[::-1] for color in colors}


def test_warnings_lie_folded_behind_the_results_by_their_kind(folder):
    text = (folder / "report.html").read_text()
    headings = re.findall(r"<h2 id=.*?>(.*?)</h2>", text)
    assert headings.index("Warnings") > headings.index("Every pass") > headings.index("Stages")
    assert re.findall(r"<details(.*?)>\s*<summary>(.*?)</summary>", text) == [("", "drift: 4")]
    assert "drift (4)" in text


def test_every_pass_and_every_failure_is_a_row_of_the_last_table(page, folder):
    assert page.tags.count(("tr", {"class": "more"})) == len(rows()) - 1
    assert "failed: clip.mp4: must be whole" in page.cells


def test_a_picture_is_shown_beside_its_file_if_it_is_one_and_all_files_are_listed(tmp_path):
    media = {"kind": "events", "images": 5, "width": 640, "height": 480, "bytes": 8, "span": 0.5}
    lines = [row("quick", i) | {"path": f"{i}.npy", "media": media} for i in range(3)]
    found = report_data(run(), lines)
    for i, data in enumerate((b"\xff\xd8\xff a picture", b"<svg onload=...")):
        write_bytes(tmp_path / thumbnail_of(f"s{i}", f"{i}.npy", 5), data)
    gallery, folded = sections(found, lines, tmp_path)["Media"]
    assert [(sample, [each["file"] for each in files]) for sample, files in gallery.data] == [("s0", ["0.npy"])]
    assert folded.line == "All files: 3"
    assert folded.table.grid()[2][2] == ["s2", "2.npy", "events", "5", "640", "480", "0.500", "0.00"]
    assert 'alt="5 event images of 0.npy"' in to_html("x", {"Media": [gallery, folded]})


def page_of(lines):
    found = report_data(run(), lines)
    return Page(to_html(title(found), sections(found, lines)))


def test_a_stage_that_takes_no_time_is_drawn_too():
    for stage in ("load", "decode"):
        nothing = [row(model, i) for model in MODELS for i in range(3)]
        nothing += [
            row(model, i, "durations", value, "fixed") for model in MODELS for i in (0, 1) for value in (1.0, 4.0)
        ]
        for each in nothing:
            each["seconds"] = each["seconds"] | {stage: 0.0}
            each["itl"] = [0.0] * len(each["itl"])
        assert [path for path in page_of(nothing).values("d") if "nan" in path or "inf" in path] == []


def test_one_model_has_no_difference_to_explain_and_a_headline():
    alone = [each for each in rows() if each["model"] == "quick"]
    assert headlines(report_data(run(), alone))[0] == "Natural length. quick takes 18.320 ms."
    assert "saved" not in page_of(alone).values("class")


def pair(**speedup):
    costs = {"model": "a", "total": 2.0, "tokens": 2.0, "time_per_token": 0.1, "parts": {"load": 1.9}, "prefilled": 1}
    numbers = {"seconds": {"load": 0.9}, "saved": 0.9, "speedup": 1.8, "shares": {"load": 1.0}}
    interval = {"speedup": speedup, "saved": speedup, "seconds": {"load": speedup}, "shares": None}
    return {"baseline": costs, "other": costs | {"model": "b"}, "intervals": interval, "sentences": []} | numbers


def test_an_interval_that_spans_1_is_no_difference_and_has_no_shares():
    found = pair(low=0.9, high=2.5)
    whole, loading = narrative.sentences(found)
    assert whole.startswith(
        "No difference seen: b takes 2,000.000 ms where a takes 2,000.000 ms, 0.90 to 2.50 times as"
    )
    assert loading == "Loading saves 900.000 ms."
    assert [head for head in narrative.table(found).grid()[0] if head in ("share", "in logs")] == []


def test_an_interval_beside_1_is_a_difference_written_in_as_many_digits_as_tell_it_from_1():
    assert narrative.sentences(pair(low=1.001, high=2.5))[0].endswith(
        "1.800 times as fast (95 % interval 1.001 to 2.500)."
    )
    assert (
        narrative.sentences(pair(low=1.5, high=2.5))[1] == "Loading explains 900.000 of the 900.000 ms saved (100.0 %)."
    )


def test_samples_of_one_sequence_have_no_interval_and_the_headline_says_so():
    one = [each | {"sequence": "q"} for each in rows()]
    heads = headlines(report_data(run(), one))
    assert heads[0].endswith("one sequence, so there is no interval: others may show otherwise.")


@pytest.mark.parametrize(
    ("weights", "said"), [("random", "quick, slow (random weights) on x"), ("/c", "quick, slow on x")]
)
def test_the_title_says_where_weights_are_random(weights, said):
    assert title({"identity": {"models": "quick, slow", "device": "x", "weights": weights}}) == f"stagebench: {said}"


def test_the_trace_is_one_pass_of_each_model_that_viewers_of_traces_read(folder, page):
    trace = json.loads((folder / "trace.json").read_text())
    events = trace["traceEvents"]
    (link,) = [each for each in page.values("href") if each.startswith("data:")]
    assert json.loads(b64decode(link.partition(",")[2])) == trace
    assert {event["ph"] for event in events} == {"M", "X", "i"}
    assert [e["args"]["name"] for e in events if e["name"] == "process_name"] == [
        "quick: s4, natural length",
        "slow <b>: s4, natural length",
    ]
    for process in (1, 2):
        stages = [e for e in events if e["ph"] == "X" and e["pid"] == process]
        assert [e["name"] for e in stages] == [stage.name for stage in STAGES]
        assert all(b["ts"] == pytest.approx(a["ts"] + a["dur"]) for a, b in pairwise(stages))


def test_a_token_is_a_mark_when_it_was_known():
    line = timeline([row("quick", 0, tokens=4) | {"token_times": [0.402, 0.404, 0.406]}])
    marks = [event for event in to_trace(line)["traceEvents"] if event["ph"] == "i"]
    assert [(mark["name"], round(mark["ts"])) for mark in marks] == [
        ("token 2", 402_000),
        ("token 3", 404_000),
        ("token 4", 406_000),
    ]


def test_a_pass_that_did_not_note_when_its_stages_began_has_no_timeline():
    old = {key: value for key, value in row("quick", 0).items() if key != "starts"}
    assert timeline([old]) == {}


def test_models_that_share_no_sample_have_no_timeline():
    assert timeline([row("quick", 0), row("slow <b>", 1)]) == {}


@pytest.mark.parametrize(
    ("seconds", "written"), [(1.2345, "1,234"), (0.09999, "100"), (0.0123, "12.3"), (-2.9e-18, "0"), (-1e-6, "-0.001")]
)
def test_a_picture_writes_few_digits(seconds, written):
    assert brief(seconds) == written


@pytest.mark.parametrize(
    ("top", "found"), [(1.0, [0, 0.5, 1.0]), (0.09, [0, 0.05]), (7.0, [0, 2, 4, 6]), (1e-6, [0, 5e-7, 1e-6])]
)
def test_an_axis_has_a_few_round_numbers(top, found):
    assert ticks(top) == pytest.approx(found)


def test_the_same_run_gives_the_same_bytes(folder):
    before = (folder / "report.html").read_bytes()
    write_report(folder)
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.parametrize("mode", ["natural", "fixed"])
def test_page_markdown_and_json_show_the_same_numbers(folder, page, mode):
    found = json.loads((folder / "report.json").read_text())["modes"][mode]
    markdown = (folder / "report.md").read_text()
    numbers = [spread["mean"] for summary in found["models"].values() for spread in summary["stages"].values()]
    numbers += [seconds for pair in found["pairs"] for seconds in pair["seconds"].values()]
    numbers += [line["slope"] for line in found["fits"].values()]
    shown = [MS.write(each) for each in numbers]
    assert [each for each in shown if each not in page.cells] == []
    assert [each for each in shown if f"| {each} |" not in markdown] == []


def tables(parts):
    for part in parts:
        if isinstance(part, Table):
            yield part
        elif isinstance(part, Folded):
            yield part.table


def test_all_tables_are_on_the_page_and_in_the_markdown(folder, page):
    passes = read_samples(folder / SAMPLES_FILE)
    laid_out = sections(report_data(read_run(folder), passes), passes)
    grids = [table.grid() for parts in laid_out.values() for table in tables(parts)]
    listed = [cell for heads, _, rows in grids for cells in (heads, *rows) for cell in cells]
    assert Counter(listed) - Counter(page.cells) == Counter()
    instead = [p.instead for parts in laid_out.values() for p in parts if isinstance(p, Figure) and p.instead]
    lines = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == sum(2 + len(rows) for _, _, rows in (*grids, *(table.grid() for table in instead)))


def test_both_kinds_of_failure_are_named(folder):
    failures = json.loads((folder / "report.json").read_text())["failures"]
    assert failures == [{"name": "b", "reason": "empty"}, {"name": "s99", "reason": "quick: clip.mp4: must be whole"}]


def test_what_a_model_lacks_is_left_out_for_all():
    both = [row(model, i) for i in range(3) for model in MODELS]
    assert {each["sample"] for each in shared(both[:-1])} == {"s0", "s1"}


def test_a_growth_in_proportion_has_exponent_one(folder):
    scaling = json.loads((folder / "report.json").read_text())["scaling"]["durations"]
    assert scaling["quick"]["load"]["growth"]["exponent"] == pytest.approx(1)
    assert scaling["quick"]["encode"]["growth"]["exponent"] == pytest.approx(0)


def test_utilisation_is_work_over_time_over_the_ceiling(folder):
    report = json.loads((folder / "report.json").read_text())
    use = report["modes"]["natural"]["utilisation"]["quick"]
    # One of four steps: 250,000 FLOPs and bytes in 2 ms, of 1e10 a second.
    assert use["decode"]["mfu"] == pytest.approx(250_000 / 2e-3 / 1e10)
    assert use["decode"]["mbu"] == pytest.approx(250_000 / 2e-3 / 1e10)


def test_models_of_one_tokenizer_are_each_others_draft(folder):
    drafts = json.loads((folder / "report.json").read_text())["drafting"]
    assert [(each["draft"], each["target"]) for each in drafts] == [("quick", "slow <b>"), ("slow <b>", "quick")]
    # Every other sample parts at the second token; the others agree in all of theirs.
    assert drafts[0]["agreement"]["match_rates"][:2] == [1.0, 0.5]


def test_a_run_without_a_sample_has_no_report(tmp_path):
    write_json(tmp_path / "run.json", run())
    (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(AnalysisError, match="at least one sample that went through a model, got none"):
        write_report(tmp_path)


def test_a_report_needs_no_torch(folder):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from stagebench.analysis.report import write_report\n"
        f"write_report(Path({str(folder)!r}))\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
