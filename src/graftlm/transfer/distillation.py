"""Distillation: the host's encoder layers trained by gradients until every LayerNorm gives what the donor's gives.

The donor (post-LN) and the host (pre-LN) run on the same tokens. The output of the host's LayerNorm in front of a
sublayer is compared with what the donor's sublayer reads, and the host's last LayerNorm with the donor's output:
squared differences, relative to the donor's variance over tokens there. Their weighted sum is minimised over the layers
and the last LayerNorm; embeddings are left alone.

Matrices are moved by Muon (orthogonalised momentum: Jordan et al. 2024, scaled as in Liu et al. 2025,
arXiv:2502.16982), vectors by Adam; the rate rises, then falls to zero.

The forward passes are written out here rather than left to the models: products in bfloat16 where the processor does
them fast, streams and LayerNorms in float32, states of all sublayers at hand, and an attention whose backward pass is
several times cheaper on short texts than that of the fused kernel for CPUs. Both models are where the trainer trains
while it runs (`Graft.trained`); its mixed precision is bfloat16 for the products here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear
from transformers.activations import ACT2FN

from graftlm.errors import TransferError
from graftlm.transfer.anatomy import HOST_EPS, HOST_LAST_NORM, Block, donor_block, host_block, pair
from graftlm.transfer.halfway import halfway
from graftlm.transfer.passes import evaluation

if TYPE_CHECKING:
    from graftlm.transfer.graft import Graft
    from graftlm.transfer.reading import Pairs
    from graftlm.transfer.steps.distill import Distill

# a chunk of texts is sorted by length, so that batches hold little padding
CHUNK = 512


@dataclass(frozen=True)
class Result:
    """The trained tensors of the host; tokens read; relative error of the output in the first and the last steps."""

    tensors: dict[str, Tensor]
    tokens: int
    first: float
    last: float


@dataclass
class Maps:
    """Tensors of one side by name, and what a forward pass needs to know besides."""

    tensors: dict[str, Tensor]
    heads: int
    eps: float
    act: Callable[[Tensor], Tensor]
    dtype: torch.dtype

    def linear(self, x: Tensor, module: str) -> Tensor:
        weight, bias = (self.tensors[name].to(self.dtype) for name in pair(module))
        return linear(x.to(self.dtype), weight, bias)

    def norm(self, x: Tensor, module: str) -> Tensor:
        weight, bias = (self.tensors[name] for name in pair(module))
        return layer_norm(x, x.shape[-1:], weight, bias, self.eps)

    def attend(self, x: Tensor, hidden: Tensor | None, block: Block) -> Tensor:
        """Self-attention with its output projection, [B, T, d] → [B, T, d]; `hidden` [B, 1, T] is -inf on padding."""
        batch, length, width = x.shape
        x = x.to(self.dtype)
        size = width // self.heads

        def split(module: str) -> Tensor:
            cut = self.linear(x, module).view(batch, length, self.heads, size)
            return cut.transpose(1, 2).reshape(batch * self.heads, length, size)

        query, key, value = split(block.query) * size**-0.5, split(block.key), split(block.value)
        scores = query @ key.transpose(1, 2)
        if hidden is not None:
            scores = (scores.view(batch, self.heads, length, length) + hidden[:, None].to(scores)).view_as(scores)
        mixed = scores.softmax(-1) @ value
        mixed = mixed.view(batch, self.heads, length, size).transpose(1, 2).reshape(batch, length, width)
        return self.linear(mixed, block.out).float()

    def feed(self, x: Tensor, block: Block) -> Tensor:
        return self.linear(self.act(self.linear(x, block.fc1)), block.fc2).float()


def donor_states(maps: Maps, x: Tensor, hidden: Tensor | None, layers: int) -> list[Tensor]:
    """What each sublayer reads, from the output of the embeddings on, and the last output: 2 · layers + 1 states."""
    states = [x]
    for layer in range(layers):
        block = donor_block(layer)
        x = maps.norm(x + maps.attend(x, hidden, block), block.attention_norm)
        states.append(x)
        x = maps.norm(x + maps.feed(x, block), block.ffn_norm)
        states.append(x)
    return states


def host_states(maps: Maps, y: Tensor, hidden: Tensor | None, layers: int) -> list[Tensor]:
    """The same of the host: what its LayerNorms give on its stream."""
    states = []
    for layer in range(layers):
        block = host_block(layer)
        states.append(maps.norm(y, block.attention_norm))
        y = y + maps.attend(states[-1], hidden, block)
        states.append(maps.norm(y, block.ffn_norm))
        y = y + maps.feed(states[-1], block)
    states.append(maps.norm(y, HOST_LAST_NORM))
    return states


class Muon:
    """Momentum whose direction is orthogonalised, for matrices of one shape, in one batch a shape."""

    def __init__(self, matrices: Sequence[Tensor], momentum: float):
        groups: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            groups.setdefault(tuple(matrix.shape), []).append(matrix)
        self._groups = [
            (group, torch.zeros(len(group), *shape, device=group[0].device)) for shape, group in groups.items()
        ]
        self._momentum = momentum

    @property
    def momenta(self) -> list[Tensor]:
        return [buffer for _, buffer in self._groups]

    def load(self, momenta: Sequence[Tensor]) -> None:
        """Go on with the momenta of an earlier one."""
        for buffer, kept in zip(self.momenta, momenta, strict=True):
            buffer.copy_(kept)

    def step(self, lr: float) -> None:
        """Move each matrix against its gradient by about `lr` in each entry (root mean square: 0.2 · lr)."""
        with torch.no_grad():
            for group, buffer in self._groups:
                gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
                buffer.mul_(self._momentum).add_(gradient)
                direction = orthogonalised(gradient.add_(buffer, alpha=self._momentum))
                scale = 0.2 * max(direction.shape[1:]) ** 0.5
                for matrix, move in zip(group, direction, strict=True):
                    matrix.sub_(move, alpha=lr * scale)


def orthogonalised(matrices: Tensor, turns: int = 5) -> Tensor:
    """[n, a, b] with singular values moved to about 1 (Newton-Schulz, coefficients of Jordan et al. 2024)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / x.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None]).bfloat16()
    for _ in range(turns):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return (x.mT if tall else x).float()


