"""How many examples a property is tried on, and which: the same ones each time."""

from __future__ import annotations

import string

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

_SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def examples(count: int, simpler: bool = True) -> settings:
    """`simpler`: where an example fails, a simpler one is looked for, which takes many more of them."""
    phases = [Phase.explicit, Phase.generate, *([Phase.shrink] if simpler else [])]
    return settings(
        max_examples=count, phases=phases, derandomize=True, deadline=None, database=None, suppress_health_check=_SHARED
    )


# any value that JSON and YAML have, a few levels deep
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "null", "1e400", "${finetune.lr}", "../..", "\0", "\x1b[2J", "a" * 300, -(2**70)]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
