"""Scoring teacher: who gives a token-level objective its probabilities, checked before any weights are loaded."""

from functools import cache
from pathlib import Path

import msgspec

from cotdistill.download import cache_directory, local_model
from cotdistill.engines.opening import find_gguf
from cotdistill.engines.server import Server
from cotdistill.errors import SetupError, UsageError
from cotdistill.identity import model_hash
from cotdistill.learning.relation import Relation, permitted, read_tokens, relation
from cotdistill.model_files.conversion import to_hugging_face
from cotdistill.settings.objective import TOKEN_LEVEL, Objective
from cotdistill.template import read_tokenizer


class ScoringTeacher(msgspec.Struct, frozen=True):
    """``model`` is a catalogue name or a path, or the name that the ``server`` knows it by; ``scores`` is the
    file in which its probabilities are kept."""

    model: str
    scores: Path
    server: Server | None = None

    def directory(self) -> Path:
        """The Hugging Face directory of a model that is here, fetched if need be; a GGUF file is dequantised into the
        cache."""
        return _directory(self.model)

    def tokens_file(self) -> Path:
        """Where to read its tokens, without dequantising anything; fetched if need be."""
        return find_gguf(self.model) or local_model(self.model, want="gguf")

    def identity(self) -> dict[str, str]:
        """What a manifest says of the model: its name and the hash of its files, none where they are on a server."""
        if self.server:
            return {"name": self.model, "hash": ""}
        return {"name": Path(self.model).name, "hash": model_hash(self.directory())}

    def scores_id(self) -> str:
        """What scores on disk are known by."""
        return f"server:{self.model}" if self.server else model_hash(self.directory())


@cache
def _directory(model: str) -> Path:
    found = find_gguf(model)
    if found is None:
        return local_model(model, want="hf")
    to = cache_directory() / f"{found.stem}-{model_hash(found)}-hf"
    to_hugging_face(found, to)
    return to


@cache
def _relation(student: Path, teacher: Path, trust_remote_code: bool) -> Relation:
    return relation(*(read_tokens(model, trust_remote_code=trust_remote_code) for model in (student, teacher)))


def fitting(
    teacher: ScoringTeacher | None, student: str, objective: Objective, *, shown: bool, trust_remote_code: bool = False
) -> ScoringTeacher | None:
    """The teacher, where it can teach ``student`` token by token; None for an objective that needs none. A model can
    teach itself where the teacher is ``shown`` worked examples that the student is not; for one on a server see
    ``check_served``. Raises ``SetupError`` with the objectives that the pair permits where it cannot, ``UsageError``
    for a teacher that the objective has no use for."""
    if objective not in TOKEN_LEVEL:
        if teacher:
            raise UsageError(f"{objective} asks no teacher for probabilities; leave --teacher_model out")
        return None
    if teacher is None:
        raise SetupError(f"{objective} needs the teacher's probabilities: name the model with --teacher_model")
    if teacher.server:
        return teacher
    ours = local_model(student, want="hf")
    _refuse_unrelated(_relation(ours, teacher.tokens_file(), trust_remote_code), objective)
    if objective == "on_policy" and not shown and model_hash(ours) == model_hash(teacher.directory()):
        raise SetupError(
            "on_policy: teacher and student are the same model; show the teacher worked examples (few_shot), or use "
            "reject_on_student"
        )
    return teacher


def check_served(teacher: ScoringTeacher | None, student: str, k: int, *, trust_remote_code: bool = False) -> None:
    """Ask a teacher that is on a server for ``k`` probabilities at a few places. Raises ``SetupError`` where it gives
    none, or has other tokens than the student, ``ServerAway`` where it does not answer."""
    if teacher and teacher.server:
        from cotdistill.learning.served_teacher import ServedTeacher

        tokenizer = read_tokenizer(local_model(student, want="hf"), trust_remote_code=trust_remote_code)
        ServedTeacher(teacher.model, teacher.server, tokenizer, k).check()


def _refuse_unrelated(pair: Relation, objective: Objective) -> None:
    if objective in (possible := permitted(pair.kind)):
        return
    raise SetupError(
        f"{objective} compares probabilities token by token, and teacher and student have different tokenizers "
        f"({pair.shared} of {pair.student} tokens are the same); use {', '.join(possible)}"
    )
