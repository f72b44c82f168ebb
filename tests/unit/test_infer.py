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

from dicomnode.cards import Card, ModelFolder
from dicomnode.errors import BadCard, BadSetting, MissingModel, StageFailed
from dicomnode.stages import infer
from dicomnode.stages.infer import Infer, Model, open_models
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


WRONG = {
    "labels": ({"content": graph(outputs=3)}, "the graph has"),
    "input name": (
        {"input": card(b"").input.model_dump() | {"name": "picture"}},
        "the graph has",
    ),
    "shape": ({"input": card(b"").input.model_dump() | {"shape": (1, 9, 9)}}, "the graph has"),
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
    real = infer.ort.InferenceSession

    def session(path, options, providers):
        offered.append(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(infer.ort, "InferenceSession", session)
    monkeypatch.setattr(infer.ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    Model(folder())
    with pytest.raises(BadSetting, match="cuda"):  # the session says CPU: a silent fall-back is refused
        Model(folder(), provider="cuda")
    assert offered == [["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]]


def test_cuda_not_built_in(folder, monkeypatch):
    """An onnxruntime without CUDA is an error of configuration where CUDA is asked for."""
    monkeypatch.setattr(infer.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
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
    assert set(models) == {"bodypart-router", "pneumonia-pediatric"}
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
