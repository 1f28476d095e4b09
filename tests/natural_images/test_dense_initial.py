import pytest
import torch

from fastvim import create_model
from natural_images.dense_initial import digest, load_backbone
from natural_images.errors import NaturalImagesDataError

SMALL = {"embed_dim": 16, "depth": 4, "patch_size": 8}


def backbone(name="fastvim_tiny_patch16_dense", **options):
    torch.manual_seed(1)
    values = {**SMALL, "img_size": 64, "out_indices": [0, 1, 2, 3], **options}
    return create_model(name, **values)


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(2)
    model = create_model("fastvim_tiny_patch16_224", **SMALL, img_size=32, num_classes=3)
    model.save_pretrained(tmp_path / "classifier")
    return model, tmp_path / "classifier"


def test_blocks_of_a_classifier_are_taken_and_positions_resized(classifier):
    trained, folder = classifier
    model = backbone()
    load_backbone(model, folder)
    weights, own = trained.state_dict(), model.state_dict()
    for name in (
        "patch_embed.proj.weight",
        "layers.3.mixer.in_proj.weight",
        "layers.0.norm.weight",
    ):
        assert torch.equal(own[name], weights[name])
    assert not own["layers.0.norm.bias"].any()
    assert own["pos_embed"].shape == (1, 64, 16)
    assert weights["pos_embed"].shape == (1, 16, 16)
    # Bicubic resizing keeps the mean, nearly.
    assert torch.allclose(own["pos_embed"].mean(1), weights["pos_embed"].mean(1), atol=3e-3)
    assert (own["outnorm_2.weight"] == 1).all()


def test_weights_of_a_dense_model_are_taken_whole(tmp_path):
    trained = backbone()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    # As in the checkpoints of OpenMMLab, heads beside it.
    state = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state | {"decode_head.x": torch.zeros(1)}}, tmp_path / "dense.pth")
    model = backbone()
    load_backbone(model, tmp_path / "dense.pth")
    assert all(
        torch.equal(value, model.state_dict()[n]) for n, value in trained.state_dict().items()
    )


def test_a_vim_with_class_token_starts_a_dense_vim(tmp_path):
    trained = create_model(
        "vim_tiny_patch16_224", **SMALL, img_size=64, num_classes=3, class_token="middle"
    )
    trained.save_pretrained(tmp_path / "vim")
    model = backbone("vim_small_patch16_dense")
    load_backbone(model, tmp_path / "vim")
    positions = trained.state_dict()["pos_embed"]
    assert torch.equal(model.state_dict()["pos_embed"][:, :32], positions[:, :32])
    assert torch.equal(model.state_dict()["pos_embed"][:, 32:], positions[:, 33:])


@pytest.mark.parametrize(
    "options",
    [{"embed_dim": 24}, {"depth": 6}, {"depth": 2, "out_indices": [0, 1]}, {"patch_size": 16}],
)
def test_weights_of_another_size_are_refused(classifier, options):
    with pytest.raises(NaturalImagesDataError, match="classifier: "):
        load_backbone(backbone(**options), classifier[1])


def test_absent_weights_are_named(tmp_path):
    with pytest.raises(NaturalImagesDataError, match=r"model\.safetensors, got .*empty"):
        (tmp_path / "empty").mkdir()
        load_backbone(backbone(), tmp_path / "empty")


def test_digest_tells_weights_apart(classifier, tmp_path):
    trained, folder = classifier
    first = digest(folder)
    assert digest(folder / "model.safetensors") == first
    with torch.no_grad():
        trained.head.bias.add_(1)
    trained.save_pretrained(tmp_path / "other")
    assert digest(tmp_path / "other") != first