def batches_of(graft: Graft, step: Distill) -> Iterator[Pairs]:
    """Batches without end, in an order that the seed decides.

    Raises:
        TransferError: if there is no text.
    """
    import numpy as np

    from graftlm.transfer.frames import groups, padded
    from graftlm.transfer.reading import fitted_languages, paired, rows_of

    vocabulary, texts = graft.vocabulary, graft.calibration
    longest = min(
        step.max_length, graft.donor_config.max_position_embeddings - 2, graft.host_config.max_position_embeddings
    )
    special = [donor_id for donor_id, _ in vocabulary.roles.values()]
    shared = np.setdiff1d(np.flatnonzero(vocabulary.host_of >= 0), special)
    draw = np.random.default_rng(step.seed)
    while True:
        order = draw.permutation(len(texts))
        found = False
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK].tolist()
            rows = rows_of([texts[index] for index in chunk], vocabulary, longest, fitted_languages(graft, chunk))
            ready = list(groups([len(row) for row in rows], step.batch_tokens))
            for index in draw.permutation(len(ready)):
                group = [rows[row] for row in ready[index]]
                ids, mask = padded([row.ids for row in group], vocabulary.roles["pad"][0])
                if step.noise:
                    swapped = mask & (draw.random(ids.shape) < step.noise) & ~np.isin(ids, special)
                    ids = np.where(swapped, draw.choice(shared, ids.shape), ids)
                found = True
                yield paired(ids, mask, [row.language for row in group], vocabulary)
        if not found:
            raise TransferError.at(
                f"{graft.path}.steps",
                step.steps,
                "there is no calibration text to distil on",
                "give the graft some text",
            )


def distill(graft: Graft, step: Distill) -> Result:
    """Train copies of the host's encoder layers and last LayerNorm on the calibration text; the host stays as it is.

    Raises:
        TransferError: if there is no text, or the training diverged.
    """
    with graft.trained(graft.donor, graft.host) as device:
        return _distilled(graft, step, torch.device(device))


