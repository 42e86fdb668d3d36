"""A small encoder with its tokenizer, and small texts, where packages would bring real ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

WORDS = ["a", "film", "good", "bad", "dull", "fine", "was", "it", "the", "and"]


def encoder(folder: Path) -> Path:
    """Write a BERT of one layer, width 16 and 32 positions, without a head."""
    import transformers

    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def dump(file: Path, pages: int) -> Path:
    """Write a dump of pages of 120 words each, and one redirection."""
    made = []
    for number in range(pages):
        words = " ".join(WORDS[(number + i * i) % len(WORDS)] for i in range(120))
        made.append(f"<page><title>P{number}</title><ns>0</ns><revision><text>{words} .</text>")
        made.append("</revision></page>")
    made.append("<page><title>R</title><ns>0</ns><revision><text>#REDIRECT [[P1]]</text>")
    made.append("</revision></page>")
    file.write_text(f"<mediawiki>{''.join(made)}</mediawiki>")
    return file


def reviews(file: Path, long: int) -> Path:
    """Write so many long reviews of either class, each with a short one and one from elsewhere."""
    with open(file, "w", newline="") as rows:
        writer = csv.writer(rows)
        writer.writerow(["text", "label", "source"])
        for number in range(long):
            for label, word in (("0", "bad"), ("1", "good")):
                body = f"film {word} " * (360 + 20 * number)
                writer.writerow([f"it was a {word} film", label, "imdb"])
                writer.writerow([body, label, "imdb"])
                writer.writerow([f"elsewhere {body}", label, "rotten_tomatoes"])
    return file


def lines(file: Path) -> list[dict[str, str]]:
    """Read JSON lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
