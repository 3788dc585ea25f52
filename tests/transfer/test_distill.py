from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from graftlm.errors import TransferError
from graftlm.models.build import build_host
from graftlm.schema import TransferSettings
from graftlm.transfer.anatomy import DONOR_EMBEDDING_NORM
from graftlm.transfer.apply import apply_strategy
from graftlm.transfer.distillation import (
    Muon,
    _maps_of_donor,
    _maps_of_host,
    batches_of,
    distill,
    donor_states,
    host_states,
    orthogonalised,
    rate,
)
from graftlm.transfer.frames import framed
from graftlm.transfer.graft import Graft
from graftlm.transfer.report import Ledger
from graftlm.transfer.steps.distill import Distill
from graftlm.transfer.steps.embeddings import Embeddings
from graftlm.transfer.strategy import check_compatible, check_steps
from graftlm.transfer.vocabulary import align
from graftlm.transfer.weights import ModelWeights

EMBEDDINGS = {"step": "embeddings"}
ENCODER = {"step": "encoder", "tokens": 4000, "turns": 3}
DISTILL = {"step": "distill", "steps": 60, "batch_tokens": 512, "lr": 5e-3, "precision": "fp32"}


@pytest.fixture
def graft_of(rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any) -> Any:
    """A function that grafts a copy of the host by some steps: (host, report)."""

    def apply(*steps: Any, **others: Any) -> tuple[Any, Any]:
        ours = copy.deepcopy(others.pop("host", host))
        settings = TransferSettings(name="mine", steps=list(steps), **others)
        report = apply_strategy(
            settings, rough_donor, ours, donor_tokenizer, host_tokenizer, texts[40:], texts[:40], False
        )
        return ours, report

    return apply


@pytest.fixture
def bare(rough_donor: Any, host: Any, donor_tokenizer: Any, host_tokenizer: Any, texts: Any) -> Graft:
    """A graft that no step has worked on."""
    ledger = Ledger(ModelWeights(rough_donor), ModelWeights(host), False)
    return Graft.of_models(
        rough_donor.eval(),
        host.eval(),
        align(donor_tokenizer, host_tokenizer),
        ledger,
        calibration=texts[:40],
    )


def test_operations_are_all_counted_though_few_steps_are_watched(bare: Graft) -> None:
    Embeddings().apply(bare)
    with FlopCounterMode(display=False) as everything:
        Distill(steps=12, batch_tokens=256).apply(bare)
    assert bare.spent.flops == pytest.approx(everything.get_total_flops(), rel=1e-12)
    assert len(bare.spent._counted) == 3


def test_it_adds_to_a_calibrated_graft_and_leaves_everything_else(graft_of: Any, rough_donor: Any) -> None:
    donor_before = copy.deepcopy(rough_donor.state_dict())
    calibrated, before = graft_of(EMBEDDINGS, ENCODER)
    state = torch.get_rng_state()
    distilled, after = graft_of(EMBEDDINGS, ENCODER, DISTILL)
    assert torch.equal(torch.get_rng_state(), state)
    old, new = before.fidelity["after"], after.fidelity["after"]
    assert new["relative_error"] < 0.8 * old["relative_error"]
    assert 1 - new["cka"] < 0.8 * (1 - old["cka"])
    for name, tensor in rough_donor.state_dict().items():
        assert torch.equal(tensor, donor_before[name]), name
    changed = {
        name
        for name, tensor in distilled.state_dict().items()
        if not torch.equal(tensor, calibrated.state_dict()[name])
    }
    expected = [
        name
        for name in calibrated.state_dict()
        if name.startswith(("model.encoder.layers.", "model.encoder.layer_norm."))
    ]
    # attention does not see the keys' bias: it has no gradient but rounding
    assert changed | {name for name in expected if name.endswith("k_proj.bias")} == set(expected)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in distilled.parameters())
    entry = next(item for item in after.host_tensors if item.name == "model.encoder.layers.1.fc2.weight")
    assert (entry.status, entry.step, entry.source) == (
        "trained",
        "encoder + distill",
        "roberta.encoder.layer.1.output.dense.weight",
    )
    assert "60 steps of distillation" in entry.note
    assert [record.step for record in after.steps] == ["embeddings", "encoder", "distill"]
    # a backward pass costs about two forward passes, and the donor's forward pass is counted too
    assert after.flops > 1.5 * before.flops