def _distilled(graft: Graft, step: Distill, device: torch.device) -> Result:
    """`distill` with both models on `device`."""
    donor, host = graft.donor, graft.host
    layers = int(graft.host_config.encoder_layers)
    precision = "bf16" if step.precision == "auto" and graft.precision.endswith("-mixed") else step.precision
    dtype = torch.bfloat16 if fast_bfloat16(precision, device.type) else torch.float32
    theirs = _maps_of_donor(graft, dtype)
    ours = _maps_of_host(graft, dtype)
    matrices = [tensor for tensor in ours.tensors.values() if tensor.ndim == 2]
    vectors = [tensor for tensor in ours.tensors.values() if tensor.ndim < 2]
    muon = Muon(matrices if step.optimizer == "muon" else [], step.momentum)
    adam = torch.optim.AdamW(
        vectors if step.optimizer == "muon" else [*matrices, *vectors], lr=step.lr, betas=(0.9, 0.98), weight_decay=0
    )
    weights = torch.tensor([step.layers] * (2 * layers) + [1.0], device=device)
    variances: list[Tensor] = []
    history: list[float] = []
    tokens = first = 0
    with (
        evaluation(donor, host),
        halfway(graft) as kept,
        graft.progress.task("distilling the encoder", step.steps) as advance,
    ):
        if earlier := kept.found():
            with torch.no_grad():
                for name, tensor in ours.tensors.items():
                    tensor.copy_(earlier["tensors"][name])
            muon.load(earlier["muon"])
            adam.load_state_dict(earlier["adam"])
            variances = [variance.to(device) for variance in earlier["variances"]]
            history, tokens, first = earlier["history"], earlier["tokens"], earlier["done"]
            advance(first)

        def state() -> dict[str, Any]:
            return {
                "tensors": ours.tensors,
                "muon": muon.momenta,
                "adam": adam.state_dict(),
                "variances": variances,
                "history": history,
                "tokens": tokens,
            }

        for number, batch in zip(range(step.steps), batches_of(graft, step), strict=False):
            if number < first:
                continue
            ids, real, both = (tensor.to(device) for tensor in (batch.ids, batch.real, batch.both))
            hidden = None
            if not bool(real.all()):
                hidden = torch.zeros(real.shape, device=device).masked_fill_(~real, -math.inf)[:, None, :]
            # maps, attention, and Muon
            with graft.spent.training(ids.numel(), ids.numel() * ids.shape[1], 1):
                with torch.no_grad():
                    wanted = donor_states(theirs, donor.roberta.embeddings(input_ids=ids).float(), hidden, layers)
                    y = batch.embedded(host.model.encoder).float()
                    if not variances:
                        variances = [_variance(state[both]) for state in wanted]
                got = host_states(ours, y, hidden, layers)
                share = (both / both.sum())[..., None]
                errors = torch.stack(
                    [((a - b).square() * share).sum() / v for a, b, v in zip(got, wanted, variances, strict=True)]
                )
                (weights * errors).sum().backward()  # type: ignore[no-untyped-call]
                history.append(float(errors[-1].detach()))
                if not math.isfinite(history[-1]):
                    raise TransferError.at(f"{graft.path}.lr", step.lr, "the distillation diverged", "lower the rate")
                lr = step.lr * rate((number + 1) / step.steps, step.warmup)
                adam.param_groups[0]["lr"] = lr
                adam.step()
                muon.step(lr)
            for tensor in ours.tensors.values():
                tensor.grad = None
            tokens += int(real.sum())
            advance(1)
            # its end is kept too: what is interrupted next is a training behind it
            kept.after(number + 1, state, last=number + 1 == step.steps)
    few = max(len(history) // 10, 1)
    return Result(
        {name: tensor.detach() for name, tensor in ours.tensors.items()},
        tokens,
        sum(history[:few]) / few,
        sum(history[-few:]) / few,
    )


def rate(done: float, warmup: float) -> float:
    """Factor on the learning rate: linear up to 1, then linear down to 0."""
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def fast_bfloat16(precision: str, device: str = "cpu") -> bool:
    """Whether products are computed in bfloat16; `auto` asks the device for instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device != "cpu":
        return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def _variance(states: Tensor) -> Tensor:
    """Total variance over tokens, [n, d] → [], never 0."""
    return (states - states.mean(0)).square().sum(-1).mean().clamp_min(1e-12)


def _maps_of_donor(graft: Graft, dtype: torch.dtype) -> Maps:
    config = graft.donor_config
    names = [name for name in graft.donor_weights.shapes if name.startswith("roberta.encoder.layer.")]
    tensors = {name: graft.source(name) for name in names}
    matrices = {name: tensor.to(dtype) for name, tensor in tensors.items() if tensor.ndim == 2}
    return Maps(tensors | matrices, config.num_attention_heads, config.layer_norm_eps, ACT2FN[config.hidden_act], dtype)


def _maps_of_host(graft: Graft, dtype: torch.dtype) -> Maps:
    """Leaves of their own: the host's tensors are not touched."""
    config = graft.host_config
    last = pair(HOST_LAST_NORM)
    names = [name for name in graft.host_weights.shapes if name.startswith("model.encoder.layers.") or name in last]
    tensors = {name: graft.current(name).requires_grad_(True) for name in names}
    act = ACT2FN[config.activation_function]
    return Maps(tensors, config.encoder_attention_heads, HOST_EPS, act, dtype)
