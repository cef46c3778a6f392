"""What is published of soupkit's documents names no place on this machine."""

import json
from typing import Any

from soupkit.publishing.hub.without_local_paths import published
from tests.publishing.conftest import score


def test_documents_agree_on_names_and_keep_what_is_no_place(search: dict[str, Any]) -> None:
    home = "/home/me/secret runs"
    a, ab, task = f"{home}/a", f"{home}/ab", "/data/mine"
    record = {"ingredients": [{"ref": a, "fingerprint": "xxh3:1"}, {"ref": "hf-hub:org/b@v1"}], "base": {"ref": ab}}
    scores = {"scores": [score(a, 0.5, task), score("hf-hub:org/b@v1", 0.5, "wds/vtab/cifar10")], "notes": [
        f"{ab}: no templates in {task}, see https://example.org/x/y", f"{a} and /tmp/left/over/file.csv, 1/2 of it",
    ]}  # fmt: skip
    others = {"classes": ["cat/dog", "a photo of {c}"]}
    search = json.loads(json.dumps(search).replace("runs/", home + "/"))
    found = {**search, "selected": [a], "settings": {"tasks": [[task, "val"]], **others}}
    said = published({"soup.json": record, "scores.json": scores, "search.json": found})
    assert "/home" not in json.dumps(said) and "/data" not in json.dumps(said) and "/tmp" not in json.dumps(said)
    assert [i["ref"] for i in said["soup.json"]["ingredients"]] == ["a", "hf-hub:org/b@v1"]
    assert said["soup.json"]["base"]["ref"] == "ab" and said["search.json"]["selected"] == ["a"]
    assert [s["task"] for s in said["scores.json"]["scores"]] == ["mine", "wds/vtab/cifar10"]
    assert said["scores.json"]["notes"] == [
        "ab: no templates in mine, see https://example.org/x/y", "a and file.csv, 1/2 of it",
    ]  # fmt: skip
    assert said["search.json"]["settings"] == {"tasks": [["mine", "val"]], **others}
    assert record["ingredients"][0]["ref"] == a, "the soup's own documents stay as they are"
