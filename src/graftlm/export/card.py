"""The model card: what was transferred from what, how, with which figures, and what they do not say.

Whatever a name or a text of the data holds: the metadata stays YAML (its texts are JSON strings) and the page Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import graftlm
from graftlm.data.languages import language_of
from graftlm.export.source import Source
from graftlm.report import plain
from graftlm.report.markdown import code, escape, fenced
from graftlm.report.probes import HARDLY_READS
from graftlm.report.records import mapping, number, rows
from graftlm.report.text import duration, flops, level, show, signed

_SCORES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "chrf": "chrF", "bleu": "BLEU"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_card(source: Source, name: str) -> str:
    """README.md of the folder."""
    task = _task(source)
    parts = [
        _metadata(source, name, task),
        f"# {escape(name)}\n",
        _opening(source, task),
        _how_to_use(source),
        _transferred(source),
        _figures(source),
        _comparison(source),
        _cost(source),
        _training(source),
        _limits(source),
    ]
    return "\n".join(part for part in parts if part)


# --- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(source: Source, name: str, task: str) -> str:
    sources, targets = source.languages
    data = mapping(mapping(source.corpus.get("settings")).get("data"))
    bases = [found for part in ("host", "donor") if (found := _hub_name(_part(source, part)))]
    tags = ["graftlm", "encoder-transfer", "mbart", "xlm-roberta", source.strategy]
    lines = ["library_name: transformers", "license: unknown", f"pipeline_tag: {task}"]
    lines += _list("language", [language_of(code) for code in dict.fromkeys([*sources, *targets])])
    lines += _list("base_model", bases)
    lines += _list("tags", tags)
    lines += _list("datasets", [str(data["dataset"])] if _is_hub_name(data.get("dataset")) else [])
    metrics = [(key, label, value) for key, label in _SCORES.items() if (value := _score(source, key)) is not None]
    if metrics:
        lines += ["model-index:", f"- name: {_text(name)}", "  results:", "  - task:", f"      type: {task}"]
        lines += [
            "    dataset:",
            f"      name: {_text(_data_words(data))}",
            f"      type: {_text(data.get('kind') or 'unknown')}",
        ]
        lines += ["      split: test", "    metrics:"]
        for key, label, value in metrics:
            lines += [f"    - type: {_text(key)}", f"      name: {_text(label)}", f"      value: {value:.4f}"]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _list(key: str, values: Sequence[str]) -> list[str]:
    kept = list(dict.fromkeys(value for value in values if value))
    return [f"{key}:", *(f"- {_text(value)}" for value in kept)] if kept else []


def _text(value: Any) -> str:
    """A text in YAML: a JSON string is one."""
    return json.dumps(plain.line(value, 200), ensure_ascii=True)


def _score(source: Source, key: str) -> float | None:
    return number(mapping(source.scores.get("all")).get(key))


# --- text -------------------------------------------------------------------------------------------------------------


def _opening(source: Source, task: str) -> str:
    transfer, corpus = source.transfer, mapping(source.corpus.get("settings"))
    sources, targets = source.languages
    if mapping(mapping(transfer.get("counts")).get("donor")).get("used"):
        what = (
            f"An mBART that received parts of an XLM-R by the strategy {code(source.strategy)} before it was fine-tuned"
        )
    else:
        what = f"An mBART, fine-tuned without any weights of an XLM-R (strategy {code(source.strategy)})"
    langs = f" from {_codes(sources)} to {_codes(targets)}" if sources and targets else ""
    data = escape(_data_words(mapping(corpus.get("data"))))
    return f"{what}, for {task}{langs}; trained on {data}. Made with graftlm {graftlm.__version__}.\n"


def _how_to_use(source: Source) -> str:
    _, targets = source.languages
    format = str(mapping(source.corpus.get("settings")).get("format") or "mbart50")
    one = len(targets) < 2
    option = "forced_bos_token_id" if format == "mbart50" else "decoder_start_token_id"
    lines = [
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("PATH/TO/THIS/FOLDER")',
        'model = AutoModelForSeq2SeqLM.from_pretrained("PATH/TO/THIS/FOLDER")',
    ]
    if len(source.languages[0]) > 1:
        lines.append(f'tokenizer.src_lang = "{source.languages[0][0]}"  # the language of your text')
    lines.append('batch = tokenizer(["Your text."], return_tensors="pt", truncation=True, max_length=MAX)')
    longest = mapping(mapping(source.marker.get("settings")).get("finetune")).get("max_source_length")
    lines[-1] = lines[-1].replace("MAX", str(longest if isinstance(longest, int) else 128))
    more = "" if one else f', {option}=tokenizer.convert_tokens_to_ids("{targets[0]}")'
    decoding = mapping(mapping(source.evaluation.get("settings")).get("evaluate"))
    beams, new = decoding.get("num_beams", 4), decoding.get("max_new_tokens", 32)
    lines.append(f"written = model.generate(**batch, num_beams={int(beams)}, max_new_tokens={int(new)}{more})")
    lines.append("print(tokenizer.batch_decode(written, skip_special_tokens=True))")
    return "## How to use\n\n" + fenced("\n".join(lines), "python")


def _transferred(source: Source) -> str:
    transfer = source.transfer
    if not transfer:
        return ""
    lines = ["## What was transferred\n"]
    lines.append(f"- **donor** (XLM-R): {_describe(_part(source, 'donor'))}{_pretraining(source)}")
    lines.append(f"- **host** (mBART): {_describe(_part(source, 'host'))}")
    lines.append(f"- **strategy**: {code(source.strategy)}{' (a control)' if transfer.get('control') else ''}")
    counts = mapping(transfer.get("counts"))
    host, parameters = mapping(counts.get("host")), mapping(counts.get("host_parameters"))
    total = sum(found for value in parameters.values() if (found := number(value))) or 1.0
    told = [
        f"{_share(number(parameters.get(status)), total)} {escape(status)} (tensors: {int(count)})"
        for status, count in host.items()
        if (number(count) or 0) > 0
    ]
    if told:
        lines.append(f"- **parameters of the host** before fine-tuning: {', '.join(told)}")
    steps = rows(transfer.get("steps"))
    if steps:
        lines += ["", "| step | parameters | source |", "|---|---|---|"]
        for step in steps:
            given = _without_folders(json.dumps(step.get("parameters") or {}, ensure_ascii=False, default=str))
            lines.append(f"| {code(step.get('step'))} | {code(given)} | {escape(step.get('reference') or '–')} |")
    fidelity = mapping(transfer.get("fidelity"))
    if fidelity:
        before, after = mapping(fidelity.get("before")), mapping(fidelity.get("after"))
        lines += [
            "",
            f"Fidelity of the encoder to the donor's, on {show(fidelity.get('texts'), 0)} held-out texts, before any "
            "training: "
            + "; ".join(
                f"{name} {show(before.get(key), 3)} → {show(after.get(key), 3)}"
                for key, name in (("cka", "CKA"), ("cosine", "cosine"))
            )
            + ".",
        ]
    lines += ["", "`transfer.json` accounts for every tensor of both models.\n"]
    return "\n".join(lines)


def _figures(source: Source) -> str:
    scores = source.scores
    if not scores:
        return "## Figures\n\nThis model was not evaluated.\n"
    tables = {"all": mapping(scores.get("all")), **{k: mapping(v) for k, v in mapping(scores.get("languages")).items()}}
    if len(tables) == 2:
        del tables[next(name for name in tables if name != "all")]
    names = [name for name in _SCORES if any(number(table.get(name)) is not None for table in tables.values())]
    lead = any(mapping(table.get("lead1")) for table in tables.values())
    lines = ["## Figures\n", f"On {show(scores.get('pairs'), 0)} pairs of the test split:\n"]
    lines += ["| | pairs | " + " | ".join(_SCORES[name] for name in names) + " |", "|---" * (len(names) + 2) + "|"]
    for code_, table in tables.items():
        kinds = [(code_, table), *([(f"{code_}: first sentence", mapping(table.get("lead1")))] if lead else [])]
        for label, values in kinds:
            cells_ = [show(values.get(name), 2) for name in names]
            lines.append(f"| {escape(label)} | {show(values.get('pairs'), 0)} | " + " | ".join(cells_) + " |")
    loss, gap = show(scores.get("loss"), 3), number(scores.get("gap"))
    lines.append(f"\nLoss {loss} nats a token; with shuffled sources it changes by {show(gap, 3)}.")
    if gap is not None and gap < HARDLY_READS:
        lines.append("**It hardly reads its source**: wrong sources cost it next to nothing.")
    return "\n".join(lines) + "\n"


def _comparison(source: Source) -> str:
    report, arm = source.report, source.arm
    if not arm:
        return ""
    lines = ["## Compared\n", f"**{escape(report.get('headline'))}.** {escape(report.get('detail'))}\n"]
    if arm.get("is_baseline"):
        lines.append("This model is of the baseline, the arm without a graft.")
    else:
        words = escape(arm.get("words") or "not compared")
        lines.append(f"This model is of the arm *{escape(arm.get('name'))}*, against the baseline: {words}.")
        primary = mapping(report.get("primary"))
        told = [(str(primary.get("figure") or "auc"), primary)]
        told += [("test_loss", mapping(mapping(report.get("figures")).get("test_loss")))]
        for key, about in told if told[0][0] != "test_loss" else told[:1]:
            found = mapping(mapping(arm.get("difference")).get(key))
            mean, low, high = (number(found.get(part)) for part in ("mean", "low", "high"))
            if mean is not None:
                digits = 1 if about.get("unit") == "points" else 3
                between = "no interval"
                if low is not None and high is not None:
                    confidence = level(number(report.get("confidence")) or 0.95)
                    between = f"{confidence} interval {signed(low, digits)} to {signed(high, digits)}"
                less = "less" if about.get("less", True) else "more"
                label = escape(about.get("label") or key)
                lines.append(f"- {label}: {signed(mean, digits)} ({between}; {less} is better)")
    if alarms := rows(arm.get("alarms")):
        lines += ["\nWhat probes of its outputs found:\n"]
        lines += [f"- **{escape(item.get('word'))}**. {escape(item.get('text'))}" for item in alarms]
    if caveats := report.get("caveats"):
        lines += ["\nBefore you repeat this:\n", *(f"- {escape(item)}" for item in caveats)]
    lines.append("\nThese are figures of the arm's seeds; this model is one of them.")
    return "\n".join(lines) + "\n"


def _cost(source: Source) -> str:
    cost, donor = source.cost, source.donor_cost
    lines = ["## Cost\n", "| | time | floating-point operations |", "|---|---|---|"]
    if donor:
        lines.append(f"| the donor's training | {duration(donor.get('seconds'))} | {flops(donor.get('flops'))} |")
    if graft := source.graft_cost:
        lines.append(f"| the graft | {duration(graft.get('seconds'))} | {flops(graft.get('flops'))} |")
    lines.append(f"| fine-tuning | {duration(cost.get('seconds'))} | {flops(cost.get('flops'))} |")
    steps = f"{show(cost.get('steps'), 0)} steps, {show(cost.get('examples'), 0)} examples"
    return "\n".join(lines) + f"\n\n{number(cost.get('parameters')) or 0:,.0f} parameters; fine-tuned for {steps}.\n"


def _training(source: Source) -> str:
    settings = mapping(source.marker.get("settings"))
    told = {name: settings.get(name) for name in ("finetune", "transfer") if settings.get(name)}
    steps = mapping(mapping(source.graft.get("settings")).get("transfer")).get("steps")
    if steps:
        told["transfer"] = {**mapping(told.get("transfer")), "steps": steps}
    lines = ["## How it was made\n"]
    if command := source.record.get("command"):
        choices = _without_folders(" ".join(map(str, source.record.get("overrides") or ())))
        lines += [
            fenced(_without_folders(str(command)), "sh"),
            *([f"This one of its jobs: {code(choices)}\n"] if choices else []),
        ]
    lines.append(fenced(_without_folders(json.dumps(told, indent=1, ensure_ascii=False, default=str)), "json"))
    return "\n".join(lines)


def _limits(source: Source) -> str:
    return (
        "## Limits\n\n"
        "- **Licence**: not known. It depends on those of the checkpoints and texts above; who publishes this model "
        "has to settle it.\n"
        "- The figures are about the test split of the data above, with these lengths and this decoding, and nothing "
        "else. No bias, safety or factuality was looked at: it can write what is false or harmful.\n"
        "- One model of one seed.\n"
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _task(source: Source) -> str:
    task = mapping(mapping(source.corpus.get("settings")).get("data")).get("task")
    return "translation" if task == "translation" else "summarization"


def _part(source: Source, part: str) -> dict[str, Any]:
    """What identified donor or host when the artifact was made: a checkpoint, or the sizes of a model to be built."""
    if part == "donor" and source.donor:
        return mapping(mapping(source.donor.get("settings")).get("donor"))
    return mapping(mapping(source.marker.get("settings")).get(part))


def _describe(part: Mapping[str, Any]) -> str:
    if "hub" in part:
        return f"{code(part['hub'])} of the Hugging Face hub, revision {code(part.get('revision'))}"
    if "package" in part:
        return f"the weights that the package {code(part['package'])} carries, version {code(part.get('version'))}"
    digests = [f"{code(name)} {value[:12]}" for name, value in part.items() if _is_digest(value)]
    if digests:
        return "a local checkpoint (SHA-256: " + ", ".join(sorted(digests)[:4]) + ")"
    sizes = ", ".join(f"{escape(key)} {escape(value)}" for key, value in part.items() if value is not None)
    return f"built, random weights ({sizes})" if sizes else "not recorded"


def _pretraining(source: Source) -> str:
    settings = mapping(source.donor.get("settings"))
    steps = number(mapping(settings.get("pretrain")).get("max_steps"))
    if not settings:
        return "; none of it was used" if not _used(source) else ""
    if not steps:
        return "; taken as it is"
    ratio = number(mapping(settings.get("mask")).get("ratio"))
    masked = f" at {ratio:.0%} masking" if ratio is not None else ""
    return f"; then {steps:,.0f} steps of masked-language modelling on the same corpus{masked}"


def _used(source: Source) -> bool:
    return bool(mapping(mapping(source.transfer.get("counts")).get("donor")).get("used"))


def _data_words(data: Mapping[str, Any]) -> str:
    kind, dataset = str(data.get("kind") or "data that is not recorded"), data.get("dataset")
    if dataset:
        return f"{dataset} ({data['config']})" if data.get("config") else str(dataset)
    if kind == "docstrings":
        packages = data.get("packages")
        return "docstrings of " + (", ".join(map(str, packages)) if packages else "installed Python packages")
    return {"files": "local files", "catalogues": "gettext catalogues"}.get(kind, kind)


def _hub_name(part: Mapping[str, Any]) -> str | None:
    return str(part["hub"]) if _is_hub_name(part.get("hub")) else None


def _is_hub_name(value: Any) -> bool:
    return isinstance(value, str) and _HUB_NAME.fullmatch(value) is not None


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


def _codes(codes: Sequence[str]) -> str:
    shown: Iterator[str] = (code(item) for item in codes[:12])
    return ", ".join(shown) + (f" and {len(codes) - 12} more" if len(codes) > 12 else "")


def _without_folders(text: str) -> str:
    """Absolute paths without the folders above: a card is for others, to whom they say nothing."""
    return re.sub(r"(?<![\w.~])~?/(?:[^\s/'\"=,\[\]]+/)+", "…/", text)


def _share(part: float | None, total: float) -> str:
    return f"{(part or 0.0) / total:.1%}"
