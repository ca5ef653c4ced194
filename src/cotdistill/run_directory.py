"""Run directory: where each file of a run lies.

    RunDirectory(Path("runs/quickstart")).prediction("student")  ->  runs/quickstart/6_predictions/student.jsonl
"""

from pathlib import Path
from typing import Literal

import msgspec

Part = Literal["train", "held_out", "unseen", "dev"]


class RunDirectory(msgspec.Struct, frozen=True):
    """The files that every run has, or may have; those of one stage alone are named where it is. A path says nothing
    of whether the file is there."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def plan(self) -> Path:
        return self.path / "0_plan.json"

    @property
    def plan_answers(self) -> Path:
        """The base's, to the questions that a plan asks."""
        return self.path / "0_plan" / "base.jsonl"

    @property
    def plan_verdicts(self) -> Path:
        return self.path / "0_plan" / "verdicts.jsonl"

    def questions(self, part: Part) -> Path:
        return self.path / f"1_{'questions' if part == 'train' else part}.jsonl"

    @property
    def traces(self) -> Path:
        return self.path / "2_traces.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "2_scores.safetensors"

    @property
    def likelihoods(self) -> Path:
        return self.path / "3_likelihoods.jsonl"

    @property
    def verdicts(self) -> Path:
        return self.path / "3_verdicts.jsonl"

    @property
    def examples(self) -> Path:
        return self.path / "4_examples.jsonl"

    @property
    def adapter(self) -> Path:
        return self.path / "5_adapter"

    @property
    def predictions(self) -> Path:
        return self.path / "6_predictions"

    def prediction(self, label: str) -> Path:
        """The answers of one model, asked in one way."""
        return self.predictions / f"{label}.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "7_report.json"

    @property
    def page(self) -> Path:
        return self.path / "7_report.html"
