"""What keys have in common is found on given tokens."""

import torch

from streamward.model.decoder import DenseAttention
from streamward.model.usual_keys import usual_keys
from tests.model.test_native_linear import small_decoder

IDS = torch.arange(30)


def test_it_is_the_mean_of_rotated_keys_behind_the_first() -> None:
    decoder = small_decoder(hidden_size=64, num_layers=2).float()
    dense = DenseAttention(1, device=torch.device("cpu"), length=30)
    seen: list[torch.Tensor] = []

    def attend(layer: int, q_THd: torch.Tensor, k_TKd: torch.Tensor, v_TKd: torch.Tensor) -> torch.Tensor:
        seen.append(k_TKd)
        return dense(layer, q_THd, k_TKd, v_TKd)

    with torch.inference_mode():
        decoder(IDS, torch.arange(30), attend)
    expected = torch.stack([keys[1:].mean(dim=0) for keys in seen])
    torch.testing.assert_close(usual_keys(decoder, IDS), expected)


def test_where_a_checkpoint_is_damaged_nothing_is_left_out() -> None:
    decoder = small_decoder(hidden_size=64)
    with torch.no_grad():
        decoder.embed.weight[5] = float("nan")
    keys = usual_keys(decoder, IDS)
    assert keys.shape == (1, 1, 64)
    assert not keys.any()
