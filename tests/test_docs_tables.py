"""A table or a formula of the documentation that is wider than a phone is scrolled by keyboard."""

from pathlib import Path
from runpy import run_path

TABLES = Path(__file__).parents[1] / "docs" / "reference" / "tables.py"
on_page_content = run_path(str(TABLES))["on_page_content"]


def test_each_table_is_in_a_box_that_keys_reach():
    html = on_page_content("<p>a</p><table>\n<tr></tr></table><table><tr></tr></table>")
    box = '<div class="scroll" tabindex="0" role="group" aria-label="Table">'
    assert html == f"<p>a</p>{box}<table>\n<tr></tr></table></div>{box}<table><tr></tr></table></div>"


def test_the_lines_of_highlighted_code_are_no_table():
    code = '<table class="highlighttable"><tr></tr></table>'
    assert on_page_content(code) == code


def test_a_formula_on_its_own_lines_is_in_such_a_box_and_one_in_a_sentence_is_not():
    inline, block = ('<math xmlns="x" display="inline"></math>', '<math xmlns="x" display="block"><mi>e</mi></math>')
    box = '<div class="scroll" tabindex="0" role="group" aria-label="Formula">'
    assert on_page_content(inline + block) == f"{inline}{box}{block}</div>"
