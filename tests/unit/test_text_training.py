"""Text is drawn where its boxes say, targets keep lines apart, and a run repeats, resumes and leaves models that open."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from dicomnode.cards import load_card  # noqa: E402 - need torch
from dicomnode.check import _text_models  # noqa: E402
from dicomnode.commands.train import train  # noqa: E402
from dicomnode.errors import BadCard, BadSetting, DigestMismatch  # noqa: E402
from dicomnode.kitting import load_models  # noqa: E402
from dicomnode.repository import DETECTOR, GATE, READER, approve, load_text_model, resolve, resolve_any  # noqa: E402
from dicomnode.settings import WorkSettings  # noqa: E402
from dicomnode.stages.redact.model import TextModel  # noqa: E402
from dicomnode.text_cards import TextFolder  # noqa: E402
from dicomnode.training.learn import Machine  # noqa: E402
from dicomnode.training.text import fonts, grounds, learn, scene, targets  # noqa: E402
from dicomnode.training.text.doubt import load_doubts, save_doubts  # noqa: E402
from dicomnode.training.text.grounds import Ground, Grounds, choose, find_pictures  # noqa: E402
from dicomnode.training.text.learn import TextPlan, TextRun, teach  # noqa: E402
from dicomnode.training.text.network import Answer, Detector, Gate  # noqa: E402
from dicomnode.training.text.train import TextOrder, train_text  # noqa: E402
from tests.unit.spooled import configured  # noqa: E402

#: No typeface of the machine: OpenCV's alone.
FACES = fonts.find_faces([])
CASE = fonts.Typecase(FACES)
TINY = TextPlan(steps=4, batch=2, side=64, every=2, val=2, doubt_at=2)
CPU = torch.device("cpu")


def plain(value: int = 60, side: int = 200, doubt: np.ndarray | None = None) -> Grounds:
    """One picture of one value but for a corner."""
    picture = np.full((side, side), value, np.uint8)
    picture[:8, :8] = 200
    return Grounds([Ground(picture, doubt)])


def scenes(count: int, side: int = 128) -> list[scene.Scene]:
    """Some pieces from seeds."""
    return [scene.make_scene(plain(), CASE, side, np.random.default_rng((7, n))) for n in range(count)]


def a_scene(*lines: tuple[int, int, int, int], side: int = 96) -> scene.Scene:
    """A piece with these lines and no pixel of doubt."""
    return scene.Scene(np.zeros((side, side, 3), np.uint8), list(lines), np.zeros((side, side), bool))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six small pictures, and a manifest of them."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    rows = ["path,split,licence,source_repo"]
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 255, (90, 80), np.uint8))
        rows.append(f"{number}.png,{'val' if number > 3 else 'train'},CC BY 4.0 (nobody),made")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def order(data: Path, out: Path, **changes: object) -> TextOrder:
    """A training without typefaces of the machine."""
    empty = out / "no-fonts"
    empty.mkdir(parents=True, exist_ok=True)
    said: dict[str, object] = {"fonts": (empty,), **changes}
    return TextOrder(data / "MANIFEST.csv", out / "models", out / "runs", **said)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole tiny training."""
    out = tmp_path_factory.mktemp("trained")
    train_text(order(data, out), TINY, Machine("cpu", 1), 0)
    return out


def test_pieces_repeat() -> None:
    """The same seed draws the same piece, another seed another one."""
    first, again = scenes(3), scenes(3)
    assert all(np.array_equal(a.views, b.views) and a.lines == b.lines for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].views, first[1].views)


def test_pieces_are_views() -> None:
    """Three renderings of 8 bit that use the scale; boxes lie inside and are none's twice; there is text in most."""
    made = scenes(24)
    for one in made:
        assert one.views.shape == (128, 128, 3)
        assert one.views.dtype == np.uint8
        assert all(0 <= x < r <= 128 and 0 <= y < b <= 128 for x, y, r, b in one.lines)
        assert len(set(one.lines)) == len(one.lines)
    assert sum(bool(one.lines) for one in made) > 12


