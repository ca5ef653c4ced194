"""Question file: the rows of what questions are kept in, JSON Lines, a JSON array, CSV, Parquet or a hub data set."""

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cotdistill.errors import DataError, SetupError, UsageError
from cotdistill.shown import cause_of

FORMATS = "JSON Lines (one object a line), a JSON array, CSV (.csv) or Parquet (.parquet)"


class Digits(str):
    """A JSON number with a point or exponent, digit for digit: 36.50 stays "36.50"."""

    __slots__ = ()


Row = tuple[str, dict[str, object]]  # where it stands ("file:line"), what it says


def rows_of(path: str | Path) -> Iterator[Row]:
    """The rows of a file in any of these formats, or of ``hub:NAME[:CONFIG]:SPLIT``, as they come. Raises ``DataError``
    for what cannot be read, ``SetupError`` where a format needs a package that is not installed."""
    if str(path).startswith("hub:"):
        return _hub_rows(str(path))
    path = Path(path)
    match path.suffix.lower():
        case ".parquet":
            return _parquet_rows(path)
        case ".csv":
            return _csv_rows(path)
        case _:
            return _json_rows(path)


def _refuse_utf16(path: Path, begin: bytes) -> None:
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: this is UTF-16 text, not UTF-8; save the file as UTF-8")


def _json_rows(path: Path) -> Iterator[Row]:
    decoder = msgspec.json.Decoder(dict[str, object], float_hook=Digits)
    where, line = str(path), b""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    _refuse_utf16(path, line)
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if number == 1 and line.lstrip().startswith(b"["):
                    array = msgspec.json.Decoder(list[dict[str, object]], float_hook=Digits)
                    for index, row in enumerate(array.decode(line + file.read()), start=1):
                        yield f"{path}, row {index}", row
                    return
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, decoder.decode(line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        what = f"; questions are read from {FORMATS}" if where == f"{path}:1" else ""
        problem = f"not a JSON object ({json_fault(line, error)}); repair or remove it{what}"
        raise DataError(f"{where}: {problem}") from error


_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


def json_fault(line: bytes, error: Exception) -> str:
    """What is wrong with a line that is not JSON; of half a character the decoder says that the line is cut."""
    half = _HALF.search(line) if "truncated" in str(error) else None
    return f"{half[0].decode()} is half a character" if half else str(error)


def _csv_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as bytes_:
            _refuse_utf16(path, bytes_.read(2))
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if twice := next((name for name in names if name and names.count(name) > 1), None):
                raise DataError(f"{path}:1: two columns are called {twice!r}; rename one")
            for row in reader:
                if None in row:
                    raise DataError(f"{path}:{reader.line_num}: more columns than the header names; quote its commas")
                yield f"{path}:{reader.line_num}", dict(row)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); repair the line") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(f"reading {path} needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:  # pyarrow's own errors are children of these
        raise DataError(f"cannot read {path} as Parquet: {cause_of(error)}") from error


def _hub_rows(spec: str) -> Iterator[Row]:
    parts = spec.split(":")
    if not (3 <= len(parts) <= 4 and all(parts)):
        raise UsageError(f"{spec!r} does not name hub questions; write hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT")
    try:
        import datasets
    except ImportError as error:
        raise SetupError(f'reading {spec} needs datasets: pip install datasets') from error
    try:
        rows = datasets.load_dataset(parts[1], *parts[2:-1], split=parts[-1])
    except Exception as error:  # the library, the network and the hub each have their own
        raise SetupError(f"cannot load {spec}: {cause_of(error)}") from error
    for index, row in enumerate(rows, start=1):
        yield f"{spec}, row {index}", row
