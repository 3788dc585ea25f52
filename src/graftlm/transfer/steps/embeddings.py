"""Carry the embedding block: words by token string, positions and LayerNorm so that the first layer sees the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.fidelity import evaluation, framed
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.growth import Growth

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 8192  # of the donor's word embeddings that are read at once
_OUTPUT_TEXTS, _OUTPUT_LENGTH = 32, 64  # texts and tokens of each on which the spread of the logits is measured


@dataclass(frozen=True)
class Embeddings(Step):
    """The donor computes LN(E + P + T), the host LN(s·E + P') with s = √d if it scales its embeddings, else 1.

    So E is copied unchanged, which keeps the scale of the tied output, and P' = s·(P + T): the LayerNorm does not see
    a common factor. The two epsilons differ in effect, which the LayerNorm's scale makes up for on average.

    languages: the rows of the host's language codes, which the donor does not have: `start` the row of `<s>`, in whose
        place mBART-50 puts the code, `mean` the mean of all shared rows, `keep` as they are.
    spread: what tells the codes apart: a random vector a code, in units of the standard deviation of the shared rows.
        Without it a decoder could not see which language it is to write.
    missing: rows of other tokens that the donor lacks.
    decoder: whether the decoder's positions and embedding LayerNorm are written too (its words are the shared ones).
    beyond: the host's positions past the donor's: `last` repeats the donor's last row, `keep` leaves them.
    logits_bias: whether the bias of the MLM head becomes `final_logits_bias`.
    output: `unit` lowers the gain of the last LayerNorm of a decoder that is not trained until its logits on text have
        unit variance: trained rows are longer than fresh ones and alike, and a random decoder over them is wrong with
        great confidence. `keep` leaves it, as a trained decoder is left anyway.
    min_shared: refuse a host of whose tokens a smaller share is known to the donor.
    """

    languages: Literal["start", "mean", "keep"] = "start"
    spread: float = setting(0.5, at_least=0, at_most=10)
    missing: Literal["mean", "keep"] = "mean"
    decoder: bool = True
    beyond: Literal["last", "keep"] = "last"
    logits_bias: bool = True
    output: Literal["unit", "keep"] = "unit"
    min_shared: float = setting(0.5, at_least=0, at_most=1)

    reference: ClassVar[str] = "Rothe et al. 2020 (arXiv:1907.12461) for the copy; the scale is worked out here"

    def writes(self) -> tuple[str, ...]:
        decoder = ("model.decoder.embed_positions.weight", "model.decoder.layernorm_embedding.*")
        return (
            *anatomy.HOST_WORDS,
            "model.encoder.embed_positions.weight",
            "model.encoder.layernorm_embedding.*",
            *(decoder if self.decoder else ()),
            *((anatomy.HOST_BIAS,) if self.logits_bias else ()),
        )

    def refines(self) -> tuple[str, ...]:
        return (anatomy.HOST_OUTPUT_NORM,) if self.output == "unit" else ()

    def check_shapes(self, donor: Mapping[str, Any], host: Mapping[str, Any], path: str) -> Iterator[Problem]:
        if donor["hidden_size"] > host["d_model"]:
            yield Problem(
                "model.host.d_model",
                host["d_model"],
                f"must be at least the donor's width {donor['hidden_size']} for this graft ({path})",
                "set model.host.d_model=null, or take a host checkpoint of that width",
            )

    def apply(self, graft: Graft) -> None:
        config = graft.host_config
        scale = float(config.d_model) ** 0.5 if config.scale_embedding else 1.0
        self._words(graft)
        place = anatomy.FIRST_POSITION
        growth = Growth.between(graft.donor_config, config)
        of_weight, of_bias = anatomy.pair(anatomy.DONOR_EMBEDDING_NORM)
        table = scale * (graft.source(anatomy.DONOR_POSITIONS) + graft.source(anatomy.DONOR_TYPES)[0])
        table = growth.rows(table, graft.source(of_weight))
        for side in ("encoder", "decoder") if self.decoder else ("encoder",):
            name = anatomy.host_positions(side)
            positions = graft.current(name)
            known = min(len(table), len(positions))
            positions[place:known] = table[place:known].to(positions)
            note = f"rows {place}..{known - 1} = {scale:.4g} x (position + token type 0)"
            if len(positions) > known and self.beyond == "last":
                positions[known:] = table[known - 1].to(positions)
                note += f"; rows {known}..{len(positions) - 1} repeat the last one"
            elif len(positions) > known:
                note += f"; rows {known}..{len(positions) - 1} left"
            graft.write(name, positions, "mapped", f"{anatomy.DONOR_POSITIONS} + {anatomy.DONOR_TYPES}[0]", note)
            factor = self._factor(graft, scale, growth.eps(anatomy.HOST_EPS))
            norm = growth.embedding_norm((factor * graft.source(of_weight), graft.source(of_bias)))
            note = "grown" if growth.widens else ""
            if factor != 1:
                note = "; ".join([*[note] * growth.widens, f"x {factor:.6f}: the epsilons differ, on average"])
            names = anatomy.pair(anatomy.host_embedding_norm(side))
            for name, value, of, changed in zip(names, norm, (of_weight, of_bias), (factor != 1, False), strict=True):
                mapped = changed or growth.widens
                graft.write(name, value, "mapped" if mapped else "copied", of, note if mapped else "")
        if self.logits_bias and anatomy.DONOR_BIAS in graft.donor_weights:
            self._logits_bias(graft)
        if self.output == "unit" and graft.is_random(anatomy.HOST_OUTPUT_NORM) and len(graft.calibration):
            self._output(graft)

    def _output(self, graft: Graft) -> None:
        """Lower the gain of the decoder's last LayerNorm by the spread of its logits on calibration text."""
        import torch

        host = graft.host
        spreads: list[Tensor] = []
        with evaluation(host), torch.no_grad():
            for ids in framed(graft.calibration[:_OUTPUT_TEXTS], graft.vocabulary, _OUTPUT_LENGTH):
                text = torch.from_numpy(graft.vocabulary.to_host(ids))[None].to(host.device)
                states = host.model(input_ids=text, decoder_input_ids=text, use_cache=False).last_hidden_state[0]
                spreads.append(host.lm_head(states).float().std(dim=-1))
        gain = min(1.0, 1 / float(torch.cat(spreads).mean()))
        weight = gain * graft.current(anatomy.HOST_OUTPUT_NORM)
        note = f"x {gain:.4f}: logits of unit variance"
        graft.refine(anatomy.HOST_OUTPUT_NORM, weight, "calibrated", note, anatomy.DONOR_WORDS)

    def _logits_bias(self, graft: Graft) -> None:
        """Write `final_logits_bias`, a row by token string; a token that the donor lacks gets the mean."""
        ours, theirs = graft.current(anatomy.HOST_BIAS), graft.source(anatomy.DONOR_BIAS)
        donor_of = self._rows(graft, len(theirs), ours.shape[1])
        known = donor_of >= 0
        ours[0, ~known] = theirs.mean().to(ours)
        ours[0, known] = theirs[donor_of[known]].to(ours)
        graft.write(anatomy.HOST_BIAS, ours, "mapped", anatomy.DONOR_BIAS, "by token string; the mean elsewhere")

    def _factor(self, graft: Graft, scale: float, eps: float) -> float:
        """What makes up, on average, for the epsilon of the host's LayerNorm being another in the donor's scale."""
        import torch

        ours, theirs = eps / scale**2, float(graft.donor_config.layer_norm_eps)
        if ours == theirs:
            return 1.0
        total = graft.donor_weights.shape(anatomy.DONOR_WORDS)[0]
        table = graft.source(anatomy.DONOR_POSITIONS)[anatomy.FIRST_POSITION :] + graft.source(anatomy.DONOR_TYPES)[0]
        blocks = [
            graft.source(anatomy.DONOR_WORDS, start, start + 64) for start in range(0, total, max(total // 64, 64))
        ]
        rows = torch.cat(blocks)
        sums = rows + table.repeat(len(rows) // len(table) + 1, 1)[: len(rows)]
        variance = sums.var(1, correction=0).double()
        return float(((variance + ours) / (variance + theirs)).sqrt().mean())

    def _words(self, graft: Graft) -> None:
        """Write the word embeddings, in each copy that the host holds for itself."""
        vocabulary = graft.vocabulary
        share = vocabulary.shared / max(len(vocabulary.donor_of), 1)
        if share < self.min_shared:
            raise TransferError.at(
                f"{graft.path}.min_shared",
                self.min_shared,
                f"only {share:.0%} of the host's {len(vocabulary.donor_of)} tokens are known to the donor",
                "use a host with the donor's vocabulary, or lower it",
            )
        done: set[str] = set()
        for name in anatomy.HOST_WORDS:
            if name not in graft.host_weights or graft.ledger.host_name(name) in done:
                continue
            done.add(graft.ledger.host_name(name))
            words, notes = self._table(graft, name)
            graft.write(name, words, "mapped", anatomy.DONOR_WORDS, "; ".join(notes))

    def _table(self, graft: Graft, name: str) -> tuple[Tensor, list[str]]:
        """One table of word embeddings with the donor's rows in it, and what was done."""
        import torch

        vocabulary = graft.vocabulary
        words = graft.current(name)
        donor_rows, width = graft.donor_weights.shape(anatomy.DONOR_WORDS)[0], words.shape[1]
        growth = Growth.between(graft.donor_config, graft.host_config)
        gamma = graft.source(anatomy.pair(anatomy.DONOR_EMBEDDING_NORM)[0])
        host_of = torch.from_numpy(vocabulary.host_of)
        known = torch.zeros(len(words), dtype=torch.bool)
        total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for start in range(0, donor_rows, _ROWS):
            places = host_of[start : start + _ROWS]
            fits = (places >= 0) & (places < len(words))
            block = graft.source(anatomy.DONOR_WORDS, start, start + len(places))[: len(places)]
            fits = fits[: len(block)]
            rows = growth.rows(block[fits], gamma)
            words[places[: len(block)][fits]] = rows
            known[places[: len(block)][fits]] = True
            total += rows.sum(0, dtype=torch.float64)
            squares += rows.double().square().sum(0)
        count = max(int(known.sum()), 1)
        mean = total / count
        spread = (squares / count - mean.square()).clamp_min(0).sqrt().float()
        mean = mean.float()
        notes = [f"{int(known.sum())} rows by token string"]
        codes = torch.tensor(sorted(vocabulary.languages.values()), dtype=torch.long)
        codes = codes[(codes < len(words)) & ~known[codes]] if len(codes) else codes
        if len(codes) and self.languages != "keep":
            start = vocabulary.roles["bos"][0]
            noise = torch.randn(len(codes), width, generator=torch.Generator().manual_seed(0))
            first = growth.rows(graft.source(anatomy.DONOR_WORDS, start, start + 1), gamma)[0]
            row = first if self.languages == "start" else mean
            words[codes] = row + self.spread * spread * noise
            notes.append(f"{len(codes)} language codes from {'<s>' if self.languages == 'start' else 'the mean'}")
        rest = ~known
        rest[codes] = False
        rest[len(vocabulary.donor_of) :] = False
        if bool(rest.any()):
            if self.missing == "mean":
                words[rest] = mean
            notes.append(f"{int(rest.sum())} unknown tokens {'from the mean' if self.missing == 'mean' else 'left'}")
        return words, notes

    def _rows(self, graft: Graft, donor_rows: int, host_rows: int) -> Tensor:
        """Donor row of each host row or -1, for tables that may be longer or shorter than the tokenizers."""
        import torch

        rows = torch.full((host_rows,), -1, dtype=torch.long)
        known = torch.from_numpy(graft.vocabulary.donor_of)[:host_rows]
        rows[: len(known)] = torch.where(known < donor_rows, known, -1)
        return rows


STEP = Embeddings
