"""`graftlm transfer`: graft one model folder into another, without any experiment."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from graftlm.checkpoint import check_checkpoint, read_config
from graftlm.console import Progress, Silent
from graftlm.errors import CheckpointError, GraftlmError, Problem, SettingsError, TransferError
from graftlm.schema import TransferSettings
from graftlm.store import as_readable
from graftlm.transfer import adapters
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.graft import Step
from graftlm.transfer.options import in_options
from graftlm.transfer.report import TransferReport
from graftlm.transfer.result import in_type_of, written
from graftlm.transfer.strategy import build_steps, check_steps, unfit_for_random
from graftlm.transfer.texts import HELD_OUT, read_texts, spread

BUILT = "config"
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")  # 1e-3, which YAML 1.1 takes for a text and Hydra for a number


@dataclass(frozen=True)
class Request:
    """What is to be grafted.

    encoder: folder or hub name of an XLM-R.
    seq2seq: folder or hub name of an mBART (or of a BART with mBART's tokenizer), or `config`: a new one of the donor's
        shape, with the donor's pieces and mBART-50's language codes.
    strategy: the steps.
    out: the folder to write; it must not hold anything yet.
    text: a text a line (.jsonl: its field `text`, and `lang` where it is there); every tenth is held out for the
        fidelity. Without it, and where no step needs the models, two folders of safetensors are grafted tensor by
        tensor, and no fidelity is measured.
    base: folder or hub name of the donor as it was before it was trained, for steps that carry the change.
    adapter: folder of the adapter (peft) that was trained beside the donor, for steps that carry it.
    architecture: of a host that is built: `mbart` (None too), or `bart` with its LayerNorms where the donor has them.
        A folder says itself what it is; another kind than that is refused.
    """

    encoder: str
    seq2seq: str
    strategy: TransferSettings
    out: Path
    text: Path | None = None
    base: str | None = None
    adapter: Path | None = None
    architecture: Literal["mbart", "bart"] | None = None

    @cached_property
    def kind(self) -> Literal["mbart", "bart"]:
        """The host's model_type: of a checkpoint what its configuration says, where that is one of ours."""
        if self.seq2seq == BUILT:
            return self.architecture or "mbart"
        return "bart" if read_config(self.seq2seq, None, "--seq2seq").get("model_type") == "bart" else "mbart"


def run(request: Request, progress: Progress | None = None) -> TransferReport:
    """Graft and write a folder that plain transformers loads, with `transfer.json` in it.

    Raises:
        CheckpointError: a model or tokenizer cannot be loaded.
        DataError: the text cannot be read.
        TransferError: the graft does not fit or transplants nothing, something that it needs was not given or is of no
            use to it, or `out` is taken.
    """
    try:
        return _run(request, progress)
    except GraftlmError as error:
        built = request.seq2seq == BUILT
        raise type(error)(
            [in_options(item, request.encoder, request.seq2seq, built) for item in error.problems]
        ) from error


def _run(request: Request, progress: Progress | None) -> TransferReport:
    from transformers.utils.logging import disable_progress_bar

    progress = progress or Silent()
    disable_progress_bar()
    out = request.out.expanduser().absolute()
    steps = _steps(request)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TransferError.at("--out", out, "is there already", "name a folder that does not exist")
    if out.resolve() == Path.cwd():  # it would be replaced, and the shell stand in a folder that is gone
        raise TransferError.at("--out", out, "is the folder that you are in", "name another one")
    with written(out, keep=False):  # a graft may take minutes: what keeps its result from being written is told first
        pass
    _check_kinds(request)
    if request.text is None and request.seq2seq != BUILT and not any(step.needs_models for _, step in steps):
        with _no_collector():
            report = _from_files(request, out, progress)
        if report is not None:
            return report
    return _from_models(request, out, progress)


def _steps(request: Request) -> list[tuple[str, Step]]:
    """The steps of the strategy, for which everything that they need was given."""
    strategy = request.strategy
    if not strategy.steps:
        raise TransferError.at("--strategy", strategy.name, "carries nothing", "name a strategy with steps")
    problems: list[Problem] = []
    steps = build_steps(strategy.steps, "transfer.steps", problems)
    reading = [name for name, step in steps if step.needs_text]
    if reading and request.text is None:
        reason = f"is needed by the step{'s' * (len(reading) > 1)} {', '.join(reading)}"
        problems.append(Problem("--text", None, reason, "name a file of text"))
    for name, step in steps:
        if step.needs_base and request.base is None:
            reason = f"is needed by the step {name}: the donor as it was before it was trained"
            problems.append(Problem("--base", None, reason, "name its folder"))
        if step.needs_adapter and request.adapter is None:
            problems.append(Problem("--adapter", None, f"is needed by the step {name}", "name its folder"))
    if request.seq2seq == BUILT and (unfit := unfit_for_random(steps)):
        reason = f"has random weights; the step {' '.join(unfit)}"
        problems.append(Problem("--seq2seq", BUILT, reason, "name its folder"))
    if request.adapter is not None and not request.adapter.is_dir():
        problems.append(Problem("--adapter", request.adapter, "no such folder", "name the folder of an adapter"))
    for option, given, quality in (
        ("--base", request.base, "needs_base"),
        ("--adapter", request.adapter, "needs_adapter"),
    ):
        if given is not None and not problems and not any(getattr(step, quality) for _, step in steps):
            problems.append(Problem(option, given, f"is read by no step of {strategy.name}", "leave it out"))
    if problems:
        raise TransferError(problems)
    return steps


def _check_kinds(request: Request) -> None:
    """What is wrong with the models by their configurations, before anything of them is loaded or fetched."""
    problems: list[Problem] = []
    models = [("--encoder", request.encoder, "xlm-roberta")]
    models += [("--base", request.base, "xlm-roberta")] if request.base else []
    models += [("--seq2seq", request.seq2seq, request.kind)] if request.seq2seq != BUILT else []
    for path, checkpoint, kind in models:
        try:
            problems += check_checkpoint(checkpoint, read_config(checkpoint, None, path), kind, path)
        except CheckpointError as error:
            problems += error.problems
    if request.seq2seq != BUILT and request.architecture not in (None, request.kind):
        reason = f"is for --seq2seq config; this folder is {request.kind}"
        problems.append(Problem("--architecture", request.architecture, reason, "leave it out"))
    if problems:
        raise CheckpointError(problems)


def with_settings(strategy: TransferSettings, words: Sequence[str]) -> TransferSettings:
    """The strategy with settings of its steps replaced: `encoder.tokens=3000` for the step `encoder`.

    Raises:
        SettingsError: it has no such step, or the step no such setting or value.
    """
    import yaml

    steps = [dict(step) for step in strategy.steps]
    problems: list[Problem] = []
    for word in words:
        path, equals, value = word.partition("=")
        name, _, setting = path.partition(".")
        found: Any = None
        chosen = [step for step in steps if step["step"] == name]
        try:
            found = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if isinstance(found, str) and _EXPONENT.fullmatch(found):
            found = float(found)
        if "=" not in word:
            reason, remedy = "is no SETTING=VALUE", "if the shell put it in place of a pattern, name one folder instead"
            problems.append(Problem("override", word, reason, remedy))
            continue
        if not (equals and setting and setting != "step" and chosen):
            known = ", ".join(f"{step['step']}.SETTING=VALUE" for step in steps)
            problems.append(
                Problem("override", word, "is no setting of the strategy", f"give {known}, or transfer.SETTING=VALUE")
            )
            continue
        for step in chosen:
            step[setting] = found
    problems = problems or list(check_steps(steps, "transfer.steps"))
    if problems:
        raise SettingsError(problems)
    return replace(strategy, steps=steps)


def _from_files(request: Request, out: Path, progress: Progress) -> TransferReport | None:
    """Graft two folders tensor by tensor; None where only transformers can read one of them."""
    from transformers import XLMRobertaForMaskedLM

    from graftlm.data.tokenizers import load_tokenizer
    from graftlm.models.build import check_vocabulary, model_class
    from graftlm.transfer.folders import graft_folders, open_folder

    donor = open_folder(XLMRobertaForMaskedLM, request.encoder, "xlm-roberta", "--encoder")
    host = open_folder(model_class(request.kind), request.seq2seq, request.kind, "--seq2seq")
    base = open_folder(XLMRobertaForMaskedLM, request.base, "xlm-roberta", "--base") if request.base else None
    if donor is None or host is None or (request.base and base is None):
        return None

    def tokenizers() -> tuple[Any, Any]:
        ours = load_tokenizer(request.encoder, None, "--encoder", "donor")
        check_vocabulary(donor.model, ours, request.encoder, "--encoder")
        theirs = load_tokenizer(request.seq2seq, None, "--seq2seq", "host")
        check_vocabulary(host.model, theirs, request.seq2seq, "--seq2seq")
        return ours, theirs

    with written(out) as partial:
        report = graft_folders(
            request.strategy,
            donor,
            host,
            tokenizers,
            partial,
            progress,
            base=base.weights if base else None,
            adapter=request.adapter,
        )
        report.write(partial / "transfer.json")
    return report


def _from_models(request: Request, out: Path, progress: Progress) -> TransferReport:
    """Load both models, graft, and save the host."""
    import torch
    from transformers import XLMRobertaForMaskedLM

    from graftlm.data.tokenizers import encode, load_tokenizer
    from graftlm.models.build import check_vocabulary, load_model

    texts, languages = read_texts(request.text) if request.text is not None else ([], [])
    donor_tokenizer = load_tokenizer(request.encoder, None, "--encoder", "donor")
    fresh: list[str] = []
    donor = load_model(XLMRobertaForMaskedLM, request.encoder, None, "xlm-roberta", "--encoder", fresh)
    check_vocabulary(donor, donor_tokenizer, request.encoder, "--encoder")
    base = load_model(XLMRobertaForMaskedLM, request.base, None, "xlm-roberta", "--base") if request.base else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host, host_tokenizer = _host(request, donor, donor_tokenizer)
        ids = encode(donor_tokenizer, texts) if texts else []
        held = spread(range(0, len(ids), HELD_OUT), request.strategy.fidelity_texts)
        fitted = [index for index in range(len(ids)) if index % HELD_OUT]
        fitted = spread(fitted, request.strategy.calibration_texts)
        report = apply_strategy(
            request.strategy,
            donor,
            host,
            donor_tokenizer,
            host_tokenizer,
            calibration=[ids[index] for index in fitted],
            held_out=[ids[index] for index in held],
            host_pretrained=request.seq2seq != BUILT,
            progress=progress,
            languages=[languages[index] for index in fitted] if languages else [],
            held_out_languages=[languages[index] for index in held] if languages else [],
            fresh=fresh,
            base=base,
            adapter=request.adapter,
        )
    adapters.merge(host)
    if request.seq2seq != BUILT:
        in_type_of(host, request.seq2seq)
    with written(out) as partial:
        host.save_pretrained(partial)
        host_tokenizer.save_pretrained(partial)
        report.write(partial / "transfer.json")
        as_readable(partial, "transfer.json")
    return report


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the cyclic garbage collector, which walks the half a million tokens of two tokenizers again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _host(request: Request, donor: Any, donor_tokenizer: Any) -> tuple[Any, Any]:
    """The host in training mode, and its tokenizer."""
    from graftlm.data.tokenizers import host_tokenizer_from_donor, load_tokenizer
    from graftlm.models.build import build_host, check_vocabulary, load_model, model_class
    from graftlm.schema import HostSettings, ModelSettings

    seq2seq = request.seq2seq
    if seq2seq == BUILT:
        tokenizer = host_tokenizer_from_donor(donor_tokenizer, "mbart50")
        shape = HostSettings(
            architecture=request.kind,
            decoder_layers=donor.config.num_hidden_layers,
            max_positions=max(donor.config.max_position_embeddings - 2, 16),
        )
        return build_host(ModelSettings(name="graft", host=shape), tokenizer, donor.config), tokenizer
    tokenizer = load_tokenizer(seq2seq, None, "--seq2seq", "host")
    host = load_model(model_class(request.kind), seq2seq, None, request.kind, "--seq2seq")
    check_vocabulary(host, tokenizer, seq2seq, "--seq2seq")
    return host, tokenizer
