"""What a name in routes.toml means, and that it goes on meaning the same until the next reload."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dicomnode.errors import BadCard, BadRule, DigestMismatch, MissingModel
from dicomnode.kitting import build_router, load_models
from dicomnode.repository import approve, models_dir, named, resolve, versions
from dicomnode.rules import Routes, Rule
from dicomnode.settings import WorkSettings, load
from tests.unit.spooled import configured
from tests.unit.test_cards import CARD, lay

SHIPPED = models_dir(WorkSettings())
ROUTER = "bodypart-router"


def several(root: Path, *numbers: str) -> None:
    """Versions of one model."""
    for number in numbers:
        lay(root, CARD.replace('version = "1.0.0"', f'version = "{number}"'), version=number)


def copy_as(root: Path, version: str, name: str = ROUTER) -> Path:
    """The newest shipped model as another version."""
    folder = root / name / version
    source = resolve(SHIPPED, name)
    shutil.copytree(source.path, folder)
    text = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(text.replace(f'version = "{source.card.version}"', f'version = "{version}"', 1))
    return folder


def test_versions_are_ordered_by_number(tmp_path: Path) -> None:
    """1.10.0 is newer than 1.9.0; folders that are no version are left alone."""
    several(tmp_path, "1.9.0", "1.10.0", "1.2.0", "old")
    assert versions(tmp_path) == {"seen": ("1.10.0", "1.9.0", "1.2.0")}


def test_what_a_name_means(tmp_path: Path) -> None:
    """The newest; the version that is asked for; the version that the master approved."""
    several(tmp_path, "1.9.0", "1.10.0")
    assert resolve(tmp_path, "seen").card.version == "1.10.0"
    assert resolve(tmp_path, "seen@1.9.0").card.version == "1.9.0"
    assert resolve(tmp_path, "seen", {"seen": "1.9.0"}).card.version == "1.9.0"
    assert resolve(tmp_path, "seen@1.10.0", {"seen": "1.9.0"}).card.version == "1.10.0"


@pytest.mark.parametrize(("reference", "words"), [
    ("gone", "'gone'; there are: seen"), ("seen@2.0.0", r"2\.0\.0; there are: 1\.0\.0"), ("../seen", "no model"),
])
def test_what_is_not_there_is_named(tmp_path: Path, reference: str, words: str) -> None:
    """With what there is instead."""
    several(tmp_path, "1.0.0")
    with pytest.raises(MissingModel, match=words):
        resolve(tmp_path, reference)


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there is named."""
    with pytest.raises(MissingModel, match="no folder"):
        resolve(tmp_path / "models", "seen")


def test_a_bad_version_harms_who_names_it_only(tmp_path: Path) -> None:
    """The older one is opened as before."""
    several(tmp_path, "1.0.0", "1.1.0")
    (tmp_path / "seen" / "1.1.0" / "model.onnx").write_bytes(b"another")
    assert resolve(tmp_path, "seen@1.0.0").card.version == "1.0.0"
    with pytest.raises(DigestMismatch):
        resolve(tmp_path, "seen")


def test_what_was_approved_stays(tmp_path: Path) -> None:
    """A version that comes later is for the next approval, whether it is good or not."""
    settings = configured(tmp_path)
    copy_as(tmp_path / "models", "3.0.0")
    copy_as(tmp_path / "models", "1.0.0", "pneumonia-pediatric")
    settings = settings.model_copy(update={"work": WorkSettings(models_dir=tmp_path / "models")})
    approved = approve(settings)
    assert approved.approved[ROUTER] == "3.0.0"
    broken = copy_as(tmp_path / "models", "3.0.1")
    (broken / "model.onnx").write_bytes(b"")
    (opened,) = load_models(approved.work, [ROUTER], approved.approved).values()
    assert opened.card.version == "3.0.0"
    with pytest.raises(DigestMismatch):
        load_models(approved.work, [ROUTER], approve(settings).approved)


def test_only_what_is_named_is_opened_and_once(tmp_path: Path) -> None:
    """Two names of one version share a session; what no rule names is not read."""
    root = tmp_path / "models"
    copy_as(root, "3.0.0")
    (root / "spare" / "1.0.0").mkdir(parents=True)
    (root / "spare" / "1.0.0" / "card.toml").write_text("no card")
    models = load_models(WorkSettings(models_dir=root), [ROUTER, f"{ROUTER}@3.0.0"])
    assert models[ROUTER] is models[f"{ROUTER}@3.0.0"]


def test_a_wrong_sample_stops_the_start(tmp_path: Path) -> None:
    """A model that answers its sample otherwise than its card says is not taken."""
    folder = copy_as(tmp_path / "models", "3.0.0")
    text = (folder / "card.toml").read_text().rpartition("[sample]")
    odd = text[2].replace("adult_chest = 0.", "adult_chest = 0.9", 1).replace("tolerance = 0.01", "tolerance = 0.0001")
    (folder / "card.toml").write_text("".join((*text[:2], odd)))
    with pytest.raises(BadCard, match="sample"):
        load_models(WorkSettings(models_dir=tmp_path / "models"), [ROUTER])


def test_models_for_another_task_stop_the_start() -> None:
    """A router finds nothing, and a findings model routes nothing."""
    models = load_models(WorkSettings(), [ROUTER, "pneumonia-pediatric"])
    last = Rule(name="all", models=(ROUTER,))
    with pytest.raises(BadRule, match=r"'all'.*bodypart-router"):
        build_router(Routes(rule=(last,)), models)
    with pytest.raises(BadRule, match="not the body part"):
        build_router(Routes(router="pneumonia-pediatric", rule=(Rule(name="all"),)), models)


def test_named(tmp_path: Path) -> None:
    """Every model of the routes once, the router first."""
    rules = (Rule(name="a", models=("x", "y@1.0.0")), Rule(name="b", models=("x",)))
    assert named(Routes(router="r", rule=rules)) == ("r", "x", "y@1.0.0")


def test_versions_in_a_configuration(tmp_path: Path) -> None:
    """NAME@VERSION is a name that routes.toml may use; anything else is refused with its key."""
    settings = configured(tmp_path)
    routes = settings.directory / "routes.toml"
    routes.write_text('router = "bodypart-router@1.0.0"\n[[rule]]\nname = "all"\nmodels = ["pneumonia-pediatric@1.0.0"]\n')
    assert named(load(settings.directory).routes) == ("bodypart-router@1.0.0", "pneumonia-pediatric@1.0.0")