def test_it_works_on_what_a_copy_by_name_left(graft_of: Any) -> None:
    _, before = graft_of({"step": "naive"}, control=True)
    _, after = graft_of({"step": "naive"}, {**DISTILL, "optimizer": "adam"})
    assert after.fidelity["after"]["relative_error"] < 0.8 * before.fidelity["after"]["relative_error"]
    assert after.fidelity["after"]["cosine"] > before.fidelity["after"]["cosine"] + 0.2


def test_the_same_seed_gives_the_same_host_and_another_seed_another(graft_of: Any) -> None:
    short = {**DISTILL, "steps": 5, "noise": 0.2}
    hosts = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        hosts.append(graft_of(EMBEDDINGS, ENCODER, {**short, "seed": seed})[0].model.encoder.state_dict())
    one, again, other = hosts
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["layers.0.fc1.weight"], other["layers.0.fc1.weight"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_are_those_of_the_models(bare: Graft, precision: str) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    room = 1e-5 if precision == "fp32" else 0.03
    rows = framed(bare.calibration[:7], bare.vocabulary, 60)
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), bare.vocabulary.roles["pad"][0])
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.from_numpy(row)
    real = ids != bare.vocabulary.roles["pad"][0]
    assert not real.all()
    hidden = torch.zeros(real.shape).masked_fill_(~real, -float("inf"))[:, None, :]
    mapped = torch.from_numpy(bare.vocabulary.to_host(ids.numpy()))
    mapped[~real] = bare.vocabulary.roles["pad"][1]
    encoder = bare.host.model.encoder
    with torch.no_grad():
        wanted = bare.donor.roberta(ids, attention_mask=real.long(), output_hidden_states=True).hidden_states
        states = donor_states(_maps_of_donor(bare, dtype), bare.donor.roberta.embeddings(ids), hidden, 2)
        for got, one in zip(states[::2], wanted, strict=True):
            assert float((got - one)[real].norm() / one[real].norm()) < room
        y = encoder.layernorm_embedding(encoder.embed_tokens(mapped) + encoder.embed_positions(mapped))
        last = encoder(mapped, attention_mask=real.long()).last_hidden_state
        got = host_states(_maps_of_host(bare, dtype), y, hidden, 2)[-1]
        assert float((got - last)[real].norm() / last[real].norm()) < room


def test_noise_replaces_text_but_no_special_token(bare: Graft) -> None:
    def batch(noise: float) -> tuple[torch.Tensor, ...]:
        found = next(batches_of(bare, Distill(batch_tokens=512, noise=noise)))
        return found.ids, found.host, found.real

    (ids, _, real), (noisy, mapped, same) = batch(0.0), batch(0.3)
    assert torch.equal(real, same)
    special = torch.isin(ids, torch.tensor([donor for donor, _ in bare.vocabulary.roles.values()]))
    assert torch.equal(ids[special], noisy[special])
    share = float((ids != noisy)[~special].float().mean())
    assert 0.2 < share < 0.4
    assert torch.equal(mapped[real], torch.from_numpy(bare.vocabulary.to_host(noisy.numpy()))[real])


def test_a_direction_is_orthogonalised_and_moves_by_the_rate() -> None:
    torch.manual_seed(0)
    found = orthogonalised(torch.randn(3, 8, 32) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None])
    values = torch.linalg.svdvals(found)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4
    weight = torch.zeros(8, 32, requires_grad=True)
    weight.grad = torch.randn(8, 32)
    Muon([weight], 0.9).step(0.01)
    assert float((weight.detach() * weight.grad).sum()) < 0
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.002, rel=0.3)


