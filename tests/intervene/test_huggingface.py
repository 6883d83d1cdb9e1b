"""Generation with transformers: what the cache holds is what was kept, and answers are those of a model without one."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from streamward.errors import ConfigError
from streamward.intervene.generation import GenerationPrefix, GuardedGeneration
from streamward.intervene.huggingface import TransformersGenerate
from tests.intervene.scripted_model import HashGuard, ladder, step
from tests.moderation.guards import byte_tokenizer


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer())


def source(model, tokenizer, **settings) -> TransformersGenerate:
    return TransformersGenerate(model, tokenizer, "user: hi\nassistant:", **settings)


def test_tokens_are_those_of_the_model_without_a_cache(model, tokenizer):
    generate = source(model, tokenizer, temperature=0, max_new_tokens=12)
    text = "".join(generate(GenerationPrefix()))
    ids = tokenizer("user: hi\nassistant:", add_special_tokens=False)["input_ids"]
    num_prompt = len(ids)
    for _ in range(12):
        with torch.inference_mode():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    assert text == tokenizer.decode(ids[num_prompt:], skip_special_tokens=True)


def test_a_cut_answer_goes_on_as_if_the_rest_had_never_been_there(model, tokenizer):
    generate = source(model, tokenizer, temperature=0, max_new_tokens=30)
    pieces = list(generate(GenerationPrefix()))
    num_read = generate.num_read
    assert list(generate(GenerationPrefix("".join(pieces[:4])))) == pieces[4:]
    assert generate.num_read - num_read <= 30  # nothing of the prompt was read again


def test_a_self_check_is_read_but_is_not_part_of_the_answer(model, tokenizer):
    generate = source(model, tokenizer, temperature=0, max_new_tokens=30)
    pieces = list(generate(GenerationPrefix()))
    kept = "".join(pieces[:4])
    checked = list(generate(GenerationPrefix(kept, "Careful.")))
    assert checked != pieces[4:]
    assert list(generate(GenerationPrefix(kept))) == pieces[4:]
    assert list(generate(GenerationPrefix(kept, "Careful."))) == checked


def test_the_answer_and_the_limit_are_those_of_what_is_kept(model, tokenizer):
    generate = source(model, tokenizer, temperature=1.0, seed=3, max_new_tokens=24)
    run = GuardedGeneration(
        generate,
        HashGuard(),
        prompt="hi",
        release=ladder(step("regenerate", 5), step("introspect", 5), step("stop"), hold=4),
    )
    text = "".join(run)
    assert "##" not in text
    same = source(model, tokenizer, temperature=1.0, seed=3, max_new_tokens=24)
    assert "".join(same(GenerationPrefix())).startswith(text[:1])


def test_impossible_settings_are_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="top_p"):
        source(model, tokenizer, top_p=0)
