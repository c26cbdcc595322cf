"""Reports: `report.json`, `report.md` and `report.html` of a run folder. Importable without torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples
from stagebench.core.errors import AnalysisError
from stagebench.core.json_files import write_json, write_text


def require_report_extra() -> None:
    """Refuse early, with an AnalysisError that names the extra, where what the HTML needs is missing."""
    if missing := [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]:
        raise AnalysisError(f"a report needs the extra: pip install 'stagebench[report]', got no {', '.join(missing)}")


def write_report(folder: Path) -> dict[str, Any]:
    """Analyse what a run folder holds, finished or not, write all three reports there, and return what the JSON holds.

    An AnalysisError where the folder is no run, holds no sample, can't be written to, or the extra is missing.
    """
    require_report_extra()
    from stagebench.analysis.report.document import to_html, to_markdown  # here, because they need the extra
    from stagebench.analysis.report.report_data import report_data
    from stagebench.analysis.report.sections import headlines, sections

    run, rows = read_run(folder), read_samples(folder / SAMPLES_FILE)
    found = report_data(run, rows)
    report = found | {"summary": headlines(found)}
    laid_out = sections(found, rows)
    title = f"stagebench: {found['identity']['models']} on {found['identity']['device']}"
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", to_markdown(title, laid_out))
    write_text(folder / "report.html", to_html(title, laid_out))
    return report