def test_ink_lies_in_the_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs between a piece with its text and the same without lies in the boxes, and each box has some of it."""
    style = scene.Style(FACES[0], 18, 1, hard=False, outline=0, backed=0, shadow=False, extreme=True, stretch=1.0, alpha=1.0)
    monkeypatch.setattr(scene, "draw_style", lambda _faces, _random: style)
    canvas = scene.Canvas(np.full((160, 160), 0.2, np.float32), np.zeros((160, 160), bool))
    for seed in range(6):
        scene._block(canvas, CASE, np.random.default_rng(seed))
    inked = np.abs(canvas.picture - 0.2) > 0.05
    assert canvas.lines
    for left, top, right, bottom in canvas.lines:
        part = inked[top:bottom, left:right]
        assert part.any()
        inked[top:bottom, left:right] = False
    assert not inked.any()


def test_blanked_lines_are_no_text() -> None:
    """A line that was drawn over whole is gone from the list; what is left of one ends where it was cut."""
    seen = set()
    for seed in range(60):
        canvas = scene.Canvas(np.full((96, 96), 0.5, np.float32), np.zeros((96, 96), bool), [(10, 40, 80, 52)])
        scene._unwrite(canvas, np.random.default_rng(seed))
        seen.add(len(canvas.lines))
        for left, _, right, _ in canvas.lines:
            assert left == 10
            assert right == 80 or (canvas.picture[42:50, right + 1 : 79] != 0.5).all()
    assert seen == {0, 1}


def test_cores_of_touching_lines_stay_apart() -> None:
    """Lines one pixel apart have two cores; a line of two pixels has one too."""
    made = targets.make_targets(a_scene((8, 8, 72, 20), (8, 21, 72, 33)))
    count, _ = cv2.connectedComponents(made.core.astype(np.uint8))
    assert count - 1 == 2
    assert made.core[7, 20] == 1  # 14, 15: the middle of the first line
    assert made.core[4, 20] == 0  # 8, 9: its edge
    tiny = targets.make_targets(a_scene((31, 51, 40, 53)))
    assert tiny.core.sum() >= 1
    assert tiny.core[25:27, 15:20].sum() == tiny.core.sum()


def test_a_core_grown_by_half_its_thickness_is_the_line() -> None:
    """So the node finds the box again."""
    left, top, right, bottom = targets.core_of((10, 20, 90, 44))
    grow = (bottom - top) / 2
    assert (left - grow, top - grow, right + grow, bottom + grow) == (10, 20, 90, 44)


def test_threshold_is_learned_around_cores_alone() -> None:
    """Highest at the edge of the core, between its ends elsewhere, no weight far away."""
    made = targets.make_targets(a_scene((16, 32, 80, 64)))
    assert made.threshold_weight[0, 0] == 0
    assert made.threshold_weight[20, 20] == 1
    assert 0.3 <= made.threshold[made.threshold_weight > 0].min() <= made.threshold.max() <= 0.7
    assert made.threshold[20, 24] > made.threshold[24, 24]


def test_doubt_teaches_nothing() -> None:
    """Where text may be that nobody drew, neither network learns."""
    one = a_scene((8, 8, 40, 20))
    one.doubt[64:80, 64:80] = True
    made = targets.make_targets(one)
    assert made.core_weight[32:40, 32:40].max() == 0
    assert made.core_weight[:30, :30].min() == 1
    assert made.cell_weight[4, 4] == 0
    assert made.cell_weight[5, 0] == 1


def test_gate_cells() -> None:
    """Cells with ink are text, those beside them teach nothing, others are ground."""
    made = targets.make_targets(a_scene((34, 34, 62, 46)))
    assert made.cell[2, 2:4].tolist() == [1, 1]
    assert made.cell.sum() == 2
    assert made.cell_weight[1:4, 1:5].sum() == 2
    assert made.cell_weight[5, 5] == 1


def test_faces_are_parted_by_family() -> None:
    """No family on both sides; too few are shared."""
    many = [fonts.Face(f"family{n}", hershey=0) for n in range(200) for _ in range(2)]
    own, held = fonts.split_faces(many)
    assert not {face.family for face in own} & {face.family for face in held}
    assert 8 <= len(held) / 2 <= 40
    assert fonts.split_faces(FACES[:1]) == (FACES[:1], FACES[:1])


def test_faces_kept_back_are_never_found(tmp_path: Path) -> None:
    """Evaluation draws with these families."""
    for name in ("NotoSans-Regular.ttf", "ter-x16n.pcf.gz", "Roboto-Bold.ttf", "DejaVuSerif.ttf"):
        (tmp_path / name).write_bytes(b"")
    assert fonts.find_faces([tmp_path]) == FACES
    assert fonts.family_of("LiberationSans-BoldItalic.ttf") == "liberationsans"


def test_pictures_of_a_manifest(data: Path, tmp_path: Path) -> None:
    """Splits are kept; narrower terms are left out; a copy belongs to the split of its twin."""
    found = find_pictures(data / "MANIFEST.csv")
    assert [one.split for one in found] == ["train"] * 4 + ["val"] * 2
    (tmp_path / "nc_sa").mkdir()
    for name in ("a.png", "b.png", "nc_sa/c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9), np.uint8))
    rows = ("path,split,note", "a.png,val,", "b.png,any,same picture as a.png; large", "nc_sa/c.png,train,", "gone.png,train,")
    (tmp_path / "M.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert [(one.path.name, one.split) for one in find_pictures(tmp_path / "M.csv")] == [("a.png", "val"), ("b.png", "val")]
    (tmp_path / "bad.csv").write_text("path\na.png\n", encoding="utf-8")
    with pytest.raises(BadSetting, match="column 'split'"):
        find_pictures(tmp_path / "bad.csv")
    with pytest.raises(BadSetting, match="cannot be read"):
        find_pictures(tmp_path / "none.csv")


def test_pictures_of_a_folder(data: Path) -> None:
    """Splits are drawn, the same each time; a choice is the same each time too."""
    found = find_pictures(data)
    assert len(found) == 6
    assert found == find_pictures(data)
    many = found * 40
    assert choose(many, found[0].split, 5) == choose(many, found[0].split, 5)
    assert len(choose(many, found[0].split, 5)) == 5


def test_pictures_that_show_nothing(tmp_path: Path) -> None:
    """They are passed over, and none at all is an error."""
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((20, 20), 7, np.uint8))
    (tmp_path / "odd.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert [grounds.read_ground(tmp_path / name) for name in ("flat.png", "odd.dcm")] == [None, None]
    with pytest.raises(BadSetting, match="no picture"):
        Grounds.read(find_pictures(tmp_path))


def test_doubts_are_kept(tmp_path: Path) -> None:
    """What was written is what is read."""
    doubt = np.zeros((200, 200), bool)
    doubt[3:50, 7:90] = True
    given = [Ground(np.zeros((200, 200), np.uint8), doubt), Ground(np.zeros((9, 9), np.uint8))]
    save_doubts(tmp_path / "doubts.npz", given)
    first, second = load_doubts(tmp_path / "doubts.npz", given)
    assert first.doubt is not None
    assert np.array_equal(first.doubt, doubt)
    assert second.doubt is None


def test_answer_drops_the_threshold() -> None:
    """The exported network says what the first channel of the taught one says, and leaves that one whole."""
    torch.manual_seed(1)
    detector = Detector().eval()
    views = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        made, whole = Answer(detector).eval()(views), detector(views)
    assert whole.shape == (1, 2, 32, 48)
    assert torch.equal(made, torch.sigmoid(whole[:, :1]))
    assert Gate()(views).shape == (1, 1, 4, 6)


def weights(folder: Path) -> dict[str, object]:
    """What a run came to."""
    held: dict[str, object] = torch.load(folder / "last.pt", weights_only=True)
    return held


def test_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that breaks off after a checkpoint goes on to the same weights as one that does not."""
    both = (plain(), FACES[:1])

    def taught(folder: Path, *, resume: bool = False) -> None:
        teach(both, both, TINY, folder, resume=resume, device=CPU, workers=0)

    taught(tmp_path / "whole")
    keep = TextRun.keep

    def breaks(run: TextRun, *said: object) -> None:
        keep(run, *said)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TextRun, "keep", breaks)
        with pytest.raises(KeyboardInterrupt):
            taught(tmp_path / "broken")
    assert weights(tmp_path / "broken")["step"] == 2
    taught(tmp_path / "broken", resume=True)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert one["step"] == other["step"] == TINY.steps
    for name in ("detector", "gate", "average-detector", "average-gate"):
        assert all(torch.equal(a, b) for a, b in zip(one[name].values(), other[name].values(), strict=True))  # type: ignore[attr-defined]
    with pytest.raises(BadSetting, match="another plan"):
        teach(both, both, TextPlan(steps=9), tmp_path / "whole", resume=True, device=CPU, workers=0)


