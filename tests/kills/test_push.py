"""`soupkit push` to a Hub, killed before its requests and before what it changes on disk."""

import shutil
from pathlib import Path

import soupkit
from tests.hub.repos import TOKEN
from tests.hub.server import HubServer
from tests.hub.user import hub as hub
from tests.kills.commands import clips
from tests.kills.points import Place, chosen, contents, count_points, differences, kill_at, restore, run_again

FEW = 6


def empty(hub: HubServer) -> None:
    hub.repos.clear()
    hub.blobs.clear()
    hub.parts.clear()


def test_a_push_that_was_killed_sends_the_rest_and_the_repository_is_the_same(hub: HubServer, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    names = clips(root)
    soupkit.merge([root / name for name in names], root / "soup")
    (root / "soup" / "curve.png").write_bytes(b"\x89PNG" + bytes(5000))
    own = {
        "HF_ENDPOINT": hub.url, "HF_HOME": str(root / "tmp" / "hf"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    place, words = Place(root, variables=own), ["push", "soup", "org/soup", "--license", "mit"]
    shutil.copytree(root, tmp_path / "start", symlinks=True)
    points = count_points(words, place)
    assert sum("send" in point for point in points) > 5
    wanted, sent = contents(root), hub.files("org/soup")
    for number in chosen(len(points), FEW):
        empty(hub)
        restore(place, tmp_path / "start")
        if not kill_at(words, place, number):
            continue
        run_again(words, place)
        assert hub.files("org/soup") == sent, f"killed before {points[number - 1]}"
        assert not differences(contents(root), wanted), f"killed before {points[number - 1]}"
