"""How many donors a comparison has: the seeds of the fine-tuning take turns at those of the pretraining."""

from __future__ import annotations

from typing import Any

RESOLVER = "donor_seed"  # ${donor_seed:}, in conf/config.yaml


def donor_seed(finetune_seed: Any, donors: Any) -> int:
    """The pretrain seed of a fine-tuning seed: 1, 2 … `donors`, 1 …; what is no number is told where it stands."""
    if not isinstance(finetune_seed, int) or not isinstance(donors, int) or donors < 1:
        return 1
    return 1 + (finetune_seed - 1) % donors


def register() -> None:
    """Have the configurations of this process know it."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def resolve(*, _root_: Any) -> int:
        """It looks for its numbers itself: as its arguments, a mistake in either would be told as one of the seed."""
        try:
            return donor_seed(*(OmegaConf.select(_root_, path) for path in ("finetune.seed", "pretrain.donors")))
        except OmegaConfBaseException:
            return 1

    OmegaConf.register_new_resolver(RESOLVER, resolve, replace=True)
