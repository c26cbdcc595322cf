"""Reports: `report.json`, `report.md`, `report.html` and `trace.json` of a run folder. Importable without torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import write_json, write_text


def require_report_extra() -> None:
    """Refuse early, with an AnalysisError that names the extra, where what the HTML needs is missing."""
    if find_spec("jinja2") is None:
        raise AnalysisError("a report needs the extra: pip install 'stagebench[report]', got no jinja2")


def write_report(folder: Path) -> dict[str, Any]:
    """Analyse what a run folder holds, finished or not, write all reports there, and return what the JSON holds.

    An AnalysisError where the folder is no run, holds no sample, can't be written to, or the extra is missing.
    """
    require_report_extra()
    from stagebench.analysis.report.document import to_html, to_markdown  # here, because they need the extra
    from stagebench.analysis.report.report_data import report_data
    from stagebench.analysis.report.sections import headlines, sections, title
    from stagebench.analysis.report.timeline import to_trace

    run, rows = read_run(folder), read_samples(folder / SAMPLES_FILE)
    found = report_data(run, rows)
    report = found | {"summary": headlines(found)}
    laid_out = sections(found, rows, folder)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", to_markdown(title(found), laid_out))
    write_text(folder / "report.html", to_html(title(found), laid_out))
    if found["timeline"]:
        write_json(folder / "trace.json", to_trace(found["timeline"]))
    return report
