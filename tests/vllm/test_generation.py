"""Answers of vLLM in this process, under a guard that changes them in progress."""

import json
import os
from importlib.util import find_spec

import pytest

from streamward.errors import ConfigError, InputError, UpstreamError
from streamward.intervene.generation import GenerationPrefix, GuardedGeneration
from streamward.intervene.vllm_generation import VllmGenerate
from tests.intervene.scripted_model import HashGuard, ladder, step
from tests.moderation.guards import byte_tokenizer

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here; run: make test-vllm"),
]
PROMPT = "user: say something long enough to fill a block of the cache, please\nassistant:"


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from vllm import LLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=288,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=96,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return LLM(
        str(folder), dtype="float32", enforce_eager=True, block_size=32, kv_cache_memory_bytes=2**22, max_model_len=512
    )


def test_a_cut_answer_goes_on_with_the_same_tokens_and_its_beginning_comes_from_the_cache(llm):
    generate = VllmGenerate(llm, PROMPT, temperature=0, max_new_tokens=60)
    pieces = list(generate(GenerationPrefix()))
    assert len(pieces) > 10
    cached = generate.num_cached_tokens
    kept = "".join(pieces[: len(pieces) // 2])
    assert kept + "".join(generate(GenerationPrefix(kept))) == "".join(pieces)
    assert generate.num_cached_tokens - cached >= 64  # whole blocks of 32 tokens


def test_an_answer_that_nobody_reads_on_is_cancelled(llm):
    generate = VllmGenerate(llm, PROMPT, temperature=0, max_new_tokens=200)
    pieces = generate(GenerationPrefix())
    first = next(pieces)
    with pytest.raises(UpstreamError, match="used by somebody else"):
        next(VllmGenerate(llm, PROMPT)(GenerationPrefix()))
    pieces.close()
    assert not llm.llm_engine.has_unfinished_requests()
    assert next(generate(GenerationPrefix())) == first


def test_attempts_draw_other_tokens_and_a_self_check_is_no_part_of_the_answer(llm):
    generate = VllmGenerate(llm, PROMPT, max_new_tokens=20)
    first, again, other = (
        "".join(generate(GenerationPrefix("ab", attempt=attempt, self_check=check)))
        for attempt, check in ((1, "wait"), (1, "wait"), (2, "wait"))
    )
    assert first == again != other
    assert "wait" not in first


def test_a_guarded_answer_is_changed_where_it_is_flagged(llm):
    generate = VllmGenerate(llm, PROMPT, temperature=1.5, max_new_tokens=120, seed=3)
    run = GuardedGeneration(generate, HashGuard(), prompt="hi", release=ladder(step("regenerate", attempts=5)))
    assert "##" not in "".join(run)
    assert run.answer.num_calls >= 1


def test_values_out_of_range_and_empty_prompts_are_refused(llm):
    with pytest.raises(ConfigError, match="max_new_tokens"):
        VllmGenerate(llm, PROMPT, max_new_tokens=0)
    with pytest.raises(InputError, match="no tokens"):
        VllmGenerate(llm, "")
