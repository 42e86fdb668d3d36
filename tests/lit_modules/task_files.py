"""Small files of every task in its official format."""

import json
import random
from pathlib import Path
from typing import Any

WORDS = [f"w{n}" for n in range(40)]
SPLITS = {"train": 8, "val": 4, "test": 4}


def text(random_: random.Random, count: int = 30) -> str:
    return " ".join(random_.choices(WORDS, k=count))


def dump(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def wikihop(folder: Path, split: str, r: random.Random) -> str:
    names = ["red", "green", "blue", "dark grey"]
    return dump(
        folder / f"{split}.json",
        [
            {
                "id": f"{split}-{n}",
                "query": f"colour {text(r, 2)}",
                "supports": [text(r), f"{text(r, 9)} blue"],
                "candidates": names,
                "answer": r.choice(names),
            }
            for n in range(SPLITS[split])
        ],
    )


def squad(folder: Path, split: str, r: random.Random) -> str:
    paragraphs = []
    for n in range(SPLITS[split]):
        context = text(r)
        word = context.split()[r.randrange(30)]
        start = context.index(word)
        none = n % 4 == 3
        answers = [] if none else [{"text": word, "answer_start": start}]
        question = {"id": f"{split}-{n}", "question": text(r, 4), "answers": answers}
        paragraphs.append({"context": context, "qas": [{**question, "is_impossible": none}]})
    return dump(folder / f"{split}.json", {"data": [{"title": "t", "paragraphs": paragraphs}]})


def triviaqa(folder: Path, split: str, r: random.Random) -> str:
    data = []
    for n in range(SPLITS[split]):
        pages = []
        for page in range(2):
            name = f"{split}_{n}_{page}.txt"
            dump(folder / "evidence" / "wikipedia" / name, f"{text(r, 20)} Old York {text(r, 9)}")
            pages.append({"Filename": name, "Title": name})
        answer = {"Value": "Old York", "Aliases": ["York"], "NormalizedAliases": ["york"]}
        data.append(
            {
                "Question": f"where is {text(r, 3)}?",
                "QuestionId": f"{split}-{n}",
                "Answer": answer,
                "EntityPages": pages,
                "SearchResults": [],
            }
        )
    return dump(folder / "qa" / f"wikipedia-{split}.json", {"Data": data, "Domain": "Wikipedia"})


def hotpotqa(folder: Path, split: str, r: random.Random) -> str:
    made = []
    for n in range(SPLITS[split]):
        pages = [[f"Page {p}", [text(r, 6) + " deep river.", text(r, 5)]] for p in range(4)]
        two = r.sample(range(4), 2)
        made.append(
            {
                "_id": f"{split}-{n}",
                "question": text(r, 5),
                "answer": ["deep river", "yes", "no"][n % 3],
                "type": "bridge",
                "level": "easy",
                "context": pages,
                "supporting_facts": [[f"Page {p}", 0] for p in two],
            }
        )
    return dump(folder / f"{split}.json", made)


def ontonotes(folder: Path, split: str, r: random.Random) -> str:
    lines = []
    for n in range(3):
        lines.append(
            json.dumps(
                {
                    "doc_key": f"nw/{split}/{n}_0",
                    "sentences": [text(r, 8).split() for _ in range(4)],
                    "speakers": [["A"] * 8, ["B"] * 8, ["A"] * 8, ["B"] * 8],
                    "clusters": [[[0, 1], [9, 9], [20, 21]], [[3, 3], [30, 31]]],
                }
            )
        )
    return dump(folder / f"{split}.jsonl", "\n".join(lines) + "\n")


def imdb(folder: Path, split: str, r: random.Random) -> str:
    rows = [f"{text(r)},{('neg', 'pos')[n % 2]}" for n in range(SPLITS[split])]
    return dump(folder / f"{split}.csv", "\n".join(["text,label", *rows]) + "\n")


def hyperpartisan(folder: Path, split: str, r: random.Random) -> str:
    articles, truth = [], []
    for n in range(SPLITS[split]):
        number = f"{sorted(SPLITS).index(split)}{n:06d}"
        articles.append(f'<article id="{number}" title="{text(r, 3)}"><p>{text(r)}</p></article>')
        truth.append(f'<article id="{number}" hyperpartisan="{("false", "true")[n % 2]}"/>')
    for name, lines in (("articles", articles), ("ground-truth", truth)):
        body = "\n".join(["<articles>", *lines, "</articles>"])
        dump(folder / f"{name}-{split}.xml", f'<?xml version="1.0" encoding="UTF-8"?>\n{body}')
    return str(folder / f"articles-{split}.xml")


def documents(folder: Path, split: str, r: random.Random) -> str:
    rows = [
        json.dumps({"id": f"{split}-{n}", "text": text(r), "label": "abc"[n % 3]})
        for n in range(SPLITS[split])
    ]
    return dump(folder / f"{split}.jsonl", "\n".join(rows) + "\n")


DATA_SETS = {
    "wikihop": wikihop,
    "squad": squad,
    "triviaqa": triviaqa,
    "hotpotqa": hotpotqa,
    "ontonotes": ontonotes,
    "imdb": imdb,
    "hyperpartisan": hyperpartisan,
    "documents": documents,
}


def files_of(name: str, folder: Path) -> dict[str, str]:
    """The file of each split of a data set."""
    return {split: DATA_SETS[name](folder / name, split, random.Random(split)) for split in SPLITS}
