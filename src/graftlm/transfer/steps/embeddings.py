"""Carry the embedding block: words by token string, positions and LayerNorm so that the first layer sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from graftlm.errors import Problem, TransferError
from graftlm.fields import setting
from graftlm.transfer import anatomy
from graftlm.transfer.graft import Graft, Step
from graftlm.transfer.growth import Growth
from graftlm.transfer.output import output_norm, unit_logits
from graftlm.transfer.weights import ROWS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Embeddings(Step):
    """The donor computes LN(E + P + T), the host LN(s·E + P') with s = √d if it scales its embeddings, else 1.

    So E is copied unchanged, which keeps the scale of the tied output, and P' = s·(P + T): the LayerNorm does not see
    a common factor. The two epsilons differ in effect, which the LayerNorm's scale makes up for on average. The encoder
    of an mBART cc25 reads `X </s> lang`: its positions are the donor's one row on, so that X finds its own.

    languages: the rows of the host's language codes, which the donor does not have: `start` the row of `<s>`, in whose
        place mBART-50 puts the code, `mean` the mean of all shared rows, `language` the mean over the tokens of the
        calibration texts in that language (`start` for one of which there are none), `keep` as they are.
    spread: what tells the codes apart: a random vector a code, in units of the standard deviation of the shared rows.
        Without it a decoder could not see which language it is to write.
    missing: rows of other tokens that the donor lacks: `mean` the mean of all shared rows, `pieces` the mean of the
        pieces into which the donor's tokenizer splits the token, `focus` a sparse weighted mean of shared tokens that
        are near in the host's own rows if they are trained, else in their letters (FOCUS, Dobler & de Melo 2023), `omp`
        the combination of shared tokens that comes nearest to the token's own trained row (orthogonal matching pursuit,
        Goddard & Fernandes Neto 2025), `keep` as they are. What a method cannot do falls back to the mean.
    k: how many shared tokens `focus` looks at and `omp` combines at most.
    decoder: whether the decoder's positions and embedding LayerNorm are written too (its words are the shared ones).
    beyond: the host's positions past the donor's: `last` repeats the donor's last row, `keep` leaves them.
    logits_bias: whether the bias of the MLM head becomes `final_logits_bias`.
    output: `unit` lowers the gain of the last LayerNorm of a decoder that is not trained until its logits on text have
        unit variance: trained rows are longer than fresh ones and alike, and a random decoder over them is wrong with
        great confidence. `keep` leaves it, as a trained decoder is left anyway.
    min_shared: refuse a host of whose tokens a smaller share is known to the donor.
    """

    languages: Literal["start", "mean", "language", "keep"] = "start"
    spread: float = setting(0.5, at_least=0, at_most=10)
    missing: Literal["mean", "pieces", "focus", "omp", "keep"] = "mean"
    k: int = setting(64, at_least=1)
    decoder: bool = True
    beyond: Literal["last", "keep"] = "last"
    logits_bias: bool = True
    output: Literal["unit", "keep"] = "unit"
    min_shared: float = setting(0.5, at_least=0, at_most=1)

    reference: ClassVar[str] = (
        "Rothe et al. 2020 (arXiv:1907.12461) for the copy, the scale worked out here; missing rows: Dobler & de Melo "
        "2023 (arXiv:2305.14481), Goddard & Fernandes Neto 2025 (arXiv:2506.06607; mergekit-tokensurgeon)"
    )

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
        # of a post-LN host it is the last layer's, which a decoder step writes anew and scales again
        return anatomy.pair(anatomy.HOST_DECODER_NORM) if self.output == "unit" else ()

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
            # with nothing in front of it, a text begins a row earlier than in the donor; in a decoder there always is
            early = 1 - graft.format.first_place if side == "encoder" else 0
            known = min(len(table) - early, len(positions))
            positions[place:known] = table[place + early : known + early].to(positions)
            note = f"rows {place}..{known - 1} = {scale:.4g} x (position + token type 0)"
            if early:
                note += f" of rows {place + early}..{known}: the host reads no <s> in front of a text"
            if len(positions) > known and self.beyond == "last":
                positions[known:] = table[-1].to(positions)
                note += f"; rows {known}..{len(positions) - 1} repeat the last one"
            elif len(positions) > known:
                note += f"; rows {known}..{len(positions) - 1} left"
            graft.write(name, positions, "mapped", f"{anatomy.DONOR_POSITIONS} + {anatomy.DONOR_TYPES}[0]", note)
            factor = self._factor(graft, scale, growth.eps(anatomy.HOST_EPS))
            norm = growth.embedding_norm((graft.source(of_weight), graft.source(of_bias)), factor)
            note = "grown" if growth.widens else ""
            if factor != 1:
                note = "; ".join([*[note] * growth.widens, f"x {factor:.6f}: the epsilons differ, on average"])
            names = anatomy.pair(anatomy.host_embedding_norm(side))
            for name, value, of, changed in zip(names, norm, (of_weight, of_bias), (factor != 1, False), strict=True):
                mapped = changed or growth.widens
                graft.write(name, value, "mapped" if mapped else "copied", of, note if mapped else "")
        if self.logits_bias and anatomy.DONOR_BIAS in graft.donor_weights and anatomy.DONOR_BIAS not in graft.fresh:
            self._logits_bias(graft)
        if self.output == "unit" and graft.is_random(output_norm(graft)[0]):
            unit_logits(graft, anatomy.DONOR_WORDS)

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
        grow = self._grower(graft)
        host_of = torch.from_numpy(vocabulary.host_of)
        known = torch.zeros(len(words), dtype=torch.bool)
        total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for start in range(0, donor_rows, ROWS):
            places = host_of[start : start + ROWS]
            fits = (places >= 0) & (places < len(words))
            block = graft.source(anatomy.DONOR_WORDS, start, start + len(places))[: len(places)]
            fits = fits[: len(block)]
            rows = grow(block[fits])
            words[places[: len(block)][fits]] = rows
            known[places[: len(block)][fits]] = True
            total += rows.sum(0, dtype=torch.float64)
            squares += rows.double().square().sum(0)
        count = max(int(known.sum()), 1)
        mean = total / count
        spread = (squares / count - mean.square()).clamp_min(0).sqrt().float()
        mean = mean.float()
        notes = [f"{int(known.sum())} rows by token string"]
        if self.languages != "keep":
            notes += self._languages(graft, words, known, mean, spread)
        rest = ~known
        rest[[row for row in vocabulary.languages.values() if row < len(words)]] = False
        rest[len(vocabulary.donor_of) :] = False
        if bool(rest.any()):
            notes.append(self._missing(graft, name, words, rest.nonzero()[:, 0].tolist(), known, mean))
        return words, notes

    def _grower(self, graft: Graft) -> Callable[[Tensor], Tensor]:
        """What makes rows of the donor's width rows of the host's."""
        growth = Growth.between(graft.donor_config, graft.host_config)
        gamma = graft.source(anatomy.pair(anatomy.DONOR_EMBEDDING_NORM)[0])
        return partial(growth.rows, gamma=gamma)

    def _languages(self, graft: Graft, words: Tensor, known: Tensor, mean: Tensor, spread: Tensor) -> list[str]:
        """Fill the rows of the language codes; what was done."""
        import torch

        from graftlm.transfer import tokens

        donor_rows = graft.donor_weights.shape(anatomy.DONOR_WORDS)[0]
        # in the order of their ids, so that each draws the same numbers whatever else the vocabulary holds
        by_id = sorted((row, code) for code, row in graft.vocabulary.languages.items())
        codes = {code: row for row, code in by_id if row < len(words) and not known[row]}
        if not codes:
            return []
        rows = torch.tensor(list(codes.values()))
        noise = torch.randn(len(codes), len(mean), generator=torch.Generator().manual_seed(0))
        start = graft.vocabulary.roles["bos"][0]
        first = self._grower(graft)(graft.source(anatomy.DONOR_WORDS, start, start + 1))[0]
        words[rows] = first if self.languages != "mean" else mean
        notes = []
        heard = 0
        if self.languages == "language":
            mixture = tokens.of_languages(graft, codes, donor_rows)
            tokens.mix(graft, words, mixture, self._grower(graft))
            heard = len(mixture.rows)
            if not heard:
                reason = "no calibration text is known to be in a language of the host"
                remedy = "give texts with their languages, or take start or mean"
                raise TransferError.at(f"{graft.path}.languages", self.languages, reason, remedy)
            notes.append(f"{heard} language codes from the mean of their language's tokens")
        if heard < len(codes):
            why = ", without calibration text" if self.languages == "language" else ""
            origin = "the mean" if self.languages == "mean" else "<s>"
            notes.append(f"{len(codes) - heard} language codes from {origin}{why}")
        words[rows] += self.spread * spread * noise
        return notes

    def _missing(self, graft: Graft, name: str, words: Tensor, rest: list[int], known: Tensor, mean: Tensor) -> str:
        """Fill the rows `rest` of tokens that the donor lacks; what was done."""
        import numpy as np

        from graftlm.transfer import tokens

        vocabulary = graft.vocabulary
        if self.missing == "keep":
            return f"{len(rest)} unknown tokens left"
        if self.missing == "mean":
            words[rest] = mean
            return f"{len(rest)} unknown tokens from the mean"
        trained = not graft.is_random(name)
        if self.missing == "omp" and not trained:
            raise TransferError.at(
                f"{graft.path}.missing",
                "omp",
                "needs trained rows of the host, and this host is not pretrained",
                "take missing=pieces or missing=focus, or name model.host.checkpoint",
            )
        # special tokens and language codes are no neighbours of a word
        special = {host for _, host in vocabulary.roles.values()} | set(vocabulary.languages.values())
        shared = known.nonzero()[:, 0].numpy()
        shared = shared[~np.isin(shared, sorted(special))]
        if self.missing == "pieces":
            mixture = tokens.of_pieces(vocabulary, rest, graft.donor_weights.shape(anatomy.DONOR_WORDS)[0])
            how = "from the mean of their pieces in the donor's tokenizer"
        elif not len(shared):
            mixture, how = tokens.Mixture.of({}), "from shared tokens"
        elif self.missing == "omp":
            mixture, error = tokens.pursuit(graft.host_weights, name, vocabulary, rest, shared, self.k)
            how = f"by omp (k={self.k}; mean relative error {error:.3f} in the host's space)"
        elif trained:
            mixture = tokens.focus_by_rows(graft.host_weights, name, vocabulary, rest, shared, self.k)
            how = f"by focus in the space of the host's own rows (k={self.k})"
        else:
            mixture = tokens.focus_by_letters(vocabulary, rest, shared, self.k)
            how = f"by focus in the space of character n-grams (k={self.k})"
        words[rest] = mean
        tokens.mix(graft, words, mixture, self._grower(graft))
        filled = len(mixture.rows)
        left = f", {len(rest) - filled} from the mean, for want of any" if filled < len(rest) else ""
        return f"{filled} unknown tokens {how}{left}"

    def _rows(self, graft: Graft, donor_rows: int, host_rows: int) -> Tensor:
        """Donor row of each host row or -1, for tables that may be longer or shorter than the tokenizers."""
        import torch

        rows = torch.full((host_rows,), -1, dtype=torch.long)
        known = torch.from_numpy(graft.vocabulary.donor_of)[:host_rows]
        rows[: len(known)] = torch.where(known < donor_rows, known, -1)
        return rows


STEP = Embeddings
