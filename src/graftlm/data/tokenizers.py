"""The tokenizers of the pair: real `XLMRobertaTokenizer`, `MBart50Tokenizer` and `MBartTokenizer` objects.

Donor and host share their pieces. Ids follow fairseq: `<s> <pad> </s> <unk>`, the pieces, then `<mask>` (donor), or the
language codes and `<mask>` (host). So a piece has the same id in both, and only `<mask>` and the codes differ.

Source of the algorithm: Kudo 2018, "Subword Regularization" (the unigram language model), as in SentencePiece.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graftlm.checkpoint import REMEDY, resolve
from graftlm.data.charsmap import build_charsmap
from graftlm.data.languages import CODES, MBART50
from graftlm.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from transformers import MBart50Tokenizer, MBartTokenizer, XLMRobertaTokenizer

log = logging.getLogger(__name__)

Format = Literal["mbart50", "cc25"]
Piece = tuple[str, float]

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
COVERAGE = 0.9995  # share of all characters that get a piece of their own: SentencePiece's default, XLM-R's setting
CHARACTERS_A_PIECE = 250  # of text that the vocabulary is trained on: 2 million for 8,000 pieces, some 10 s
LEAST_CHARACTERS = 1_000_000
WHITE_SPACE = dict.fromkeys("\t\n\v\f\r", " ")

_RESERVED = frozenset((*SPECIALS, MASK, *MBART50))
_RESERVED_PATTERN = re.compile("|".join(re.escape(token) for token in sorted(_RESERVED, key=len, reverse=True)))


def plain(text: str) -> str:
    """The text with single spaces, and with nothing in it that a tokenizer would take for a special token.

    A docstring that mentions `<mask>` or `en_XX` must not put a real mask or language code into the training data; a
    space after the first character makes it ordinary text. MBart50Tokenizer keeps line ends and a trailing space where
    XLM-R drops them; single spaces make both agree.
    """
    text = " ".join(text.split())
    if "<" in text or "_" in text:
        text = _RESERVED_PATTERN.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text without special tokens, by the Rust batch encoder."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # a call such as tokenizer(text, truncation=True) leaves its limit behind
    backend.no_padding()
    fast = getattr(backend, "encode_batch_fast", backend.encode_batch)  # the fast one skips offsets
    return [item.ids for item in fast([plain(text) for text in texts], add_special_tokens=False)]


def train_pieces(texts: Iterable[str], vocab_size: int) -> list[Piece]:
    """Pieces and their log-probabilities, most likely first (unigram, Kudo 2018, by the sentencepiece library).

    Args:
        texts: the training split, walked twice; some of it is read (`CHARACTERS_A_PIECE`), spread evenly over it.
        vocab_size: of the donor's whole vocabulary: the 5 special tokens count. Little text gives fewer pieces.

    The same text gives the same pieces in every process. The trainer of the `tokenizers` library would not: it walks
    hash maps in an order that differs from run to run, and ties decide which pieces survive.
    """
    import sentencepiece

    wanted = vocab_size - len(SPECIALS) - 1
    sample = _covered(_sample(texts, max(LEAST_CHARACTERS, CHARACTERS_A_PIECE * vocab_size)), max(wanted // 2, 1))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample),
        model_writer=model,
        model_type="unigram",
        vocab_size=wanted + 3,  # its own <unk> <s> </s>
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        max_sentence_length=1_000_000,
        num_threads=1,
        minloglevel=2,
    )
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [
        (trained.id_to_piece(id_), round(trained.get_score(id_), 6))
        for id_ in range(trained.get_piece_size())
        if not (trained.is_control(id_) or trained.is_unknown(id_)) and trained.id_to_piece(id_) not in _RESERVED
    ]
    pieces.sort(key=lambda item: (-item[1], item[0]))
    if len(pieces) < wanted:
        log.warning("the corpus gives %d pieces where model.vocab_size=%d asks for %d", len(pieces), vocab_size, wanted)
    return pieces[:wanted]


def build_donor_tokenizer(pieces: Sequence[Piece], charsmap: bytes | None = None) -> XLMRobertaTokenizer:
    """`<s> <pad> </s> <unk>`, the pieces, `<mask>`; `charsmap` is a SentencePiece precompiled normaliser."""
    from transformers import XLMRobertaTokenizer

    vocabulary = [*((token, 0.0) for token in SPECIALS), *pieces, (MASK, 0.0)]
    return XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap)


def build_host_tokenizer(
    pieces: Sequence[Piece], format: Format, charsmap: bytes | None = None
) -> MBart50Tokenizer | MBartTokenizer:
    """`<s> <pad> </s> <unk>`, the pieces, the language codes of the format, `<mask>`.

    Args:
        charsmap: a SentencePiece precompiled normaliser. Only MBart50Tokenizer keeps one through save and reload;
            MBartTokenizer (5.23) has it in this process only.

    MBart50Tokenizer reorders a list without language codes (and drops its first three entries); with them it takes the
    list as it is. It does not split at white space, so it gets a charsmap that makes a space of each.
    """
    from tokenizers import normalizers
    from transformers import MBart50Tokenizer, MBartTokenizer

    vocabulary = [
        *((token, 0.0) for token in SPECIALS),
        *pieces,
        *((code, 0.0) for code in CODES[format]),
        (MASK, 0.0),
    ]
    if format == "mbart50":
        return MBart50Tokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap or build_charsmap(WHITE_SPACE))
    tokenizer = MBartTokenizer(vocab=vocabulary)
    if charsmap is not None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Precompiled(charsmap)
    return tokenizer


def pieces_of(tokenizer: Any) -> list[Piece]:
    """The ordinary pieces of a donor's or host's tokenizer with their scores, in the order of their ids."""
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
    return [(str(piece), float(score)) for piece, score in vocabulary if piece not in _RESERVED]


def host_tokenizer_from_donor(donor_tokenizer: Any, format: Format) -> MBart50Tokenizer | MBartTokenizer:
    """The host's tokenizer over a donor checkpoint's pieces: the real XLM-R's 250,002 become mBART-50's 250,054."""
    return build_host_tokenizer(pieces_of(donor_tokenizer), format, charsmap_of(donor_tokenizer))


def charsmap_of(tokenizer: Any) -> bytes | None:
    """The precompiled normaliser of a tokenizer, or None."""
    return _charsmap_of(json.loads(tokenizer.backend_tokenizer.to_str()).get("normalizer"))


def load_tokenizer(
    checkpoint: str, revision: str | None = None, path: str = "model.donor.checkpoint", kind: str | None = None
) -> Any:
    """The tokenizer of a local folder or a hub name.

    Args:
        path: the setting to name in an error.
        kind: `donor` (XLM-R) or `host` (mBART); by default what `path` speaks of.

    Raises:
        CheckpointError: it is not there, cannot be fetched, or is of another kind.
    """
    from transformers import AutoTokenizer, MBart50Tokenizer, MBartTokenizer, XLMRobertaTokenizer

    kind = kind or ("host" if ".host" in path else "donor")
    place = resolve(checkpoint, path, ("tokenizer.json", "sentencepiece.bpe.model", "tokenizer_config.json"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except Exception as error:  # transformers raises half a dozen kinds, some of them bare
        raise CheckpointError.at(
            path, checkpoint, f"its tokenizer cannot be loaded: {first_line(error)}", REMEDY
        ) from error
    wanted = (XLMRobertaTokenizer,) if kind == "donor" else (MBart50Tokenizer, MBartTokenizer)
    if not isinstance(tokenizer, wanted):
        names = " or ".join(item.__name__ for item in wanted)
        found = f"its tokenizer is a {type(tokenizer).__name__}, not {names}"
        remedy = f"take a checkpoint with the tokenizer of {'XLM-R' if kind == 'donor' else 'mBART'}"
        raise CheckpointError.at(path, checkpoint, found, remedy)
    if len(tokenizer) < len(SPECIALS) + 2 or tokenizer.convert_tokens_to_ids("<pad>") != 1:
        raise CheckpointError.at(path, checkpoint, "its tokenizer has no fairseq vocabulary (<pad> must be 1)", REMEDY)
    if isinstance(tokenizer, MBartTokenizer):
        _restore_normalizer(tokenizer, place, revision)
    return tokenizer


def _restore_normalizer(tokenizer: Any, checkpoint: str, revision: str | None) -> None:
    """Puts back the normaliser of a checkpoint's tokenizer.json, which MBartTokenizer (5.23) drops on loading."""
    from tokenizers import normalizers
    from transformers.utils import cached_file

    found = cached_file(checkpoint, "tokenizer.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    if found is None or tokenizer.backend_tokenizer.normalizer is not None:
        return
    charsmap = _charsmap_of(json.loads(Path(found).read_text(encoding="utf-8")).get("normalizer"))
    if charsmap is not None:
        tokenizer.backend_tokenizer.normalizer = normalizers.Precompiled(charsmap)


def _charsmap_of(normalizer: Any) -> bytes | None:
    """The precompiled charsmap in a normaliser's description, wherever in a sequence it stands."""
    if not normalizer:
        return None
    if normalizer.get("type") == "Precompiled":
        found = normalizer.get("precompiled_charsmap")
        return base64.b64decode(found) if found else None
    for part in normalizer.get("normalizers", ()):
        inside = _charsmap_of(part)
        if inside is not None:
            return inside
    return None


def _xlmr_pre_tokenizer() -> Any:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )


def _sample(texts: Iterable[str], characters: int) -> list[str]:
    """Texts spread evenly, with about so many characters in all."""
    share = characters / max(sum(map(len, texts)), 1)
    if share >= 1:
        return [plain(text) for text in texts]
    return [plain(text) for index, text in enumerate(texts) if int((index + 1) * share) > int(index * share)]


def _covered(texts: Sequence[str], most: int) -> Iterator[str]:
    """The texts without the rarest characters: `COVERAGE` of all is kept, and at most `most` different ones.

    The trainer has no such limit: it gives every character a piece, so a few Chinese names would fill a small
    vocabulary.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    total = sum(counts.values())
    seen = 0
    dropped: dict[int, str] = {}
    for rank, (character, count) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0]))):
        if rank >= most or seen >= COVERAGE * total:
            dropped[ord(character)] = " "
        seen += count
    return (text.translate(dropped) for text in texts) if dropped else iter(texts)
