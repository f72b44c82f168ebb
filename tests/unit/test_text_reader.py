"""Answers become words with places, lines are drawn as they are taught, and a run repeats, resumes and leaves a reader."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from dicomnode.adding import copy  # noqa: E402 - need torch
from dicomnode.cards import load_card  # noqa: E402
from dicomnode.check import _text_models  # noqa: E402
from dicomnode.commands.repository import app  # noqa: E402
from dicomnode.commands.train import train  # noqa: E402
from dicomnode.errors import BadCard, BadSetting, DigestMismatch, MissingModel  # noqa: E402
from dicomnode.repository import READER, approve, load_reader_model, load_text_model, resolve, resolve_any  # noqa: E402
from dicomnode.stages.redact.letters import ALPHABET, Letters, decoded  # noqa: E402
from dicomnode.stages.redact.slip import HEIGHT, LONGEST, STEP, slip  # noqa: E402
from dicomnode.text_cards import ReaderFolder  # noqa: E402
from dicomnode.training.text import course, fonts, phrases  # noqa: E402
from dicomnode.training.text.course import Plan  # noqa: E402
from dicomnode.training.text.grounds import Ground, Grounds  # noqa: E402
from dicomnode.training.text.network import Reader, Said  # noqa: E402
from dicomnode.training.text.read import CLASSES, ReadRun, Slips, teach_reader, together  # noqa: E402
from dicomnode.training.text.slips import WIDEST, encode, make_slip  # noqa: E402
from tests.unit.spooled import configured  # noqa: E402

FACES = fonts.find_faces([])
CASE = fonts.Typecase(FACES)
TINY = Plan(steps=4, batch=2, every=2, val=2)
CPU = torch.device("cpu")


def grounds() -> Grounds:
    """One picture of one value but for a corner."""
    picture = np.full((120, 200), 60, np.uint8)
    picture[:8, :8] = 200
    return Grounds([Ground(picture)])


def answer(classes: list[int], sure: float = 1.0) -> NDArray[np.float32]:
    """An answer that says these classes, one after the other, this surely."""
    said = np.full((CLASSES, len(classes)), (1 - sure) / (CLASSES - 1), np.float32)
    said[classes, range(len(classes))] = sure
    return said


def spelled(text: str) -> list[int]:
    """The classes of a text as a network gives them: a step each, and one of nothing between letters that are doubled."""
    made: list[int] = []
    for one in encode(text) or []:
        made += [0, one] if made and made[-1] == one else [one]
    return made


@pytest.mark.parametrize("text", ["Aa Bb", "ANNE 1100", "10°C", "Müller-Lüdenß", "l1I|O0", "a b c", ALPHABET[1:]])
def test_letters_there_and_back(text: str) -> None:
    """What is encoded is what is read, doubled letters too."""
    assert " ".join(word.text for word in decoded(answer(spelled(text)))) == text


def test_unknown_letters_are_not_taught() -> None:
    """A text with one has no classes; class 0 is none of a letter."""
    assert encode("Łódź") is None
    assert 0 not in (encode(ALPHABET) or [0])
    assert len(set(ALPHABET)) == len(ALPHABET) == CLASSES - 1


def test_runs_count_once() -> None:
    """The same letter twice needs nothing between; blanks at the ends make no word."""
    e, l_, blank = (encode("el ") or [])[:3]
    assert [word.text for word in decoded(answer([0, e, e, l_, l_, 0, l_, 0]))] == ["ell"]
    assert [word.text for word in decoded(answer([blank, e, blank, 0, blank, l_, blank]))] == ["e", "l"]
    assert decoded(answer([0, 0, blank])) == []
    assert decoded(answer([])) == []


def test_words_know_where_they_stand() -> None:
    """From the first step of the first letter to the end of the last, in columns of the slip."""
    a, b, blank = encode("ab ") or []
    first, second = decoded(answer([0, 0, a, a, 0, b, blank, 0, b, b, b, 0]))
    assert (first.left, first.right) == (2 * STEP, 6 * STEP)
    assert (second.left, second.right) == (8 * STEP, 11 * STEP)


def test_the_least_sure_letter_counts() -> None:
    """A word with one doubtful letter is less sure than the mean of its letters."""
    a, b = encode("ab") or []
    said = np.concatenate([answer([a], 0.9), answer([b], 0.5)], axis=1)
    (word,) = decoded(said)
    assert word.confidence == pytest.approx(100 * (0.5 * 0.7 + 0.5 * 0.5), abs=0.1)
    assert "ab" not in repr(word)


@pytest.mark.parametrize("shape", [(16, 160), (64, 100), (5, 900), (40, 3)])
def test_slips_have_their_size(shape: tuple[int, int]) -> None:
    """One height; as wide as the line is long for its height, a multiple of the step, and not without end."""
    rows, cols = shape
    views = np.random.default_rng(1).integers(0, 256, (rows, cols, 3), np.uint8)
    made = slip(views, (0, 0, cols, rows))
    assert made.picture.shape[0] == HEIGHT
    width = made.picture.shape[1]
    assert width % STEP == 0
    assert abs(width - min(cols * HEIGHT / rows, LONGEST * HEIGHT)) <= STEP * 2
    assert made.left == 0
    assert made.scale * width == pytest.approx(cols)


def test_lines_are_drawn_again_alike() -> None:
    """From one seed, one line; none is wider than what is taught, each can be encoded, none has blanks that nobody sees."""
    for number in range(30):
        (one, text), (two, again) = (make_slip(grounds(), CASE, np.random.default_rng((3, number))) for _ in range(2))
        assert text == again
        assert np.array_equal(one, two)
        assert one.shape[0] == HEIGHT
        assert one.shape[1] <= WIDEST
        assert one.shape[1] % STEP == 0
        assert encode(text)
        assert text == " ".join(text.split())


def test_wide_lines_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be taught is no line; where nothing else comes, that is an error."""
    monkeypatch.setattr("dicomnode.training.text.slips.line", lambda _random: "W" * 44)
    with pytest.raises(BadSetting, match="no typeface"):
        make_slip(grounds(), CASE, np.random.default_rng(1))
    monkeypatch.setattr("dicomnode.training.text.slips.line", lambda _random: "Łódź")
    with pytest.raises(BadSetting, match="no typeface"):
        make_slip(grounds(), CASE, np.random.default_rng(1))


