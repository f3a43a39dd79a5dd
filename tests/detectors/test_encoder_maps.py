"""An MCL folder's configuration as it is in every detector of transformers that takes a `backbone_config`."""

import pytest
import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from mcl_hf import MCLConfig
from mcl_hf.auto_classes import ENCODERS

SMALL = {
    "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 10,
}  # fmt: skip
OF_C3_TO_C5 = {**SMALL, "d_model": 32, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "num_denoising": 4}
PLAIN = {**SMALL, "d_model": 32, "use_timm_backbone": False}
DETECTORS = {
    "Detr": PLAIN,
    "ConditionalDetr": PLAIN,
    "DabDetr": {**SMALL, "hidden_size": 32, "use_timm_backbone": False},
    "DeformableDetr": PLAIN,
    "TableTransformer": PLAIN,
    "RTDetr": OF_C3_TO_C5,
    "RTDetrV2": OF_C3_TO_C5,
    "DFine": OF_C3_TO_C5,
    "Deimv2": OF_C3_TO_C5,
}
OTHERS = (
    "pp_",
    "lw_detr",
    "rf_detr",
)  # for pages and text lines; on a vision transformer of their own


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    MCLConfig(
        backbone="resnet10t", backbone_kwargs={"channels": [8, 16, 24, 32], "stem_width": 4}, fpn_channels=8
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("name", DETECTORS)
def test_it_trains_and_reopens_equal(folder, tmp_path, name):
    kind = getattr(transformers, f"{name}ForObjectDetection")
    torch.manual_seed(0)
    taken = AutoConfig.from_pretrained(folder)
    model = kind(kind.config_class(backbone_config=taken, num_labels=3, **DETECTORS[name]))
    images = torch.rand(1, 3, 96, 160)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]])}]
    model.train()(images, labels=labels).loss.backward()
    assert any(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "layer4" in n)
    assert taken.out_features == ["stage1", "stage2", "stage3", "stage4"]  # the caller's own stays
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images).logits, model.eval()(images).logits)


def test_encoders_of_three_maps_get_the_deepest_three(folder):
    for model_type in ENCODERS:
        config = CONFIG_MAPPING[model_type](backbone_config=AutoConfig.from_pretrained(folder))
        assert config.backbone_config.out_features == ["stage2", "stage3", "stage4"]
        assert list(config.encoder_in_channels) == [16, 24, 32]
    two = CONFIG_MAPPING["rt_detr_v2"](backbone_config=AutoConfig.from_pretrained(folder), feat_strides=[16, 32])
    assert two.backbone_config.out_features == ["stage3", "stage4"]


def test_every_detector_of_the_installed_release_is_tested():
    takers = {
        model_type
        for model_type in modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
        if "backbone_config" in getattr(CONFIG_MAPPING.get(model_type), "__dataclass_fields__", {})
    }
    tested = {getattr(transformers, f"{name}Config").model_type for name in DETECTORS}
    assert not {name for name in takers - tested if not name.startswith(OTHERS)}