def test_the_rate_rises_and_falls_to_zero() -> None:
    assert [rate(done, 0.2) for done in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    assert [rate(done, 0.0) for done in (0.25, 1.0)] == pytest.approx([0.75, 0.0])


def test_nonsense_is_refused() -> None:
    bad: dict[str, Any] = {"steps": 0, "lr": 0, "layers": -1, "noise": 1, "batch_tokens": 1, "warmup": 1, "momentum": 1}
    found = [str(problem) for problem in check_steps([EMBEDDINGS, {"step": "distill", **bad}], "transfer.steps")]
    assert len(found) == len(bad)
    assert all(any(f"transfer.steps[1].{name}=" in line for line in found) for name in bad)
    words = [str(p) for p in check_steps([{"step": "distill", "optimizer": "sgd", "precision": "int8"}], "s")]
    assert len(words) == 2
    order = list(check_steps([EMBEDDINGS, {"step": "distill"}, ENCODER], "transfer.steps"))
    assert any("distill" in str(problem) for problem in order)


def test_another_depth_or_width_is_refused(rough_donor: Any, host_tokenizer: Any, model_settings: Any) -> None:
    shape = dataclasses.replace(model_settings.host, encoder_layers=3, d_model=64)
    other = build_host(dataclasses.replace(model_settings, host=shape), host_tokenizer, rough_donor.config)
    settings = TransferSettings(name="mine", steps=[EMBEDDINGS, {"step": "distill"}])
    found = check_compatible(settings, rough_donor.config.to_dict(), other.config.to_dict())
    assert {"model.host.d_model", "model.host.encoder_layers"} <= {problem.path for problem in found}


def test_without_text_or_finite_states_it_says_what_to_do(bare: Graft) -> None:
    texts, bare.calibration = bare.calibration, []
    with pytest.raises(TransferError, match="no calibration text"):
        Distill().apply(bare)
    bare.calibration = texts
    rough = bare.donor.get_submodule(DONOR_EMBEDDING_NORM)
    with torch.no_grad():
        rough.weight[0] = float("inf")
    with pytest.raises(TransferError, match="diverged"):
        Distill(steps=2, batch_tokens=512).apply(bare)


def test_it_runs_where_the_trainer_runs_and_in_its_precision(bare: Graft, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)

    def last(trainer: str, step: str) -> float:
        bare.precision = trainer
        return distill(bare, Distill(steps=2, batch_tokens=256, precision=step)).last  # type: ignore[arg-type]

    full, half = last("32-true", "fp32"), last("32-true", "bf16")
    assert full != half
    assert (last("32-true", "auto"), last("bf16-mixed", "auto"), last("16-mixed", "auto")) == (full, half, half)
    assert last("bf16-mixed", "fp32") == full  # what the step says counts
    # a batch, the momentum and the weights of the errors are where the maps are: torch refuses to mix devices
    weight = torch.zeros(8, 32, device="meta", requires_grad=True)
    weight.grad = torch.zeros_like(weight)
    Muon([weight], 0.9).step(0.01)
    if not torch.cuda.is_available():
        bare.device = "cuda"
        with pytest.raises((AssertionError, RuntimeError), match=r"(?i)cuda"):
            last("32-true", "fp32")
    assert bare.host.device.type == bare.donor.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_gives_what_it_gives_on_the_processor(bare: Graft) -> None:
    step = Distill(steps=3, batch_tokens=256, precision="fp32", optimizer="adam")
    wanted = distill(bare, step)
    bare.device = "cuda"
    bare.path, bare.step = "p", "distill"
    assert distill(bare, step).last == pytest.approx(wanted.last, rel=1e-3)
    step.apply(bare)
    assert bare.host.device.type == bare.donor.device.type == "cpu"
    name = "model.encoder.layers.0.fc1.weight"
    assert torch.allclose(bare.host.get_parameter(name), wanted.tensors[name], atol=1e-4)
