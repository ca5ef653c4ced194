"""Model card: ``5_adapter/README.md``, what a hub shows beside an adapter.

    ---
    # Written by cotdistill; delete this line to keep your own edits.
    base_model: HuggingFaceTB/SmolLM2-135M-Instruct
    library_name: peft
    license: apache-2.0
    ---

Names and numbers come from the run; of the user's paths only the last part is shown. Pure.
"""

import re
from collections import Counter
from pathlib import PurePosixPath, PureWindowsPath

import msgspec
import yaml

from cotdistill.catalog import MODELS, CatalogModel
from cotdistill.recipe import to_yaml
from cotdistill.report import Report
from cotdistill.reporting.run_files import RunFiles, ladder_of
from cotdistill.reporting.tabular import markdown
from cotdistill.run_directory import RunDirectory
from cotdistill.verdict import TEACHES

MARK = "# Written by cotdistill"


def model_card(run: RunFiles, report: Report) -> str:
    """The whole file: front matter for the hub, then results, data, recipe, use and licence."""
    student, teacher = run.recipe.models.student, run.recipe.models.teacher
    known = _catalogued(student)
    front: dict[str, object] = {
        "base_model": known.source if known else shareable(student),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["cotdistill", "chain-of-thought", "distillation", "lora", "reasoning"],
    }
    if known:
        front["license"] = known.licence.lower()
    sections = (
        f"{MARK}; delete this line to keep your own edits.\n{yaml.safe_dump(front, sort_keys=False)}",
        f"# {_line(str(report.details.get('title', run.recipe.name)))}\n\n{_line(report.sentence)}",
        f"## Results\n\n{_results(report)}",
        f"## Data\n\n{_data(run, _name(teacher))}",
        f"## Recipe\n\n{_recipe(run, report)}",
        f"## Use\n\n{_use(run)}",
        f"## Licence\n\n{_licence(known, _catalogued(teacher), student)}",
    )
    return f"---\n{sections[0]}---\n\n" + "\n\n".join(sections[1:]) + "\n"


def shareable(value: object) -> object:
    """Plain data in which every absolute path is its last part and no server has an address: what others read says
    nothing of a machine."""
    if isinstance(value, str):
        for kind in (PurePosixPath, PureWindowsPath):
            path = kind(value)
            if path.is_absolute() or value.startswith("~"):
                return path.name
        return value
    if isinstance(value, dict):
        return {key: "not shown" if key == "base_url" else shareable(item) for key, item in value.items()}
    return [shareable(item) for item in value] if isinstance(value, list | tuple) else value


def _results(report: Report) -> str:
    parts = [f"Held-out questions:\n\n{markdown(report)}"]
    if report.transfer is not None:
        parts.append(f"Questions from a generator that training never saw:\n\n{markdown(report.transfer)}")
    parts.append(
        "Accuracy is by the marker, else by the last number, choice or word; strict is by the marker alone. The "
        "interval is Wilson's. Tokens are those of an answer on average."
    )
    return "\n\n".join(parts)


def _data(run: RunFiles, teacher: str) -> str:
    statuses = Counter(verdict.status for verdict in run.verdicts)
    teach = sum(count for status, count in statuses.items() if status in TEACHES)
    counted = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in statuses.most_common())
    trained = run.manifest.facts("train").get("examples")
    lines = [
        f"- {len(run.train)} training questions; {statuses.total()} traces by {teacher}, each judged: {counted}",
        f"- {teach} traces may teach" + (f"; {trained} were trained on" if trained is not None else ""),
        f"- {len(run.held_out)} held-out questions, which share no question with training",
    ]
    if run.unseen:
        lines.append(f"- {len(run.unseen)} questions from another generator")
    return "\n".join(lines)


def _recipe(run: RunFiles, report: Report) -> str:
    train, ladder = run.recipe.train, ladder_of(run)
    trial = ladder.student.last if ladder else None
    epochs = trial.epochs if trial else train.num_epochs
    said = [
        f"LoRA with r = {train.lora.r}, alpha = {train.lora.alpha}, dropout {train.lora.dropout:g}; "
        f"{epochs:g} epochs at a learning rate of {train.learning_rate:g}, batches of "
        f"{train.batch_size * train.gradient_accumulation_steps}, seed {train.seed}.",
    ]
    tools = [f"{name} {report.versions[name]}" for name in ("cotdistill", "transformers", "peft", "torch")
             if name in report.versions]  # fmt: skip
    if ladder:
        said.append(f"Trained for {ladder.student.name}. {report.details['ladder']['sentence']}")
    if tools:
        said.append(f"Made with {', '.join(tools)}.")
    resolved = shareable(msgspec.to_builtins(run.recipe))
    dumped = to_yaml(resolved)
    fence = "`" * (max([2, *map(len, re.findall("`+", dumped))]) + 1)
    return "\n".join(said) + f"\n\n{fence}yaml\n{dumped}{fence}"


def _use(run: RunFiles) -> str:
    base = _catalogued(run.recipe.models.student)
    name = base.source if base else _name(run.recipe.models.student)
    here = "path/to/this/directory"
    ends = (RunDirectory(run.directory).adapter / "generation_config.json").is_file()
    return (
        "The student was taught under this system prompt, and answers best under it:\n\n"
        + "\n".join(f"> {line}" for line in _lines(run.recipe.generate.system_prompt))
        + "\n\n```python\nfrom peft import PeftModel\n"
        f"from transformers import AutoModelForCausalLM{', GenerationConfig' if ends else ''}\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{name}")\n'
        f'student = PeftModel.from_pretrained(base, "{here}")\n'
        + (f'student.generation_config = GenerationConfig.from_pretrained("{here}")\n' if ends else "")
        + "```"
    )


def _licence(student: CatalogModel | None, teacher: CatalogModel | None, name: str) -> str:
    base = f"The base model, {student.source}, is under {student.licence}." if student else (
        f"The licence of the base model, {_name(name)}, is not known here: look it up before you pass this on."
    )  # fmt: skip
    texts = f"The training text was written by {teacher.source}, under {teacher.licence}." if teacher else (
        "The training text was written by another model, whose terms may bind what is trained on it."
    )  # fmt: skip
    return f"{base} {texts}"


def _catalogued(spec: str) -> CatalogModel | None:
    return next((model for model in MODELS if model.name == spec.lower()), None)


def _name(spec: str) -> str:
    return _line(str(shareable(spec)))


def _line(text: str) -> str:
    """Text that stays one line and holds no Markdown of its own."""
    return re.sub(r"([\\`*_<\[|#])", r"\\\1", " ".join(text.split()))


def _lines(text: str) -> list[str]:
    return [_line(line) for line in text.splitlines()] or [""]
