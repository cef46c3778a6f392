"""CLIP as transformers saves it computes the same in open_clip."""

import shutil
from pathlib import Path

import pytest
import torch


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_transformers_clip_computes_the_same_after_a_merge(activation: str, safe: bool, tmp_path: Path) -> None:
    import open_clip
    import transformers

    import soupkit

    config = transformers.CLIPConfig(
        text_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
                     "vocab_size": 1000, "max_position_embeddings": 16, "eos_token_id": 999, "bos_token_id": 998,
                     "hidden_act": activation},
        vision_config={"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 32, "patch_size": 8, "hidden_act": activation},
        projection_dim=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "hf")
    if not safe:
        torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
        (tmp_path / "hf" / "model.safetensors").unlink()
    shutil.copytree(tmp_path / "hf", tmp_path / "twin")
    soupkit.merge([tmp_path / "hf", tmp_path / "twin"], tmp_path / "soup")
    soup, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'soup'}")
    soup.eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = torch.randint(0, 900, (3, 16))
    tokens[:, 9] = 999
    with torch.no_grad():
        out = model(pixel_values=images, input_ids=tokens)
        got_image, got_text, _ = soup(images, tokens)
    torch.testing.assert_close(got_image, out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got_text, out.text_embeds, rtol=1e-4, atol=1e-5)
