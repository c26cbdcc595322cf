"""The reports of a run that was made up: the same numbers everywhere, on a page that needs nothing but itself."""

import json
import re
import subprocess
import sys
from base64 import b64decode
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from made_up_analysis import MODELS, TEXT, row, rows, run

from stagebench.analysis.report import write_report
from stagebench.analysis.report.report_data import report_data, shared
from stagebench.analysis.report.sections import sections
from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import write_json
from stagebench.core.shown import MS, Table


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


def test_the_page_has_no_script_and_asks_nothing_of_the_network(folder, page):
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "base", "form"} == set()
    assert [each for each in page.values("href") if not each.startswith("#")] == []
    assert [each for each in page.values("src") if not each.startswith("data:image/svg+xml;base64,")] == []
    assert re.findall(r"@import|url\(|https?:", (folder / "report.html").read_text()) == []


def test_every_section_is_in_the_table_of_contents_and_once(page):
    titles = [attributes["id"] for tag, attributes in page.tags if tag == "h2"]
    assert [f"#{each}" for each in titles] == page.values("href")
    assert len(set(page.values("id"))) == len(page.values("id"))
    assert len(titles) == 14


def test_what_a_model_wrote_is_shown_and_not_run(folder):
    assert f">{escape(TEXT)}<" in (folder / "report.html").read_text()


def pictures(page):
    encoded = [each.partition(",")[2] for each in page.values("src")]
    return [ElementTree.fromstring(b64decode(each)) for each in encoded]  # noqa: S314 - our own


def test_every_figure_of_the_document_is_a_picture_with_a_text(page):
    assert len(pictures(page)) == 8
    assert all(page.values("alt"))


def test_a_picture_is_grey_and_refers_to_nothing_outside(page):
    for picture in pictures(page):
        text = ElementTree.tostring(picture, encoding="unicode")
        colours = {each.lower() for each in re.findall(r"#[0-9a-fA-F]{6}\b", text)}
        assert [each for each in colours if len({each[1:3], each[3:5], each[5:7]}) > 1] == []
        references = [value for e in picture.iter() for key, value in e.attrib.items() if key.endswith("href")]
        assert [each for each in references if not each.startswith("#")] == []


def test_the_same_run_gives_the_same_bytes(folder):
    before = (folder / "report.html").read_bytes()
    write_report(folder)
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.parametrize("mode", ["natural", "fixed"])
def test_page_markdown_and_json_show_the_same_numbers(folder, page, mode):
    found = json.loads((folder / "report.json").read_text())["modes"][mode]
    markdown = (folder / "report.md").read_text()
    numbers = [spread["median"] for summary in found["models"].values() for spread in summary["stages"].values()]
    numbers += [seconds for pair in found["pairs"] for seconds in pair["seconds"].values()]
    numbers += [line["slope"] for line in found["fits"].values()]
    shown = [MS.write(each) for each in numbers]
    assert [each for each in shown if each not in page.cells] == []
    assert [each for each in shown if f"| {each} |" not in markdown] == []


def test_all_tables_are_on_the_page_and_in_the_markdown(folder, page):
    passes = read_samples(folder / SAMPLES_FILE)
    laid_out = sections(report_data(read_run(folder), passes), passes)
    grids = [part.grid() for parts in laid_out.values() for part in parts if isinstance(part, Table)]
    assert [cell for heads, _, rows in grids for cells in (heads, *rows) for cell in cells] == page.cells
    lines = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == sum(2 + len(rows) for _, _, rows in grids)


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


def test_without_the_extra_the_error_names_it(folder):
    script = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from pathlib import Path\n"
        "from stagebench.analysis.report import write_report\n"
        f"try: write_report(Path({str(folder)!r}))\n"
        "except Exception as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("a report needs the extra: pip install 'stagebench[report]'")


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
