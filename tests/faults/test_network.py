"""W&B's server goes away in the midst of a run, is away at the next one's start, and gets all of it later."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from aftermath import PICO, differences

_spec = importlib.util.spec_from_file_location(
    "wandb_double", Path(__file__).parents[1] / "tracking" / "wandb_server.py"
)
assert _spec is not None
assert _spec.loader is not None
_double = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_double)

ONLINE = ("logger=wandb", "logger.mode=online", "logger.entity=me")
CODE = (
    "import time; from pathlib import Path; import graftlm.tracking.wandb as w; from graftlm.models.base import *\n"
    "w._PATIENCE = 3.0; w._TAKEN = 3.0\n"  # instead of 30 and 60 s
    "real = StageModule.on_train_batch_start\n"
    "def begin(module, batch, index):\n"
    "    while module.stage == 'pretrain' and int(batch['number']) == 4 and not Path('go').exists(): time.sleep(0.01)\n"
    "    real(module, batch, index)\n"
    "StageModule.on_train_batch_start = begin"
)


def test_a_server_that_goes_away_costs_nothing_but_the_time_to_send_it(forge: Any, calm: Path, tokenised: Path) -> None:
    with _double.served() as server:
        account = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": server.url, "HOME": str(tokenised)}
        running = forge.start(tokenised, *PICO, *ONLINE, code=CODE, environment=account)
        running.until(lambda: list(tokenised.glob("multirun/store/pretrain/*.partial/scratch/last.ckpt")))
        assert server.of("UpsertBucket"), "the run was opened online"
        server.gone = True
        (tokenised / "go").touch()
        ended = running.end()
        assert ended.code == 0, ended.err
        assert "Traceback" not in ended.err
        told = [line for line in ended.lines if "W&B" in line]
        assert told == ["W&B: the server has not taken all of this run; `graftlm wandb sync multirun` sends it"]
        assert differences(calm, tokenised) == [], "local metrics are whole"

        ended = forge.run(tokenised, *PICO, *ONLINE, "finetune.seed=2", code=CODE, environment=account)
        assert ended.code == 0, ended.err
        (line,) = [line for line in ended.lines if "W&B" in line]
        assert "could not start" in line
        assert "runs are written offline, send them with `graftlm wandb sync multirun`" in line

        server.gone = False
        sent = forge.run(tokenised, "wandb", "sync", environment=account)
        assert sent.code == 0, sent.out + sent.err
        names = {item["displayName"] for item in server.of("UpsertBucket") if item.get("displayName")}
        wanted = {"embeddings-pretrain-1", "embeddings-graft-1", "embeddings-finetune-1", "embeddings-evaluate-1"}
        assert wanted <= names
        assert sent.out.splitlines()[-1].startswith("7 sent to "), sent.out
        again = forge.run(tokenised, "wandb", "sync", environment=account)
        assert again.out == "nothing to send; 7 sent before\n"