def test_models_are_written(trained: Path) -> None:
    """Both have a card that names the data, a sample that is answered, and the history its curves."""
    for name, output, step in ((DETECTOR, "cores", 2), (GATE, "text", 16)):
        folder = load_text_model(trained / "models", name)
        card = folder.card
        assert (card.output, card.step, card.licence.identifier) == (output, step, "CC-BY-4.0")
        assert card.training_data[0].pictures == 4
        assert card.figures["val"]["lines"] == json.loads((trained / "runs" / "history.json").read_text())[-1]["lines"]
        assert np.ptp(card.sample.answer) > 0
        assert TextModel(folder).check_sample() < 1e-3
        assert "Not a medical device" in (folder.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (trained / "runs" / "curves.png").stat().st_size > 1000


def test_a_frame_of_any_size_is_answered(trained: Path) -> None:
    """One value for each step, in 0..1, as torch gives it for a padded frame."""
    model = TextModel(load_text_model(trained / "models", DETECTOR))
    views = np.random.default_rng(2).integers(0, 256, (70, 101, 3), np.uint8)
    said = model.answer(views)
    assert said.shape == (35, 51)
    assert said.min() >= 0
    assert said.max() <= 1
    again = model.answer(np.pad(views, ((0, 26), (0, 27), (0, 0)), mode="edge"))
    assert np.array_equal(again[:35, :51], said)


def test_a_changed_network_is_refused(trained: Path, tmp_path: Path) -> None:
    """Another file, another sample, or a card that asks for another output."""
    source = load_text_model(trained / "models", GATE)
    folder = tmp_path / GATE / "1.0.0"
    folder.mkdir(parents=True)
    for file in source.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    text = (folder / "card.toml").read_text(encoding="utf-8")
    sample = source.card.sample
    answer = sample.model_copy(update={"answer": tuple(tuple((value + 0.5) % 1 for value in row) for row in sample.answer)})
    with pytest.raises(BadCard, match="off by"):
        TextModel(TextFolder(source.card.model_copy(update={"sample": answer}), folder)).check_sample()
    (folder / "card.toml").write_text(text.replace('output = "text"', 'output = "cores"'), encoding="utf-8")
    with pytest.raises(BadCard, match="no output cores"):
        TextModel(load_text_model(tmp_path, GATE))
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(DigestMismatch):
        load_text_model(tmp_path, GATE)


def test_routes_cannot_name_it(trained: Path) -> None:
    """It says no body part and no finding; a model with labels finds no text."""
    root = trained / "models"
    assert resolve_any(root, GATE).card.task == "text"
    with pytest.raises(BadCard, match="finds text in frames"):
        resolve(root, DETECTOR)
    with pytest.raises(BadCard, match="finds text in frames"):
        load_models(WorkSettings(models_dir=root), [f"{DETECTOR}@1.0.0"])
    with pytest.raises(BadCard, match="finds text in frames"):
        load_card(root / GATE / "1.0.0" / "card.toml")
    with pytest.raises(BadCard, match="no network that finds text"):
        load_text_model(None, "bodypart-router")


def test_the_version_of_the_start_stays(trained: Path, tmp_path: Path) -> None:
    """Workers that start later open the version that the master approved."""
    settings = configured(tmp_path)
    work = settings.work.model_copy(update={"models_dir": trained / "models"})
    approved = approve(settings.model_copy(update={"work": work})).approved
    assert approved[DETECTOR] == approved[GATE] == "1.0.0"


@pytest.mark.parametrize("name", [DETECTOR, GATE])
def test_those_that_come_with_the_node(name: str) -> None:
    """They hold, are small, answer their samples, and name the data that bring their terms."""
    folder = load_text_model(None, name)
    assert TextModel(folder).check_sample() <= folder.card.sample.tolerance
    assert folder.onnx.stat().st_size < 8_000_000
    assert folder.card.licence.identifier == "CC-BY-SA-4.0"
    assert any("MedNIST" in one.licence for one in folder.card.training_data)
    assert not any("NC" in one.licence for one in folder.card.training_data)
    assert folder.card.figures["val"]["lines"] > 500


def test_the_detector_finds_what_is_written() -> None:
    """On the sample: more in the part with the line than in the parts without."""
    answer = np.array(load_text_model(None, DETECTOR).card.sample.answer)
    assert answer[0, :6].mean() > 0.15
    assert answer[4:7, 2:6].max() < 0.05


def test_check_looks_at_them(tmp_path: Path) -> None:
    """A folder of the site without them takes the node's; one that is broken there is a fault, with its name."""
    given = configured(tmp_path)
    settings = given.model_copy(update={"work": given.work.model_copy(update={"models_dir": tmp_path / "m"})})
    assert [answer.outcome for answer in _text_models(settings)] == ["ok", "ok", "ok"]
    broken = tmp_path / "m" / GATE / "1.0.0"
    broken.mkdir(parents=True)
    (broken / "card.toml").write_text('task = "text"', encoding="utf-8")
    told = {answer.about: answer.outcome for answer in _text_models(settings)}
    assert told == {f"model {DETECTOR}": "ok", f"model {GATE}": "fault", f"model {READER}": "ok"}


def test_command(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It trains, exports, refuses to write over, and says what it cannot use."""
    monkeypatch.setattr(learn, "TextPlan", partial(TextPlan, val=2))
    (tmp_path / "none").mkdir()
    asked = [
        "text", "--manifest", str(data / "MANIFEST.csv"), "--models", str(tmp_path / "m"), "--runs", str(tmp_path / "r"),
        "--steps", "1", "--batch", "2", "--side", "64", "--fonts", str(tmp_path / "none"), "--workers", "0", "--device", "cpu",
    ]
    done = CliRunner().invoke(train, asked)
    assert done.exit_code == 0, done.output
    assert done.output.count("written: ") == 2
    assert load_text_model(tmp_path / "m", DETECTOR).card.version == "1.0.0"
    again = CliRunner().invoke(train, asked)
    assert isinstance(again.exception, BadSetting)
    odd = CliRunner().invoke(train, [*asked, "--replace", "--side", "70"])
    assert isinstance(odd.exception, BadSetting)
