"""W&B's server goes away in the midst of a run, is away at the next one's start, and gets all of it later."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from aftermath import LONG, PICO

from graftlm.tracking import METRICS, read_metrics

_spec = importlib.util.spec_from_file_location(
    "wandb_double", Path(__file__).parents[1] / "tracking" / "wandb_server.py"
)
assert _spec is not None
assert _spec.loader is not None
_double = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_double)

ARM = (*PICO, "transfer=none")
ONLINE = ("logger=wandb", "logger.mode=online", "logger.entity=me")
CODE = (
    "import time; from pathlib import Path; import graftlm.tracking.wandb as w; from graftlm.models.base import *\n"
    "w._PATIENCE = 3.0; w._TAKEN = 3.0\n"  # instead of 30 and 60 s
    "real = StageModule.on_train_batch_start\n"
    "def begin(module, batch, index):\n"
    "    while int(batch['number']) == 4 and not Path('go').exists(): time.sleep(0.01)\n"
    "    real(module, batch, index)\n"
    "StageModule.on_train_batch_start = begin"
)


@pytest.mark.skipif(not LONG, reason="W&B asks for twenty seconds whether the server is there (make soak)")
def test_a_server_that_goes_away_costs_nothing_but_the_time_to_send_it(forge: Any, tokenised: Path) -> None:
    with _double.served() as server:
        account = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url, "HOME": str(tokenised)}
        running = forge.start(tokenised, *ARM, *ONLINE, code=CODE, environment=account)
        running.until(lambda: list(tokenised.glob("multirun/store/finetune/*.partial/scratch/last.ckpt")))
        assert server.of("UpsertBucket"), "the run was opened online"
        server.gone = True
        (tokenised / "go").touch()
        ended = running.end()
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err
        told = [line for line in ended.lines if "W&B" in line]
        place = tokenised / "multirun"
        assert told == [f"W&B: the server has not taken all of this run; `graftlm wandb sync {place}` sends it"]
        (folder,) = tokenised.glob("multirun/store/finetune/*")
        steps = [line["step"] for line in read_metrics(folder / METRICS) if "val/loss" in line]
        assert steps == [0, 1, 2, 3, 6], "local metrics are whole"
        assert forge.run(tokenised, "store", "verify").code == 0

        ended = forge.run(tokenised, *ARM, *ONLINE, "finetune.seed=2", code=CODE, environment=account)
        assert ended.code == 0, ended.err
        (line,) = [line for line in ended.lines if "W&B" in line]
        assert "could not start" in line
        assert "runs are written offline, send them with `graftlm wandb sync multirun`" in line

        server.gone = False
        sent = forge.run(tokenised, "wandb", "sync", environment=account)
        assert sent.code == 0, sent.out + sent.err
        names = {item["displayName"] for item in server.of("UpsertBucket") if item.get("displayName")}
        wanted = {f"none-{stage}-{seed}" for stage in ("finetune", "evaluate") for seed in (1, 2)}
        assert wanted <= names
        assert sent.out.splitlines()[-1].startswith("4 sent to "), sent.out
        again = forge.run(tokenised, "wandb", "sync", environment=account)
        assert again.out == "nothing to send; 4 sent before\n"
