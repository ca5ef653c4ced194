"""Exported: a finished run's student as a file for other programs, asked what the student was asked.

    evaluate_export(runs/quickstart, student.gguf)
        -> "The export answers 46 of 80 right where the student answers 47: 3 lost, 2 gained ..."
"""

from functools import partial
from pathlib import Path

from cotdistill.card import ADAPTER_WEIGHTS
from cotdistill.engines.opening import opened_late
from cotdistill.errors import DataError
from cotdistill.recipe import load_recipe
from cotdistill.reporting.publication import publish
from cotdistill.run_directory import RunDirectory
from cotdistill.sets import make_sets
from cotdistill.settings.generate import Generate
from cotdistill.settings.models import Models
from cotdistill.stages.evaluate import run_evaluate
from cotdistill.stages.models import engine_for, identify
from cotdistill.storage.lock import locked
from cotdistill.storage.manifest import Manifest, file_hash


def evaluate_export(
    directory: Path, artifact: Path, *, overwrite: bool = False, break_lock: bool = False, quiet: bool = False
) -> str:
    """Ask ``artifact``, exported from the run in ``directory``, the run's held-out questions. It gets a row in
    ``7_report.json`` and its cost in the details there; returns that cost in a sentence.

    Raises ``DataError`` where the run is not finished.
    """
    files = RunDirectory(directory)
    with locked(directory, break_lock=break_lock):
        recipe, manifest = load_recipe(files.recipe), Manifest.open(files.manifest)
        if not manifest.done("evaluate/student"):
            raise DataError(f"{directory} is not finished; finish it first: cotdistill run RECIPE")
        settings, trust = recipe.evaluate, recipe.models.trust_remote_code
        questions = make_sets(recipe.questions, directory, manifest, overwrite=False, train=recipe.train).held_out
        asked = Generate(recipe.generate.system_prompt, sampling=recipe.answering)
        # An export is what it is: rounding it to 4 bits, as the student is on a GPU, would ask another model.
        models = Models(str(artifact), "", trust_remote_code=trust, load_in_4bit=False)
        with opened_late(partial(engine_for, models, settings.batch_size, questions, asked, ())) as open_model:
            run_evaluate(
                "export", questions, files.prediction("export"), manifest,
                model=identify(str(artifact), gguf=True), system_prompt=asked.system_prompt, sampling=asked.sampling,
                num_samples=settings.num_samples, batch_size=settings.batch_size, open_model=open_model,
                load_in_4bit=models.load_in_4bit, trust_remote_code=trust, overwrite=overwrite, quiet=quiet,
            )  # fmt: skip
        of = {"file": artifact.name, "adapter": file_hash(files.adapter / ADAPTER_WEIGHTS)}
        facts = manifest.facts("evaluate/export")
        if not of.items() <= facts.items():  # to finish a stage again moves its time
            manifest.finish("evaluate/export", **{**facts, **of})
        return str(publish(directory).details["export"]["sentence"])
