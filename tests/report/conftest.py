"""Realistic fake sweeps with a known truth, in the exact format that jobs and artifacts have. For tests only."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graftlm.scores import bleu_of, chrf_of


@dataclass(frozen=True)
class FakeArm:
    """An arm's truth: what it adds to the baseline's loss at the start and at the end of training."""

    name: str = "none"
    early: float = 0.0
    late: float = 0.0
    control: bool = False
    mask: str = "r15"
    overrides: tuple[str, ...] = ()
    gap: float = 0.8
    fidelity: float | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    probes: tuple[tuple[str, float], ...] = ()


ARMS = (
    FakeArm("none"),
    FakeArm("calibrated", early=-0.5, late=-0.12, gap=1.1, fidelity=0.93),
    FakeArm("embeddings", early=-0.10, late=-0.02, gap=0.85, fidelity=0.13),
    FakeArm("naive", early=0.02, late=0.01, control=True, fidelity=0.14),
    FakeArm("shuffled", early=0.12, late=0.05, control=True, gap=0.7, fidelity=0.05),
)
BONUS = {"en_XX": 3.0, "de_DE": 0.0, "ar_AR": -6.0}  # points of each language
LANGUAGES = tuple(BONUS)
TEXTS = {
    "en_XX": "Return the list of packages that this folder holds, sorted by name and without the hidden ones.",
    "de_DE": "Gibt die Liste der Pakete zurück, die dieser Ordner enthält, nach Namen sortiert und ohne versteckte.",
    "ar_AR": "تُرجِع قائمة الحزم التي يحتويها هذا المجلد مرتبةً حسب الاسم ودون الحزم المخفية.",
}


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:20]


class FakeSweep:
    """Writes jobs below `root/sweep` and artifacts below `root/store`."""

    def __init__(
        self, root: Path, *, steps: int = 1000, examples: int = 60, seed_sd: float = 0.08, noise: float = 0.03
    ):
        self.root, self.steps, self.examples, self.seed_sd, self.noise = root, steps, examples, seed_sd, noise
        self.count = 0
        self.validations = 20
        self.text: Callable[[int, str], str] = lambda index, language: f"{TEXTS[language]} [{index}]"
        self.predict: Callable[[int, str, str], str] = lambda index, text, arm: f"{text[: 30 + index % 20]} ({arm})"

    def settings(self, arm: FakeArm, finetune_seed: int, pretrain_seed: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "model": {"name": "tiny", "format": "mbart50", "donor": {"layers": 4}, "host": {"decoder_layers": 2}},
            "data": {"name": "docstrings", "kind": "docstrings", "task": "summarization", "max_pairs": 5000},
            "mask": {"name": arm.mask, "ratio": int(arm.mask[1:]) / 100},
            "transfer": {
                "name": arm.name,
                "steps": [{"step": arm.name}] if arm.name != "none" else [],
                "encoder_lr": 1.0,
            },
            "pretrain": {"seed": pretrain_seed, "max_steps": 2000},
            "finetune": {"seed": finetune_seed, "max_steps": self.steps, "lr": 0.001, "batch_tokens": 4096},
            "evaluate": {"num_beams": 4, "max_new_tokens": 32, "batch_size": 32},
            "trainer": {"name": "cpu", "accelerator": "cpu", "precision": "32-true", "accumulate": 1},
            "logger": {"kind": "wandb", "dir": "multirun"},
            "store": {"dir": "multirun/store"},
            "report": {"baseline": "none", "confidence": 0.95, "resamples": 500, "samples": 12},
        }
        for key, value in arm.settings:
            node = settings
            *above, last = key.split(".")
            for name in above:
                node = node[name]
            node[last] = value
        return settings

    def job(
        self, arm: FakeArm, finetune_seed: int, pretrain_seed: int = 1, *, status: str = "done", error: str = ""
    ) -> Path:
        """One job and what it leaves; artifacts of one key are written once."""
        folder = self.root / "sweep" / str(self.count)
        self.count += 1
        settings = self.settings(arm, finetune_seed, pretrain_seed)
        grafted = arm.name != "none"
        pretrain = _key("pretrain", arm.mask, pretrain_seed) if grafted else None
        finetune = _key("finetune", arm.name, arm.overrides, arm.settings, finetune_seed, pretrain)
        evaluate = _key("evaluate", finetune)
        keys = {"corpus": _key("corpus"), **({"pretrain": pretrain} if pretrain else {}), "finetune": finetune}
        keys["evaluate"] = evaluate
        overrides = [f"transfer={arm.name}", f"mask={arm.mask}", *arm.overrides, f"finetune.seed={finetune_seed}"]
        write_json(
            folder / "job.json",
            {
                "version": 1,
                "status": status,
                "error": error or None,
                "started": "2026-11-24T08:00:00+00:00",
                "seconds": 61.5,
                "command": "graftlm run " + " ".join(overrides),
                "choices": {
                    **{"model": "tiny", "data": "docstrings", "mask": arm.mask, "transfer": arm.name},
                    **{"trainer": "cpu", "logger": "wandb"},
                },
                "overrides": overrides,
                "seeds": {"pretrain": pretrain_seed, "finetune": finetune_seed},
                "settings": settings,
                "stages": [
                    {"stage": stage, "key": key, "path": f"../../store/{stage}/{key}", "reused": False}
                    for stage, key in keys.items()
                ],
            },
        )
        if status != "done":
            return folder
        store = self.root / "store"
        for stage, key in keys.items():
            write_json(
                store / stage / key / "artifact.json", {"stage": stage, "key": key, "version": 1, "seconds": 3.0}
            )
        if pretrain:
            write_json(
                store / "pretrain" / pretrain / "cost.json",
                {
                    "seconds": 90.0,
                    "steps": 2000,
                    "examples": 64000,
                    "tokens": 8_000_000,
                    "flops": 9e13,
                    "parameters": 2e6,
                },
            )
        if not (store / "finetune" / finetune / "cost.json").exists():
            self._finetune(
                store / "finetune" / finetune, store / "evaluate" / evaluate, arm, finetune_seed, pretrain_seed
            )
        return folder

    def _finetune(self, finetune: Path, evaluate: Path, arm: FakeArm, seed: int, pretrain_seed: int) -> None:
        # the seed's own draw is shared by all arms (same data order), as pairing assumes
        shared = np.random.default_rng([7, seed])
        own = np.random.default_rng([int(hashlib.sha256(arm.name.encode()).hexdigest()[:6], 16), seed, pretrain_seed])
        level = shared.normal(0, self.seed_sd)
        shift = own.normal(0, self.noise)
        every = self.steps // self.validations
        rows: list[dict[str, Any]] = []
        for step in range(0, self.steps + 1, every):
            done = np.log1p(step) / np.log1p(self.steps)
            loss = (
                9.0
                - 5.5 * done**1.8
                + level * done
                + (arm.early * (1 - done) + arm.late * done + shift) * min(1, 3 * done)
            )
            loss += shared.normal(0, 0.01)
            base = {"step": step, "examples": step * 32, "tokens": step * 4096, "seconds": step * 0.05}
            if step:
                rows.append({**base, "train/loss": loss + 0.1, "train/lr": 1e-3})
            gap = arm.gap * done**2
            rows.append(
                {**base, "val/loss": loss, "val/loss_shuffled": loss + gap, "val/gap": gap, "val/chrf": 30 * done}
            )
        write_lines(finetune / "metrics.jsonl", rows)
        write_json(
            finetune / "cost.json",
            {
                **{"seconds": 52.0, "steps": self.steps, "examples": self.steps * 32, "tokens": self.steps * 4096},
                **{"flops": 1.2e14, "parameters": 5_000_000, "graft_seconds": 4.0 if arm.name != "none" else 0.0},
            },
        )
        write_json(finetune / "transfer.json", transfer_record(arm))
        examples, scores = self._evaluate(arm, rows[-1]["val/loss"], shared, own)
        write_lines(evaluate / "examples.jsonl", examples)
        write_json(evaluate / "scores.json", scores)
        write_json(evaluate / "cost.json", {"seconds": 5.0})

    def _evaluate(
        self, arm: FakeArm, final: float, shared: Any, own: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        hard = np.random.default_rng(3).normal(0, 0.8, self.examples)
        examples = []
        for index in range(self.examples):
            language = LANGUAGES[index % len(LANGUAGES)]
            reference = self.text(index, language)
            loss = final + hard[index] + own.normal(0, 0.3)
            examples.append(
                {
                    "index": index,
                    "source": f"def list_packages_{index}(path): ... # {reference}",
                    "reference": reference,
                    "prediction": self.predict(index, reference, arm.name),
                    "source_lang": language,
                    "target_lang": language,
                    "loss": loss,
                    "tokens": 8 + index % 7,
                    "loss_shuffled": loss + arm.gap,
                    "chrf": 30.0,
                    "rougeL": 20.0,
                }
            )
        counted = np.random.default_rng([*map(ord, arm.name), int(abs(final) * 1e6)])
        for row in examples:
            row.update(_counts(counted, 0.5 - 0.3 * arm.late + BONUS[row["target_lang"]] / 100))
        weights = [row["tokens"] for row in examples]
        loss = float(np.average([row["loss"] for row in examples], weights=weights))

        def table(bonus: float, code: str | None = None) -> dict[str, Any]:
            some = [row for row in examples if code in (None, row["target_lang"])]
            quality = 22 - 20 * arm.late + bonus + own.normal(0, 0.4)
            lead = {"rouge1": 14.0 + bonus, "rouge2": 5.0, "rougeL": 12.0 + bonus, "chrf": 20.0 + bonus, "bleu": 2.0}
            return {
                **{"pairs": self.examples, "rouge1": quality + 6, "rouge2": quality - 10, "rougeL": quality},
                **{
                    "chrf": float(chrf_of(np.sum([row["chrf_counts"] for row in some], axis=0))),
                    "bleu": float(bleu_of(np.sum([row["bleu_counts"] for row in some], axis=0))),
                    "length_ratio": 0.93,
                    "lead1": {**lead, "pairs": self.examples},
                },
            }

        languages = {code: table(bonus, code) for code, bonus in BONUS.items()}
        return examples, {
            **{"split": "test", "pairs": self.examples, "loss": loss, "loss_shuffled": loss + arm.gap, "gap": arm.gap},
            **{"all": table(0.0), "languages": languages},
            "gaps": {code: arm.gap - bonus / 100 for code, bonus in BONUS.items()},
            "probes": {
                "all": _probes(arm, self.examples),
                "languages": {code: _probes(arm, self.examples // 3) for code in LANGUAGES},
            },
        }

    def sweep(self, arms: Sequence[FakeArm] = ARMS, seeds: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8)) -> Path:
        for seed in seeds:
            for arm in arms:
                self.job(arm, seed)
        return self.root / "sweep"


def _counts(rng: Any, quality: float) -> dict[str, Any]:
    """Counts of one output of 12 words and 60 characters, of which about so large a share is right."""
    right = rng.binomial(12, quality)
    matched = [max(right - order, 0) for order in range(4)]
    signs = [max(round(60 * right / 12) - 2 * order, 0) for order in range(6)]
    return {
        "bleu_counts": [12, 12, *matched, 12, 11, 10, 9],
        "chrf_counts": [count for order in range(6) for count in (60 - order, 60 - order, signs[order])],
    }


def _probes(arm: FakeArm, pairs: int) -> dict[str, Any]:
    """As the evaluate stage leaves them; nothing alarms unless the arm says so."""
    quiet = {"copied": 0.2, "repeated": 0.01, "degenerate": 0.0, "exact_copies": 0.0, "empty": 0.0, "commonest": 0.02}
    return {
        **{"pairs": pairs, "in_language": 0.95, "language_told": pairs, **quiet, "length_ratio": 0.93},
        **dict(arm.probes),
        "reference": {"in_language": 0.97, "language_told": pairs, **quiet},
    }


def transfer_record(arm: FakeArm) -> dict[str, Any]:
    """A transfer.json of four encoder layers."""
    wrote = {"none": "initialised", "calibrated": "calibrated"}.get(arm.name, "copied")
    step = None if arm.name == "none" else arm.name
    tensors: list[dict[str, Any]] = []

    def add(name: str, status: str, source: str | None = None, note: str = "") -> None:
        done = None if status in ("kept", "initialised") else step
        tensors.append({"name": name, "shape": [768], "status": status, "source": source, "step": done, "note": note})

    for layer in range(4):
        at, of = f"model.encoder.layers.{layer}", f"roberta.encoder.layer.{layer}"
        add(f"{at}.fc1.weight", wrote, None if step is None else f"{of}.intermediate.dense.weight")
        if step is not None:
            add(f"{at}.fc1.bias", "copied", f"{of}.intermediate.dense.bias")
            add(f"{at}.self_attn.q_proj.weight", "trained" if layer % 2 else "mapped", of, "half of it")
            add(f"{at}.self_attn.q_proj.lora_A.default.weight", "kept")
    if step is not None:
        add("model.shared.weight", "mapped", "roberta.embeddings.word_embeddings.weight")
        add("model.encoder.layer_norm.weight", "calibrated", "roberta.encoder.layer.3.output.LayerNorm.weight")
        add("somewhere.else.weight", "kept")
    add("model.decoder.layers.0.fc1.weight", "initialised")
    fidelity = None
    if arm.fidelity is not None:
        after = {"cka": arm.fidelity, "cosine": min(1.0, arm.fidelity + 0.03), "relative_error": 1 - arm.fidelity}
        before = {"cka": 0.12, "cosine": 0.0, "relative_error": 1.3}
        fidelity = {
            **{"texts": 200, "tokens": 6000, "before": before, "after": after},
            "layers": [
                {
                    "layer": layer,
                    "before": {name: value * (1 - 0.02 * layer) for name, value in before.items()},
                    "after": {name: value * (1 - 0.015 * layer) for name, value in after.items()},
                }
                for layer in range(5)
            ],
            "norms": [
                {
                    **{"layer": layer, "attention_sigma_cv": 0.2, "ffn_sigma_cv": 2.125 if layer == 2 else 0.3},
                    **{"attention_gamma_cv": 0.1, "ffn_gamma_cv": None},
                }
                for layer in range(4)
            ],
        }
    counted = dict(Counter(tensor["status"] for tensor in tensors))
    return {
        **{"version": 1, "strategy": arm.name, "control": arm.control, "seconds": 4.0},
        **{"donor": {"class": "XLMRobertaForMaskedLM", "parameters": 2_000_000}, "host": {"class": "mBART"}},
        **{"vocabulary": {"shared": 7990, "donor_only": 10, "host_only": 52, "roles": {}}, "host_tensors": tensors},
        "donor_tensors": [
            {"name": "lm_head.dense.weight", "shape": [192, 192], "status": "unused", "note": "no place"}
        ],
        "counts": {
            **{"host": counted, "host_parameters": {name: 147456 * count for name, count in counted.items()}},
            "donor": {"used": 4, "unused": 1},
        },
        **{"fidelity": fidelity, "steps": [{"step": arm.name, "seconds": 4.0, "parameters": {}}]},
    }


@pytest.fixture
def fake_sweep(tmp_path: Path) -> Callable[..., FakeSweep]:
    return lambda **options: FakeSweep(tmp_path, **options)


@pytest.fixture
def fake_arm() -> type[FakeArm]:
    return FakeArm


@pytest.fixture(scope="session")
def sweep_class() -> type[FakeSweep]:
    return FakeSweep


@pytest.fixture(scope="session")
def arm_class() -> type[FakeArm]:
    return FakeArm


BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if where is None:
        pytest.skip("no Chromium on this machine: the page was not opened")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the page was not opened")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=where, args=[*BROWSER, "--disable-sync", "--no-first-run"])
        yield opened
        opened.close()


def _open(browser: Any, path: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page.troubles = []
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and page.troubles.append(request.url))
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready]", state="attached", timeout=30_000)
    return page


@pytest.fixture(scope="session")
def open_in() -> Callable[..., Any]:
    """Opens a report in a browser; `troubles` of the page: what the console says and what it asks of the network."""
    return _open


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens reports that are closed when the test ends."""
    pages: list[Any] = []

    def opener(path: Path, *where: Any, **options: Any) -> Any:
        pages.append(_open(browser, path, *where, **options))
        return pages[-1]

    yield opener
    for page in pages:
        page.close()
