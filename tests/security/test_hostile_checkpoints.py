"""A checkpoint that somebody else made is weights and words: no code of it is run, and no file beside it is read."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from graftlm.data.tokenizers import load_tokenizer
from graftlm.errors import CheckpointError
from graftlm.models.build import load_model, model_class
from graftlm.transfer.files import places_in
from graftlm.transfer.halfway import Halfway

PATH = "model.donor.checkpoint"


class Trap:
    """A pickle that leaves a file where it is loaded."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


@pytest.fixture
def folder(tmp_path: Path, donor: Any, donor_tokenizer: Any) -> Path:
    donor.save_pretrained(tmp_path / "donor")
    donor_tokenizer.save_pretrained(tmp_path / "donor")
    return tmp_path / "donor"


def load(folder: Path) -> Any:
    return load_model(model_class("xlm-roberta"), str(folder), None, "xlm-roberta", PATH)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_weights_that_are_a_pickle_with_code(folder: Path, trap: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"roberta.embeddings.word_embeddings.weight": Trap(trap)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="its weights cannot be loaded"):
        load(folder)
    assert not trap.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trap.exists(), "the trap is one"


def test_weights_that_are_a_pickle_of_tensors_alone(folder: Path, donor: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(donor.state_dict(), folder / "pytorch_model.bin")
    loaded = load(folder)
    assert torch.equal(
        loaded.roberta.embeddings.word_embeddings.weight, donor.roberta.embeddings.word_embeddings.weight
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"auto_map": {"AutoModelForMaskedLM": "evil.Model"}}, "auto_map"),
        ({"auto_map": {"AutoModelForMaskedLM": "somebody/else--evil.Model"}}, "auto_map"),
        ({"attn_implementation": "somebody/kernel"}, "attn_implementation"),
        ({"_attn_implementation": {"": "somebody/kernel"}}, "attn_implementation"),
    ],
)
def test_a_config_that_names_code(folder: Path, trap: Path, changes: dict[str, Any], told: str) -> None:
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=f"names code of its own .{told}.*never run"):
        load(folder)
    assert not trap.exists()


