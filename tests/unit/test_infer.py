"""A model answers what its card says, or it does not start."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dicomnode.cards import Card, DataFile, ModelFolder
from dicomnode.errors import BadCard, BadSetting, DigestMismatch, MissingModel, StageFailed
from dicomnode.records import Placement
from dicomnode.stages import session as sessions
from dicomnode.stages.infer import BATCH, Infer, Model, open_models
from dicomnode.stages.preprocess import to_unit

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed: onnx makes the models of these tests")

SHIPPED = Path(__file__).parents[2] / "models"
SIZE = 8


def graph(outputs=2, divide=False):
    """ONNX bytes: logits are the picture's mean times -4, 0, 4 ... ; with `divide` the mean is divided by zero."""
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = np.linspace(-4, 4, outputs, dtype=np.float32).reshape(1, outputs)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights"], ["scaled"]),
        helper.make_node("Div" if divide else "Identity", ["scaled", "zero"] if divide else ["scaled"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", kinds.FLOAT, ["n", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT, ["n", outputs])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def card(content, **changes):
    """A card of two labels for an ONNX file."""
    base = {
        "name": "mean",
        "version": "1.0.0",
        "task": "findings",
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "body_parts": ["spine"],
        "intended_use": "tests",
        "licence": {"identifier": "CC0-1.0", "reason": "made by a test"},
        "training_data": [{"source": "none", "licence": "CC0-1.0", "pictures": 1}],
        "algorithm": {"value": "123110", "scheme": "DCM", "meaning": "Artificial Intelligence"},
        "input": {
            "name": "image",
            "shape": [1, SIZE, SIZE],
            "dtype": "float32",
            "preprocess": [
                {"step": "resize", "parameters": {"rows": SIZE, "cols": SIZE, "keep_aspect": False}},
                {"step": "add_channel"},
            ],
        },
        "output": {"name": "logits", "activation": "softmax", "temperature": 2.0},
        "labels": [
            {"key": "dark", "meaning": "Dark", "concept": {"value": "1", "scheme": "99T", "meaning": "Dark"}},
            {
                "key": "bright",
                "meaning": "Bright",
                "concept": {"value": "2", "scheme": "99T", "meaning": "Bright"},
                "abnormal": True,
                "threshold": 0.9,
            },
        ],
        "sample": {"file": "sample.png", "probabilities": {"dark": 0.5, "bright": 0.5}, "tolerance": 0.01},
    }
    return Card.model_validate(base | changes)


def two_labels(value):
    """What the graphs of `foreign` answer to an even picture: softmax of -4 and 4 times its brightness."""
    high = 1 / (1 + np.exp(-8 * value))
    return {"dark": 1 - high, "bright": high}


def foreign(
    path, *, dtype="float32", shape=(1, SIZE, SIZE), batch="n", steps=None, activation="softmax", ends="logits", labels=2,
    maps=(), cam_times=1.0, external=False, opset=18, ir=9, first=None, expected=two_labels, check=True,
):
    """A folder with a graph as other programs export them: the mean of its input times -4 and 4."""
    helper, kinds = onnx.helper, onnx.TensorProto
    path.mkdir(exist_ok=True)
    last = shape[-1] == 3  # channels last
    kind = {"float32": kinds.FLOAT, "float16": kinds.FLOAT16, "uint8": kinds.UINT8}[dtype]
    nodes = [
        helper.make_node(first or "Cast", ["image"], ["real"], **({} if first else {"to": kinds.FLOAT})),
        helper.make_node("Transpose", ["real"], ["moved"], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3]),
        helper.make_node("Mul", ["moved", "unit"], ["scaled"]),
        helper.make_node("GlobalAveragePool", ["scaled"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "weights"], ["wide"]),
    ]
    out_shape = [batch, labels]
    if ends == "wide":
        nodes.append(helper.make_node("Identity", ["wide"], ["scores"]))
        out_shape = [batch, labels, 1, 1]
    elif ends == "softmax":
        nodes += [helper.make_node("Flatten", ["wide"], ["flat"]), helper.make_node("Softmax", ["flat"], ["scores"], axis=1)]
    elif ends == "line":
        nodes.append(helper.make_node("Squeeze", ["wide", "axes"], ["scores"]))
        out_shape = [batch]
    else:
        nodes.append(helper.make_node("Flatten", ["wide"], ["scores"]))
    channels = 3 if 3 in shape else 1
    weights = np.repeat(np.array([-4, 4][-labels:], np.float32).reshape(labels, 1, 1, 1), channels, axis=1) / channels
    constants = {"weights": weights, "unit": np.float32(1 / 255 if dtype == "uint8" else 1), "axes": np.array([1, 2, 3])}
    outputs = [helper.make_tensor_value_info("scores", kinds.FLOAT, out_shape)]
    if maps:
        nodes += [
            helper.make_node("Mul", ["moved", "cam_times"], ["lit"]), helper.make_node("Sub", ["cam_times", "lit"], ["unlit"]),
            helper.make_node("Concat", ["lit", "unlit"], ["cam"], axis=1),
        ]
        constants["cam_times"] = np.full(1, cam_times, np.float32)
        outputs.append(helper.make_tensor_value_info("cam", kinds.FLOAT, [batch, 2, *shape[1:]]))
    made = helper.make_graph(
        nodes, "foreign", [helper.make_tensor_value_info("image", kind, [batch, *shape])], outputs,
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.save_model(
        model, path / "model.onnx", save_as_external_data=external, location="weights.bin", size_threshold=0,
    )
    if not check:
        return None
    cv2.imwrite(str(path / "sample.png"), np.pad(np.full((SIZE, SIZE // 2), 255, np.uint8), ((0, 0), (0, SIZE // 2))))
    keys = ["dark", "bright"][-labels:]
    concept = {"value": "1", "scheme": "99T", "meaning": "x"}
    return ModelFolder(
        card(
            (path / "model.onnx").read_bytes(),
            input={
                "name": "image", "shape": shape, "dtype": dtype,
                "preprocess": [
                    {"step": "resize", "parameters": {"rows": SIZE, "cols": SIZE, "keep_aspect": False}},
                    *(steps or [{"step": "add_channel"}]),
                ],
            },
            output={"name": "scores", "activation": activation},
            labels=[{"key": key, "meaning": key, "concept": concept} for key in keys],
            maps=maps,
            sample={"file": "sample.png", "probabilities": expected(0.5), "tolerance": 0.005},
        ),
        path,
    )


def one_label(value):
    """What a graph of one logit answers."""
    return {"bright": 1 / (1 + np.exp(-4 * value))}


RGB = [{"step": "three_channels"}]
FOREIGN = {
    "grey": {},
    "three channels": {"shape": (3, SIZE, SIZE), "steps": RGB},
    "channels last": {"shape": (SIZE, SIZE, 3), "steps": [*RGB, {"step": "channels_last"}]},
    "bytes": {"dtype": "uint8", "steps": [{"step": "scale", "parameters": {"factor": 255}}, {"step": "add_channel"}]},
    "half": {"dtype": "float16"},
    "batch of one": {"batch": 1},
    "batch of four": {"batch": 4},
    "probabilities": {"ends": "softmax", "activation": "none"},
    "not flat": {"ends": "wide"},
    "one logit": {"labels": 1, "activation": "sigmoid", "expected": one_label},
    "one logit a picture": {"labels": 1, "activation": "sigmoid", "ends": "line", "expected": one_label},
}


@pytest.fixture
def folder(tmp_path):
    """Make a model folder; takes what to change of graph and card."""

    def make(content=None, **changes):
        content = graph() if content is None else content
        (tmp_path / "model.onnx").write_bytes(content)
        cv2.imwrite(str(tmp_path / "sample.png"), np.zeros((SIZE, SIZE), np.uint8))
        return ModelFolder(card(content, **changes), tmp_path)

    return make


def bright(value=1.0):
    """An even picture."""
    return np.full((20, 30), value, dtype=np.float32)


def test_softmax_with_temperature(folder):
    """Logits -4 and 4 with temperature 2 are the probabilities of the difference 4."""
    model = Model(folder())
    expected = 1 / (1 + np.exp(-4))
    assert model.probabilities(bright()) == pytest.approx({"dark": 1 - expected, "bright": expected}, abs=1e-6)
    assert model.provider == "CPUExecutionProvider"


def test_sigmoid(folder):
    """Labels that do not exclude each other get a probability each."""
    model = Model(folder(output={"name": "logits", "activation": "sigmoid", "temperature": 1.0}))
    expected = {"dark": 1 / (1 + np.exp(4)), "bright": 1 / (1 + np.exp(-4))}
    assert model.probabilities(bright()) == pytest.approx(expected, abs=1e-6)


def test_stage(folder):
    """The stage gives every label, highest first, with what names the model; abnormal from the threshold on."""
    model = Model(folder())
    stage = Infer({"mean": model})
    findings = stage(bright(), "mean")
    assert [item.label for item in findings.items] == ["bright", "dark"]
    assert findings.items[0].code.meaning == "Bright"
    assert (findings.model, findings.version, findings.digest) == ("mean", "1.0.0", model.card.sha256)
    assert findings.abnormal
    below = stage(bright(0.5), "mean")  # 1 / (1 + exp(-2)) = 0.88
    assert [item.label for item in below.items] == ["bright", "dark"]
    assert not below.abnormal


def test_stage_without_the_model(folder):
    """A name that was not opened is an error of configuration."""
    with pytest.raises(MissingModel, match=r"'gone'.*mean"):
        Infer({"mean": Model(folder())})(bright(), "gone")


# -- models made elsewhere
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_layouts(tmp_path, name):
    """Whatever layout, type, batch and output a graph has, its card makes the node ask it rightly, alone and in batches."""
    made = foreign(tmp_path, **FOREIGN[name])
    model = Model(made)
    assert model.check_sample() < 0.005
    for value in (0.0, 0.5, 1.0):
        expected = FOREIGN[name].get("expected", two_labels)(value)
        assert model.probabilities(bright(value)) == pytest.approx(expected, abs=3e-3)
    pictures = [bright(number / 40) for number in range(40)]
    alone = [model.probabilities(picture) for picture in pictures]
    for one, many in zip(alone, model.probabilities_of(pictures), strict=True):
        assert many == pytest.approx(one, abs=1e-4)
    assert model.probabilities_of([]) == []


def test_batches_are_bounded(folder, monkeypatch):
    """However many pictures are asked about, the graph gets no more than BATCH at a time."""
    model = Model(folder())
    sizes = []
    run = model._session.run

    def watch(wanted, given):
        sizes.append(len(given["image"]))
        return run(wanted, given)

    monkeypatch.setattr(model._session, "run", watch)
    assert len(model.answers([bright()] * (2 * BATCH + 1))) == 2 * BATCH + 1
    assert len(model.logits(np.zeros((BATCH + 3, 1, SIZE, SIZE), np.float32))) == BATCH + 3
    assert sizes == [BATCH, BATCH, 1, BATCH, 3]


def test_maps(tmp_path):
    """A model that says where gives its maps beside the probabilities, with what they cover of the picture."""
    model = Model(foreign(tmp_path, maps=({"output": "cam", "kind": "heat", "labels": ["bright", "dark"]},)))
    picture = bright(0.0)  # 20 rows, 30 columns, stretched to the input
    picture[:, 15:] = 1.0
    answer = model.answer(picture)
    assert answer.probabilities == pytest.approx(two_labels(0.5), abs=1e-6)
    (heat,) = answer.maps
    assert (heat.spec.labels, heat.values.shape, heat.values.dtype) == (("bright", "dark"), (2, SIZE, SIZE), np.float32)
    assert heat.values[0, :, -1] == pytest.approx(1)
    assert heat.values[1, :, 0] == pytest.approx(1)
    assert answer.place == Placement(0, 0, 20, 30)
    assert model.answer(picture, (200, 300)).place == Placement(0, 0, 200, 300)
    run, names = model._session.run, []
    model._session.run = lambda wanted, given: (names.append(wanted), run(wanted, given))[1]
    assert model.probabilities(picture) == pytest.approx(two_labels(0.5), abs=1e-6)
    assert names == [["scores"]]  # maps that nobody wants cost nothing
    with pytest.raises(BadCard, match="cam"):
        Model(foreign(tmp_path / "few", maps=({"output": "cam", "kind": "heat", "labels": ["bright"]},)))
    with pytest.raises(BadCard, match="gone"):
        Model(foreign(tmp_path / "gone", maps=({"output": "gone", "kind": "heat", "labels": ["bright"]},)))


def test_mask_that_is_no_probability(tmp_path):
    """A mask outside of 0..1 is a fault of the model, not a picture."""
    mask = {"output": "cam", "kind": "mask", "labels": ["bright", "dark"], "threshold": 0.5}
    assert Model(foreign(tmp_path, maps=(mask,))).answer(bright()).maps[0].values.max() == 1
    tall = Model(foreign(tmp_path / "tall", maps=(mask,), cam_times=3.0))
    with pytest.raises(StageFailed, match="mask"):
        tall.answer(bright())


def test_probabilities_that_are_none(tmp_path):
    """A graph that is said to give probabilities, and gives logits, is found at its sample."""
    model = Model(foreign(tmp_path, activation="none"))
    with pytest.raises(BadCard, match="activation"):
        model.check_sample()


def test_weights_beside_the_file(tmp_path):
    """Weights in a second file are read when the card names it, with its digest, and never otherwise."""
    made = foreign(tmp_path, external=True)
    with pytest.raises(BadCard, match=r"\[\[data\]\]"):
        Model(made)
    digest = hashlib.sha256((tmp_path / "weights.bin").read_bytes()).hexdigest()
    named = made.card.model_copy(update={"data": (DataFile(file="weights.bin", sha256=digest),)})
    assert Model(ModelFolder(named, tmp_path)).check_sample() < 0.005


def test_a_file_that_changed_after_its_card_was_read(folder):
    """What is opened is what was digested."""
    made = folder()
    made.onnx.write_bytes(graph(outputs=3))
    with pytest.raises(DigestMismatch):
        Model(made)


TOO_NEW = {
    "opset": ({"opset": 99}, "opset 18"),
    "ir": ({"ir": 99}, "ir_version"),
    "operator": ({"first": "Guess"}, "operators"),
}


@pytest.mark.parametrize("name", TOO_NEW)
def test_what_cannot_be_opened_says_what_to_do(tmp_path, name):
    """A graph that this onnxruntime does not read is refused with what the exporter has to change."""
    changes, message = TOO_NEW[name]
    with pytest.raises(BadCard, match=message) as caught:
        Model(foreign(tmp_path, **changes))
    assert "onnxruntime_src" not in str(caught.value)


WRONG = {
    "labels": ({"content": graph(outputs=3)}, "the graph has"),
    "output name": ({"output": {"name": "scores", "activation": "softmax"}}, "the graph has"),
    "input name": (
        {"input": card(b"").input.model_dump() | {"name": "picture"}},
        "the graph takes",
    ),
    "shape": ({"input": card(b"").input.model_dump() | {"shape": (1, 9, 9)}}, "the graph takes"),
    "type": ({"input": card(b"").input.model_dump() | {"dtype": "float16"}}, "the graph takes"),
    "preparation": (
        {"input": card(b"").input.model_dump() | {"preprocess": [{"step": "add_channel"}, {"step": "add_channel"}]}},
        "preprocess makes",
    ),
    "step": ({"input": card(b"").input.model_dump() | {"preprocess": [{"step": "guess"}]}}, "guess"),
    "no ONNX": ({"content": b"this is no model"}, "cannot open"),
}


@pytest.mark.parametrize("name", WRONG)
def test_graph_against_card(folder, name):
    """A graph that is not as its card says does not start."""
    changes, message = WRONG[name]
    with pytest.raises(BadCard, match=message):
        Model(folder(**changes))


def test_sample(folder):
    """The sample passes when the answer is as expected, and fails when it is not."""
    assert Model(folder()).check_sample() == pytest.approx(0, abs=1e-6)
    wrong = {"file": "sample.png", "probabilities": {"dark": 0.52, "bright": 0.48}, "tolerance": 0.01}
    with pytest.raises(BadCard, match="off"):
        Model(folder(sample=wrong)).check_sample()


def test_sample_that_is_no_picture(folder):
    """A sample that does not decode to a grey picture fails."""
    made = folder()
    made.sample.write_bytes(b"no picture")
    with pytest.raises(BadCard, match="grey"):
        Model(made).check_sample()


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 8), (8,)])
def test_no_picture(folder, shape):
    """What is no single grey picture is refused, not guessed."""
    with pytest.raises(StageFailed):
        Model(folder()).probabilities(np.zeros(shape, dtype=np.float32))


def test_answer_not_finite(folder):
    """An answer that is no number never becomes a finding."""
    with pytest.raises(StageFailed, match="finite"):
        Model(folder(content=graph(divide=True))).probabilities(bright())


def test_onnxruntime_gives_up(folder):
    """An error inside onnxruntime becomes one of ours."""
    with pytest.raises(StageFailed, match="gave up"):
        Model(folder()).logits(np.zeros((1, 1, 3, 3), dtype=np.float32))


def test_cuda_only_when_asked(folder, monkeypatch):
    """The session is offered CUDA only when the configuration asks for it."""
    offered = []
    real = sessions.ort.InferenceSession

    def session(content, options, providers):
        offered.append(providers)
        return real(content, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(sessions.ort, "InferenceSession", session)
    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    Model(folder())
    with pytest.raises(BadSetting, match="cuda"):  # the session says CPU: a silent fall-back is refused
        Model(folder(), provider="cuda")
    assert offered == [["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]]


def test_cuda_not_built_in(folder, monkeypatch):
    """An onnxruntime without CUDA is an error of configuration where CUDA is asked for."""
    monkeypatch.setattr(sessions.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BadSetting, match="without it"):
        Model(folder(), provider="cuda")


def test_no_noise():
    """Opening and asking a model writes nothing to stdout or stderr, also when CUDA is asked for in vain."""
    program = (
        "import sys, pathlib, numpy\n"
        "from dicomnode.cards import find_models\n"
        "from dicomnode.errors import BadSetting\n"
        "from dicomnode.stages.infer import Model\n"
        "found = find_models(pathlib.Path(sys.argv[1]))\n"
        "assert found\n"
        "for folder in found.values():\n"
        "    Model(folder).probabilities(numpy.eye(9, dtype=numpy.float32))\n"
        "    try:\n"
        "        Model(folder, provider='cuda')\n"
        "    except BadSetting:\n"
        "        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(SHIPPED)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_shipped_models_answer_their_samples():
    """Every model that comes with the node opens and answers its sample as its card says."""
    models = open_models(SHIPPED)
    assert set(models) == {"bodypart-router", "bodypart-router-open", "breast-ultrasound", "pneumonia-pediatric"}
    for model in models.values():
        assert model.check_sample() < 0.01


def test_shipped_router_on_films(shared_data):
    """The router that comes with the node knows the films on which its epoch was chosen; test is not looked at again."""
    router = open_models(SHIPPED)["bodypart-router"]
    manifest = (shared_data / "MANIFEST.csv").read_text(encoding="utf-8").splitlines()
    right = total = 0
    for row in manifest[1:]:
        path, label = row.split(",")[:2]
        if path.startswith(("radiographs/", "nc_sa/radiographs/")) and ",val," in row:
            answer = router.probabilities(to_unit(cv2.imread(str(shared_data / path), cv2.IMREAD_GRAYSCALE)))
            right += max(answer, key=answer.get) == label
            total += 1
    assert total == 420
    assert right / total > 0.9


def test_nothing_is_reported_to_the_maker_of_the_runtime(tmp_path):
    """The runtime would queue its telemetry below the home directory and send it."""
    code = (
        "import sys; from pathlib import Path; from dicomnode.stages.infer import open_models; "
        "print(len(dict(open_models(Path(sys.argv[1]), provider='cpu', threads=1))))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-c", code, str(SHIPPED)]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) > 0
    assert list(tmp_path.rglob("*")) == []
