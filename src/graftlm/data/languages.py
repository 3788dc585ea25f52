"""Language codes of the two mBART formats, and how a user's `de` or `pt-BR` becomes one of them.

The lists are those of the released tokenizers (transformers, `tokenization_mbart.py` and `tokenization_mbart50.py`),
in the order in which their ids follow the vocabulary.
"""

from __future__ import annotations

import difflib

CC25: tuple[str, ...] = tuple(
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP "
    "nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN".split()
)
MBART50: tuple[str, ...] = (
    *CC25,
    *(
        "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE "
        "ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
    ).split(),
)
CODES: dict[str, tuple[str, ...]] = {"cc25": CC25, "mbart50": MBART50}

_BY_LANGUAGE = {code.split("_")[0]: code for code in MBART50}

# Scripts written without spaces: word-based measures such as ROUGE make no sense for them.
UNSPACED = frozenset({"zh", "ja", "th", "km", "my"})


def to_code(name: str) -> str | None:
    """The mBART code of a language tag (`de`, `de_AT`, `pt-BR`, `de_DE`), or None where mBART has none."""
    name = name.strip()
    if name in MBART50:
        return name
    language = name.replace("-", "_").split("_")[0].lower()
    return _BY_LANGUAGE.get(language)


def nearest(name: str, among: tuple[str, ...] = MBART50) -> str:
    """A hint for a code that is not known: some that are like it, as words for a remedy."""
    begins = [code for code in among if name.lower().startswith(code[:2])]  # `deutsch`, `english`
    close = difflib.get_close_matches(name, among, n=3, cutoff=0.3)
    shown = list(dict.fromkeys([*begins, *close]))[:3] or list(among[:6])
    rest = len(among) - len(shown)
    return "known codes are " + ", ".join(shown) + (f" and {rest} more" if rest else "")


def language_of(code: str) -> str:
    """`de` of `de_DE`."""
    return code.split("_")[0]