def test_a_tokenizer_that_names_code(folder: Path, trap: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Evil: pass\n")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    assert len(load_tokenizer(str(folder))) > 0, "a class that is known is taken instead"
    edit(folder / "tokenizer_config.json", tokenizer_class="Evil")
    edit(folder / "config.json", model_type="evil")
    with pytest.raises(CheckpointError, match=r"its tokenizer cannot be loaded.*custom code"):
        load_tokenizer(str(folder))
    assert not trap.exists()


def test_code_for_generation(tmp_path: Path, host: Any, trap: Path) -> None:
    host.save_pretrained(tmp_path / "host")
    (tmp_path / "host" / "custom_generate").mkdir()
    code = f"open({str(trap)!r}, 'w')\ndef generate(model, **kwargs): return None\n"
    (tmp_path / "host" / "custom_generate" / "generate.py").write_text(code)
    loaded = load_model(model_class("mbart"), str(tmp_path / "host"), None, "mbart", "model.host.checkpoint")
    assert loaded.generate.__func__ is type(loaded).generate
    assert not trap.exists()


@pytest.mark.parametrize("shard", ["../beside.safetensors", "/etc/passwd", "sub/../../beside.safetensors"])
def test_shards_elsewhere(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").replace(folder.parent / "beside.safetensors")
    index = {"metadata": {}, "weight_map": {"roberta.embeddings.word_embeddings.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="names a file elsewhere"):
        load(folder)
    with pytest.raises(ValueError, match="names a file elsewhere"):
        places_in(folder)


def test_a_header_that_claims_more_than_there_is(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(CheckpointError, match="its weights cannot be loaded"):
        load(folder)
    with pytest.raises(ValueError, match="damaged"):
        places_in(folder)


def test_an_unfinished_graft_in_a_shared_store(tmp_path: Path, trap: Path) -> None:
    """What `distill` and `denoise` go on from is read as tensors and numbers, or left out."""

    class Progress:
        def say(self, line: str) -> None:
            said.append(line)

    class Graft:
        scratch, step, progress = tmp_path, "distill", Progress()

    said: list[str] = []
    torch.save({"done": 3, "flops": 1, "seconds": 1.0, "state": Trap(trap)}, tmp_path / "distill.pt")
    graft: Any = Graft()
    assert Halfway(graft).found() is None
    assert "cannot be used and is left out" in said[0]
    assert not trap.exists()


def test_an_unfinished_training_in_a_shared_store(tmp_path: Path, trap: Path) -> None:
    """A training's checkpoint: graftlm looks into it first, Lightning loads it then; neither runs what it holds."""
    import pytorch_lightning as pl
    from pytorch_lightning.demos.boring_classes import BoringModel

    from graftlm.stages.saving import CHECKPOINT, saved

    said: list[str] = []

    class Progress:
        def say(self, line: str) -> None:
            said.append(line)

    file = tmp_path / CHECKPOINT
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"global_step": 3, "callbacks": Trap(trap)}, file)
    trainer = pl.Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu", enable_progress_bar=False
    )
    with pytest.raises(pickle.UnpicklingError):
        trainer.fit(BoringModel(), ckpt_path=str(file), weights_only=True)
    progress: Any = Progress()
    assert saved(tmp_path, progress) is None
    assert len(said) == 1
    assert not file.exists(), "it is left out and the training begins anew"
    assert not trap.exists()


def test_a_data_set_with_a_script(tmp_path: Path, trap: Path) -> None:
    from graftlm.data.settings import Columns, HubData
    from graftlm.data.sources import check_source, open_source

    folder = tmp_path / "nice"
    folder.mkdir()
    chosen = HubData("hub", "hub", dataset=str(folder), columns=Columns(), source_lang="en_XX")
    (folder / "nice.py").write_text(f"open({str(trap)!r}, 'w')\n")
    rows = [{"text": f"text number {number}", "summary": f"summary {number}"} for number in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (problem,) = check_source(chosen)
    assert "found nice.py" in str(problem)
    (folder / "nice.py").rename(folder / "other.py")  # one of another name is a file among others
    assert check_source(chosen) == []
    assert len(list(open_source(chosen).pairs())) == 30
    assert not trap.exists()


def test_a_search_whose_storage_holds_a_pickle(tmp_path: Path, trap: Path) -> None:
    """Optuna keeps the state of CMA-ES as a pickle in the study, which others may write to."""
    from graftlm.errors import SettingsError
    from graftlm.search.outcome import Told
    from graftlm.search.settings import SearchSettings
    from graftlm.search.space import Dimension
    from graftlm.search.study import Study

    space = (Dimension("finetune.lr", low=1e-4, high=1e-1, log=True), Dimension("finetune.warmup", low=0.0, high=0.5))
    study = Study("a", SearchSettings(sampler="cmaes", trials=6, startup_trials=2), tmp_path)
    with study.working():
        for _ in range(3):
            (trial,) = study.take(1, space, tmp_path / "sweep")
            study.tell(trial, Told("complete", [1.0]))
        hostile = pickle.dumps(Trap(trap)).hex()
        inside: Any = study._storage
        (running,) = study.take(1, space, tmp_path / "sweep")
        for name in ("cma:optimizer:0", "cma:restart:optimizer:0"):
            inside.set_trial_system_attr(running._trial_id, name, hostile)
        study.tell(running, Told("complete", [1.0]))
        with pytest.raises(SettingsError, match="state of CMA-ES that is none"):
            study.take(1, space, tmp_path / "sweep")
    assert not trap.exists()
    pickle.loads(bytes.fromhex(hostile))
    assert trap.exists(), "the trap is one"
