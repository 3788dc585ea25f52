from __future__ import annotations

from typing import Any

from graftlm.report.records import _tensor
from graftlm.report.tensormap import MARKS, MEANING, STATUSES, tensor_map


def test_every_status_of_a_graft_is_drawn() -> None:
    from graftlm.transfer.report import STATUSES as KNOWN

    assert set(STATUSES) == set(KNOWN) == set(MARKS) == set(MEANING)
    assert len(set(MARKS.values())) == len(MARKS)


def test_each_tensor_of_a_host_has_its_square(host: Any) -> None:
    names = [*dict(host.named_parameters()), "final_logits_bias"]
    made = tensor_map([_tensor({"name": name, "status": "copied", "source": f"of {name}"}) for name in names])
    assert made is not None
    assert made["others"] == 0
    assert made["sides"] == [("encoder", 4), ("decoder", 3)]
    assert made["columns"] == ["in", "0", "1", "out", "in", "0", "out"]
    assert made["edges"] == [4]
    told = "\n".join(cell.title for row in made["rows"] for cell in row["cells"] if cell)
    assert all(f"{name}: copied from of {name}" in told for name in names)
    squares = {row["part"]: [cell is not None for cell in row["cells"]] for row in made["rows"]}
    assert squares["words"] == [True, False, False, False, True, False, False]
    assert squares["cross-attention q"] == [False] * 5 + [True, False]
    assert squares["last LayerNorm"] == [False, False, False, True, False, False, True]
    assert {"part": "words", "encoder": "copied", "decoder": "copied"} in made["summary"]
    assert {"part": "logits bias", "encoder": "", "decoder": "copied"} in made["summary"]


def test_layers_of_several_statuses_and_strange_names() -> None:
    statuses = ["kept", "mapped", "mapped", "mapped", "kept"]
    tensors = [
        *({"name": f"model.encoder.layers.{n}.fc1.weight", "status": status} for n, status in enumerate(statuses)),
        {"name": "model.encoder.layers.3.fc1.bias", "status": "trained", "step": "distill", "note": "50 steps"},
        {"name": "model.encoder.layers.x.fc1.bias", "status": "kept"},
        {"name": "lm_head.weight", "status": "new"},
        {"name": None},
    ]
    made = tensor_map([_tensor(tensor) for tensor in tensors])
    assert made is not None
    assert made["others"] == 2
    assert made["summary"][1] == {
        "part": "fc1",
        "encoder": "kept (0, 4), mapped (1–2), mapped and trained (3)",
        "decoder": "",
    }
    (cell,) = (row["cells"][3] for row in made["rows"] if row["part"] == "fc1")
    assert cell.statuses == ["mapped", "trained"]
    assert cell.mark == ""
    assert cell.title.endswith("fc1.bias: trained, step distill: 50 steps")
    assert tensor_map([_tensor({"name": "lm_head.weight", "status": "kept"})]) is None
