"""Scoring teacher: the teacher of a token-level objective as files, checked before any weights are loaded."""

from functools import cache
from pathlib import Path

import msgspec

from cotdistill.download import cache_directory, local_model
from cotdistill.engines.opening import find_gguf
from cotdistill.errors import SetupError, UsageError
from cotdistill.identity import model_hash
from cotdistill.learning.relation import OBJECTIVES, Relation, read_tokens, relation
from cotdistill.model_files.conversion import to_hugging_face
from cotdistill.settings.objective import Objective

TOKEN_LEVEL: tuple[Objective, ...] = ("on_policy", "offline_kd")
"""The objectives that need the teacher's probabilities."""


class TeacherFiles(msgspec.Struct, frozen=True):
    """``model`` is a catalogue name or a path, None where the teacher is on a server; ``scores`` is where those of its
    probabilities lie that are kept."""

    model: str | None
    scores: Path

    @property
    def directory(self) -> Path:
        """The Hugging Face directory of the model; a GGUF file is dequantised into the cache."""
        if self.model is None:
            raise SetupError("a teacher on a server has no weights here; name a local model")
        return _directory(self.model)

    @property
    def tokens(self) -> Path | None:
        """Where to read its tokens, without dequantising anything; None where they are out of reach."""
        if self.model is None:
            return None
        return find_gguf(self.model) or local_model(self.model, want="gguf")

    @property
    def identity(self) -> dict[str, str]:
        """What a manifest says of the model: its name and the hash of its files."""
        return {"name": Path(self.model or "").name, "hash": model_hash(self.directory)}


@cache
def _directory(model: str) -> Path:
    found = find_gguf(model)
    if found is None:
        return local_model(model, want="hf")
    to = cache_directory() / f"{found.stem}-{model_hash(found)}-hf"
    to_hugging_face(found, to)
    return to


@cache
def _relation(student: Path, teacher: Path | None, trust_remote_code: bool) -> Relation:
    tokens = read_tokens(student, trust_remote_code=trust_remote_code)
    return relation(tokens, read_tokens(teacher, trust_remote_code=trust_remote_code) if teacher else None)


def fitting(
    teacher: TeacherFiles | None, student: str, objective: Objective, *, shown: bool, trust_remote_code: bool = False
) -> TeacherFiles | None:
    """The teacher, where it can teach ``student`` token by token; None for an objective that needs none. A model can
    teach itself where the teacher is ``shown`` worked examples that the student is not. Raises ``SetupError`` with the
    objectives that the pair permits where it cannot, ``UsageError`` for one too many."""
    if objective not in TOKEN_LEVEL:
        if teacher:
            raise UsageError(f"{objective} asks no teacher for probabilities; leave --teacher_model out")
        return None
    if teacher is None:
        raise SetupError(f"{objective} needs the teacher's own weights: name the model with --teacher_model")
    ours = local_model(student, want="hf")
    _refuse_unrelated(_relation(ours, teacher.tokens, trust_remote_code), objective)
    if objective == "on_policy" and not shown and model_hash(ours) == model_hash(teacher.directory):
        raise SetupError(
            "on_policy: teacher and student are the same model; show the teacher worked examples (few_shot), or use "
            "reject_on_student"
        )
    return teacher


def _refuse_unrelated(pair: Relation, objective: Objective) -> None:
    if objective in (possible := OBJECTIVES[pair.kind]):
        return
    why = (
        "the teacher is on a server, which does not give them"
        if pair.kind == "unknown"
        else f"teacher and student have different tokenizers ({pair.shared} of {pair.student} tokens are the same)"
    )
    raise SetupError(f"{objective} compares probabilities token by token, and {why}; use {', '.join(possible)}")
