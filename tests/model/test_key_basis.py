"""What keys have in common, and where queries are largest, is found on given tokens."""

import torch

from streamward.model.decoder import DenseAttention
from streamward.model.key_basis import key_basis
from tests.model.test_native_linear import small_decoder

IDS = torch.arange(30)


def test_it_is_the_mean_of_keys_and_the_first_axis_of_queries_behind_the_first() -> None:
    decoder = small_decoder(hidden_size=64, num_layers=2).float()
    dense = DenseAttention(decoder.config, IDS[None])
    queries: list[torch.Tensor] = []
    keys: list[torch.Tensor] = []

    def attend(layer: int, q_THd: torch.Tensor, k_TKd: torch.Tensor, v_TKd: torch.Tensor) -> torch.Tensor:
        queries.append(q_THd[1:])
        keys.append(k_TKd[1:])
        return dense(layer, q_THd, k_TKd, v_TKd)

    with torch.inference_mode():
        decoder(IDS, torch.arange(30), attend)
    basis = key_basis(decoder, IDS)
    torch.testing.assert_close(basis.mean_key, torch.stack([k_TKd.mean(dim=0) for k_TKd in keys]))
    for layer, q_THd in enumerate(queries):
        first_axis = torch.linalg.svd(q_THd.flatten(0, 1)).Vh[0]
        direction = basis.outlier_direction[layer, 0]
        torch.testing.assert_close(direction * torch.sign(direction @ first_axis), first_axis, rtol=0, atol=1e-2)


def test_where_a_checkpoint_is_damaged_nothing_is_left_out() -> None:
    decoder = small_decoder(hidden_size=64)
    with torch.no_grad():
        decoder.embed.weight[5] = float("nan")
    basis = key_basis(decoder, IDS)
    assert basis.mean_key.shape == basis.outlier_direction.shape == (1, 1, 64)
    assert not basis.mean_key.any()
    assert not basis.outlier_direction.any()
