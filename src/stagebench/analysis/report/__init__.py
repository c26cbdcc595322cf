"""Reports: `report.json`, `report.md`, `report.html` and `trace.json` of a run folder. Importable without torch."""

from pathlib import Path
from typing import Any

from stagebench.analysis.samples import SAMPLES_FILE, read_run, read_samples
from stagebench.core.json_files import write_json, write_text


def write_report(folder: Path) -> dict[str, Any]:
    """Write all reports of a run, finished or not, into its folder, and return the JSON's; raise as `report_data`."""
    from stagebench.analysis.report import document  # here, because an analysis takes long to import
    from stagebench.analysis.report.report_data import report_data
    from stagebench.analysis.report.sections import headlines, sections, title

    run, rows = read_run(folder), read_samples(folder / SAMPLES_FILE)
    found = report_data(run, rows)
    report = found | {"summary": headlines(found)}
    laid_out = sections(found, rows, folder)
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", document.to_markdown(title(found), laid_out))
    write_text(folder / "report.html", document.to_html(title(found), laid_out))
    if found["timeline"]:
        write_json(folder / "trace.json", document.to_trace(found["timeline"]))
    return report
