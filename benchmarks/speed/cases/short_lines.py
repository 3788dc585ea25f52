"""Real tokens a second, without padding, of masked-language modelling on real short lines, in xlm-roberta-base's shape.

The peer is `transformers.Trainer` as run_mlm.py sets it up with its own collator: --line_by_line (batches of 8 lines,
padded to the longest of them), and with --pad_to_max_length besides (512 tokens; batches of 2, since 8 take 20 GB).
A step of it is counted, on the lines of a usual batch: with as many tokens and as much padding as their mean has.
Ours is the pretrain stage with its defaults, rows of 128 tokens packed, 2,048 tokens a batch: with the vocabulary that
the lines use (`model.trim`), and with all of it. Sentences in XLM-R's tokens; all sides read the same lines.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.speed.case import Case, Row, Run
from benchmarks.speed.cases import _mlm, _texts
from benchmarks.speed.cases._loops import Clock, in_order, of_script

LINES = 6000
_WARM = 16  # tokens of a row of the first step: of fewer, none may be masked
SPLITS = ("train", "validation", "test")


def prepare(run: Run) -> dict[str, float]:
    """The lines, and two corpora of them: with the vocabulary that they use, and with all of it."""
    from graftlm.data.corpus import write_corpus
    from graftlm.data.rows import Pair, Text
    from graftlm.data.splits import Prepared
    from graftlm.schema import DonorSettings, ModelSettings

    file = run.folder / "lines.txt"
    _texts.write_lines(file, 600 if run.quick else LINES)
    texts = [Text(line, "en_XX", "g") for line in _texts.lines(file)]
    pairs = [Pair(texts[0].text, texts[1].text, "en_XX", "en_XX", "g")]  # a corpus must have one
    prepared = Prepared(dict.fromkeys(SPLITS, pairs), {"train": texts, "validation": texts[:20], "test": []}, {})
    for name, trim in (("trimmed", 0), ("full", None)):
        donor = DonorSettings(checkpoint=_texts.TOKENIZER)
        write_corpus(prepared, ModelSettings(donor=donor, trim=trim), run.folder / name)
    return {}


def _shape(run: Run, vocabulary: int) -> _mlm.Shape:
    return _mlm.Shape(vocabulary, 2 if run.quick else 12, 256 if run.quick else 768, 0, 0)


def _peer(run: Run, padded: bool) -> dict[str, float]:
    import torch
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer = _texts.tokenizer()
    tokenizer.model_max_length = 512
    rows, steps = 2 if padded else 8, 2  # the first on cut rows, not counted
    lines = _texts.lines(run.folder / "lines.txt")
    lengths = [len(ids) for ids in tokenizer(lines, truncation=True, max_length=512)["input_ids"]]
    # run_mlm.py: tokenize_function of --line_by_line
    encoded = tokenizer(
        lines[_usual(lengths, rows)],
        padding="max_length" if padded else False,
        truncation=True,
        max_length=512,
        return_special_tokens_mask=True,
    )
    counted = [{name: values[place] for name, values in encoded.items()} for place in range(rows)]
    dataset = [{name: values[:_WARM] for name, values in row.items()} for row in counted] + counted
    real: list[int] = []
    clock = Clock()

    class Counting(DataCollatorForLanguageModeling):
        def torch_call(self, examples: Any) -> Any:
            batch = super().torch_call(examples)
            real.append(int(batch["attention_mask"].sum()))
            return batch

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        in_order(Trainer)(
            model=_shape(run, len(tokenizer)).model(),
            args=TrainingArguments(output_dir=folder, **of_script(rows, steps)),
            train_dataset=dataset,
            data_collator=Counting(tokenizer=tokenizer, mlm_probability=0.15),
            callbacks=[clock.of_trainer()],
        ).train()
    return {"rate": sum(real[1:steps]) / clock.seconds()}


def _usual(lengths: list[int], rows: int) -> slice:
    """The batch of lines in a row that is most like the mean of all: in tokens, and in places where it is padded."""
    import numpy as np

    table = np.array(lengths[: len(lengths) // rows * rows]).reshape(-1, rows)
    far = sum(abs(size / size.mean() - 1) for size in (table.sum(axis=1), table.max(axis=1)))
    start = int(np.argmin(far)) * rows
    return slice(start, start + rows)


def line_by_line(run: Run) -> dict[str, float]:
    return _peer(run, padded=False)


def pad_512(run: Run) -> dict[str, float]:
    return _peer(run, padded=True)


def _ours(run: Run, name: str) -> dict[str, float]:
    from graftlm.data.corpus import Corpus
    from graftlm.data.modules import MlmDataModule
    from graftlm.models.mlm import MlmModule
    from graftlm.running import TrainerSettings
    from graftlm.schema import MaskSettings, PretrainSettings

    steps = 2
    settings = PretrainSettings(max_steps=steps, max_length=128, batch_tokens=2048, warmup=0.0, val_interval=steps)
    corpus = Corpus(run.folder / name)
    data = MlmDataModule(corpus, settings, MaskSettings(name="r15"), TrainerSettings())
    batches = [data.train_batch(number) for number in range(steps)]
    clock = Clock()
    size = len(corpus.donor_tokenizer)
    module = MlmModule(_shape(run, size).model(), settings, MaskSettings(name="r15"))
    _mlm.fit_mlm(module, settings, batches, _mlm.mixed(), [clock.of_lightning()])
    real = sum(batch["tokens"] for batch in batches)
    places = sum(batch["input_ids"].numel() for batch in batches)
    rate = (real - batches[0]["tokens"]) / clock.seconds()
    return {"rate": rate, "fill": real / places, "vocabulary": float(size)}


def trimmed(run: Run) -> dict[str, float]:
    return _ours(run, "trimmed")


def full(run: Run) -> dict[str, float]:
    return _ours(run, "full")


CASE = Case(
    sides={"line_by_line": line_by_line, "trimmed": trimmed, "pad_512": pad_512, "full": full},
    rows=[
        Row(
            "real tokens a second on short lines, the lines' vocabulary, against --line_by_line",
            "rate",
            peer="line_by_line",
            ours="trimmed",
            more=True,
            goal=25,
            unit="tok/s",
        ),
        Row(
            "the same, against --pad_to_max_length (512; 2 rows a step)",
            "rate",
            peer="pad_512",
            ours="trimmed",
            more=True,
            goal=100,
            unit="tok/s",
        ),
        Row(
            "the same with all 250k tokens, against --line_by_line",
            "rate",
            peer="line_by_line",
            ours="full",
            more=True,
            unit="tok/s",
        ),
        Row("the same with all 250k tokens, against 512", "rate", peer="pad_512", ours="full", more=True, unit="tok/s"),
        Row("share of a packed batch that is text", "fill", peer=None, ours="trimmed", more=True, unit="%", scale=100),
    ],
    prepare=prepare,
    preload=_texts.tokenizer,
    memory_gb=12.0,
    quick_memory_gb=5.5,
    seconds=400,
)
