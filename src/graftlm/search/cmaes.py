"""CMA-ES over a study that others may write to.

Optuna keeps the optimiser's state in the study, as a pickle, and loads it again for every trial: whoever may write to
the storage could run code here. Only the numbers of an optimiser are read.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from graftlm.errors import SettingsError

# all that the state of an optimiser consists of
KNOWN = frozenset(
    {
        ("cmaes._cma", "CMA"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    }
)


class StateReader(pickle.Unpickler):
    """Reads a pickle that names nothing but what an optimiser's state consists of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return super().find_class(module, name)


class SafeCmaEs(CmaEsSampler):
    """Optuna's sampler, which loads no other pickle than one of its own making."""

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        prefix = self._attr_key_optimizer
        for trial in reversed(completed_trials):
            parts = {name: value for name, value in trial.system_attrs.items() if name.startswith(prefix)}
            if parts:
                try:
                    return StateReader(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(parts)))).load()
                except Exception as error:  # whatever a pickle that somebody else made raises
                    reason = f"holds a state of CMA-ES that is none ({error})"
                    raise SettingsError.at("search.study", None, reason, "take another storage") from error
        return None
