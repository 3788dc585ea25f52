"""What several steps ask of the shapes of donor and host, in the same words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graftlm.errors import Problem
from graftlm.transfer.anatomy import Shape

# fields of `Shape` → settings of `model.host`
SETTINGS = {"d_model": "d_model", "layers": "encoder_layers", "heads": "heads", "ffn": "ffn"}


def check_pre_ln(host: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """For steps that know LayerNorms in front of sublayers only."""
    if host.get("model_type", "mbart") == "bart":
        yield Problem(
            "model.host.architecture",
            "bart",
            f"must be mbart for this graft ({path}): it is for LayerNorms in front of sublayers",
            "take transfer=exact, which loses nothing there",
        )


def check_activation(donor: Mapping[str, Any], host: Mapping[str, Any], name: str, path: str) -> Iterator[Problem]:
    """For steps that carry the feed-forward part as it is."""
    ours, theirs = Shape.of_host(host).activation, Shape.of_donor(donor).activation
    if ours != theirs:
        reason = f"the donor's activation is {theirs}, the host's {ours}"
        yield Problem(f"{path}.step", name, reason, "take a host with the donor's activation")


def check_same(donor: Mapping[str, Any], host: Mapping[str, Any], sizes: Sequence[str], why: str) -> Iterator[Problem]:
    """Sizes of the host, by their names in `Shape`, that must be the donor's; `why` ends the sentence."""
    ours, theirs = Shape.of_host(host), Shape.of_donor(donor)
    for name in sizes:
        have, want = getattr(ours, name), getattr(theirs, name)
        if have != want:
            yield Problem(
                f"model.host.{SETTINGS[name]}",
                have,
                f"must be the donor's {want} {why}",
                f"set model.host.{SETTINGS[name]}=null, or take a host checkpoint of that shape",
            )
