"""Publication: what a run shows to others, written from its files alone.

    7_report.json  7_report.html  7_report_rows_2.js (a large run only)  5_adapter/README.md
"""

from pathlib import Path

from cotdistill.report import Report, to_json
from cotdistill.reporting.model_card import MARK, model_card
from cotdistill.reporting.page import ROWS, render
from cotdistill.reporting.run_files import read_run, report_of
from cotdistill.run_directory import RunDirectory
from cotdistill.storage.disk import cannot, write_atomic


def publish(directory: Path) -> Report:
    """Write the report, the page and the model card of a run, and return the report. Loads no model.

    A model card whose first lines do not say that it was written here is somebody's own, and stays.
    Raises ``DataError`` where the run is not finished or its files do not fit together.
    """
    run, files = read_run(directory), RunDirectory(directory)
    report = report_of(run)
    page = render(run, report)
    write_atomic(files.report, to_json(report))
    for name, content in page.rows.items():
        write_atomic(directory / name, content.encode())
    write_atomic(files.page, page.html.encode())
    for old in directory.glob(ROWS.format("*")):
        if old.name not in page.rows:
            old.unlink(missing_ok=True)
    card = files.adapter / "README.md"
    if card.parent.is_dir() and _ours(card):
        write_atomic(card, model_card(run, report).encode())
    return report


def _ours(card: Path) -> bool:
    try:
        with card.open("rb") as file:
            return MARK.encode() in file.read(200)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise cannot("read", card, error) from error
