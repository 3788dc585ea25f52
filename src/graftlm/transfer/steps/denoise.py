"""Some steps of denoising before the task: the decoder learns to write, and to read what the encoder says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from graftlm.data.languages import nearest, to_code
from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.halfway import halfway

if TYPE_CHECKING:
    from graftlm.data.format import HostFormat


@dataclass(frozen=True)
class Denoise(Step):
    """Train the host to restore calibration text from mBART's noise. It is charged to the strategy as its compute.

    steps, batch_tokens, max_length: optimiser steps, padded source tokens of each, longest text (specials included).
    lr, warmup: the rate of the decoder, falling to 0, and the share of the steps over which it rises.
    encoder_lr, embeddings_lr: factors on it. With 0 the encoder's layers stay as the graft left them; the embeddings,
        which they read and the output shares, are trained all the same unless theirs is 0 too.
    mask_ratio, span_mean, permute: the noise (`graftlm.data.denoising`).
    language: the code of texts whose language is not known; without one they are left out, as are texts in a language
        that the host has no code for. The report says how many.
    """

    steps: int = setting(400, at_least=1)
    batch_tokens: int = setting(1024, at_least=16)
    max_length: int = setting(64, at_least=8)
    lr: float = setting(1e-3, above=0, at_most=1)
    warmup: float = setting(0.1, at_least=0, at_most=1)
    encoder_lr: float = setting(0.0, at_least=0, at_most=100)
    embeddings_lr: float = setting(1.0, at_least=0, at_most=100)
    mask_ratio: float = setting(0.35, above=0, below=1)
    span_mean: float = setting(3.5, at_least=1, at_most=20)
    permute: bool = True
    language: str | None = None
    seed: int = setting(0, at_least=0)

    reference: ClassVar[str] = "Liu et al. 2020 (arXiv:2001.08210); before fine-tuning: Soltan et al. 2023 (2306.08756)"
    after: ClassVar[tuple[str, ...]] = (
        *("embeddings", "encoder", "exact", "naive", "decoder", "distill", "standardise", "shuffle"),
        *("lora", "delta", "interpolate", "bridge"),
    )
    reads_donor: ClassVar[bool] = False
    needs_models: ClassVar[bool] = True
    needs_text: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    def refines(self) -> tuple[str, ...]:
        return ("*",)

    def check(self, path: str) -> Iterator[Problem]:
        if self.language is not None and to_code(self.language) is None:
            yield Problem(f"{path}.language", self.language, "is no language of mBART", nearest(self.language))

    def prepare(self, graft: Graft) -> None:
        """Text that cannot be used is told before the steps in front take their time."""
        self._texts(graft)

    def apply(self, graft: Graft) -> None:
        import torch

        from graftlm.models.loss import seq2seq_loss
        from graftlm.models.optim import build_optimizer, freeze, host_parts
        from graftlm.schema import OptimSettings, TransferSettings

        texts, left_out = self._texts(graft)
        if left_out:
            graft.progress.say(f"{graft.step}: {left_out}")
        batches = self._batches(graft, texts)
        host = graft.host
        graft.remember()
        before = {name: graft.current(name) for name in graft.host_weights.shapes}
        treatment = TransferSettings(
            "denoise", encoder_lr=self.encoder_lr, embeddings_lr=self.embeddings_lr, freeze_encoder=0.0
        )
        parts = host_parts(host, treatment, self.steps)
        optim = OptimSettings(max_steps=self.steps, lr=self.lr, warmup=self.warmup)
        built = build_optimizer(parts, optim)
        optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
        trained = {name for part in parts for name, _ in part.parameters}
        was_training = host.training
        loss = None
        with (
            graft.trained(host) as device,
            halfway(graft) as kept,
            graft.progress.task("denoising", self.steps) as advance,
        ):
            host.train()
            freeze(parts, 0)
            first = 0
            if earlier := kept.found():
                host.load_state_dict(earlier["host"])
                optimizer.load_state_dict(earlier["optimizer"])
                scheduler.load_state_dict(earlier["scheduler"])
                first = earlier["done"]
                advance(first)

            def state() -> dict[str, Any]:
                return {
                    "host": host.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                }

            for number in range(first, self.steps):
                torch.manual_seed((self.seed * 1_000_003 + number) % 2**63)  # dropout
                batch = {name: tensor.to(device) for name, tensor in batches(number).items()}
                with graft.spent.training(*_sizes(batch)):
                    with graft.autocast():
                        loss = seq2seq_loss(host, batch)
                    if not bool(torch.isfinite(loss)):
                        raise TransferError.at(
                            f"{graft.path}.lr",
                            self.lr,
                            f"the loss of denoising step {number} is {float(loss)}",
                            "lower it",
                        )
                    loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_([p for part in parts for _, p in part.parameters], 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
                advance(1)
                if number + 1 < self.steps:  # nothing is lost after it but the report
                    kept.after(number + 1, state)
        for part in parts:
            for _, parameter in part.parameters:
                parameter.requires_grad_(True)
        host.train(was_training)
        assert loss is not None
        note = f"{self.steps} steps of denoising, last loss {float(loss.detach()):.3f}"
        note += f", {left_out}" if left_out else ""
        for name, old in before.items():
            value = graft.current(name)
            if name in trained and not torch.equal(value, old):
                graft.refine(name, value, "trained", note)

    def _texts(self, graft: Graft) -> tuple[list[tuple[Any, str]], str]:
        """Pieces of text as host ids, each with its language code; and how many texts were left out, in words.

        Raises:
            TransferError: no text is left.
        """
        from collections import Counter

        import numpy as np

        known = graft.format.languages
        fallback = to_code(self.language) if self.language else None
        pieces: list[tuple[Any, str]] = []
        lacking: Counter[str] = Counter()
        size = self._longest(graft) - 2
        for index, ids in enumerate(graft.calibration):
            # what is known to be in another language is not in the fallback's
            lang = (graft.languages[index] if index < len(graft.languages) else "") or fallback or ""
            if lang not in known:
                lacking[lang] += 1
                continue
            mapped = graft.vocabulary.to_host(np.asarray(ids))
            cut = [mapped[start : start + size] for start in range(0, len(mapped), size)]
            pieces += [(piece, lang) for piece in cut if len(piece) >= 4]
        if not pieces:
            raise TransferError.at(
                f"{graft.path}.language",
                self.language,
                "no calibration text has a language that the host knows",
                "give the data's languages, or set it to a code such as en_XX",
            )
        without = [f"{lacking.pop('')} of unknown language"] if "" in lacking else []
        others = [f"{count} in {lang}, which the host has no code for" for lang, count in sorted(lacking.items())]
        left_out = ", ".join([*without, *others])
        return pieces, f"texts left out: {left_out}" if left_out else ""

    def _longest(self, graft: Graft) -> int:
        return min(self.max_length, int(graft.host_config.max_position_embeddings))

    def _batches(self, graft: Graft, texts: Sequence[tuple[Any, str]]) -> Any:
        """A function from the number of a step to its batch."""
        import numpy as np

        from graftlm.data.batches import BatchPlan
        from graftlm.data.denoising import noised, sentence_ends
        from graftlm.data.pairs import IGNORED, pad, pad_sources, widths

        format: HostFormat = graft.format
        longest = self._longest(graft)
        lengths = widths(np.asarray([min(len(ids) + 2, longest) for ids, _ in texts]), longest)
        plan = BatchPlan(lengths, self.batch_tokens, self.seed)
        ends = sentence_ends(graft.host_tokenizer.get_vocab())

        def batch(number: int) -> dict[str, Any]:
            sources, labels = [], []
            for row in plan.indices(number).tolist():
                ids, lang = texts[row]
                rng = np.random.default_rng((self.seed, number, row))
                mixed = noised(ids, format.mask_id, ends, rng, self.mask_ratio, self.span_mean, self.permute)
                sources.append(format.source(mixed.tolist(), lang, longest))
                labels.append(format.target(ids.tolist(), lang, longest))
            input_ids, attention = pad_sources(sources, format.pad_id, longest)
            return {
                "input_ids": input_ids,
                "attention_mask": attention,
                "decoder_input_ids": pad([format.decoder_input(row) for row in labels], format.pad_id, longest),
                "labels": pad(labels, IGNORED, longest),
            }

        return batch


def _sizes(batch: dict[str, Any]) -> tuple[int, ...]:
    """What the operations of a step are linear in: tokens of both sides (maps), pairs of them (attention), words."""
    from graftlm.data.pairs import IGNORED
    from graftlm.models.loss import filled

    (rows, source), target = batch["input_ids"].shape, batch["labels"].shape[1]
    pairs = (rows * source**2, rows * source * target, rows * target**2)
    return (rows * source, rows * target, *pairs, filled(int((batch["labels"] != IGNORED).sum())))


STEP = Denoise
