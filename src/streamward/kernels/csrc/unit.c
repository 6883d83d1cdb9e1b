/* One unit: everything that depends on the instruction set, compiled with its flags and -DUNIT_...; see simd.h. */
#include "unit.h"

#include "linear.c"
#include "norm_rope.c"
#include "attention.c"
#include "decode.c"
#include "weights.c"

#if defined(UNIT_SCALAR)
#define UNIT_NAME scalar
#elif defined(UNIT_AVX2)
#define UNIT_NAME avx2
#elif defined(UNIT_AVXVNNI)
#define UNIT_NAME avxvnni
#elif defined(UNIT_AVX512VNNI)
#define UNIT_NAME avx512vnni
#elif defined(UNIT_AVX512BF16)
#define UNIT_NAME avx512bf16
#elif defined(UNIT_DOTPROD)
#define UNIT_NAME dotprod
#elif defined(UNIT_I8MM)
#define UNIT_NAME i8mm
#endif
#define JOIN(a, b) a##b
#define UNIT_SYMBOL(name) JOIN(streamward_unit_, name)
#define TEXT_OF(name) #name
#define UNIT_TEXT(name) TEXT_OF(name)

extern const Unit UNIT_SYMBOL(UNIT_NAME);
const Unit UNIT_SYMBOL(UNIT_NAME) = {
    .name = UNIT_TEXT(UNIT_NAME),
    .decode = decode,
    .linear = linear,
    .heads = heads,
    .softmax = softmax_rows,
    .pack_weight = pack_weight,
    .quantize_weight = quantize_weight,
    .dequantize_weight = dequantize_weight,
    .round_bf16 = round_bf16_rows,
    .multiply_once = multiply_once,
};
