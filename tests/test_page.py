import base64
import gzip
import itertools
import json
import os
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from cotdistill.errors import DataError
from cotdistill.report import from_json
from cotdistill.reporting import browse, chart, page
from cotdistill.reporting.browse import pieces
from cotdistill.reporting.model_card import MARK, shareable
from cotdistill.reporting.publication import publish
from cotdistill.reporting.run_files import read_run, report_of
from cotdistill.reporting.tabular import tabular
from cotdistill.statistics import Paired
from cotdistill.storage.manifest import Manifest
from synthetic_run import HOSTILE, make_run


class Elements(HTMLParser):
    """The tags of a page with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        inside = self.tags[-1][0] if self.tags else ""
        (self.scripts if inside in ("script", "style") else self.text).append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_run(tmp_path_factory.mktemp("run") / "made-up", 60)
    publish(directory)
    return directory


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_run(tmp_path_factory.mktemp("run") / "hostile", 30, hostile=True)
    publish(directory)
    return directory


def unpack(page: str) -> list[browse.Row]:
    return msgspec.json.decode(gzip.decompress(base64.b64decode(page)), type=list[browse.Row])


def packed_rows(html: str) -> list[browse.Row]:
    return [row for packed in re.findall(r'class="packed">([^<]*)<', html) for row in unpack(packed)]


# --- what the page says


def test_every_number_of_the_report_is_on_the_page_and_the_rows_add_up_to_it(made):
    report = from_json((made / "7_report.json").read_bytes())
    html = (made / "7_report.html").read_text(encoding="utf-8")
    text = " ".join("".join(Elements(html).text).replace("\u2060", "").split())
    assert report.sentence in text
    for score in report.models.values():
        assert f"{score.correct}/{score.n}" in text
    rows = [row for row in packed_rows(html) if row.slice == "held_out"]
    outcomes = [row.outcome for row in rows]
    pair = report.paired
    assert [outcomes.count(name) for name in ("both", "lost", "gained", "neither")] == [
        pair.both, pair.only_base, pair.only_student, pair.neither,
    ]  # fmt: skip
    for name, score in report.models.items():
        answers = [answer for row in rows for answer in row.answers if answer.by == name]
        marks = [answer.mark for answer in answers]
        assert (len(answers), marks.count("right")) == (score.n, score.correct)
        assert (marks.count("no_answer"), marks.count("error")) == (score.no_answer, score.errors)
        assert marks.count("truncated") == score.truncated
    statuses = [verdict.status for verdict in read_run(made).verdicts]
    traces = [row.outcome for row in packed_rows(html) if row.slice == "traces"]
    assert sorted(traces) == sorted(statuses)
    for status in {*statuses} - {"correct"}:
        assert f"dropped: {status.replace('_', ' ')}" in text


def test_the_marked_answer_and_the_false_steps_are_marked_where_they_stand():
    text = "5 + 3 = 8, then 8 + 2 = 11.\nFinal Answer: 11\nSo 11 birds."
    assert pieces(text, "11", ["8 + 2 = 11"]) == [
        "5 + 3 = 8, then ", ("bad", "8 + 2 = 11"), ".\nFinal Answer: ", ("answer", "11"), "\nSo 11 birds.",
    ]  # fmt: skip
    assert pieces("It is 3, or 4.", "4", marked=False) == ["It is 3, or ", ("read", "4"), "."]
    assert pieces("1 + 1 = 3", "3", ["1 + 1 = 3"], marked=False) == [("bad", "1 + 1 = "), ("read bad", "3")]
    assert pieces("Final Answer: 7", "") == ["Final Answer: 7"]
    assert pieces("<think>9</think>Final Answer: 9", "9")[-1] == ("answer", "9")


def test_a_long_text_is_cut_and_says_so():
    cut = pieces("a" * (browse.MOST_CHARACTERS + 5), "")
    assert cut[-1] == ("cut", "\n[5 more characters are in the run's files]")


# --- safety


def test_nothing_that_a_model_or_a_user_wrote_becomes_markup(hostile):
    html = (hostile / "7_report.html").read_text(encoding="utf-8")
    elements = Elements(html)
    assert not [tag for tag, _ in elements.tags if tag in ("img", "iframe", "object", "link", "base")]
    kinds = [attributes.get("type") or attributes.get("class") for tag, attributes in elements.tags if tag == "script"]
    assert kinds == ["application/octet-stream", "application/json", None]
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith(("on", "style"))]
    assert "document.title" not in "".join(elements.scripts)
    assert not set("\x00\x07\x1b\u202e\u2066\u2028\u2029") & set(html)
    written = json.dumps(msgspec.to_builtins(packed_rows(html)), ensure_ascii=False)
    assert HOSTILE[6] in written  # no template reads it
    assert "\\\\x1b" in written
    assert not set("\x1b\u202e\u2066\u2028\u2029") & set(written)


def test_the_page_loads_nothing_and_forbids_every_other_script(hostile, made):
    for directory in (hostile, made):
        html = (directory / "7_report.html").read_text(encoding="utf-8")
        loads = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background"}
        for tag, attributes in Elements(html).tags:
            assert all(value.startswith("#") for name, value in attributes.items() if name in loads), tag
        assert not re.search(r"https?://|@import|url\(", html)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
        assert policy.startswith("default-src &#39;none&#39;; ")
        assert "unsafe" not in policy
        assert "file:" not in policy


def test_page_and_card_say_nothing_of_the_machine(made):
    for name in ("7_report.html", "5_adapter/README.md"):
        assert "/home/somebody" not in (made / name).read_text(encoding="utf-8")
    told = {"a": ["/x/y.gguf", r"C:\x\y", "~/m", "org/name"], "server": {"base_url": ["http://gpu1/v1"]}}
    assert shareable(told) == {"a": ["y.gguf", "y", "m", "org/name"], "server": {"base_url": "not shown"}}


# --- size


def test_a_thousand_questions_are_one_file_below_two_megabytes(tmp_path):
    directory = make_run(tmp_path / "k", 1000)
    publish(directory)
    assert (directory / "7_report.html").stat().st_size < 2_000_000
    assert not list(directory.glob("7_report_rows*"))
    assert len(packed_rows((directory / "7_report.html").read_text(encoding="utf-8"))) == 1000 + 6 + 1000


def test_a_larger_run_puts_the_rest_of_its_rows_beside_the_page_and_none_is_lost(made, tmp_path, monkeypatch):
    monkeypatch.setattr(browse, "PAGE_BYTES", 20_000)
    monkeypatch.setattr(page, "MOST_INLINE", 12_000)
    run = read_run(made)
    whole = page.render(run, report_of(run))
    beside = [unpack(re.fullmatch(r'cotdistillRows\("(.*)"\);\n', text)[1]) for text in whole.rows.values()]
    assert list(whole.rows)[:2] == ["7_report_rows_2.js", "7_report_rows_3.js"]
    assert json.dumps(list(whole.rows)) in whole.html
    ids = [row.id for row in packed_rows(whole.html)] + [row.id for rows in beside for row in rows]
    assert sorted(ids) == sorted([*(f"q{i}" for i in range(60)), *(f"u{i}" for i in range(6)),
                                  *(f"t{i}#0" for i in range(60))])  # fmt: skip


# --- rebuilding


def test_a_report_is_built_from_the_files_alone_and_is_the_same_again(made):
    written = {name: (made / name).read_bytes() for name in ("7_report.json", "7_report.html", "5_adapter/README.md")}
    for name in written:
        (made / name).unlink()
    (made / "7_report_rows_9.js").write_text("of an earlier, larger run")
    publish(made)
    assert written == {name: (made / name).read_bytes() for name in written}
    assert not (made / "7_report_rows_9.js").exists()


def test_rebuilding_imports_neither_torch_nor_an_engine(made):
    code = (
        "import sys; from pathlib import Path; from cotdistill.reporting.publication import publish; publish(Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'xllamacpp', 'reasoning_gym', 'httpx', 'scipy.stats'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_without_answers_has_no_report(tmp_path):
    with pytest.raises(DataError, match="has no report yet; finish the run"):
        publish(tmp_path)


def test_a_card_that_somebody_edited_stays(made):
    card = made / "5_adapter/README.md"
    before = card.read_text(encoding="utf-8")
    assert before.startswith(f"---\n{MARK}")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in before
    assert "license: apache-2.0\n" in before
    card.write_text("---\nmine: true\n---\n")
    publish(made)
    assert card.read_text() == "---\nmine: true\n---\n"
    card.write_text(before)


# --- the commands


def cotdistill(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cotdistill.cli", *words], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(page.__file__).parents[2]), **environment},
    )  # fmt: skip


def test_report_prints_the_table_in_the_form_that_was_asked_for(made):
    (made / "7_report.json").unlink()
    assert report_of(read_run(made)).sentence in " ".join(cotdistill("report", str(made)).stdout.split())
    assert (made / "7_report.json").is_file()
    assert cotdistill("report", str(made), "--format", "csv").stdout.startswith("questions,model,n,")
    refused = cotdistill("report", str(made), "--format", "pdf")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "'pdf' is not one of 'table', 'markdown', 'csv', 'latex'" in refused.stderr


def test_view_opens_the_page_and_makes_it_where_it_is_missing(made, tmp_path):
    (made / "7_report.html").unlink()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > "{tmp_path}/opened"\n')
    browser.chmod(0o755)
    done = cotdistill("view", str(made), BROWSER=f"{browser} %s")
    assert (done.returncode, done.stdout) == (0, f"{made / '7_report.html'}\n")
    assert (tmp_path / "opened").read_text() == (made / "7_report.html").as_uri()
    none = cotdistill("view", str(made), BROWSER="", PATH="", DISPLAY="", WAYLAND_DISPLAY="")
    assert (none.returncode, none.stdout) == (0, f"{made / '7_report.html'}\n")
    assert "open the file in one yourself" in none.stderr


def test_a_report_on_a_thousand_questions_takes_seconds(tmp_path):
    directory = make_run(tmp_path / "k", 1000)
    took = []
    for _ in range(2):  # the first one may have to compile
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert cotdistill("report", str(directory)).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    # Seconds of a core, as a test machine is seldom idle; two where it is, and a busy one also computes more slowly.
    assert min(took) < 5


# --- tables


def test_tables_for_documents_hold_every_model_and_escape_their_text(made):
    report = report_of(read_run(made))
    assert tabular(report, "csv").count("\n") == 6
    assert tabular(report, "csv").startswith("questions,model,n,ungraded,correct,accuracy,ci_low")
    latex, markdown = tabular(report, "latex"), tabular(report, "markdown")
    assert latex.count(r" \\") == 8
    assert not re.search(r"(?<!\\)%(?! Held| Unseen)", latex)
    assert [line.count("|") for line in markdown.splitlines() if "|" in line] == [10] * 10


# --- figures


def test_a_flow_is_as_high_as_its_counts_and_its_labels_never_touch():
    for counts in ((1, 1, 1, 97), (0, 0, 1, 0), (50, 0, 0, 50), (2, 1, 46, 32), (1000, 1, 1, 1)):
        drawn = chart.flow(Paired(*counts, p_value=0.5))
        assert sum(band.count for band in drawn.bands) == sum(counts)
        labels = sorted(band.label for band in drawn.bands)
        assert all(b - a >= chart.LABEL_HEIGHT - 0.02 for a, b in itertools.pairwise(labels))
        assert all(0 <= label <= drawn.height for label in labels)
        heights = [side.height for side in drawn.after]
        assert sum(heights) == pytest.approx(chart.FLOW_HEIGHT - chart.FLOW_GAP, abs=0.1)


def test_a_histogram_holds_every_answer_and_marks_those_that_were_cut():
    lengths = {"base": [(10, False)] * 3 + [(96, True)], "student": [(20, False)]}
    (base, student), axis = chart.histograms(lengths, 96)
    unit = chart.HISTOGRAM_HEIGHT / 3
    assert sum(bar.height for bar in base.bars) == pytest.approx(4 * unit, abs=0.1)
    assert sum(bar.cut for bar in base.bars) == pytest.approx(unit, abs=0.1)
    assert (base.middle, base.cut, student.cut) == (10, 1, 0)
    assert [tick.text for tick in axis] == ["0", "48", "96"]


def test_terms_of_the_loss_and_questions_set_aside_are_drawn_on_one_scale():
    losses = [(step, 1.0 / step) for step in range(1, 21)]
    drawn = chart.line(losses, terms={"kl": [(s, 4 * x) for s, x in losses]}, tried=[(10, 2.0), (20, 3.0)], best=10)
    assert drawn.up[1].text == "5"
    assert [(term.name, term.last) for term in drawn.terms] == [("kl", pytest.approx(0.2))]
    assert drawn.best == drawn.tried.places[0]
    assert drawn.tried.places[0][1] > drawn.tried.places[1][1]
    assert chart.line(losses, tried=[(20, 3.0)], best=None).best is None


def test_the_page_shows_the_second_student_the_terms_and_which_step_was_kept(tmp_path):
    report = publish(make_run(tmp_path / "run", 30, more=True))
    html = (tmp_path / "run/7_report.html").read_text()
    for part in ("answers alone</li>", "questions set aside</li>", "the adapter of step 27", "(answer_only) the student",
                 "against learning the answers alone", "training on answers alone"):  # fmt: skip
        assert part in html, part
    assert html.count('class="dot kept"') == 2
    assert report.reasoning_worth is not None


def test_the_costs_hold_the_students_own_samples_and_what_it_read_to_choose_traces(tmp_path):
    directory = make_run(tmp_path / "run", 30)
    manifest = Manifest.open(directory / "manifest.json")
    manifest.claim("likelihoods", {}, overwrite=False, files=[])
    manifest.finish("likelihoods", rows=30, tokens=4321, seconds=12.0)
    manifest.claim("generate/student", {}, overwrite=False, files=[])
    manifest.finish("generate/student", rows=8, prompt_tokens=765, completion_tokens=987, seconds=34.0)
    publish(directory)
    html = (directory / "7_report.html").read_text()
    for part in ("likelihood of the traces", "<td>4,321</td>", "student’s own samples", "<td>765</td><td>987</td>"):
        assert part in html, part


def test_a_loss_curve_needs_two_points_and_keeps_its_ends():
    assert chart.line([(1, 2.0)]) is None
    drawn = chart.line([(step, 1000 / step) for step in range(1, 2001)])
    assert (drawn.first, drawn.last) == (1000, 0.5)
    assert len(drawn.points.split()) <= 402
    assert [tick.text for tick in drawn.across] == ["1", "1000", "2000"]
