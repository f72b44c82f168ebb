"""The settings: what is refused, and that the message names file and key."""

from __future__ import annotations

import shutil
from datetime import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from dicomnode.commands.init import compose, parse_forward
from dicomnode.errors import BadRule, BadSetting, ConfigError, NoSuchPeer
from dicomnode.settings import Peer, Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with one inside peer, as `init` writes it."""
    for name, text in compose("NODE", 11112, tmp_path / "state", [parse_forward("PACS@127.0.0.1:4242")]).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("file", "old", "new", "error", "words"), [
    ("node.toml", "port = 11112", "prot = 11112", BadSetting, ["node.toml", "node.prot", "unknown key"]),
    ("node.toml", "port = 11112", "port = 0", BadSetting, ["node.toml", "node.port"]),
    ("node.toml", "workers = 2", "workers = 'x'", BadSetting, ["work.workers"]),
    ("node.toml", "[node]", "[node", BadSetting, ["node.toml", "not TOML"]),
    ("node.toml", 'ae_title = "NODE"', 'ae_title = "A\\\\B"', BadSetting, ["node.ae_title", "backslash"]),
    ("node.toml", 'ae_title = "NODE"', 'ae_title = "12345678901234567"', BadSetting, ["node.ae_title"]),
    ("node.toml", 'summary_at = "07:00"', 'summary_at = "25:00"', BadSetting, ["keep.summary_at"]),
    ("node.toml", "[judge]", '[judge]\nurl = "http://127.0.0.1/v1"', BadSetting, ["judge", "url needs a model"]),
    ("node.toml", "[judge]", '[judge]\nurl = "ftp://127.0.0.1/v1"', BadSetting, ["judge", "https://HOST/v1"]),
    ("node.toml", "[judge]", '[judge]\nurl = "http://u:p@127.0.0.1/v1"', BadSetting, ["judge", "without name, password"]),
    ("node.toml", 'model = ""', 'model = "m"\nurl = "http://8.8.8.8/v1"', BadSetting, ["judge", "private networks"]),
    ("node.toml", 'model = ""', 'model = "m"\nurl = "http://[::ffff:8.8.8.8]/v1"', BadSetting, ["judge", "private networks"]),
    ("node.toml", "outside = false", "outside = true", BadSetting, ["judge", "outside_reason"]),
    ("node.toml", 'model = ""', 'model = "m"\nurl = "http://127.0.0.1:99999/v1"', BadSetting, ["judge", "ort"]),
    ("peers/pacs.toml", "port = 4242", "", BadSetting, ["pacs.toml", "host and port"]),
    ("peers/pacs.toml", "127.0.0.1", "not-an-address", BadSetting, ["pacs.toml", "calls_from"]),
    ("peers/pacs.toml", 'trust = "inside"', "plain = true", BadSetting, ["plain_reason"]),
    ("routes.toml", 'destinations = ["pacs"]', 'destinations = ["pasc"]', NoSuchPeer, ["routes.toml", "pasc", "known: pacs"]),
    ("routes.toml", 'name = "everything-else"', 'name = "pediatric-chest"', BadRule, ["more than once"]),
    ("routes.toml", 'name = "everything-else"', 'name = "x"\nmodality = ["CT"]', BadRule, ["last rule"]),
    ("routes.toml", 'body_part = ["pediatric_chest"]', 'body_part = ["Head 1"]', BadSetting, ["rule.0.body_part"]),
    ("routes.toml", 'destinations = ["pacs"]', "destinations = []", BadRule, ["outputs and destinations"]),
])
def test_fault_is_refused_with_file_and_key(
    config: Path, file: str, old: str, new: str, error: type[ConfigError], words: list[str],
) -> None:
    """Each fault is refused, and the message says where it stands."""
    change(config / file, old, new)
    with pytest.raises(error) as caught:
        load(config)
    for word in words:
        assert word in str(caught.value)


def test_a_model_beyond_the_house_needs_https_and_a_reason(config: Path) -> None:
    """An address outside of this machine and private networks is taken with both; one in the house without either."""
    node = config / "node.toml"
    change(node, 'model = ""', 'model = "m"\nurl = "http://8.8.8.8/v1"')
    change(node, 'outside = false\noutside_reason = ""', 'outside = true\noutside_reason = "contract 7"')
    with pytest.raises(BadSetting, match="needs https"):
        load(config)
    change(node, "http://8.8.8.8", "https://8.8.8.8")
    assert load(config).judge.outside_reason == "contract 7"
    change(node, 'outside = true\noutside_reason = "contract 7"', "outside = false")
    for host in ("127.0.0.1", "localhost", "10.1.2.3", "[::1]", "[fd00::1]", "llm.hospital"):
        text = node.read_text()
        node.write_text(text.replace("https://8.8.8.8", f"http://{host}"))
        assert load(config).judge.url == f"http://{host}/v1"
        node.write_text(text)


def test_a_model_is_asked_in_header_mode_alone(config: Path) -> None:
    """Strict mode has nothing to ask; and no worker waits for a model longer than a quarter of its deadline."""
    node = config / "node.toml"
    change(node, 'model = ""', 'model = "m"\nurl = "http://127.0.0.1/v1"')
    assert not load(config).asks_judge
    change(node, 'redaction = "strict"', 'redaction = "header"')
    assert load(config).asks_judge
    change(node, "deadline_s = 600.0", "deadline_s = 79.0")
    with pytest.raises(BadSetting, match=r"judge\.timeout_s"):
        load(config)


def test_what_is_no_file_of_settings_is_refused(config: Path) -> None:
    """Nesting without end, and a folder of peers that cannot be read, are faults like others."""
    (config / "node.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(BadSetting, match="not TOML"):
        load(config)
    (config / "node.toml").write_text(compose("NODE", 11112, config / "state", [])["node.toml"])
    shutil.rmtree(config / "peers")
    (config / "peers").write_text("")
    with pytest.raises(BadSetting, match="peers"):
        load(config)


def test_missing_folder_says_how_to_get_one(tmp_path: Path) -> None:
    """A folder without configuration names the file and the command that writes one."""
    with pytest.raises(BadSetting, match=r"node\.toml.*dicomnode init"):
        load(tmp_path / "nothing")


def test_rule_that_wins_always_must_be_last(config: Path) -> None:
    """A rule without condition before others is refused, because those could never win."""
    change(config / "routes.toml", 'modality = ["CR", "DX", "RG", "OT", "SC"]\nbody_part = ["pediatric_chest"]\n', "")
    with pytest.raises(BadRule, match="never win"):
        load(config)


def test_the_key_of_one_model_names_the_new_one(config: Path) -> None:
    """A routes.toml of an older version is refused with what to write; a model that stands twice is refused too."""
    change(config / "routes.toml", 'models = ["pneumonia-pediatric"]', 'model = "pneumonia-pediatric"')
    with pytest.raises(BadSetting, match=r'routes\.toml: rule\.0: .*models = \["NAME"\]'):
        load(config)
    change(config / "routes.toml", 'model = "pneumonia-pediatric"', 'models = ["a", "b", "a"]')
    with pytest.raises(BadSetting, match="twice"):
        load(config)


def test_originals_go_to_one_inside_destination(config: Path) -> None:
    """Unchanged originals are refused for a peer that is outside."""
    change(config / "routes.toml", 'outputs = ["sr", "sc"]', 'outputs = ["original"]')
    assert load(config).routes.rule[0].outputs == ("original",)
    change(config / "peers" / "pacs.toml", 'trust = "inside"', 'trust = "outside"')
    with pytest.raises(BadRule, match="not an inside peer"):
        load(config)


def test_outside_peer_beyond_this_machine_is_refused_without_reason(config: Path) -> None:
    """An outside peer without TLS needs plain = true with a reason; on this machine it does not."""
    peer = config / "peers" / "pacs.toml"
    change(peer, 'trust = "inside"', 'trust = "outside"')
    load(config)
    change(peer, 'host = "127.0.0.1"', 'host = "192.0.2.1"')
    with pytest.raises(BadSetting, match="TLS"):
        load(config)
    peer.write_text(peer.read_text() + 'plain = true\nplain_reason = "VPN"\n')
    assert load(config).peers["pacs"].plain_reason == "VPN"


def test_settings_are_frozen(config: Path) -> None:
    """What was loaded does not change."""
    settings: Settings = load(config)
    with pytest.raises(ValidationError):
        settings.node.port = 1


def test_digest_follows_the_files(config: Path) -> None:
    """The digest is the same for the same files and another for any change."""
    first = load(config).digest
    assert load(config).digest == first
    change(config / "node.toml", "port = 11112", "port = 11113")
    assert load(config).digest != first


@pytest.mark.parametrize(("windows", "at", "open_"), [
    ((), "03:00", True),
    (("08:00-17:00",), "07:59", False), (("08:00-17:00",), "08:00", True), (("08:00-17:00",), "17:00", False),
    (("19:00-06:00",), "18:59", False), (("19:00-06:00",), "23:59", True), (("19:00-06:00",), "00:00", True),
    (("19:00-06:00",), "05:59", True), (("19:00-06:00",), "06:00", False),
    (("01:00-02:00", "12:00-13:00"), "12:30", True), (("01:00-02:00", "12:00-13:00"), "02:30", False),
])
def test_windows(windows: tuple[str, ...], at: str, open_: bool) -> None:
    """A window begins at its first minute and ends before its last; one that ends earlier than it begins spans midnight."""
    assert Peer(ae_title="P", windows=windows).sends_at(time.fromisoformat(at)) is open_


def test_windows_want_a_lifetime_that_meets_one(config: Path) -> None:
    """With windows a lifetime that could pass between two of them is refused; with a longer one they are taken."""
    path = config / "peers" / "pacs.toml"
    path.write_text(path.read_text() + 'windows = ["19:00-06:00"]\n')
    assert load(config).peers["pacs"].windows == ("19:00-06:00",)
    change(config / "node.toml", "lifetime_h = 120.0", "lifetime_h = 24.0")
    with pytest.raises(BadSetting, match="lifetime_h"):
        load(config)
