"""The other side of kernels.py: the kernels of the commit that PYTHONPATH names, which need torch and AVX512-BF16."""

import json
import sys
import time
from typing import Any

import torch
from streamward.model.native.library import kernels
from streamward.model.native_linear import NativeLinear

from streamward.engine.native_runner import NativeModelRunner, SequenceMetadata
from streamward.model.config import ModelConfig
from streamward.model.decoder import Decoder
from streamward.model.layers import RMSNorm

PAGE_TOKENS, VOCAB_SIZE = 64, 1000


def make(shape: dict[str, Any], mode: dict[str, bool], *, num_pages: int, max_rows: int) -> NativeModelRunner:
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape["hidden"],
        num_layers=shape["layers"],
        num_heads=shape["heads"],
        num_kv_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["inner"],
        rope_theta=1e6,
        rms_norm_eps=1e-5,
        max_positions=4096,
        has_tied_embeddings=True,
        has_qk_norm=shape["has_qk_norm"],
    )
    library = kernels()
    assert library is not None
    decoder = Decoder(config).bfloat16()
    decoder.fill_rotary_table()
    for layer in decoder.layers:
        for name, child in list(layer.named_children()):
            if not isinstance(child, RMSNorm):
                weight = child.weight.detach().uniform_(-0.03, 0.03)
                setattr(
                    layer,
                    name,
                    NativeLinear(weight, library=library, is_int8=mode["is_int8"], is_gated=name == "gate_up"),
                )
    runner = NativeModelRunner.create(
        decoder.eval(),
        num_pages=num_pages,
        page_tokens=PAGE_TOKENS,
        max_rows=max_rows,
        int8_cache=mode["int8_cache"],
    )
    assert runner is not None
    return runner


def read(runner: NativeModelRunner, streams: range, start: int, stop: int, context: int) -> None:
    span, num_pages = list(range(start, stop)), -(-context // PAGE_TOKENS)
    pages = [list(range(stream * num_pages, (stream + 1) * num_pages)) for stream in streams]
    runner(
        [at % VOCAB_SIZE for at in span] * len(streams),
        positions=span * len(streams),
        slots=[each[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS for each in pages for at in span],
        parts=[SequenceMetadata(len(span), stop, each) for each in pages],
    )


@torch.inference_mode()
def main() -> None:
    runner, context = None, 0
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    for line in sys.stdin:
        question = json.loads(line)
        if "make" in question:
            context, sizes = question["context"], {name: question[name] for name in ("num_pages", "max_rows")}
            runner = make(question["shape"], question["mode"], **sizes)
            print("{}", flush=True)
            continue
        assert runner is not None
        if "prepare" in question:
            for stream in range(question["prepare"]):
                for start in range(0, context, 64):
                    read(runner, range(stream, stream + 1), start, min(start + 64, context), context)
            print("{}", flush=True)
            continue
        streams, first = range(question["streams"]), context - question["count"]
        read(runner, streams, first, context, context)  # threads that had gone to sleep are back
        found = []
        for _ in range(question["steps"]):
            start = clock()
            read(runner, streams, first, context, context)
            found.append((clock() - start) * 1e3)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