def test_lines_say_all_letters() -> None:
    """Words of the allow-list, and every letter of the alphabet, are among what is read."""
    random = np.random.default_rng(5)
    said = " ".join(phrases.line(random) for _ in range(3000))
    assert set(ALPHABET) <= set(said)
    assert "bilateral" in said.lower()


def test_a_batch_keeps_its_lines() -> None:
    """The narrow ones go on with their last column, which is not counted."""
    drawn = [Slips(grounds(), FACES, 2, 0, 6)[number] for number in range(6)]
    batch = together(drawn)
    assert batch.slips.shape == (6, 3, HEIGHT, max(made.shape[1] for made, _ in drawn))
    for row, (made, text) in enumerate(drawn):
        width = made.shape[1]
        assert batch.widths[row] == width // STEP
        assert np.array_equal(batch.slips[row, :, :, :width].numpy(), made.transpose(2, 0, 1))
        assert (batch.slips[row, :, :, width:] == batch.slips[row, :, :, width - 1 : width]).all()
        assert batch.lengths[row] == len(text)
    assert len(batch.classes) == sum(batch.lengths.tolist())


def test_reader_answers_along_the_line() -> None:
    """One answer for each step, whose probabilities make one."""
    torch.manual_seed(1)
    said = Said(Reader(CLASSES)).eval()(torch.rand(2, 3, HEIGHT, 40))
    assert said.shape == (2, CLASSES, 40 // STEP)
    assert torch.allclose(said.sum(dim=1), torch.ones(2, 10), atol=1e-5)


def test_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that breaks off after a checkpoint goes on to the same weights, dropout and all."""
    both = (grounds(), FACES)

    def taught(folder: Path, *, resume: bool = False) -> None:
        teach_reader(both, both, TINY, folder, resume=resume, device=CPU, workers=0)

    taught(tmp_path / "whole")
    keep = ReadRun.keep

    def breaks(run: ReadRun, *said: object) -> None:
        keep(run, *said)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ReadRun, "keep", breaks)
        with pytest.raises(KeyboardInterrupt):
            taught(tmp_path / "broken")
    taught(tmp_path / "broken", resume=True)
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "broken"))
    assert one["step"] == other["step"] == TINY.steps
    for name in ("reader", "average-reader"):
        assert all(torch.equal(a, b) for a, b in zip(one[name].values(), other[name].values(), strict=True))
    with pytest.raises(BadSetting, match="another plan"):
        teach_reader(both, both, Plan(steps=9), tmp_path / "whole", resume=True, device=CPU, workers=0)


def test_a_sure_answer_counts_as_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What val counts is the text of each line, without the answers to what was put on its end."""
    drawn = [(np.zeros((HEIGHT, 80, 3), np.uint8), "Anna B"), (np.zeros((HEIGHT, 40, 3), np.uint8), "x1")]
    run = ReadRun(TINY, tmp_path, CPU)
    logits = np.zeros((2, CLASSES, 20), np.float32)
    for row, text in enumerate(("anna b", "x1")):
        classes = spelled(text)
        logits[row] += 9 * answer(classes + [0] * (10 - len(classes)) + (encode("zzzzzzzzzz") or []))
    logits[0, :, 10:] = 9 * answer([0] * 10)
    monkeypatch.setattr(run.averages["reader"], "forward", lambda _slips: torch.from_numpy(logits))
    figures, score = run.look([together(drawn)])
    assert figures == {"lines": 2, "exact": 0.5, "loose": 1.0}
    assert score == 0.5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``models`` and ``runs`` of one tiny training by the command."""
    folder = tmp_path_factory.mktemp("reader")
    rows = ["path,split,source_repo,licence,note"]
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 200, (60, 80), np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.GaussianBlur(picture, (9, 9), 3))
        rows.append(f"{number}.png,{'val' if number == 3 else 'train'},someone,CC BY 4.0,")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "none").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course, "Plan", partial(Plan, val=2))
        done = CliRunner().invoke(train, asked(folder))
    assert done.exit_code == 0, done.output
    assert done.output.count("written: ") == 1
    return folder


def asked(folder: Path) -> list[str]:
    """The command that trained."""
    return [
        "text", "--network", "read", "--manifest", str(folder / "MANIFEST.csv"), "--models", str(folder / "models"),
        "--runs", str(folder / "runs"), "--steps", "1", "--batch", "2", "--fonts", str(folder / "none"), "--workers", "0",
        "--device", "cpu",
    ]


def test_what_was_trained_opens(trained: Path) -> None:
    """The file says what the network says, on lines of any length; card, sample and curves are there."""
    letters = Letters.load(trained / "models")
    assert letters.version == "text-reader@1.0.0"
    assert letters.card.licence.identifier == "CC-BY-4.0"
    assert letters.card.figures["val"]["lines"] == 2
    assert "Not a medical device" in (letters.folder.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (trained / "runs" / "curves.png").stat().st_size > 1000
    reader = Reader(CLASSES)
    course.load_best(trained / "runs", CPU, reader=reader)
    for cols in (STEP, 100, 640):
        line = np.random.default_rng(cols).integers(0, 256, (HEIGHT, cols, 3), np.uint8)
        given = torch.from_numpy(line.transpose(2, 0, 1)[None].copy()).float() / 255
        with torch.inference_mode():
            wanted = Said(reader).eval()(given)[0].numpy()
        assert np.abs(letters.answer(line) - wanted).max() < 2e-3


def test_the_command_refuses(trained: Path) -> None:
    """It writes over nothing, and a line has no side."""
    assert isinstance(CliRunner().invoke(train, asked(trained)).exception, BadSetting)
    odd = CliRunner().invoke(train, [*asked(trained), "--replace", "--side", "64"])
    assert "no side" in str(odd.exception)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A copy of the reader that comes with the node."""
    source = load_reader_model(None).path
    return Path(shutil.copytree(source, tmp_path / "m" / READER / source.name))


def test_another_alphabet_is_refused(ours: Path) -> None:
    """Letters in another order would be read as others."""
    card = (ours / "card.toml").read_text(encoding="utf-8")
    (ours / "card.toml").write_text(card.replace("ABCD", "ABDC"), encoding="utf-8")
    with pytest.raises(BadCard, match="alphabet"):
        Letters.load(ours.parents[1])


def test_another_answer_is_refused(ours: Path) -> None:
    """Another text, another sureness, no sample, another file, another name of the output."""
    card = (ours / "card.toml").read_text(encoding="utf-8")
    folder = ReaderFolder(load_reader_model(None).card, ours)
    sample = folder.card.sample
    for change in ({"text": "another"}, {"confidence": sample.confidence - 0.5}):
        other = folder.card.model_copy(update={"sample": sample.model_copy(update=change)})
        with pytest.raises(BadCard, match="reads otherwise"):
            Letters(ReaderFolder(other, ours)).check_sample()
    (ours / "sample.png").write_bytes(b"none")
    with pytest.raises(MissingModel, match="no picture"):
        Letters.load(ours.parents[1])
    (ours / "card.toml").write_text(card.replace('output = "letters"', 'output = "words"'), encoding="utf-8")
    with pytest.raises(BadCard, match="the card wants"):
        Letters.load(ours.parents[1])
    (ours / "model.onnx").write_bytes(b"another")
    with pytest.raises(DigestMismatch):
        Letters.load(ours.parents[1])


def test_the_one_that_comes_with_the_node() -> None:
    """It holds, is small, reads its sample to the letter, and names the data that bring its terms."""
    letters = Letters.load()
    assert letters.sample_answer()[0] == "SAMPLE 0123, no one"
    assert letters.folder.onnx.stat().st_size < 8_000_000
    assert letters.card.licence.identifier == "CC-BY-SA-4.0"
    assert any("MedNIST" in one.licence for one in letters.card.training_data)
    assert not any("NC" in one.licence for one in letters.card.training_data)
    assert letters.card.figures["val"]["read_to_the_letter"] > 0.55  # type: ignore[operator]


def test_words_are_where_they_were_drawn() -> None:
    """Each lies on its own ink, and begins and ends a letter and a half from where that does at most."""
    picture = np.full((40, 300), 30, np.uint8)
    for text, x in (("Left", 20), ("middle", 150)):
        cv2.putText(picture, text, (x, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 220, 1, cv2.LINE_AA)
    cut = slip(np.dstack([picture] * 3), (15, 8, 240, 34))
    first, second = Letters.load().read(cut.picture)
    assert (first.text, second.text) == ("Left", "middle")
    for word, x in ((first, 20), (second, 150)):
        wide = cv2.getTextSize(word.text, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 1)[0][0]
        left, right = (cut.left + cut.scale * at for at in (word.left, word.right))
        slack = 1.5 * wide / len(word.text)
        assert left == pytest.approx(x, abs=slack)
        assert right == pytest.approx(x + wide, abs=slack)


def test_routes_cannot_name_it(ours: Path) -> None:
    """It says no body part and no finding, and finds no text."""
    root = ours.parents[1]
    assert resolve_any(root, READER).card.task == "reading"
    for wrong in (lambda: resolve(root, READER), lambda: load_card(ours / "card.toml")):
        with pytest.raises(BadCard, match="reads lines of text"):
            wrong()
    with pytest.raises(BadCard, match="no network that finds text"):
        load_text_model(root, READER)


def test_check_and_start_know_it(ours: Path, tmp_path: Path) -> None:
    """The version of the start stays; one that is broken is a fault, with its name."""
    given = configured(tmp_path)
    settings = given.model_copy(update={"work": given.work.model_copy(update={"models_dir": ours.parents[1]})})
    assert approve(settings).approved[READER] == "1.0.0"
    (ours / "card.toml").write_text('task = "reading"', encoding="utf-8")
    assert {one.about: one.outcome for one in _text_models(settings)}[f"model {READER}"] == "fault"


def test_commands_show_it(ours: Path, tmp_path: Path) -> None:
    """It is listed, checked, tried on its sample, and copied; pictures are not lines."""
    root = ours.parents[1]
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((20, 20), np.uint8))
    told = {
        name: CliRunner().invoke(app, [*words, "--models", str(root)])
        for name, words in {
            "list": ["list"], "check": ["check"], "test": ["test", "--pictures", str(tmp_path / "one.png")],
        }.items()
    }
    assert [one.exit_code for one in told.values()] == [0, 0, 0], [one.output for one in told.values()]
    assert all(READER in one.output for one in told.values())
    assert "what stands in a line" in told["check"].output
    assert "was not asked" in told["test"].output
    copied = copy(tmp_path / "other", ours)
    assert copied.card.name == READER
    assert Letters.load(tmp_path / "other").version == "text-reader@1.0.0"
