"""MutualClassifier: its losses against torch's, and what a sub-network learns from."""

import pytest
import torch
import torch.nn.functional as F

from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.classifier import network_of
from mutualnet_det.slimmable import at_width

LABELS = [3, 0, 8, 1]


@pytest.fixture
def make_model():
    """Makes the small config's model, in training mode."""

    def make(*opts):
        torch.manual_seed(0)
        model = build_network(
            load_config("configs/pretrain_shapes.yaml", ["MODEL.DEVICE", "cpu", *opts])
        )
        return model.train()

    return make


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (len(LABELS), 3, 64, 64), generator=generator)
    return [
        {"image": image.to(torch.uint8), "label": label}
        for image, label in zip(images, LABELS, strict=True)
    ]


def weights(ground_truth, class_):
    keys = ("GROUND_TRUTH", ground_truth), ("CLASS", class_)
    return [item for k, v in keys for item in (f"MUTUALNET.LOSS_WEIGHTS.{k}", str(v))]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_full_network_learns_from_the_labels(make_model, batch, smoothing):
    model = make_model("MUTUALNET.CLASSIFICATION.LABEL_SMOOTHING", str(smoothing))
    losses, teacher = model.teach(batch)
    pixels = torch.stack([item["image"] for item in batch]).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    logits = model.backbone((pixels / 255 - mean) / std)["logits"]
    torch.testing.assert_close(teacher, logits, rtol=1e-4, atol=1e-4)
    assert not teacher.requires_grad
    target = F.one_hot(torch.tensor(LABELS), 9) * (1 - smoothing) + smoothing / 9
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert losses.keys() == {"loss_class"}
    torch.testing.assert_close(losses["loss_class"], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(batch)["loss_class"], expected, rtol=1e-4, atol=1e-4)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((0.0, 1.0), {"loss_distill_class"}),
        ((1.0, 0.0), {"loss_class"}),
        ((2.0, 3.0), {"loss_class", "loss_distill_class"}),
    ],
)
def test_a_sub_network_learns_what_the_weights_say(make_model, batch, given, names):
    model = make_model(*weights(*given), "MUTUALNET.TEMPERATURE", "2.0")
    _, teacher = model.teach(batch)
    with at_width(model, 0.5):
        losses = model.study(batch, teacher)
        logits = model.logits(batch)
    assert losses.keys() == names
    expected = {
        "loss_class": given[0] * F.cross_entropy(logits, torch.tensor(LABELS)),
        # KL at temperature 2, times its square, averaged over the images.
        "loss_distill_class": given[1]
        * 4
        * ((teacher / 2).softmax(1) * ((teacher / 2).log_softmax(1) - (logits / 2).log_softmax(1)))
        .sum(1)
        .mean(),
    }
    for name in names:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-5)


def test_the_teacher_teaches_and_does_not_learn(make_model, batch):
    model = make_model(*weights(0.0, 1.0))
    _, teacher = model.teach(batch)
    teacher = teacher.clone().requires_grad_()
    with at_width(model, 0.25):
        model.study(batch, teacher)["loss_distill_class"].backward()
    assert teacher.grad is None
    gradient = model.backbone.features[0][0].weight.grad
    assert gradient[:8].abs().sum() > 0  # the narrowest network's channels ...
    assert gradient[8:].abs().sum() == 0  # ... and no others


@pytest.mark.parametrize("family", ["mobilenet_v2", "vgg16_bn"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_teacher_is_noisy_only_if_asked_to_be(make_model, batch, family, dropout):
    model = make_model(
        *("MODEL.BACKBONE.NAME", f"build_slimmable_{family}_backbone"),
        *("MUTUALNET.WIDTH_RANGE", "(0.25, 0.25)"),
        *("MUTUALNET.CLASSIFICATION.DROPOUT", str(dropout)),
    )
    (_, one), (_, other) = (model.teach(batch) for _ in range(2))
    assert torch.equal(one, other) == (dropout == 0)


@pytest.mark.parametrize("family", ["mobilenet_v1", "resnet"])
def test_dropout_that_a_classifier_does_not_have_is_an_error(make_model, family):
    with pytest.raises(ConfigError, match=f"DROPOUT is 0.2; expected 0 .*{family}"):
        make_model(
            *("MODEL.BACKBONE.NAME", f"build_slimmable_{family}_backbone"),
            *("MUTUALNET.CLASSIFICATION.DROPOUT", "0.2"),
        )


def test_where_they_agree_nothing_is_learnt(make_model, batch):
    model = make_model(*weights(0.0, 1.0))
    _, teacher = model.teach(batch)
    with at_width(model, 1.0):
        loss = model.study(batch, teacher)["loss_distill_class"]
        loss.backward()
    assert loss.abs() < 1e-6
    assert all(p.grad is None or p.grad.abs().max() < 1e-5 for p in model.parameters())


def test_evaluation_gives_probabilities(make_model, batch):
    results = make_model().eval()([{"image": item["image"]} for item in batch])
    assert len(results) == len(batch)
    for item in results:
        assert item["scores"].shape == (9,)
        torch.testing.assert_close(item["scores"].sum(), torch.tensor(1.0))


def test_a_checkpoint_holds_torchvisions_names(make_model):
    names = set(network_of(make_model()).state_dict())
    assert {"features.0.0.weight", "features.18.0.weight", "classifier.1.weight"} <= names
