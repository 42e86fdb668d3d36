"""A release of TriviaQA in its official layout, made up: every field that the real one has."""

import json
from pathlib import Path
from typing import Any

# Spans of the answers in all Wikipedia documents, as counted by hand below.
QUESTIONS, PAIRS, SPANS = 4, 6, 11

ENGLAND = "England is a country. Sinclair Lewis never saw it; lewis did, said SINCLAIR LEWIS."  # 2
EVIDENCE = {
    "wikipedia/England.txt": ENGLAND,
    "wikipedia/Sinclair_Lewis.txt": "A Sinclair Lewis\n\nSinclair Lewis: no Sinclair Lewish.",  # 2
    "wikipedia/Jamie.txt": "Judi Dench (born 1934) is Dame Judi Dench. “Judi Dench” is she.",  # 3
    "wikipedia/Andrew_Lloyd_Webber.txt": "He wrote Sunset Boulevard, on Sunset Blvd.",  # 2
    "wikipedia/Angola.txt": "Once Portuguese. Portugal left Angola in 1975.",  # 1
    "wikipedia/Lisbon.txt": "Lisbon, the capital of\nPortugal: no Portugals.",  # 1
    "web/100/100_1957043.txt": "A page of the web on Sinclair Lewis.",
    "web/35/35_995.txt": "Another page.",
}


def _record(id: str, value: str, aliases: list[str], pages: list[str], **more: Any) -> dict:
    names = sorted({name.lower() for name in (value, *aliases)})
    answer = {
        **{
            "Aliases": [value, *aliases],
            "MatchedWikiEntityName": value,
            "NormalizedAliases": names,
        },
        **{"NormalizedMatchedWikiEntityName": value.lower(), "NormalizedValue": value.lower()},
        **{"Type": "WikipediaEntity", "Value": value},
    }
    return {
        **{"Answer": answer, "Question": f"Who or what is {id}?", "QuestionId": id},
        "EntityPages": [
            {"DocSource": "TagMe", "Filename": page, "Title": page[:-4].replace("_", " ")}
            for page in pages
        ],
        "QuestionSource": "http://www.example.com/",
        **more,
    }


def write_release(folder: Path) -> Path:
    """Write `qa` and `evidence` into a folder, and return it."""
    lewis = ("tc_3", "Sinclair Lewis", ["Harry Lewis"])

    def found(file: str) -> list[dict]:
        return [
            {"Description": "d", "DisplayUrl": "u", "Filename": file, "Rank": 0}
            | {"Title": "t", "Url": "http://u"}
        ]

    parts: dict[str, list[dict]] = {
        "wikipedia-train": [
            _record(*lewis, ["England.txt", "Sinclair_Lewis.txt"]),
            _record("tc_8", "Judi Dench", [], ["Jamie.txt"]),
        ],
        "wikipedia-dev": [
            _record("tc_33", "Sunset Boulevard", ["Sunset Blvd"], ["Andrew_Lloyd_Webber.txt"]),
            _record("tc_40", "Portugal", [], ["Angola.txt", "Lisbon.txt"]),
        ],
        "web-train": [_record(*lewis, ["England.txt"], SearchResults=found("100/100_1957043.txt"))],
        "web-dev": [_record("tc_33", "Another", [], [], SearchResults=found("35/35_995.txt"))],
    }
    (folder / "qa").mkdir(parents=True)
    for name, records in parts.items():
        domain, split = name.split("-")
        content = {"Data": records, "Domain": domain, "Split": split, "VerifiedEval": False}
        (folder / "qa" / f"{name}.json").write_text(json.dumps({**content, "Version": 1.0}))
    for name, text in EVIDENCE.items():
        path = folder / "evidence" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
